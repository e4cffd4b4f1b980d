"""How an unknown folder of images and masks is laid out, told from the names of its folders and files."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from segkit.contracts import UserError
from segkit.data.discovery.found_lists import ListFile
from segkit.data.discovery.found_pairs import Matched, match
from segkit.data.discovery.found_splits import SPLITS, Splits, Wanted, by_lists, by_table, settled, shortly
from segkit.data.discovery.path_words import SplitName, SplitWord
from segkit.data.files.decode import SUFFIXES
from segkit.data.files.file_list import files_below
from segkit.data.files.pairing import key_of, listed_keys

Kind = Literal["cityscapes", "voc", "folder", "split_lists", "table", "csv"]
BySplit = dict[SplitName, list[tuple[str, str]]]
"""Image and mask of each sample, relative to the folder, by split."""
Keys = dict[str, str | None]
"""Of the config of a data set."""

VOC_FOLDERS = ("", "VOC2012/", "VOCdevkit/VOC2012/")
"""Below which `segkit.data.datasets.voc` finds its own folders."""


@dataclass(frozen=True)
class Layout:
    """What a folder was found to be.

    Attributes:
        kind: the data set class that reads it; `table` is a list of pairs that is still to be written.
        told: what was recognised, for a person.
        pairs: all are `train` without splits.
        keys: keys of the data set's config that the kind needs.
        notes: what a person should know of it: files left out, and what was chosen for which reason.
    """

    kind: Kind
    told: str
    pairs: BySplit
    keys: Keys = field(default_factory=dict[str, "str | None"])
    notes: tuple[str, ...] = ()


def recognise(root: Path, wanted: Wanted | None = None) -> Layout:
    """The layout of the folder `root`. Raises UserError, saying what was seen, when it cannot be told."""
    wanted = wanted or Wanted()
    if not root.is_dir():
        raise UserError(f"folder={root}: there is no such folder")
    if wanted == Wanted() and (root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir():
        return Layout("cityscapes", "Cityscapes: leftImg8bit/ and gtFine/", {})
    files = files_below(root, SUFFIXES)
    if not files:
        raise UserError(f"folder={root}: no images in it; looked for {', '.join(sorted(SUFFIXES))} in all its folders")
    matched = match(files, wanted)
    notes = _notes(matched)
    splits = by_table(root, files, matched.pairs, wanted, notes)
    if splits is None:
        _require_pairs(root, files, matched)
        splits = by_lists(root, matched.pairs, wanted, notes)
    by_split = settled(splits.pairs, notes)
    kind, told, keys = _reader(root, splits, by_split, matched)
    counts = ", ".join(f"{split} {len(pairs)}" for split, pairs in by_split.items())
    return Layout(kind, f"{told} ({counts})", by_split, keys, tuple(notes))


def _reader(root: Path, splits: Splits, by_split: BySplit, matched: Matched) -> tuple[Kind, str, Keys]:
    """The plainest reader that reads the pairs as they are, else a table that is still to be written."""
    absent: Keys = {f"{split}_split": None for split in SPLITS}
    if splits.table is not None:
        table = splits.table
        if table.is_exact and table.columns["mask"]:
            names = {f"{split}_split": value for split, value in table.splits.items()}
            columns = {f"{part}_column": table.columns[part] for part in ("image", "mask", "split")}
            return "csv", splits.told, {"table": table.name, **columns, **absent, **names}
        return "table", splits.told, {}
    places = [posixpath.dirname(name) or "." for pairs in by_split.values() for pair in pairs for name in pair]
    told = "images and masks in " + shortly(f"{place}/" for place, _ in Counter(places).most_common())
    if splits.lists is not None:
        keys = _as_lists(root, splits.lists, by_split)
        if keys is None:
            return "table", f"{told}, {splits.told}", {}
        own = keys["images_dir"], keys["masks_dir"], keys["splits_dir"]
        parts = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"
        if own in [tuple(start + part for part in parts) for start in VOC_FOLDERS]:
            return "voc", "Pascal VOC's folders", {key: keys[key] for key in absent}
        return "split_lists", f"{told}, {splits.told}", keys
    others = [*matched.unpaired["image"], *matched.unpaired["mask"], *matched.further]
    names = _as_folders(by_split) if not others and not splits.told else None
    if names is not None:
        return "folder", "images/ and masks/ in split folders", absent | names
    return "table", f"{told}, {splits.told}" if splits.told else told, {}


def _as_lists(root: Path, group: dict[SplitWord, ListFile], by_split: BySplit) -> Keys | None:
    """Keys with which `SplitLists` reads the same; None where names differ or it does not know a line."""
    pairs = [pair for own in by_split.values() for pair in own]
    folders: list[str] = [posixpath.commonpath([posixpath.dirname(pair[i]) or "." for pair in pairs]) for i in (0, 1)]
    if any(
        key_of(posixpath.relpath(image, folders[0])) != key_of(posixpath.relpath(mask, folders[1]))
        for image, mask in pairs
    ):
        return None
    keys: Keys = {f"{split}_split": None for split in SPLITS}
    for split in by_split:
        own = group.get(split) or group["trainval"]
        folder, name = posixpath.split(own.name)
        keys_listed = {key_of(posixpath.relpath(image, folders[0])) for image, _ in by_split[split]}
        try:
            same = listed_keys(own.lines, keys_listed, root, folders)
        except ValueError:
            return None
        if len(same) != len(own.items) or set(same) != keys_listed or not name.endswith(".txt"):
            return None
        keys |= {f"{split}_split": name.removesuffix(".txt"), "splits_dir": folder or "."}
    return keys | {"images_dir": folders[0], "masks_dir": folders[1]}


def _as_folders(by_split: BySplit) -> Keys | None:
    """Keys with which `Folder` reads the same: the folder of each split; None where it does not."""
    names: Keys = {}
    for split, pairs in by_split.items():
        tops = {pair[0].split("/")[0] for pair in pairs}
        top = next(iter(tops))
        is_exact = all(
            image.startswith(f"{top}/images/")
            and mask.startswith(f"{top}/masks/")
            and key_of(image.split("/", 2)[2]) == key_of(mask.split("/", 2)[2])
            for image, mask in pairs
        )
        if len(tops) > 1 or not is_exact:
            return None
        names[f"{split}_split"] = top
    return names


def _notes(matched: Matched) -> list[str]:
    images, masks = matched.unpaired["image"], matched.unpaired["mask"]
    found = [
        (images, "without a mask"),
        (masks, "taken for a mask, without an image"),
        (matched.further, "beside the mask of their image, and left out"),
        (matched.aside, "in folders that hold no images or masks of classes by their names"),
    ]
    notes = [f"{len(names)} files {what}, such as {names[0]}" for names, what in found if names]
    if matched.loose:
        image, mask, _ = matched.loose[0]
        notes.append(f"{len(matched.loose)} pairs differ in folders or capitals, such as {image} and {mask}")
    if matched.are_by_file_type and matched.pairs:
        notes.append(
            f"of files of one name JPEG is the image, as JPEG holds no ids: {' and '.join(matched.pairs[0][:2])}"
        )
    if matched.doubled:
        notes.append(
            f"{len(matched.doubled)} names fit several files, which are left out: {', '.join(matched.doubled[0])}"
        )
    return notes


def _require_pairs(root: Path, files: Sequence[str], matched: Matched) -> None:
    """Raise UserError, with examples, where there are no pairs, or where it is open for most which belong together."""
    if len(matched.doubled) > len(matched.pairs):
        raise UserError(
            f"folder={root}: {len(matched.doubled)} names fit several files, so that it is open which belong "
            f"together: {', '.join(matched.doubled[0])}.\nGive image_folder=... or mask_folder=..., or "
            "image_suffix=... or mask_suffix=..."
        )
    if matched.pairs:
        return
    folders = Counter(posixpath.dirname(name) or "." for name in files)
    seen = shortly(f"{folder}/ ({number})" for folder, number in folders.items())
    images, masks = matched.unpaired["image"], matched.unpaired["mask"]
    if images and masks:
        found = f"no image and mask have names that fit, as image {images[0]} and mask {masks[0]}"
    else:
        found = f"no {'masks' if images else 'images'} were recognised, as with {(images or masks)[0]}"
    raise UserError(
        f"folder={root}: {found}, among {len(files)} files in {seen}.\n"
        "Recognised are folders named masks, labels, annotations or gt beside images, masks named like their image "
        "with _mask, _label or _gt at the end, and a table data.csv with the columns image and mask.\n"
        "Else give image_folder=... and mask_folder=..., or image_suffix=... and mask_suffix=..."
    )
