"""Tversky loss."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from segkit.losses.base import at_least_zero, positive
from segkit.losses.region import RegionLoss
from segkit.losses.tiled.class_sums import ClassSums


@dataclass(kw_only=True, eq=False, repr=False)
class TverskyLoss(RegionLoss):
    """1 - (TP + s/2) / (TP + alpha FP + beta FN + s/2), in pixels; mean over samples and classes.

    Salehi et al., "Tversky loss function" (arXiv 1706.05721), equation (3). At alpha = beta = 0.5 it is the
    Dice loss of the same `smooth`.

    Args:
        alpha: weight of false positives.
        beta: weight of false negatives; above alpha favours recall.
        smooth: s, as in the Dice loss.
    """

    alpha: float = 0.3
    beta: float = 0.7
    smooth: float = 1.0
    name = "tversky"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_zero("alpha", self.alpha)
        at_least_zero("beta", self.beta)
        positive("smooth", self.smooth)

    def per_class(self, sums: ClassSums) -> Tensor:
        false_positives = sums.predicted - sums.overlap
        false_negatives = sums.truth - sums.overlap
        weighed = sums.overlap + self.alpha * false_positives + self.beta * false_negatives
        return 1 - (sums.overlap + self.smooth / 2) / (weighed + self.smooth / 2)
