"""The report on a data set as one HTML page with its charts inside, to be sent around as it is."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from segkit.tracking.mlflow.keys import as_drawn

SPLIT_COLORS = {"train": "#1f5a96", "val": "#d0812a", "test": "#23795b"}
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; color: #222; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; } td, th { padding: 2px 12px 2px 0; text-align: right; }
td:first-child, th:first-child { text-align: left; } th { border-bottom: 1px solid #bbb; }
.swatch { display: inline-block; width: 12px; height: 12px; margin-right: 8px; border: 1px solid #999; }
.fault { color: #b3261e; } .remark { color: #8a5a00; } .sound { color: #23795b; }
img { max-width: 100%; } li { overflow-wrap: anywhere; } .scroll { overflow-x: auto; }
"""
MOST_PLACES = 1000
"""Places of a kind that the page lists; report.json has all."""

Report = Mapping[str, Any]


def write(report: Report, path: Path) -> None:
    """Write the page of a report as `check_data.py` makes it."""
    verdict = (
        '<p class="sound">Sound: nothing has to be mended.</p>'
        if report["sound"]
        else f'<p class="fault">{sum(map(len, report["faults"].values()))} findings have to be mended.</p>'
    )
    root = next(iter(report["splits"].values()))["identity"]["root"]
    parts = [
        f"<h1>{html.escape(str(root))}</h1>",
        verdict,
        _findings("What has to be mended", "fault", report["faults"]),
        _findings("Worth a look", "remark", report["remarks"]),
        "<h2>Classes</h2>",
        _class_table(report),
        _image(_class_figure(report), "share of the pixels and of the images of each class"),
        "<h2>Images</h2>",
        _split_table(report),
        _image(_size_figure(report), "sizes of the images"),
        _weights(report),
    ]
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>data</title><style>{STYLE}</style>'
    path.write_text(page + "\n".join(parts) + "</html>\n", encoding="utf-8", errors="replace")


def _findings(title: str, kind: str, findings: Mapping[str, Sequence[str]]) -> str:
    if not findings:
        return ""
    parts = [f"<h2>{title}</h2>"]
    for name, places in findings.items():
        items = "".join(f"<li>{html.escape(place)}</li>" for place in places[:MOST_PLACES])
        more = f"<p>and {len(places) - MOST_PLACES} more in report.json</p>" if len(places) > MOST_PLACES else ""
        opened = " open" if len(places) <= 20 else ""
        parts.append(
            f'<details{opened}><summary class="{kind}">{len(places)} {html.escape(name)}</summary>'
            f"<ul>{items}</ul>{more}</details>"
        )
    return "\n".join(parts)


def _class_table(report: Report) -> str:
    splits = report["splits"]
    head = "".join(f"<th>{split} pixels</th><th>share</th><th>images</th>" for split in splits)
    rows: list[str] = []
    for index, (name, color) in enumerate(zip(report["classes"], report["colors"], strict=True)):
        cells = f'<td><span class="swatch" style="background: rgb{tuple(color)}"></span>{html.escape(name)}</td>'
        for split in splits.values():
            pixels = split["pixels"][index]
            share = pixels / max(sum(split["pixels"]), 1)
            cells += f"<td>{pixels:,}</td><td>{share:.2%}</td><td>{split['images'][index]:,}</td>"
        rows.append(f"<tr>{cells}</tr>")
    return f'<div class="scroll"><table><tr><th>class</th>{head}</tr>{"".join(rows)}</table></div>'


def _split_table(report: Report) -> str:
    rows = [
        f"<tr><td>{name}</td><td>{split['samples']:,}</td><td>{len(split['unusable']):,}</td>"
        f"<td>{split['ignored_pixels'] / max(split['ignored_pixels'] + sum(split['pixels']), 1):.1%}</td>"
        f"<td>{len(split['sizes'])}</td><td>{html.escape(split['identity']['digest'][:16])}</td></tr>"
        for name, split in report["splits"].items()
    ]
    absent = "".join(f"<p>{split}: {html.escape(reason)}</p>" for split, reason in report["absent"].items())
    head = "<th>split</th><th>samples</th><th>unusable</th><th>ignored pixels</th><th>sizes</th><th>digest</th>"
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>{absent}"


def _weights(report: Report) -> str:
    """Statistics of the train split, ready to be copied to a config."""
    if "mean" not in report:
        return ""
    weights: Mapping[str, Sequence[float]] = report["class_weights"]
    head = "".join(f"<th>{method}</th>" for method in weights)
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td>{_cells([values[index] for values in weights.values()])}</tr>"
        for index, name in enumerate(report["classes"])
    )
    return (
        f"<h2>For the config</h2><pre>data_mean: {report['mean']}\ndata_std: {report['std']}</pre>"
        f"<p>Weights that <code>loss.class_weights=METHOD</code> gives:</p>"
        f'<div class="scroll"><table><tr><th>class</th>{head}</tr>{rows}</table></div>'
    )


def _cells(numbers: Sequence[float]) -> str:
    return "".join(f"<td>{number:.4g}</td>" for number in numbers)


def _class_figure(report: Report) -> Figure:
    """Two bar charts side by side, a row a class: share of the pixels (logarithmic) and of the images."""
    names, splits = report["classes"], report["splits"]
    shown = names if len(names) <= 200 else names[:200]
    figure = Figure(figsize=(10, max(2.2, 0.28 * len(shown) + 1.0)), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for number, (split, found) in enumerate(splits.items()):
        height = 0.8 / len(splits)
        rows = np.arange(len(shown)) + (number - (len(splits) - 1) / 2) * height
        pixels = np.array(found["pixels"], float)[: len(shown)]
        images = np.array(found["images"], float)[: len(shown)]
        color = SPLIT_COLORS.get(split, "0.4")
        left.barh(rows, 100 * pixels / max(sum(found["pixels"]), 1), height, color=color, label=split)
        right.barh(rows, 100 * images / max(found["samples"], 1), height, color=color)
    left.set_xscale("log")
    left.set_xlabel("share of the labelled pixels, %")
    right.set_xlabel("images that hold the class, %")
    short = [as_drawn(name if len(name) <= 24 else f"{name[:23]}…") for name in shown]
    left.set_yticks(range(len(shown)), short, fontsize=8)
    left.invert_yaxis()
    handles, labels = left.get_legend_handles_labels()
    right.legend(handles, labels, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False)
    _plain(left, right)
    return figure


def _size_figure(report: Report) -> Figure:
    """Width and height of the images, a circle a size, its area by how many there are."""
    figure = Figure(figsize=(6, 4), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    most = max((number for split in report["splits"].values() for number in split["sizes"].values()), default=1)
    for split, found in report["splits"].items():
        sizes = [tuple(map(int, size.split("x"))) for size in found["sizes"]]
        areas = [20 + 400 * number / most for number in found["sizes"].values()]
        color = SPLIT_COLORS.get(split, "0.4")
        axes.scatter(
            [s[0] for s in sizes], [s[1] for s in sizes], areas, facecolor="none", edgecolor=color, label=split
        )
    axes.set(xlabel="width, pixels", ylabel="height, pixels")
    axes.set_xlim(0, 1.1 * axes.get_xlim()[1])
    axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    for handle in axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False).legend_handles:
        handle.set_sizes([40])  # pyright: ignore
    _plain(axes)
    return figure


def _plain(*all_axes: Axes) -> None:
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)


def _image(figure: Figure, text: str) -> str:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return f'<img alt="{text}" src="data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}">'
