"""Charts and tables of a run, written to files: confusion matrix, per-class scores, learning curves.

matplotlib by its objects only: no global figure, no display, safe in any thread.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from segkit.run.record import is_number, records_from
from segkit.tracking.mlflow.keys import as_drawn

MOST_CLASSES_WITH_NUMBERS = 20
UNDEFINED = "0.82"
LOSS, RATE, SCORE = "#1f5a96", "#d0812a", "#23795b"


def confusion_figure(counts: NDArray[Any], names: Sequence[str], path: Path) -> None:
    """Heat map of pixel counts by truth and prediction, as shares of the pixels of one truth.

    Counts are a matrix (C, C), truth in rows, or of classes scored each for itself (C, 2, 2), truth in rows as
    well, which make one row of four cells each. Cells without a pixel of their truth, where the share is
    undefined, are grey. Up to 20 classes, cells carry percentages.
    """
    counts = np.asarray(counts, dtype=np.float64)
    totals = counts.sum(axis=-1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    if shares.ndim == 2:
        _heat_map(shares, names, names, path, share_of="the true class's pixels")
    else:
        cells = ("TP", "FN", "FP", "TN")
        shares = shares[:, [1, 1, 0, 0], [1, 0, 1, 0]]
        _heat_map(shares, names, cells, path, share_of="the pixels with the class, or without it")


def _heat_map(
    shares: NDArray[np.float64], rows: Sequence[str], columns: Sequence[str], path: Path, *, share_of: str
) -> None:
    num_classes = len(rows)
    numbered = num_classes <= MOST_CLASSES_WITH_NUMBERS
    height, width = (
        max(3.0, 0.46 * number) if numbered else max(8.0, 0.115 * number) for number in (num_classes, len(columns))
    )
    figure = Figure(figsize=(width + 2.2, height + 1.6), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor(UNDEFINED)
    is_matrix = list(rows) == list(columns)
    aspect = "equal" if is_matrix else "auto"
    # Confusions are small shares; under the square root they are told from nothing.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0.0, 1.0), interpolation="nearest", aspect=aspect)
    size = 8.0 if numbered else max(3.5, min(8.0, 60.0 * height / num_classes))
    titles = list(map(as_drawn, columns))
    axes.set_xticks(range(len(columns)), titles, rotation=90 if len(columns) > 8 else 45, fontsize=size)
    if len(columns) <= 8:
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(range(num_classes), list(map(as_drawn, rows)), fontsize=size)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    bar = figure.colorbar(image, ax=axes, shrink=0.7, aspect=30, pad=0.02, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.ax.set_yticklabels(["0 %", "1 %", "5 %", "20 %", "50 %", "100 %"], fontsize=8)
    bar.outline.set_visible(False)
    bar.set_label(f"share of {share_of}", fontsize=8)
    if numbered:
        axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(num_classes + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1)
        axes.tick_params(which="minor", length=0)
        _write_percentages(axes, shares, bold_diagonal=is_matrix)
    _save(figure, path)


def _write_percentages(axes: Axes, shares: NDArray[np.float64], *, bold_diagonal: bool) -> None:
    for (row, column), share in np.ndenumerate(shares):
        if math.isnan(share) or share == 0.0:
            continue
        percent = 100.0 * share
        text = f"{percent:.0f}" if percent >= 0.95 else "<1"
        weight = "bold" if bold_diagonal and row == column else "normal"
        color = "white" if share > 0.35 else "0.25"
        axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=color, fontweight=weight)


def per_class_table(
    columns: Mapping[str, Sequence[float] | NDArray[Any]],
    names: Sequence[str],
    *,
    csv_path: Path,
    markdown_path: Path,
) -> None:
    """One line a class and one column a score, as CSV in full precision and as Markdown for reading.

    Columns of whole numbers are counts. Scores get a mean over the classes where they are defined; an
    undefined one (NaN) is empty in the CSV and a dash in Markdown.
    """
    arrays = {title: np.asarray(values) for title, values in columns.items()}
    for title, values in arrays.items():
        assert values.shape == (len(names),), f"{title}: {values.shape} values for {len(names)} classes"
    with csv_path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", *arrays])
        for index, name in enumerate(names):
            cells = (values[index].item() for values in arrays.values())
            writer.writerow([name, *("" if _is_nan(cell) else cell for cell in cells)])
    means = [_mean(values) for values in arrays.values()]
    lines = [
        _markdown_row(["class", *arrays]),
        _markdown_row(["---", *["---:"] * len(arrays)]),
        *(
            _markdown_row([_escaped(name), *(_shown(values[index].item()) for values in arrays.values())])
            for index, name in enumerate(names)
        ),
        _markdown_row(["**mean**", *("" if mean is None else f"**{_shown(mean)}**" for mean in means)]),
    ]
    markdown_path.write_text("\n".join(lines) + "\n")


def _mean(values: NDArray[Any]) -> float | None:
    """Mean of the defined scores; None for counts, NaN where nothing is defined."""
    if not np.issubdtype(values.dtype, np.floating):
        return None
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan


def _is_nan(value: float) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _shown(value: float) -> str:
    if _is_nan(value):
        return "–"  # noqa: RUF001
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"


def _escaped(name: str) -> str:
    return name.replace("|", "\\|")


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def curves(metrics_jsonl: Path, path: Path, *, score: str = "miou") -> None:
    """Loss and learning rate by step, and below them `score` of every evaluated split, from a run's metrics.

    A step that stands twice, having been trained again after a resume, counts as it stands last.
    """
    train: dict[int, dict[str, Any]] = {}
    evaluations: dict[str, dict[int, float]] = {}
    for row, _ in records_from(metrics_jsonl, 0):
        if row.get("kind") == "train":
            train[row["step"]] = row
        elif row.get("kind") == "eval" and is_number(row.get(score)):
            evaluations.setdefault(row["split"], {})[row["step"]] = row[score]
    figure = Figure(figsize=(8, 6 if evaluations else 3.4), dpi=130, layout="constrained")
    panels = figure.subplots(2 if evaluations else 1, 1, sharex=True, squeeze=False)[:, 0]
    _draw_training(panels[0], [train[step] for step in sorted(train)])
    if evaluations:
        _draw_scores(panels[1], evaluations, score)
    panels[-1].set_xlabel("optimizer step")
    for axes in panels:
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
        axes.spines["top"].set_visible(False)
    _save(figure, path)


def _draw_training(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    steps = [row["step"] for row in rows]
    loss = np.array([row["loss"] if is_number(row.get("loss")) else np.nan for row in rows])
    width = max(1, len(loss) // 50)
    axes.plot(steps, loss, color=LOSS, alpha=0.25 if width > 1 else 1.0, linewidth=0.8)
    if width > 1:
        axes.plot(steps, _trailing_mean(loss, width), color=LOSS, linewidth=1.8)
    axes.set_ylabel("training loss", color=LOSS)
    axes.set_ylim(bottom=0.0 if np.nanmin(loss, initial=np.inf) >= 0 else None)
    rate_axes = axes.twinx()
    rate = [row["lr"] if is_number(row.get("lr")) else np.nan for row in rows]
    rate_axes.plot(steps, rate, color=RATE, linewidth=1.2, linestyle="--")
    rate_axes.set_ylabel("learning rate", color=RATE)
    rate_axes.set_ylim(bottom=0.0)
    rate_axes.spines["top"].set_visible(False)
    rate_axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))


def _trailing_mean(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Mean of the up to `width` defined values that end at each place."""
    defined = ~np.isnan(values)
    sums = np.cumsum(np.where(defined, values, 0.0))
    counts = np.cumsum(defined)
    sums[width:] -= sums[:-width].copy()
    counts[width:] -= counts[:-width].copy()
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _draw_scores(axes: Axes, evaluations: Mapping[str, Mapping[int, float]], score: str) -> None:
    for position, (split, scores) in enumerate(evaluations.items()):
        steps = sorted(scores)
        values = [scores[step] for step in steps]
        color = (SCORE, LOSS, RATE)[position % 3]
        axes.plot(steps, values, color=color, marker="o", markersize=3.5, linewidth=1.5, label=split)
        best = int(np.argmax(values))
        # Above the point where there is room, since the curve comes from below.
        axes.annotate(
            f"{values[best]:.3f}", (steps[best], values[best]), (0, 6), textcoords="offset points",
            ha="center", fontsize=8, color=color,
        )  # fmt: skip
    axes.set_ylabel("mIoU" if score == "miou" else score)
    axes.margins(y=0.15)
    if len(evaluations) > 1:
        axes.legend(frameon=False, fontsize=8)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight", pad_inches=0.1)
