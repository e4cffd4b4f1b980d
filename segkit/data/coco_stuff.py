"""COCO-Stuff 164k: `images/{split}/` and `stuffthingmaps/{split}/` or `annotations/{split}/`."""

from __future__ import annotations

from dataclasses import dataclass

from segkit.data.files import Files
from segkit.data.pairing import Pairs, matched


@dataclass(kw_only=True, eq=False, repr=False)
class CocoStuff(Files):
    """80 things and 91 stuffs on the images of COCO 2017 (arXiv 1612.03716)."""

    test_split: str | None = None

    def find(self, split: str) -> Pairs:
        images = self.images(f"images/{split}", split)
        return matched(self.base, images, self.keyed(f"stuffthingmaps/{split}", f"annotations/{split}"))
