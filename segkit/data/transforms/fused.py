"""Augmentation that draws its parameters first and touches only the pixels that the crop is made of.

Established pipelines decode, scale and pad the whole image, of which a crop of a few percent is kept. Here
scale, place, flips and turn are one window of the image, resized once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from segkit.contracts import Sample
from segkit.data.datasets.source import height_width
from segkit.data.transforms.color import PixelStep
from segkit.data.transforms.crop_window import Window, WindowDraw, probability
from segkit.data.transforms.value_range import ValueRange

if TYPE_CHECKING:
    from segkit.data.transforms.albumentations_pipeline import AlbumentationsTransform

TURNS = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}


class FusedTransform:
    """A sample to a crop of one size: a window of the image, resized, flipped and turned at once, then `steps`.

    Images are resized with bilinear interpolation, and averaged over areas where the window is more than twice
    the crop, since bilinear would skip pixels there. Masks take the pixel nearest to each centre, on the same
    grid: what the image shows is what the mask says, to the pixel. Padding is black (the least value of an image
    in units of its own), and ignored. Such images go through the steps in a range of their own, see `ValueRange`.

    Args:
        size: edge of the crop in pixels, or (height, width).
        ignore_index: the id of padding.
        window: draws the part of the image that is shown.
        horizontal_flip: share of samples that are mirrored left to right.
        vertical_flip: share of samples that are mirrored top to bottom.
        rotate90: share of samples that are turned by 0, 90, 180 or 270 degrees, evenly.
        steps: what is done to the crop, in order: steps of `segkit.data.transforms.color`, and any of Albumentations,
            of which those that move pixels need `fill_mask`.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        ignore_index: int,
        window: WindowDraw,
        *,
        horizontal_flip: float = 0.0,
        vertical_flip: float = 0.0,
        rotate90: float = 0.0,
        steps: Sequence[Callable[..., Any]] = (),
    ) -> None:
        self.size = height_width(size, "transform.size")
        self.ignore_index = ignore_index
        self.window = window
        shares = {"horizontal_flip": horizontal_flip, "vertical_flip": vertical_flip, "rotate90": rotate90}
        for name, share in shares.items():
            probability(share, f"transform.{name}")
        self.horizontal_flip, self.vertical_flip, self.rotate90 = shares.values()
        self.steps = list(steps)
        self._changes = [_crop_step(step, self.size) for step in steps]

    def __call__(self, sample: Sample, seed: int) -> Sample:
        random = np.random.default_rng(seed)
        turns = int(random.integers(4)) if random.random() < self.rotate90 else 0
        flips = random.random() < self.vertical_flip, random.random() < self.horizontal_flip
        height, width = self.size
        size = (width, height) if turns % 2 else self.size
        window = self.window(sample.mask, size, self.ignore_index, random)
        values = ValueRange.of(_shown(sample.image, window))
        image = cut_image(sample.image, window, size, flips, 0 if values is None else values.least)
        mask = cut_mask(sample.mask, window, size, flips, self.ignore_index)
        crop = Sample(_turned(image, turns), _turned(mask, turns), sample.id)
        if values is None or not self.steps:
            return self._changed(crop, random)
        crop = self._changed(Sample(values.to_unit(crop.image), crop.mask, crop.id), random)
        return Sample(values.from_unit(crop.image), crop.mask, crop.id)

    def _changed(self, crop: Sample, random: Generator) -> Sample:
        for change in self._changes:
            crop = change(crop, random)
        return crop


def cut_image(
    image: NDArray[Any],
    window: Window,
    size: tuple[int, int],
    flips: tuple[bool, bool] = (False, False),
    fill: int | NDArray[Any] = 0,
) -> NDArray[Any]:
    """The window of `image` (H, W, C) as a crop of `size`, mirrored along (rows, columns) if told so."""
    rows, columns = window
    part = _shown(image, window)
    if rows.extent != rows.length or columns.extent != columns.length:
        shrinks = max(rows.length / rows.extent, columns.length / columns.extent)
        # Areas take eight times as long, and up to 2 differ little: there bilinear weighs in every pixel as well.
        interpolation = cv2.INTER_AREA if shrinks > 2 else cv2.INTER_LINEAR
        # OpenCV averages over areas in up to four channels at once.
        parts = [
            cv2.resize(part[..., first : first + 4], (columns.extent, rows.extent), interpolation=interpolation)
            for first in range(0, image.shape[2], 4)
        ]
        part = np.dstack(parts) if len(parts) > 1 else parts[0].reshape(rows.extent, columns.extent, -1)
    code = {(True, True): -1, (True, False): 0, (False, True): 1}.get(flips)
    if code is not None:
        part = cv2.flip(part, code).reshape(part.shape)
    elif np.may_share_memory(part, image):
        part = part.copy()
    return _padded(part, window, size, flips, fill)


def cut_mask(
    mask: NDArray[Any],
    window: Window,
    size: tuple[int, int],
    flips: tuple[bool, bool] = (False, False),
    ignore_index: int = 255,
) -> NDArray[Any]:
    """The window of `mask` (H, W) or (H, W, K) as `cut_image` cuts the image, without a new id but padding."""
    part = _shown(mask, window)
    for number, (axis, flip) in enumerate(zip(window, flips, strict=True)):
        if flip or axis.extent != axis.length:
            part = part.take(axis.sources()[::-1] if flip else axis.sources(), axis=number)
    if np.may_share_memory(part, mask):
        part = part.copy()
    return _padded(part, window, size, flips, ignore_index)


def _shown(array: NDArray[Any], window: Window) -> NDArray[Any]:
    """The pixels of `array` that lie in the window, as a view."""
    rows, columns = window
    return array[rows.start : rows.start + rows.length, columns.start : columns.start + columns.length]


def _turned(array: NDArray[Any], turns: int) -> NDArray[Any]:
    """`array` turned to the left by so many quarters."""
    if not turns:
        return array
    if array.ndim == 3 and array.shape[2] == 3:  # ten times as fast as NumPy
        return cv2.rotate(array, TURNS[turns])
    return np.ascontiguousarray(np.rot90(array, turns))


def _padded(
    part: NDArray[Any], window: Window, size: tuple[int, int], flips: tuple[bool, bool], fill: int | NDArray[Any]
) -> NDArray[Any]:
    """`part` at its place in a crop of `size` that is `fill` around it."""
    if part.shape[:2] == size:
        return part
    crop = np.full((*size, *part.shape[2:]), fill, part.dtype)
    (top, left) = (
        edge - axis.offset - axis.extent if flip else axis.offset
        for axis, edge, flip in zip(window, size, flips, strict=True)
    )
    crop[top : top + part.shape[0], left : left + part.shape[1]] = part
    return crop


def _crop_step(step: Any, size: tuple[int, int]) -> Callable[[Sample, Generator], Sample]:
    """`step` as a function of a crop and a generator."""
    if isinstance(step, PixelStep):
        return partial(_change_colors, step)
    # Imported only when named: it takes seconds.
    from segkit.data.transforms.albumentations_pipeline import AlbumentationsTransform

    return partial(_transform, AlbumentationsTransform([step], size))


def _change_colors(step: PixelStep, crop: Sample, random: Generator) -> Sample:
    return Sample(step.in_unit_range(crop.image, random), crop.mask, crop.id)


def _transform(transform: AlbumentationsTransform, crop: Sample, random: Generator) -> Sample:
    return transform.in_unit_range(crop, int(random.integers(2**32)))
