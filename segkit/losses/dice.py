"""Dice loss."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from segkit.losses.base import positive
from segkit.losses.region import ClassSums, RegionLoss


class DiceLoss(RegionLoss):
    """1 - (2 I + s) / (P + G + s), for overlap I, predicted P, truth G in pixels; mean over samples, classes.

    Milletari et al., "V-Net" (arXiv 1606.04797), equation (1), with P and G in place of their squares.

    Args:
        smooth: s; keeps the loss of a class defined, and 0, where it is neither true nor predicted.
    """

    name = "dice"

    def __init__(
        self,
        *,
        num_classes: int,
        ignore_index: int,
        smooth: float = 1.0,
        auxiliary_weight: float = 0.4,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            ignore_index=ignore_index,
            auxiliary_weight=auxiliary_weight,
            class_weights=class_weights,
        )
        self.smooth = positive("smooth", smooth)

    def per_class(self, sums: ClassSums) -> Tensor:
        return 1 - (2 * sums.overlap + self.smooth) / (sums.predicted + sums.truth + self.smooth)
