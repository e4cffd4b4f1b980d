"""Images in units of their own: what training shows has the scale of what evaluation and prediction show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segkit.contracts import Sample
from segkit.data.transforms import color
from segkit.data.transforms.color import PixelStep
from segkit.data.transforms.value_range import ValueRange
from tests.data.transforms.test_albumentations_pipeline import PRESETS, preset

# What the two classes of a picture look like, and by how much pixels of one class differ.
UNITS = {
    "Hounsfield": (-700.0, 60.0, 30.0),
    "reflectance": (800.0, 3000.0, 60.0),
    "kelvin": (285.0, 300.0, 0.5),
    "radiance": (2e-5, 9e-5, 3e-6),
    "12 of 16 bits": (400 / 65535, 3500 / 65535, 60 / 65535),
    "0 to 1": (0.1, 0.8, 0.03),
}
STEPS = [
    step
    for step in vars(color).values()
    if isinstance(step, type) and issubclass(step, PixelStep) and step is not PixelStep
]


def picture(units: str, channels: int = 3) -> Sample:
    random = np.random.default_rng(0)
    mask = np.zeros((40, 60), np.uint8)
    mask[:, 20:40] = 1
    dark, bright, noise = UNITS[units]
    values = np.where(mask[..., None] == 1, bright, dark) + random.normal(0, noise, (40, 60, channels))
    return Sample(values.astype(np.float32), mask, units)


def check_scale(before: NDArray[Any], after: NDArray[Any]) -> None:
    """Finite, in a range twice as wide as before at most, and still a picture."""
    assert np.isfinite(after).all()
    width = before.max() - before.min()
    assert before.min() - width <= after.min() <= after.max() <= before.max() + width
    assert after.std() > before.std() / 4


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_keeps_the_scale(name: str, units: str) -> None:
    original = picture(units)
    # All of a class lies on one side of this.
    middle = sum(UNITS[units][:2]) / 2
    told_apart: list[float] = []
    for seed in range(10):
        result = preset(name)(original, seed)
        assert result.image.dtype == np.float32
        valid = result.mask != 255
        check_scale(original.image, result.image[valid])
        right = (result.image.mean(axis=-1) > middle) == (result.mask == 1)
        told_apart.append(float(right[valid].mean()))
    # Blur, strong noise and other brightness shift some pixels across; clipping or a lost range would shift half.
    assert np.median(told_apart) > 0.85


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("units", UNITS)
def test_every_step_by_itself_keeps_the_scale(step: type[PixelStep], units: str, channels: int) -> None:
    image = picture(units, channels).image
    before = image.copy()
    for seed in range(5):
        check_scale(image, step(p=1)(image, np.random.default_rng(seed)))
    assert np.array_equal(image, before)


def test_units_change_nothing_but_the_units() -> None:
    """The same picture in other units comes out the same, in those units."""
    image = picture("Hounsfield").image
    for step in STEPS:
        plain = step(p=1)(image, np.random.default_rng(3))
        scaled = step(p=1)(image * np.float32(0.001), np.random.default_rng(3))
        np.testing.assert_allclose(scaled, plain * 0.001, atol=0.01)


def test_the_range_has_room_around_the_values() -> None:
    values = ValueRange.of(np.array([[[-1000.0], [0.0]]], np.float32))
    assert values is not None
    assert (values.low.tolist(), values.high.tolist()) == ([-1500], [500])
    unit = values.to_unit(np.array([[[-1000.0], [0.0], [-2000.0]]], np.float32))
    assert unit.ravel().tolist() == [0.25, 0.75, 0]
    assert values.from_unit(unit).ravel().tolist() == [-1000, 0, -1500]


def test_what_cannot_be_negative_does_not_become_so() -> None:
    values = ValueRange.of(np.array([[[0.0], [0.06]]], np.float32))
    assert values is not None
    assert values.low.tolist() == [0]
    assert values.high.tolist() == pytest.approx([0.09])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_8_bits_and_images_that_fill_0_to_1_are_taken_as_they_are(channels: int) -> None:
    ramp = np.linspace(0, 1, 11, dtype=np.float32)[:, None, None].repeat(channels, axis=2)
    assert ValueRange.of(ramp) is None
    assert ValueRange.of(np.zeros((3, 3, channels), np.uint8)) is None


def test_channels_that_are_no_colours_have_a_range_each() -> None:
    image = np.zeros((1, 2, 2), np.float32)
    image[0, 1] = (1, 3000)
    values = ValueRange.of(image)
    assert values is not None
    assert values.high.tolist() == [1, 4500]


def test_an_image_of_one_value_keeps_it() -> None:
    air = np.full((8, 8, 1), -1000, np.float32)
    for step in STEPS:
        assert np.array_equal(step(p=1)(air, np.random.default_rng(0)), air)


def test_padding_of_images_in_units_of_their_own_is_their_least_value() -> None:
    original = picture("kelvin")
    cut = preset("multi_scale")(Sample(original.image[:10, :10], original.mask[:10, :10], "small"), 1)
    padding = cut.image[cut.mask == 255]
    assert len(padding)
    assert padding == pytest.approx(float(original.image[:10, :10].min()))
