"""Dice loss."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from segkit.losses.base import positive
from segkit.losses.region import RegionLoss
from segkit.losses.tiled.class_sums import ClassSums


@dataclass(kw_only=True, eq=False, repr=False)
class DiceLoss(RegionLoss):
    """1 - (2 I + s) / (P + G + s), for overlap I, predicted P, truth G in pixels; mean over samples, classes.

    Milletari et al., "V-Net" (arXiv 1606.04797), equation (1), with P and G in place of their squares.

    Args:
        smooth: s; keeps the loss of a class defined, and 0, where it is neither true nor predicted.
    """

    smooth: float = 1.0
    name = "dice"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("smooth", self.smooth)

    def per_class(self, sums: ClassSums) -> Tensor:
        return 1 - (2 * sums.overlap + self.smooth) / (sums.predicted + sums.truth + self.smooth)
