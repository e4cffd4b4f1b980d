from __future__ import annotations

import inspect
from typing import Any, get_type_hints

import numpy as np
import pytest

from segkit.contracts import UserError
from segkit.data.datasets.folder import Folder
from segkit.data.datasets.shapes import Shapes
from segkit.data.datasets.source import Source, height_width, palette


def test_palette_is_that_of_pascal_voc() -> None:
    assert palette(5) == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]
    assert palette(21)[20] == (0, 64, 128)


def test_palette_never_repeats() -> None:
    assert len(set(palette(1000))) == 1000


def test_names_and_colours_default_to_one_per_class() -> None:
    labels = Source(split="train", num_classes=3).labels
    assert labels.names == ("class_0", "class_1", "class_2")
    assert len(labels.colors) == 3
    assert labels.ignore_index == 255


@pytest.mark.parametrize(
    ("num_classes", "ignore_index", "dtype"),
    [(2, 255, np.uint8), (255, 255, np.uint8), (256, 256, np.int32), (2, -100, np.int32), (2, 256, np.int32)],
)
def test_masks_are_as_small_as_the_ids_allow(num_classes: int, ignore_index: int, dtype: type) -> None:
    assert Source(split="train", num_classes=num_classes, ignore_index=ignore_index).mask_dtype is dtype


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"class_names": ["a"]}, r"dataset.class_names has 1 names for dataset.num_classes=2"),
        ({"class_names": ["a", "a"]}, r"dataset.class_names repeats a"),
        ({"colors": [[0, 0, 0]]}, r"dataset.colors has 1 entries for 2 classes"),
        ({"colors": [[0, 0, 0], [0, 256, 0]]}, r"dataset.colors has \[0, 256, 0\]; allowed"),
        ({"mean": [0.5]}, r"dataset.mean has 1 values for dataset.in_channels=3"),
        ({"std": [1, 1, 0]}, r"dataset.std=\[1, 1, 0\]; allowed: numbers above 0"),
        ({"ignore_index": 1}, r"dataset.ignore_index=1 is the id of class 'class_1'"),
        ({"crop_size": 0}, r"dataset.crop_size=0; allowed"),
        ({"crop_size": [4]}, r"dataset.crop_size=\[4\]; allowed"),
    ],
)
def test_contradictions_name_the_key(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Source(**{"split": "train", "num_classes": 2, **keys})


def test_a_size_is_one_edge_or_both() -> None:
    assert height_width(7, "size") == (7, 7)
    assert height_width([3, 5], "size") == (3, 5)


@pytest.mark.parametrize("kind", [Shapes, Folder])
def test_constructors_show_all_their_keys_with_types(kind: type) -> None:
    parameters = set(inspect.signature(kind).parameters)
    assert {"split", "num_classes", "crop_size", "class_names"} <= parameters
    assert parameters <= get_type_hints(kind.__init__).keys()
