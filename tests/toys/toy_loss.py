"""A loss of one's own: one class here, and conf/loss/toy.yaml."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from segkit.contracts import Batch, LossTerms, Prediction
from segkit.logits import resize_logits


class SquaredError(nn.Module):
    """The mean over valid pixels of (1 - p)^exponent, p the probability of the true class."""

    def __init__(self, *, num_classes: int, ignore_index: int, exponent: float = 2.0) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.exponent = exponent

    def forward(self, prediction: Prediction, batch: Batch) -> LossTerms:
        mask = batch.targets.mask.long()
        valid = mask != self.ignore_index
        p = resize_logits(prediction.logits.float(), mask.shape[-2:]).softmax(dim=1)
        truth = F.one_hot(mask.where(valid, 0), self.num_classes).movedim(-1, 1)
        losses = torch.where(valid, (1 - (p * truth).sum(dim=1)) ** self.exponent, 0)
        total = losses.sum() / valid.sum().clamp(min=1)
        return LossTerms(total, {"squared": total.detach()})
