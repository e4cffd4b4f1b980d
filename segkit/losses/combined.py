"""Cross-entropy and Dice together."""

from __future__ import annotations

from dataclasses import dataclass

from segkit.contracts import LossTerms, UserError
from segkit.losses.base import Head, SegmentationLoss, at_least_zero
from segkit.losses.cross_entropy import CrossEntropyLoss
from segkit.losses.dice import DiceLoss


@dataclass(kw_only=True, eq=False, repr=False)
class CombinedLoss(SegmentationLoss):
    """ce_weight * cross-entropy + dice_weight * Dice; the parts are logged before they are weighted.

    Cross-entropy gives every pixel a gradient from the start, Dice makes small classes count as much as large
    ones (Taghanaki et al., "Combo Loss", arXiv 1805.02798, equation (3), over a softmax). `class_weights` and
    `label_smoothing` apply to the cross-entropy, `smooth` to Dice.
    """

    ce_weight: float = 1.0
    dice_weight: float = 1.0
    label_smoothing: float = 0.0
    smooth: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_zero("ce_weight", self.ce_weight)
        at_least_zero("dice_weight", self.dice_weight)
        if self.ce_weight == self.dice_weight == 0:
            raise UserError("loss.ce_weight and loss.dice_weight are both 0; at least one must be above 0")
        self.ce = CrossEntropyLoss(
            num_classes=self.num_classes,
            ignore_index=self.ignore_index,
            multilabel=self.multilabel,
            class_weights=self.class_weights,
            label_smoothing=self.label_smoothing,
        )
        self.dice = DiceLoss(
            num_classes=self.num_classes,
            ignore_index=self.ignore_index,
            multilabel=self.multilabel,
            smooth=self.smooth,
        )

    def compute(self, head: Head) -> LossTerms:
        ce, dice = self.ce.compute(head), self.dice.compute(head)
        return LossTerms(self.ce_weight * ce.total + self.dice_weight * dice.total, {**ce.parts, **dice.parts})
