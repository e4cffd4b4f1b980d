"""Focal Tversky loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from segkit.losses.base import positive
from segkit.losses.tiled.class_sums import ClassSums
from segkit.losses.tversky import TverskyLoss


@dataclass(kw_only=True, eq=False, repr=False)
class FocalTverskyLoss(TverskyLoss):
    """(Tversky loss)^(1 / gamma) of each sample and class; the mean over them.

    Abraham and Khan, "A Novel Focal Tversky loss function" (arXiv 1810.07842), equation (4), a mean in place of
    the sum over classes. There alpha weighs false negatives; here, as in the Tversky loss, false positives.

    Args:
        gamma: above 1, classes that are nearly right count for more; 4/3 is the paper's.
    """

    gamma: float = 4 / 3
    name = "focal_tversky"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("gamma", self.gamma)

    def per_class(self, sums: ClassSums) -> Tensor:
        loss_BC = super().per_class(sums)
        # A power below 1 has no finite slope at 0, where nothing is left to learn.
        smallest = torch.finfo(loss_BC.dtype).eps
        return torch.where(loss_BC > smallest, loss_BC.clamp_min(smallest) ** (1 / self.gamma), 0)
