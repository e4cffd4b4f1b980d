"""Short training runs give the losses that they gave when they were recorded.

`python -m tests.test_loss_curves` records them anew, which only a commit that says why may do: whatever moves code must
leave every bit of them. Elsewhere than on the kind of processor and the version of PyTorch that they were recorded
with, sums come in another order, and the losses agree within the tolerances below.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from segkit.cli.train import main
from tests.conftest import losses, run

RECORDED = Path(__file__).parent / "assets" / "loss_curves.json"

# 20 steps of 4 drawn images of 64x64, as they are: what is recorded is the loop, the models and the losses.
SHARED = (
    "tracker=none transform=none trainer.device=cpu trainer.num_threads=1 trainer.num_workers=0 trainer.batch_size=4 "
    "trainer.max_epochs=null trainer.max_steps=20 trainer.evaluate.panel_samples=0 trainer.progress=off "
    "dataset.crop_size=64"
).split()
SHAPES = "dataset.image_size=64 dataset.num_train=80 dataset.num_val=2".split()
RUNS: dict[str, list[str]] = {
    "combined on DeepLabV3+": [
        *SHAPES,
        *"model=deeplabv3plus model.head.aspp_channels=32 loss=combined".split(),
        *"backbone=timm backbone.name=test_resnet".split(),
    ],
    "set prediction on EoMT": [
        *SHAPES,
        *"model=eomt loss=set_prediction backbone=timm backbone.name=test_vit model.joint_blocks=2".split(),
        *"model.num_queries=8 loss.num_points=256 optimizer=adamw".split(),
    ],
    "dice_bce on a multi-label set": [
        *"dataset=folder dataset.root=multilabel dataset.num_classes=3 dataset.multilabel=true".split(),
        *"dataset.class_names=[left,bright,top] loss=dice_bce model=simple_unet model.width=8".split(),
    ],
}
TOLERANCE = {"fp32": 1e-3, "bf16": 3e-2}
"""Relative, over 20 steps that amplify each difference."""


def draw_multilabel(root: Path) -> None:
    """Sixteen images of noise with three classes that overlap: the left half, what is bright, the upper half."""
    draw = np.random.default_rng(0)
    for split, number in (("train", 16), ("val", 2)):
        for part in ("images", "masks"):
            (root / split / part).mkdir(parents=True)
        for index in range(number):
            image = draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            mask = np.zeros((64, 64, 3), np.uint8)
            mask[:, :32, 0] = mask[:32, :, 2] = 1
            mask[..., 1] = image.mean(2) > 128
            mask[:4] = 255
            Image.fromarray(image).save(root / split / "images" / f"{index}.png")
            tifffile.imwrite(root / split / "masks" / f"{index}.tif", mask, photometric="rgb")


def machine() -> dict[str, str]:
    """What the last bits of a sum depend on."""
    return {
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "processor": _processor(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    values = [line.partition(":")[2].strip() for line in lines if line.startswith(("cpu family", "model", "stepping"))]
    return " ".join(dict.fromkeys(values))


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("name", RUNS)
def test_the_losses_are_those_recorded(name: str, precision: str, call: Callable[..., Any], tmp_path: Path):
    draw_multilabel(tmp_path / "multilabel")
    ended = call(main, *SHARED, *RUNS[name], f"trainer.precision={precision}", f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.returncode == 0, ended.stderr
    recorded = json.loads(RECORDED.read_text())
    found, expected = losses(tmp_path / "run"), recorded["losses"][f"{name}, {precision}"]
    assert list(found) == list(range(1, 21))
    assert min(found.values()) < found[1], "nothing was learnt"
    if machine() == recorded["machine"]:
        assert list(found.values()) == expected
    else:
        np.testing.assert_allclose(list(found.values()), expected, rtol=TOLERANCE[precision])


def record(folder: Path) -> None:
    draw_multilabel(folder / "multilabel")
    recorded: dict[str, Any] = {"machine": machine(), "losses": {}}
    for name, arguments in RUNS.items():
        for precision in TOLERANCE:
            target = folder / f"{name} {precision}".replace(" ", "-").replace("+", "plus")
            ended = run(*SHARED, *arguments, f"trainer.precision={precision}", f"hydra.run.dir={target}", cwd=folder)
            assert ended.returncode == 0, ended.stderr
            recorded["losses"][f"{name}, {precision}"] = list(losses(target).values())
    RECORDED.write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        record(Path(made))
    sys.exit(subprocess.call(["git", "diff", "--stat", "--", str(RECORDED)]))
