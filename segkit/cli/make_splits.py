"""`python scripts/make_splits.py`: lists of samples for training and evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segkit.cli.app import launch

if TYPE_CHECKING:
    from omegaconf import DictConfig


def task(config: DictConfig) -> None:
    from segkit.commands.split_making import run

    run(config)


def main() -> None:
    launch("make_splits", task)


if __name__ == "__main__":
    main()
