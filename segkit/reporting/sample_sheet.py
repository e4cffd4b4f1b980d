"""Pictures of samples beside their augmented versions, with the classes' colours over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from segkit.contracts import LabelSpace, Sample
from segkit.reporting.pictures import DPI, GAP, Legend, as_rgb, nearest, present_classes, stripes
from segkit.tracking.mlflow.keys import as_drawn

CELL = 260
"""Pixels of the square that one picture is fitted into."""
HEADER = 28
ROW_TITLE = 20


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
    width = GAP + columns * (CELL + GAP)
    masks = (_channels_first(sample.mask) for row in rows for sample in (row.original, *row.versions))
    legend = Legend(present_classes(masks, labels), labels, width)
    pictures = [_pictures(row, labels, opacity) for row in rows]
    heights = [max(picture.shape[0] for picture in row) for row in pictures]
    height = HEADER + sum(ROW_TITLE + tall + GAP for tall in heights) + legend.height
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
    legend.draw(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def _pictures(row: SheetRow, labels: LabelSpace, opacity: float) -> list[NDArray[np.uint8]]:
    samples = [row.original, *row.versions]
    plain = _fitted(as_rgb(row.original.image), Image.Resampling.BOX)
    return [plain, *[_overlay(sample, labels, opacity) for sample in samples]]


def _overlay(sample: Sample, labels: LabelSpace, opacity: float) -> NDArray[np.uint8]:
    """(h, w, 3) at the size it is shown; where classes of a multi-label mask meet, the last one is seen."""
    image = _fitted(as_rgb(sample.image), Image.Resampling.BOX).astype(np.float32)
    size = image.shape[0], image.shape[1]
    ids = nearest(_class_ids(sample.mask, labels), size)
    colors = np.array(labels.colors, np.float32)[np.where(ids >= 0, ids, 0)]
    mixed = (1 - opacity) * image + opacity * colors
    ignored = 0.4 * image + 0.6 * stripes(size)
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


def _channels_first(mask: NDArray[Any]) -> NDArray[Any]:
    return np.moveaxis(mask, -1, 0) if mask.ndim == 3 else mask


def _fitted(image: NDArray[np.uint8], shrink: Image.Resampling) -> NDArray[np.uint8]:
    """The image with its longer edge at CELL pixels."""
    scale = CELL / max(image.shape[:2])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    method = shrink if scale < 1 else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(image).resize(size, method))
