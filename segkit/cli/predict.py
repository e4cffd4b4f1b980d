"""`python scripts/predict.py`: predict images with a trained run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segkit.cli.app import launch
from segkit.cli.quick_imports import quick_imports

if TYPE_CHECKING:
    from omegaconf import DictConfig


def task(config: DictConfig) -> None:
    with quick_imports():
        from segkit.commands.prediction import run

    run(config)


def main() -> None:
    launch("predict", task)


if __name__ == "__main__":
    main()
