"""The ids that mask files hold to the class ids that the rest of segkit sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.contracts import LabelSpace, UserError
from segkit.data.files.bounded import UnusableError

NO_CLASS = np.iinfo(np.int32).min


class LabelMap:
    """Raw ids 0..65535 to class ids or the ignore index; any raw id without a place is an error.

    Without a mapping, raw ids are class ids. With one, every raw id must stand in it. The ignore index itself
    stays ignored unless the mapping says otherwise. In a multi-label space the ids are 0 and 1 in each
    class's channel.

    Args:
        labels: the class ids allowed.
        mapping: raw id to class id or ignore index; None: raw ids are class ids.
        dtype: of the masks it makes.
    """

    def __init__(self, labels: LabelSpace, mapping: Mapping[int, int] | None, dtype: type[np.integer[Any]]) -> None:
        num_ids = 2 if labels.multilabel else labels.num_classes
        if mapping is None:
            mapping = {index: index for index in range(num_ids)}
        for raw, target in mapping.items():
            if not 0 <= raw <= 65535:
                raise UserError(f"dataset.class_mapping maps from {raw}; masks hold ids in 0..65535")
            if not (0 <= target < num_ids or target == labels.ignore_index):
                raise UserError(
                    f"dataset.class_mapping maps {raw} to {target}; allowed: 0..{num_ids - 1} "
                    f"and the ignore index {labels.ignore_index}"
                )
        self.table = np.full(65536, NO_CLASS, np.int32)
        if 0 <= labels.ignore_index <= 65535:
            self.table[labels.ignore_index] = labels.ignore_index
        self.table[list(mapping)] = list(mapping.values())
        self.dtype = dtype
        # For masks of 8 bits OpenCV looks up thirty times as fast as NumPy.
        self._small_table = self.table[:256].astype(np.uint8)
        self._is_unknown = (self.table[:256] == NO_CLASS).astype(np.uint8)

    def __call__(self, raw: NDArray[Any]) -> NDArray[Any]:
        """Class ids for raw ids of any shape. Raises UnusableError naming those without a place."""
        if raw.dtype == self.dtype == np.uint8 and raw.size:
            if cv2.LUT(raw, self._is_unknown).any():
                self._refuse(raw)
            return np.asarray(cv2.LUT(raw, self._small_table), np.uint8).reshape(raw.shape)
        mask = self.table[raw]
        if mask.size and mask.min() == NO_CLASS:
            self._refuse(raw)
        return mask.astype(self.dtype)

    def _refuse(self, raw: NDArray[Any]) -> NoReturn:
        unknown = np.unique(raw[self.table[raw] == NO_CLASS]).tolist()
        raise UnusableError(f"has ids {listed(unknown)}; allowed: {self.allowed}")

    def is_known(self, raw_ids: NDArray[Any]) -> NDArray[np.bool_]:
        """Which of the raw ids, of any shape, have a place."""
        return self.table[raw_ids] != NO_CLASS

    @property
    def allowed(self) -> str:
        """The raw ids with a place, for people to read."""
        ids = np.flatnonzero(self.table != NO_CLASS)
        runs = np.split(ids, np.flatnonzero(np.diff(ids) > 1) + 1)
        return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs)


def listed(ids: list[int], limit: int = 10) -> str:
    """Ids separated by commas, the first `limit` of them."""
    shown = ", ".join(map(str, ids[:limit]))
    return shown if len(ids) <= limit else f"{shown} and {len(ids) - limit} more"


class ColorMap:
    """Colours 0xRRGGBB to class ids or the ignore index; any other colour is an error.

    Args:
        labels: the classes with their colours, each with a colour of its own.
        ignore_colors: colours of pixels to ignore.
    """

    def __init__(self, labels: LabelSpace, ignore_colors: Sequence[tuple[int, int, int]]) -> None:
        colors = [*labels.colors, *ignore_colors]
        codes = np.array([red << 16 | green << 8 | blue for red, green, blue in colors], np.int32)
        order = np.argsort(codes)
        self.codes = codes[order]
        twice = np.flatnonzero(np.diff(self.codes) == 0)
        if len(twice):
            raise UserError(
                f"dataset.colors: {_rgb(int(self.codes[twice[0]]))} stands for two classes; "
                "with dataset.mask_format=colors each class needs its own, and dataset.ignore_colors others"
            )
        ids = [*range(labels.num_classes), *[labels.ignore_index] * len(ignore_colors)]
        self.ids = np.array(ids, np.int32)[order]

    def __call__(self, colors: NDArray[np.int32]) -> NDArray[np.int32]:
        """Class ids for colours of any shape. Raises UnusableError naming those without a class."""
        places = np.searchsorted(self.codes, colors).clip(max=len(self.codes) - 1)
        unknown = self.codes[places] != colors
        if unknown.any():
            found, counts = np.unique(colors[unknown], return_counts=True)
            most = np.argsort(-counts, kind="stable")[:3]
            shown = ", ".join(f"{_rgb(int(found[place]))} in {counts[place]} pixels" for place in most)
            more = f" and {len(found) - len(most)} other colours" if len(found) > len(most) else ""
            raise UnusableError("masks with colours that are no class's", shown + more)
        return self.ids[places]


def _rgb(code: int) -> str:
    return f"[{code >> 16}, {code >> 8 & 255}, {code & 255}]"
