"""BDD100K: `images/10k/{split}/` and `labels/sem_seg/masks/{split}/`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from segkit.data.datasets.image_mask import Files
from segkit.data.files.pairing import Pairs, matched


@dataclass(kw_only=True, eq=False, repr=False)
class Bdd100k(Files):
    """Driving scenes with Cityscapes' 19 classes (arXiv 1805.04687).

    The first release, `seg/images/{split}/*.jpg` and `seg/labels/{split}/*_train_id.png`, is read as well.
    """

    INSIDE: ClassVar[Sequence[str]] = ("bdd100k",)
    test_split: str | None = None

    def find(self, split: str) -> Pairs:
        if (self.base / "seg" / "images").is_dir():
            images = self.images(f"seg/images/{split}")
            return matched(self.base, images, self.keyed(f"seg/labels/{split}", ending="_train_id"))
        images = self.images(f"images/10k/{split}")
        return matched(self.base, images, self.keyed(f"labels/sem_seg/masks/{split}"))
