"""The fused presets draw from the distribution of the Albumentations pipelines that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import hydra
import numpy as np
import pytest
from numpy.typing import NDArray
from omegaconf import OmegaConf
from scipy import stats

from segkit.config import instantiate
from segkit.contracts import Sample
from segkit.data.transforms.color import PhotometricDistortion
from segkit.data.transforms.crop_window import RandomScaleCrop

CONF = Path(__file__).parents[2] / "conf"
CROP, HEIGHT, WIDTH = 48, 96, 128
SAMPLES = 500
# Two samples of 500 from one distribution differ by more once in a thousand times; seeds are fixed.
LEAST_P = 1e-3


def preset(name: str, keep: Callable[[dict[str, Any]], bool]) -> Any:
    """The preset with those of its steps that `keep` accepts."""
    OmegaConf.register_new_resolver("pid", lambda: 0, replace=True)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        values = instantiate.plain(hydra.compose("train", [f"transform={name}", f"dataset.crop_size={CROP}"]))
    node = values["transform"]
    node["steps"] = [step for step in node["steps"] if keep(step)]
    node = instantiate.with_supplied(node, "transform", {"ignore_index": 255})
    return instantiate.build(node, "transform")


def is_color(step: dict[str, Any]) -> bool:
    return any(word in step["_target_"] for word in ("Jitter", "Blur", "Nois"))


def coordinates() -> Sample:
    """Pixels that tell where they were: row and column as shares of the image; 5 classes in the mask."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    image = np.stack([(rows + 0.5) / HEIGHT, (columns + 0.5) / WIDTH, np.ones_like(rows)], axis=-1)
    return Sample(image, scene().mask, "coordinates")


@lru_cache
def scene() -> Sample:
    random = np.random.default_rng(0)
    coarse = random.uniform(0, 5, (6, 8)).astype(np.float32)
    mask = cv2.resize(coarse, (WIDTH, HEIGHT)).astype(np.uint8)
    colors = random.integers(40, 216, (5, 3))
    return Sample((colors[mask] + random.integers(-9, 10, (HEIGHT, WIDTH, 3))).astype(np.uint8), mask, "scene")


def geometry(transform: Any) -> NDArray[np.float64]:
    """(SAMPLES, 7): scale, row, column, whether mirrored (2) and turned, and padding, found in the crops themselves."""
    found = []
    original = coordinates()
    for seed in range(SAMPLES):
        crop = transform(original, seed)
        valid = crop.image[..., 2] > 0.99
        down, right = np.gradient(crop.image[..., 0]), np.gradient(crop.image[..., 1])
        middle = cv2.erode(valid.astype(np.uint8), np.ones((5, 5)), borderType=cv2.BORDER_CONSTANT, borderValue=0) == 1
        # How much of the image's height and width one pixel of the crop is, along the crop's rows and columns.
        rows_down, rows_right = (float(part[middle].mean()) for part in down)
        columns_down, columns_right = (float(part[middle].mean()) for part in right)
        scale = 1 / (HEIGHT * np.hypot(rows_down, rows_right))
        place = crop.image[valid].mean(axis=0)
        turned = abs(rows_right) > abs(rows_down)
        mirrored = rows_down + rows_right < 0, columns_down + columns_right < 0
        found.append([scale, place[0], place[1], *mirrored, turned, 1 - valid.mean()])
    return np.array(found, np.float64)


def colors(transform: Any) -> NDArray[np.float64]:
    """(SAMPLES, 9): means and deviations of the channels, saturation, sharpness, and the share of class 2."""
    found = []
    for seed in range(SAMPLES):
        crop = transform(scene(), seed)
        valid = crop.image[crop.mask != 255].astype(np.float64)
        middle = crop.image[CROP // 4 : -CROP // 4, CROP // 4 : -CROP // 4]
        sharpness = np.log1p(cv2.Laplacian(middle, cv2.CV_32F).var())
        found.append(
            [*valid.mean(axis=0), *valid.std(axis=0), np.ptp(valid, axis=1).mean(), sharpness, (crop.mask == 2).mean()]
        )
    return np.array(found)


def assert_same_distribution(first: NDArray[Any], second: NDArray[Any], names: str) -> None:
    assert first.shape == second.shape
    for number, name in enumerate(names.split()):
        p = stats.ks_2samp(first[:, number], second[:, number]).pvalue
        assert p > LEAST_P, f"{name}: {first[:, number].mean():.3f} and {second[:, number].mean():.3f}, p={p:.1e}"


@pytest.mark.parametrize("name", ["default", "strong"])
def test_scale_place_and_flips_are_those_of_albumentations(name: str) -> None:
    fused = geometry(preset(name, lambda step: not is_color(step)))
    reference = geometry(preset(f"{name}_albumentations", lambda step: not is_color(step)))
    # Windows have whole pixels: at 48 pixels of crop the scale is met to 1 %.
    assert_same_distribution(np.round(fused, 1), np.round(reference, 1), "scale row column up left turned padding")
    assert_same_distribution(fused[:, 1:3], reference[:, 1:3], "row column")


@pytest.mark.parametrize("name", ["default", "strong"])
def test_colors_blur_and_classes_are_those_of_albumentations(name: str) -> None:
    fused = colors(preset(name, lambda step: True))
    reference = colors(preset(f"{name}_albumentations", lambda step: True))
    assert_same_distribution(fused, reference, "red green blue std std std saturation sharpness class")


def test_shares_of_classes_are_those_of_albumentations() -> None:
    def shares(transform: Any) -> NDArray[np.float64]:
        masks = [transform(scene(), seed).mask for seed in range(SAMPLES)]
        return np.array([np.bincount(mask.ravel(), minlength=256) for mask in masks]).mean(axis=0) / CROP**2

    fused = shares(preset("default", lambda step: not is_color(step)))
    reference = shares(preset("default_albumentations", lambda step: not is_color(step)))
    assert fused.sum() == pytest.approx(1)
    np.testing.assert_allclose(fused, reference, atol=0.02)


@pytest.mark.parametrize(("word", "share"), [("Jitter", 0.5), ("Blur", 0.3)])
@pytest.mark.parametrize("name", ["default", "default_albumentations"])
def test_each_step_is_done_to_its_share_of_samples(name: str, word: str, share: float) -> None:
    plain = preset(name, lambda step: not is_color(step))
    transform = preset(name, lambda step: not is_color(step) or word in step["_target_"])
    # Crops are drawn before colours, so they are the same but for the step.
    changed = [
        not np.array_equal(transform(scene(), seed).image, plain(scene(), seed).image) for seed in range(SAMPLES)
    ]
    assert np.mean(changed) == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / SAMPLES))


class TestMmsegmentation:
    """Against its definitions, written out here plainly."""

    def test_crops_are_drawn_again_as_its_random_crop_does(self) -> None:
        mask = scene().mask
        draw = RandomScaleCrop([1, 1], max_class_share=0.75)
        random, other = np.random.default_rng(0), np.random.default_rng(1)
        fused, reference = [], []
        for _ in range(SAMPLES):
            rows, columns = draw(mask, (CROP, CROP), 255, random)
            fused.append(mask[rows.start : rows.start + CROP, columns.start : columns.start + CROP])
            for _ in range(10):
                top, left = other.integers(HEIGHT - CROP + 1), other.integers(WIDTH - CROP + 1)
                crop = mask[top : top + CROP, left : left + CROP]
                counts = np.unique(crop, return_counts=True)[1]
                if len(counts) > 1 and counts.max() / counts.sum() < 0.75:
                    break
            reference.append(crop)
        largest = [np.array([np.bincount(c.ravel()).max() for c in crops]) / CROP**2 for crops in (fused, reference)]
        assert_same_distribution(largest[0][:, None], largest[1][:, None], "largest")
        assert max(largest[0]) <= 0.75

    def test_colors_are_those_of_its_photometric_distortion(self) -> None:
        step = PhotometricDistortion()
        image = scene().image
        fused, reference = [], []
        for seed in range(SAMPLES):
            for made, found in (
                (step(image, np.random.default_rng(seed)), fused),
                (self.distorted(image, np.random.default_rng(SAMPLES + seed)), reference),
            ):
                pixels = made.reshape(-1, 3).astype(np.float64)
                found.append([*pixels.mean(axis=0), *pixels.std(axis=0), np.ptp(pixels, axis=1).mean()])
        # It cuts off decimals where this rounds, and half its samples keep their hue exactly: one grey level of
        # difference would count as another distribution without some grain.
        grain = np.random.default_rng(0).normal(0, 2, (2, SAMPLES, 7))
        names = "red green blue std std std saturation"
        assert_same_distribution(np.array(fused) + grain[0], np.array(reference) + grain[1], names)

    @staticmethod
    def distorted(image: NDArray[Any], random: np.random.Generator) -> NDArray[Any]:
        def convert(pixels: NDArray[Any], alpha: float = 1, beta: float = 0) -> NDArray[Any]:
            return np.clip(pixels.astype(np.float32) * alpha + beta, 0, 255).astype(np.uint8)

        def contrast(pixels: NDArray[Any]) -> NDArray[Any]:
            return convert(pixels, alpha=random.uniform(0.5, 1.5)) if random.integers(2) else pixels

        if random.integers(2):
            image = convert(image, beta=random.uniform(-32, 32))
        first = random.integers(2)
        image = contrast(image) if first else image
        if random.integers(2):
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
            hsv[..., 1] = convert(hsv[..., 1], alpha=random.uniform(0.5, 1.5))
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        if random.integers(2):
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
            hsv[..., 0] = (hsv[..., 0].astype(int) + random.integers(-18, 18)) % 180
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        return image if first else contrast(image)
