"""Lovász losses.

Shape suffixes: B batch, C classes, H W mask pixels, N = B H W.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from segkit.contracts import LossTerms
from segkit.losses.base import Head, SegmentationLoss, quotient
from segkit.losses.tiled.per_class import sum_over_classes


@dataclass(kw_only=True, eq=False, repr=False)
class LovaszLoss(SegmentationLoss):
    """The Lovász extension of 1 - IoU over the batch; the mean over the classes that are somewhere in it.

    Berman et al., "The Lovász-Softmax loss" (arXiv 1705.08790), section 3: the errors are |y - p| of a softmax.
    Multi-label: the paper's binary form, the Lovász hinge, for each class on the errors max(0, 1 - z) where the class
    is and max(0, 1 + z) where it is not, z its logit; absent classes count too, by what is wrongly claimed.
    With `class_weights` the mean over classes is weighted.
    """

    def compute(self, head: Head) -> LossTerms:
        if self.multilabel:
            counted_C = torch.stack([head.of_class(number)[1].any() for number in range(self.num_classes)])
        else:
            counted_C = head.present()
        weights_C = counted_C.double() if self.weights is None else counted_C * self.weights
        weights_C = quotient(weights_C, weights_C.sum())

        def judge(number: int, map_BHW: Tensor) -> tuple[Tensor, Tensor]:
            truth, valid = head.of_class(number)
            sign = torch.where(truth, -1.0, 1.0).to(map_BHW.dtype)
            if not self.multilabel:
                value, slope = lovasz_extension((map_BHW - truth.to(map_BHW.dtype)).abs_(), truth, valid)
                return value, slope * sign
            errors = (1 + sign * map_BHW).clamp_min_(0)
            value, slope = lovasz_extension(errors, truth, valid)
            return value, slope * sign * (errors > 0)

        total = sum_over_classes(head, judge, weights_C, sigmoid=self.multilabel)
        return LossTerms(total, {"lovasz": total.detach()})


def lovasz_extension(errors: Tensor, truth: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """The Lovász extension of 1 - IoU at `errors`, from 0 up, and its gradient in their shape; 0 where not valid.

    The extension of a set function is linear as long as the order of the errors stays: each error, from the largest on,
    is multiplied by what its pixel adds to 1 - IoU when all pixels up to it are wrong.
    """
    sorted_N, order_N = errors.masked_fill(~valid, -1).flatten().sort(descending=True, stable=True)
    truth_N = (truth & valid).flatten()[order_N]
    # In float64: what a pixel adds is the difference of two numbers that are nearly the same.
    seen_N = truth_N.cumsum(0).double()
    absent_N = torch.arange(1, len(order_N) + 1, device=errors.device) - seen_N
    index_N = 1 - (seen_N[-1] - seen_N) / (seen_N[-1] + absent_N)
    added_N = index_N.diff(prepend=index_N.new_zeros(1))
    slope_N = torch.empty_like(added_N)
    slope_N[order_N] = added_N
    slope = slope_N.view_as(errors).to(errors.dtype).masked_fill_(~valid, 0)
    value = (sorted_N.clamp_min(0) * added_N).sum().to(errors.dtype)
    return value, slope
