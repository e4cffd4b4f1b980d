"""What a sweep and the runs that are its trials say to each other. Imports no PyTorch: a sweep need not load it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class Trial(Protocol):
    """The trial of a sweep that a run is, as the run sees it.

    Attributes:
        name: for the run's own name: `trial 7`.
        tags: what the record of the run says of the sweep: its name, study and the trial's number.
        params: the searched values by the key they were searched under, groups included.
        objectives: what the run is to give back: names of scores or costs; empty: its monitored score alone.
        keeps_checkpoints_when_pruned: whether a pruned run leaves its checkpoints behind.
    """

    name: str
    tags: Mapping[str, str]
    params: Mapping[str, Any]
    objectives: Sequence[str]
    keeps_checkpoints_when_pruned: bool

    def report(self, score: float, evaluation: int) -> None:
        """Tell the monitored score of the evaluation of that number, from 1. Raises Pruned to end the run."""
        ...

    def record(self, name: str, value: str) -> None:
        """Keep a fact about the run with the trial, such as its MLflow run."""
        ...


class SweepRecord(Protocol):
    """A record of a whole sweep beside those of its trials. It must never raise into the sweep."""

    def start(self, study: Any, space: Mapping[str, Any], fixed: Sequence[str]) -> None:
        """The sweep of the Optuna study `study` begins or goes on: distributions by key, and what all trials share."""
        ...

    def update(self, study: Any) -> None:
        """A trial has ended."""
        ...

    def finish(self, study: Any, status: str, files: Sequence[Path]) -> None:
        """The sweep has ended as `status` says, and left `files` in its folder."""
        ...
