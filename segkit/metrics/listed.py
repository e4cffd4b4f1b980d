"""Any torchmetrics metric that a user lists in YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from segkit.contracts import LabelSpace
from segkit.metrics.judging import judging
from segkit.resizing import resize_logits

if TYPE_CHECKING:
    from torchmetrics import Metric, MetricCollection


class ListedMetric:
    """A torchmetrics classification metric over the valid pixels, as a `contracts.Metric`.

    Each valid pixel is one sample to it; of multi-label data, one with a label and a probability for each class,
    and valid where no class is ignored. A metric that gives several numbers, such as one a class, gets their
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
        labels: LabelSpace,
        input: Literal["labels", "probabilities"] = "labels",
    ) -> None:
        self.metric = metric
        self.name = name
        self.ignore_index = labels.ignore_index
        self._probabilities = judging(labels).probabilities if input == "probabilities" else None

    def reset(self) -> None:
        self.metric.reset()

    def update(self, logits: Tensor, predicted: Tensor, mask: Tensor) -> None:
        self.metric.to(mask.device)
        given = predicted.long()
        if self._probabilities is not None:
            given = self._probabilities(resize_logits(logits, mask.shape[-2:]).float())
        given, truth = _channels_last(given), _channels_last(mask.long())
        valid_BHW = (truth != self.ignore_index).view(*truth.shape[:3], -1).all(dim=-1)
        if valid_BHW.any():
            self.metric.update(given[valid_BHW], truth[valid_BHW])

    def compute(self) -> dict[str, float]:
        return dict(_flatten(self.name, self.metric.compute()))


def _channels_last(tensor: Tensor) -> Tensor:
    """(B, C, H, W) as (B, H, W, C); (B, H, W) as it is."""
    return tensor.movedim(1, -1) if tensor.ndim == 4 else tensor


def _flatten(name: str, value: Any) -> list[tuple[str, float]]:
    if isinstance(value, Mapping):
        entries = value.items()
    elif (isinstance(value, Tensor) and value.ndim) or isinstance(value, (list, tuple)):
        entries = enumerate(value)
    else:
        return [(name, float(torch.as_tensor(value)))]
    return [pair for key, entry in entries for pair in _flatten(f"{name}/{key}", entry)]
