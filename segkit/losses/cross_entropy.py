"""Cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segkit.contracts import LossTerms, UserError
from segkit.losses.base import Pixels, SegmentationLoss


class CrossEntropyLoss(SegmentationLoss):
    """Cross-entropy, the mean over valid pixels, each counted with the weight of its class.

    Equal to `torch.nn.functional.cross_entropy` wherever that is defined; zero where all pixels are ignored.

    Args:
        label_smoothing: share of the truth spread evenly over all classes, 0..1 (arXiv 1512.00567).
    """

    def __init__(
        self,
        *,
        num_classes: int,
        ignore_index: int,
        label_smoothing: float = 0.0,
        auxiliary_weight: float = 0.4,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            ignore_index=ignore_index,
            auxiliary_weight=auxiliary_weight,
            class_weights=class_weights,
        )
        if not 0 <= label_smoothing < 1:
            raise UserError(f"loss.label_smoothing={label_smoothing}; allowed: from 0 up to, but not, 1")
        self.label_smoothing = label_smoothing

    def compute(self, pixels: Pixels) -> LossTerms:
        # Not torch's own function: on CUDA it has no deterministic form for images.
        surprise_BHW = -log_probability_of_truth(pixels)
        weight_BHW = pixel_weights(pixels, self.class_weights)
        total = (weight_BHW * surprise_BHW).sum()
        if self.label_smoothing:
            total = (1 - self.label_smoothing) * total + self.label_smoothing * self._even(pixels)
        total = total / torch.where(pixels.valid.any(), weight_BHW.sum(), 1)
        return LossTerms(total, {"ce": total.detach()})

    def _even(self, pixels: Pixels) -> Tensor:
        surprise_BCHW = -pixels.log_probabilities * pixels.valid.unsqueeze(1)
        if self.class_weights is None:
            return surprise_BCHW.mean(dim=1).sum()
        return (surprise_BCHW * self.class_weights.view(-1, 1, 1)).mean(dim=1).sum()


def log_probability_of_truth(pixels: Pixels) -> Tensor:
    """log p of the true class, (B, H, W); of no meaning at ignored pixels."""
    return pixels.log_probabilities.gather(1, pixels.target.unsqueeze(1)).squeeze(1)


def pixel_weights(pixels: Pixels, class_weights: Tensor | None) -> Tensor:
    """(B, H, W) float32: the weight of each pixel's class, 0 where ignored."""
    if class_weights is None:
        return pixels.valid.float()
    return class_weights[pixels.target] * pixels.valid
