"""`python scripts/check_data.py`: what is wrong with a data set, and what it is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segkit.cli.app import launch
from segkit.cli.quick_imports import quick_imports

if TYPE_CHECKING:
    from omegaconf import DictConfig


def task(config: DictConfig) -> None:
    from pathlib import Path

    from hydra.core.hydra_config import HydraConfig

    with quick_imports():
        from segkit.commands.data_check import run

    run(config, Path(HydraConfig.get().runtime.output_dir))


def main() -> None:
    launch("check_data", task)


if __name__ == "__main__":
    main()
