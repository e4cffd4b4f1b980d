"""Mapillary Vistas: `{split}/images/` and `{split}/v1.2/labels/` or `{split}/v2.0/labels/`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from segkit.contracts import UserError
from segkit.data.datasets.image_mask import Files
from segkit.data.files.pairing import Pairs, matched

LABELS = {"v1.2": 66, "v2.0": 124}


@dataclass(kw_only=True, eq=False, repr=False)
class Mapillary(Files):
    """Street scenes from all over the world (Neuhold et al., ICCV 2017), with the labels of either version.

    Masks are the palette images of labels, which count by index.

    Args, besides those of `Files`:
        version: of the labels; those of v1.2 may also lie in `{split}/labels/`, as they were first released.

    Raises UserError when `class_mapping` does not say what becomes of each label of the version.
    """

    train_split: str | None = "training"
    val_split: str | None = "validation"
    test_split: str | None = None
    version: Literal["v1.2", "v2.0"]

    def find(self, split: str) -> Pairs:
        labels = LABELS[self.version]
        if self.class_mapping is None or sorted(self.class_mapping) != list(range(labels)):
            raise UserError(
                f"dataset.version={self.version} has the labels 0..{labels - 1}, and dataset.class_mapping maps "
                f"{len(self.class_mapping or ())} ids; allowed: dataset=mapillary for v1.2, mapillary_v2 for v2.0"
            )
        places = [f"{split}/{self.version}/labels", *[f"{split}/labels"] * (self.version == "v1.2")]
        return matched(self.base, self.images(f"{split}/images"), self.keyed(*places))
