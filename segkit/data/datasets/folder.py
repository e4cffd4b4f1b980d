"""A data set in folders: `{root}/{split}/images` and `{root}/{split}/masks`, matched by name."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from segkit.contracts import UserError
from segkit.data.datasets.image_mask import Files
from segkit.data.files.pairing import Pairs, matched


@dataclass(kw_only=True, eq=False, repr=False)
class Folder(Files):
    """Image and mask files of the same name, suffix aside, in two folders that may have folders inside."""

    def find(self, split: str) -> Pairs:
        if not (self.base / split).is_dir() and (self.base / "images").is_dir():
            raise UserError(
                f"dataset.root={self.root}: there is no folder {self.base / split}; images/ lies in the root itself, "
                "without folders of splits.\nThis makes a data set of it, with a validation split, and prints how to "
                f"use it:\n  python scripts/init_dataset.py {shlex.quote(self.root)}"
            )
        self.require(self.base / split)
        return matched(self.base, self.images(f"{split}/images"), self.keyed(f"{split}/masks"))
