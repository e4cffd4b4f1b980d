"""The Semantic Boundaries Dataset: `img/`, `cls/*.mat` and `{split}.txt`."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from segkit.data.datasets.image_mask import Files
from segkit.data.files.bounded import UnusableError, read_content
from segkit.data.files.pairing import Pairs, chosen

MOST_BYTES = 2**26
"""Of a file, and of what a compressed part of it stands for: a hundred times as many as SBD's own have."""
COMPRESSED = 15  # "MAT-File Format", MathWorks, table 1-1


@dataclass(kw_only=True, eq=False, repr=False)
class Sbd(Files):
    """VOC's 20 kinds of objects on 11,355 of its images (Hariharan et al., ICCV 2011).

    SBD's own splits share images with those of VOC 2012: `dataset.train_split=train_noval`, a list that comes
    with torchvision, leaves VOC's validation images out.
    """

    INSIDE: ClassVar[Sequence[str]] = ("benchmark_RELEASE/dataset", "dataset")
    test_split: str | None = None

    def find(self, split: str) -> Pairs:
        images, masks = self.images("img"), self.keyed("cls", suffixes=frozenset({".mat"}))
        return chosen(self.base, self.listed(f"{split}.txt", images, "img"), f"{split}.txt", images, masks)

    def raw_mask(self, path: Path) -> NDArray[Any]:
        """The field GTcls.Segmentation of a MATLAB file, (H, W) uint8."""
        content = read_content(path, MOST_BYTES)
        try:
            _refuse_inflation(content)
            mask = loadmat(io.BytesIO(content), variable_names=["GTcls"])["GTcls"][0, 0]["Segmentation"]
        except Exception:  # SciPy raises whatever a damaged file makes Python raise
            raise UnusableError("not a MATLAB file with GTcls.Segmentation, or damaged or cut off") from None
        if mask.ndim != 2 or mask.dtype != np.uint8:
            raise UnusableError("masks that are no array (H, W) of 8 bits", f"{mask.dtype} {mask.shape}")
        return mask


def _refuse_inflation(content: bytes) -> None:
    """Raise ValueError for a MATLAB file with a part that decompresses to more than `MOST_BYTES`."""
    order = "<" if content[126:128] == b"IM" else ">"
    place = 128
    while place + 8 <= len(content):
        kind, length = struct.unpack_from(f"{order}II", content, place)
        place += 8 + length
        if kind == COMPRESSED:
            inflated = zlib.decompressobj().decompress(content[place - length : place], MOST_BYTES + 1)
            if len(inflated) > MOST_BYTES:
                raise ValueError("holds more than it says")
