"""The range of values that steps on colours work in, for images that have one of their own.

Steps, ours and those of Albumentations, take floating-point images to lie in 0..1 and to fill most of it. Images in
Hounsfield units, reflectance or counts of 12 of 16 bits do not: they would be clipped, or drowned in noise.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class ValueRange(NamedTuple):
    """What 0 and 1 stand for while the colours of an image are changed: a value for each channel (C)."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    least: NDArray[np.float32]
    """The smallest value of the image itself."""

    @classmethod
    def of(cls, image: NDArray[Any]) -> ValueRange | None:
        """That of an image (H, W, C), the same whatever its units; None for one that steps may take as it is.

        None for 8 bits, and for floating-point images that lie in 0..1 and fill at least half of it. For others a
        range twice as wide as their own, around it, so that what becomes brighter has some room; but not beyond 0
        for images without negative values, nor beyond 1 for those in 0..1. Three channels are colours and share
        one range; the channels of other images may have units each of its own.
        """
        if image.dtype == np.uint8 or not image.size:
            return None
        axes = (0, 1, 2) if image.shape[2] == 3 else (0, 1)
        least, most = (
            np.broadcast_to(extreme(image, axis=axes).astype(np.float32), image.shape[2:])
            for extreme in (np.min, np.max)
        )
        usual = (least >= 0) & (most <= 1) & (most - least >= 0.5)
        if usual.all():
            return None
        margin = (most - least) / 2
        low = np.where(least >= 0, np.maximum(least - margin, 0), least - margin)
        high = np.where((least >= 0) & (most <= 1), np.minimum(most + margin, 1), most + margin)
        low, high = np.where(usual, 0, low), np.where(usual, 1, high)
        return cls(low.astype(np.float32), high.astype(np.float32), least)

    def to_unit(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """`image` with this range spread over 0..1; what lies beyond it is clipped."""
        width = self.high - self.low
        return np.clip((image - self.low) / np.where(width > 0, width, 1).astype(np.float32), 0, 1)

    def from_unit(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """What `to_unit` did undone. A channel of one value has that value still, whatever became of it."""
        return image * (self.high - self.low) + self.low
