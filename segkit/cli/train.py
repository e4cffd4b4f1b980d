"""`python train.py`: compose, train, evaluate, record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segkit.cli.app import launch
from segkit.cli.quick_imports import quick_imports

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from segkit.sweep.protocols import Trial


def task(config: DictConfig, trial: Trial | None = None) -> float | list[float | None] | None:
    from pathlib import Path

    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from segkit.cli.callbacks import write_config
    from segkit.config.instantiate import locate, nodes, plain
    from segkit.config.schema import RootSettings, checked, require_use_of_backbone

    require_use_of_backbone(config)
    # What can be told without PyTorch is told before it is loaded.
    settings = checked(RootSettings, plain(config))
    for key, node in nodes(settings.tracker, "tracker"):
        start_early = getattr(locate(str(node["_target_"]), f"{key}._target_"), "start_early", None)
        if start_early is not None:
            start_early()

    with quick_imports():
        from segkit.config.recipe import Recipe
        from segkit.experiment.training import run

        recipe = Recipe.of(config)  # which imports all that the config names

    runtime = HydraConfig.get().runtime
    folder = Path(runtime.output_dir)

    def keep_config() -> None:
        write_config(OmegaConf.create({**config, "hydra": HydraConfig.get()}), folder)

    return run(recipe, folder, trial, choices=dict(runtime.choices), on_accepted=keep_config)


def main() -> None:
    launch("train", task)


if __name__ == "__main__":
    main()
