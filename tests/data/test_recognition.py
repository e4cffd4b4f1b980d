"""Folders as they are found in the wild, recognised by their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from segkit.contracts import UserError
from segkit.data.recognition import recognise
from tests.data.written import write_pair


def fill(root: Path, pattern_image: str, pattern_mask: str, names: str = "abc") -> None:
    for number, name in enumerate(names):
        write_pair(root, pattern_image.format(name), pattern_mask.format(name), number)


def test_split_folders_with_images_and_masks(tmp_path: Path):
    fill(tmp_path, "train/images/{}.png", "train/masks/{}.png")
    fill(tmp_path, "valid/images/{}.JPG", "valid/masks/{}.png", "d")
    layout = recognise(tmp_path)
    assert layout.kind == "folder"
    assert layout.keys == {"train_split": "train", "val_split": "valid", "test_split": None}
    assert {split: len(pairs) for split, pairs in layout.pairs.items()} == {"train": 3, "val": 1}


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/{}.png", "masks/{}.png"),
        ("images/{}.png", "labels/{}_mask.png"),
        ("imgs/{}.jpg", "annotations/{}.png"),
        ("JPEGImages/{}.jpg", "SegmentationClass/{}.png"),
        ("photos/deep/{}.png", "gt/deep/{}.png"),
        ("{}.jpg", "{}_mask.png"),
        ("{}.png", "{}_gt.png"),
        ("{}_sat.jpg", "{}_mask.png"),
        ("{}.jpg", "{}-label.png"),
        ("{}.jpg", "masks/{}.png"),
        ("Bilder/{}.jpg", "Bilder/{}_label.png"),
    ],
)
def test_one_heap_of_images_and_masks(tmp_path: Path, image: str, mask: str):
    fill(tmp_path, image, mask)
    layout = recognise(tmp_path)
    assert layout.kind == "table"
    assert layout.pairs == {"train": [(image.format(name), mask.format(name)) for name in "abc"]}
    assert layout.left == ()


@pytest.mark.parametrize(
    ("train", "val"),
    [
        (("images/training/{}.jpg", "annotations/training/{}.png"),
         ("images/validation/{}.jpg", "annotations/validation/{}.png")),
        (("train/{}.png", "trainannot/{}.png"), ("val/{}.png", "valannot/{}.png")),
        (("train_images/{}.png", "train_masks/{}.png"), ("val_images/{}.png", "val_masks/{}.png")),
        (("train/{}.jpg", "train/{}_mask.png"), ("dev/{}.jpg", "dev/{}_mask.png")),
        (("images/train/x/{}.png", "labels/train/x/{}.png"), ("images/val/x/{}.png", "labels/val/x/{}.png")),
    ],
)  # fmt: skip
def test_splits_in_the_names_of_folders(tmp_path: Path, train: tuple[str, str], val: tuple[str, str]):
    fill(tmp_path, *train)
    fill(tmp_path, *val, "ad")
    layout = recognise(tmp_path)
    assert layout.kind == "table"
    assert layout.pairs["train"] == [(train[0].format(name), train[1].format(name)) for name in "abc"]
    assert layout.pairs["val"] == [(val[0].format(name), val[1].format(name)) for name in "ad"]


def test_lists_of_names_choose_the_splits(tmp_path: Path):
    fill(tmp_path, "images/{}.jpg", "masks/{}.png")
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "train.txt").write_text("a\nc\n")
    (tmp_path / "splits" / "valid.txt").write_text("b.jpg\n")
    layout = recognise(tmp_path)
    assert layout.kind == "split_lists"
    assert layout.keys == {
        "train_split": "train", "val_split": "valid", "test_split": None,
        "images_dir": "images", "masks_dir": "masks", "splits_dir": "splits",
    }  # fmt: skip
    assert layout.pairs["val"] == [("images/b.jpg", "masks/b.png")]


def test_voc_and_cityscapes_by_their_folders(tmp_path: Path):
    fill(tmp_path / "voc", "JPEGImages/{}.jpg", "SegmentationClass/{}.png")
    lists = tmp_path / "voc" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\n")
    (lists / "val.txt").write_text("c\n")
    assert recognise(tmp_path / "voc").kind == "voc"
    for folder in ("leftImg8bit", "gtFine"):
        (tmp_path / "cities" / folder).mkdir(parents=True)
    assert recognise(tmp_path / "cities").kind == "cityscapes"


def test_a_table_with_columns_of_other_names(tmp_path: Path):
    fill(tmp_path, "x/{}.jpg", "y/{}.png")
    (tmp_path / "index.csv").write_text("img;label;phase\nx/a.jpg;y/a.png;training\nx/b.jpg;y/b.png;dev\n")
    layout = recognise(tmp_path)
    assert layout.kind == "csv"
    assert layout.keys["image_column"] == "img"
    assert layout.keys["mask_column"] == "label"
    assert layout.keys["split_column"] == "phase"
    assert (layout.keys["train_split"], layout.keys["val_split"]) == ("training", "dev")
    assert layout.pairs == {"train": [("x/a.jpg", "y/a.png")], "val": [("x/b.jpg", "y/b.png")]}


def test_what_has_no_partner_is_told(tmp_path: Path):
    fill(tmp_path, "images/{}.jpg", "masks/{}.png")
    (tmp_path / "masks" / "b.png").unlink()
    layout = recognise(tmp_path)
    assert layout.left == ("images/b.jpg",)
    assert len(layout.pairs["train"]) == 2


def test_a_folder_without_masks_says_what_was_seen(tmp_path: Path):
    with pytest.raises(UserError, match="no images in it"):
        recognise(tmp_path)
    fill(tmp_path, "one/{}.jpg", "two/{}.png")
    with pytest.raises(UserError, match=r"no masks were recognised among 6 images in one/, two/"):
        recognise(tmp_path)
    with pytest.raises(UserError, match="there is no such folder"):
        recognise(tmp_path / "nowhere")
