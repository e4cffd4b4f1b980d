"""Pictures of image, truth, prediction and errors side by side, to judge a model with one's own eyes."""

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

from segkit.contracts import LabelSpace
from segkit.tracking.mlflow.keys import as_drawn

DPI = 100
CELL = 400
"""Pixels along the longer side of one picture."""
GAP = 8
ROW_TITLE = 24
HEADER = 30
LEGEND_ROW = 22
LEGEND_COLUMN = 170

ERROR = (222, 40, 40)
STRIPES = ((205, 205, 205), (170, 170, 170))
COLUMNS = ("image", "truth", "prediction", "errors")


@dataclass(frozen=True)
class PanelRow:
    """One sample: image (H, W, C) uint8 or float, truth and prediction, and its id.

    These two are class ids (H, W), or multi-label (K, H, W) of 0 and 1, where several classes show as the mean
    of their colours and a pixel counts as wrong if one class is.
    """

    image: NDArray[Any]
    truth: NDArray[Any]
    prediction: NDArray[Any]
    id: str


def panel(rows: Sequence[PanelRow], labels: LabelSpace, path: Path) -> None:
    """Write one picture: a row a sample, and a legend of the classes that occur. Ignored pixels are striped.

    Large images are shrunk, masks by their nearest pixel; the share of right pixels over each row is that of
    the full size.
    """
    cells = [_cells(row, labels) for row in rows]
    present = _present_classes(rows, labels)
    width = GAP + 4 * (max(pictures[0].shape[1] for pictures in cells) + GAP)
    legend_columns = max(1, (width - 2 * GAP) // LEGEND_COLUMN)
    legend_rows = -(-(len(present) + 2) // legend_columns)
    legend_height = legend_rows * LEGEND_ROW + 2 * GAP
    height = HEADER + sum(ROW_TITLE + pictures[0].shape[0] + GAP for pictures in cells) + legend_height
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    column_width = (width - GAP) // 4
    for column, title in enumerate(COLUMNS):
        _write(figure, title, GAP + column * column_width, HEADER // 2, fontweight="bold", fontsize=11)
    top = HEADER
    for row, pictures in zip(rows, cells, strict=True):
        _write(figure, as_drawn(_title(row, labels)), GAP, top + ROW_TITLE // 2, fontsize=9, color="0.3")
        top += ROW_TITLE
        for column, picture in enumerate(pictures):
            # Pixel for pixel, so that nothing is blurred between the array and the file.
            y = height - top - picture.shape[0]
            figure.figimage(picture, xo=GAP + column * column_width, yo=y, origin="upper")
        top += pictures[0].shape[0] + GAP
    figure.legend(
        handles=_legend(present, labels), loc="lower left", bbox_to_anchor=(0, 0), ncols=legend_columns,
        frameon=False, fontsize=9, handlelength=1.4, handleheight=1.2, columnspacing=1.5, borderaxespad=0.5,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _write(figure: Figure, text: str, x: int, y_from_top: int, **style: Any) -> None:
    width, height = figure.get_size_inches() * DPI
    figure.text(x / width, 1 - y_from_top / height, text, va="center", **style)


def _title(row: PanelRow, labels: LabelSpace) -> str:
    wrong, ignored = _judged(row.truth, row.prediction, labels)
    if ignored.all():
        return f"{row.id}   (no labelled pixel)"
    return f"{row.id}   {1 - wrong[~ignored].mean():.1%} of labelled pixels right"


def _judged(
    truth: NDArray[Any], prediction: NDArray[Any], labels: LabelSpace
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which pixels (H, W) are wrong, and which are ignored; of layers, those wrong in one and ignored in all."""
    ignored = truth == labels.ignore_index
    wrong = (truth != prediction) & ~ignored
    return (wrong.any(axis=0), ignored.all(axis=0)) if truth.ndim == 3 else (wrong, ignored)


def _present_classes(rows: Sequence[PanelRow], labels: LabelSpace) -> list[int]:
    found: set[int] = set()
    for mask in (mask for row in rows for mask in (row.truth, row.prediction)):
        found |= set((np.flatnonzero((mask == 1).any(axis=(1, 2))) if mask.ndim == 3 else np.unique(mask)).tolist())
    return sorted(value for value in found if 0 <= value < labels.num_classes)


def _legend(present: Sequence[int], labels: LabelSpace) -> list[Patch]:
    def patch(color: Sequence[int], label: str, **style: Any) -> Patch:
        short = label if len(label) <= 18 else f"{label[:17]}…"
        red, green, blue = (channel / 255.0 for channel in color)
        return Patch(facecolor=(red, green, blue), edgecolor="0.6", linewidth=0.5, label=as_drawn(short), **style)

    classes = [patch(labels.colors[index], labels.names[index]) for index in present]
    return [*classes, patch(STRIPES[0], "ignored", hatch="////"), patch(ERROR, "wrong")]


def _cells(row: PanelRow, labels: LabelSpace) -> list[NDArray[np.uint8]]:
    """The four pictures (h, w, 3) of one sample at the size they are shown."""
    height, width = row.truth.shape[-2:]
    scale = CELL / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    image = np.asarray(
        Image.fromarray(_as_rgb(row.image)).resize(
            (size[1], size[0]), Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST
        )
    )
    truth, prediction = _nearest(row.truth, size), _nearest(row.prediction, size)
    wrong, ignored = _judged(truth, prediction, labels)
    errors = np.repeat((110 + 0.5 * image.mean(axis=2, keepdims=True)).astype(np.uint8), 3, axis=2)
    errors[wrong] = ERROR
    stripes = _stripes(size)
    errors[ignored] = stripes[ignored]
    return [image, _colored(truth, labels, stripes), _colored(prediction, labels, stripes), errors]


def _as_rgb(image: NDArray[Any]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8: floats stretched to their own range, one channel repeated, of many the first three."""
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        image = ((image - low) * (255.0 / max(high - low, 1e-12))).astype(np.uint8)
    channels = [0, 1, 2] if image.shape[2] >= 3 else [0, 0, 0]
    return np.ascontiguousarray(image[..., channels])


def _nearest(mask: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    rows = ((np.arange(size[0]) + 0.5) * mask.shape[-2] / size[0]).astype(int)
    columns = ((np.arange(size[1]) + 0.5) * mask.shape[-1] / size[1]).astype(int)
    return mask[..., rows[:, None], columns[None, :]]


def _colored(mask: NDArray[Any], labels: LabelSpace, stripes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Class colours; stripes where the id is that of no class, and white where no class is."""
    palette = np.array(labels.colors, dtype=np.uint8)
    if mask.ndim == 3:
        present = np.moveaxis(mask == 1, 0, -1)
        number = present.sum(axis=-1)[..., None]
        mixed = np.where(number > 0, present @ palette.astype(np.float64) / number.clip(min=1), 255)
        return np.where((mask == labels.ignore_index).all(axis=0)[..., None], stripes, mixed.astype(np.uint8))
    is_class = (mask >= 0) & (mask < labels.num_classes)
    return np.where(is_class[..., None], palette[np.where(is_class, mask, 0)], stripes)


def _stripes(size: tuple[int, int]) -> NDArray[np.uint8]:
    diagonal = np.add.outer(np.arange(size[0]), np.arange(size[1])) // 4 % 2
    return np.array(STRIPES, dtype=np.uint8)[diagonal]
