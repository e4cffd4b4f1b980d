"""Every file of a data set read once before training, what was found remembered, and faults told by kind."""

from __future__ import annotations

import contextlib
import os
import tempfile
import textwrap
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.data.files.bounded import UnusableError
from segkit.data.files.file_list import MISSING, FileList
from segkit.run.machine import available_cores

LIMIT = 20
COLUMNS = 80
CHUNK = 10_000
"""Files after which the cache is written, so that a start that is cut short is not for nothing."""

ARRAYS = ("status", "sizes", "ids", "starts", "checksums")
"""What the cache holds of an `Inspection`."""


class Facts(NamedTuple):
    """What is kept of a sound file: (height, width), and of a mask its raw ids in ascending order and a checksum."""

    shape: tuple[int, int]
    ids: tuple[int, ...] = ()
    checksum: int = 0


@dataclass(frozen=True)
class Inspection:
    """Facts of N files, as arrays: for a million files, objects would take seconds and gigabytes.

    Attributes:
        status: (N, 2) int64, size on disk and time of change when the facts were found.
        sizes: (N, 2) int32, height and width; 0 where the file cannot be used.
        ids: the raw ids of all masks, one mask after the other.
        starts: (N + 1) int64, where the ids of each mask begin in `ids`.
        problems: why files cannot be used, by their number.
        checksums: (N,) uint32, of what each mask holds; 0 where the file is an image or cannot be used.
    """

    status: NDArray[np.int64]
    sizes: NDArray[np.int32]
    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    problems: dict[int, UnusableError]
    checksums: NDArray[np.uint32]

    def facts(self, index: int) -> Facts | None:
        """Those of file number `index`; None if it cannot be used."""
        height, width = self.sizes[index].tolist()
        if index in self.problems:
            return None
        ids = self.ids[self.starts[index] : self.starts[index + 1]]
        return Facts((height, width), tuple(ids.tolist()), int(self.checksums[index]))


def facts_of_mask(raw: NDArray[Any]) -> Facts:
    """Facts of a mask (H, W) or (H, W, K) of raw ids in 0..65535."""
    ids = np.flatnonzero(np.bincount(raw.ravel()))
    return Facts((raw.shape[0], raw.shape[1]), tuple(ids.tolist()), zlib.crc32(np.ascontiguousarray(raw).data))


def inspected(files: FileList, inspect: Callable[[Path], Facts], cache_file: Path | None) -> Inspection:
    """Facts of the sound files and the problems of the others; `inspect` raises UnusableError.

    Sound files that have not changed since an earlier call, even one cut short, are taken from `cache_file`. A
    cache that cannot be read or written is done without.
    """
    status = files.status()
    known = _load(cache_file)
    rows = _rows(files, status, known)
    stale = np.flatnonzero(rows == MISSING)
    if known is not None and not len(stale):
        return Inspection(status, known["sizes"][rows], *_gathered(known, rows), {}, known["checksums"][rows])

    def look(index: int) -> Facts | UnusableError:
        try:
            return inspect(files[index])
        except UnusableError as problem:
            return problem

    found: dict[int, Facts | UnusableError] = {}
    inspection = _assembled(status, rows, known, found)
    # Decoding leaves the interpreter lock, so threads do.
    with ThreadPoolExecutor(available_cores()) as threads:
        for start in range(0, len(stale), CHUNK):
            chunk = stale[start : start + CHUNK].tolist()
            found |= zip(chunk, threads.map(look, chunk), strict=True)
            inspection = _assembled(status, rows, known, found)
            _save(cache_file, files, inspection)
    return inspection


def _assembled(
    status: NDArray[np.int64],
    rows: NDArray[np.int64],
    known: dict[str, NDArray[Any]] | None,
    found: dict[int, Facts | UnusableError],
) -> Inspection:
    """What is known and what was found of each file; where neither is, it counts as one that cannot be used."""
    sizes = np.zeros((len(status), 2), np.int32)
    checksums = np.zeros(len(status), np.uint32)
    ids: list[NDArray[np.int32]] = []
    for index, row in enumerate(rows.tolist()):
        fact = found.get(index)
        if isinstance(fact, Facts):
            sizes[index], checksums[index] = fact.shape, fact.checksum
            ids.append(np.array(fact.ids, np.int32))
        elif known is not None and row != MISSING:
            sizes[index], checksums[index] = known["sizes"][row], known["checksums"][row]
            ids.append(known["ids"][known["starts"][row] : known["starts"][row + 1]])
        else:
            ids.append(np.empty(0, np.int32))
    starts = np.zeros(len(status) + 1, np.int64)
    np.cumsum([len(part) for part in ids], out=starts[1:])
    problems = {index: fact for index, fact in found.items() if isinstance(fact, UnusableError)}
    return Inspection(status, sizes, np.concatenate([np.empty(0, np.int32), *ids]), starts, problems, checksums)


class Faults:
    """Faults collected by kind."""

    def __init__(self) -> None:
        self._places: dict[str, list[str]] = {}

    def add(self, kind: str, place: str) -> None:
        self._places.setdefault(kind, []).append(place)

    def __len__(self) -> int:
        return sum(len(places) for places in self._places.values())

    def by_kind(self) -> dict[str, list[str]]:
        """The places of each kind."""
        return {kind: list(places) for kind, places in self._places.items()}

    def __or__(self, other: Faults) -> Faults:
        both = Faults()
        for faults in (self, other):
            for kind, places in faults.by_kind().items():
                both._places.setdefault(kind, []).extend(places)
        return both

    def report(self, headline: str) -> str:
        """All kinds, each with its number of places and the first `LIMIT` of them, wrapped at 80 columns."""
        lines = [headline]
        for kind, places in self._places.items():
            lines += textwrap.wrap(f"{len(places)} {kind}:", COLUMNS)
            lines += [f"  {place}" for place in places[:LIMIT]]
            if len(places) > LIMIT:
                lines.append(f"  ... and {len(places) - LIMIT} more")
        return "\n".join(lines)


def _rows(files: FileList, status: NDArray[np.int64], known: dict[str, NDArray[Any]] | None) -> NDArray[np.int64]:
    """Where the facts of each file stand in `known`; MISSING where they do not, or the file has changed."""
    rows = np.full(len(files), MISSING, np.int64)
    if known is None or not len(files):
        return rows
    if np.array_equal(known["text"], files.text) and np.array_equal(known["name_starts"], files.starts):
        rows = np.arange(len(files))
    else:
        text, starts = known["text"].tobytes(), known["name_starts"].tolist()
        places = {os.fsdecode(text[start:end]): row for row, (start, end) in enumerate(pairwise(starts))}
        rows = np.fromiter((places.get(name, MISSING) for name in files.names()), np.int64, len(files))
    if len(known["sizes"]):
        unchanged = (known["status"][rows] == status).all(axis=1) & (known["sizes"][rows, 0] > 0)
        rows[~unchanged | (status[:, 0] == MISSING)] = MISSING
    return rows


def _gathered(known: dict[str, NDArray[Any]], rows: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The ids, and where those of each file start, of the known `rows` in their order."""
    lengths = np.diff(known["starts"])[rows]
    starts = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    places = np.arange(starts[-1]) + np.repeat(known["starts"][rows] - starts[:-1], lengths)
    return known["ids"][places], starts


def _load(cache_file: Path | None) -> dict[str, NDArray[Any]] | None:
    if cache_file is None:
        return None
    try:
        with zipfile.ZipFile(cache_file) as parts:
            if sum(part.file_size for part in parts.infolist()) > cache_file.stat().st_size:
                return None  # compressed, which `_save` never does
        with np.load(cache_file, allow_pickle=False) as arrays:
            known = {name: arrays[name] for name in ("text", "name_starts", *ARRAYS)}
        number = len(known["sizes"])
        sound = (
            known["status"].shape == known["sizes"].shape == (number, 2)
            and known["checksums"].shape == (number,)
            and known["starts"].shape == known["name_starts"].shape == (number + 1,)
            and known["starts"][-1] == len(known["ids"])
            and known["name_starts"][-1] == len(known["text"])
        )
        return known if sound else None
    except Exception:  # NumPy raises whatever a damaged file makes Python raise
        return None


def _save(cache_file: Path | None, files: FileList, inspection: Inspection) -> None:
    """Write the cache in one step, so that another process never reads half of it."""
    if cache_file is None:
        return
    with contextlib.suppress(OSError, ValueError):
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache_file.parent, delete=False) as file:
            np.savez(
                file,
                text=files.text,
                name_starts=files.starts,
                **{name: getattr(inspection, name) for name in ARRAYS},
            )
        Path(file.name).replace(cache_file)
