"""Records of runs beside the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class RunInfo:
    """What a tracker is told of a run at its start.

    Attributes:
        name: a short name a person recognises.
        params: the composed config, flattened to dotted keys.
        tags: group choices, git state, data identity, versions.
        continues: the tracker's id of the run that is resumed here, or None.
        started: when, in unix seconds; None: now, or when the part before a resume was.
    """

    name: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    continues: str | None = None
    started: float | None = None


class Tracker(Protocol):
    """A recorder beside the run folder, which stays the whole truth: what a tracker is told stands there already.

    It is called in the training process, so it must not hold it up: one that delivers to elsewhere does so from another
    process that follows the folder. What it raises is told to the user and does not end the run. A class whose packages
    take long to import may have a static method `start_early()`, which is called before PyTorch is imported.
    """

    def start(self, info: RunInfo) -> None: ...

    def log(self, row: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl, as it is written there."""
        ...

    def artifact(self, path: Path, target: str) -> None:
        """A file of the run folder that is to be kept, in the folder `target` of the record ("": at its top)."""
        ...

    def tag(self, tags: Mapping[str, str]) -> None:
        """Add to the tags given at the start, or replace them."""
        ...

    def finish(self, status: str) -> None:
        """Deliver what is left, within a bounded time.

        `status`: completed, stopped (before its end, as it was told to), pruned, failed, interrupted or terminated.
        """
        ...

    @property
    def run_id(self) -> str | None:
        """What the tracker finds the run by, handed to it as `RunInfo.continues` when the run goes on elsewhere."""
        ...
