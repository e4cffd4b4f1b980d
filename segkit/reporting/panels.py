"""Pictures of image, truth, prediction and errors side by side, to judge a model with one's own eyes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from segkit.contracts import LabelSpace
from segkit.reporting.pictures import DPI, GAP, Legend, as_rgb, nearest, present_classes, stripes
from segkit.tracking.mlflow.keys import as_drawn

CELL = 400
"""Pixels along the longer side of one picture."""
ROW_TITLE = 24
HEADER = 30

ERROR = (222, 40, 40)
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
    present = present_classes((mask for row in rows for mask in (row.truth, row.prediction)), labels)
    width = GAP + 4 * (max(pictures[0].shape[1] for pictures in cells) + GAP)
    legend = Legend(present, labels, width, extra=[("wrong", ERROR)])
    height = HEADER + sum(ROW_TITLE + pictures[0].shape[0] + GAP for pictures in cells) + legend.height
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
    legend.draw(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _write(figure: Figure, text: str, x: int, y_from_top: int, **style: Any) -> None:
    width, height = figure.get_size_inches() * DPI
    figure.text(x / width, 1 - y_from_top / height, text, va="center", **style)


def _title(row: PanelRow, labels: LabelSpace) -> str:
    wrong, ignored = _errors(row.truth, row.prediction, labels)
    if ignored.all():
        return f"{row.id}   (no labelled pixel)"
    return f"{row.id}   {1 - wrong[~ignored].mean():.1%} of labelled pixels right"


def _errors(
    truth: NDArray[Any], prediction: NDArray[Any], labels: LabelSpace
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which pixels (H, W) are wrong, and which are ignored; of layers, those wrong in one and ignored in all."""
    ignored = truth == labels.ignore_index
    wrong = (truth != prediction) & ~ignored
    return (wrong.any(axis=0), ignored.all(axis=0)) if truth.ndim == 3 else (wrong, ignored)


def _cells(row: PanelRow, labels: LabelSpace) -> list[NDArray[np.uint8]]:
    """The four pictures (h, w, 3) of one sample at the size they are shown."""
    height, width = row.truth.shape[-2:]
    scale = CELL / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    image = np.asarray(
        Image.fromarray(as_rgb(row.image)).resize(
            (size[1], size[0]), Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST
        )
    )
    truth, prediction = nearest(row.truth, size), nearest(row.prediction, size)
    wrong, ignored = _errors(truth, prediction, labels)
    errors = np.repeat((110 + 0.5 * image.mean(axis=2, keepdims=True)).astype(np.uint8), 3, axis=2)
    errors[wrong] = ERROR
    striped = stripes(size)
    errors[ignored] = striped[ignored]
    return [image, _colored(truth, labels, striped), _colored(prediction, labels, striped), errors]


def _colored(mask: NDArray[Any], labels: LabelSpace, striped: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Class colours; stripes where the id is that of no class, and white where no class is."""
    palette = np.array(labels.colors, dtype=np.uint8)
    if mask.ndim == 3:
        present = np.moveaxis(mask == 1, 0, -1)
        number = present.sum(axis=-1)[..., None]
        mixed = np.where(number > 0, present @ palette.astype(np.float64) / number.clip(min=1), 255)
        return np.where((mask == labels.ignore_index).all(axis=0)[..., None], striped, mixed.astype(np.uint8))
    is_class = (mask >= 0) & (mask < labels.num_classes)
    return np.where(is_class[..., None], palette[np.where(is_class, mask, 0)], striped)
