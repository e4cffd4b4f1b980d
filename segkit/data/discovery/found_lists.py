"""Lists of names and tables that a folder of images brings along, and which of its samples they mean."""

from __future__ import annotations

import csv
import io
import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segkit.contracts import UserError
from segkit.data.discovery.found_pairs import Pair
from segkit.data.discovery.path_words import (
    Role,
    SplitWord,
    is_called_after_splits,
    meaning_of,
    without_beginning,
    without_ending,
)
from segkit.data.files.bounded import UnusableError, read_text
from segkit.data.files.file_list import files_below
from segkit.data.files.pairing import COLUMN_NAMES, below, columns_of, key_of, same_spelling

LIST_SUFFIXES = frozenset({".txt", ".lst", ".list"})
TABLE_SUFFIXES = frozenset({".csv", ".tsv"})
ROLES: tuple[Role, ...] = ("image", "mask")
MOST_LISTS = 2
"""Of one split in one folder, where none of them fits."""
DEPTH = 3
"""Folders below the data set's in which lists are looked for."""
SPLIT_COLUMNS = frozenset({"split", "set", "subset", "phase", "partition", "fold", "usage"})
NAME_COLUMNS = COLUMN_NAMES | {"input", "inputs"}


class NameIndex:
    """Finds items by a path or a part of it, however much of its beginning and of its ending is left out.

    Args:
        base: the folder that the paths are relative to.
        names: of each item, the paths that mean it.
        bare_too: the name may also lack what says that it is an image or a mask.
    """

    def __init__(self, base: Path, names: Iterable[Sequence[str]], *, bare_too: bool = False) -> None:
        self.base = base
        self._full: dict[str, int | None] = {}
        self._parts: dict[str, int | None] = {}
        for item, own in enumerate(names):
            for name in own:
                folder, stem = posixpath.split(key_of(name))
                texts = {same_spelling(name), posixpath.join(folder, stem)}
                if bare_too:
                    cut = {cut(stem, role) for cut in (without_ending, without_beginning) for role in ROLES}
                    texts |= {posixpath.join(folder, shorter) for shorter in cut}
                for text in texts:
                    self._add(self._full, text, item)
                    parts = text.split("/")
                    for start in range(len(parts)):
                        self._add(self._parts, "/".join(parts[start:]), item)

    def find(self, text: str) -> int | None:
        """The one item that `text` means: part of its path, or its path with more before it. None if there is none."""
        name = below(self.base, text).strip("/")
        for key in (same_spelling(name), key_of(name), key_of(name).casefold()):
            parts = key.split("/")
            candidates = [self._parts.get(key), *(self._full.get("/".join(parts[at:])) for at in range(1, len(parts)))]
            if (item := next((item for item in candidates if item is not None), None)) is not None:
                return item
        return None

    @staticmethod
    def _add(items: dict[str, int | None], key: str, item: int) -> None:
        for text in {key, key.casefold()}:
            if items.setdefault(text, item) != item:
                items[text] = None  # means several


@dataclass
class ListFile:
    """One list: the split that its name tells, the items that its lines mean, and the lines that mean none."""

    name: str
    split: SplitWord
    items: list[int]
    unknown: list[str]
    lines: list[str]

    @property
    def is_named_as_list(self) -> bool:
        """Whether it cannot but be a list of a split, even where none of its lines fits."""
        return is_called_after_splits(posixpath.splitext(posixpath.basename(self.name))[0])

    @property
    def is_usable(self) -> bool:
        return len(self.items) > len(self.unknown)

    def describe_unknown(self) -> str:
        """How many lines mean nothing, with one of them."""
        lines = len(self.unknown) + len(self.items)
        shown = repr(self.unknown[0]) if self.unknown else "nothing, as it is empty"
        return f"{self.name}: {len(self.unknown)} of {lines} lines name no pair here, such as {shown}"


def find_lists(root: Path, pairs: Sequence[Pair], folder: str | None) -> list[dict[SplitWord, ListFile]]:
    """The lists of each folder that has one for training, or all that `folder` has. Items are numbers of pairs."""
    index = NameIndex(root, [(pair.image, pair.mask) for pair in pairs], bare_too=True)
    groups: defaultdict[str, dict[SplitWord, ListFile]] = defaultdict(dict)
    if folder is not None and not (root / folder).is_dir():
        raise UserError(f"lists={folder}: there is no folder {root / folder}")
    names = [name for name in files_below(root, LIST_SUFFIXES) if name.count("/") <= DEPTH]
    # Of train.txt and aeroplane_train.txt the shorter is the list of all.
    numbers: Counter[tuple[str, SplitWord]] = Counter()
    for name in sorted(names, key=lambda name: (len(name), name)):
        own_folder, last = posixpath.split(name)
        split = meaning_of(posixpath.splitext(last)[0]).split
        if split is None or folder not in (None, own_folder or "."):
            continue
        numbers[own_folder, split] += 1
        if split in groups[own_folder]:
            continue
        try:
            text = read_text(root / name, errors="surrogateescape")
        except UnusableError:
            continue
        groups[own_folder][split] = _read_list(name, split, text, index)
    # Many files called after one split, of which none fits, are labels of single images.
    for (own_folder, split), number in numbers.items():
        if number > MOST_LISTS and split in groups[own_folder] and not groups[own_folder][split].is_usable:
            del groups[own_folder][split]
    found = [group for group in groups.values() if {"train", "trainval"} & group.keys()]
    if folder is not None and not found:
        raise UserError(f"lists={folder}: no list of training samples there, such as train.txt")
    return found


def _read_list(name: str, split: SplitWord, text: str, index: NameIndex) -> ListFile:
    found = ListFile(name, split, [], [], [line for line in map(str.strip, text.split("\n")) if line])
    for number, line in enumerate(found.lines):
        columns = list(columns_of(line))
        item = next((item for column in columns if (item := index.find(column)) is not None), None)
        if item is not None:
            found.items.append(item)
        elif not line.startswith("#") and not (number == 0 and columns[-1].lower() in NAME_COLUMNS):
            found.unknown.append(line)
    return found


@dataclass
class Table:
    """A table whose columns are images and masks, or images and splits.

    Attributes:
        columns: names of the columns of image, mask and split, None where there is none.
        rows: image, mask and split of each row whose files there are, relative to the folder.
        unknown: rows whose files there are not, with their line numbers.
        splits: what the column of splits holds for each split.
        strange: what it holds that is no name of a split.
        is_exact: all rows name their files as they are.
    """

    name: str
    columns: dict[str, str | None]
    rows: list[Pair] = field(default_factory=list[Pair])
    unknown: list[str] = field(default_factory=list[str])
    splits: dict[SplitWord, str] = field(default_factory=dict[SplitWord, str])
    strange: list[str] = field(default_factory=list[str])
    is_exact: bool = True


def find_tables(root: Path, files: Sequence[str], pairs: Sequence[Pair]) -> list[Table]:
    """The tables in the folder and its direct subfolders that have a column of images and one of masks or splits.

    Names that leave open whether an image or a mask is meant are those of a pair.
    """
    finder = _Finder(root, files, pairs)
    found: list[Table] = []
    for name in files_below(root, TABLE_SUFFIXES):
        if name.count("/") <= 1:
            try:
                text = read_text(root / name)
            except UnusableError:
                continue
            table = _read_table(name, text, finder)
            if table is not None:
                found.append(table)
    return found


class _Finder:
    """Finds what the cells of a row mean: two files, or a pair."""

    def __init__(self, root: Path, files: Sequence[str], pairs: Sequence[Pair]) -> None:
        self.root, self.files, self.pairs = root, files, pairs
        self.known = frozenset(files)
        self._by_file = NameIndex(root, [(name,) for name in files])
        self._by_pair = NameIndex(root, [(pair.image, pair.mask) for pair in pairs], bare_too=True)

    def finds(self, cell: str) -> bool:
        return self._by_file.find(cell) is not None or self._by_pair.find(cell) is not None

    def find(self, image: str, mask: str) -> tuple[str, str] | None:
        """The paths of an image and its mask; without `mask`, of the pair that `image` is of."""
        places = [self._by_file.find(cell) for cell in (image, mask)]
        if mask and places[0] is not None and places[1] is not None:
            return self.files[places[0]], self.files[places[1]]
        items = {self._by_pair.find(cell) for cell in (image, mask) if cell}
        (item, *others) = items or {None}
        return None if item is None or others else (self.pairs[item].image, self.pairs[item].mask)

    def is_exact(self, *cells: str) -> bool:
        return all(below(self.root, cell) in self.known for cell in cells if cell)


def _read_table(name: str, text: str, finder: _Finder) -> Table | None:
    try:
        reader = csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=text.partition("\n")[0].count))
        rows = [{key: (value or "").strip() for key, value in row.items() if isinstance(key, str)} for row in reader]
        headers = [header for header in reader.fieldnames or () if header]
    except csv.Error:
        return None
    columns = _columns(headers, rows, finder)
    if columns["image"] is None or (columns["mask"] is None and columns["split"] is None):
        return None
    table = Table(name, columns)
    own_split = meaning_of(posixpath.splitext(posixpath.basename(name))[0]).split
    for number, row in enumerate(rows, 2):
        image, mask = (row[column] if (column := columns[part]) else "" for part in ("image", "mask"))
        value = row[columns["split"]] if columns["split"] else ""
        split = meaning_of(value).split if columns["split"] else own_split
        if columns["split"] and split is None:
            table.strange.append(value)
            continue
        found = finder.find(image, mask) if image and (mask or columns["mask"] is None) else None
        if found is None:
            table.unknown.append(f"line {number}: {image}, {mask or 'no mask'}")
            table.is_exact = False
            continue
        if split is not None and columns["split"]:
            table.is_exact = table.is_exact and table.splits.setdefault(split, value) == value
        table.is_exact = table.is_exact and finder.is_exact(image, mask)
        table.rows.append(Pair(*found, split))
    return table


def _columns(headers: Sequence[str], rows: Sequence[Mapping[str, str]], finder: _Finder) -> dict[str, str | None]:
    """The columns by what their names say; of several that fit, the one whose values are most often files."""

    def share(header: str) -> int:
        return sum(finder.finds(row[header]) for row in rows[:200] if row.get(header))

    found: dict[str, str | None] = {"image": None, "mask": None, "split": None}
    of_images: list[str] = []
    of_masks: list[str] = []
    for header in headers:
        words = set(header.strip().lower().replace("_", " ").replace("-", " ").split())
        if words & SPLIT_COLUMNS:
            found["split"] = found["split"] or header
        elif meaning_of(header).role == "mask":
            of_masks.append(header)
        elif meaning_of(header).role == "image" or words & NAME_COLUMNS:
            of_images.append(header)
    for part, candidates in (("image", of_images), ("mask", of_masks)):
        if candidates:
            found[part] = max(candidates, key=share)
    # A table of labels of whole images has a column `label` too, but no files in it.
    if found["mask"] is not None and share(found["mask"]) == 0 and not _holds_paths(rows, found["mask"]):
        found["mask"] = None
    return found


def _holds_paths(rows: Sequence[Mapping[str, str]], header: str) -> bool:
    """Whether a column holds what look like paths of files."""
    values = [row[header] for row in rows if row.get(header)]
    return any("/" in value or "\\" in value or posixpath.splitext(value)[1] for value in values)
