"""Pictures of samples beside their augmented versions, with the classes' colours over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image

from segkit.contracts import LabelSpace, Sample
from segkit.tracking.mlflow.keys import as_drawn

DPI = 100
CELL = 260
"""Pixels of the square that one picture is fitted into."""
GAP = 8
HEADER = 28
ROW_TITLE = 20
LEGEND_ROW = 22
LEGEND_COLUMN = 170
STRIPES = ((205, 205, 205), (150, 150, 150))


@dataclass(frozen=True)
class SheetRow:
    """A sample as it is stored, and versions of it."""

    original: Sample
    versions: Sequence[Sample]


def sheet(rows: Sequence[SheetRow], labels: LabelSpace, path: Path, *, opacity: float) -> None:
    """Write one PNG: a row a sample, the original as image and as overlay, then its versions as overlays.

    Ignored pixels, such as padding, are striped. `opacity` of the colours in 0..1.
    """
    columns = 2 + max(len(row.versions) for row in rows)
    present = _present_classes(rows, labels)
    width = GAP + columns * (CELL + GAP)
    legend_columns = max(1, (width - 2 * GAP) // LEGEND_COLUMN)
    legend_height = -(-(len(present) + 1) // legend_columns) * LEGEND_ROW + 2 * GAP
    pictures = [_pictures(row, labels, opacity) for row in rows]
    heights = [max(picture.shape[0] for picture in row) for row in pictures]
    height = HEADER + sum(ROW_TITLE + tall + GAP for tall in heights) + legend_height
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    titles = ["image", "mask", *(f"augmented {number + 1}" for number in range(columns - 2))]
    for column, title in enumerate(titles):
        x = GAP + column * (CELL + GAP)
        figure.text(x / width, 1 - HEADER / 2 / height, title, va="center", fontweight="bold", fontsize=10)
    top = HEADER
    for row, drawn, tall in zip(rows, pictures, heights, strict=True):
        shape = row.original.image.shape
        title = as_drawn(f"{row.original.id}   {shape[1]}x{shape[0]}")
        figure.text(GAP / width, 1 - (top + ROW_TITLE / 2) / height, title, va="center", fontsize=9, color="0.3")
        top += ROW_TITLE
        for column, picture in enumerate(drawn):
            # Pixel for pixel, so that nothing is blurred between the array and the file.
            y = height - top - picture.shape[0]
            figure.figimage(picture, xo=GAP + column * (CELL + GAP), yo=y, origin="upper")
        top += tall + GAP
    figure.legend(
        handles=_legend(present, labels), loc="lower left", bbox_to_anchor=(0, 0), ncols=legend_columns,
        frameon=False, fontsize=9, handlelength=1.4, handleheight=1.2, columnspacing=1.5, borderaxespad=0.5,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def _pictures(row: SheetRow, labels: LabelSpace, opacity: float) -> list[NDArray[np.uint8]]:
    samples = [row.original, *row.versions]
    plain = _fitted(_as_rgb(row.original.image), Image.Resampling.BOX)
    return [plain, *[_overlay(sample, labels, opacity) for sample in samples]]


def _overlay(sample: Sample, labels: LabelSpace, opacity: float) -> NDArray[np.uint8]:
    """(h, w, 3) at the size it is shown; where classes of a multi-label mask meet, the last one is seen."""
    image = _fitted(_as_rgb(sample.image), Image.Resampling.BOX).astype(np.float32)
    ids = _class_ids(sample.mask, labels)
    rows = ((np.arange(image.shape[0]) + 0.5) * ids.shape[0] / image.shape[0]).astype(int)
    places = ((np.arange(image.shape[1]) + 0.5) * ids.shape[1] / image.shape[1]).astype(int)
    ids = ids[rows[:, None], places[None, :]]
    colors = np.array(labels.colors, np.float32)[np.where(ids >= 0, ids, 0)]
    mixed = (1 - opacity) * image + opacity * colors
    diagonal = np.add.outer(np.arange(ids.shape[0]), np.arange(ids.shape[1])) // 4 % 2
    ignored = 0.4 * image + 0.6 * np.array(STRIPES, np.float32)[diagonal]
    mixed = np.where((ids == -1)[..., None], ignored, mixed)
    mixed = np.where((ids == -2)[..., None], image, mixed)
    return mixed.round().astype(np.uint8)


def _class_ids(mask: NDArray[Any], labels: LabelSpace) -> NDArray[np.int64]:
    """(H, W): a class, -1 where ignored, -2 where no class of a multi-label mask is."""
    if not labels.multilabel:
        inside = (mask >= 0) & (mask < labels.num_classes)
        return np.where(inside, mask.astype(np.int64), -1)
    ids = np.full(mask.shape[:2], -2, np.int64)
    ids[(mask == labels.ignore_index).any(axis=2)] = -1
    for index in range(labels.num_classes):
        ids[mask[..., index] == 1] = index
    return ids


def _present_classes(rows: Sequence[SheetRow], labels: LabelSpace) -> list[int]:
    found: set[int] = set()
    for row in rows:
        for sample in (row.original, *row.versions):
            if labels.multilabel:
                found.update(np.flatnonzero((sample.mask == 1).any(axis=(0, 1))).tolist())
            else:
                found.update(np.unique(sample.mask).tolist())
    return sorted(value for value in found if 0 <= value < labels.num_classes)


def _legend(present: Sequence[int], labels: LabelSpace) -> list[Patch]:
    def patch(color: Sequence[int], label: str, **style: Any) -> Patch:
        short = label if len(label) <= 18 else f"{label[:17]}…"
        red, green, blue = (channel / 255.0 for channel in color)
        return Patch(facecolor=(red, green, blue), edgecolor="0.6", linewidth=0.5, label=as_drawn(short), **style)

    classes = [patch(labels.colors[index], labels.names[index]) for index in present]
    return [*classes, patch(STRIPES[0], "ignored", hatch="////")]


def _as_rgb(image: NDArray[Any]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8: floats stretched to their own range, one channel repeated, of many the first three."""
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        image = ((image - low) * (255.0 / max(high - low, 1e-12))).astype(np.uint8)
    channels = [0, 1, 2] if image.shape[2] >= 3 else [0, 0, 0]
    return np.ascontiguousarray(image[..., channels])


def _fitted(image: NDArray[np.uint8], shrink: Image.Resampling) -> NDArray[np.uint8]:
    """The image with its longer edge at CELL pixels."""
    scale = CELL / max(image.shape[:2])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    method = shrink if scale < 1 else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(image).resize(size, method))
