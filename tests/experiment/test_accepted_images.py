"""What `segkit.load(...).predict` takes, and what it refuses because it could mean two things."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segkit.errors import DataError, UserError
from segkit.experiment.accepted_images import AcceptedImages, kind_of_training
from segkit.experiment.mean_and_std import ImageKind

EIGHT_BIT = ImageKind("uint8", 0, 255)
SIXTEEN_BIT = ImageKind("float32", 0.01, 0.93)
OWN_UNITS = ImageKind("float32", -817, 146)
RGB = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3) * 10


def accepted(kind: ImageKind = EIGHT_BIT, channels: int = 3) -> AcceptedImages:
    return AcceptedImages(channels, kind)


@pytest.mark.parametrize(
    "image",
    [
        RGB.astype(np.uint16) * 257,
        RGB.astype(np.int64),
        RGB.astype(np.int8),
        RGB > 0,
        RGB.astype(np.float32),
        RGB.astype(np.float64),
        RGB.astype(np.float16),
        (RGB / 255 - 0.5) / 0.5,
        np.where(RGB == 0, np.nan, RGB / 255),
        np.where(RGB == 0, np.inf, RGB / 255),
        RGB.astype(complex),
        RGB.astype(object),
        RGB.astype(str),
        RGB.transpose(2, 0, 1),
        RGB[None],
        RGB[..., :0],
        RGB[:0],
        np.concatenate([RGB, RGB], axis=2),
        RGB[0, 0],
        5,
        None,
        torch.from_numpy(RGB),
        torch.from_numpy(RGB).permute(2, 0, 1)[None],
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(image: Any):
    with pytest.raises(UserError, match=r"predict.*(allowed|takes|not finite)"):
        accepted().array(image)


@pytest.mark.parametrize(
    ("image", "value_range"),
    [
        (RGB, None),
        (RGB, (0, 255)),
        (RGB.astype(np.int64), (0, 255)),
        (RGB.astype(np.float32), (0, 255)),
        (Image.fromarray(RGB), None),
        (RGB[:, ::-1].copy()[:, ::-1], None),
        (np.dstack([RGB, np.full((2, 4), 7, np.uint8)]), None),
    ],
)
def test_eight_bits_however_they_come_are_the_same_bytes(image: Any, value_range: Any):
    taken = accepted().array(image, value_range)
    assert taken.dtype == np.uint8
    np.testing.assert_array_equal(taken, RGB)


@pytest.mark.parametrize(
    ("image", "value_range"),
    [
        (np.array([0, 32768, 65535], np.uint16), (0, 65535)),
        (np.array([0, 32768, 65535], np.float64) / 65535, None),
        (np.array([-1, 0, 1]), (-1, 1)),
        (np.array([0, 2048, 4095], np.uint16), (0, 4095)),
    ],
)
def test_a_stated_range_runs_from_black_to_white(image: Any, value_range: Any):
    taken = accepted().array(np.broadcast_to(image, (2, 3, 3)).swapaxes(1, 2), value_range)
    assert taken.dtype == np.float32
    np.testing.assert_allclose(taken[0, :, 0], [0, 0.5, 1], atol=2e-4)


@pytest.mark.parametrize("value_range", [(0, 100), (255, 0), (0, float("nan"))])
def test_a_range_that_cannot_be_is_refused(value_range: Any):
    with pytest.raises(UserError, match="value_range"):
        accepted().array(RGB.astype(np.int32), value_range)


def test_grey_is_repeated_for_three_channels_and_taken_for_one():
    grey = RGB[..., 0]
    np.testing.assert_array_equal(accepted().array(grey), np.dstack([grey] * 3))
    np.testing.assert_array_equal(accepted(channels=1).array(grey), grey[..., None])
    with pytest.raises(UserError, match=r"\(2, 4, 3\); allowed: \(H, W, 1\)"):
        accepted(channels=1).array(RGB)


def test_the_message_says_what_to_give():
    with pytest.raises(UserError, match=r"uint16 values in 0\.\.59110;.*value_range=\(0, 65535\)"):
        accepted().array(RGB.astype(np.uint16) * 257)
    with pytest.raises(UserError, match=r"float32 values in 0\.\.230;.*value_range=\(0, 255\)"):
        accepted().array(RGB.astype(np.float32))
    with pytest.raises(UserError, match=r"-1\.\.0\.8.*normalises them itself$"):
        accepted().array((RGB / 255 - 0.5) / 0.5)
    with pytest.raises(UserError, match=r"\(3, 2, 4\).*transpose\(1, 2, 0\)"):
        accepted().array(RGB.transpose(2, 0, 1))


def test_models_of_16_bit_files_take_their_arrays_as_files_are_read(tmp_path: Path):
    image = RGB.astype(np.uint16) * 257
    np.save(tmp_path / "a.npy", image)
    images = accepted(SIXTEEN_BIT)
    np.testing.assert_array_equal(images.array(image), images.read(tmp_path / "a.npy"))
    np.testing.assert_array_equal(images.array(image, (0, 65535)), images.read(tmp_path / "a.npy"))
    assert images.array(np.full((2, 2, 3), 1.1)).max() == np.float32(1.1)  # a reflectance
    with pytest.raises(UserError, match=r"0\.\.230"):
        images.array(RGB.astype(np.float32))


def test_models_of_images_in_units_of_their_own_take_these_units_alone(tmp_path: Path):
    images, hounsfield = accepted(OWN_UNITS, 1), np.array([[-1000, 40], [0, 3000]], np.int16)
    np.save(tmp_path / "a.npy", hounsfield)
    np.testing.assert_array_equal(images.array(hounsfield), images.read(tmp_path / "a.npy"))
    np.testing.assert_array_equal(images.array(hounsfield.astype(np.float64))[..., 0], hounsfield)
    for image, value_range in ((RGB[..., 0], None), (hounsfield.view(np.uint16), None), (hounsfield, (-1000, 3000))):
        with pytest.raises(UserError, match=r"units of their own \(-817\.\.146"):
            images.array(image, value_range)
    Image.fromarray(RGB[..., 0]).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: .*units of their own"):
        images.read(tmp_path / "a.png")


def test_files_of_another_scale_are_refused_by_name(tmp_path: Path):
    np.save(tmp_path / "a.npy", RGB.astype(np.float32))
    with pytest.raises(DataError, match=r"a\.npy: float32 values in 0\.\.230"):
        accepted().read(tmp_path / "a.npy")


def test_batches_are_held_to_the_same():
    images = accepted()
    images.check(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    images.check(torch.ones(1, 3, 4, 4))
    for batch in (torch.full((1, 3, 4, 4), 255.0), torch.full((1, 3, 4, 4), -0.5), torch.zeros(1, 4, 4, 3)):
        with pytest.raises(UserError, match="the model was given"):
            images.check(batch)


def test_pillow_images_are_turned_upright_and_palettes_become_colours():
    palette = Image.fromarray(RGB).convert("P")
    assert accepted().array(palette).shape == (2, 4, 3)
    turned = Image.fromarray(RGB)
    turned.getexif()[0x0112] = 6
    np.testing.assert_array_equal(accepted().array(turned), np.rot90(RGB, -1))


def test_older_checkpoints_tell_the_kind_by_what_images_were_normalised_with():
    assert kind_of_training(None, [0.4], [0.2]) == EIGHT_BIT
    assert kind_of_training(None, [-300.0], [400.0]).has_own_units
    assert kind_of_training(OWN_UNITS._asdict(), [0.4], [0.2]) == OWN_UNITS
