"""Cross-entropy and Dice together."""

from __future__ import annotations

from collections.abc import Sequence

from segkit.contracts import LossTerms, UserError
from segkit.losses.base import Pixels, SegmentationLoss, at_least_zero
from segkit.losses.cross_entropy import CrossEntropyLoss
from segkit.losses.dice import DiceLoss


class CombinedLoss(SegmentationLoss):
    """ce_weight * cross-entropy + dice_weight * Dice; the parts are logged before they are weighted.

    Cross-entropy gives every pixel a gradient from the start, Dice makes small classes count as much as large
    ones. `class_weights` and `label_smoothing` apply to the cross-entropy, `smooth` to Dice.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        ignore_index: int,
        ce_weight: float = 1.0,
        dice_weight: float = 1.0,
        label_smoothing: float = 0.0,
        smooth: float = 1.0,
        auxiliary_weight: float = 0.4,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_classes=num_classes, ignore_index=ignore_index, auxiliary_weight=auxiliary_weight)
        self.ce_weight = at_least_zero("ce_weight", ce_weight)
        self.dice_weight = at_least_zero("dice_weight", dice_weight)
        if ce_weight == dice_weight == 0:
            raise UserError("loss.ce_weight and loss.dice_weight are both 0; at least one must be above 0")
        self.ce = CrossEntropyLoss(
            num_classes=num_classes,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            class_weights=class_weights,
        )
        self.dice = DiceLoss(num_classes=num_classes, ignore_index=ignore_index, smooth=smooth)

    def compute(self, pixels: Pixels) -> LossTerms:
        ce, dice = self.ce.compute(pixels), self.dice.compute(pixels)
        return LossTerms(self.ce_weight * ce.total + self.dice_weight * dice.total, {**ce.parts, **dice.parts})
