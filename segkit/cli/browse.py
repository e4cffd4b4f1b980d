"""`python scripts/browse.py`: look at augmented samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segkit.cli.app import launch

if TYPE_CHECKING:
    from omegaconf import DictConfig


def task(config: DictConfig) -> None:
    from pathlib import Path

    from hydra.core.hydra_config import HydraConfig

    from segkit.commands.browsing import run

    run(config, Path(HydraConfig.get().runtime.output_dir))


def main() -> None:
    launch("browse", task)


if __name__ == "__main__":
    main()
