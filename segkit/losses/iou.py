"""Soft intersection over union."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from segkit.losses.base import positive
from segkit.losses.region import RegionLoss
from segkit.losses.tiled.class_sums import ClassSums


@dataclass(kw_only=True, eq=False, repr=False)
class IouLoss(RegionLoss):
    """1 - (I + s) / (P + G - I + s), for overlap I, predicted P, truth G in pixels; mean over samples, classes.

    Rahman and Wang, "Optimizing Intersection-Over-Union in Deep Neural Networks for Image Segmentation" (ISVC 2016),
    equations (3) to (5); also called soft Jaccard loss.

    Args:
        smooth: s; keeps the loss of a class defined, and 0, where it is neither true nor predicted.
    """

    smooth: float = 1.0
    name = "iou"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("smooth", self.smooth)

    def per_class(self, sums: ClassSums) -> Tensor:
        union_BC = sums.predicted + sums.truth - sums.overlap
        return 1 - (sums.overlap + self.smooth) / (union_BC + self.smooth)
