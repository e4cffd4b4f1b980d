from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import albumentations
import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.contracts import LabelSpace, Sample, UserError
from segkit.data.transforms.albumentations_pipeline import AlbumentationsTransform, random_crop
from segkit.data.transforms.apply import augmented
from tests.composed import recipe

CONF = Path(__file__).parents[3] / "conf"
PRESETS = sorted(path.stem for path in (CONF / "transform").glob("*.yaml"))
CROP = (32, 48)
Apply = Callable[[Sample, int], Sample]


@lru_cache
def preset(name: str, ignore_index: int = 255, transform: str = "") -> Apply:
    """The preset as a function of a sample and a seed; what needs other samples finds the same one everywhere."""
    made = built(name, ignore_index, transform)
    return lambda sample, seed: augmented(made, Repeated(sample), 0, seed)


def built(name: str, ignore_index: int = 255, transform: str = "") -> Any:
    overrides = [
        f"transform={name}",
        f"dataset.crop_size=[{CROP[0]},{CROP[1]}]",
        f"dataset.ignore_index={ignore_index}",
        *transform.split(),
    ]
    return recipe(*overrides).build("transform", filled={"ignore_index": ignore_index})


class Repeated:
    labels = LabelSpace(tuple("abcdefghij"), ((0, 0, 0),) * 10)

    def __init__(self, sample: Sample) -> None:
        self.sample = sample

    def __len__(self) -> int:
        return 3

    def read(self, index: int) -> Sample:
        return self.sample


def sample(height: int, width: int, ids: tuple[int, ...] = (3, 7), dtype: Any = np.uint8) -> Sample:
    """An image whose pixels tell the id of the mask: red is ten times the id."""
    generator = np.random.default_rng(height * 1000 + width)
    blocks = generator.choice(np.array(ids, dtype), (-(-height // 8), -(-width // 8)))
    mask = np.kron(blocks, np.ones((8, 8), dtype))[:height, :width].astype(dtype)
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = 10 * np.abs(mask.astype(np.int64)) % 256
    return Sample(image, mask, f"{height}x{width}")


def test_there_are_presets() -> None:
    named = {"light", "default", "strong", "multi_scale", "medical", "mmseg", "copy_paste", "class_balanced"}
    assert named <= set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
class TestPresets:
    @pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 2), (32, 48), (33, 47), (100, 120)])
    def test_any_image_becomes_a_crop_of_its_own_labels(self, name: str, size: tuple[int, int]) -> None:
        transform = preset(name)
        for seed in range(15):
            result = transform(sample(*size), seed)
            expected = CROP if name != "none" else size
            assert result.image.shape == (*expected, 3)
            assert result.mask.shape == expected
            assert (result.image.dtype, result.mask.dtype) == (np.uint8, np.uint8)
            assert result.image.flags.c_contiguous
            assert result.mask.flags.c_contiguous
            # No id 0, although uncovered pixels are black: they are ignored. And no id between 3 and 7.
            assert set(np.unique(result.mask)) <= {3, 7, 255}
            assert result.id == f"{size[0]}x{size[1]}"

    def test_the_seed_decides(self, name: str) -> None:
        transform, other = preset(name), preset.__wrapped__(name)
        original = sample(60, 60)
        results = {}
        for seed in (*range(8), *reversed(range(8))):
            result = transform(original, seed)
            key = (result.image.tobytes(), result.mask.tobytes())
            assert results.setdefault(seed, key) == key, "the same after other calls"
            again = other(original, seed)
            assert (again.image.tobytes(), again.mask.tobytes()) == key, "the same in another transform"
        assert len(set(results.values())) > (4 if name != "none" else 0)

    @pytest.mark.parametrize("ignore_index", [-100, 70000])
    def test_ids_beyond_8_bits_survive(self, name: str, ignore_index: int) -> None:
        transform = preset(name, ignore_index)
        for seed in range(8):
            mask = transform(sample(20, 30, ids=(300, 65535), dtype=np.int32), seed).mask
            assert mask.dtype == np.int32
            assert set(np.unique(mask)) <= {300, 65535, ignore_index}

    def test_multi_label_masks_keep_their_channels(self, name: str) -> None:
        transform = preset(name)
        original = sample(50, 60, ids=(0, 1))
        layers = np.stack([original.mask, 1 - original.mask, np.zeros_like(original.mask)], axis=-1)
        for seed in range(8):
            result = transform(Sample(original.image, layers, "layers"), seed)
            assert result.mask.shape == (*result.image.shape[:2], 3)
            assert set(np.unique(result.mask)) <= {0, 1, 255}
            covered = result.mask[..., 0] != 255
            # Padding covers all channels, and the first two exclude each other wherever nothing is pasted.
            assert np.array_equal(result.mask[..., 2] == 255, ~covered)
            assert np.array_equal(result.mask[..., 1][covered], 1 - result.mask[..., 0][covered])

    def test_float_images_stay_float(self, name: str) -> None:
        original = sample(40, 40)
        deep = Sample(original.image / np.float32(255), original.mask, "deep")
        for seed in range(8):
            image = preset(name)(deep, seed).image
            assert image.dtype == np.float32
            assert image.max() <= 1

    def test_the_input_is_left_alone(self, name: str) -> None:
        original = sample(60, 60)
        image, mask = original.image.copy(), original.mask.copy()
        for seed in range(8):
            preset(name)(original, seed)
        assert np.array_equal(original.image, image)
        assert np.array_equal(original.mask, mask)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_image_and_mask_move_together(height: int, width: int, seed: int) -> None:
    steps = [
        albumentations.HorizontalFlip(p=0.5),
        albumentations.RandomRotate90(p=0.5),
        random_crop(CROP, fill_mask=255),
    ]
    result = AlbumentationsTransform(steps, CROP)(sample(height, width), seed)
    valid = result.mask != 255
    assert np.array_equal(result.image[..., 0][valid], 10 * result.mask[valid])
    assert not result.image[~valid].any()
    # Padding and cropping keep as much of the image as fits.
    assert valid.sum() in {min(h, CROP[0]) * min(w, CROP[1]) for h, w in ((height, width), (width, height))}


def test_global_generators_serve_users_steps_and_stay_as_they_were() -> None:
    drawn: list[tuple[float, ...]] = []

    def draw(image: Any, **_: Any) -> Any:
        drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))
        return image

    transform = AlbumentationsTransform([albumentations.Lambda(image=draw, p=1)], None)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    for seed in (5, 6, 5):
        transform(sample(8, 8), seed)
    assert drawn[0] == drawn[2] != drawn[1]
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_steps_draw_independently() -> None:
    """Albumentations' own `set_random_seed` starts all steps alike: both flips, or neither."""
    steps = [albumentations.HorizontalFlip(p=0.5), albumentations.VerticalFlip(p=0.5)]
    transform = AlbumentationsTransform(steps, None)
    image = np.arange(4, dtype=np.uint8).reshape(2, 2, 1).repeat(3, axis=2)
    corners = [int(transform(Sample(image, image[..., 0], "corners"), seed).image[0, 0, 0]) for seed in range(400)]
    # Each of the four corners of the image comes to the upper left in a quarter of the samples: 100 +- 35.
    assert all(65 <= corners.count(corner) <= 135 for corner in range(4))


def test_a_wrong_size_names_the_key() -> None:
    transform = AlbumentationsTransform([albumentations.HorizontalFlip()], 32)
    with pytest.raises(UserError, match=r"made 8x9 pixels of 8x9, but transform\.size is 32x32"):
        transform(sample(8, 9), 0)


def test_a_step_that_makes_tensors_is_refused() -> None:
    transform = AlbumentationsTransform([albumentations.ToFloat()], None)
    with pytest.raises(UserError, match=r"made a float32 image .* allowed: a uint8 image"):
        transform(sample(8, 9), 0)


@pytest.mark.parametrize("name", PRESETS)
def test_training_sees_the_scale_of_evaluation(name: str) -> None:
    """Squares of 8x8 pixels in images larger and smaller than the crop: how large do they come out?"""
    overrides = "dataset.crop_size=[96,128]" + " transform.p=0" * (name == "copy_paste")
    scales: list[float] = []
    for height, width in ((110, 200), (60, 80)):
        rows, columns = np.mgrid[:height, :width]
        squares = ((rows % 14 < 8) & (columns % 14 < 8)).astype(np.uint8)
        original = Sample(squares[..., None].repeat(3, axis=2) * np.uint8(200), squares, "squares")
        for seed in range(40):
            mask = np.pad(preset(name, transform=overrides)(original, seed).mask, 1, constant_values=255)
            _, _, parts, _ = cv2.connectedComponentsWithStats((mask == 1).astype(np.uint8))
            # Those that padding or the edge of the crop may have cut do not tell.
            whole = [(w, h, area) for x, y, w, h, area in parts[1:].tolist() if is_whole(mask, x, y, w, h)]
            scales += [np.sqrt(area) / 8 for *_, area in whole[:1]]
            if name not in ("medical", "custom"):  # which bend and turn
                assert all(abs(w - h) <= 1 for w, h, _ in whole), "proportions are kept"
    assert len(scales) >= 70
    # mmsegmentation draws 0.5 to 2 evenly, whose middle is 1.25.
    middle, deviation = (1.25, 0.15) if name == "mmseg" else (1, 0.1)
    assert np.median(scales) == pytest.approx(middle, abs=deviation)


def is_whole(mask: Any, x: int, y: int, width: int, height: int) -> bool:
    return not (mask[y - 1 : y + height + 1, x - 1 : x + width + 1] == 255).any()
