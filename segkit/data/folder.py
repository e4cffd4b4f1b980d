"""A data set in folders: `{root}/{split}/images` and `{root}/{split}/masks`, matched by name."""

from __future__ import annotations

from dataclasses import dataclass

from segkit.data.files import Files
from segkit.data.pairing import Pairs, matched


@dataclass(kw_only=True, eq=False, repr=False)
class Folder(Files):
    """Image and mask files of the same name, suffix aside, in two folders that may have folders inside."""

    def find(self, split: str) -> Pairs:
        self.require(self.base / split)
        return matched(self.base, self.images(f"{split}/images"), self.keyed(f"{split}/masks"))
