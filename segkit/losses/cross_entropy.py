"""Cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass

from segkit.contracts import LossTerms, UserError
from segkit.losses.base import Head, SegmentationLoss, quotient


@dataclass(kw_only=True, eq=False, repr=False)
class CrossEntropyLoss(SegmentationLoss):
    """-log p of the true class, the mean over valid pixels, each counted with the weight of its class.

    Equal to `torch.nn.functional.cross_entropy` wherever that is defined; zero where no pixel counts. Multi-label:
    binary cross-entropy -(y log p + (1 - y) log(1 - p)), the mean over valid pixels of all classes, each class with
    its weight.

    Args:
        label_smoothing: share of the truth spread evenly over all classes (Szegedy et al., arXiv 1512.00567,
            section 7), or, multi-label, over yes and no; from 0 up to, but not, 1.
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"loss.label_smoothing={self.label_smoothing}; allowed: from 0 up to, but not, 1")

    @property
    def wants_uniform(self) -> bool:
        return self.label_smoothing > 0

    def compute(self, head: Head) -> LossTerms:
        sums = head.sums(sigmoid=self.multilabel, gamma=0.0)
        nll_BC = sums.nll + sums.nll_absent
        if self.label_smoothing:
            nll_BC = (1 - self.label_smoothing) * nll_BC + self.label_smoothing * sums.uniform
        total = quotient(self.weighted_sum(nll_BC), self.weighted_sum(sums.terms))
        return LossTerms(total, {"ce": total.detach()})
