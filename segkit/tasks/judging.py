"""How logits become labels and scores: each pixel one class, or each class for itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from segkit.contracts import LabelSpace
from segkit.logits import resized_argmax, resized_signs
from segkit.metrics.scores import Scores, layer_scores, scores
from segkit.quick_imports import quick_imports

if TYPE_CHECKING:
    from segkit.metrics.confusion import ConfusionMatrix, LayerCounts


@dataclass(frozen=True)
class Judging:
    """What a label space makes of logits (B, C, h, w).

    Attributes:
        decide: with a size (H, W), to labels at that size: class ids (B, H, W), uint8 or, beyond 256 classes, int32;
            or multi-label (B, C, H, W) uint8 of 0 and 1. As of resized logits, which are never in memory.
        probabilities: to probabilities of the same shape.
        counts: makes what counts labels against masks: `ConfusionMatrix` or `LayerCounts`.
        shape: of these counts.
        scores: of these counts.
    """

    decide: Callable[[Tensor, Sequence[int]], Tensor]
    probabilities: Callable[[Tensor], Tensor]
    counts: Callable[[], ConfusionMatrix | LayerCounts]
    shape: tuple[int, ...]
    scores: Callable[[Tensor], Scores]

    def named_scores(self, labels: LabelSpace) -> Callable[[Tensor], dict[str, float]]:
        """Counts to scores by name."""
        return lambda counts: self.scores(counts).named(labels.names)

    def score_names(self, labels: LabelSpace) -> list[str]:
        nothing_counted = torch.zeros(self.shape, dtype=torch.int64)
        return list(self.scores(nothing_counted).named(labels.names))


def judging(labels: LabelSpace) -> Judging:
    """The one place where multi-label data is treated apart: a class is there where its probability exceeds 1/2."""
    if labels.multilabel:
        return Judging(
            resized_signs,
            lambda logits: logits.sigmoid(),
            lambda: _layer_counts(labels),
            (labels.num_classes, 2, 2),
            layer_scores,
        )
    return Judging(
        resized_argmax,
        lambda logits: logits.softmax(dim=1),
        lambda: _confusion_matrix(labels),
        (labels.num_classes, labels.num_classes),
        scores,
    )


# Imported when first counted: torchmetrics takes seconds, and the first training step needs none of it.
def _confusion_matrix(labels: LabelSpace) -> ConfusionMatrix:
    with quick_imports():
        from segkit.metrics.confusion import ConfusionMatrix

    return ConfusionMatrix(labels.num_classes, labels.ignore_index)


def _layer_counts(labels: LabelSpace) -> LayerCounts:
    with quick_imports():
        from segkit.metrics.confusion import LayerCounts

    return LayerCounts(labels.num_classes, labels.ignore_index)
