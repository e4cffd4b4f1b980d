"""Which listed name is that of which value in masks: by ids, by colours, by greys, or by the order of lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from segkit.data.discovery.class_names import NamedClass
from segkit.data.discovery.mask_survey import Survey, runs

BINARY: tuple[str, str] = ("background", "foreground")
LARGEST_VALUES = (255, 65535)
"""Of files of 8 and 16 bits: by custom they stand for what is not labelled."""
SHOWN = 6


def dark_and_bright(named: Sequence[NamedClass], notes: list[str]) -> list[str]:
    """The names of what is dark and of what is bright: by ids, by greys, or by their lines."""
    ids = {entry.id: entry.name for entry in named if entry.id is not None}
    greys = {entry.color: entry.name for entry in named if entry.color is not None and len(set(entry.color)) == 1}
    if len(named) == 2:
        for listed in (ids, greys):
            if len(listed) == 2:
                return [name for _, name in sorted(listed.items())]
        if all(entry.id is None and entry.color is None for entry in named):
            return [entry.name for entry in named]
    if named:
        notes.append(f"{len(named)} names are listed: none is assigned, as it is open which is dark and which bright")
    return list(BINARY)


def names_of_mapped(
    found: Survey, mapping: Mapping[int, int], number: int, named: Sequence[NamedClass], notes: list[str]
) -> list[str]:
    """Names listed for ids or colours go where these are mapped to; a list of names alone is one of classes."""
    plain = [entry.name for entry in named if not entry.is_ignored]
    if all(entry.id is None and entry.color is None for entry in named):
        if len(plain) == number:
            notes.append(f"names by their lines: {shortly([f'{index} {name}' for index, name in enumerate(plain)])}")
            return plain
        if named:
            notes.append(f"{len(plain)} names are listed for {number} classes: none is assigned")
        return list(BINARY) if number == 2 and mapping.get(0) == 0 else [f"class_{index}" for index in range(number)]
    given = _by_value(found, named, notes)
    names: list[str] = []
    for index in range(number):
        merged = [entry.name for value, entry in sorted(given.items()) if mapping.get(value) == index]
        names.append("+".join(merged) or f"class_{index}")
    return names


def by_id(found: Survey, named: Sequence[NamedClass], notes: list[str]) -> dict[int, NamedClass]:
    """The listed classes by the id in masks: by their own ids, by colours, or by their lines."""
    values = list(found.values)
    given = _by_value(found, named, notes)
    has_colors = any(entry.color is not None for entry in named)
    if given or not named or all(entry.id is not None for entry in named):
        return given
    lines = _line_ids(values, named, has_colors=has_colors)
    if lines is None:
        notes.append(
            f"{len(named)} names are listed, and masks hold {runs(values)}: none is assigned, as it is open which is "
            "which. A file with a line of id,name each does it: names=FILE"
        )
        return {}
    given = dict(zip(lines, named, strict=True))
    notes.append(f"names by their lines: {_numbered(given)}")
    return given


def _by_value(found: Survey, named: Sequence[NamedClass], notes: list[str]) -> dict[int, NamedClass]:
    """The listed classes by the id in masks: by their own ids, by colours of the palette, or by greys that are ids."""
    values = list(found.values)
    if named and all(entry.id is not None for entry in named):
        given = {entry.id: entry for entry in named if entry.id is not None}
        if given.keys() & found.values.keys():
            return given
        notes.append(f"listed are the ids {runs(sorted(given))}, and masks hold {runs(values)}: no name fits")
        return {}
    by_color = {entry.color: entry for entry in named if entry.color is not None}
    if given := {value: by_color[color] for value, color in found.palette.items() if color in by_color}:
        notes.append(f"names by the colours of the masks' palette: {_numbered(given)}")
        return given
    greys = {color[0]: entry for color, entry in by_color.items() if len(set(color)) == 1}
    if len(greys) == len(named) and set(values) - set(LARGEST_VALUES) <= greys.keys():
        notes.append(f"names by their greys: {_numbered(greys)}")
        return greys
    return {}


def _line_ids(values: Sequence[int], named: Sequence[NamedClass], *, has_colors: bool) -> Sequence[int] | None:
    """The ids in masks of the lines of a list, counted from 0 or from 1; None where it is open.

    More lines than ids are classes that no mask happens to hold; but of a table of colours, whose order need mean
    nothing, the number has to be the same.
    """
    lines = len(named)
    ids = [value for value in values if value not in LARGEST_VALUES]
    if list(values) == [0, 255]:
        # Colours that are not white and black say nothing of masks that are, unless the first one is black.
        return [0, 255] if lines == 2 and (not has_colors or named[0].color == (0, 0, 0)) else None
    if not ids:
        return None
    if lines == ids[-1] + 1 or (lines > ids[-1] + 1 and not has_colors):
        return range(lines)
    return range(1, lines + 1) if ids == list(range(1, lines + 1)) else None


def _numbered(given: Mapping[int, NamedClass]) -> str:
    return shortly([f"{value} {entry.name}" for value, entry in sorted(given.items())])


def shortly(names: Sequence[str], limit: int = SHOWN) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
