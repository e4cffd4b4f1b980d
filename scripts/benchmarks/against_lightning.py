"""Training images/s of `train.py` against the same training written with Lightning, smp losses and torchmetrics.

    python scripts/benchmarks/against_lightning.py [--rounds 3] [--steps 30] [--network segkit] [--variants ...]

Both train DeepLabV3+ on ResNet-18 on the same PNG files, 480x360 with 11 classes, cropped to 256x256 by the same
augmentation, in batches of 8 and bf16, with cross-entropy and Dice, AdamW and a polynomial schedule. `--network smp`
is smp's own DeepLabV3+ on both sides (`model=smp model.decoder=deeplabv3plus`), `--network segkit` is segkit's.

segkit's side is the whole command, `trainer=amp trainer.precision=bf16`. The other is lightning_training.py, beside
this file, run by an environment that is made on first use: the packages of the running one, and Lightning. Rounds
take turns; counted are the steps after the first 5 of an epoch without evaluation. Data workers are what segkit picks
by itself (none on a CPU); Lightning runs with none and with two, and the faster of the two medians counts.

Variants of the Lightning program, each a run more in every round:
    as-written        smp.losses.SoftCrossEntropyLoss + DiceLoss, MulticlassJaccardIndex over the training batches
    without-metric    the same, without the Jaccard index
    helped            the same, with torch's own cross-entropy, channels-last memory and no Jaccard index
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from environments import environment

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("lightning_training.py")
ENVIRONMENT = Path(os.environ.get("SEGKIT_LIGHTNING_VENV", REPOSITORY / ".venv-lightning"))
# Without their dependencies: torch, torchmetrics, fsspec, tqdm and the rest are those of the running environment.
PACKAGES = ["lightning==2.6.6"]
WARM_UP_STEPS = 5
BATCH_SIZE = 8
CLASSES = 11
VARIANTS = {
    "as-written": [],
    "without-metric": ["--without-metric"],
    "helped": ["--without-metric", "--torch-cross-entropy", "--channels-last"],
}
OURS = {"smp": ["model=smp", "model.decoder=deeplabv3plus", "backbone=resnet18"], "segkit": []}


def write_data(folder: Path, num_samples: int) -> None:
    """Pictures of 480x360 pixels with a mask each, in the layout of `dataset=folder`."""
    import cv2
    import numpy as np

    from segkit.data.datasets.shapes import draw_scene

    for split, number in (("train", num_samples), ("val", 1)):
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        for index in range(number):
            # Four scenes by four, so that objects have the size that they have in street scenes.
            generator = np.random.default_rng([index, split == "val"])
            tiles = [[draw_scene(generator, 120) for _ in range(4)] for _ in range(3)]
            image = np.vstack([np.hstack([picture for picture, _ in row]) for row in tiles])
            mask = np.vstack([np.hstack([classes for _, classes in row]) for row in tiles])
            mask = np.where(mask < 0, 255, (mask + 7 * (index % 2)) % CLASSES).astype(np.uint8)
            cv2.imwrite(str(folder / split / "images" / f"{index:04d}.png"), image[..., ::-1])
            cv2.imwrite(str(folder / split / "masks" / f"{index:04d}.png"), mask)


def segkit(data: Path, folder: Path, network: str, steps: int) -> tuple[float, int]:
    """Images/s of the whole command, and the network's parameters."""
    command = [sys.executable, str(REPOSITORY / "train.py"), *OURS[network]]
    command += ["loss=combined", "transform=default", "dataset=folder", f"dataset.root={data}"]
    command += [f"dataset.num_classes={CLASSES}", f"trainer.batch_size={BATCH_SIZE}", "optimizer=adamw_scratch"]
    command += ["trainer=amp", "trainer.precision=bf16", f"trainer.max_steps={steps}", "trainer.max_epochs=null"]
    command += ["trainer.evaluate.every_epochs=null", f"hydra.run.dir={folder}", f"paths.output_dir={folder.parent}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    ends = [line["time"] for line in lines if line["kind"] == "train"]
    counted = ends[WARM_UP_STEPS - 1 :]
    parameters = json.loads((folder / "summary.json").read_text())["parameters"]
    return BATCH_SIZE * (len(counted) - 1) / (counted[-1] - counted[0]), parameters


def lightning(
    python: Path, data: Path, folder: Path, *, network: str, steps: int, workers: int, variant: str
) -> tuple[float, int]:
    """Images/s of the Lightning program, and the network's parameters."""
    command = [str(python), str(PROGRAM), str(data), "--network", network, "--classes", str(CLASSES)]
    command += ["--batch-size", str(BATCH_SIZE), "--steps", str(steps), "--warm-up", str(WARM_UP_STEPS)]
    command += ["--workers", str(workers), "--logs", str(folder), *VARIANTS[variant]]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "NO_ALBUMENTATIONS_UPDATE": "1"}
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    found = json.loads(output.splitlines()[-1])
    return BATCH_SIZE * found["steps"] / found["seconds"], found["parameters"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30, help="counted steps a round")
    parser.add_argument("--network", choices=tuple(OURS), default="smp")
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=["as-written", "without-metric"])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="that Lightning is tried with")
    options = parser.parse_args()
    python = environment(ENVIRONMENT, PACKAGES, beside_the_running_one=True)
    steps = options.steps + WARM_UP_STEPS
    ours: list[float] = []
    theirs: dict[tuple[str, int], list[float]] = {(v, w): [] for v in options.variants for w in options.workers}
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        write_data(place / "data", steps * BATCH_SIZE)
        for number in range(options.rounds):
            speed, size = segkit(place / "data", place / f"segkit{number}", options.network, steps)
            ours.append(speed)
            print(f"round {number + 1}: segkit {speed:.2f} img/s ({size / 1e6:.2f} M parameters)", flush=True)
            for (variant, workers), speeds in theirs.items():
                speed, size = lightning(
                    python,
                    place / "data",
                    place / f"lightning{number}-{variant}-{workers}",
                    network=options.network,
                    steps=steps,
                    workers=workers,
                    variant=variant,
                )
                speeds.append(speed)
                print(
                    f"  Lightning {variant}, {workers} workers: {speed:.2f} img/s ({size / 1e6:.2f} M parameters)",
                    flush=True,
                )
    own = statistics.median(ours)
    print(f"segkit                     {own:8.2f} img/s (median of {options.rounds})")
    for variant in options.variants:
        median, workers = max((statistics.median(theirs[variant, w]), w) for w in options.workers)
        print(f"Lightning {variant:16s} {median:8.2f} img/s with {workers} workers; ratio {own / median:.2f}")


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    main()
