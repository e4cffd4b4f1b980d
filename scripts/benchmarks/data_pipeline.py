"""Samples per CPU-second of segkit's data pipeline as a multiple of a usual one's, both measured in one run.

    python scripts/benchmarks/data_pipeline.py [--rounds 5] [--images 12] [--transform default]

The reference is what established tools do: OpenCV decodes the whole image, Albumentations scales it at random,
pads, crops, mirrors, jitters colours, blurs, normalises to float32; a tensor, and a mask of int64. segkit draws
from the same distribution (tests/data/test_transforms_statistics.py), and hands over 8-bit images and masks; its
model normalises on the device. The row "normalised here" adds that work to segkit's pipeline on the CPU.

The rows with a cache count passes after the first, which fills it; "first pass" is what that one costs.

`--files N` adds how long a folder of N images and N masks takes to open with all its checks, the first and the
second time, each in a process of its own.

Files are drawn anew, so that they compress like photographs and label maps, and lie in a temporary folder.
Everything runs in this process on one thread, the pipelines take turns, and the medians of the rounds count.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

import albumentations  # noqa: E402
import cv2  # noqa: E402
import hydra  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from albumentations.pytorch import ToTensorV2  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402

from segkit.config.recipe import Recipe  # noqa: E402
from segkit.data.datasets.decoded_cache import with_decoded_cache  # noqa: E402
from segkit.data.datasets.folder import Folder  # noqa: E402
from segkit.data.loader import TrainLoader  # noqa: E402
from segkit.experiment.assembly import Experiment  # noqa: E402

Cache = Literal["disk", "ram"] | None
NUM_CLASSES = 19
BATCH_SIZE = 4
CASES = [
    # height, width, crop, suffix
    (1024, 2048, 512, ".png"),
    (1024, 2048, 512, ".jpg"),
    (360, 480, 256, ".png"),
]


class Reference(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """The pipeline of the established tools, file by file."""

    def __init__(self, root: Path, crop: int) -> None:
        self.images = sorted((root / "train" / "images").iterdir())
        self.masks = sorted((root / "train" / "masks").iterdir())
        self.transform = albumentations.Compose(
            [
                albumentations.RandomScale(scale_limit=0.5, p=0.5),
                albumentations.PadIfNeeded(crop, crop, position="random", fill=0, fill_mask=255),
                albumentations.RandomCrop(crop, crop),
                albumentations.HorizontalFlip(p=0.5),
                albumentations.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.5),
                albumentations.GaussianBlur(blur_limit=(3, 7), p=0.3),
                albumentations.Normalize(),
                ToTensorV2(),
            ],
            seed=0,
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = cv2.imread(str(self.images[index]), cv2.IMREAD_COLOR_RGB)
        mask = cv2.imread(str(self.masks[index]), cv2.IMREAD_GRAYSCALE)
        sample = self.transform(image=image, mask=mask)
        return sample["image"], sample["mask"].long()


def scene(random: np.random.Generator, height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An image (H, W, 3) of blobs with some grain, and its mask (H, W)."""
    coarse = random.uniform(0, NUM_CLASSES, (height // 64 + 2, width // 64 + 2)).astype(np.float32)
    mask = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, NUM_CLASSES - 1).astype(np.uint8)
    colors = random.integers(30, 226, (256, 3))
    image = cv2.GaussianBlur(colors[mask].astype(np.float32), (0, 0), 1.5) + random.normal(0, 1.5, (height, width, 3))
    return image.clip(0, 255).astype(np.uint8), mask


def draw_folder(root: Path, number: int, height: int, width: int, suffix: str) -> None:
    random = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / "train" / name).mkdir(parents=True)
    for index in range(number):
        image, mask = scene(random, height, width)
        cv2.imwrite(str(root / "train" / "images" / f"{index}{suffix}"), image)
        cv2.imwrite(str(root / "train" / "masks" / f"{index}.png"), mask)


def composed_transform(name: str, crop: int) -> Any:
    with hydra.initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        config = hydra.compose("train", [f"transform={name}", f"dataset.crop_size={crop}"])
    return Experiment(Recipe.of(config)).transform


def ours(root: Path, crop: int, transform: str, cache: Cache) -> Iterator[Any]:
    source = Folder(
        split="train", root=str(root), num_classes=NUM_CLASSES, decoded_cache=cache, cache_dir=str(root / "cache")
    )
    loader = TrainLoader(
        with_decoded_cache(source),
        composed_transform(transform, crop),
        batch_size=BATCH_SIZE,
        seed=0,
        num_workers=0,
    )
    return (step[0] for step in loader.batches(0))


def normalised(batches: Iterator[Any]) -> Iterator[Any]:
    mean = 255 * torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = 255 * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    for batch in batches:
        yield (batch.images.float() - mean) / std, batch.mask.long()


def reference(root: Path, crop: int) -> Iterator[Any]:
    dataset = Reference(root, crop)
    while True:
        yield from DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True, drop_last=True)


def measured(pipelines: dict[str, Iterator[Any]], rounds: int, batches: int) -> dict[str, float]:
    """Samples per CPU-second of each pipeline, the median of rounds in which they take turns."""
    for stream in pipelines.values():
        for _ in range(batches):  # fills caches
            next(stream)
    speeds: dict[str, list[float]] = {name: [] for name in pipelines}
    for _ in range(rounds):
        for name, stream in pipelines.items():
            started = time.process_time()
            for _ in range(batches):
                next(stream)
            speeds[name].append(batches * BATCH_SIZE / (time.process_time() - started))
    return {name: statistics.median(found) for name, found in speeds.items()}


def first_pass(root: Path, crop: int, transform: str, batches: int) -> float:
    """Samples per CPU-second while the cache on disk is filled."""
    stream = ours(root, crop, transform, "disk")
    started = time.process_time()
    for _ in range(batches):
        next(stream)
    return batches * BATCH_SIZE / (time.process_time() - started)


def seconds_to_open(number: int) -> list[float]:
    """Wall seconds from nothing to a checked source of so many samples, the first and the second time."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw_folder(root, 1, 8, 8, ".png")
        for name in ("images", "masks"):
            content = (root / "train" / name / "0.png").read_bytes()
            for index in range(1, number):
                (root / "train" / name / f"{index}.png").write_bytes(content)
        command = [sys.executable, __file__, "--open", folder]
        return [float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout) for _ in range(2)]


def open_folder(root: Path) -> float:
    started = time.perf_counter()
    source = Folder(split="train", root=str(root), num_classes=NUM_CLASSES, cache_dir=str(root / "cache"))
    source.check()
    source.identity()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=12, help="files drawn for each case")
    parser.add_argument("--transform", default="default", help="option of conf/transform for segkit's rows")
    parser.add_argument("--files", type=int, help="also open a folder of so many images, e.g. 100000")
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.open:
        print(open_folder(options.open))
        return
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    OmegaConf.register_new_resolver("pid", os.getpid, replace=True)
    for height, width, crop, suffix in CASES:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            draw_folder(root, options.images, height, width, suffix)
            make: Callable[[Cache], Iterator[Any]] = lambda cache: ours(root, crop, options.transform, cache)  # noqa: B023, E731
            batches = max(1, options.images // BATCH_SIZE)
            filling = first_pass(root, crop, options.transform, batches)
            speeds = measured(
                {
                    "reference": reference(root, crop),
                    "segkit": make(None),
                    "segkit, normalised here": normalised(make(None)),
                    "segkit, decoded_cache=disk": make("disk"),
                    "segkit, decoded_cache=ram": make("ram"),
                    "segkit, ram, normalised here": normalised(make("ram")),
                },
                options.rounds,
                batches,
            )
            speeds["segkit, disk, first pass"] = filling
        print(f"\n{width}x{height} {suffix} to crops of {crop}")
        for name, speed in speeds.items():
            print(f"  {name:30} {speed:8.1f} samples/CPU-s {speed / speeds['reference']:7.2f} x", flush=True)
    if options.files:
        first, second = seconds_to_open(options.files)
        print(f"\n{options.files} images and masks opened and checked: {first:.2f} s, the second time {second:.2f} s")


if __name__ == "__main__":
    main()
