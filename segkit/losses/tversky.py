"""Tversky loss."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from segkit.losses.base import at_least_zero, positive
from segkit.losses.region import ClassSums, RegionLoss


class TverskyLoss(RegionLoss):
    """1 - (TP + s/2) / (TP + alpha FP + beta FN + s/2), in pixels; mean over samples and classes.

    Salehi et al., "Tversky loss function" (arXiv 1706.05721), equation (3). At alpha = beta = 0.5 it is the
    Dice loss of the same `smooth`.

    Args:
        alpha: weight of false positives.
        beta: weight of false negatives; above alpha favours recall.
        smooth: s, as in the Dice loss.
    """

    name = "tversky"

    def __init__(
        self,
        *,
        num_classes: int,
        ignore_index: int,
        alpha: float = 0.3,
        beta: float = 0.7,
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
        self.alpha = at_least_zero("alpha", alpha)
        self.beta = at_least_zero("beta", beta)
        self.smooth = positive("smooth", smooth)

    def per_class(self, sums: ClassSums) -> Tensor:
        false_positives = sums.predicted - sums.overlap
        false_negatives = sums.truth - sums.overlap
        weighed = sums.overlap + self.alpha * false_positives + self.beta * false_negatives
        return 1 - (sums.overlap + self.smooth / 2) / (weighed + self.smooth / 2)
