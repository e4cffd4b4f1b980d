"""Each public data set on a miniature with its official folders and file names, and with the option's label space.

The masks hold raw ids; what they must become is written out by hand from the data sets' own documents.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from segkit.config import instantiate
from segkit.contracts import UserError
from segkit.data.datasets.image_mask import Files
from tests.conftest import REPOSITORY
from tests.data import tiny_folders
from tests.data.tiny_folders import write_image, write_mask, write_text

IGNORED = 255


def node_of(option: str, root: Path = Path()) -> dict[str, Any]:
    config = OmegaConf.load(REPOSITORY / f"conf/dataset/{option}.yaml")
    return instantiate.plain(OmegaConf.merge(config, {"root": str(root), "cache_dir": None}))


def dataset(option: str, root: Path, split: str = "train", **keys: Any) -> Files:
    node = node_of(option, root) | keys
    return instantiate.build(node, "dataset", supplied=["split"])(split=split)


def ids(source: Files, index: int, number: int) -> list[int]:
    """The first class ids of a sample's mask, once the data set has been found sound."""
    source.check()
    return source.read(index).mask[0, :number].tolist()


def test_cityscapes(tmp_path: Path) -> None:
    tiny_folders.cityscapes(tmp_path)
    source = dataset("cityscapes", tmp_path)
    assert source.labels.names[13] == "car"
    assert source.labels.colors[0] == (128, 64, 128)
    expected = [IGNORED, IGNORED, 0, 1, 2, 5, IGNORED, 7, 10, 13, IGNORED, IGNORED, 16, 18]
    assert ids(source, 0, len(tiny_folders.CITYSCAPES)) == expected
    assert source.name(0) == "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"
    assert len(dataset("cityscapes", tmp_path, "val")) == 1
    with pytest.raises(UserError, match=r"dataset\.test_split=null: Cityscapes has no masks.*allowed: train, val"):
        dataset("cityscapes", tmp_path, "test")


@pytest.mark.parametrize("inside", ["", "VOCdevkit/VOC2012/"])
def test_voc(tmp_path: Path, inside: str) -> None:
    tiny_folders.voc(tmp_path / inside)
    source = dataset("voc", tmp_path)
    assert ids(source, 0, 5) == [0, 1, 15, 20, IGNORED]
    assert (source.labels.names[15], source.labels.colors[15]) == ("person", (192, 128, 128))
    assert len(source) == len(dataset("voc", tmp_path, "val")) == 1


def test_sbd(tmp_path: Path) -> None:
    tiny_folders.sbd(tmp_path / "dataset")
    assert ids(dataset("sbd", tmp_path), 0, 3) == [0, 20, 15]
    assert len(dataset("sbd", tmp_path, train_split="train_noval")) == 1
    (tmp_path / "dataset/cls/2008_000002.mat").write_bytes(b"MATLAB 5.0")
    with pytest.raises(
        UserError, match=r"1 not a MATLAB file with GTcls\.Segmentation, or damaged or cut off:\n  cls/2008_000002\.mat"
    ):
        dataset("sbd", tmp_path).check()


@pytest.mark.parametrize("masks", ["stuffthingmaps", "annotations"])
def test_coco_stuff(tmp_path: Path, masks: str) -> None:
    tiny_folders.coco_stuff(tmp_path, masks=masks)
    source = dataset("coco_stuff", tmp_path)
    # 11 of the 182 ids are not used: one of them below 12, ten below 89, eleven below 91.
    assert ids(source, 0, 7) == [0, 10, 11, 79, 80, 170, IGNORED]
    named = [source.labels.names[index] for index in (0, 10, 11, 79, 80, 170)]
    assert named == ["person", "fire hydrant", "stop sign", "toothbrush", "banner", "wood"]
    tiny_folders.coco_stuff(tmp_path, [11], masks)
    with pytest.raises(UserError, match="ids that are no class"):
        source.check()


@pytest.mark.parametrize("inside", ["", "ADEChallengeData2016/"])
def test_ade20k(tmp_path: Path, inside: str) -> None:
    tiny_folders.ade20k(tmp_path / inside)
    source = dataset("ade20k", tmp_path)
    assert ids(source, 0, 4) == [IGNORED, 0, 1, 149]
    assert [source.labels.names[index] for index in (0, 1, 149)] == ["wall", "building", "flag"]
    assert len(dataset("ade20k", tmp_path, "val")) == 1


@pytest.mark.parametrize(
    ("images", "masks", "ending"),
    [
        ("bdd100k/images/10k", "bdd100k/labels/sem_seg/masks", ""),
        ("bdd100k/seg/images", "bdd100k/seg/labels", "_train_id"),
    ],
)
def test_bdd100k(tmp_path: Path, images: str, masks: str, ending: str) -> None:
    tiny_folders.bdd100k(tmp_path, places=(images, masks, ending))
    source = dataset("bdd100k", tmp_path)
    assert ids(source, 0, 3) == [0, 18, IGNORED]
    assert (source.labels.names[0], source.labels.names[18]) == ("road", "bicycle")


@pytest.mark.parametrize("labels", ["training/v1.2/labels", "training/labels"])
def test_mapillary_1_2(tmp_path: Path, labels: str) -> None:
    tiny_folders.mapillary(tmp_path, labels=labels)
    source = dataset("mapillary", tmp_path)
    assert source.num_classes == 65
    assert ids(source, 0, 4) == [0, 13, 64, IGNORED]
    assert [source.labels.names[index] for index in (0, 13, 64)] == ["Bird", "Road", "Ego Vehicle"]


def test_mapillary_2_0(tmp_path: Path) -> None:
    # Of the labels before each of these, those that are not scored: none, one (2), two (2, 31), seven.
    tiny_folders.mapillary_v2(tmp_path, [0, 2, 21, 32, 31, 122, 123])
    source = dataset("mapillary_v2", tmp_path)
    assert source.num_classes == 116
    assert ids(source, 0, 7) == [0, IGNORED, 20, 30, IGNORED, 115, IGNORED]
    assert [source.labels.names[index] for index in (0, 20, 30, 115)] == ["Bird", "Road", "Bicyclist", "Static"]


def test_mapillary_does_not_read_one_version_with_the_labels_of_the_other(tmp_path: Path) -> None:
    write_image(tmp_path / "training/images/a.jpg")
    write_mask(tmp_path / "training/v2.0/labels/a.png", [0])
    with pytest.raises(UserError, match=r"version=v2\.0 has the labels 0\.\.123, and .* maps 66 ids; allowed"):
        dataset("mapillary", tmp_path, version="v2.0")


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("TrainVal_images", "TrainVal_parsing_annotations"),
        ("TrainVal_images/TrainVal_images", "TrainVal_parsing_annotations/TrainVal_parsing_annotations"),
        (".", "."),
    ],
)
def test_lip(tmp_path: Path, images: str, masks: str) -> None:
    tiny_folders.lip(tmp_path, places=(images, masks))
    source = dataset("lip", tmp_path)
    assert ids(source, 0, 3) == [0, 13, 19]
    assert [source.labels.names[index] for index in (0, 13, 19)] == ["Background", "Face", "Right-shoe"]
    assert len(dataset("lip", tmp_path, "val")) == 1


@pytest.mark.parametrize(
    ("option", "num_classes"),
    [
        *(("cityscapes", 19), ("voc", 21), ("sbd", 21), ("coco_stuff", 171), ("ade20k", 150), ("bdd100k", 19)),
        *(("mapillary", 65), ("mapillary_v2", 116), ("lip", 20), ("camvid", 11)),
    ],
)
def test_every_class_has_ids_a_name_and_a_colour(option: str, num_classes: int) -> None:
    node = node_of(option)
    assert node["num_classes"] == len(node["class_names"]) == len(node["colors"]) == num_classes
    if node["class_mapping"] is not None:
        targets = set(node["class_mapping"].values())
        assert targets - {node["ignore_index"]} == set(range(num_classes))


@pytest.mark.parametrize(
    ("option", "there", "looked_for"),
    [
        ("cityscapes", "leftImg8bit/val/lindau", r"leftImg8bit/train; .*/leftImg8bit has val/; dataset\.train_split"),
        ("voc", "JPEGImages", "ImageSets; .* has JPEGImages/"),
        ("sbd", "img", r"there is no file .*train\.txt; .* has cls/, img/"),
        ("coco_stuff", "val2017", r"images, nor .*/train2017; .* has val2017/"),
        ("ade20k", "images/training", "annotations"),
        ("bdd100k", "images/100k", "images/10k; .*/images has 100k/"),
        ("mapillary", "training/v2.0", r"v1\.2.*, nor .*training/labels; .*training has images/, v2\.0/"),
        ("lip", "TrainVal_images", "train_images, nor "),
    ],
)
def test_roots_that_lack_a_part_say_what_was_looked_for(
    tmp_path: Path, option: str, there: str, looked_for: str
) -> None:
    (tmp_path / there).mkdir(parents=True)
    if option == "ade20k":
        write_image(tmp_path / "images/training/a.jpg")
    if option == "sbd":
        write_text(tmp_path / "cls/a.mat", "")
        write_image(tmp_path / "img/a.jpg")
    if option == "mapillary":
        write_image(tmp_path / "training/images/a.jpg")
    with pytest.raises(UserError, match=looked_for):
        dataset(option, tmp_path)
