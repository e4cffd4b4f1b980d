"""Dice and binary cross-entropy together."""

from __future__ import annotations

from dataclasses import dataclass

from segkit.contracts import LossTerms, UserError
from segkit.losses.base import Head, SegmentationLoss, at_least_zero
from segkit.losses.cross_entropy import CrossEntropyLoss
from segkit.losses.dice import DiceLoss


@dataclass(kw_only=True, eq=False, repr=False)
class DiceBceLoss(SegmentationLoss):
    """dice_weight * Dice + bce_weight * binary cross-entropy, with a sigmoid for every class.

    A multi-class mask is read as one yes-or-no question for each class, which is what sets this loss apart from
    `combined`; multi-label masks are that already. Isensee et al., "nnU-Net" (Nature Methods 18, 2021), train with this
    sum where classes overlap, weighted evenly. The parts are logged before they are weighted; `class_weights`
    apply to the cross-entropy.

    Args:
        smooth: of Dice, in pixels.
    """

    dice_weight: float = 0.7
    bce_weight: float = 0.3
    smooth: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_zero("dice_weight", self.dice_weight)
        at_least_zero("bce_weight", self.bce_weight)
        if self.dice_weight == self.bce_weight == 0:
            raise UserError("loss.dice_weight and loss.bce_weight are both 0; at least one must be above 0")
        self.bce = CrossEntropyLoss(
            num_classes=self.num_classes,
            ignore_index=self.ignore_index,
            multilabel=True,
            class_weights=self.class_weights,
        )
        self.dice = DiceLoss(
            num_classes=self.num_classes, ignore_index=self.ignore_index, multilabel=True, smooth=self.smooth
        )

    def compute(self, head: Head) -> LossTerms:
        bce, dice = self.bce.compute(head).total, self.dice.compute(head).total
        parts = {"bce": bce.detach(), "dice": dice.detach()}
        return LossTerms(self.dice_weight * dice + self.bce_weight * bce, parts)
