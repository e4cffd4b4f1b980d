from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit.contracts import Sample, UserError
from segkit.data.transforms.color import ColorJitter, GaussianBlur, GaussianNoise
from segkit.data.transforms.crop_window import Axis, RandomScaleCrop, Window
from segkit.data.transforms.fused import FusedTransform, cut_image, cut_mask


def places(height: int, width: int) -> Sample:
    """A mask in which every pixel has an id of its own, and an image that says where the pixel lies."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns, np.ones_like(rows)], axis=-1).astype(np.float32)
    return Sample(image, (rows * 1000 + columns).astype(np.int32), "places")


@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    crop=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    scale=st.floats(0.1, 4),
    turn=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_image_and_mask_show_the_same_place_to_half_a_pixel(
    height: int, width: int, crop: tuple[int, int], scale: float, turn: float, seed: int
) -> None:
    transform = FusedTransform(
        crop, -1, RandomScaleCrop([scale, scale]), horizontal_flip=0.5, vertical_flip=0.5, rotate90=turn
    )
    result = transform(places(height, width), seed)
    assert result.image.shape == (*crop, 3)
    assert result.mask.shape == crop
    valid = result.mask != -1
    assert valid.any()
    np.testing.assert_allclose(result.image[..., 2], valid, atol=1e-5)
    where = np.stack([result.mask // 1000, result.mask % 1000], axis=-1)[valid]
    # Interpolation puts the crop's pixel centre between image pixels, of which the mask takes the nearest.
    assert np.abs(result.image[..., :2][valid] - where).max() <= 0.5 + 1e-3


def test_an_unscaled_window_is_a_copy_of_the_image() -> None:
    sample = places(9, 12)
    window = Window(Axis(2, 4, 0, 4), Axis(5, 6, 0, 6))
    image, mask = cut_image(sample.image, window, (4, 6)), cut_mask(sample.mask, window, (4, 6))
    assert np.array_equal(image, sample.image[2:6, 5:11])
    assert np.array_equal(mask, sample.mask[2:6, 5:11])
    assert not np.shares_memory(image, sample.image)
    assert not np.shares_memory(mask, sample.mask)


def test_what_is_smaller_is_padded_and_flips_with_its_padding() -> None:
    sample = places(2, 3)
    window = Window(Axis(0, 2, 1, 2), Axis(0, 3, 2, 3))
    plain = cut_mask(sample.mask, window, (4, 6), ignore_index=-1)
    expected = np.full((4, 6), -1)
    expected[1:3, 2:5] = sample.mask
    assert np.array_equal(plain, expected)
    for flips, turned in (((True, False), expected[::-1]), ((False, True), expected[:, ::-1])):
        assert np.array_equal(cut_mask(sample.mask, window, (4, 6), flips, -1), turned)
        image = cut_image(sample.image, window, (4, 6), flips)
        assert np.array_equal(image[..., 2] == 1, turned != -1)


def test_shrinking_averages_over_every_pixel() -> None:
    image = np.zeros((8, 8, 1), np.uint8)
    image[3, 5] = 160
    crop = cut_image(image, Window(Axis(0, 8, 0, 2), Axis(0, 8, 0, 2)), (2, 2))
    assert crop[..., 0].tolist() == [[0, 10], [0, 0]]  # 160 of 16 pixels


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_any_number_of_channels_goes_through_every_step(channels: int, dtype: Any) -> None:
    steps = [ColorJitter(0.4, 0.4, 0.4, 0.1, p=1), GaussianBlur(p=1), GaussianNoise(p=1)]
    transform = FusedTransform(
        24, 255, RandomScaleCrop([0.3, 2]), horizontal_flip=0.5, vertical_flip=0.5, rotate90=1, steps=steps
    )
    random = np.random.default_rng(0)
    full = 255 if dtype == np.uint8 else 1
    image = (full * random.random((50, 40, channels))).astype(dtype)
    for seed in range(12):
        crop = transform(Sample(image, np.zeros((50, 40), np.uint8), "many"), seed).image
        assert (crop.shape, crop.dtype) == ((24, 24, channels), dtype)
        assert 0 <= crop.min() <= crop.max() <= full
        assert all(crop[..., channel].std() > 0 for channel in range(channels))


def test_workers_that_are_not_forked_get_it_as_well() -> None:
    transform = FusedTransform(8, 255, RandomScaleCrop([0.5, 2]), steps=[ColorJitter(p=1)])
    sample = Sample(np.full((9, 9, 3), 99, np.uint8), np.zeros((9, 9), np.uint8), "sent")
    assert np.array_equal(pickle.loads(pickle.dumps(transform))(sample, 3).image, transform(sample, 3).image)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FusedTransform(0, 255, RandomScaleCrop([1, 1])), r"transform\.size=0; allowed: one edge length"),
        (
            lambda: FusedTransform(8, 255, RandomScaleCrop([1, 1]), rotate90=2),
            r"transform\.rotate90=2; allowed: 0 to 1",
        ),
        (lambda: RandomScaleCrop([0, 1]), r"transform\.window\.scale=\[0, 1\]; allowed: \[least, most\]"),
        (lambda: RandomScaleCrop([2, 1]), r"transform\.window\.scale=\[2, 1\]"),
        (lambda: RandomScaleCrop([1, 1], p=-1), r"transform\.window\.p=-1; allowed: 0 to 1"),
        (lambda: RandomScaleCrop([1, 1], max_class_share=0), r"max_class_share=0; allowed: above 0, up to 1"),
        (lambda: ColorJitter(hue=0.6), r"hue=0\.6 of ColorJitter; allowed: 0 to 0\.5"),
        (lambda: GaussianBlur(kernel=[7, 3]), r"kernel of GaussianBlur is \[7, 3\]; allowed: \[least, most\]"),
        (lambda: GaussianNoise(p=1.5), r"p of GaussianNoise=1\.5; allowed: 0 to 1"),
    ],
)
def test_mistakes_are_named(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


class TestWindows:
    SIZE = (20, 30)

    def windows(self, mask: NDArray[Any], **keys: Any) -> list[Window]:
        draw = RandomScaleCrop(**{"scale": [1, 1], **keys})
        return [draw(mask, self.SIZE, 255, np.random.default_rng(seed)) for seed in range(300)]

    @settings(max_examples=150, deadline=None)
    @given(st.integers(1, 90), st.integers(1, 90), st.floats(0.1, 5), st.integers(0, 9), st.sampled_from([0.0, 1.0]))
    def test_a_window_lies_in_the_image_and_its_crop(
        self, height: int, width: int, scale: float, seed: int, balanced: float
    ) -> None:
        draw = RandomScaleCrop([scale, scale], class_balanced_p=balanced)
        mask = np.zeros((height, width), np.uint8)
        window = draw(mask, self.SIZE, 255, np.random.default_rng(seed))
        for axis, edge, size in zip(window, mask.shape, self.SIZE, strict=True):
            assert 0 <= axis.start < axis.start + axis.length <= edge
            assert 0 <= axis.offset < axis.offset + axis.extent <= size
            # Whole pixels: the scale is met to half a pixel of the window or of the crop.
            assert abs(axis.length - axis.extent / scale) <= 0.5 + 0.5 / scale + 1e-9 or axis.extent == 1

    def test_places_are_drawn_evenly(self) -> None:
        starts = [window.rows.start for window in self.windows(np.zeros((23, 30), np.uint8))]
        assert all(50 <= starts.count(start) <= 100 for start in range(4))

    def test_balanced_crops_show_rare_classes_as_often_as_common_ones(self) -> None:
        mask = np.zeros((100, 200), np.uint8)
        mask[70, 150] = 3  # one pixel in 20,000
        mask[:5] = 255

        def share(class_id: int, **keys: Any) -> float:
            shown = [cut_mask(mask, window, self.SIZE) == class_id for window in self.windows(mask, **keys)]
            return float(np.mean([part.any() for part in shown]))

        # 600 of 20,000 pixels a crop, and fewer crops reach a corner.
        assert share(3) < 0.1
        assert share(3, class_balanced_p=1.0) == pytest.approx(0.5, abs=0.12)
        assert share(3, class_balanced_p=1.0, classes=[3]) == 1
        assert share(3, class_balanced_p=1.0, classes=[4]) < 0.1

    def test_balanced_crops_show_the_pixel_anywhere(self) -> None:
        mask = np.zeros((100, 200), np.uint8)
        mask[50, 100] = 1
        windows = self.windows(mask, class_balanced_p=1.0, classes=[1])
        rows = [50 - window.rows.start for window in windows]
        assert min(rows) == 0
        assert max(rows) == 19

    def test_large_images_are_searched_on_a_grid_that_misses_nothing_for_good(self) -> None:
        mask = np.zeros((1024, 2048), np.uint8)
        mask[500:503, 900:940] = 1  # thinner than the grid's 4 rows
        draw = RandomScaleCrop([1, 1], class_balanced_p=1.0, classes=[1])
        shown = [
            cut_mask(mask, draw(mask, (64, 64), 255, np.random.default_rng(seed)), (64, 64)).any()
            for seed in range(100)
        ]
        assert np.mean(shown) > 0.5

    def test_crops_of_one_class_are_drawn_again(self) -> None:
        mask = np.zeros((100, 200), np.uint8)
        mask[:, 100:] = 1

        def largest(**keys: Any) -> NDArray[np.float64]:
            parts = [cut_mask(mask, window, self.SIZE) for window in self.windows(mask, **keys)]
            return np.array([max((part == 0).mean(), (part == 1).mean()) for part in parts])

        # One crop in 171 / 30 lies across the border; after ten tries all but 15 % do.
        assert (largest() == 1).mean() > 0.7
        assert (largest(max_class_share=0.9999) == 1).mean() < 0.3

    def test_ignored_pixels_count_for_no_class(self) -> None:
        mask = np.full((100, 200), 255, np.uint8)
        mask[:, :10] = 1
        mask[0, 0] = 2
        windows = self.windows(mask, class_balanced_p=1.0)
        assert all((cut_mask(mask, window, self.SIZE) != 255).any() for window in windows)

    def test_multi_label_masks_are_searched_by_channel(self) -> None:
        mask = np.zeros((100, 200, 3), np.uint8)
        mask[..., 0] = 1
        mask[60, 20, 2] = 1
        for window in self.windows(mask, class_balanced_p=1.0, classes=[2]):
            assert cut_mask(mask, window, self.SIZE)[..., 2].any()
