from __future__ import annotations

import colorsys

import numpy as np
import pytest

from segkit.contracts import SampleSource, UserError
from segkit.data.datasets.shapes import BACKGROUND, CLASS_NAMES, LINE, Shapes, _color, draw_scene, draw_split


def shapes(split: str = "train", **keys: object) -> Shapes:
    return Shapes(**{"split": split, "num_classes": 7, "num_train": 24, "num_val": 12, "image_size": 48, **keys})


def test_is_a_sample_source() -> None:
    assert isinstance(shapes(), SampleSource)
    assert (len(shapes()), len(shapes("val")), len(shapes("test"))) == (24, 12, 12)


def test_samples_have_the_promised_types() -> None:
    sample = shapes().read(3)
    assert (sample.image.shape, sample.image.dtype) == ((48, 48, 3), np.uint8)
    assert (sample.mask.shape, sample.mask.dtype) == ((48, 48), np.uint8)
    assert sample.id == "train/0003"


def test_every_class_and_the_ignored_border_occur() -> None:
    source = shapes()
    ids = np.unique([source.read(index).mask for index in range(len(source))])
    assert ids.tolist() == [*range(len(CLASS_NAMES)), 255]


def test_the_ignore_index_is_the_users() -> None:
    default, negative = shapes().read(0).mask, shapes(ignore_index=-100).read(0).mask
    assert negative.dtype == np.int32
    assert np.array_equal(negative == -100, default == 255)


def test_objects_never_touch_without_a_border() -> None:
    for index in range(20):
        _, mask = draw_scene(np.random.default_rng(index), 48)
        for left, right in ((mask[:, :-1], mask[:, 1:]), (mask[:-1], mask[1:])):
            differ = (left != right) & (left >= 0) & (right >= 0)
            # A line over an object leaves the border only on the object's side, so id meets -1, never id.
            assert not differ.any()


def test_lines_are_thin() -> None:
    """Three passes of erosion by one pixel remove every line, where other objects keep a core."""
    import cv2

    cores: dict[bool, int] = {True: 0, False: 0}
    for index in range(30):
        _, mask = draw_scene(np.random.default_rng(index), 64)
        for class_id in range(1, len(CLASS_NAMES)):
            region = (mask == class_id).astype(np.uint8)
            cores[class_id == LINE] += int(cv2.erode(region, np.ones((7, 7), np.uint8), borderValue=0).sum())
    assert cores[True] == 0
    assert cores[False] > 1000


def test_colour_alone_does_not_give_the_class() -> None:
    """Whoever knows only the hue of an object, and guesses the likelier class, is right two times in three."""
    generator = np.random.default_rng(0)
    counts = np.zeros((12, len(CLASS_NAMES)))
    for class_id in (*range(1, len(CLASS_NAMES)),) * 500:
        hue = colorsys.rgb_to_hsv(*(_color(generator, class_id) / 255))[0]
        counts[int(12 * hue) % 12, class_id] += 1
    assert 0.6 < counts.max(axis=1).sum() / counts.sum() < 0.72


def test_splits_share_no_image() -> None:
    images = {
        split: {image.tobytes() for image in draw_split(0, split, 12, 48)[0]} for split in ("train", "val", "test")
    }
    assert len(images["train"] | images["val"] | images["test"]) == 36


def test_drawing_again_gives_the_same() -> None:
    before = shapes().identity()["digest"]
    draw_split.cache_clear()
    assert shapes().identity()["digest"] == before


def test_another_generator_seed_draws_something_else() -> None:
    assert shapes(generator_seed=1).identity()["digest"] != shapes().identity()["digest"]


def test_global_generators_are_left_alone() -> None:
    state = np.random.get_state()[1].copy()
    draw_split.cache_clear()
    shapes().check()
    assert np.array_equal(np.random.get_state()[1], state)


def test_samples_may_be_written_to() -> None:
    sample = shapes().read(0)
    sample.image[:] = 0
    sample.mask[:] = BACKGROUND
    assert shapes().read(0).image.any()


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_classes", 8), ("num_train", 0), ("num_val", 0), ("image_size", 8), ("generator_seed", -1)],
)
def test_values_out_of_range_name_the_key(key: str, value: int) -> None:
    with pytest.raises(UserError, match=rf"dataset\.{key}={value}; "):
        shapes(**{key: value})
