"""Lists of files held as two arrays, so that a million of them cost a worker process nothing.

Every look at a Python object changes its count of references, so that a worker forked from a process with a
list of paths soon has a copy of the whole list. An array has no such counts inside.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from segkit.contracts import UserError

LEFT_BEHIND = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information"})
"""Folders of archivers, network drives and systems, in lower case: what looks like images there are no samples."""
MISSING = -1
"""In place of the size and time of a file that is not there."""


class FileList(Sequence[Path]):
    """Files below one folder, in a fixed order.

    Args:
        base: the folder.
        names: paths relative to it, with `/` between their parts; an absolute path stands for itself.
    """

    def __init__(self, base: Path, names: Iterable[str]) -> None:
        parts: list[str] | list[bytes] = list(names)
        text = "".join(parts)
        if not text.isascii():
            parts = [os.fsencode(name) for name in parts]
        self.base = base
        self.text = np.frombuffer(os.fsencode(text), np.uint8)
        self.starts = np.zeros(len(parts) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)), out=self.starts[1:])

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> FileList: ...
    def __getitem__(self, index: int | slice) -> Path | FileList:
        if isinstance(index, slice):
            return FileList(self.base, [self.name(i) for i in range(*index.indices(len(self)))])
        return self.base / self.name(index)

    def name(self, index: int) -> str:
        """The path of file number `index` relative to the base."""
        place = range(len(self))[index]
        return os.fsdecode(self.text[self.starts[place] : self.starts[place + 1]].tobytes())

    def names(self) -> Iterator[str]:
        """All relative paths in order, in a fraction of the time that `name` takes for each."""
        text, starts = self.text.tobytes(), self.starts.tolist()
        return (os.fsdecode(text[start:end]) for start, end in pairwise(starts))

    def status(self) -> NDArray[np.int64]:
        """Size in bytes and time of change in ns of each file, (N, 2); MISSING where there is none."""
        # As bytes, which is how the names are kept: Paths would take five times as long.
        folder = os.path.join(os.fsencode(self.base), b"")  # noqa: PTH118
        text, starts = self.text.tobytes(), self.starts.tolist()
        found: list[tuple[int, int]] = []
        for start, end in pairwise(starts):
            name = text[start:end]
            try:
                status = os.stat(name if name.startswith(b"/") else folder + name)  # noqa: PTH116
                found.append((status.st_size, status.st_mtime_ns))
            except OSError:
                found.append((MISSING, MISSING))
        return np.array(found, np.int64).reshape(-1, 2)


def files_below(folder: Path, suffixes: Collection[str]) -> list[str]:
    """Relative paths of the files with one of the `suffixes` (in lower case), in the order of their names.

    Links are followed, but never into a circle. Names that begin with a dot are what file managers leave
    behind, and no samples. Raises UserError naming a folder that cannot be listed.
    """
    found: list[str] = []
    try:
        _scan(os.fspath(folder), "", frozenset(suffixes), {os.path.realpath(folder)}, found)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be listed: {error.strerror}") from None
    return sorted(found)


def _scan(folder: str, prefix: str, suffixes: frozenset[str], above: set[str], found: list[str]) -> None:
    """`above` are the real paths of this folder and those it lies in: a link to one of them makes a circle."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith(".") or name.lower() in LEFT_BEHIND:
                continue
            # Of a link that leads nowhere, or to itself, `entry.is_dir` would raise.
            is_folder = os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()  # noqa: PTH112
            if not is_folder:
                if name[name.rfind(".") :].lower() in suffixes:
                    found.append(prefix + name)
            elif (real := os.path.realpath(entry.path)) not in above:
                _scan(entry.path, f"{prefix}{name}/", suffixes, above | {real}, found)
