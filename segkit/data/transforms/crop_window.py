"""Which pixels of an image a training crop is made of, drawn before any of them is touched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from segkit.contracts import UserError

TRIES = 10  # of a crop without too much of one class, as in mmsegmentation
GRID = 256  # classes are counted, and looked for, on a grid of at most so many rows and columns


class Axis(NamedTuple):
    """One axis of a window: `length` pixels of the image from `start` on, and the `extent` of the crop they fill.

    What of the crop lies before `offset` or after `offset + extent` is padding.
    """

    start: int
    length: int
    offset: int
    extent: int

    def sources(self) -> NDArray[np.intp]:
        """Which of the `length` pixels is nearest to each of the `extent` pixels of the crop, centre to centre."""
        return (np.arange(self.extent) * 2 + 1) * self.length // (2 * self.extent)


class Window(NamedTuple):
    rows: Axis
    columns: Axis


class WindowDraw(Protocol):
    """Draws the window of one sample from its mask (H, W) or (H, W, K) and the crop's (height, width)."""

    def __call__(self, mask: NDArray[Any], size: tuple[int, int], ignore_index: int, random: Generator) -> Window: ...


class WholeImage:
    """The whole image, made to fit the crop; its proportions are lost where they differ.

    A network trained so is evaluated at another scale than it has learnt. No option uses it any more; runs that began
    with `transform=light` of version 0.1 go on with it.
    """

    def __call__(self, mask: NDArray[Any], size: tuple[int, int], ignore_index: int, random: Generator) -> Window:
        height, width = mask.shape[:2]
        return Window(Axis(0, height, 0, size[0]), Axis(0, width, 0, size[1]))


class RandomScaleCrop:
    """A crop at a random place of the image at a random scale, padded at random where the image is smaller.

    What a crop of `size` from the image resized by s shows is a window of `size / s` pixels of the image itself.
    The window has whole pixels, so that image and mask are cut alike: the scale differs from the one drawn by
    up to half a pixel over the window.

    Args:
        scale: smallest and largest factor, drawn evenly.
        p: share of samples that are scaled; the others keep their scale.
        max_class_share: draw the place again, up to ten times, while one class has more than this share of the
            window's labelled pixels, or all of them; 1: take the first (`RandomCrop` of mmsegmentation, cat_max_ratio).
        class_balanced_p: share of crops that are laid on a pixel of a class drawn evenly among those present, so
            that rare classes are seen as often as common ones. `max_class_share` does not hold for them.
        classes: ids that crops are laid on; None: all.
    """

    def __init__(
        self,
        scale: Sequence[float],
        p: float = 1.0,
        *,
        max_class_share: float = 1.0,
        class_balanced_p: float = 0.0,
        classes: Sequence[int] | None = None,
    ) -> None:
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise UserError(f"transform.window.scale={list(scale)}; allowed: [least, most], both above 0")
        probability(p, "transform.window.p")
        probability(class_balanced_p, "transform.window.class_balanced_p")
        if not 0 < max_class_share <= 1:
            raise UserError(f"transform.window.max_class_share={max_class_share}; allowed: above 0, up to 1")
        self.scale = (float(scale[0]), float(scale[1]))
        self.p = p
        self.max_class_share = max_class_share
        self.class_balanced_p = class_balanced_p
        self.classes = None if classes is None else tuple(classes)

    def __call__(self, mask: NDArray[Any], size: tuple[int, int], ignore_index: int, random: Generator) -> Window:
        scale = random.uniform(*self.scale) if random.random() < self.p else 1.0
        point = None
        if self.class_balanced_p and random.random() < self.class_balanced_p:
            point = self._pixel_of_a_class(mask, ignore_index, random)
        window = _placed(mask.shape, size, scale, point, random)
        if self.max_class_share < 1 and point is None:
            for _ in range(TRIES - 1):
                if _is_mixed(mask, window, ignore_index, self.max_class_share):
                    break
                window = _placed(mask.shape, size, scale, None, random)
        return window

    def _pixel_of_a_class(self, mask: NDArray[Any], ignore_index: int, random: Generator) -> tuple[int, int] | None:
        """(row, column) of a pixel of a class drawn evenly among those found; None without any."""
        steps = [max(1, edge // GRID) for edge in mask.shape[:2]]
        # A grid that starts elsewhere each time misses no thin object for good.
        top, left = (int(random.integers(step)) for step in steps)
        grid = mask[top :: steps[0], left :: steps[1]]
        counts = class_counts(grid, ignore_index)
        found = [c for c in counts if self.classes is None or c in self.classes]
        if not found:
            return None
        chosen = found[int(random.integers(len(found)))]
        of_class = grid == chosen if grid.ndim == 2 else grid[..., chosen] == 1
        place = int(np.flatnonzero(of_class)[random.integers(counts[chosen])])
        row, column = divmod(place, grid.shape[1])
        return top + row * steps[0], left + column * steps[1]


def probability(value: float, key: str) -> None:
    """Raise UserError naming `key` unless `value` is one."""
    if not 0 <= value <= 1:
        raise UserError(f"{key}={value}; allowed: 0 to 1")


def class_counts(mask: NDArray[Any], ignore_index: int) -> dict[int, int]:
    """Pixels by class id, of the classes present; multi-label masks (H, W, K) count each class by itself."""
    if mask.ndim == 3:
        counts = (mask == 1).sum(axis=(0, 1))
    elif mask.dtype == np.uint8:
        counts = cv2.calcHist([np.ascontiguousarray(mask)], [0], None, [256], [0, 256]).ravel().astype(np.int64)
    else:
        ids, numbers = np.unique(mask, return_counts=True)
        return {int(c): int(n) for c, n in zip(ids, numbers, strict=True) if c != ignore_index}
    return {int(c): int(counts[c]) for c in np.flatnonzero(counts) if mask.ndim == 3 or c != ignore_index}


def _placed(
    shape: Sequence[int], size: tuple[int, int], scale: float, point: tuple[int, int] | None, random: Generator
) -> Window:
    """A window for a crop of `size` of the image of `shape` at `scale`, over `point` if there is one."""
    row, column = point or (None, None)
    return Window(
        _placed_axis(shape[0], size[0], scale, row, random), _placed_axis(shape[1], size[1], scale, column, random)
    )


def _placed_axis(length: int, size: int, scale: float, point: int | None, random: Generator) -> Axis:
    scaled = max(1, round(length * scale))
    if scaled <= size:
        return Axis(0, length, int(random.integers(size - scaled + 1)), scaled)
    taken = min(length, max(1, round(size * length / scaled)))
    first, last = 0, length - taken
    if point is not None:
        first, last = max(first, point - taken + 1), min(last, point)
    return Axis(int(random.integers(first, last + 1)), taken, 0, size)


def _is_mixed(mask: NDArray[Any], window: Window, ignore_index: int, share: float) -> bool:
    """Whether the window has two classes or more, none of them with more than `share` of its labelled pixels."""
    rows, columns = window
    steps = [max(1, math.ceil(axis.length / GRID)) for axis in window]
    grid = mask[
        rows.start : rows.start + rows.length : steps[0],
        columns.start : columns.start + columns.length : steps[1],
    ]
    counts = class_counts(grid, ignore_index).values()
    return len(counts) > 1 and max(counts) <= share * sum(counts)
