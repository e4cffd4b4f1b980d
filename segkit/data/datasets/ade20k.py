"""ADE20K as SceneParse150 has it: `images/{split}/` and `annotations/{split}/`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from segkit.data.datasets.image_mask import Files
from segkit.data.files.pairing import Pairs, matched


@dataclass(kw_only=True, eq=False, repr=False)
class Ade20k(Files):
    """The 150 classes of the MIT scene parsing benchmark (arXiv 1608.05442)."""

    INSIDE: ClassVar[Sequence[str]] = ("ADEChallengeData2016",)
    test_split: str | None = None

    def find(self, split: str) -> Pairs:
        return matched(self.base, self.images(f"images/{split}"), self.keyed(f"annotations/{split}"))
