"""A table of images and masks: a CSV file with a column of each, and one that names the split."""

from __future__ import annotations

import csv
import io
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from segkit.contracts import DataError, UserError
from segkit.data.datasets.image_mask import Files
from segkit.data.files.bounded import UnusableError, read_text
from segkit.data.files.file_list import FileList
from segkit.data.files.inspection import Faults
from segkit.data.files.pairing import Pairs, key_of, leads_outside, same_spelling


@dataclass(kw_only=True, eq=False, repr=False)
class CsvTable(Files):
    """Rows of a table, each an image and its mask, as paths relative to the root.

    A suffix may be left out or be another than the file's, where only one file has the name.

    Args, besides those of `Files`:
        table: the file, below the root; `{split}` in its name stands for the split, for one table a split.
        image_column: name of the column of images.
        mask_column: name of the column of masks.
        split_column: name of the column that says which split a row is of; None: all rows are.
        allow_outside: also take files that are not below the root, by absolute paths or `..`.
    """

    table: str = "data.csv"
    image_column: str = "image"
    mask_column: str = "mask"
    split_column: str | None = "split"
    allow_outside: bool = False

    def find(self, split: str) -> Pairs:
        path = self.require_file(self.base / self.table.replace("{split}", split))
        finder, faults = Finder(self.base), Faults()
        pairs: dict[str, str] = {}
        for line, image, mask in self._rows(path, split):
            found = finder.find(image), finder.find(mask)
            for name, place in zip((image, mask), found, strict=True):
                if place is None:
                    faults.add(f"files in {path.name} that do not exist", f"line {line}: {name or 'nothing'}")
            if found[0] is None or found[1] is None:
                continue
            if found[0] in pairs:
                faults.add(f"images that {path.name} has twice", f"line {line}: {found[0]}")
            pairs.setdefault(found[0], found[1])
        return Pairs(FileList(self.base, pairs.keys()), FileList(self.base, pairs.values()), faults)

    def _rows(self, path: Path, split: str) -> Iterator[tuple[int, str, str]]:
        """Line, image and mask of the rows of a split. Raises UserError or DataError for what is missing."""
        try:
            text = read_text(path)
            reader = csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=text.partition("\n")[0].count))
            columns = list(reader.fieldnames or ())
            for key in ("image_column", "mask_column", "split_column"):
                name = getattr(self, key)
                if name is not None and name not in columns:
                    raise UserError(f"dataset.{key}={name}: {path} has the columns {', '.join(columns) or 'none'}")
            splits: set[str] = set()
            for row in reader:
                own = split if self.split_column is None else (row[self.split_column] or "").strip()
                splits.add(own)
                if own == split:
                    names = ((row[column] or "").strip() for column in (self.image_column, self.mask_column))
                    image, mask = (self._below_base(name, f"{path}, line {reader.line_num}") for name in names)
                    yield reader.line_num, image, mask
        except (UnusableError, csv.Error) as error:
            raise DataError(f"{path}: not a table that can be read: {error}") from None
        if split not in splits:
            raise UserError(
                f"dataset.{self.split}_split={split}: no row of {path} has this in its column {self.split_column}; "
                f"it has {', '.join(sorted(splits)) or 'no rows'}"
            )

    def _below_base(self, name: str, place: str) -> str:
        """A path of the table relative to the base, if it lies below it. Raises DataError where it has to."""
        if "\\" in name and not (self.base / name).exists():
            name = name.replace("\\", "/")  # written on Windows
        below = posixpath.relpath(name, self.base) if posixpath.isabs(name) else name
        if not leads_outside(below):
            # Without its `..`, which at the end of a link would lead to the parent of what that leads to.
            return posixpath.normpath(below) if below else below
        if not self.allow_outside:
            raise DataError(
                f"{place}: {name!r} leads out of dataset.root; allowed: paths below it, or dataset.allow_outside=true"
            )
        return name


class Finder:
    """Looks files up by names that may lack a suffix or have another, listing each folder once."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self._folders: dict[str, tuple[dict[str, str], dict[str, list[str]]]] = {}

    def find(self, name: str) -> str | None:
        """The path, relative to the base, of the file that `name` means; None if there is none, or several."""
        if not name:
            return None
        folder, last = posixpath.split(name)
        if folder not in self._folders:
            self._folders[folder] = self._listed(folder)
        by_name, by_key = self._folders[folder]
        exact = by_name.get(same_spelling(last))
        others = by_key.get(key_of(last), [])
        found = exact or (others[0] if len(others) == 1 else None)
        return None if found is None else posixpath.join(folder, found)

    def _listed(self, folder: str) -> tuple[dict[str, str], dict[str, list[str]]]:
        """The names of a folder's files in the spelling they are looked up by, and by their keys."""
        by_key: dict[str, list[str]] = {}
        try:
            names = [path.name for path in (self.base / folder).iterdir()]
        except (OSError, ValueError):  # also for a name that holds a zero byte
            names = []
        for name in names:
            by_key.setdefault(key_of(name), []).append(name)
        return {same_spelling(name): name for name in names}, by_key
