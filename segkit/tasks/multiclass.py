"""Each pixel is of one class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segkit.contracts import Batch, Counts, LabelSpace, Prediction, num_valid
from segkit.logits import resized_argmax
from segkit.metrics.scores import Scores, scores


class Multiclass:
    """Masks (B, H, W) of class ids; the class with the largest logit is chosen.

    Counts are a confusion matrix (C, C), rows the truth.
    """

    def __init__(self, labels: LabelSpace) -> None:
        self.labels = labels

    def decide(self, prediction: Prediction, size: Sequence[int]) -> Tensor:
        return resized_argmax(prediction.logits, size)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=1)

    def counts(self) -> Counts:
        from segkit.metrics.confusion import ConfusionMatrix  # torchmetrics takes seconds; no training step needs it

        return ConfusionMatrix(self.labels.num_classes, self.labels.ignore_index)

    def count(self, counts: Counts, decided: Tensor, batch: Batch) -> None:
        counts.update(decided, batch.targets.mask)

    def num_targets(self, batch: Batch) -> Tensor:
        return num_valid(batch.targets.mask, self.labels.ignore_index)

    def scores(self, counts: Tensor) -> Scores:
        return scores(counts)

    def score_names(self) -> list[str]:
        number = self.labels.num_classes
        return list(self.scores(torch.zeros(number, number, dtype=torch.int64)).named(self.labels.names))

    def example(self, batch: int, size: Sequence[int]) -> Tensor:
        """Every class, as far as there is room."""
        pixels = batch * size[0] * size[1]
        return torch.arange(pixels).view(batch, *size) % self.labels.num_classes

    def written(self, decided: Tensor) -> Tensor:
        """(H, W) of one decided image (H, W)."""
        return decided
