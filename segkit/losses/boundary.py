"""Boundary loss.

Shape suffixes: B batch, C classes, H W mask pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from segkit.contracts import LossTerms
from segkit.losses.base import Head, SegmentationLoss, quotient
from segkit.losses.tiled.per_class import sum_over_classes


@dataclass(kw_only=True, eq=False, repr=False)
class BoundaryLoss(SegmentationLoss):
    """The mean over valid pixels and classes of p times the signed distance, in pixels, to the class's true boundary.

    Kervadec et al., "Boundary loss for highly unbalanced segmentation" (arXiv 1812.07032), equation (5). The
    distance is negative inside, so the loss has no fixed lower bound; it is 0 for a class that the sample lacks, or
    that fills it. As in the authors' code pixels along the boundary have distance 0 inside and 1 outside. Ignored
    pixels make no boundaries. Multi-label: p of a sigmoid. With `class_weights` the mean over classes is weighted.

    Meant as one term beside a region loss (the paper's equation (7)), as in `weighted`. Distances are computed on the
    CPU: on a GPU this is the one loss that waits for the mask.
    """

    def compute(self, head: Head) -> LossTerms:
        present_C = head.present().double()
        weights_C = torch.ones_like(present_C) if self.weights is None else self.weights
        counted_C = head.valid.sum(dim=(0, 2, 3)) if self.multilabel else head.valid.sum()
        weights_C = quotient(present_C * weights_C / weights_C.sum(), counted_C.double())

        def judge(number: int, map_BHW: Tensor) -> tuple[Tensor, Tensor]:
            distance = signed_distance(*head.of_class(number)).to(map_BHW)
            if not self.multilabel:
                return (distance * map_BHW).sum(), distance
            p = map_BHW.sigmoid()
            return (distance * p).sum(), distance * p * torch.sigmoid(-map_BHW)

        total = sum_over_classes(head, judge, weights_C, sigmoid=self.multilabel)
        return LossTerms(total, {"boundary": total.detach()})


def signed_distance(truth_BHW: Tensor, valid_BHW: Tensor) -> Tensor:
    """The distance of each valid pixel to the boundary of a class, in pixels, (B, H, W) float64 on the CPU.

    Outside: to the nearest pixel of the class. Inside: 1 minus that to the nearest valid one outside. 0 where the mask
    is ignored, and everywhere in a sample that holds only one of the two.
    """
    distances = np.zeros(truth_BHW.shape, np.float64)
    for distance, truth, valid in zip(distances, truth_BHW.cpu().numpy(), valid_BHW.cpu().numpy(), strict=True):
        inside, outside = truth & valid, valid & ~truth
        if inside.any() and outside.any():
            distance[outside] = np.asarray(distance_transform_edt(~inside))[outside]
            distance[inside] = 1 - np.asarray(distance_transform_edt(~outside))[inside]
    return torch.from_numpy(distances)
