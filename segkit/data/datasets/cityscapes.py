"""Cityscapes: `leftImg8bit/{split}/{city}/` and `gtFine/{split}/{city}/`."""

from __future__ import annotations

from dataclasses import dataclass

from segkit.data.datasets.image_mask import Files
from segkit.data.files.pairing import Pairs, matched


@dataclass(kw_only=True, eq=False, repr=False)
class Cityscapes(Files):
    """Street scenes of 2048x1024 with fine annotations (arXiv 1604.01685).

    Masks are the `*_gtFine_labelIds.png` files with the 34 ids of cityscapesScripts, which need no preparation.
    """

    test_split: str | None = None

    def find(self, split: str) -> Pairs:
        images = self.images(f"leftImg8bit/{split}", ending="_leftImg8bit")
        return matched(self.base, images, self.keyed(f"gtFine/{split}", ending="_gtFine_labelIds"))
