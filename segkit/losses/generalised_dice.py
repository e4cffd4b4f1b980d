"""Generalised Dice loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from segkit.contracts import LossTerms
from segkit.losses.base import Head, SegmentationLoss, positive


@dataclass(kw_only=True, eq=False, repr=False)
class GeneralisedDiceLoss(SegmentationLoss):
    """1 - (2 sum_k w_k I_k + s) / (sum_k w_k (P_k + G_k) + s), w_k = (smallest G / G_k)^2; the mean over samples.

    I overlap, P predicted, G truth in pixels, k classes. Sudre et al., "Generalised Dice overlap" (arXiv 1707.03237),
    section 2: there w_k = 1 / G_k^2, which differs by a factor that all classes share; with it s is in pixels of the
    rarest class. A class absent from a sample's truth, of infinite weight there, weighs as much as the rarest present
    one, as in MONAI. `class_weights` multiply w_k.

    Args:
        smooth: s; keeps the loss defined, and 0, where no pixel is valid.
    """

    smooth: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("smooth", self.smooth)

    def compute(self, head: Head) -> LossTerms:
        sums = head.sums(sigmoid=self.multilabel)
        absent_BC = sums.truth == 0
        smallest_B1 = torch.where(absent_BC, torch.inf, sums.truth).amin(dim=1, keepdim=True)
        weights_BC = torch.where(absent_BC, 1, smallest_B1 / sums.truth) ** 2
        if self.weights is not None:
            weights_BC = weights_BC * self.weights.to(weights_BC.dtype)
        overlap_B = (weights_BC * sums.overlap).sum(dim=1)
        both_B = (weights_BC * (sums.predicted + sums.truth)).sum(dim=1)
        total = (1 - (2 * overlap_B + self.smooth) / (both_B + self.smooth)).mean()
        return LossTerms(total, {"generalised_dice": total.detach()})
