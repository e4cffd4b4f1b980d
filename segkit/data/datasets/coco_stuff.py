"""COCO-Stuff 164k: `images/{split}/` and `stuffthingmaps/{split}/` or `annotations/{split}/`."""

from __future__ import annotations

from dataclasses import dataclass

from segkit.data.datasets.image_mask import Files
from segkit.data.files.pairing import Pairs, matched


@dataclass(kw_only=True, eq=False, repr=False)
class CocoStuff(Files):
    """80 things and 91 stuffs on the images of COCO 2017 (arXiv 1612.03716).

    The `*_labelTrainIds.png` that mmsegmentation's converter writes beside the maps are left alone.
    """

    test_split: str | None = None

    def find(self, split: str) -> Pairs:
        images = self.images(f"images/{split}", split)
        masks = self.keyed(f"stuffthingmaps/{split}", f"annotations/{split}", without="_labelTrainIds")
        return matched(self.base, images, masks)
