"""A data set of one's own: one class here, and conf/dataset/toy.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from segkit.data.datasets.image_mask import Files
from segkit.data.files.pairing import Pairs, matched


@dataclass(kw_only=True, eq=False, repr=False)
class SideBySide(Files):
    """`{split}/a.jpg` with its mask `{split}/a_truth.png`."""

    ending: str = "_truth"

    def find(self, split: str) -> Pairs:
        masks = self.keyed(split, ending=self.ending, suffixes=frozenset({".png"}))
        images = self.keyed(split, suffixes=frozenset({".jpg"}))
        return matched(self.base, images, masks)


def write_example(root: Path) -> None:
    """What the tests read: a few samples as they lie on a disk."""
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        for name in ("a", "b"):
            Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(root / split / f"{name}.jpg")
            mask = np.eye(32, dtype=np.uint8)
            Image.fromarray(mask).save(root / split / f"{name}_truth.png")
