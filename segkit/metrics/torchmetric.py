"""Any torchmetrics metric that a user lists in YAML.

Shape suffixes: B images, C classes (of multi-label data, layers), H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import nan
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from segkit.contracts import Batch, Prediction, Task, integer_mask
from segkit.logits import resize_logits

if TYPE_CHECKING:
    from torchmetrics import Metric, MetricCollection


class ListedMetric:
    """A torchmetrics metric over the valid pixels, as a `contracts.Metric`.

    To most metrics each valid pixel is one sample; of multi-label data, one with a label and a probability for each
    class, and valid where no class is ignored. Those of torchmetrics.segmentation, which have an `input_format`, are
    given one image at a time: labels (1, C, H, W) of 0 and 1, all 0 where the mask is ignored. So neither ignored
    pixels nor the size of batches matter. A metric that gives several numbers, such as one a class, gets their index or
    key appended to its name: `f1/0`, `f1/1`. All are NaN where no pixel is valid.

    Args:
        metric: such as torchmetrics.classification.MulticlassF1Score; it need not know `ignore_index`.
        name: under which its scores are logged.
        task: whose labels and probabilities it is given.
        input: what it is given for each pixel: the predicted class id, or the C class probabilities, which
            curves and calibration errors need.

    Attributes:
        second_class_only: whether `metric` is given the probability of the second class alone, as those want it that
            know of two classes only.
        names: of the scores, as far as they are known.
    """

    def __init__(
        self,
        metric: Metric | MetricCollection,
        *,
        name: str,
        task: Task,
        input: Literal["labels", "probabilities"] = "labels",
    ) -> None:
        self.metric = metric
        self.name = name
        self.task = task
        self.labels = task.labels
        self.input = input
        self.second_class_only = False
        self.names = [name]
        self._has_counted = False
        for part in self.parts():
            if hasattr(part, "input_format"):
                # Whatever the user has said: no other format can leave a pixel out.
                part.input_format = "one-hot"

    def parts(self) -> list[Any]:
        """The metric itself and those that it is made of."""
        return list(self.metric.modules()) if isinstance(self.metric, nn.Module) else [self.metric]

    @property
    def takes_images(self) -> bool:
        return any(hasattr(part, "input_format") for part in self.parts())

    def reset(self) -> None:
        self.metric.reset()
        self._has_counted = False

    def update(self, prediction: Prediction, decided: Tensor, batch: Batch) -> None:
        self.metric.to(batch.mask.device)
        mask = integer_mask(batch.mask, self.labels.ignore_index)
        if self.takes_images:
            self._update_with_images(decided, mask)
        else:
            self._update_with_pixels(prediction.logits, decided, mask)

    def _update_with_pixels(self, logits: Tensor, predicted: Tensor, mask: Tensor) -> None:
        if self.input == "probabilities":
            given = self.task.probabilities(resize_logits(logits, mask.shape[-2:]).float())
            given = given[:, 1] if self.second_class_only else given
        else:
            given = predicted
        given, truth = _channels_last(given), _channels_last(mask)
        valid_BHW = (truth != self.labels.ignore_index).view(*truth.shape[:3], -1).all(dim=-1)
        if valid_BHW.any():
            given = given[valid_BHW]
            self._give(given if given.is_floating_point() else given.long(), truth[valid_BHW].long())

    def _update_with_images(self, predicted: Tensor, mask: Tensor) -> None:
        valid = mask != self.labels.ignore_index
        pairs = zip(self._one_hot(predicted, valid), self._one_hot(mask, valid), valid, strict=True)
        for predicted_CHW, truth_CHW, valid_of_image in pairs:
            if valid_of_image.any():
                self._give(predicted_CHW.unsqueeze(0), truth_CHW.unsqueeze(0))

    def _give(self, given: Tensor, truth: Tensor) -> None:
        self.metric.update(given, truth)
        self._has_counted = True

    def _one_hot(self, labels: Tensor, valid: Tensor) -> Tensor:
        """(B, C, H, W) uint8 of 0 and 1, 0 where not valid."""
        if labels.ndim == 3:
            ids_C11 = torch.arange(self.labels.num_classes, device=labels.device).view(-1, 1, 1)
            labels, valid = labels.unsqueeze(1) == ids_C11, valid.unsqueeze(1)
        return ((labels == 1) & valid).to(torch.uint8)

    def compute(self) -> dict[str, float]:
        if not self._has_counted:
            return dict.fromkeys(self.names, nan)
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
