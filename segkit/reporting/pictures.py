"""What pictures of samples have in common: images as RGB, stripes where pixels are ignored, a legend of the classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from segkit.contracts import LabelSpace
from segkit.tracking.mlflow.keys import as_drawn

DPI = 100
GAP = 8
LEGEND_ROW = 22
LEGEND_COLUMN = 170
LONGEST_NAME = 18
STRIPES = ((205, 205, 205), (170, 170, 170))


def as_rgb(image: NDArray[Any]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8: floats stretched to their own range, one channel repeated, of many the first three."""
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        image = ((image - low) * (255.0 / max(high - low, 1e-12))).astype(np.uint8)
    channels = [0, 1, 2] if image.shape[2] >= 3 else [0, 0, 0]
    return np.ascontiguousarray(image[..., channels])


def nearest(mask: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """A mask ([K,] H, W) at `size` (h, w), by the pixels whose centres are nearest."""
    rows = ((np.arange(size[0]) + 0.5) * mask.shape[-2] / size[0]).astype(int)
    columns = ((np.arange(size[1]) + 0.5) * mask.shape[-1] / size[1]).astype(int)
    return mask[..., rows[:, None], columns[None, :]]


def stripes(size: tuple[int, int]) -> NDArray[np.uint8]:
    """(h, w, 3): two greys in diagonals, which no class has."""
    diagonal = np.add.outer(np.arange(size[0]), np.arange(size[1])) // 4 % 2
    return np.array(STRIPES, dtype=np.uint8)[diagonal]


def present_classes(masks: Iterable[NDArray[Any]], labels: LabelSpace) -> list[int]:
    """The classes that occur in masks of ids (H, W), or in multi-label ones (K, H, W)."""
    found: set[int] = set()
    for mask in masks:
        found |= set((np.flatnonzero((mask == 1).any(axis=(1, 2))) if mask.ndim == 3 else np.unique(mask)).tolist())
    return sorted(value for value in found if 0 <= value < labels.num_classes)


class Legend:
    """The classes that occur, what is ignored, and `extra` colours by name, in rows below the pictures.

    Attributes:
        height: pixels that it takes of a figure of `width` pixels.
    """

    def __init__(
        self,
        present: Sequence[int],
        labels: LabelSpace,
        width: int,
        extra: Sequence[tuple[str, Sequence[int]]] = (),
    ) -> None:
        self._handles = [
            *(_patch(labels.colors[index], labels.names[index]) for index in present),
            _patch(STRIPES[0], "ignored", hatch="////"),
            *(_patch(color, name) for name, color in extra),
        ]
        self._columns = max(1, (width - 2 * GAP) // LEGEND_COLUMN)
        self.height = -(-len(self._handles) // self._columns) * LEGEND_ROW + 2 * GAP

    def draw(self, figure: Figure) -> None:
        figure.legend(
            handles=self._handles, loc="lower left", bbox_to_anchor=(0, 0), ncols=self._columns,
            frameon=False, fontsize=9, handlelength=1.4, handleheight=1.2, columnspacing=1.5, borderaxespad=0.5,
        )  # fmt: skip


def _patch(color: Sequence[int], label: str, **style: Any) -> Patch:
    short = label if len(label) <= LONGEST_NAME else f"{label[: LONGEST_NAME - 1]}…"
    red, green, blue = (channel / 255.0 for channel in color)
    return Patch(facecolor=(red, green, blue), edgecolor="0.6", linewidth=0.5, label=as_drawn(short), **style)
