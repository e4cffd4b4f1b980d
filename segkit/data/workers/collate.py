"""What workers make of the samples of a group: batches, the reasons why others are left out, or the first error."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from segkit.contracts import Batch, DataError, Sample, Targets, UserError
from segkit.errors import RunFailure

REPLACEMENTS = 100  # tried for a sample that cannot be used, before giving up


@dataclass(frozen=True)
class Skipped:
    """A sample that could not be used, and what stands in its place, if anything does."""

    error: DataError
    replacement: Sample | None = None


# What a worker makes of one key. A UserError is an item too: raised in a worker, it would arrive in a traceback.
Item = Sample | Skipped | UserError | RunFailure


def _sorted_out(items: list[Item]) -> tuple[list[Sample], list[DataError]] | UserError | RunFailure:
    """The samples to use and why others were skipped, or the first error among the items."""
    sound: list[Sample] = []
    skipped: list[DataError] = []
    for item in items:
        if isinstance(item, UserError | RunFailure):
            return item
        if isinstance(item, Skipped):
            skipped.append(item.error)
        sample = item.replacement if isinstance(item, Skipped) else item
        if sample is not None:
            sound.append(sample)
    return sound, skipped


def collate_runs(items: list[Item]) -> tuple[list[Batch], list[DataError]] | UserError | RunFailure:
    """One batch for each run of samples of the same size, and why others are left out; or the first error."""
    sorted_out = _sorted_out(items)
    if isinstance(sorted_out, UserError | RunFailure):
        return sorted_out
    sound, skipped = sorted_out
    runs = itertools.groupby(sound, key=lambda sample: sample.image.shape)
    return [_stack(list(run)) for _, run in runs], skipped


def collate_equal_sizes(items: list[Item]) -> tuple[Batch, list[DataError]] | UserError | RunFailure:
    """One batch of as many samples as items, and why others were replaced; or the first error among them."""
    collated = collate_runs(items)
    if isinstance(collated, UserError | RunFailure):
        return collated
    batches, skipped = collated
    if sum(map(len, batches)) < len(items):
        return DataError(f"{skipped[0]}; {REPLACEMENTS} samples drawn to take its place could not be used either")
    if len(batches) > 1:
        first, other = batches[0], batches[1]
        return UserError(
            f"transform gave samples of different sizes: {first.ids[0]} {tuple(first.images.shape[-2:])}, "
            f"{other.ids[0]} {tuple(other.images.shape[-2:])}; "
            "let it crop or resize, or set trainer.batch_size=1"
        )
    return batches[0], skipped


def _stack(samples: list[Sample]) -> Batch:
    """Samples of one size as a batch, in the types they came in."""
    images = [sample.image for sample in samples]
    if any(image.dtype != np.uint8 for image in images):
        # A data set of 8-bit and deeper images; float images are in 0..1.
        images = [image / np.float32(255) if image.dtype == np.uint8 else image for image in images]
    height, width, channels = images[0].shape
    images_BCHW = _empty((len(images), channels, height, width), images[0].dtype)
    for image, planes in zip(images, images_BCHW.numpy(), strict=True):
        # OpenCV takes channels apart three times as fast as NumPy.
        cv2.split(image, list(planes))
    masks = [sample.mask if sample.mask.ndim == 2 else np.moveaxis(sample.mask, -1, 0) for sample in samples]
    mask = _empty((len(masks), *masks[0].shape), np.result_type(*masks))
    np.stack(masks, out=mask.numpy())
    return Batch(images_BCHW, Targets(mask), tuple(sample.id for sample in samples))


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Tensor:
    """A tensor to fill, in a worker in memory shared with its parent. Raises RuntimeError where that runs out.

    Tensors are moved there anyway, but by a thread of the queue's, which could tell nobody of a failure.
    """
    kind = torch.from_numpy(np.empty(0, dtype))
    if get_worker_info() is None:
        return kind.new_empty(shape)
    # As PyTorch's default_collate does it: `share_memory_()`, the public way, takes the memory twice and copies it.
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * kind.element_size())
    return kind.set_(storage, 0, shape)  # pyright: ignore[reportArgumentType, reportCallIssue]
