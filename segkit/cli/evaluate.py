"""`python scripts/evaluate.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segkit.cli.app import launch

if TYPE_CHECKING:
    from omegaconf import DictConfig


def task(config: DictConfig) -> None:
    from segkit.experiment import evaluate

    evaluate(config)


def main() -> None:
    launch("evaluate", task)
