"""The counts that every segmentation score is derived from: a confusion matrix, or one a class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from segkit.contracts import DataError


class ConfusionMatrix(Metric):
    """Pixel counts (C, C) int64: rows are the truth, columns the prediction; summed over batches and ranks.

    Pixels whose truth is `ignore_index` are left out, whatever was predicted there.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    matrix: Tensor

    def __init__(self, num_classes: int, ignore_index: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        empty = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("matrix", default=empty, dist_reduce_fx="sum")

    def update(self, predicted: Tensor, mask: Tensor) -> None:
        """Count class ids `predicted` (B, H, W) against `mask` (B, H, W), both of any integer type.

        Raises:
            DataError: a mask id is neither a class nor `ignore_index`.
        """
        truth = mask.long()
        valid = truth != self.ignore_index
        truth, predicted = truth[valid], predicted.long()[valid]
        if truth.numel() and not 0 <= int(truth.min()) <= int(truth.max()) < self.num_classes:
            raise DataError(
                f"masks hold ids {int(truth.min())}..{int(truth.max())}; allowed: 0..{self.num_classes - 1} "
                f"and dataset.ignore_index={self.ignore_index}"
            )
        counts = torch.bincount(truth * self.num_classes + predicted, minlength=self.num_classes**2)
        self.matrix += counts.view(self.num_classes, self.num_classes)

    def compute(self) -> Tensor:
        return self.matrix


class LayerCounts(Metric):
    """Pixel counts (K, 2, 2) int64 of K classes that are judged each for itself: rows truth, columns prediction.

    Where a class's channel holds `ignore_index`, the pixel is left out for this class alone.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    counts: Tensor

    def __init__(self, num_classes: int, ignore_index: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.add_state("counts", default=torch.zeros(num_classes, 2, 2, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, mask: Tensor) -> None:
        """Count `predicted` (B, K, H, W) of 0 and 1 against `mask` (B, K, H, W) of 0, 1 and `ignore_index`.

        Raises:
            DataError: a mask value is none of these.
        """
        truth = mask.long()
        valid = truth != self.ignore_index
        if not bool(((truth == 0) | (truth == 1) | ~valid).all()):
            raise DataError(
                f"multi-label masks hold values {int(truth.min())}..{int(truth.max())}; allowed: 0, 1 "
                f"and dataset.ignore_index={self.ignore_index}"
            )
        class_K11 = torch.arange(self.num_classes, device=mask.device).view(-1, 1, 1)
        places = (class_K11 * 4 + truth * 2 + predicted.long())[valid]
        self.counts += torch.bincount(places, minlength=4 * self.num_classes).view(-1, 2, 2)

    def compute(self) -> Tensor:
        return self.counts
