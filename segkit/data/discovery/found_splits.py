"""Which pairs train and which evaluate: what a table, lists, or the names of folders and files say of it.

What decides a result is never guessed: where these leave something open, or contradict each other, a UserError
shows an example and the key that settles it.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from segkit.contracts import UserError
from segkit.data.discovery.found_lists import ListFile, Table, find_lists, find_tables
from segkit.data.discovery.found_pairs import Choice, Pair
from segkit.data.discovery.path_words import SplitName, SplitWord, meaning_of

SplitsFrom = Literal["table", "lists", "folders"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Wanted(Choice):
    """What a person says of the layout, each None where the folder is to tell it.

    Attributes:
        splits_from: what says which samples train: a table, lists of names, or the names of folders and files.
        lists: the folder of the lists, relative to the data set's.
    """

    splits_from: SplitsFrom | None = None
    lists: str | None = None

    @property
    def wants_lists(self) -> bool:
        return self.splits_from == "lists" or self.lists is not None


@dataclass(frozen=True)
class Splits:
    """Pairs with the splits that one source gives them; `table` and `lists` are what they come from."""

    pairs: list[Pair]
    told: str = ""
    table: Table | None = None
    lists: dict[SplitWord, ListFile] | None = None


def by_table(root: Path, files: Sequence[str], by_names: list[Pair], wanted: Wanted, notes: list[str]) -> Splits | None:
    """What a table says; None where there is none, or none that can be used.

    Args:
        files: all images and masks.
        by_names: the pairs that names give.
        notes: what a person should know is added here.
    """
    if wanted.splits_from in ("lists", "folders") or wanted.lists is not None:
        return None
    tables = find_tables(root, files, by_names)
    usable = [table for table in tables if table.rows]
    notes += [
        f"{table.name}: {len(table.unknown)} rows have no files here, such as {table.unknown[0]}"
        for table in tables
        if table.unknown
    ]
    for table in tables:
        if table.strange and all(row.split is None for row in table.rows):
            values = shortly(sorted(set(table.strange)))
            raise UserError(
                f"{root / table.name}: its column {table.columns['split']} holds {values}, which are no names of "
                "splits; allowed: train, val, test and the like. Rename them, or give splits_from=folders"
            )
    if not usable:
        if wanted.splits_from == "table" or (tables and _have_no_splits(by_names)):
            seen = f"; {notes[-1]}; a file here is {files[0]}" if tables else ""
            raise UserError(
                f"folder={root}: no table with a column of images and one of masks or splits that are files here{seen}."
                "\nMend the table, or give splits_from=folders to do without one"
            )
        return None
    table = _one_table(root, usable)
    if table.strange:
        values = shortly(sorted(set(table.strange)))
        notes.append(f"{table.name}: {len(table.strange)} rows of {values} are left out")
    what = f"the table {table.name}"
    if all(row.split is None for row in table.rows):
        own = {pair.image: pair.split for pair in by_names}
        rows = [row._replace(split=own.get(row.image)) for row in table.rows]
        _compare(rows, by_names, what, wanted.splits_from is not None, notes)
        found = by_lists(root, rows, wanted, notes)
        return found if found.lists is not None else replace(found, told=what)
    _compare(table.rows, by_names, what, wanted.splits_from is not None, notes)
    return Splits(table.rows, what, table=table)


def _one_table(root: Path, tables: Sequence[Table]) -> Table:
    """The table to go by: the only one with splits, or train.csv, val.csv and so on as one. Raises UserError."""
    parts = [table for table in tables if table.columns["split"] is None and table.rows[0].split is not None]
    if parts and len({posixpath.dirname(table.name) for table in parts}) == 1:
        rows = [row for table in parts for row in table.rows]
        if len({row.image for row in rows}) < len(rows):
            twice = next(row.image for number, row in enumerate(rows) if row.image in [r.image for r in rows[:number]])
            raise UserError(f"{root}: {twice} stands twice in {shortly(table.name for table in parts)}")
        return replace(parts[0], name=" and ".join(table.name for table in parts), rows=rows, is_exact=False)
    if len({tuple(sorted(table.rows, key=str)) for table in tables}) > 1:
        raise UserError(
            f"folder={root}: {shortly(table.name for table in tables)} are tables of different samples; move away all "
            "but one, or give splits_from=folders or splits_from=lists"
        )
    return tables[0]


def _compare(chosen: Sequence[Pair], by_names: Sequence[Pair], what: str, is_asked: bool, notes: list[str]) -> None:
    """Say how what a table or lists give differs from the names of folders.

    Raises UserError where they give a sample another split, unless a person asked for them (`is_asked`).
    """
    own = {pair.image: pair for pair in by_names}
    both = [(pair, own[pair.image]) for pair in chosen if pair.image in own]
    against = [
        (pair, other)
        for pair, other in both
        if pair.split != other.split and pair.split in SPLITS and other.split in SPLITS
    ]
    if against and not is_asked:
        pair, other = against[0]
        key = "table" if what.startswith("the table") else "lists"
        raise UserError(
            f"{what} puts {pair.image} into {pair.split}, and its folder says {other.split} ({len(against)} such "
            f"samples). Give splits_from={key}, or splits_from=folders"
        )
    if others := [(pair, other) for pair, other in both if pair.mask != other.mask]:
        pair, other = others[0]
        notes.append(f"{what} gives {pair.image} the mask {pair.mask}; by its name it would be {other.mask}")
    elif both and not against and what.startswith("the table"):
        notes.append(f"{what} was chosen; the names of folders and files give the same pairs")
    if left := sorted(own.keys() - {pair.image for pair in chosen}):
        notes.append(f"{what} leaves out {len(left)} pairs, such as {left[0]}")


def by_lists(root: Path, pairs: list[Pair], wanted: Wanted, notes: list[str]) -> Splits:
    """What lists say, else what the names of folders say, which `pairs` hold. Raises UserError."""
    if wanted.splits_from == "folders":
        return Splits(pairs)
    found = find_lists(root, pairs, wanted.lists)
    usable = [
        group
        for group in found
        if all(group[split].is_usable for split in ("train", "val", "trainval") if split in group)
    ]
    for group in found:
        if group in usable:
            continue
        bad = next(list_file for list_file in group.values() if not list_file.is_usable)
        message = f"{bad.describe_unknown()}; a pair here is {pairs[0].image} and {pairs[0].mask}"
        is_meant = bad.is_named_as_list and _have_no_splits(pairs)
        if not usable and (wanted.wants_lists or is_meant):
            raise UserError(f"{root}: {message}.\nMend the list, or give splits_from=folders to do without lists")
        notes.append(message)
    if not usable:
        if wanted.wants_lists:
            raise UserError(
                f"folder={root}: there is no list of training samples, such as train.txt, to take splits from"
            )
        return Splits(pairs)
    group = _one_group(root, usable)
    what = f"lists in {_folder(group)}/"
    listed = _listed_pairs(root, group, pairs, notes)
    _compare(listed, pairs, f"the {what}", wanted.wants_lists, notes)
    return Splits(listed, what, lists=group)


def _folder(group: dict[SplitWord, ListFile]) -> str:
    return posixpath.dirname(next(iter(group.values())).name) or "."


def _one_group(root: Path, groups: Sequence[dict[SplitWord, ListFile]]) -> dict[SplitWord, ListFile]:
    """The lists to go by where several folders have some. Raises UserError where these differ."""
    preferred = [group for group in groups if "segmentation" in _folder(group).lower()] or list(groups)
    contents = {tuple(sorted((part, tuple(sorted(own.items))) for part, own in group.items())) for group in preferred}
    if len(contents) > 1:
        raise UserError(
            f"folder={root}: {shortly(map(_folder, preferred))} have lists that differ; give lists=FOLDER, such as "
            f"lists={_folder(preferred[0])}"
        )
    return preferred[0]


def _listed_pairs(root: Path, group: dict[SplitWord, ListFile], pairs: Sequence[Pair], notes: list[str]) -> list[Pair]:
    """The pairs of each list. Raises UserError for a sample that stands in two."""
    owner: dict[int, ListFile] = {}
    order: tuple[SplitWord, ...] = (*SPLITS, "trainval")
    for split in order:
        own = group.get(split)
        if own is None or (split == "trainval" and "train" in group):
            continue
        if own.unknown:
            notes.append(own.describe_unknown())
        for item in own.items:
            first = owner.setdefault(item, own)
            if first is not own:
                raise UserError(
                    f"{root}: {pairs[item].image} stands in {first.name} and in {own.name}; a sample belongs to one "
                    "list. Mend the lists, or give splits_from=folders to do without them"
                )
    return [pairs[item]._replace(split=own.split) for item, own in owner.items()]


def _have_no_splits(pairs: Sequence[Pair]) -> bool:
    return all(pair.split in (None, "trainval") for pair in pairs)


def settled(pairs: list[Pair], notes: list[str]) -> dict[SplitName, list[tuple[str, str]]]:
    """Pairs by split, sorted. Where some have a split, those that have none take no part."""
    if all(pair.split is None for pair in pairs):
        pairs = _by_file_names(pairs, notes)
    found = {pair.split for pair in pairs}
    if "trainval" in found and "train" not in found:
        pairs = [pair._replace(split="train") if pair.split == "trainval" else pair for pair in pairs]
        notes.append("nothing is called train; what is called trainval is taken for it")
    if found == {None}:
        pairs = [pair._replace(split="train") for pair in pairs]
    left = [pair for pair in pairs if pair.split not in SPLITS]
    if left:
        notes.append(f"{len(left)} pairs are in no split while others are, and are left out, such as {left[0].image}")
    by_split: defaultdict[SplitName, list[tuple[str, str]]] = defaultdict(list)
    for split in SPLITS:
        own = sorted((pair.image, pair.mask) for pair in pairs if pair.split == split)
        if own:
            by_split[split] = own
    return dict(by_split)


def _by_file_names(pairs: list[Pair], notes: list[str]) -> list[Pair]:
    """Pairs whose files are all called train_1, val_2 and so on, with these splits."""
    splits = [meaning_of(re.split(r"[_\-. \d]", posixpath.basename(pair.image))[0]).split for pair in pairs]
    if not {"train"} < set(splits) <= set(SPLITS):
        return pairs
    notes.append(f"splits by how the names of files begin, such as {pairs[0].image}: {splits[0]}")
    return [pair._replace(split=split) for pair, split in zip(pairs, splits, strict=True)]


def shortly(names: Iterable[str], limit: int = 4) -> str:
    """The first names, and how many more there are."""
    own = list(names)
    shown = ", ".join(own[:limit])
    return shown if len(own) <= limit else f"{shown} and {len(own) - limit} more"
