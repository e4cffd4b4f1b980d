"""Checkpoints that version 0.1 saved (at commit 366742e) load, evaluate to the score they had, predict and go on.

Their data are drawn here as they were then. Both are DeepLabV3+ on a ResNet of 8 channels, in fp32 on a CPU.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import segkit
from segkit.cli import evaluate, train
from segkit.data.datasets.shapes import Shapes
from segkit.run import checkpoint
from segkit.run.stored_config import stored_config
from tests.conftest import Ended, losses

ASSETS = Path(__file__).parent / "assets"
SHAPES = ASSETS / "checkpoint_0_1.pt"  # after 360 of 540 steps, with an average of the weights
MAPPED = ASSETS / "checkpoint_0_1_class_mapping.pt"  # a folder data set of masks with 0, 128 and 255; 60 of 90 steps

NETWORK = (
    "--config-dir=conf backbone=timm backbone.name=test_resnet "
    "+backbone.options.channels=[8,8,8,8] +backbone.options.stem_width=8 "
    "model.head.aspp_channels=8 model.head.decoder_channels=8 model.head.low_level_channels=8 trainer.batch_size=4 "
    "trainer.evaluate.panel_samples=0 trainer.num_threads=1 trainer.precision=fp32 trainer.device=cpu tracker=none "
    "trainer.progress=off trainer.checkpoint.keep_top=5 optimizer.lr=1e-2 dataset.crop_size=32 transform=stored"
).split()
ON_SHAPES = (
    "dataset.image_size=32 dataset.num_train=24 dataset.num_val=6 trainer.ema.decay=0.9 trainer.max_epochs=90 "
    "trainer.evaluate.every_epochs=30"
).split()
ON_DISCS = (
    "dataset=folder dataset.root=data dataset.num_classes=2 dataset.class_mapping={0:0,128:255,255:1} "
    "loss.class_weights=median trainer.max_epochs=30 trainer.evaluate.every_epochs=10"
).split()


def write_discs(root: Path) -> None:
    """Bright discs, 255 in the masks, with an edge of 128: 12 images of 32x32 to train on and 6 to evaluate."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:32, :32]
    for split, number in (("train", 12), ("val", 6)):
        for part in ("images", "masks"):
            (root / split / part).mkdir(parents=True, exist_ok=True)
        for index in range(number):
            y, x, radius = generator.integers((8, 8, 5), (24, 24, 9))
            distance = (rows - y) ** 2 + (columns - x) ** 2
            mask = np.where(distance <= radius**2, 255, 0).astype(np.uint8)
            image = generator.integers(0, 120, (32, 32, 3), np.uint8)
            image[mask == 255] += 100
            mask[(distance > radius**2) & (distance <= (radius + 1) ** 2)] = 128
            Image.fromarray(image).save(root / split / "images" / f"{index}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{index}.png")


def keep_transform(path: Path, folder: Path) -> None:
    """Make the augmentation of a checkpoint an option of its own: transform=light changes with the versions."""
    option = folder / "conf" / "transform" / "stored.yaml"
    option.parent.mkdir(parents=True)
    option.write_text(yaml.safe_dump(stored_config(checkpoint.read(path))["transform"]))


@pytest.mark.parametrize("path", [SHAPES, MAPPED], ids=["shapes", "class mapping"])
def test_it_evaluates_to_the_score_it_was_saved_with(path: Path, tmp_path: Path, call: Callable[..., Ended]):
    write_discs(tmp_path / "data")  # where the run was started, as it is here
    ended = call(evaluate.main, f"run={path}", "output=scores", "num_workers=0", "device=cpu")
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "scores" / "scores.json").read_text())
    saved = checkpoint.read(path)["state"]
    # Other processors differ in the last bits, which may change a pixel of 6144.
    assert found["miou"] == pytest.approx(saved["best_score"], abs=2e-3)
    assert found["step"] == saved["step"]


def test_they_predict(tmp_path: Path):
    shapes = Shapes(
        split="val", num_classes=7, mean=[0.5] * 3, std=[0.5] * 3, crop_size=32, image_size=32, num_val=6, num_train=24
    )
    sample = shapes.read(0)
    predicted = segkit.load(SHAPES, device="cpu").predict(sample.image)
    counted = sample.mask != 255
    assert np.mean(predicted[counted] == sample.mask[counted]) > 0.7
    write_discs(tmp_path)
    image, mask = (np.array(Image.open(tmp_path / "val" / part / "0.png")) for part in ("images", "masks"))
    predicted = segkit.load(MAPPED, device="cpu").predict(image)
    assert np.mean(predicted[mask != 128] == (mask[mask != 128] == 255)) > 0.98


@pytest.mark.parametrize(
    ("path", "settings", "step", "loss"),
    [(SHAPES, ON_SHAPES, 361, 1.405461072921753), (MAPPED, ON_DISCS, 61, 0.16690081357955933)],
    ids=["shapes", "class mapping"],
)
def test_it_goes_on_with_the_step_that_followed(
    path: Path, settings: list[str], step: int, loss: float, tmp_path: Path, call: Callable[..., Ended]
):
    write_discs(tmp_path / "data")
    keep_transform(path, tmp_path)
    line = [*NETWORK, *settings, f"resume={path}", "hydra.run.dir=run", "trainer.stop_after_steps=1"]
    ended = call(train.main, *line)
    assert ended.returncode == 0, ended.stderr
    assert losses(tmp_path / "run") == {step: pytest.approx(loss, rel=1e-3)}
    assert checkpoint.read(tmp_path / "run" / "checkpoints" / "last.pt")["state"]["step"] == step


def test_it_does_not_go_on_where_an_epoch_has_other_steps(tmp_path: Path, call: Callable[..., Ended]):
    """All that version 0.1 kept of the data: 12 images in batches of 4 are 3 steps, 8 are 2."""
    write_discs(tmp_path / "data")
    for part in ("images", "masks"):
        for index in range(4):
            (tmp_path / "data" / "train" / part / f"{index}.png").unlink()
    keep_transform(MAPPED, tmp_path)
    line = [*NETWORK, *ON_DISCS, f"resume={MAPPED}", "hydra.run.dir=run"]
    ended = call(train.main, *line)
    assert ended.returncode == 2
    assert "train: an epoch has 2 steps, had 3" in ended.stderr
    assert "resume_changed_data=true" in ended.stderr
