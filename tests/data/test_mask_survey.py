"""What values in masks mean, and names for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segkit.contracts import DataError
from segkit.data.class_names import NamedClass, find_class_names
from segkit.data.mask_survey import Labels, survey


def surveyed(tmp_path: Path, *masks: Any, named: list[NamedClass] | None = None) -> Labels:
    paths: list[Path] = []
    for number, mask in enumerate(masks):
        path = tmp_path / f"{number}.png"
        (mask if isinstance(mask, Image.Image) else Image.fromarray(np.array(mask))).save(path)
        paths.append(path)
    return survey(paths, named or [], lambda done: None)


def ids(*values: int) -> np.ndarray:
    return np.array([values], np.uint8 if max(values) < 256 else np.uint16)


@pytest.mark.parametrize(
    ("values", "names", "mapping"),
    [
        ((0, 1, 2), ["class_0", "class_1", "class_2"], None),
        ((0, 2, 3), ["class_0", "class_1", "class_2", "class_3"], None),
        ((0, 1, 255), ["class_0", "class_1"], None),
        ((0, 255), ["background", "foreground"], {0: 0, 255: 1}),
        ((1, 2, 3), ["class_0", "class_1", "class_2"], {1: 0, 2: 1, 3: 2}),
        ((0, 100, 200), ["class_0", "class_1", "class_2"], {0: 0, 100: 1, 200: 2}),
        ((0, 128, 255), ["class_0", "class_1", "class_2"], {0: 0, 128: 1, 255: 2}),
        ((0, 1, 65535), ["class_0", "class_1"], {0: 0, 1: 1, 65535: 255}),
    ],
)
def test_ids(tmp_path: Path, values: tuple[int, ...], names: list[str], mapping: dict[int, int] | None):
    # No mask holds all of them.
    labels = surveyed(tmp_path, *[ids(value, values[0]).astype(ids(*values).dtype) for value in values])
    assert (labels.names, labels.mapping, labels.mask_format) == (names, mapping, "ids")
    assert labels.ignore_index == 255


def test_names_fit_by_id_and_void_is_ignored(tmp_path: Path):
    named = [NamedClass("void", 0), NamedClass("road", 7), NamedClass("car", 26)]
    labels = surveyed(tmp_path, ids(0, 7), ids(26, 0), named=named)
    assert labels.names == ["road", "car"]
    assert labels.mapping == {7: 0, 26: 1, 0: 255}


def test_names_that_do_not_fit_are_left(tmp_path: Path):
    labels = surveyed(tmp_path, ids(0, 1, 2), named=[NamedClass("a"), NamedClass("b")])
    assert labels.names == ["class_0", "class_1", "class_2"]


def test_a_class_that_no_mask_holds_keeps_its_place_if_it_is_listed(tmp_path: Path):
    labels = surveyed(tmp_path, ids(0, 1), named=[NamedClass("a"), NamedClass("b"), NamedClass("c")])
    assert labels.names == ["a", "b", "c"]


def test_a_palette_gives_the_colours(tmp_path: Path):
    mask = Image.fromarray(ids(0, 1)).convert("P")
    mask.putpalette([10, 20, 30, 40, 50, 60])
    assert surveyed(tmp_path, mask).colors == [(10, 20, 30), (40, 50, 60)]


def test_colours_are_classes_unless_listed_as_void(tmp_path: Path):
    mask = np.array([[[0, 0, 0], [255, 0, 0], [0, 0, 255]]], np.uint8)
    plain = surveyed(tmp_path, mask)
    assert plain.mask_format == "colors"
    assert plain.colors == [(0, 0, 0), (0, 0, 255), (255, 0, 0)]
    named = [
        NamedClass("sky", color=(0, 0, 255)),
        NamedClass("road", color=(255, 0, 0)),
        NamedClass("Void", color=(0, 0, 0)),
    ]
    labels = surveyed(tmp_path, mask, named=named)
    assert labels.names == ["sky", "road"]
    assert labels.ignore_colors == [(0, 0, 0)]


def test_pictures_are_no_masks(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    with pytest.raises(DataError, match=r"0.png: .* more than 256 values"):
        surveyed(tmp_path, noise)
    with pytest.raises(DataError, match="no second class"):
        surveyed(tmp_path, ids(0, 0))


def test_a_damaged_mask_is_named(tmp_path: Path):
    (tmp_path / "bad.png").write_bytes(b"none")
    Image.fromarray(ids(0, 1)).save(tmp_path / "good.png")
    with pytest.raises(DataError, match=r"1 masks cannot be used:\n  .*bad.png"):
        survey([tmp_path / "good.png", tmp_path / "bad.png"], [], lambda done: None)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("classes.txt", "sky\nroad surface\n"),
        ("labels.txt", "0 sky\n1: road surface\n"),
        ("classes.json", json.dumps(["sky", "road surface"])),
        ("labels.json", json.dumps({"sky": 0, "road surface": 1})),
        ("dataset.json", json.dumps({"name": "x", "labels": {"0": "sky", "1": "road surface"}})),
        ("class_names.json", json.dumps({"classes": [{"name": "sky", "id": 0}, {"name": "road surface", "id": 1}]})),
        ("label_colors.txt", "128 128 128\tsky\n0 0 1\troad surface\n"),
        ("class_dict.csv", "name,r,g,b\nsky,128,128,128\nroad surface,0,0,1\n"),
    ],
)
def test_files_of_class_names(tmp_path: Path, file: str, content: str):
    (tmp_path / file).write_text(content)
    found, path = find_class_names(tmp_path)
    assert [entry.name for entry in found] == ["sky", "road surface"]
    assert path == tmp_path / file
    if "128" in content:
        assert [entry.color for entry in found] == [(128, 128, 128), (0, 0, 1)]
    if file in ("labels.txt", "labels.json", "dataset.json", "class_names.json"):
        assert [entry.id for entry in found] == [0, 1]


def test_no_file_of_names_is_no_names(tmp_path: Path):
    (tmp_path / "classes.json").write_text("{broken")
    assert find_class_names(tmp_path) == ([], None)
