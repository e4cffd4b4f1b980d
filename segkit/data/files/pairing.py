"""Which image file belongs to which mask file."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segkit.data.files.decode import SUFFIXES
from segkit.data.files.file_list import FileList, files_below
from segkit.data.files.inspection import Faults

COLUMN_NAMES = frozenset("image images img imgs filename filenames file files name names id ids image_id path".split())
"""What a list may begin with that names its column and no sample."""


@dataclass
class Pairs:
    """Images and their masks, one by one, and what kept other files from becoming a pair."""

    images: FileList
    masks: FileList
    faults: Faults = field(default_factory=Faults)


@dataclass
class Keyed:
    """Files by what they share with their partner: the path in their folder without ending and suffix.

    Attributes:
        names: the file of each key, its path relative to the data set's base.
        doubles: keys of more than one file, with all of them.
    """

    names: dict[str, str] = field(default_factory=dict[str, str])
    doubles: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    @classmethod
    def below(
        cls, base: Path, folder: str, suffixes: Collection[str], ending: str = "", without: str | None = None
    ) -> Keyed:
        """The files in `folder`, relative to `base`, whose name without suffix ends with `ending`.

        Those whose name ends with `without` are left out.
        """
        found = cls()
        for name in files_below(base / folder, suffixes):
            stem = name[: name.rfind(".")]
            if stem.endswith(ending) and (without is None or not stem.endswith(without)):
                found.add(stem[: len(stem) - len(ending)], name if folder == "." else f"{folder}/{name}")
        return found

    def add(self, stem: str, name: str) -> None:
        key = same_spelling(stem)
        first = self.names.setdefault(key, name)
        if first != name:
            self.doubles.setdefault(key, [first]).append(name)


def same_spelling(text: str) -> str:
    """macOS writes accented letters as two characters, so one name may be spelled in two ways."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def key_of(name: str) -> str:
    """What `Keyed` files the name in a list under: without its suffix, if it has one that files here have."""
    stem, dot, suffix = name.rpartition(".")
    return same_spelling(stem if dot and f".{suffix.lower()}" in SUFFIXES else name)


def listed_keys(lines: Iterable[str], known: Collection[str], base: Path, folders: Sequence[str]) -> list[str]:
    """What each line of a list names, as one of the `known` keys where it can be.

    A line may have further columns, backslashes, a suffix, and `base` or one of the `folders` before the name.
    Lines that begin with # and a first line that names a column are none, unless there is such a file. Raises
    ValueError with the name of the first that is unknown and leads out of `base`.
    """
    found: list[str] = []
    for number, line in enumerate(filter(None, map(str.strip, lines))):
        readings = [key for text in columns_of(line) for key in _keys(text, base, folders)]
        key = next((key for key in readings if key in known), None)
        if key is None and (line.startswith("#") or (number == 0 and readings[-1].lower() in COLUMN_NAMES)):
            continue
        if key is None and leads_outside(readings[0]):
            raise ValueError(readings[0])
        found.append(readings[0] if key is None else key)
    return found


def columns_of(line: str) -> Iterator[str]:
    """The line as a whole, as names may hold blanks, and its first column."""
    yield line
    for separators in (r"[\t,;]", r"\s"):
        yield re.split(separators, line, maxsplit=1)[0]


def _keys(text: str, base: Path, folders: Sequence[str]) -> Iterator[str]:
    name = below(base, text)
    yield key_of(name)
    for folder in folders:
        if name.startswith(f"{folder}/"):
            yield key_of(name[len(folder) + 1 :])


def below(base: Path, text: str) -> str:
    """A path as a list or table gives it, relative to `base` if it begins with it, with `/` between its parts."""
    name = text.strip().strip("\"'").replace("\\", "/").removeprefix(f"{base.as_posix()}/")
    while name.startswith("./"):
        name = name[2:]
    return name


def leads_outside(name: str) -> bool:
    """Whether a path is absolute, or has a `..` that leads out of where it starts."""
    return posixpath.isabs(name) or posixpath.normpath(name).split("/")[0] == ".."


def matched(base: Path, images: Keyed, masks: Keyed) -> Pairs:
    """All images that have a mask of the same key, in the order of the keys."""
    both = sorted(images.names.keys() & masks.names.keys())
    faults = Faults()
    for key in sorted(images.names.keys() - masks.names.keys()):
        faults.add("images without a mask of the same name", images.names[key])
    for key in sorted(masks.names.keys() - images.names.keys()):
        faults.add("masks without an image of the same name", masks.names[key])
    return Pairs(
        FileList(base, (images.names[key] for key in both)),
        FileList(base, (masks.names[key] for key in both)),
        faults | _doubles(images, masks),
    )


def chosen(base: Path, keys: Iterable[str], list_name: str, images: Keyed, masks: Keyed) -> Pairs:
    """The pairs that a list names, in its order."""
    faults = Faults()
    pairs: dict[str, tuple[str, str]] = {}
    for key in keys:
        image, mask = images.names.get(key), masks.names.get(key)
        if key in pairs:
            faults.add(f"names that {list_name} has twice", key)
        elif image is None:
            faults.add(f"names in {list_name} without an image", key)
        elif mask is None:
            faults.add("images without a mask of the same name", image)
        else:
            pairs[key] = (image, mask)
    listed = Keyed(doubles={key: images.doubles[key] for key in images.doubles.keys() & pairs.keys()})
    listed_masks = Keyed(doubles={key: masks.doubles[key] for key in masks.doubles.keys() & pairs.keys()})
    return Pairs(
        FileList(base, (image for image, _ in pairs.values())),
        FileList(base, (mask for _, mask in pairs.values())),
        faults | _doubles(listed, listed_masks),
    )


def _doubles(*found: Keyed) -> Faults:
    faults = Faults()
    for keyed in found:
        for names in keyed.doubles.values():
            faults.add("names given to two files", ", ".join(sorted(names)))
    return faults
