"""The three per-class sums that Dice, Tversky and their kin are functions of.

Shape suffixes: B batch, C classes, H W mask pixels.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from segkit.contracts import LossTerms
from segkit.losses.base import Pixels, SegmentationLoss


class ClassSums(NamedTuple):
    """Sums over the valid pixels of each sample, (B, C) float32, of probabilities p and truth y in {0, 1}.

    Attributes:
        overlap: of p * y.
        predicted: of p.
        truth: of y.
    """

    overlap: Tensor
    predicted: Tensor
    truth: Tensor


def class_sums(pixels: Pixels) -> ClassSums:
    """The sums, without a one-hot tensor: only the probability of the true class is looked up."""
    log_probabilities_BCHW, target_BHW, valid_BHW = pixels
    # As a float: multiplying with a bool takes twice the time on a CPU.
    probabilities_BCHW = log_probabilities_BCHW.exp() * valid_BHW.unsqueeze(1).float()
    of_truth_BHW = probabilities_BCHW.gather(1, target_BHW.unsqueeze(1)).squeeze(1)
    num_classes = log_probabilities_BCHW.shape[1]
    return ClassSums(
        overlap=_sum_by_class(of_truth_BHW, target_BHW, num_classes),
        predicted=probabilities_BCHW.sum(dim=(2, 3)),
        truth=_sum_by_class(valid_BHW, target_BHW, num_classes),
    )


def _sum_by_class(values_BHW: Tensor, target_BHW: Tensor, num_classes: int) -> Tensor:
    batch = len(target_BHW)
    first_bin_B11 = torch.arange(batch, device=target_BHW.device).view(-1, 1, 1) * num_classes
    # One after another, in float32, small probabilities would vanish beside the sum of a large image.
    bins = torch.zeros(batch * num_classes, dtype=torch.float64, device=target_BHW.device)
    bins = bins.index_add(0, (target_BHW + first_bin_B11).flatten(), values_BHW.flatten().double())
    return bins.view(batch, num_classes).float()


class RegionLoss(SegmentationLoss):
    """The mean over samples and classes of a loss in 0..1 that `per_class` makes of the sums.

    With `class_weights` the mean over classes is weighted. A class absent from a sample's truth counts for
    the probability wrongly given to it: near 1 where that is many pixels, 0 where it is none.
    """

    name: str

    @abstractmethod
    def per_class(self, sums: ClassSums) -> Tensor:
        """The loss of each sample and class, (B, C)."""

    def compute(self, pixels: Pixels) -> LossTerms:
        losses_BC = self.per_class(class_sums(pixels))
        if self.class_weights is None:
            total = losses_BC.mean()
        else:
            total = (losses_BC @ self.class_weights).mean() / self.class_weights.sum()
        return LossTerms(total, {self.name: total.detach()})
