"""Tiny folders of data sets, laid out as their archives unpack: a function for each option that reads files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

CITYSCAPES = [0, 3, 7, 8, 11, 17, 18, 20, 23, 26, 29, 30, 31, 33]


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((2, 24, 3), 90, np.uint8)).save(path)


def write_mask(path: Path, ids: Sequence[int], palette: bool = False) -> None:
    """A mask whose first pixels hold `ids`, as a palette image if asked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(np.resize(np.array(ids, np.uint8), (2, 24)))
    if palette:
        mask.putpalette(list(range(256)) * 3)
    mask.save(path)


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def cityscapes(root: Path, ids: Sequence[int] = CITYSCAPES) -> None:
    for split, city, frame in (("train", "aachen", "000000_000019"), ("val", "lindau", "000001_000019")):
        stem = f"{split}/{city}/{city}_{frame}"
        write_image(root / f"leftImg8bit/{stem}_leftImg8bit.png")
        write_mask(root / f"gtFine/{stem}_gtFine_labelIds.png", ids)
        write_mask(root / f"gtFine/{stem}_gtFine_instanceIds.png", [1])
        write_image(root / f"gtFine/{stem}_gtFine_color.png")
        write_text(root / f"gtFine/{stem}_gtFine_polygons.json", "{}")


def voc(root: Path, ids: Sequence[int] = (0, 1, 15, 20, 255)) -> None:
    for name in ("2007_000032", "2007_000033", "2007_000039"):
        write_image(root / f"JPEGImages/{name}.jpg")
    write_image(root / "JPEGImages/2008_000001.jpg")  # has boxes only, and stands in no list of this task
    for name in ("2007_000032", "2007_000033"):
        write_mask(root / f"SegmentationClass/{name}.png", ids, palette=True)
    write_text(root / "ImageSets/Segmentation/train.txt", "2007_000032\n")
    write_text(root / "ImageSets/Segmentation/val.txt", "2007_000033\n")


def sbd(root: Path, ids: Sequence[int] = (0, 20, 15)) -> None:
    mask = np.resize(np.array(ids, np.uint8), (2, 24))
    write_image(root / "img/2008_000002.jpg")
    (root / "cls").mkdir()
    segmentation = {"Segmentation": mask, "Boundaries": np.zeros((20, 1)), "CategoriesPresent": np.array(ids)}
    savemat(root / "cls/2008_000002.mat", {"GTcls": segmentation}, do_compression=True)
    for split in ("train", "val", "train_noval"):
        write_text(root / f"{split}.txt", "2008_000002\n")


def coco_stuff(root: Path, ids: Sequence[int] = (0, 10, 12, 89, 91, 181, 255), masks: str = "stuffthingmaps") -> None:
    write_image(root / "images/train2017/000000000009.jpg")
    write_mask(root / f"{masks}/train2017/000000000009.png", ids)


def ade20k(root: Path, ids: Sequence[int] = (0, 1, 2, 150)) -> None:
    for split, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        write_image(root / f"images/{split}/{name}.jpg")
        write_mask(root / f"annotations/{split}/{name}.png", ids)


def bdd100k(
    root: Path,
    ids: Sequence[int] = (0, 18, 255),
    places: tuple[str, str, str] = ("bdd100k/images/10k", "bdd100k/labels/sem_seg/masks", ""),
) -> None:
    images, masks, ending = places
    write_image(root / f"{images}/train/0a0a0b1a-7c39d841.jpg")
    write_mask(root / f"{masks}/train/0a0a0b1a-7c39d841{ending}.png", ids)


def mapillary(root: Path, ids: Sequence[int] = (0, 13, 64, 65), labels: str = "training/v1.2/labels") -> None:
    write_image(root / "training/images/__CRyFzoDOXn6unQ6a3DnQ.jpg")
    write_mask(root / f"{labels}/__CRyFzoDOXn6unQ6a3DnQ.png", ids, palette=True)


def mapillary_v2(root: Path, ids: Sequence[int] = (0, 2, 21, 32, 31, 122, 123)) -> None:
    mapillary(root, ids, "training/v2.0/labels")
    write_mask(root / "training/v1.2/labels/__CRyFzoDOXn6unQ6a3DnQ.png", [0])


def lip(
    root: Path,
    ids: Sequence[int] = (0, 13, 19),
    places: tuple[str, str] = ("TrainVal_images", "TrainVal_parsing_annotations"),
) -> None:
    images, masks = places
    for split, name in (("train", "77_471474"), ("val", "36_454991")):
        write_image(root / f"{images}/{split}_images/{name}.jpg")
        write_mask(root / f"{masks}/{split}_segmentations/{name}.png", ids)


def folder(root: Path, ids: Sequence[int] = (0, 1, 2, 255)) -> None:
    for split in ("train", "val", "test"):
        write_image(root / f"{split}/images/a.png")
        write_mask(root / f"{split}/masks/a.png", ids)


def camvid(root: Path) -> None:
    folder(root, range(12))


def split_lists(root: Path) -> None:
    for again in ("", "_2"):
        for split in ("train", "val"):
            write_image(root / f"images{again}/{split}_1.png")
            write_mask(root / f"masks{again}/{split}_1.png", [0, 1, 2, 255])
            write_text(root / f"splits{again}/{split}.txt", f"{split}_1\n")


def csv(root: Path) -> None:
    rows = ["image,mask,second,split"]
    for split in ("train", "val"):
        write_image(root / f"images/{split}_1.png")
        write_mask(root / f"masks/{split}_1.png", [0, 1, 2, 255])
        write_mask(root / f"masks/{split}_2.png", [2, 1])
        rows.append(f"images/{split}_1.png,masks/{split}_1.png,masks/{split}_2.png,{split}")
    for table in ("data.csv", "more.csv"):
        write_text(root / table, "\n".join(rows) + "\n")


def maker(option: str) -> Callable[[Path], None] | None:
    """The function above for an option of the dataset group."""
    found = globals().get(option)
    return found if getattr(found, "__module__", None) == __name__ and not option.startswith("write_") else None
