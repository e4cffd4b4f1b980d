"""Cross-entropy of the hard pixels."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log

import torch
from torch import Tensor

from segkit.contracts import LossTerms, UserError
from segkit.losses.base import Head
from segkit.losses.cross_entropy import CrossEntropyLoss
from segkit.losses.tiled.class_sums import pixel_nll
from segkit.losses.tiled.probabilities import Reading


@dataclass(kw_only=True, eq=False, repr=False)
class OhemLoss(CrossEntropyLoss):
    """Cross-entropy, the mean over the valid pixels whose true class has a probability below `threshold`.

    Online hard example mining (Shrivastava et al., arXiv 1604.03540) as Wu et al. use it for pixels ("High-performance
    Semantic Segmentation Using Very Deep Fully Convolutional Networks", arXiv 1604.04339, section 3.3): where too few
    are below the threshold, the share `min_kept` of the valid pixels of a batch that has the lowest probabilities is
    taken. Multi-label: over the valid pixels of all classes, p that of what is true there, yes or no.

    Args:
        threshold: in 0..1; 0.7 and a sixteenth are usual.
        min_kept: share of the valid pixels that is always kept, in 0..1; equally hard ones stay together.
    """

    threshold: float = 0.7
    min_kept: float = 1 / 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.threshold <= 1:
            raise UserError(f"loss.threshold={self.threshold}; allowed: above 0, up to 1")
        if not 0 <= self.min_kept <= 1:
            raise UserError(f"loss.min_kept={self.min_kept}; allowed: from 0 to 1")

    def compute(self, head: Head) -> LossTerms:
        # The other pixels are ignored: the cross-entropy of such a mask is that of the hard pixels.
        mask = head.mask.where(self._hard(head), self.ignore_index)
        total = super().compute(Head(head.logits, mask, self.ignore_index, uniform=self.wants_uniform)).total
        return LossTerms(total, {"ohem": total.detach()})

    @torch.no_grad()
    def _hard(self, head: Head) -> Tensor:
        """Which pixels are hard, in the mask's shape."""
        nll = pixel_nll(head.logits, head.mask, Reading(self.ignore_index, sigmoid=self.multilabel))
        valid = head.valid
        most_kept = max(ceil(nll.numel() * self.min_kept), 1)
        largest_nll = nll.masked_fill(~valid, -1).flatten().topk(most_kept).values
        # As a tensor: the number of valid pixels is not asked for on the host, which would wait for the device.
        last_kept = (valid.sum().double() * self.min_kept).ceil().long() - 1
        hardest = largest_nll.gather(0, last_kept.clamp_min(0).unsqueeze(0))
        hardest = torch.where(last_kept >= 0, hardest, torch.inf)
        return valid & ((nll >= hardest) | (nll > -log(self.threshold)))
