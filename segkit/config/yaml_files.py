"""Config files as a person would write them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

COMMENTS = {
    "_partial_": "split",
    "train_split": "what the data set calls each split; null: it has none",
    "class_mapping": "{id in the mask files: class id or ignore_index}; null: they are class ids",
    "ignore_index": "these pixels count for nothing",
    "mask_format": "ids, or colors: masks are RGB pictures in the colours above",
    "colors": "RGB, 0..255",
    "mean": "null: that of the pretrained weights, without any data_mean",
    "data_mean": "of each channel over the training images",
    "crop_size": "edge of a training sample in pixels, or [height, width]",
    "epochs": "length of a run: trainer.max_epochs is taken from here",
    "cache_dir": "remembers which files were sound",
}
LONGEST = 100
"""Characters of a line above which a list gets a line an entry."""


def dataset_file(node: Mapping[str, Any], *, base: str | None, told: str, classes: Sequence[str]) -> str:
    """The YAML of a data set.

    Args:
        base: the option that it refines, of whose keys only those below change; None: it stands alone.
        told: what the folder was recognised as.
        classes: a line about each class, for a comment.
    """
    values = dict(node) | {"cache_dir": "${paths.output_dir}/cache"}
    if base is not None:
        values = {key: values[key] for key in ("root", "data_mean", "data_std", "crop_size", "epochs")}
    lines = [f"# Written by init_dataset.py: {told}.", "# In the training split:"]
    lines += [f"#   {line}" for line in classes]
    lines += [f"defaults: [{base}, _self_]"] if base is not None else []
    for key, value in values.items():
        lines += _entry(key, value)
    return "\n".join(lines) + "\n"


def experiment_file(name: str, *, batch_size: int, class_weights: str | None, lr: float | None) -> str:
    """The YAML of an experiment on the data set `name`; `lr` None: that of the optimizer's own config."""
    weights = (
        "null   # all classes alike; a method such as median is counted on the training split"
        if class_weights is None
        else f"{class_weights}   # counted on the training split; null: all classes alike"
    )
    lines = [
        "# @package _global_",
        f"# Written by init_dataset.py: trains on dataset={name}. Change what you like.",
        "defaults:",
        f"  - override /dataset: {name}",
    ]
    lines += [
        "  - override /transform: default",
        "  - override /model: deeplabv3plus",
        "  - override /backbone@_global_.backbone: resnet18   # backbone.pretrained=true starts from ImageNet",
        "  - override /loss: combined",
        "  - override /optimizer: adamw_scratch",
        "  - override /scheduler: poly",
    ]
    lines += [] if lr is None else ["optimizer:", f"  lr: {lr}"]
    lines += [
        "loss:",
        f"  class_weights: {weights}",
        "trainer:",
        f"  batch_size: {batch_size}",
    ]
    return "\n".join(lines) + "\n"


def _entry(key: str, value: Any) -> list[str]:
    comment = f"   # {COMMENTS[key]}" if key in COMMENTS else ""
    text = f"{key}: {_flow(value)}"
    if len(text) <= LONGEST or not isinstance(value, list):
        return [text + comment]
    return [f"{key}:{comment}", *[f"  - {_flow(item)}" for item in value]]


def _flow(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    return json.dumps(value)


def _text(value: str) -> str:
    """A string that YAML reads back as it is; what would be an interpolation in it is none, but for our own."""
    if value.startswith("${paths."):
        return value
    try:
        if yaml.safe_load(f"[{value}]") == [value] and "${" not in value:
            return value
    except yaml.YAMLError:
        pass
    return json.dumps(value.replace("${", "\\${"), ensure_ascii=False)
