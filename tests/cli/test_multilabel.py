"""Multi-label data through the real commands: train, evaluate, predict, load."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import segkit
from segkit.cli import evaluate, predict
from segkit.losses.combined import CombinedLoss
from tests.conftest import Ended, run

COMMAND = (
    "dataset=folder dataset.num_classes=2 dataset.class_names=[bright,left] dataset.multilabel=true "
    "dataset.crop_size=32 tracker=none loss=combined transform=none optimizer.lr=0.01 "
    "backbone=timm backbone.name=test_resnet model/head=fcn model.head.channels=16 model.output_stride=8 "
    "trainer.batch_size=4 trainer.num_threads=1 trainer.max_epochs=12 trainer.evaluate.panel_samples=2"
).split()

pytestmark = pytest.mark.skipif(
    "multilabel" not in inspect.signature(CombinedLoss).parameters, reason="no loss takes multi-label masks"
)


def scene(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image and its layers, the bright half and the left one: pixels belong to both, either or neither."""
    bright = np.zeros((32, 32), np.uint8)
    top = 16 * int(random.integers(0, 2))
    bright[top : top + 16] = 1
    left = np.zeros_like(bright)
    left[:, :16] = 1
    image = np.stack([60 + 150 * bright, 60 + 150 * left, np.full_like(bright, 90)], axis=2)
    return image.astype(np.uint8), np.stack([bright, left], axis=2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The data, with layers as TIFF and as array, and the folder of a finished run on it."""
    root = tmp_path_factory.mktemp("multilabel")
    random = np.random.default_rng(0)
    for split, number in (("train", 16), ("val", 4)):
        for part in ("images", "masks"):
            (root / f"data/{split}/{part}").mkdir(parents=True)
        for index in range(number):
            image, layers = scene(random)
            Image.fromarray(image).save(root / f"data/{split}/images/{index}.png")
            if split == "train":
                layers[0, 0] = 255  # ignored
                tifffile.imwrite(root / f"data/{split}/masks/{index}.tif", layers, photometric="minisblack")
            else:
                np.save(root / f"data/{split}/masks/{index}.npy", layers.transpose(2, 0, 1))
    done = run(*COMMAND, f"dataset.root={root}/data", f"hydra.run.dir={root}/run", cwd=root)
    assert done.returncode == 0, done.stderr
    return root / "data", root / "run"


def test_it_learns_both_classes(trained: tuple[Path, Path]) -> None:
    scores = json.loads((trained[1] / "summary.json").read_text())["best"]
    assert scores["iou/bright"] > 0.7
    assert scores["iou/left"] > 0.7


def test_evaluate_gives_the_scores_of_training_and_its_figures(
    trained: tuple[Path, Path], tmp_path: Path, call: Callable[..., Ended]
) -> None:
    assert call(evaluate.main, f"run={trained[1]}", f"output={tmp_path}/out").returncode == 0
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    best = json.loads((trained[1] / "summary.json").read_text())["best"]
    assert scores["iou/left"] == pytest.approx(best["iou/left"], abs=1e-6)
    assert {"confusion_matrix.png", "per_class.md", "panels.png"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }


def test_predictions_are_layers_that_can_be_trained_on(
    trained: tuple[Path, Path], tmp_path: Path, call: Callable[..., Ended]
) -> None:
    data, folder = trained
    done = call(predict.main, f"run={folder}", f"input={data}/val/images", f"output={tmp_path}/out")
    assert done.returncode == 0
    layers = tifffile.imread(tmp_path / "out/layers/0.tif")
    assert (layers.shape, layers.dtype, set(np.unique(layers))) == ((32, 32, 2), np.uint8, {0, 1})
    assert Image.open(tmp_path / "out/overlays/0.png").size == (32, 32)
    image = np.asarray(Image.open(data / "val/images/0.png"))
    assert np.array_equal(segkit.load(folder).predict(image), layers)
