import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkit.reporting.figures import _trailing_mean, confusion_figure, curves, per_class_table


def share_of_grey(path: Path) -> float:
    return float((np.asarray(Image.open(path).convert("RGB")) == 209).all(axis=2).mean())


def test_confusion_figure_greys_a_row_without_pixels(tmp_path: Path):
    confusion_figure(np.array([[9, 1], [2, 8]]), ["road", "sky"], tmp_path / "full.png")
    confusion_figure(np.array([[9, 1], [0, 0]]), ["road", "sky"], tmp_path / "absent.png")
    assert share_of_grey(tmp_path / "full.png") < 0.001
    assert 0.1 < share_of_grey(tmp_path / "absent.png") < 0.5


def test_classes_judged_each_for_itself_have_a_row_of_four_cells(tmp_path: Path):
    """Of four rows of four cells, two are grey in a class that is nowhere, and in one that is everywhere."""
    counts = np.array([[[4, 1], [2, 3]], [[9, 1], [0, 0]], [[0, 0], [1, 9]], [[5, 5], [5, 5]]])
    confusion_figure(counts, ["a", "b", "c", "d"], tmp_path / "some.png")
    confusion_figure(counts[[0, 0, 0, 3]], ["a", "b", "c", "d"], tmp_path / "none.png")
    assert share_of_grey(tmp_path / "none.png") < 0.001
    assert 0.05 < share_of_grey(tmp_path / "some.png") < 0.3


@pytest.mark.parametrize("num_classes", [2, 21, 150])
def test_confusion_figure_stays_of_a_size_to_look_at(tmp_path: Path, num_classes: int):
    names = [f"class {index}" for index in range(num_classes)]
    confusion_figure(np.eye(num_classes, dtype=np.int64), names, tmp_path / "new folder" / "confusion.png")
    width, height = Image.open(tmp_path / "new folder" / "confusion.png").size
    assert 400 < width < 3000
    assert 300 < height < 3000


def test_per_class_table(tmp_path: Path):
    per_class_table(
        {"IoU": [0.5, math.nan, 1.0], "pixels": np.array([1000, 0, 2])},
        ["road", "sky", "a|b"],
        csv_path=tmp_path / "classes.csv",
        markdown_path=tmp_path / "classes.md",
    )
    with (tmp_path / "classes.csv").open() as file:
        assert list(csv.reader(file)) == [
            ["class", "IoU", "pixels"],
            ["road", "0.5", "1000"],
            ["sky", "", "0"],
            ["a|b", "1.0", "2"],
        ]
    assert (tmp_path / "classes.md").read_text().splitlines() == [
        "| class | IoU | pixels |",
        "| --- | ---: | ---: |",
        "| road | 0.5000 | 1,000 |",
        "| sky | – | 0 |",  # noqa: RUF001
        "| a\\|b | 1.0000 | 2 |",
        "| **mean** | **0.7500** |  |",
    ]


def test_trailing_mean_leaves_out_what_is_undefined():
    values = np.array([1.0, 3.0, np.nan, 5.0, np.nan, np.nan])
    np.testing.assert_allclose(_trailing_mean(values, 2), [1, 2, 3, 5, 5, np.nan])


def test_curves_take_what_a_run_can_write(tmp_path: Path):
    rows = [
        {"kind": "train", "step": 1, "loss": 2.0, "lr": 0.1},
        {"kind": "train", "step": 2, "loss": None, "lr": 0.1},
        {"kind": "eval", "split": "val", "step": 2, "miou": 0.25},
        {"kind": "eval", "split": "val", "step": 3, "miou": None},
        {"kind": "eval", "split": "test", "step": 3, "miou": 0.5},
    ]
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"kind": "tr')
    curves(metrics, tmp_path / "both.png")
    metrics.write_text(json.dumps(rows[0]) + "\n")
    curves(metrics, tmp_path / "training.png")
    both, training = (Image.open(tmp_path / name).size for name in ("both.png", "training.png"))
    assert both[1] > 1.5 * training[1], "a run without evaluations has one chart, not an empty second one"


def test_curves_of_a_run_without_a_step(tmp_path: Path):
    curves(tmp_path / "missing.jsonl", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 0
