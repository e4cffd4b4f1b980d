"""Pascal VOC 2012: `JPEGImages/`, `SegmentationClass/` and `ImageSets/Segmentation/{split}.txt`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from segkit.data.datasets.image_mask import Files
from segkit.data.files.pairing import Pairs, chosen


@dataclass(kw_only=True, eq=False, repr=False)
class Voc(Files):
    """Objects of 20 kinds (Everingham et al., IJCV 2010); masks are palette images, which count by index."""

    INSIDE: ClassVar[Sequence[str]] = ("VOCdevkit/VOC2012", "VOC2012")
    test_split: str | None = None

    def find(self, split: str) -> Pairs:
        self.require_file(self.base / f"ImageSets/Segmentation/{split}.txt")
        images, masks = self.images("JPEGImages"), self.keyed("SegmentationClass")
        names = self.listed(f"ImageSets/Segmentation/{split}.txt", images, "JPEGImages")
        return chosen(self.base, names, f"{split}.txt", images, masks)
