"""Every option of every group, found by glob, as an experiment composes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from segkit.cli.options import Options
from segkit.config import instantiate
from segkit.config.recipe import Recipe
from segkit.experiment.assembly import Experiment
from tests.composed import experiment_of
from tests.conftest import REPOSITORY

CONF = REPOSITORY / "conf"

SMALL = {
    ("backbone", "model", "experiment"): ["backbone=timm", "backbone.name=test_resnet"],
    ("dataset", "experiment"): [
        *("dataset.num_train=6", "dataset.num_val=3", "dataset.image_size=32", "dataset.crop_size=48")
    ],
}
"""A network of 60 thousand parameters and nine images, but for groups that choose these themselves."""

NEEDED = {
    ("dataset", "folder"): ["dataset.num_classes=3"],
    ("dataset", "split_lists"): ["dataset.num_classes=3"],
    ("dataset", "csv"): ["dataset.num_classes=3"],
    ("optimizer", "timm"): ["optimizer.optimizer.opt=lamb"],
    ("backbone", "timm"): ["backbone.name=test_resnet"],
}
"""Keys that have no default, but for folders, which every option is given an own one for."""


@dataclass(frozen=True)
class Option:
    """One option of a group.

    Attributes:
        folder: an empty one; outputs go there, and the files of a data set.
        own: folders of options, as `--config-dir` adds them.
    """

    group: str
    name: str
    folder: Path
    own: tuple[Path, ...] = field(default=(), kw_only=True)

    def __str__(self) -> str:
        return f"{self.group}={self.name}"

    @property
    def file(self) -> Path:
        found = Options(CONF, self.own).file(self.group, self.name)
        assert found is not None, f"there is no {self}"
        return found

    @property
    def root(self) -> Path:
        """Where the files of a data set are."""
        return self.folder / "data"

    @property
    def overrides(self) -> list[str]:
        """What composes this option, in an experiment that is small otherwise."""
        small = [line for groups, lines in SMALL.items() if self.group not in groups for line in lines]
        sweeper = ["hydra/sweeper=segkit"] * self.group.startswith("hydra/sweeper/")
        needed = NEEDED.get((self.group, self.name), [])
        return [*sweeper, f"{self.group}={self.name}", *small, *needed, f"paths.output_dir={self.folder}"]

    def compose(self, *overrides: str, hydra_too: bool = False) -> DictConfig:
        OmegaConf.register_new_resolver("pid", lambda: 0, replace=True)
        path = [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in self.own)}]"] * bool(self.own)
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            config = hydra.compose("train", [*path, *self.overrides, *overrides], return_hydra_config=hydra_too)
        for key in ("dataset.root", "split.folder"):
            group, _, name = key.partition(".")
            # `in` and `get` do not see keys that are missing.
            if name in config[group].keys() and (group == "dataset" or OmegaConf.is_missing(config[group], name)):  # noqa: SIM118
                OmegaConf.update(config, key, str(self.root))
        return config

    @cached_property
    def recipe(self) -> Recipe:
        return Recipe.of(self.compose())

    def experiment(self, *overrides: str) -> Experiment:
        """With a label space as the config says, so that nothing has to be read for it."""
        return experiment_of(Recipe.of(self.compose(*overrides)) if overrides else self.recipe)

    def node(self) -> dict[str, Any]:
        return instantiate.plain(self.recipe.node(self.group.partition("/")[0]))


def every(*own: Path) -> list[tuple[str, str]]:
    """Group and name of every option, or of those in the folders `own` only."""
    files = [(folder, file) for folder in own or (CONF,) for file in sorted(folder.rglob("*.yaml"))]
    found = [(file.parent.relative_to(folder).as_posix(), file.stem) for folder, file in files if file.parent != folder]
    assert found, f"no options in {own or CONF}"
    return found


def options(group: str) -> list[str]:
    found = [name for of_group, name in every() if of_group == group]
    assert found, f"no options in conf/{group}"
    return found
