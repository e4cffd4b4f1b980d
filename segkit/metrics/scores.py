"""Segmentation scores as functions of a confusion matrix, or of one a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """Scores in 0..1, NaN where undefined. Means are over the classes where the score is defined.

    Attributes:
        miou: mean of `iou`.
        iou: of each class, TP / (TP + FP + FN); undefined for a class neither true nor predicted anywhere,
            0 for one that is only predicted.
        mean_dice: mean of `dice`.
        dice: of each class, 2 TP / (2 TP + FP + FN), defined as `iou` is.
        pixel_accuracy: share of pixels that are right; multi-label, of the decisions, one a pixel and class.
        mean_accuracy: mean of `accuracy`.
        accuracy: of each class, TP / (TP + FN), its recall; undefined for a class that is nowhere true.
        fwiou: mean of `iou` weighted with the class's share of the true pixels.
        pixels: of each class, the number of pixels where it is true.
    """

    miou: float
    iou: tuple[float, ...]
    mean_dice: float
    dice: tuple[float, ...]
    pixel_accuracy: float
    mean_accuracy: float
    accuracy: tuple[float, ...]
    fwiou: float
    pixels: tuple[int, ...]

    def named(self, class_names: Sequence[str]) -> dict[str, float]:
        """All scores as flat names: `miou`, ..., and `iou/road` for the classes."""
        means = ("miou", "mean_dice", "pixel_accuracy", "mean_accuracy", "fwiou")
        flat = {name: getattr(self, name) for name in means}
        for kind in ("iou", "dice", "accuracy"):
            for class_name, value in zip(class_names, getattr(self, kind), strict=True):
                flat[f"{kind}/{class_name}"] = value
        return flat


def scores(matrix: Tensor) -> Scores:
    """Scores of a confusion matrix (C, C), rows the truth and columns the prediction."""
    counts = matrix.detach().to("cpu", torch.float64)
    right = counts.diagonal()
    return _scores(right, counts.sum(dim=1), counts.sum(dim=0), (right.sum() / counts.sum()).item())


def layer_scores(counts: Tensor) -> Scores:
    """Scores of counts (K, 2, 2) of classes scored each for itself, rows the truth and columns the prediction."""
    counts = counts.detach().to("cpu", torch.float64)
    right = counts.diagonal(dim1=1, dim2=2)
    true, predicted = counts[:, 1].sum(dim=1), counts[:, :, 1].sum(dim=1)
    return _scores(right[:, 1], true, predicted, (right.sum() / counts.sum()).item())


def _scores(right: Tensor, true: Tensor, predicted: Tensor, pixel_accuracy: float) -> Scores:
    """Scores of each class's pixels that are rightly found, true, and predicted, all (C,) float64."""
    # 0 / 0 is NaN, which is what an undefined score is to be.
    iou = right / (true + predicted - right)
    dice = 2 * right / (true + predicted)
    accuracy = right / true
    return Scores(
        miou=iou.nanmean().item(),
        iou=tuple(iou.tolist()),
        mean_dice=dice.nanmean().item(),
        dice=tuple(dice.tolist()),
        pixel_accuracy=pixel_accuracy,
        mean_accuracy=accuracy.nanmean().item(),
        accuracy=tuple(accuracy.tolist()),
        fwiou=((true * iou.nan_to_num()).sum() / true.sum()).item(),
        pixels=tuple(int(number) for number in true.tolist()),
    )
