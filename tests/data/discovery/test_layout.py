"""Folders as they are found in the wild, recognised by their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from segkit.contracts import UserError
from segkit.data.datasets.csv_table import CsvTable
from segkit.data.datasets.split_lists import SplitLists
from segkit.data.discovery.found_splits import Wanted
from segkit.data.discovery.layout import recognise
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
        ("images/{}.jpg", "annotations/trimaps/{}.png"),
        ("{}.jpg", "{}.png"),
        ("all/{}.JPG", "all/{}.PNG"),
        ("imgs/{}_img.jpg", "gts/{}_gt.png"),
        ("imgs/img_{}.jpg", "masks/mask_{}.png"),
        ("image1{}.jpg", "gt1{}.png"),
        ("IMG_{}.JPG", "img_{}_mask.png"),
        ("image_{}.jpg", "image_{}_mask.png"),
        ("images/image_{}.jpg", "masks/image_{}.png"),
        ("imagesTr/{}_0000.png", "labelsTr/{}.png"),
        ("seg_data/{}.jpg", "seg_data/{}_mask.png"),
        ("images/a {}(1).jpg", "masks/a {}(1).png"),
    ],
)
def test_one_heap_of_images_and_masks(tmp_path: Path, image: str, mask: str):
    fill(tmp_path, image, mask)
    layout = recognise(tmp_path)
    assert layout.kind == "table"
    assert layout.pairs == {"train": [(image.format(name), mask.format(name)) for name in "abc"]}
    # Only what is not plain is told, with an example.
    expected = {
        "{}.jpg": "of files of one name JPEG is the image, as JPEG holds no ids: a.jpg and a.png",
        "all/{}.JPG": "of files of one name JPEG is the image, as JPEG holds no ids: all/a.JPG and all/a.PNG",
        "IMG_{}.JPG": "3 pairs differ in folders or capitals, such as IMG_a.JPG and img_a_mask.png",
    }
    is_told = image in expected and mask in ("{}.png", "all/{}.PNG", "img_{}_mask.png")
    assert layout.notes == ((expected[image],) if is_told else ())


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
    (tmp_path / "images" / "c.jpg").rename(tmp_path / "images" / "other.jpg")
    layout = recognise(tmp_path)
    assert layout.notes == (
        "2 files without a mask, such as images/b.jpg",
        "1 files taken for a mask, without an image, such as masks/c.png",
    )
    assert layout.pairs == {"train": [("images/a.jpg", "masks/a.png")]}


def test_a_folder_without_masks_says_what_was_seen(tmp_path: Path):
    with pytest.raises(UserError, match="no images in it"):
        recognise(tmp_path)
    fill(tmp_path, "one/{}.jpg", "two/{}.png")
    with pytest.raises(
        UserError, match=r"no masks were recognised, as with one/a.jpg, among 6 files in one/ \(3\), two/ \(3\)"
    ):
        recognise(tmp_path)
    with pytest.raises(UserError, match="there is no such folder"):
        recognise(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "val",
    [
        "val",
        "valid",
        "validation",
        "dev",
        "eval",
        "VAL",
        "val2017",
        "minival2014",
        "val_set",
        "valset",
        "Validation_Set",
    ],
)
def test_a_validation_split_by_any_name_is_not_trained_on(tmp_path: Path, val: str):
    fill(tmp_path, "images/train2017/{}.jpg", "annotations/train2017/{}.png")
    fill(tmp_path, f"images/{val}/{{}}.jpg", f"annotations/{val}/{{}}.png", "ad")
    pairs = recognise(tmp_path).pairs
    assert {split: [Path(image).stem for image, _ in own] for split, own in pairs.items()} == {
        "train": ["a", "b", "c"], "val": ["a", "d"]
    }  # fmt: skip


@pytest.mark.parametrize("test", ["test", "testing", "Test", "test-dev2017", "tests_set", "imagesTs"])
def test_a_test_split_stays_apart(tmp_path: Path, test: str):
    fill(tmp_path, "train/images/{}.jpg", "train/masks/{}.png")
    fill(tmp_path, f"{test}/images/{{}}.jpg", f"{test}/masks/{{}}.png", "d")
    layout = recognise(tmp_path)
    if test == "tests_set":  # no word for a split: left out, as others are in one
        assert set(layout.pairs) == {"train"}
        assert layout.notes[-1] == (
            "1 pairs are in no split while others are, and are left out, such as tests_set/images/d.jpg"
        )
    else:
        assert layout.pairs["test"] == [(f"{test}/images/d.jpg", f"{test}/masks/d.png")]


def test_splits_in_the_names_of_files_or_of_one_side(tmp_path: Path):
    for name in ("train_1", "train_2", "val_1"):
        write_pair(tmp_path / "files", f"images/{name}.jpg", f"masks/{name}.png", 0)
    layout = recognise(tmp_path / "files")
    assert {split: len(pairs) for split, pairs in layout.pairs.items()} == {"train": 2, "val": 1}
    assert layout.notes == ("splits by how the names of files begin, such as images/train_1.jpg: train",)
    for split, names in (("train", "ab"), ("val", "c")):
        fill(tmp_path / "side", "images/{}.jpg", f"masks/{split}/{{}}.png", names)
    pairs = recognise(tmp_path / "side").pairs
    assert pairs["val"] == [("images/c.jpg", "masks/val/c.png")]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a\nc\n", "split_lists"),
        ("images/a.jpg\nimages/c.jpg\n", "split_lists"),
        ("./images/a\n./images/c\n", "split_lists"),
        ("\ufeffa.jpg\r\nc.jpg\r\n\r\n", "split_lists"),
        ("# the training samples\na 1 1\nc 1 2\n", "split_lists"),
        ("image\na\nc", "split_lists"),
        ("images\\a.jpg\nimages\\c.jpg\n", "split_lists"),
        ("images/a.jpg masks/a.png\nimages/c.jpg masks/c.png\n", "split_lists"),
        ("images/a.jpg,masks/a.png\nimages/c.jpg,masks/c.png\n", "split_lists"),
        ("/home/her/data/images/a.jpg\n/home/her/data/images/c.jpg\n", "table"),
        ("C:\\data\\images\\a.jpg\nC:\\data\\images\\c.jpg\n", "table"),
        ("masks/a.png\nmasks/c.png\n", "split_lists"),
        ("A\nC\n", "table"),
    ],
)
def test_lists_are_read_in_every_spelling(tmp_path: Path, text: str, kind: str):
    fill(tmp_path, "images/{}.jpg", "masks/{}.png")
    (tmp_path / "train.txt").write_bytes(text.encode())
    (tmp_path / "val.txt").write_bytes(b"b\n")
    layout = recognise(tmp_path)
    assert layout.kind == kind
    assert layout.pairs["train"] == [("images/a.jpg", "masks/a.png"), ("images/c.jpg", "masks/c.png")]
    assert layout.pairs["val"] == [("images/b.jpg", "masks/b.png")]
    if kind == "split_lists":
        source = SplitLists(split="train", num_classes=2, root=str(tmp_path), **layout.keys)  # pyright: ignore
        source.check()
        assert [source.name(index) for index in range(2)] == ["images/a.jpg", "images/c.jpg"]


def test_names_in_lists_may_lack_what_tells_image_from_mask(tmp_path: Path):
    fill(tmp_path, "imgs/{}_img.jpg", "gts/{}_gt.png")
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "train_list.txt").write_text("a\nc\n")
    (tmp_path / "splits" / "valid_list.txt").write_text("b\n")
    layout = recognise(tmp_path)
    assert layout.pairs["train"] == [("imgs/a_img.jpg", "gts/a_gt.png"), ("imgs/c_img.jpg", "gts/c_gt.png")]
    assert layout.pairs["val"] == [("imgs/b_img.jpg", "gts/b_gt.png")]


def test_lists_that_fit_no_file_are_not_passed_over(tmp_path: Path):
    fill(tmp_path, "images/{}.jpg", "masks/{}.png")
    (tmp_path / "train.txt").write_text("scan-a\nscan-b\n")
    with pytest.raises(
        UserError, match=r"train.txt: 2 of 2 lines name no pair here, such as 'scan-a'; a pair .*images/a.jpg"
    ):
        recognise(tmp_path)
    assert recognise(tmp_path, Wanted(splits_from="folders")).pairs.keys() == {"train"}
    (tmp_path / "train.txt").write_text("a\nb\n")
    (tmp_path / "val.txt").write_text("b\nc\n")
    with pytest.raises(UserError, match=r"images/b.jpg stands in train.txt and in val.txt"):
        recognise(tmp_path)


def test_lists_against_folders_and_lists_against_lists_are_asked_about(tmp_path: Path):
    fill(tmp_path, "images/train/{}.jpg", "masks/train/{}.png", "abc")
    fill(tmp_path, "images/val/{}.jpg", "masks/val/{}.png", "d")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "train.txt").write_text("a\nd\n")
    (tmp_path / "one" / "val.txt").write_text("b\n")
    with pytest.raises(
        UserError, match=r"the lists in one/ puts images/val/d.jpg into train, and its folder says val .2 such"
    ):
        recognise(tmp_path)
    found = recognise(tmp_path, Wanted(splits_from="lists"))
    assert found.pairs["val"] == [("images/train/b.jpg", "masks/train/b.png")]
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "train.txt").write_text("a\nb\nc\nd\n")
    with pytest.raises(UserError, match=r"one, two have lists that differ; give lists=FOLDER, such as lists=one"):
        recognise(tmp_path)
    assert len(recognise(tmp_path, Wanted(lists="two")).pairs["train"]) == 4


def test_a_list_called_trainval_trains_and_test_stays_apart(tmp_path: Path):
    fill(tmp_path, "images/{}.jpg", "annotations/trimaps/{}.png")
    (tmp_path / "annotations" / "list.txt").write_text("#Image CLASS\na 1\nb 1\nc 1\n")
    (tmp_path / "annotations" / "trainval.txt").write_text("a 1 1 1\nb 1 1 1\n")
    (tmp_path / "annotations" / "test.txt").write_text("c 1 1 1\n")
    (tmp_path / "annotations" / "trimaps" / "._a.png").write_bytes(b"mac")
    layout = recognise(tmp_path)
    assert layout.keys["train_split"] == "trainval"
    assert {split: len(pairs) for split, pairs in layout.pairs.items()} == {"train": 2, "test": 1}


def test_files_of_systems_and_derived_masks_are_left_aside(tmp_path: Path):
    fill(tmp_path, "JPEGImages/{}.jpg", "SegmentationClass/{}.png")
    fill(tmp_path, "__MACOSX/JPEGImages/{}.jpg", "@eaDir/SegmentationClass/{}.png")
    for name in "abc":
        for derived in (f"SegmentationObject/{name}.png", f"SegmentationClass/{name}_color.png"):
            write_pair(tmp_path, "thumbs/x.jpg", derived, 0)
    for junk in (".DS_Store", "Thumbs.db", "SegmentationClass/._a.png"):
        (tmp_path / junk).write_bytes(b"junk")
    layout = recognise(tmp_path)
    assert layout.pairs == {"train": [(f"JPEGImages/{name}.jpg", f"SegmentationClass/{name}.png") for name in "abc"]}
    assert layout.notes == (
        "3 files beside the mask of their image, and left out, such as SegmentationClass/a_color.png",
        "4 files in folders that hold no images or masks of classes by their names, such as thumbs/x.jpg",
    )


def test_two_masks_of_one_image_are_asked_about(tmp_path: Path):
    fill(tmp_path, "images/{}.jpg", "masks/{}.png")
    fill(tmp_path, "images/{}.jpg", "labels/{}.png")
    with pytest.raises(
        UserError, match=r"3 names fit several files.* images/a.jpg, labels/a.png, masks/a.png.\n.*mask_folder"
    ):
        recognise(tmp_path)
    pairs = recognise(tmp_path, Wanted(mask_folder="labels", image_folder="images")).pairs
    assert pairs["train"][0] == ("images/a.jpg", "labels/a.png")
    (tmp_path / "labels" / "a.png").unlink()
    (tmp_path / "labels" / "b.png").unlink()
    layout = recognise(tmp_path)
    assert [image for image, _ in layout.pairs["train"]] == ["images/a.jpg", "images/b.jpg"]
    assert layout.notes[-1].startswith("1 names fit several files, which are left out: images/c.jpg")


def test_folders_and_suffixes_that_are_given(tmp_path: Path):
    fill(tmp_path, "one/{}_x.jpg", "two/{}_y.png")
    fill(tmp_path, "one/{}_x.jpg", "two/{}_z.png")
    with pytest.raises(UserError, match="no masks were recognised"):
        recognise(tmp_path)
    wanted = Wanted(image_folder="one", mask_folder="two", image_suffix="_x", mask_suffix="_z")
    assert recognise(tmp_path, wanted).pairs["train"][0] == ("one/a_x.jpg", "two/a_z.png")
    with pytest.raises(UserError, match=r"mask_folder=three: no images in it; images are in one, two"):
        recognise(tmp_path, Wanted(mask_folder="three"))
    fill(tmp_path / "flat", "{}.jpg", "{}-fg.png")
    assert recognise(tmp_path / "flat", Wanted(mask_suffix="-fg")).pairs["train"][0] == ("a.jpg", "a-fg.png")


def test_names_of_mac_and_windows_are_the_same(tmp_path: Path):
    write_pair(tmp_path, "images/e\u0301 1.jpg", "masks/\u00e9 1.png", 0)
    write_pair(tmp_path, "images/b.jpg", "masks/B.PNG", 1)
    (tmp_path / "train.txt").write_bytes("\u00e9 1\n".encode("utf-16"))
    (tmp_path / "val.txt").write_bytes(b"b")
    layout = recognise(tmp_path)
    assert layout.pairs == {
        "train": [("images/e\u0301 1.jpg", "masks/\u00e9 1.png")], "val": [("images/b.jpg", "masks/B.PNG")]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("\ufeffimage,mask,split\r\nimages\\a.jpg,masks\\a.png,train\r\nimages\\b.jpg,masks\\b.png,valid\r\n", "csv"),
        (
            "id,sat_image_path,mask_path,split\n1,images/a.jpg,masks/a.png,train\n2,images/b.jpg,masks/b.png,val\n",
            "csv",
        ),
        ("filename;label;subset\na.jpg;a.png;training\nb.jpg;b.png;dev\n", "table"),
        ("image_id\tsplit\na\ttrain\nb\tval\n", "table"),
        ("image,mask,split\n/x/images/a.jpg,/x/masks/a.png,train\n/x/images/b.jpg,/x/masks/b.png,val\n", "table"),
    ],
)
def test_tables_in_every_spelling(tmp_path: Path, text: str, kind: str):
    fill(tmp_path, "images/{}.jpg", "masks/{}.png")
    (tmp_path / "metadata.csv").write_bytes(text.encode())
    layout = recognise(tmp_path)
    assert layout.kind == kind
    assert layout.pairs == {"train": [("images/a.jpg", "masks/a.png")], "val": [("images/b.jpg", "masks/b.png")]}
    assert layout.notes[-1] == "the table metadata.csv leaves out 1 pairs, such as images/c.jpg"
    if kind == "csv":
        source = CsvTable(split="val", num_classes=2, root=str(tmp_path), **layout.keys)  # pyright: ignore
        source.check()
        assert source.name(0) == "images/b.jpg"


def test_tables_one_a_split_and_tables_that_do_not_fit(tmp_path: Path):
    fill(tmp_path, "x/images/{}.jpg", "x/masks/{}.png")
    for split, name in (("train", "a"), ("val", "b")):
        (tmp_path / f"{split}.csv").write_text(f"image,mask\nx/images/{name}.jpg,x/masks/{name}.png\n")
    assert recognise(tmp_path).pairs["val"] == [("x/images/b.jpg", "x/masks/b.png")]
    (tmp_path / "train.csv").unlink()
    (tmp_path / "val.csv").write_text("image,mask,split\ngone.jpg,gone.png,val\n")
    with pytest.raises(
        UserError, match=r"val.csv: 1 rows have no files here, such as line 2: gone.jpg, gone.png; a file"
    ):
        recognise(tmp_path)
    (tmp_path / "val.csv").write_text("image,mask,split\nx/images/a.jpg,x/masks/a.png,0\n")
    with pytest.raises(UserError, match=r"val.csv: its column split holds 0, which are no names of splits"):
        recognise(tmp_path)
    (tmp_path / "val.csv").write_text("id,label\nx,cat\n")
    assert recognise(tmp_path).kind == "folder"


def test_labels_of_single_images_are_no_lists(tmp_path: Path):
    fill(tmp_path, "images/train_{}.jpg", "masks/train_{}.png")
    for name in "abc":
        (tmp_path / "masks" / f"train_{name}.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert recognise(tmp_path).pairs.keys() == {"train"}
    (tmp_path / "train_notes.txt").write_text("taken in May\n")
    layout = recognise(tmp_path)
    assert layout.notes[0].startswith("train_notes.txt: 1 of 1 lines name no pair here, such as 'taken in May'")
