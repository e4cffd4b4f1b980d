"""Any torchmetrics metric that a user lists in YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection


class ListedMetric:
    """A torchmetrics classification metric over the valid pixels, as a `contracts.Metric`.

    Each valid pixel is one sample to it. A metric that gives several numbers, such as one a class, gets their
    index or key appended to its name: `f1/0`, `f1/1`.

    Args:
        metric: such as torchmetrics.classification.MulticlassF1Score; it need not know `ignore_index`.
        name: under which its scores are logged.
        input: what it is given for each pixel: the predicted class id, or the C class probabilities, which
            curves and calibration errors need.
    """

    def __init__(
        self,
        metric: Metric | MetricCollection,
        *,
        name: str,
        ignore_index: int,
        input: Literal["labels", "probabilities"] = "labels",
    ) -> None:
        self.metric = metric
        self.name = name
        self.ignore_index = ignore_index
        self.input = input

    def reset(self) -> None:
        self.metric.reset()

    def update(self, logits: Tensor, mask: Tensor) -> None:
        """Take logits (B, C, H, W) at the mask's size and mask (B, H, W)."""
        self.metric.to(logits.device)
        truth = mask.long()
        valid = truth != self.ignore_index
        if not valid.any():
            return
        if self.input == "labels":
            given = logits.argmax(dim=1)[valid]
        else:
            given = logits.movedim(1, -1)[valid].float().softmax(dim=-1)
        self.metric.update(given, truth[valid])

    def compute(self) -> dict[str, float]:
        return dict(_flatten(self.name, self.metric.compute()))


def _flatten(name: str, value: Any) -> list[tuple[str, float]]:
    if isinstance(value, Mapping):
        entries = value.items()
    elif (isinstance(value, Tensor) and value.ndim) or isinstance(value, (list, tuple)):
        entries = enumerate(value)
    else:
        return [(name, float(torch.as_tensor(value)))]
    return [pair for key, entry in entries for pair in _flatten(f"{name}/{key}", entry)]
