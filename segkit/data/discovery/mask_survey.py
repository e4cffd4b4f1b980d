"""What stands in a heap of mask files: their values, the colours of their palettes, and values of edges alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segkit.contracts import DataError
from segkit.data.discovery.class_names import Color
from segkit.data.files.bounded import UnusableError
from segkit.data.files.decode import read_color_mask, read_mask
from segkit.run.machine import available_cores

MaskFormat = Literal["ids", "colors"]

MOST_VALUES = 256
"""More values than this, where no file lists them, are no classes."""
NAMED = 5
SAMPLED = 48
"""Masks that are looked at for values of edges."""
EDGE_SHARE, SOLID_SHARE = 0.7, 0.1
"""Of the pixels of a value: at least so many lie between others, and at most so many among their like."""
MANY_VALUES, BRIGHT = 16, 200
"""Masks of ids hold so many values, with the second largest so high, hardly ever; greys of JPEG do."""


@dataclass
class Survey:
    """What all masks hold together.

    Attributes:
        mask_format: whether `values` are ids, or colours as numbers 0xRRGGBB.
        values: in ascending order, with the number of masks that hold each.
        values_of: those of each mask.
        palette: colour of each index that occurs, where masks have palettes that agree.
        palettes_differ: an index with its two colours and the masks that give them, where they do not.
        edge_values: values that stand on edges alone, between others: of antialiasing, resizing or JPEG compression.
    """

    mask_format: MaskFormat
    values: dict[int, int]
    values_of: dict[Path, frozenset[int]]
    palette: dict[int, Color] = field(default_factory=dict[int, Color])
    palettes_differ: tuple[int, Color, Path, Color, Path] | None = None
    edge_values: tuple[int, ...] = ()

    def example(self, value: int) -> Path:
        """A mask that holds `value`."""
        return next(path for path, values in self.values_of.items() if value in values)


def survey(
    masks: Sequence[Path],
    on_progress: Callable[[int], None],
    *,
    mask_format: MaskFormat | None = None,
    most_values: int = MOST_VALUES,
) -> Survey:
    """The values of `masks`, all of which are read.

    Args:
        mask_format: None: ids where masks hold one value a pixel, else colours.

    Raises DataError naming files that cannot be read, and for more than `most_values` values.
    """
    if mask_format != "colors":
        values_of, problems = _values(masks, read_mask, on_progress, most_values)
        if values_of or mask_format == "ids":
            _refuse(problems)
            return survey_of_ids(values_of)
    else:
        problems = {}
    values_of, color_problems = _values(masks, read_color_mask, on_progress, most_values)
    _refuse(color_problems if values_of or not problems else problems)
    found = Survey("colors", _counted(values_of), values_of)
    found.edge_values = _edge_values(masks, found)
    return found


def survey_of_ids(values_of: dict[Path, frozenset[int]]) -> Survey:
    """The survey of masks whose ids are known; looks at all their palettes, and at the pixels of some."""
    found = Survey("ids", _counted(values_of), values_of)
    _look_at_palettes(found)
    found.edge_values = _edge_values(list(values_of), found)
    return found


def _counted(values_of: dict[Path, frozenset[int]]) -> dict[int, int]:
    return dict(sorted(Counter(value for values in values_of.values() for value in values).items()))


def _values(
    masks: Sequence[Path],
    read: Callable[[Path], NDArray[Any]],
    on_progress: Callable[[int], None],
    most_values: int,
) -> tuple[dict[Path, frozenset[int]], dict[Path, str]]:
    """The values in each mask, and why some cannot be read. Raises DataError for too many values."""
    values_of: dict[Path, frozenset[int]] = {}
    problems: dict[Path, str] = {}
    seen: set[int] = set()

    def look(path: Path) -> frozenset[int] | str:
        try:
            return frozenset(np.unique(read(path)).tolist())
        except UnusableError as problem:
            return str(problem)

    with ThreadPoolExecutor(available_cores()) as threads:
        for number, (path, found) in enumerate(zip(masks, threads.map(look, masks), strict=True), 1):
            if isinstance(found, str):
                problems[path] = found
            else:
                values_of[path] = found
                seen |= found
                if len(seen) > most_values:
                    threads.shutdown(wait=False, cancel_futures=True)
                    raise DataError(
                        f"{path}: with this mask there are more than {most_values} values. Masks hold one value "
                        "a class; these look like pictures, or were resized or compressed with loss, or number "
                        "single objects, as COCO's panoptic PNGs do (id = R + 256 G + 65536 B): make masks of classes "
                        "of them first"
                    )
            on_progress(number)
    return values_of, problems


def _refuse(problems: dict[Path, str]) -> None:
    if problems:
        lines = [f"  {path}: {problem}" for path, problem in list(problems.items())[:NAMED]]
        more = [f"  ... and {len(problems) - NAMED} more"] if len(problems) > NAMED else []
        raise DataError("\n".join([f"{len(problems)} masks cannot be used:", *lines, *more]))


def palette_of(mask: Path) -> list[Color]:
    """The colours of a palette image by index; none of another file."""
    try:
        with Image.open(mask) as image:
            flat = (image.getpalette("RGB") if image.mode == "P" else None) or []
    except (OSError, SyntaxError, ValueError):
        flat = []
    return [(flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat) - 2, 3)]


def _look_at_palettes(found: Survey) -> None:
    first: dict[int, tuple[Color, Path]] = {}
    for path, values in found.values_of.items():
        colors = palette_of(path)
        for value in values if colors else ():
            color = colors[value] if value < len(colors) else (0, 0, 0)
            known, where = first.setdefault(value, (color, path))
            if known != color and found.palettes_differ is None:
                found.palettes_differ = (value, known, where, color, path)
    if found.palettes_differ is None:
        found.palette = {value: color for value, (color, _) in first.items()}


def _edge_values(masks: Sequence[Path], found: Survey) -> tuple[int, ...]:
    """Values whose pixels lie nearly all between smaller and larger ones, and hardly ever among their like."""
    read = read_mask if found.mask_format == "ids" else read_color_mask
    number: defaultdict[int, NDArray[np.int64]] = defaultdict(lambda: np.zeros(3, np.int64))
    step = max(1, len(masks) // SAMPLED)
    for path in masks[::step][:SAMPLED]:
        mask = read(path)
        channels = [mask] if found.mask_format == "ids" else [mask >> 16, mask >> 8 & 255, mask & 255]
        is_between = np.zeros(mask.shape, bool)
        is_outside = np.zeros(mask.shape, bool)
        is_solid = np.ones(mask.shape, bool)
        for channel in channels:
            pixels = channel.astype(np.uint16)
            window = np.ones((3, 3), np.uint8)
            low, high = cv2.erode(pixels, window), cv2.dilate(pixels, window)
            is_flat = low == high
            inside = (low < pixels) & (pixels < high)
            is_solid &= is_flat
            is_between |= inside
            is_outside |= ~inside & ~is_flat
        values, places = np.unique(mask, return_inverse=True)
        places = places.ravel()
        counts = [np.bincount(places, weights, len(values)) for weights in (
            np.ones(mask.size), (is_between & ~is_outside).ravel(), is_solid.ravel())]  # fmt: skip
        for value, own in zip(values.tolist(), np.stack(counts, axis=1), strict=True):
            number[value] += own.astype(np.int64)
    # JPEG leaves ripples on both sides of an edge, of values that are not between others.
    ripples = len(found.values) >= MANY_VALUES and sorted(found.values)[-2] >= BRIGHT
    return tuple(
        value
        for value, (every, between, solid) in sorted(number.items())
        if solid <= SOLID_SHARE * every and (ripples or between >= EDGE_SHARE * every)
    )


def rgb_of(code: int) -> Color:
    """The colour of a number 0xRRGGBB."""
    return code >> 16, code >> 8 & 255, code & 255


def runs(ids: Sequence[int]) -> str:
    """Ascending ids for people to read: 0..11, 255."""
    values = np.array(ids)
    parts = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1) if len(values) else []
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}..{part[-1]}" for part in parts)


def shown_values(found: Survey, values: Sequence[int] | None = None) -> str:
    """Ids or colours for people to read; None: all that the masks hold."""
    values = list(found.values) if values is None else list(values)
    if found.mask_format == "ids":
        return runs(values)
    more = f" and {len(values) - NAMED} more" if len(values) > NAMED else ""
    return ", ".join(str(list(rgb_of(code))) for code in values[:NAMED]) + more
