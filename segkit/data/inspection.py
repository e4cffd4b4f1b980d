"""Every file of a data set read once before training, what was found remembered, and faults told by kind."""

from __future__ import annotations

import contextlib
import os
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from segkit.data.reading import UnusableError, read_image, read_mask

LIMIT = 20
COLUMNS = 80


@dataclass(frozen=True)
class Facts:
    """A sound file: its size on disk and time of change, (height, width), and the raw ids of a mask."""

    bytes: int
    changed_ns: int
    shape: tuple[int, int]
    ids: tuple[int, ...] = ()


FACTS_BY_PATH = TypeAdapter(dict[str, Facts])


def inspect_image(path: Path) -> Facts:
    """Facts of an image. Raises UnusableError."""
    height, width = read_image(path).shape[:2]
    return _facts(path, (height, width))


def inspect_mask(path: Path) -> Facts:
    """Facts of a mask. Raises UnusableError."""
    raw = read_mask(path)
    ids = np.flatnonzero(np.bincount(raw.ravel()))
    return _facts(path, (raw.shape[0], raw.shape[1]), tuple(ids.tolist()))


def inspected(
    paths: Sequence[Path], inspect: Callable[[Path], Facts], cache_file: Path | None
) -> tuple[dict[Path, Facts], dict[Path, str]]:
    """Facts of the sound files and the problems of the others, by path.

    Sound files that have not changed since an earlier call are taken from `cache_file`. A cache that cannot
    be read or written is done without.
    """
    known = _load(cache_file)

    def look(path: Path) -> Facts | str:
        remembered = known.get(str(path))
        try:
            if remembered is not None and remembered == _facts(path, remembered.shape, remembered.ids):
                return remembered
            return inspect(path)
        except UnusableError as problem:
            return str(problem)

    # Decoding leaves the interpreter lock, so threads do.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = dict(zip(paths, threads.map(look, paths), strict=True))
    facts = {path: fact for path, fact in found.items() if isinstance(fact, Facts)}
    _save(cache_file, {str(path): fact for path, fact in facts.items()})
    return facts, {path: problem for path, problem in found.items() if isinstance(problem, str)}


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


def _facts(path: Path, shape: tuple[int, int], ids: tuple[int, ...] = ()) -> Facts:
    try:
        status = path.stat()
    except OSError as error:
        raise UnusableError(f"cannot be read: {error.strerror}") from None
    return Facts(status.st_size, status.st_mtime_ns, shape, ids)


def _load(cache_file: Path | None) -> dict[str, Facts]:
    if cache_file is None:
        return {}
    try:
        return FACTS_BY_PATH.validate_json(cache_file.read_bytes())
    except (OSError, ValidationError):
        return {}


def _save(cache_file: Path | None, facts: dict[str, Facts]) -> None:
    """Write the cache in one step, so that another process never reads half of it."""
    if cache_file is None:
        return
    with contextlib.suppress(OSError, ValueError):
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache_file.parent, delete=False) as file:
            file.write(FACTS_BY_PATH.dump_json(facts))
        Path(file.name).replace(cache_file)
