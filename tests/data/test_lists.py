"""Data sets whose splits are lists or rows of a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segkit.contracts import DataError, UserError
from segkit.data.datasets.csv_table import CsvTable
from segkit.data.datasets.split_lists import SplitLists


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((2, 3, 3), 90, np.uint8)).save(path)


def mask(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array([[0, 1, 1], [0, 0, 1]], np.uint8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for name in ("a", "with space", "地図", "deep/er/x.y"):
        image(root / f"images/{name}.JPG")
        mask(root / f"masks/{name}.png")
    (root / "splits").mkdir()
    return root


def lists(root: Path, names: str | bytes, **keys: Any) -> SplitLists:
    (root / "splits/train.txt").write_bytes(names if isinstance(names, bytes) else names.encode())
    return SplitLists(**{"split": "train", "num_classes": 2, "root": str(root), **keys})


def table(root: Path, text: str, **keys: Any) -> CsvTable:
    (root / "data.csv").write_text(text)
    return CsvTable(**{"split": "train", "num_classes": 2, "root": str(root), **keys})


def names(source: SplitLists | CsvTable) -> list[str]:
    source.check()
    assert [source.read(index).id for index in range(len(source))] == [source.name(i) for i in range(len(source))]
    return [source.name(index) for index in range(len(source))]


@pytest.mark.parametrize(
    "text",
    [
        "a\nwith space\n地図\ndeep/er/x.y\n",
        "a.JPG\nwith space.png\n./地図.tif\ndeep/er/x.y.jpg",
        "\ufeffa\r\nwith space  \r\n\r\n地図\r\ndeep\\er\\x.y\r\n",
        "# names\nimages/a.JPG\nimages/with space.JPG\nmasks/地図.png\nimages/deep/er/x.y.JPG",
        "image\na.JPG,masks/a.png\nwith space.JPG\tmasks/with space.png\n地図 1 2\ndeep/er/x.y;x",
    ],
)
def test_lists_name_files_in_their_own_order_with_or_without_suffix(root: Path, text: str) -> None:
    expected = [f"images/{name}.JPG" for name in ("a", "with space", "地図", "deep/er/x.y")]
    assert names(lists(root, text)) == expected


def test_folders_may_be_the_root_itself_or_elsewhere(root: Path, tmp_path: Path) -> None:
    (root / "images").rename(tmp_path / "elsewhere")
    image(tmp_path / "elsewhere/masks/a.png")
    source = lists(root, "masks/a", images_dir=str(tmp_path / "elsewhere"), masks_dir=".")
    assert source.name(0) == f"{tmp_path}/elsewhere/masks/a.png"
    assert source.pairs.masks.name(0) == "masks/a.png"
    source.check()


@pytest.mark.parametrize("name", ["../a", "deep/../../a", "/etc/passwd"])
def test_lists_do_not_lead_out_of_the_root(root: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"splits/train\.txt: '.*' leads out of the data set"):
        lists(root, name)


def test_what_lists_name_in_vain_is_listed(root: Path) -> None:
    (root / "masks/a.png").unlink()
    image(root / "images/地図.png")
    with pytest.raises(DataError) as error:
        lists(root, "a\na\nb\n地図\nwith space\nwith space").check()
    assert str(error.value).split("\n")[1:] == [
        *("2 images without a mask of the same name:", "  images/a.JPG", "  images/a.JPG"),
        *("1 names in splits/train.txt without an image:", "  b"),
        *("1 names that splits/train.txt has twice:", "  with space"),
        *("1 names given to two files:", "  images/地図.JPG, images/地図.png"),
    ]


@pytest.mark.parametrize(
    ("text", "keys", "message"),
    [
        ("", {}, "there is no name in .*train.txt"),
        (b"\xff\xfea", {}, "train.txt: cannot be read"),
        ("a", {"split": "val"}, r"no file .*splits/val\.txt; .*splits has train\.txt; dataset\.val_split names it"),
        ("a", {"splits_dir": "lists"}, r"there is no folder .*lists; .* has images/, masks/, splits/"),
        ("a", {"masks_dir": "labels"}, r"there is no folder .*labels"),
        ("a", {"split": "test", "test_split": None}, r"test_split=null: SplitLists has no masks of its test split"),
    ],
)
def test_missing_lists_and_folders_are_told(root: Path, text: str | bytes, keys: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        lists(root, text, **keys)


def test_lists_and_tables_may_be_utf_16_and_spell_accents_in_two_ways(root: Path) -> None:
    image(root / "images/e\u0301.png")
    mask(root / "masks/\u00e9.png")
    for name in ("\u00e9", "e\u0301"):
        assert names(lists(root, f"{name}\r\n".encode("utf-16"))) == ["images/e\u0301.png"]
        text = f"image,mask,split\r\nimages\\{name}.png,masks\\{name}.png,train\r\n"
        (root / "data.csv").write_bytes(text.encode("utf-16"))
        assert names(CsvTable(split="train", num_classes=2, root=str(root))) == ["images/e\u0301.png"]


def test_tables_name_images_masks_and_splits(root: Path) -> None:
    text = "id,image,mask,split\n1,images/a.JPG,masks/a.png,train\n2,images/地図,masks/地図.tif,val\n"
    text += f"4,{root}/images/with space.JPG,{root}/masks/with space.png,test\n"
    text += "3,images/deep/er/x.y,./masks/deep/er/x.y.png, train \n"
    assert names(table(root, text)) == ["images/a.JPG", "images/deep/er/x.y.JPG"]
    assert names(table(root, text, split="val")) == ["images/地図.JPG"]
    assert names(table(root, text, split="test")) == ["images/with space.JPG"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_one_table_a_split_with_columns_of_other_names(root: Path, delimiter: str) -> None:
    (root / "train rows.csv").write_text(f"\ufeffx{delimiter}y\nimages/a.JPG{delimiter}masks/a.png\n")
    source = table(root, "", table="{split} rows.csv", image_column="x", mask_column="y", split_column=None)
    assert names(source) == ["images/a.JPG"]


@pytest.mark.parametrize("name", ["../elsewhere/z", "{root}/../elsewhere/z", "images/../../elsewhere/z"])
def test_tables_lead_out_of_the_root_only_when_allowed(root: Path, name: str) -> None:
    image(root.parent / "elsewhere/z.png")
    mask(root.parent / "elsewhere/z.tif")
    name = name.format(root=root)
    text = f"image,mask,split\n{name}.png,{name}.tif,train\n"
    with pytest.raises(DataError, match=r"data\.csv, line 2: '.*z\.png' leads out of dataset\.root; allowed: paths"):
        table(root, text)
    source = table(root, text, allow_outside=True)
    source.check()
    assert source.read(0).mask.tolist() == [[0, 1, 1], [0, 0, 1]]


def test_what_tables_name_in_vain_is_listed(root: Path) -> None:
    rows = ["images/a.JPG,masks/a.png", "images/a.JPG,masks/a.png", "images/b.png,masks/a.png", "images/a,", "x/y,z"]
    with pytest.raises(DataError) as error:
        table(root, "image,mask,split\n" + "".join(f"{row},train\n" for row in rows)).check()
    assert str(error.value).split("\n")[1:] == [
        *("1 images that data.csv has twice:", "  line 3: images/a.JPG"),
        *("4 files in data.csv that do not exist:", "  line 4: images/b.png", "  line 5: nothing"),
        *("  line 6: x/y", "  line 6: z"),
    ]


@pytest.mark.parametrize(
    ("text", "keys", "message"),
    [
        ("", {}, r"dataset\.image_column=image: .*data\.csv has the columns none"),
        ("image,masks,split\n", {}, r"dataset\.mask_column=mask: .* has the columns image, masks, split"),
        ("image,mask\n", {}, r"dataset\.split_column=split: .* has the columns image, mask"),
        ("image,mask,split\na,b,valid\n", {}, r"train_split=train: no row of .*data\.csv .* split; it has valid"),
        ("image,mask,split\n", {}, "it has no rows"),
        ("x", {"table": "rows.csv"}, r"there is no file .*rows\.csv; .* has data\.csv, images/"),
    ],
)
def test_tables_that_lack_something_say_what(root: Path, text: str, keys: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        table(root, text, **keys)


def test_a_table_in_another_encoding_is_named(root: Path) -> None:
    (root / "latin.csv").write_bytes("image,mask,split\nä,ä,train\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.csv: not a table that can be read"):
        table(root, "", table="latin.csv")
