"""Mean and standard deviation of the images that a model is to get, decided once, when its training begins.

They follow the pretrained weights unless the user says otherwise: the first layers of a network have learnt from
images of one scale. Checkpoints keep what was decided: whoever reads one does not decide again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from segkit.config import instantiate
from segkit.contracts import DataError, SampleSource, UserError
from segkit.models.layers.normalization import IMAGENET, Statistics

log = logging.getLogger(__name__)

KEYS = ("mean", "std")


class ImageKind(NamedTuple):
    """What the images of a training split are: the type of their values, and the range of the first image."""

    dtype: str
    low: float
    high: float

    @property
    def has_own_units(self) -> bool:
        """Whether these are no shares of a full range: neither 8-bit nor all in 0..1."""
        return self.dtype != "uint8" and not (self.low >= 0 and self.high <= 1)


def image_kind(source: SampleSource) -> ImageKind | None:
    """That of the first image which can be read; None where the first few cannot."""
    for index in range(min(len(source), 5)):
        try:
            image = source.read(index).image
        except DataError:
            continue
        return ImageKind(str(image.dtype), float(image.min()), float(image.max()))
    return None


@dataclass(frozen=True)
class Normalization:
    """What a model's images are normalised with, in the units that `Normalize` states, and who says so."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    mean_from: str
    std_from: str


def stored(content: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The mean and std that a checkpoint's content tells of; version 0.1 had the numbers in its config."""
    kept = (content.get("resolved") or {}).get("normalization") or {}
    return {key: value for key, value in config["model"].items() if key in KEYS} | dict(kept)


def decide(
    values: Mapping[str, Any], kind: ImageKind | None = None, earlier: Mapping[str, Any] | None = None
) -> Normalization | None:
    """What the model's images are to be normalised with; None for a model that takes no mean and std.

    The first of these that is there: `model.mean`, `dataset.mean`, what the model's pretrained weights were trained
    with, `dataset.data_mean`, ImageNet's; the same for std. Images in units of their own (`kind`) leave out the two
    that are shares of a full range. A run that goes on keeps what it had `earlier`. Raises UserError where nothing
    fits, and for numbers that are set and were others earlier.
    """
    model, dataset = values["model"], values["dataset"]
    target = instantiate.locate(str(model["_target_"]), "model._target_")
    if not set(KEYS) & set(instantiate.parameters_of(target) or ()):
        return None
    channels = int(dataset.get("in_channels", 3))
    name, weights = _weights_statistics(model)
    weights = weights and weights.of_channels(channels)
    found: dict[str, Any] = {}
    for key in KEYS:
        given = [
            (node[key], f"{part}.{key}") for part, node in (("model", model), ("dataset", dataset)) if node.get(key)
        ]
        before = (earlier or {}).get(key)
        if given:
            numbers, origin = given[0]
            if before and list(before) != list(numbers):
                raise UserError(
                    f"resume: {origin}={list(numbers)}, was {list(before)}, which the weights have learnt with. "
                    "Give the earlier values, or null; docs/resume.md says what may change"
                )
        elif before:
            numbers, origin = before, (earlier or {}).get(f"{key}_from", "as before")
        elif weights is not None and not (kind and kind.has_own_units):
            numbers, origin = getattr(weights, key), f"the pretrained weights of {name}"
        elif dataset.get(f"data_{key}"):
            numbers, origin = dataset[f"data_{key}"], f"dataset.data_{key}"
        else:
            numbers, origin = getattr(_imagenet(key, channels, kind), key), "ImageNet"
        found |= {key: tuple(numbers), f"{key}_from": origin}
    decided = Normalization(**found)
    log.info("images: %s (%s)", _shown(decided), " and ".join(dict.fromkeys([decided.mean_from, decided.std_from])))
    if weights is not None and weights != (decided.mean, decided.std):
        log.info("the pretrained weights of %s were trained with %s", name, _shown(weights))
    return decided


def _weights_statistics(model: Mapping[str, Any]) -> tuple[str, Statistics | None]:
    """The name and statistics of the pretrained weights that the model's node asks for.

    A class says so by a static method `weights_statistics` of its own arguments, as `TimmBackbone` has.
    """
    found: dict[Statistics, str] = {}
    for key, node in instantiate.nodes(model, "model"):
        target = instantiate.locate(str(node["_target_"]), f"{key}._target_")
        arguments = {name: value for name, value in node.items() if name not in instantiate.SPECIAL_KEYS}
        name = str(arguments.get("name") or arguments.get("encoder") or getattr(target, "__name__", target))
        if (ask := getattr(target, "weights_statistics", None)) is not None:
            statistics = ask(**arguments)
            if statistics is not None:
                found.setdefault(Statistics(*map(tuple, statistics)), name)
        elif arguments.get("pretrained") or arguments.get("weights"):
            log.warning(
                "%s does not say what its pretrained weights were normalised with; if that was not what follows, "
                "set dataset.mean and dataset.std",
                name,
            )
    if len(found) > 1:
        raise UserError(
            "the pretrained weights of "
            + " and ".join(f"{name} ({_shown(statistics)})" for statistics, name in found.items())
            + " were normalised differently; set dataset.mean and dataset.std"
        )
    return next(((name, statistics) for statistics, name in found.items()), ("", None))


def _imagenet(key: str, channels: int, kind: ImageKind | None) -> Statistics:
    counted = "give dataset.mean and dataset.std, which scripts/check_data.py counts"
    if kind and kind.has_own_units:
        raise UserError(
            f"dataset.{key} is null, and the images have units of their own ({kind.low:g}..{kind.high:g} in the "
            f"first one): {counted}"
        )
    if channels not in (1, 3):
        raise UserError(
            f"dataset.{key} is null, and images of dataset.in_channels={channels} have no usual one: {counted}"
        )
    return IMAGENET.of_channels(channels)


def _shown(statistics: Statistics | Normalization) -> str:
    return ", ".join(f"{key} " + " ".join(f"{number:.4g}" for number in getattr(statistics, key)) for key in KEYS)
