"""The counts that every segmentation score is derived from: a confusion matrix, or one a class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from segkit.contracts import DataError, integer_mask

# Pixels counted at once: CPUs keep these in their caches; GPUs want few, large kernels, of 70 MB of indices here.
CPU_PIXELS, GPU_PIXELS = 1 << 17, 1 << 22
# Places that a GPU spreads the counts of each bin over, since threads that add to the same one wait for each other.
LANES = 32


class Counts(Metric):
    """Pixel counts int64 of (truth, prediction), summed over batches and ranks, layer by layer of the mask.

    Nothing waits for the device before `compute`, and nothing is lost until then: values that are too low or too
    high have a row and a column of their own, the first and the last.

    Args:
        layers: matrices to keep.
        values: how many values there are, from 0 on, in each.
        ignore_index: the mask value that leaves a pixel out, whatever was predicted there.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    counts: Tensor
    least: Tensor
    largest: Tensor

    def __init__(self, layers: int, values: int, ignore_index: int, **kwargs: Any) -> None:
        assert not 0 <= ignore_index < values
        super().__init__(**kwargs)
        self.values = values
        self.ignore_index = ignore_index
        empty = torch.zeros(layers, values + 2, values + 2, dtype=torch.int64)
        self.add_state("counts", default=empty, dist_reduce_fx="sum")
        # Of the mask's values, the ignored one taken for 0.
        self.add_state("least", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="min")
        self.add_state("largest", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="max")

    def update(self, predicted: Tensor, mask: Tensor) -> None:
        """Count `predicted` against `mask`, of one shape and of any integer types."""
        mask = integer_mask(mask, self.ignore_index)
        at_once = CPU_PIXELS if mask.device.type == "cpu" else GPU_PIXELS
        for matrix, *layer in zip(self.counts, self.layers(predicted), self.layers(mask), strict=True):
            for guesses, truths in zip(*(part.reshape(-1).split(at_once) for part in layer), strict=True):
                places = self._shifted(truths).mul_(self.values + 2).add_(self._shifted(guesses))
                matrix += histogram(places, matrix.numel()).view_as(matrix)
                least, largest = torch.aminmax(truths * (truths != self.ignore_index))
                self.least, self.largest = self.least.minimum(least), self.largest.maximum(largest)

    def layers(self, labels: Tensor) -> Iterator[Tensor]:
        """The parts of labels or masks that are counted in one matrix each."""
        raise NotImplementedError

    def valid(self) -> Tensor:
        """The counts so far where both truth and prediction are one of the values."""
        return self.counts[:, 1:-1, 1:-1]

    def found_strays(self) -> tuple[int, int] | None:
        """The least and the largest value of the masks if one is out of range, the ignored one aside."""
        assert not bool(self.counts[:, 1:-1, [0, -1]].any()), "predictions are out of range"
        least, largest = int(self.least), int(self.largest)
        return None if 0 <= least <= largest < self.values else (least, largest)

    def _shifted(self, labels: Tensor) -> Tensor:
        """1 and up for the values; 0 for all below, the largest for all above. int32, which is the fastest."""
        # Held within bounds first where int32 is too small, last where -1 does not exist.
        wide = labels.to(torch.int32) if labels.element_size() < 4 else labels
        return wide.clamp(-1, self.values).to(torch.int32).add_(1)


class ConfusionMatrix(Counts):
    """Pixel counts (C, C) int64: rows are the truth, columns the prediction; summed over batches and ranks.

    Of class ids (B, H, W). Pixels whose truth is `ignore_index` are left out, whatever was predicted there.
    """

    def __init__(self, num_classes: int, ignore_index: int, **kwargs: Any) -> None:
        super().__init__(1, num_classes, ignore_index, **kwargs)

    def layers(self, labels: Tensor) -> Iterator[Tensor]:
        yield labels

    def valid(self) -> Tensor:
        return super().valid()[0]

    def compute(self) -> Tensor:
        """The matrix.

        Raises:
            DataError: a mask id is neither a class nor `ignore_index`.
        """
        if strays := self.found_strays():
            raise DataError(
                f"masks hold ids {strays[0]}..{strays[1]}; allowed: 0..{self.values - 1} "
                f"and dataset.ignore_index={self.ignore_index}"
            )
        return self.valid()


class LayerCounts(Counts):
    """Pixel counts (K, 2, 2) int64 of K classes that are scored each for itself: rows truth, columns prediction.

    Of labels (B, K, H, W) of 0 and 1. Where a class's channel holds `ignore_index`, the pixel is left out for this
    class alone.
    """

    def __init__(self, num_classes: int, ignore_index: int, **kwargs: Any) -> None:
        super().__init__(num_classes, 2, ignore_index, **kwargs)

    def layers(self, labels: Tensor) -> Iterator[Tensor]:
        yield from labels.unbind(dim=1)

    def compute(self) -> Tensor:
        """The counts.

        Raises:
            DataError: a mask value is neither 0, 1 nor `ignore_index`.
        """
        if strays := self.found_strays():
            raise DataError(
                f"multi-label masks hold values {strays[0]}..{strays[1]}; allowed: 0, 1 "
                f"and dataset.ignore_index={self.ignore_index}"
            )
        return self.valid()


def histogram(places: Tensor, bins: int) -> Tensor:
    """How often each of 0..bins-1 occurs in `places`, which holds nothing else: (bins,) int64."""
    if places.device.type == "cpu":
        return torch.bincount(places, minlength=bins)
    return _scattered(places, bins)


def _scattered(places: Tensor, bins: int) -> Tensor:
    """`torch.bincount` would read the largest value from the device, and wait for it."""
    lanes = torch.arange(len(places), device=places.device).remainder_(LANES).mul_(bins)
    counts = torch.zeros(LANES * bins, dtype=torch.int64, device=places.device)
    counts.scatter_add_(0, lanes.add_(places), torch.ones_like(lanes))
    return counts.view(LANES, bins).sum(dim=0)
