"""Parts of experiments as the command line composes them, in the test's own process."""

from __future__ import annotations

from typing import Any

import hydra
import torch
from omegaconf import OmegaConf
from torch import Tensor

from segkit.config import instantiate
from segkit.config.recipe import Recipe
from segkit.contracts import Batch, LabelSpace, Metric, Prediction, Targets
from segkit.data.datasets.source import palette
from segkit.experiment.assembly import Experiment
from segkit.experiment.mean_and_std import decide
from segkit.experiment.resolved import Resolved
from tests.conftest import REPOSITORY


def compose(*overrides: str, root: str = "train") -> dict[str, Any]:
    """The plain config of one of the commands."""
    OmegaConf.register_new_resolver("pid", lambda: 0, replace=True)
    with hydra.initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        return instantiate.plain(hydra.compose(root, list(overrides)))


def recipe(*overrides: str) -> Recipe:
    OmegaConf.register_new_resolver("pid", lambda: 0, replace=True)
    with hydra.initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        return Recipe.of(hydra.compose("train", list(overrides)))


def batch_of(mask: Tensor) -> Batch:
    """A batch of black images with this mask."""
    images = torch.zeros(len(mask), 3, *mask.shape[-2:], dtype=torch.uint8)
    return Batch(images, Targets(mask), tuple(map(str, range(len(mask)))))


def count(listed: Metric, logits: Tensor, decided: Tensor, mask: Tensor) -> None:
    """Give a metric what an evaluation gives it."""
    listed.update(Prediction(logits), decided, batch_of(mask))


def experiment(*overrides: str) -> Experiment:
    return experiment_of(recipe(*overrides))


def experiment_of(composed: Recipe) -> Experiment:
    """An experiment whose label space is that of its config, so that a data set without files does too."""
    dataset: Any = composed.values["dataset"]
    number = int(dataset["num_classes"])
    names = dataset.get("class_names") or [f"class_{index}" for index in range(number)]
    if len(names) != number:
        names = [f"class_{index}" for index in range(number)]
    labels = LabelSpace(
        tuple(names),
        tuple(palette(number)),
        int(dataset.get("ignore_index", 255)),
        bool(dataset.get("multilabel", False)),
    )
    return Experiment(composed, Resolved(normalization=decide(composed.values)), labels)
