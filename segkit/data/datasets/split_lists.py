"""One folder of images, one of masks, and lists of names: `images/`, `masks/` and `splits/{split}.txt`."""

from __future__ import annotations

from dataclasses import dataclass

from segkit.data.datasets.image_mask import Files
from segkit.data.files.pairing import Pairs, chosen


@dataclass(kw_only=True, eq=False, repr=False)
class SplitLists(Files):
    """Splits are lists with one name a line, relative to the two folders or the root, with or without a suffix.

    Args, besides those of `Files`:
        images_dir: the folder of the images, below the root.
        masks_dir: the folder of the masks.
        splits_dir: the folder of the lists.
    """

    images_dir: str = "images"
    masks_dir: str = "masks"
    splits_dir: str = "splits"

    def find(self, split: str) -> Pairs:
        listing = f"{self.splits_dir}/{split}.txt"
        self.require_file(self.base / listing)
        images, masks = self.images(self.images_dir), self.keyed(self.masks_dir)
        names = self.listed(listing, images, self.images_dir, self.masks_dir)
        return chosen(self.base, names, listing, images, masks)
