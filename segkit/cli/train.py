"""`python train.py`: compose, train, evaluate, record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segkit.cli.app import launch

if TYPE_CHECKING:
    from omegaconf import DictConfig


def task(config: DictConfig) -> float | None:
    from segkit.experiment import run

    return run(config)


def main() -> None:
    launch("train", task)
