"""What every loss shares: sizes, precision, ignored pixels, auxiliary heads and class weights.

Shape suffixes: B batch, C classes, H W mask pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segkit.contracts import LossTerms, Prediction, UserError, resize_logits


class Pixels(NamedTuple):
    """One head's prediction beside the truth, at the mask's size.

    Attributes:
        log_probabilities: (B, C, H, W) float32, log-softmax over C.
        target: (B, H, W) int64 class ids; 0 where the mask is ignored.
        valid: (B, H, W) bool, False where the mask is ignored.
    """

    log_probabilities: Tensor
    target: Tensor
    valid: Tensor


class SegmentationLoss(nn.Module, ABC):
    """A LossTerms of logits at the heads' own strides and a full-size mask of any integer type.

    Computed in float32 whatever the logits' type. Pixels of `ignore_index` change neither the loss nor its
    gradient; where all are ignored both are zero. Auxiliary heads get the same loss, each added with
    `auxiliary_weight` and logged as part `auxiliary`.

    Args:
        num_classes: C.
        ignore_index: the mask id that is left out.
        auxiliary_weight: of each auxiliary head's loss; 0.4 is that of PSPNet (arXiv 1612.01105).
        class_weights: one number from 0 up for each class; None: all alike.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        num_classes: int,
        ignore_index: int,
        auxiliary_weight: float = 0.4,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.auxiliary_weight = at_least_zero("auxiliary_weight", auxiliary_weight)
        self.register_buffer("class_weights", _checked(class_weights, num_classes), persistent=False)

    def forward(self, prediction: Prediction, mask: Tensor) -> LossTerms:
        target = mask.long()
        valid = target != self.ignore_index
        target = target.masked_fill(~valid, 0)
        terms = self._of_head(prediction.logits, target, valid)
        for logits in prediction.auxiliary.values():
            auxiliary = self._of_head(logits, target, valid).total
            terms.total = terms.total + self.auxiliary_weight * auxiliary
            terms.parts["auxiliary"] = terms.parts.get("auxiliary", 0) + auxiliary.detach()
        return terms

    def _of_head(self, logits: Tensor, target: Tensor, valid: Tensor) -> LossTerms:
        with torch.autocast(logits.device.type, enabled=False):
            full_size = resize_logits(logits.float(), target.shape[-2:])
            return self.compute(Pixels(full_size.log_softmax(dim=1), target, valid))

    @abstractmethod
    def compute(self, pixels: Pixels) -> LossTerms:
        """The loss of one head."""


def _checked(class_weights: Sequence[float] | None, num_classes: int) -> Tensor | None:
    if class_weights is None:
        return None
    if len(class_weights) != num_classes:
        raise UserError(f"loss.class_weights has {len(class_weights)} entries for {num_classes} classes")
    if not all(isfinite(weight) and weight >= 0 for weight in class_weights) or sum(class_weights) == 0:
        raise UserError(
            f"loss.class_weights={list(class_weights)}; allowed: finite numbers from 0 up, not all of them 0"
        )
    return torch.tensor(list(class_weights), dtype=torch.float32)


def at_least_zero(key: str, value: float) -> float:
    if not value >= 0:
        raise UserError(f"loss.{key}={value}; allowed: numbers from 0 up")
    return value


def positive(key: str, value: float) -> float:
    if not value > 0:
        raise UserError(f"loss.{key}={value}; allowed: numbers above 0")
    return value
