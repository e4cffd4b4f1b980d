"""Weights of the classes of a loss from how many pixels each class has."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from segkit.contracts import ClassWeightMethod

Vector = NDArray[np.float64]


def class_weights(pixels: NDArray[np.int64], method: ClassWeightMethod) -> list[float]:
    """One weight a class by `method`, from the pixels (N, K) of each class in each of N images.

    With N_k the pixels of class k over all images, N their sum (ignored pixels are in none of them), K the
    number of classes and p_k = N_k / N:

    - inverse: N / (K N_k).
    - inverse_sqrt: the square root of that.
    - inverse_log: 1 / ln(1 + N_k), scaled to a mean of 1.
    - effective: (1 - beta) / (1 - beta^N_k), scaled to a mean of 1 (Cui et al. 2019, arXiv 1901.05555,
      equation 2). beta = 1 - K / N: with the 0.9999 of the paper, where n counts images, all classes of more
      than a few 10,000 pixels would weigh the same. Classes above the mean weigh about alike, those far below
      it by the inverse of their pixels.
    - enet: 1 / ln(1.02 + p_k) (Paszke et al. 2016, arXiv 1606.02147, section 5.2), from 1.4 to 50.
    - median: median of all f / f_k, where f_k is N_k over the labelled pixels of the images that hold class k
      (Eigen and Fergus 2015, arXiv 1411.4734, section 6.3.2).

    A class without a pixel gets the weight of the rarest class that has some; 1 where no class has.
    """
    present = pixels.sum(axis=0) > 0
    weights = np.ones(pixels.shape[1])
    if present.any():
        weights[present] = METHODS[method](pixels[:, present], pixels.shape[1])
        weights[~present] = weights[present].max()
    return weights.tolist()


def _inverse(pixels: NDArray[np.int64], num_classes: int) -> Vector:
    totals = pixels.sum(axis=0)
    return totals.sum() / (num_classes * totals)


def _inverse_sqrt(pixels: NDArray[np.int64], num_classes: int) -> Vector:
    return np.sqrt(_inverse(pixels, num_classes))


def _inverse_log(pixels: NDArray[np.int64], num_classes: int) -> Vector:
    weights = 1 / np.log1p(pixels.sum(axis=0))
    return weights / weights.mean()


def _effective(pixels: NDArray[np.int64], num_classes: int) -> Vector:
    totals = pixels.sum(axis=0)
    log_beta = np.log1p(-min(num_classes / totals.sum(), 0.5))
    # expm1: beta^N_k is close to 1 for rare classes, where 1 - beta^N_k would lose its digits.
    weights = 1 / -np.expm1(totals * log_beta)
    return weights / weights.mean()


def _enet(pixels: NDArray[np.int64], num_classes: int) -> Vector:
    totals = pixels.sum(axis=0)
    return 1 / np.log(1.02 + totals / totals.sum())


def _median(pixels: NDArray[np.int64], num_classes: int) -> Vector:
    labelled = pixels.sum(axis=1)
    frequencies = pixels.sum(axis=0) / (labelled @ (pixels > 0))
    return np.median(frequencies) / frequencies


METHODS: dict[ClassWeightMethod, Callable[[NDArray[np.int64], int], Vector]] = {
    "inverse": _inverse,
    "inverse_sqrt": _inverse_sqrt,
    "inverse_log": _inverse_log,
    "effective": _effective,
    "enet": _enet,
    "median": _median,
}
