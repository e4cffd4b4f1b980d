"""Focal loss."""

from __future__ import annotations

from dataclasses import dataclass

from segkit.contracts import LossTerms, UserError
from segkit.losses.base import Head, SegmentationLoss, at_least_zero, positive, quotient


@dataclass(kw_only=True, eq=False, repr=False)
class FocalLoss(SegmentationLoss):
    """alpha (1 - p)^gamma (-log p), p the probability of the true class; mean over valid pixels.

    Lin et al., "Focal Loss for Dense Object Detection" (arXiv 1708.02002), equation (5), over a softmax.
    Multi-label: the paper's own binary form, in which pixels where a class is not weigh 1 - alpha; the mean over valid
    pixels of all classes. `class_weights` multiply each term but not the number of terms it is divided by.

    Args:
        alpha: factor of the whole loss, above 0; multi-label: weight of pixels where a class is, in 0..1.
        gamma: how far well-classified pixels count for less, from 0 up; 0 gives alpha times cross-entropy.
    """

    alpha: float = 0.25
    gamma: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("alpha", self.alpha)
        at_least_zero("gamma", self.gamma)
        if self.multilabel and self.alpha > 1:
            raise UserError(f"loss.alpha={self.alpha}; allowed with loss.multilabel=true: above 0, up to 1")

    def compute(self, head: Head) -> LossTerms:
        sums = head.sums(sigmoid=self.multilabel, gamma=self.gamma)
        terms_BC = self.alpha * sums.nll + (1 - self.alpha) * sums.nll_absent
        total = quotient(self.weighted_sum(terms_BC), sums.terms.sum())
        return LossTerms(total, {"focal": total.detach()})
