"""The embedded data set: shapes drawn in memory, so that everything can be tried without a download."""

from __future__ import annotations

import colorsys
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from segkit.contracts import Sample, UserError
from segkit.data.datasets.source import Source

CLASS_NAMES = ("background", "disc", "square", "triangle", "ring", "line", "striped")
BACKGROUND, DISC, SQUARE, TRIANGLE, RING, LINE, STRIPED = range(len(CLASS_NAMES))
SPLITS = ("train", "val", "test")
BORDER = 2
LINE_WIDTH = 3
# Around the colour circle: the hues of a class reach three quarters of the way to its neighbours' own, so that
# half of all hues occur in two classes, and neighbours differ by more than the shape of their outline.
HUE_REACH = 0.75
HUE_ORDER = (DISC, LINE, SQUARE, STRIPED, TRIANGLE, RING)


@dataclass(kw_only=True, eq=False, repr=False)
class Shapes(Source):
    """Overlapping shapes on uneven ground, which no single cue tells apart.

    Every colour occurs in two classes, so colour helps but never decides. Plain discs, squares, triangles and
    rings differ by outline; what is striped is its own class whatever its outline; lines are 3 pixels wide.
    Later objects hide earlier ones, light falls unevenly, and a border of 2 pixels around every object is
    ignored. A DeepLabV3+ on ResNet-18 learns it from scratch on a processor.

    Args, besides those of `Source`:
        num_train: samples of the train split.
        num_val: samples of the val split, and of the test split.
        image_size: edge of the square images in pixels.
        generator_seed: of the drawing; independent of the run's seed, so that runs share their data.
    """

    num_train: int = 400
    num_val: int = 80
    image_size: int = 64
    generator_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_classes != len(CLASS_NAMES):
            raise UserError(f"dataset.num_classes={self.num_classes}; the shapes data set has {len(CLASS_NAMES)}")
        for key, least in (("num_train", 1), ("num_val", 1), ("image_size", 32), ("generator_seed", 0)):
            if getattr(self, key) < least:
                raise UserError(f"dataset.{key}={getattr(self, key)}; allowed: {least} or more")

    def __len__(self) -> int:
        return self.num_train if self.split == "train" else self.num_val

    def name(self, index: int) -> str:
        return f"{self.split}/{index:04d}"

    def read(self, index: int) -> Sample:
        images, masks = self._arrays()
        return Sample(images[index].copy(), self._with_ignore_index(masks[index]), self.name(index))

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
            "samples": str(len(self)),
            "digest": digest.hexdigest(),
        }

    def _arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
        return draw_split(self.generator_seed, self.split, len(self), self.image_size)

    def _with_ignore_index(self, mask: NDArray[np.int16]) -> NDArray[Any]:
        return np.where(mask < 0, self.ignore_index, mask).astype(self.mask_dtype)


@lru_cache(maxsize=8)
def draw_split(seed: int, split: str, num_samples: int, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
    """Images (N, size, size, 3) and masks (N, size, size), -1 where ignored. Drawn once in a process."""
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
    canvas = generator.uniform(60, 180) + 25 * _mottle(generator, size, channels=3)
    mask = np.zeros((size, size), np.int16)
    around = np.ones((2 * BORDER + 1, 2 * BORDER + 1), np.uint8)
    # Lines come last, or little would be left of them.
    classes = sorted(generator.integers(DISC, len(CLASS_NAMES), generator.integers(4, 7)), key=lambda id: id == LINE)
    for class_id in classes:
        region = _outline(generator, class_id, size)
        inside = np.nonzero(region)
        # What is left of an object that is mostly hidden tells nobody its class.
        if class_id != LINE and np.count_nonzero(mask[inside]) > 0.3 * len(inside[0]):
            continue
        mask[cv2.dilate(region, around) > 0] = -1
        mask[inside] = class_id
        color = _color(generator, class_id)
        if class_id == STRIPED:
            color = np.where(_stripes(generator, *inside)[:, None], color, 0.4 * color)
        canvas[inside] = color + 10 * _mottle(generator, size, channels=1)[inside]
    slope = generator.normal(0, 0.15, 2)
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    canvas *= (1 + slope[0] * ramp[:, None] + slope[1] * ramp)[..., None]
    canvas = cv2.GaussianBlur(canvas, (3, 3), 0.6)
    canvas += 6 * generator.standard_normal(canvas.shape, np.float32)
    return canvas.clip(0, 255).astype(np.uint8), mask


def _outline(generator: Generator, class_id: int, size: int) -> NDArray[np.uint8]:
    """The pixels (size, size) of one object, 1 inside and 0 outside. A textured one has any outline."""
    region = np.zeros((size, size), np.uint8)
    shape = generator.integers(DISC, RING) if class_id == STRIPED else class_id
    x, y = (int(place) for place in generator.uniform(0.1, 0.9, 2) * size)
    radius = int(generator.uniform(11, 17))
    if shape == LINE:
        angle, reach = generator.uniform(0, math.pi), generator.uniform(15, 40)
        step = (int(reach * math.cos(angle)), int(reach * math.sin(angle)))
        cv2.line(region, (x - step[0], y - step[1]), (x + step[0], y + step[1]), 1, thickness=LINE_WIDTH)
    elif shape == DISC:
        cv2.circle(region, (x, y), radius, 1, thickness=cv2.FILLED)
    elif shape == RING:
        cv2.circle(region, (x, y), radius - 2, 1, thickness=4)
    else:
        corners, reach = (4, 1.15 * radius) if shape == SQUARE else (3, 1.5 * radius)
        # Squares stand on a side and triangles point up, both to within 20 degrees.
        first = math.pi / 4 if shape == SQUARE else -math.pi / 2
        angles = first + generator.uniform(-0.35, 0.35) + 2 * math.pi * np.arange(corners) / corners
        polygon = np.stack([x + reach * np.cos(angles), y + reach * np.sin(angles)], axis=1)
        cv2.fillPoly(region, [polygon.round().astype(np.int32)], 1)
    return region


def _stripes(generator: Generator, rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of the pixels at `rows` and `columns` (N,) lie on the stripes of a pattern at a random angle."""
    angle = generator.uniform(0, math.pi)
    period = generator.uniform(5, 8)
    return np.sin(2 * math.pi / period * (columns * math.cos(angle) + rows * math.sin(angle))) > 0


def _mottle(generator: Generator, size: int, channels: int) -> NDArray[np.float32]:
    """Smooth noise (size, size, channels) with a standard deviation of about 1 and 6 bumps along an edge."""
    coarse = generator.standard_normal((6, 6, channels), np.float32)
    smooth = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    return smooth.reshape(size, size, channels)


def _color(generator: Generator, class_id: int) -> NDArray[np.float32]:
    """A random strong colour (3,) in 0..255; two thirds of a class's hues belong to a neighbour too."""
    hue = (HUE_ORDER.index(class_id) + generator.uniform(-HUE_REACH, HUE_REACH)) / len(HUE_ORDER)
    saturation, value = generator.uniform((0.6, 0.6), (1, 1))
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value), np.float32)
