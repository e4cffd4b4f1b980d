"""Focal loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from segkit.contracts import LossTerms
from segkit.losses.base import Pixels, SegmentationLoss, at_least_zero, positive
from segkit.losses.cross_entropy import log_probability_of_truth, pixel_weights


class FocalLoss(SegmentationLoss):
    """alpha (1 - p)^gamma (-log p), p the probability of the true class; mean over valid pixels.

    Lin et al., "Focal Loss for Dense Object Detection" (arXiv 1708.02002), equation (5), over a softmax.
    `class_weights` multiply each pixel's term but not the number of pixels it is divided by.

    Args:
        alpha: factor of the whole loss, above 0.
        gamma: how far well-classified pixels count for less, from 0 up; 0 gives alpha times cross-entropy.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        ignore_index: int,
        alpha: float = 0.25,
        gamma: float = 2.0,
        auxiliary_weight: float = 0.4,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            ignore_index=ignore_index,
            auxiliary_weight=auxiliary_weight,
            class_weights=class_weights,
        )
        self.alpha = positive("alpha", alpha)
        self.gamma = at_least_zero("gamma", gamma)

    def compute(self, pixels: Pixels) -> LossTerms:
        log_p_BHW = log_probability_of_truth(pixels)
        # Clamped because a power below 1 has no finite slope at 0.
        doubt_BHW = (-torch.expm1(log_p_BHW)).clamp_min(torch.finfo(log_p_BHW.dtype).eps)
        terms_BHW = -self.alpha * doubt_BHW**self.gamma * log_p_BHW * pixel_weights(pixels, self.class_weights)
        total = terms_BHW.sum() / pixels.valid.sum().clamp_min(1)
        return LossTerms(total, {"focal": total.detach()})
