"""The embedded data set: shapes drawn in memory, so that everything can be tried without a download."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from segkit.contracts import Sample, UserError
from segkit.data.source import Source

CLASS_NAMES = ("background", "disc", "square", "triangle", "ring", "line", "striped", "checkered")
BACKGROUND, DISC, SQUARE, TRIANGLE, RING, LINE, STRIPED, CHECKERED = range(len(CLASS_NAMES))
SPLITS = ("train", "val", "test")
BORDER = 2


class Shapes(Source):
    """Overlapping shapes on uneven ground, which no single cue tells apart.

    Colours are random, so colour gives no class. Plain discs, squares, triangles and rings differ by outline;
    anything striped or checkered is its own class whatever its outline; lines are 3 pixels wide. Later objects
    hide earlier ones, light falls unevenly, and a border of 2 pixels around every object is ignored.

    Args:
        num_train: samples of the train split.
        num_val: samples of the val split, and of the test split.
        image_size: edge of the square images in pixels.
        generator_seed: of the drawing; independent of the run's seed, so that runs share their data.
        source: the keys that every data set has, see `Source`.
    """

    def __init__(
        self,
        *,
        num_train: int = 400,
        num_val: int = 80,
        image_size: int = 96,
        generator_seed: int = 0,
        **source: Any,
    ) -> None:
        super().__init__(**source)
        if self.labels.num_classes != len(CLASS_NAMES):
            raise UserError(
                f"dataset.num_classes={self.labels.num_classes}; the shapes data set has {len(CLASS_NAMES)}"
            )
        for key, value, least in (
            ("num_train", num_train, 1),
            ("num_val", num_val, 1),
            ("image_size", image_size, 32),
            ("generator_seed", generator_seed, 0),
        ):
            if value < least:
                raise UserError(f"dataset.{key}={value}; allowed: {least} or more")
        self.num_samples = num_train if self.split == "train" else num_val
        self.image_size = image_size
        self.generator_seed = generator_seed

    def __len__(self) -> int:
        return self.num_samples

    def read(self, index: int) -> Sample:
        images, masks = self._arrays()
        return Sample(images[index], self._with_ignore_index(masks[index]), f"{self.split}/{index:04d}")

    def check(self) -> None:
        """Draw all samples now, so that worker processes forked later share them."""
        self._arrays()

    def identity(self) -> Mapping[str, str]:
        images, masks = self._arrays()
        digest = hashlib.sha256(images.tobytes())
        digest.update(masks.tobytes())
        return {
            "root": "generated",
            "split": self.split,
            "samples": str(self.num_samples),
            "digest": digest.hexdigest(),
        }

    def _arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
        return draw_split(self.generator_seed, self.split, self.num_samples, self.image_size)

    def _with_ignore_index(self, mask: NDArray[np.int16]) -> NDArray[Any]:
        return np.where(mask < 0, self.labels.ignore_index, mask).astype(self.mask_dtype)


@lru_cache(maxsize=8)
def draw_split(seed: int, split: str, num_samples: int, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
    """Images (N, size, size, 3) and masks (N, size, size) of class ids with -1 for ignored. Kept by the process."""
    images = np.empty((num_samples, size, size, 3), np.uint8)
    masks = np.empty((num_samples, size, size), np.int16)
    for index in range(num_samples):
        generator = np.random.default_rng([seed, SPLITS.index(split), index])
        images[index], masks[index] = draw_scene(generator, size)
    images.setflags(write=False)
    masks.setflags(write=False)
    return images, masks


def draw_scene(generator: Generator, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
    """One image (size, size, 3) with its mask (size, size), in painter's order."""
    ground = generator.uniform(40, 215, 3)
    canvas = ground + _mottle(generator, size, cells=6) * 30
    mask = np.zeros((size, size), np.int16)
    around = np.ones((2 * BORDER + 1, 2 * BORDER + 1), np.uint8)
    # Lines come last, or little would be left of them.
    classes = sorted(generator.integers(DISC, len(CLASS_NAMES), generator.integers(5, 8)), key=lambda id: id == LINE)
    for class_id in classes:
        region = _outline(generator, class_id, size)
        inside = region > 0
        canvas[inside] = _fill(generator, class_id, size, ground)[inside]
        mask[(cv2.dilate(region, around) > 0) & ~inside] = -1
        mask[inside] = class_id
    slope = generator.normal(0, 0.15, 2)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    light = 1 + slope[0] * y + slope[1] * x
    canvas = cv2.GaussianBlur(canvas * light[..., None], (3, 3), 0.6)
    canvas += generator.normal(0, 6, canvas.shape)
    return np.clip(canvas, 0, 255).astype(np.uint8), mask


def _outline(generator: Generator, class_id: int, size: int) -> NDArray[np.uint8]:
    """The pixels of one object (size, size), 1 inside and 0 outside. Textured objects take any plain outline."""
    region = np.zeros((size, size), np.uint8)
    shape = generator.integers(DISC, RING) if class_id in (STRIPED, CHECKERED) else class_id
    x, y = (int(place) for place in generator.uniform(0.08, 0.92, 2) * size)
    radius = int(generator.uniform(0.11, 0.22) * 96)
    angle = generator.uniform(0, 2 * math.pi)
    if shape == LINE:
        reach = generator.uniform(20, 60)
        step = (int(reach * math.cos(angle)), int(reach * math.sin(angle)))
        return cv2.line(region, (x - step[0], y - step[1]), (x + step[0], y + step[1]), 1, thickness=3)
    if shape == DISC:
        return cv2.circle(region, (x, y), radius, 1, thickness=cv2.FILLED)
    if shape == RING:
        return cv2.circle(region, (x, y), radius - 3, 1, thickness=6)
    corners = 4 if shape == SQUARE else 3
    # A triangle in the circle of a square would be much smaller.
    reach = radius * (1.15 if shape == SQUARE else 1.4)
    angles = angle + 2 * math.pi * np.arange(corners) / corners
    polygon = np.stack([x + reach * np.cos(angles), y + reach * np.sin(angles)], axis=1)
    return cv2.fillPoly(region, [polygon.round().astype(np.int32)], 1)


def _fill(generator: Generator, class_id: int, size: int, ground: NDArray[np.float64]) -> NDArray[np.float64]:
    """What one object looks like at every pixel (size, size, 3)."""
    color = _color_unlike(generator, ground)
    if class_id not in (STRIPED, CHECKERED):
        return color + _mottle(generator, size, cells=6) * 12
    angle = generator.uniform(0, math.pi)
    frequency = 2 * math.pi / generator.uniform(5, 8)
    y, x = np.mgrid[:size, :size]
    across = np.sin(frequency * (x * math.cos(angle) + y * math.sin(angle)))
    along = np.sin(frequency * (y * math.cos(angle) - x * math.sin(angle)))
    light = across > 0 if class_id == STRIPED else across * along > 0
    return np.where(light[..., None], color, _color_unlike(generator, color))


def _mottle(generator: Generator, size: int, cells: int) -> NDArray[np.float64]:
    """Smooth noise (size, size, 1) of standard deviation about 1, with `cells` bumps along an edge."""
    coarse = generator.normal(0, 1, (cells, cells))
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)[..., None]


def _color_unlike(generator: Generator, other: NDArray[np.float64]) -> NDArray[np.float64]:
    """A random colour at a distance from `other` that stays visible under uneven light."""
    while True:
        color = generator.uniform(20, 235, 3)
        if np.linalg.norm(color - other) > 90:
            return color
