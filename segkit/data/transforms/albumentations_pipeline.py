"""Augmentation with Albumentations, made a pure function of the sample and a seed."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

# Albumentations asks the network for a newer version on import unless told not to.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations
import numpy as np
import torch

from segkit.contracts import Sample, UserError
from segkit.data.datasets.source import height_width
from segkit.data.transforms.value_range import ValueRange


class AlbumentationsTransform:
    """A sample to an augmented sample of one size, by Albumentations steps in order.

    The same sample and seed give the same result, in any process, after any other call: Albumentations' own
    generators are seeded for each call, and so are those of `random`, NumPy and PyTorch, for steps written by
    users; these three are put back afterwards. Albumentations takes floating-point images to be in 0..1; those in
    units of their own are spread over it, and put back into their units afterwards, see `ValueRange`.

    Args:
        steps: Albumentations transforms; those that move pixels need `fill_mask` set to the ignored id, since
            Albumentations fills with 0, which is a class.
        size: edge in pixels, or (height, width), that every sample must come out with, so that samples stack
            to a batch; None: not checked.

    Raises UserError when a sample comes out at another size, or its mask with a size other than the image's.
    """

    def __init__(self, steps: Sequence[albumentations.BasicTransform], size: int | Sequence[int] | None) -> None:
        self.size = None if size is None else height_width(size, "transform.size")
        self.steps = list(steps)
        self.compose = albumentations.Compose(list(steps))

    def __call__(self, sample: Sample, seed: int) -> Sample:
        values = ValueRange.of(sample.image) if self.steps else None
        if values is None:
            return self.in_unit_range(sample, seed)
        result = self.in_unit_range(Sample(values.to_unit(sample.image), sample.mask, sample.id), seed)
        return Sample(values.from_unit(result.image), result.mask, result.id)

    def in_unit_range(self, sample: Sample, seed: int) -> Sample:
        """`__call__` for images that are uint8, or float32 in 0..1."""
        # OpenCV does not warp int32; float32 holds the ids exactly, and masks are never interpolated.
        mask = sample.mask if sample.mask.dtype == np.uint8 else sample.mask.astype(np.float32)
        # One by one, since OpenCV fills with `fill_mask` in the first channel alone.
        masks: dict[str, Any] = {"mask": mask} if mask.ndim == 2 else {"masks": np.moveaxis(mask, -1, 0).copy()}
        with _seeded(seed):
            # `set_random_seed` would start every step from the same seed, so that what one draws all draw.
            self.compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
            augmented = self.compose(image=sample.image, **masks)
        image = np.ascontiguousarray(augmented["image"])
        mask = augmented["mask"] if "mask" in masks else np.moveaxis(np.asarray(augmented["masks"]), 0, -1)
        mask = np.ascontiguousarray(mask).astype(sample.mask.dtype, copy=False)
        if self.size is not None and image.shape[:2] != self.size:
            raise UserError(
                f"transform.steps made {image.shape[0]}x{image.shape[1]} pixels of {sample.id}, but "
                f"transform.size is {self.size[0]}x{self.size[1]}; let a step crop or resize to it"
            )
        if image.shape[:2] != mask.shape[:2] or image.dtype != sample.image.dtype:
            raise UserError(
                f"transform.steps made a {image.dtype} image {image.shape} and a mask {mask.shape} of "
                f"{sample.id}; allowed: a {sample.image.dtype} image (H, W, C) and a mask (H, W)"
            )
        return Sample(image, mask, sample.id)


def random_crop(size: int | Sequence[int], fill_mask: int) -> albumentations.RandomCrop:
    """A crop of `size` at a random place; a smaller image is padded with black, its mask with `fill_mask`."""
    height, width = height_width(size, "transform.size")
    return albumentations.RandomCrop(
        height, width, pad_if_needed=True, pad_position="random", fill=0, fill_mask=fill_mask
    )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The global generators of `random`, NumPy and PyTorch started from `seed`, and put back afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.default_generator.manual_seed(seed)  # manual_seed would start GPU generators too
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
