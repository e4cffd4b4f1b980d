"""Figures and tables of a run's best evaluation, drawn into its folder.

The numbers and pictures are kept when the evaluation happens and drawn when the run ends, so that drawing
never holds training up and a run that stops early still gets its figures. For the same reason what draws,
and Matplotlib with it, is imported then.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.contracts import LabelSpace
from segkit.engine.evaluator import Evaluation, PanelSample

log = logging.getLogger(__name__)

KEPT = "best_evaluation.npz"


def keep(evaluation: Evaluation, folder: Path) -> None:
    """Keep what the figures are drawn from in `folder`, replacing an earlier evaluation's, if the disk takes it."""
    arrays: dict[str, NDArray[Any]] = {"confusion": evaluation.confusion}
    arrays["ids"] = np.array([sample.id for sample in evaluation.panels], dtype=np.str_)
    for index, sample in enumerate(evaluation.panels):
        arrays[f"image_{index}"] = sample.image
        arrays[f"truth_{index}"] = sample.truth
        arrays[f"predicted_{index}"] = sample.predicted
    temporary = folder / f".{KEPT}.part"
    try:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        temporary.replace(folder / KEPT)
    except OSError as error:
        log.warning("%s: cannot be written (%s); the figures will lack this evaluation", folder / KEPT, error.strerror)
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def draw_kept(folder: Path, labels: LabelSpace) -> list[Path]:
    """Draw the figures of the evaluation kept in `folder`, if there is one, and the run's curves."""
    from segkit.reporting import figures

    drawn: list[Path] = []
    target = folder / "figures"
    target.mkdir(exist_ok=True)
    if (folder / KEPT).exists():
        with np.load(folder / KEPT, allow_pickle=False) as arrays:
            samples = [
                PanelSample(str(name), arrays[f"image_{i}"], arrays[f"truth_{i}"], arrays[f"predicted_{i}"])
                for i, name in enumerate(arrays["ids"])
            ]
            drawn += draw(arrays["confusion"], samples, labels, target)
    figures.curves(folder / "metrics.jsonl", target / "curves.png")
    return [*drawn, target / "curves.png"]


def draw(confusion: NDArray[np.int64], samples: Sequence[PanelSample], labels: LabelSpace, target: Path) -> list[Path]:
    """Confusion matrix, per-class table and panels in the folder `target`; the files written."""
    from segkit.reporting import figures, panels

    figures.confusion_figure(confusion, labels.names, target / "confusion_matrix.png")
    files = [target / name for name in ("confusion_matrix.png", "per_class.csv", "per_class.md")]
    figures.per_class_table(per_class(confusion, labels), labels.names, csv_path=files[1], markdown_path=files[2])
    if samples:
        rows = [panels.PanelRow(s.image, s.truth, s.predicted, s.id) for s in samples]
        panels.panel(rows, labels, target / "panels.png")
        files.append(target / "panels.png")
    return files


def per_class(confusion: NDArray[np.int64], labels: LabelSpace) -> Mapping[str, NDArray[Any]]:
    """IoU, Dice, accuracy (recall) and number of true pixels of each class; NaN where undefined."""
    from torch import from_numpy

    from segkit.tasks.kinds import task_of

    found = task_of(labels).scores(from_numpy(confusion))
    return {
        "IoU": np.array(found.iou),
        "Dice": np.array(found.dice),
        "accuracy": np.array(found.accuracy),
        "pixels": np.array(found.pixels),
    }
