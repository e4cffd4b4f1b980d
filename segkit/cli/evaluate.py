"""`python scripts/evaluate.py`: score a trained run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segkit.cli.app import launch
from segkit.cli.quick_imports import quick_imports

if TYPE_CHECKING:
    from omegaconf import DictConfig


def task(config: DictConfig) -> float:
    from pathlib import Path

    from hydra.core.hydra_config import HydraConfig

    with quick_imports():
        from segkit.commands.evaluation import run

    return run(config, Path(HydraConfig.get().runtime.output_dir))


def main() -> None:
    launch("evaluate", task)


if __name__ == "__main__":
    main()
