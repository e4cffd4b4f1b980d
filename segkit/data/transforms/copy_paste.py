"""Objects of another sample pasted onto a crop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from segkit.contracts import ReadingTransform, Sample, SampleSource, Transform, UserError
from segkit.data.transforms.apply import augmented
from segkit.data.transforms.crop_window import class_counts, probability


class CopyPaste:
    """Crops by `base`, onto some of which objects of another sample are pasted; a `contracts.ReadingTransform`.

    The other sample is drawn evenly from the whole split and goes through `base` as well, so that both are
    scaled, placed and coloured by themselves (Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation
    Method for Instance Segmentation", CVPR 2021, section 3). An object is a connected part of one class in its
    mask; each is pasted with probability `object_p`, pixel by pixel and unsmoothed, which the paper found to do
    as well as blending. Partner and objects follow from the seed and the number of the sample.

    Args:
        base: what makes a crop of each of the two samples; all crops have one size.
        ignore_index: ids that are never pasted.
        p: share of samples that something is pasted onto.
        classes: ids of the classes whose objects are pasted; None: all. Name the rare things, not sky and road.
        object_p: probability of each object to be pasted.
        min_pixels: smaller objects are left out.
    """

    def __init__(
        self,
        base: Transform | ReadingTransform,
        ignore_index: int,
        *,
        p: float = 0.5,
        classes: Sequence[int] | None = None,
        object_p: float = 0.5,
        min_pixels: int = 16,
    ) -> None:
        probability(p, "transform.p")
        probability(object_p, "transform.object_p")
        if min_pixels < 1:
            raise UserError(f"transform.min_pixels={min_pixels}; allowed: 1 or more")
        self.base = base
        self.ignore_index = ignore_index
        self.p = p
        self.classes = None if classes is None else tuple(classes)
        self.object_p = object_p
        self.min_pixels = min_pixels

    def read(self, source: SampleSource, index: int, seed: int) -> Sample:
        """Sample number `index` as a crop, perhaps with objects of another. Raises DataError of either."""
        crop = augmented(self.base, source, index, seed)
        random = np.random.default_rng([seed, index, 1])
        if random.random() >= self.p:
            return crop
        partner = int(random.integers(len(source)))
        other = augmented(self.base, source, partner, int(random.integers(2**32)))
        if other.image.shape != crop.image.shape or other.image.dtype != crop.image.dtype:
            raise UserError(
                f"transform.base made crops of different kinds: {crop.id} {crop.image.dtype} {crop.image.shape}, "
                f"{other.id} {other.image.dtype} {other.image.shape}; pasting needs one size and type"
            )
        pasted = self._objects(other.mask, random)
        # Copies: a base that changes nothing gives the very arrays of the source.
        image, mask = crop.image.copy(), crop.mask.copy()
        image[pasted] = other.image[pasted]
        mask[pasted] = other.mask[pasted]
        return Sample(image, mask, crop.id)

    def _objects(self, mask: NDArray[Any], random: Generator) -> NDArray[np.bool_]:
        """Which pixels (H, W) of `mask` belong to an object that is pasted."""
        pasted = np.zeros(mask.shape[:2], np.bool_)
        for class_id in class_counts(mask, self.ignore_index):
            if self.classes is not None and class_id not in self.classes:
                continue
            of_class = mask == class_id if mask.ndim == 2 else mask[..., class_id] == 1
            number, parts, measures, _ = cv2.connectedComponentsWithStats(of_class.astype(np.uint8))
            chosen = random.random(number) < self.object_p
            chosen &= measures[:, cv2.CC_STAT_AREA] >= self.min_pixels
            chosen[0] = False  # what is not of the class
            pasted |= chosen[parts]
        return pasted
