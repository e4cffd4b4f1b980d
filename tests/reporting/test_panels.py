from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkit.contracts import LabelSpace
from segkit.reporting.panels import CELL, ERROR, HEADER, ROW_TITLE, PanelRow, panel
from segkit.reporting.pictures import GAP, STRIPES

RED, GREEN = (200, 0, 0), (0, 200, 0)
LABELS = LabelSpace(("road", "sky"), (RED, GREEN), ignore_index=255)
TOP = HEADER + ROW_TITLE


def cell(picture: Image.Image, column: int, height: int, width: int = CELL) -> np.ndarray:
    left = GAP + column * ((picture.width - GAP) // 4)
    return np.asarray(picture.convert("RGB"))[TOP : TOP + height, left : left + width]


def test_every_picture_shows_its_pixels(tmp_path: Path):
    """A 2 x 4 sample, each pixel 100 x 100 in the panel: right, wrong, ignored, and right again."""
    image = np.full((2, 4, 3), 100, np.uint8)
    truth = np.array([[0, 0, 255, 1]] * 2, np.uint8)
    prediction = np.array([[0, 1, 1, 1]] * 2, np.uint8)
    panel([PanelRow(image, truth, prediction, "a/b.png")], LABELS, tmp_path / "panel.png")
    picture = Image.open(tmp_path / "panel.png")
    places = [50, 150, 350]
    shown_image, shown_truth, shown_prediction, errors = (cell(picture, column, 200) for column in range(4))
    assert (shown_image == 100).all()
    assert [tuple(shown_truth[100, x]) for x in places] == [RED, RED, GREEN]
    assert [tuple(shown_prediction[100, x]) for x in [*places, 250]] == [RED, GREEN, GREEN, GREEN]
    assert [tuple(errors[100, x]) for x in places] == [(160,) * 3, ERROR, (160,) * 3]
    for striped in (shown_truth, errors):
        assert {tuple(color) for color in striped[:, 200:300].reshape(-1, 3)} == set(STRIPES)


def test_layers_show_the_mean_of_their_classes(tmp_path: Path):
    """A 1 x 4 sample, classes road and sky: both right; sky missed; neither, rightly; ignored for all."""
    labels = LabelSpace(("road", "sky"), (RED, GREEN), 255, multilabel=True)
    truth = np.array([[[1, 0, 0, 255]], [[1, 1, 0, 255]]], np.uint8)
    prediction = np.array([[[1, 0, 0, 1]], [[1, 0, 0, 1]]], np.uint8)
    image = np.full((1, 4, 3), 100, np.uint8)
    panel([PanelRow(image, truth, prediction, "a")], labels, tmp_path / "panel.png")
    picture = Image.open(tmp_path / "panel.png")
    _, shown_truth, shown_prediction, errors = (cell(picture, column, 100) for column in range(4))
    assert [tuple(shown_truth[50, x]) for x in (50, 150, 250)] == [(100, 100, 0), GREEN, (255,) * 3]
    assert [tuple(shown_prediction[50, x]) for x in (50, 150, 250, 350)] == [
        *((100, 100, 0), (255,) * 3, (255,) * 3, (100, 100, 0))
    ]
    assert [tuple(errors[50, x]) for x in (50, 150, 250)] == [(160,) * 3, ERROR, (160,) * 3]
    assert {tuple(color) for color in errors[:, 300:].reshape(-1, 3)} == set(STRIPES)


def test_masks_are_shrunk_without_inventing_classes(tmp_path: Path):
    labels = LabelSpace(("a", "b", "c"), ((10, 20, 30), (50, 60, 70), (90, 100, 110)))
    truth = np.random.default_rng(0).choice([0, 2], (1000, 800)).astype(np.int32)
    image = np.zeros((1000, 800, 3), np.uint8)
    panel([PanelRow(image, truth, truth, "big")], labels, tmp_path / "panel.png")
    shown = cell(Image.open(tmp_path / "panel.png"), 1, CELL, 320)
    assert {tuple(color) for color in shown.reshape(-1, 3)} == {(10, 20, 30), (90, 100, 110)}


@pytest.mark.parametrize(("height", "width", "channels"), [(1, 5000, 3), (5000, 1, 1), (3, 2, 7)])
def test_odd_images_have_a_place(tmp_path: Path, height: int, width: int, channels: int):
    mask = np.zeros((height, width), np.int32)
    image = np.random.default_rng(0).random((height, width, channels)).astype(np.float32)
    normal = PanelRow(np.zeros((30, 40, 3), np.uint8), np.zeros((30, 40), np.uint8), np.ones((30, 40), np.uint8), "b")
    panel([normal, PanelRow(image, mask, mask, "odd")], LABELS, tmp_path / "panel.png")
    assert Image.open(tmp_path / "panel.png").width == GAP + 4 * (CELL + GAP)


def test_a_sample_without_labels_and_many_classes_fit(tmp_path: Path):
    count = 150
    labels = LabelSpace(
        tuple(f"class number {index}" for index in range(count)), tuple((i, i, i) for i in range(count))
    )
    mask = np.full((20, 20), 255, np.uint8)
    everything = np.resize(np.arange(count, dtype=np.uint8), (20, 20))
    panel([PanelRow(np.zeros((20, 20, 3), np.uint8), mask, everything, "x")], labels, tmp_path / "panel.png")
    picture = np.asarray(Image.open(tmp_path / "panel.png").convert("L"))
    assert (picture[:, -3:] == 255).all(), "the legend runs out of the picture"
    assert (picture[-3:] == 255).all()
