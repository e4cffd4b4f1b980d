"""Class weights named by a method, as in `loss.class_weights=median`: the numbers, counted on the training split."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import cast

from segkit.config.recipe import Recipe
from segkit.contracts import ClassWeightMethod, DataError, SampleSource
from segkit.data.statistics.class_weights import class_weights
from segkit.data.statistics.counts import count
from segkit.data.statistics.sample_facts import Counted

log = logging.getLogger(__name__)


def counted(recipe: Recipe, source: SampleSource) -> dict[str, list[float]]:
    """The weights that each method in the recipe's loss stands for, by its key.

    What is counted is `source`, the training split, so that a fold weighs by its own samples. Raises DataError
    for samples that cannot be read.
    """
    methods = recipe.class_weight_methods
    if not methods:
        return {}
    values = recipe.values
    cache = values["dataset"].get("cache_dir") or str(Path(values["paths"]["output_dir"]) / "cache")
    found = count(source, Path(cache))
    if found.problems and source.on_error == "raise":
        raise DataError("\n".join(found.problems.values()))
    weights = {key: weights_by(cast(ClassWeightMethod, method), found) for key, method in methods.items()}
    for key, numbers in weights.items():
        pairs = zip(source.labels.names, numbers, strict=True)
        log.info("%s=%s: %s", key, methods[key], ", ".join(f"{name} {weight:.3f}" for name, weight in pairs))
    return weights


def weights_by(method: ClassWeightMethod, counted: Counted) -> list[float]:
    """Six digits of each weight: enough for training, and short where a person reads them."""
    return [float(f"{weight:.6g}") for weight in class_weights(counted.pixels, method)]
