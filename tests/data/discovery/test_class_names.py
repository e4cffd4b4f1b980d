"""Files of class names as data sets bring them along."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segkit.contracts import UserError
from segkit.data.discovery.class_names import NamedClass, find_class_names


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
        ("class_dict.csv", "\ufeffname, r, g, b\r\nsky, 128, 128, 128\r\nroad surface, 0, 0, 1\r\n"),
        ("labels.csv", "id;name;color\n0;sky;#808080\n1;road surface;#000001\n"),
        ("labels.csv", "label,name\n0,sky\n1,road surface\n"),
        ("_classes.csv", "Pixel Value, Class\n0, sky\n1, road surface\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nsky:128,128,128::\nroad surface:0,0,1::\n"),
        ("data.yaml", "nc: 2\nnames: [sky, road surface]\n"),
        ("id2label.json", json.dumps({"0": "sky", "1": "road surface"})),
        ("classes.json", json.dumps({"categories": [{"id": 0, "name": "sky"}, {"id": 1, "name": "road surface"}]})),
        ("classes.txt", "sky,0\nroad surface,1\n"),
    ],
)
def test_files_of_class_names(tmp_path: Path, file: str, content: str):
    (tmp_path / file).write_bytes(content.encode())
    found, path = find_class_names(tmp_path)
    assert [entry.name for entry in found] == ["sky", "road surface"]
    assert path == tmp_path / file
    if "128" in content:
        assert [entry.color for entry in found] == [(128, 128, 128), (0, 0, 1)]
    if any(char in content for char in "01") and file not in ("class_dict.csv", "label_colors.txt", "labelmap.txt"):
        assert [entry.id for entry in found] == [0, 1]


def test_no_file_of_names_is_no_names(tmp_path: Path):
    (tmp_path / "classes.json").write_text("{broken")
    assert find_class_names(tmp_path) == ([], None)


def test_a_name_or_id_that_stands_twice(tmp_path: Path):
    (tmp_path / "classes.txt").write_text("a\nb\na\n")
    assert [entry.name for entry in find_class_names(tmp_path)[0]] == ["a", "b", "a (2)"]
    (tmp_path / "classes.txt").write_text("0 a\n0 b\n")
    with pytest.raises(UserError, match=r"classes.txt: id 0 stands for a and for b"):
        find_class_names(tmp_path)


def test_a_file_that_is_given(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "mine.txt").write_text("a\nb\n")
    (tmp_path / "classes.txt").write_text("c\n")
    assert find_class_names(tmp_path, "deep/mine.txt")[0] == [NamedClass("a"), NamedClass("b")]
    with pytest.raises(UserError, match=r"names=none.txt: there is no such file"):
        find_class_names(tmp_path, "none.txt")
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError, match=r"names=empty.txt: no class names in it"):
        find_class_names(tmp_path, "empty.txt")
