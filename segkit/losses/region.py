"""What Dice, Tversky and their kin share: they are functions of three sums for each class."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from segkit.contracts import LossTerms
from segkit.losses.base import Head, SegmentationLoss
from segkit.losses.tiled.class_sums import ClassSums


@dataclass(kw_only=True, eq=False, repr=False)
class RegionLoss(SegmentationLoss):
    """The mean over samples and classes of a loss in 0..1 that `per_class` makes of the sums.

    With `class_weights` the mean over classes is weighted. A class absent from a sample's truth counts for
    the probability wrongly given to it: near 1 where that is many pixels, 0 where it is none.
    """

    name: ClassVar[str]

    @abstractmethod
    def per_class(self, sums: ClassSums) -> Tensor:
        """The loss of each sample and class, (B, C)."""

    def compute(self, head: Head) -> LossTerms:
        total = self.mean(self.per_class(head.sums(sigmoid=self.multilabel)))
        return LossTerms(total, {self.name: total.detach()})
