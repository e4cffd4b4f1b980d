"""How an unknown folder of images and masks is laid out, told from the names of its folders and files.

What decides a result is never guessed: where names, lists and tables leave something open, or contradict each
other, a UserError shows an example and the key that settles it.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from segkit.contracts import UserError
from segkit.data.file_list import files_below
from segkit.data.found_lists import ListFile, Table, find_lists, find_tables
from segkit.data.found_pairs import Choice, Matched, Pair, match
from segkit.data.pairing import key_of
from segkit.data.path_words import SplitName, SplitWord, meaning_of
from segkit.data.reading import SUFFIXES

Kind = Literal["cityscapes", "voc", "folder", "split_lists", "table", "csv"]
Source = Literal["table", "lists", "folders"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
VOC_FOLDERS = ("", "VOC2012/", "VOCdevkit/VOC2012/")
"""Below which `segkit.data.voc` finds its own folders."""


@dataclass(frozen=True)
class Wanted(Choice):
    """What a person says of the layout, each None where the folder is to tell it.

    Attributes:
        splits_from: what says which samples train: a table, lists of names, or the names of folders and files.
        lists: the folder of the lists, relative to the data set's.
    """

    splits_from: Source | None = None
    lists: str | None = None


@dataclass(frozen=True)
class Layout:
    """What a folder was found to be.

    Attributes:
        kind: the data set class that reads it; `table` is a list of pairs that is still to be written.
        told: what was recognised, for a person.
        pairs: image and mask of each sample, relative to the folder, by split; all are `train` without splits.
        keys: keys of the data set's config that the kind needs.
        notes: what a person should know of it: files left out, and what was chosen for which reason.
    """

    kind: Kind
    told: str
    pairs: dict[SplitName, list[tuple[str, str]]]
    keys: dict[str, str | None] = field(default_factory=dict[str, "str | None"])
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Splits:
    """Pairs with the splits that one source gives them; `table` and `lists` are what they come from."""

    pairs: list[Pair]
    told: str
    table: Table | None = None
    lists: dict[SplitWord, ListFile] | None = None


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
    splits = _by_table(root, files, matched, wanted, notes)
    if splits is None:
        if not matched.pairs:
            raise UserError(_no_pairs(root, files, matched))
        if len(matched.doubled) > len(matched.pairs):
            raise UserError(_open(matched))
        splits = _by_lists(root, matched.pairs, wanted, notes)
    by_split = _settled(splits.pairs, notes)
    return _layout(splits, by_split, matched, tuple(notes))


def _by_table(root: Path, files: Sequence[str], matched: Matched, wanted: Wanted, notes: list[str]) -> _Splits | None:
    """What a table says; None where there is none, or none that can be used."""
    if wanted.splits_from in ("lists", "folders"):
        return None
    tables = [table for table in find_tables(root, files, matched.pairs) if table.rows or table.unknown]
    usable = [table for table in tables if table.rows and (table.columns["mask"] or table.columns["split"])]
    for table in tables:
        if table not in usable or len(table.unknown) > len(table.rows):
            notes.append(f"{table.name}: {len(table.unknown)} rows name no files here, such as {table.unknown[0]}")
    if not usable:
        if wanted.splits_from == "table" or (tables and _has_no_splits(matched.pairs)):
            seen = f" {notes[-1]}; a file here: {files[0]}." if tables else ""
            raise UserError(
                f"folder={root}: no table with columns of images and of masks or splits that are files here.{seen}\n"
                "splits_from=folders does without a table"
            )
        return None
    with_splits = [table for table in usable if any(row.split for row in table.rows)]
    if len({posixpath.dirname(table.name) for table in with_splits}) == 1 and all(
        not table.columns["split"] for table in with_splits
    ):
        table = replace(with_splits[0], rows=[row for one in with_splits for row in one.rows], is_exact=False)
        names = ", ".join(one.name for one in with_splits)
    elif len(usable) > 1 and len({tuple(sorted(table.rows)) for table in usable}) > 1 and len(with_splits) != 1:
        raise UserError(
            f"folder={root}: {', '.join(table.name for table in usable)} are tables of different samples; move away "
            "all but one, or give splits_from=folders or splits_from=lists"
        )
    else:
        table = (with_splits or usable)[0]
        names = table.name
    if table.strange and not any(row.split for row in table.rows):
        raise UserError(
            f"{root / table.name}: the column {table.columns['split']} holds {_listed(set(table.strange))}, and no "
            "names of splits; allowed there: train, val, test and the like; or splits_from=folders"
        )
    if table.strange:
        notes.append(f"{table.name}: {len(table.strange)} rows of {_listed(set(table.strange))} are left out")
    if table.unknown and table in usable and len(table.unknown) <= len(table.rows):
        notes.append(f"{table.name}: {len(table.unknown)} rows without files are left out, such as {table.unknown[0]}")
    _compare(table.rows, matched.pairs, f"the table {names}", "splits_from=table", notes)
    if not any(row.split for row in table.rows):
        own = {pair.image: pair.split for pair in matched.pairs}
        rows = [Pair(row.image, row.mask, own.get(row.image)) for row in table.rows]
        return replace(_by_lists(root, rows, wanted, notes), table=None)
    return _Splits(table.rows, f"the table {names}", table=table)


def _compare(chosen: Sequence[Pair], by_names: Sequence[Pair], what: str, key: str, notes: list[str]) -> None:
    """Say how what a table or lists give differs from the folders. Raises UserError where splits contradict."""
    own = {pair.image: pair for pair in by_names}
    both = [(pair, own[pair.image]) for pair in chosen if pair.image in own]
    against = [
        (pair, other) for pair, other in both if {pair.split, other.split} in ({"train", "val"}, {"train", "test"})
    ]
    if against and not key.endswith("!"):
        pair, other = against[0]
        raise UserError(
            f"{what} puts {pair.image} into {pair.split}, its folder into {other.split} ({len(against)} samples); "
            f"give {key} or splits_from=folders"
        )
    if others := [(pair, other) for pair, other in both if pair.mask != other.mask]:
        pair, other = others[0]
        notes.append(f"{what} gives {pair.image} the mask {pair.mask}; by names it would be {other.mask}")
    if left := sorted(own.keys() - {pair.image for pair in chosen}):
        notes.append(f"{what} leaves out {len(left)} pairs, such as {left[0]}")


def _by_lists(root: Path, pairs: list[Pair], wanted: Wanted, notes: list[str]) -> _Splits:
    """What lists say, else what the names of folders or files say."""
    by_folders = _Splits(pairs, "the names of folders")
    if wanted.splits_from == "folders":
        return by_folders
    found = find_lists(root, pairs, wanted.lists)
    usable = [group for group in found if all(group[part].is_usable for part in ("train", "trainval") if part in group)]
    usable = [group for group in usable if "val" not in group or group["val"].is_usable]
    for group in found:
        if group not in usable:
            bad = next(list_file for list_file in group.values() if list_file.unknown)
            message = (
                f"{bad.name}: {len(bad.unknown)} of {len(bad.unknown) + len(bad.items)} lines name no pair here, such "
                f"as {bad.unknown[0]!r}; a pair here is {pairs[0].image} and {pairs[0].mask}"
            )
            if not usable and (wanted.splits_from == "lists" or wanted.lists or _has_no_splits(pairs)):
                raise UserError(f"{root / message}.\nMend the list, or give splits_from=folders to do without lists")
            notes.append(message)
    if not usable:
        if wanted.splits_from == "lists":
            raise UserError(f"folder={root}: splits_from=lists, but there is no list of training samples, as train.txt")
        return by_folders
    group = _one_group(root, usable)
    splits = _listed_splits(root, group, pairs, notes)
    folder = posixpath.dirname(group.get("train", group.get("trainval")).name) or "."  # pyright: ignore
    explicit = wanted.splits_from == "lists" or wanted.lists is not None
    key = "splits_from=lists" + "!" * explicit
    _compare(splits, pairs, f"the lists in {folder}/", key, notes)
    return _Splits(splits, f"lists in {folder}/", lists=group)


def _one_group(root: Path, groups: Sequence[dict[SplitWord, ListFile]]) -> dict[SplitWord, ListFile]:
    """The lists to go by where several folders have some. Raises UserError where these differ."""

    def folder(group: dict[SplitWord, ListFile]) -> str:
        return posixpath.dirname(next(iter(group.values())).name) or "."

    preferred = [group for group in groups if "segmentation" in folder(group).lower()] or list(groups)
    contents = {tuple(sorted((part, tuple(sorted(own.items))) for part, own in group.items())) for group in preferred}
    if len(contents) > 1:
        raise UserError(
            f"folder={root}: {_listed(map(folder, preferred))} have lists that differ; give lists=FOLDER, such as "
            f"lists={folder(preferred[0])}"
        )
    return preferred[0]


def _listed_splits(
    root: Path, group: dict[SplitWord, ListFile], pairs: Sequence[Pair], notes: list[str]
) -> list[Pair]:
    """The pairs of each list. Raises UserError for a sample that stands in two."""
    owner: dict[int, ListFile] = {}
    for split in ("train", "val", "test", "trainval"):
        own = group.get(split)
        if own is None or (split == "trainval" and "train" in group):
            continue
        if own.unknown:
            notes.append(
                f"{own.name}: {len(own.unknown)} of {len(own.unknown) + len(own.items)} lines name no pair, such as "
                f"{own.unknown[0]!r}"
            )
        for item in own.items:
            first = owner.setdefault(item, own)
            if first is not own:
                raise UserError(
                    f"{root}: {pairs[item].image} stands in {first.name} and in {own.name}; a sample belongs to one "
                    "list. Mend the lists, or give splits_from=folders to do without them"
                )
    return [replaced for item, own in owner.items() for replaced in [pairs[item]._replace(split=own.split)]]


def _has_no_splits(pairs: Sequence[Pair]) -> bool:
    return all(pair.split in (None, "trainval") for pair in pairs)


def _settled(pairs: Sequence[Pair], notes: list[str]) -> dict[SplitName, list[tuple[str, str]]]:
    """Pairs by split, sorted. Where some have one, those that have none take no part."""
    pairs = list(pairs)
    if all(pair.split is None for pair in pairs):
        pairs = _by_file_names(pairs, notes)
    found = {pair.split for pair in pairs}
    if "train" not in found and "trainval" in found:
        pairs = [pair._replace(split="train") if pair.split == "trainval" else pair for pair in pairs]
        found = {pair.split for pair in pairs}
        notes.append("no split is called train; what is called trainval is taken for it")
    if found == {None}:
        pairs = [pair._replace(split="train") for pair in pairs]
    left = [pair for pair in pairs if pair.split not in SPLITS]
    if left and len(left) < len(pairs):
        where = "trainval" if left[0].split == "trainval" else "no split"
        notes.append(f"{len(left)} pairs are of {where} while others are, and are left out, such as {left[0].image}")
    by_split: defaultdict[SplitName, list[tuple[str, str]]] = defaultdict(list)
    for split in SPLITS:
        own = sorted((pair.image, pair.mask) for pair in pairs if pair.split == split)
        if own:
            by_split[split] = own
    return dict(by_split)


def _by_file_names(pairs: Sequence[Pair], notes: list[str]) -> list[Pair]:
    """Pairs whose files are all called train_1, val_2 and so on, with these splits."""
    splits = [meaning_of(re.split(r"[_\-. \d]", posixpath.basename(pair.image))[0]).split for pair in pairs]
    if not {"train"} < set(splits) <= set(SPLITS):
        return list(pairs)
    notes.append("splits by the names of files: train..., " + ", ".join(f"{split}..." for split in sorted({*splits} - {"train"}, key=str)))
    return [pair._replace(split=split) for pair, split in zip(pairs, splits, strict=True)]


def _layout(
    splits: _Splits, by_split: dict[SplitName, list[tuple[str, str]]], matched: Matched, notes: tuple[str, ...]
) -> Layout:
    """The layout with the plainest reader that reads it as it is, else a table that is still to be written."""
    counts = ", ".join(f"{split} {len(pairs)}" for split, pairs in by_split.items())
    folders = _listed(
        [f"{folder}/" for folder, _ in Counter(posixpath.dirname(name) or "." for pairs in by_split.values() for pair in pairs for name in pair).most_common()]
    )
    absent: dict[str, str | None] = {f"{split}_split": None for split in SPLITS}
    if splits.table is not None:
        told = f"{splits.told} ({counts})"
        table = splits.table
        if table.is_exact and table.columns["mask"]:
            names = {f"{split}_split": value for split, value in table.splits.items()}
            columns = {f"{part}_column": table.columns[part] for part in ("image", "mask", "split")}
            return Layout("csv", told, by_split, {"table": table.name, **columns, **absent, **names}, notes)
        return Layout("table", told, by_split, {}, notes)
    if splits.lists is not None:
        told = f"images and masks in {folders}, {splits.told} ({counts})"
        keys = _as_lists(splits.lists, by_split)
        if keys is None:
            return Layout("table", told, by_split, {}, notes)
        names = (keys["images_dir"], keys["masks_dir"], keys["splits_dir"])
        voc = [(f"{start}JPEGImages", f"{start}SegmentationClass", f"{start}ImageSets/Segmentation") for start in VOC_FOLDERS]
        if names in voc:
            splits_only = {key: value for key, value in keys.items() if key.endswith("_split")}
            return Layout("voc", f"Pascal VOC's folders ({counts})", by_split, splits_only, notes)
        return Layout("split_lists", told, by_split, keys, notes)
    names = _as_folders(by_split) if not matched.unpaired["image"] and not matched.unpaired["mask"] else None
    if names is not None and not matched.further:
        return Layout("folder", f"images/ and masks/ in split folders ({counts})", by_split, absent | names, notes)
    return Layout("table", f"images and masks in {folders} ({counts})", by_split, {}, notes)


def _as_lists(
    group: dict[SplitWord, ListFile], by_split: dict[SplitName, list[tuple[str, str]]]
) -> dict[str, str | None] | None:
    """Keys with which `SplitLists` reads the same; None where names differ or not every line is a sample."""
    pairs = [pair for own in by_split.values() for pair in own]
    folders = [posixpath.commonpath([posixpath.dirname(pair[i]) or "." for pair in pairs]) for i in (0, 1)]
    if any(
        key_of(posixpath.relpath(image, folders[0])) != key_of(posixpath.relpath(mask, folders[1]))
        for image, mask in pairs
    ):
        return None
    keys: dict[str, str | None] = {f"{split}_split": None for split in SPLITS}
    for split in by_split:
        own = group.get(split) or group["trainval"]
        if own.unknown or len(set(own.items)) != len(own.items):
            return None
        folder, name = posixpath.split(own.name)
        if not name.endswith(".txt"):
            return None
        keys |= {f"{split}_split": name.removesuffix(".txt"), "splits_dir": folder or "."}
    return keys | {"images_dir": folders[0], "masks_dir": folders[1]}


def _as_folders(by_split: dict[SplitName, list[tuple[str, str]]]) -> dict[str, str | None] | None:
    """Keys with which `Folder` reads the same: the folder of each split; None where it does not."""
    names: dict[str, str | None] = {}
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
    notes: list[str] = []
    for role, files in matched.unpaired.items():
        if files:
            other = "mask" if role == "image" else "image"
            notes.append(f"{len(files)} {role}s without {'an' * (other == 'image') or 'a'} {other}, such as {files[0]}")
    if matched.further:
        notes.append(f"{len(matched.further)} further files of images that have a mask, such as {matched.further[0]}")
    if matched.aside:
        notes.append(f"{len(matched.aside)} files that are no masks of classes by their folder, such as {matched.aside[0]}")
    if matched.doubled:
        notes.append(f"{len(matched.doubled)} names that fit several files are left out: {', '.join(matched.doubled[0])}")
    return notes


def _open(matched: Matched) -> str:
    return (
        f"{len(matched.doubled)} names fit several files, so that it is open which belong together: "
        f"{', '.join(matched.doubled[0])}.\nGive image_folder=..., mask_folder=..., image_suffix=... or mask_suffix=..."
    )


def _no_pairs(root: Path, files: Sequence[str], matched: Matched) -> str:
    if matched.doubled:
        return f"folder={root}: " + _open(matched)
    seen = _listed([f"{folder}/ ({number})" for folder, number in Counter(posixpath.dirname(name) or "." for name in files).items()])
    examples = [f"{role} {names[0]}" for role, names in matched.unpaired.items() if names]
    found = f"no {role}s were recognised" if (role := _lacking(matched)) else "no image and mask have names that fit"
    return (
        f"folder={root}: {found} among {len(files)} images in {seen}; without a partner: {', '.join(examples)}.\n"
        "Recognised are folders named masks, labels, annotations or gt beside images, masks named like their image "
        "with _mask, _label or _gt at the end, and a table data.csv with the columns image and mask.\n"
        "Else give image_folder=... and mask_folder=..., or image_suffix=... and mask_suffix=..."
    )


def _lacking(matched: Matched) -> str | None:
    return next((role for role, names in matched.unpaired.items() if not names), None)


def _listed(names: Iterable[str]) -> str:
    own = list(names)
    shown = ", ".join(own[:4])
    return shown if len(own) <= 4 else f"{shown} and {len(own) - 4} more"
