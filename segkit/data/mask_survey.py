"""What the values in a heap of mask files mean: which are classes, which are ignored, and how they are written."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from segkit.contracts import DataError
from segkit.data.class_names import Color, NamedClass
from segkit.data.content import UnusableError
from segkit.data.reading import read_color_mask, read_mask
from segkit.data.source import palette

MOST_CLASSES = 256
"""More values than this are no classes."""
NAMED = 5


@dataclass(frozen=True)
class Labels:
    """A label space as the keys of a data set's config.

    Attributes:
        mapping: raw id to class id or ignore index; None where they are the same.
        mask_format: whether masks hold ids, or the colours of the classes.
        told: what was recognised, for a person.
    """

    names: list[str]
    colors: list[Color]
    told: str
    ignore_index: int = 255
    mapping: dict[int, int] | None = None
    mask_format: str = "ids"
    ignore_colors: list[Color] = field(default_factory=list[Color])


def survey(masks: Sequence[Path], named: Sequence[NamedClass], on_progress: Callable[[int], None]) -> Labels:
    """The label space of `masks`, all of which are read; `named` gives names where it fits.

    Raises DataError naming files that cannot be read, and for values that cannot be classes.
    """
    values, problems = _values(masks, _ids, on_progress)
    if problems and not values:
        colors, color_problems = _values(masks, _colors, on_progress)
        if colors:
            _refuse(color_problems)
            return _from_colors(sorted(colors), named)
    _refuse(problems)
    return _from_ids(sorted(values), named, _own_palette(masks[0]))


def _values(
    masks: Sequence[Path], read: Callable[[Path], set[int]], on_progress: Callable[[int], None]
) -> tuple[set[int], dict[Path, str]]:
    """All values in the masks, and why some cannot be read. Raises DataError for too many values."""
    values: set[int] = set()
    problems: dict[Path, str] = {}

    def look(path: Path) -> set[int] | str:
        try:
            return read(path)
        except UnusableError as problem:
            return str(problem)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for number, (path, found) in enumerate(zip(masks, threads.map(look, masks), strict=True), 1):
            if isinstance(found, str):
                problems[path] = found
            else:
                values |= found
                if len(values) > MOST_CLASSES:
                    threads.shutdown(wait=False, cancel_futures=True)
                    raise DataError(
                        f"{path}: with this mask there are more than {MOST_CLASSES} values. Masks hold one value "
                        "a class; these look like pictures, or were resized or compressed with loss"
                    )
            on_progress(number)
    return values, problems


def _ids(path: Path) -> set[int]:
    return set(np.flatnonzero(np.bincount(read_mask(path).ravel())).tolist())


def _colors(path: Path) -> set[int]:
    return set(np.unique(read_color_mask(path)).tolist())


def _refuse(problems: dict[Path, str]) -> None:
    if problems:
        lines = [f"  {path}: {problem}" for path, problem in list(problems.items())[:NAMED]]
        more = [f"  ... and {len(problems) - NAMED} more"] if len(problems) > NAMED else []
        raise DataError("\n".join([f"{len(problems)} masks cannot be used:", *lines, *more]))


def _from_colors(codes: Sequence[int], named: Sequence[NamedClass]) -> Labels:
    """A class a colour: those that the file of names lists, else those that occur, black first."""
    found = [(code >> 16, code >> 8 & 255, code & 255) for code in codes]
    listed = {entry.color: entry for entry in named if entry.color is not None}
    if set(found) <= set(listed):
        classes = [entry for entry in listed.values() if not entry.is_ignored]
        ignored = [entry.color for entry in listed.values() if entry.is_ignored and entry.color is not None]
        told = f"masks in {len(listed)} listed colours"
        colors = [entry.color for entry in classes if entry.color is not None]
        return Labels([entry.name for entry in classes], colors, told, mask_format="colors", ignore_colors=ignored)
    names = _names(len(found), [entry for entry in named if not entry.is_ignored])
    return Labels(names, found, f"masks in {len(found)} colours", mask_format="colors")


def _from_ids(ids: Sequence[int], named: Sequence[NamedClass], colors: Sequence[Color]) -> Labels:
    if list(ids) == [0, 255]:
        return Labels(
            _names(2, named, ("background", "foreground")), palette(2), "masks of 0 and 255", mapping={0: 0, 255: 1}
        )
    # The highest value a file can hold stands for what is not labelled, if the others are ids in a row.
    top = ids[-1] if ids[-1] in (255, 65535) and _in_a_row(ids[:-1]) else None
    void = {entry.id for entry in named if entry.is_ignored}
    ignored = {value for value in ids if value == top or value in void}
    listed = [entry for entry in named if not entry.is_ignored]
    given = {entry.id: entry for entry in listed if entry.id is not None}
    raw = [value for value in ids if value not in ignored]
    if given and set(raw) <= set(given):
        raw = sorted(given)
        names = [given[value].name for value in raw]
    elif _in_a_row(raw) and 0 in raw:
        # Ids that no mask happens to hold keep their place, so that those that follow keep theirs.
        raw = list(range(max(raw[-1] + 1, len(listed) if not given else 0)))
        names = _names(len(raw), listed)
    else:
        names = _names(len(raw), listed)
    if len(raw) < 2:
        raise DataError(f"the masks hold {list(ids)} and no second class; there is nothing to learn")
    mapping: dict[int, int] | None = {value: index for index, value in enumerate(raw)}
    mapping |= dict.fromkeys(ignored, 255)
    own = [given[value].color if value in given else None for value in raw]
    shown = [
        color or (colors[value] if value < len(colors) else palette(len(raw))[index])
        for index, (value, color) in enumerate(zip(raw, own, strict=True))
    ]
    told = f"masks of ids {_runs(raw)}" + (f", ignored: {', '.join(map(str, sorted(ignored)))}" if ignored else "")
    if all(value == index for value, index in mapping.items()) or mapping == {
        **dict(enumerate(range(len(raw)))),
        255: 255,
    }:
        mapping = None
    return Labels(names, shown if len(set(shown)) == len(shown) else palette(len(raw)), told, mapping=mapping)


def _in_a_row(ids: Sequence[int]) -> bool:
    """Whether ids look counted up from 0 or 1: half of those up to the last one occur."""
    return bool(ids) and ids[0] <= 1 and len(ids) >= 0.5 * (ids[-1] + 1)


def _names(number: int, named: Sequence[NamedClass], otherwise: Sequence[str] = ()) -> list[str]:
    """The names listed if there are as many, else numbered ones."""
    if len(named) == number and len({entry.name for entry in named}) == number:
        return [entry.name for entry in named]
    return list(otherwise) or [f"class_{index}" for index in range(number)]


def _own_palette(mask: Path) -> list[Color]:
    """The colours of a palette image."""
    try:
        with Image.open(mask) as image:
            flat = image.getpalette() if image.mode == "P" else None
    except (OSError, SyntaxError, ValueError):
        flat = None
    flat = flat or []
    return [(flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat) - 2, 3)]


def _runs(ids: Sequence[int]) -> str:
    values = np.array(ids)
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs)
