"""Each pixel may be of several classes, or of none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segkit.contracts import Batch, Counts, LabelSpace, Prediction, num_valid
from segkit.logits import resized_signs
from segkit.metrics.scores import Scores, layer_scores


class Multilabel:
    """Masks (B, C, H, W) of 0 and 1; a class is there where its probability exceeds 1/2.

    Counts are a confusion matrix for each class, (C, 2, 2), rows the truth.
    """

    def __init__(self, labels: LabelSpace) -> None:
        self.labels = labels

    def decide(self, prediction: Prediction, size: Sequence[int]) -> Tensor:
        return resized_signs(prediction.logits, size)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def counts(self) -> Counts:
        from segkit.metrics.confusion import LayerCounts  # torchmetrics takes seconds; no training step needs it

        return LayerCounts(self.labels.num_classes, self.labels.ignore_index)

    def count(self, counts: Counts, decided: Tensor, batch: Batch) -> None:
        counts.update(decided, batch.targets.mask)

    def num_targets(self, batch: Batch) -> Tensor:
        return num_valid(batch.targets.mask, self.labels.ignore_index)

    def scores(self, counts: Tensor) -> Scores:
        return layer_scores(counts)

    def score_names(self) -> list[str]:
        nothing = torch.zeros(self.labels.num_classes, 2, 2, dtype=torch.int64)
        return list(self.scores(nothing).named(self.labels.names))

    def example(self, batch: int, size: Sequence[int]) -> Tensor:
        """0 and 1 as they were drawn once, in every class."""
        generator = torch.Generator().manual_seed(0)
        return torch.randint(2, (batch, self.labels.num_classes, *size), generator=generator)

    def written(self, decided: Tensor) -> Tensor:
        """(H, W, C) of one decided image (C, H, W)."""
        return decided.movedim(0, -1)
