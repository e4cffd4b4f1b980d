"""Which classes the values in masks are, what is ignored, and which names fit; nothing here is guessed in silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from segkit.contracts import DataError, UserError
from segkit.data.class_names import Color, NamedClass
from segkit.data.mask_survey import MaskFormat, Survey
from segkit.data.source import palette

NEAR = 16
"""A listed colour is near one in masks where no channel differs by more: likely one of the two is a slip."""
BINARY = ("background", "foreground")


@dataclass
class Labels:
    """A label space as the keys of a data set's config.

    Attributes:
        mapping: raw id to class id or ignore index; None where they are the same.
        mask_format: whether masks hold ids, or the colours of the classes.
        told: what was recognised, for a person.
        notes: what a person should know of it: values without a name, names without a value, what was chosen.
    """

    names: list[str]
    colors: list[Color]
    told: str
    ignore_index: int = 255
    mapping: dict[int, int] | None = None
    mask_format: MaskFormat = "ids"
    ignore_colors: list[Color] = field(default_factory=list[Color])
    notes: list[str] = field(default_factory=list[str])


@dataclass(frozen=True)
class Said:
    """What a person says of the masks, each None where the files are to tell it.

    Attributes:
        ignore: ids, colours or names that are no class.
        mapping: id in masks to class id.
        threshold: of grey masks with soft edges: from this value on a pixel is foreground.
    """

    mask_format: MaskFormat | None = None
    ignore: Sequence[int | str | Sequence[int]] | None = None
    mapping: Mapping[int, int] | None = None
    threshold: int | None = None


def choose_labels(found: Survey, named: Sequence[NamedClass], said: Said) -> Labels:
    """The label space of surveyed masks. Raises DataError where it cannot be told without a guess."""
    if said.threshold is not None:
        labels = _thresholded(found, said.threshold, named)
    elif said.mapping is not None:
        labels = _mapped(found, said.mapping, named)
    elif found.mask_format == "colors":
        labels = _from_colors(found, named, said)
    else:
        labels = _from_ids(found, named, said)
    if len(labels.names) < 2:
        raise DataError(f"the masks hold {_shown_values(found)} and no second class; there is nothing to learn")
    return labels


def _thresholded(found: Survey, threshold: int, named: Sequence[NamedClass]) -> Labels:
    if found.mask_format != "ids" or max(found.values) > 255:
        raise UserError("threshold is for grey masks of 8 bits")
    names = [entry.name for entry in named] if len(named) == 2 else list(BINARY)
    told = f"masks of grey values: {names[1]} from {threshold} on, {names[0]} below"
    return Labels(names, palette(2), told, mapping={value: int(value >= threshold) for value in range(256)})


def _mapped(found: Survey, mapping: Mapping[int, int], named: Sequence[NamedClass]) -> Labels:
    if found.mask_format != "ids":
        raise UserError("class_mapping is for masks of ids; these hold colours")
    if missing := sorted(found.values.keys() - mapping.keys() - {255}):
        raise UserError(
            f"class_mapping: masks hold {_runs(missing)}, such as {found.example(missing[0])}; give each a class id or 255"
        )
    classes = sorted(set(mapping.values()) - {255})
    if classes != list(range(len(classes))):
        raise UserError(f"class_mapping maps to {_runs(classes)}; allowed: class ids from 0 on without a gap, and 255")
    names = [entry.name for entry in named]
    names = names if len(names) == len(classes) else [f"class_{index}" for index in classes]
    return Labels(names, palette(len(classes)), "masks of ids, mapped as you say", mapping=dict(mapping))


def _from_colors(found: Survey, named: Sequence[NamedClass], said: Said) -> Labels:
    """A class a colour: with the name that is listed for the colour, else with one made of the colour."""
    colors = [(code >> 16, code >> 8 & 255, code & 255) for code in found.values]
    if all(red == green == blue for red, green, blue in colors) and not any(entry.color for entry in named):
        named = [NamedClass(entry.name, entry.id, (entry.id,) * 3) for entry in named if entry.id is not None]
    listed = {entry.color: entry for entry in named if entry.color is not None}
    fits = [color for color in colors if color in listed]
    unknown = [color for color in colors if color not in listed]
    edges = {(code >> 16, code >> 8 & 255, code & 255) for code in found.edge_values}
    _refuse_edges(found, [color for color in unknown if color in edges], len(colors))
    _refuse_instances(found, unknown, said)
    notes: list[str] = []
    absent = [color for color in listed if color not in colors]
    if named and not listed:
        notes.append(
            f"{len(named)} names are listed without colours, and cannot be matched with colours: the classes are named "
            "by their colours. A list with a line of name,r,g,b each does it: names=FILE"
        )
    elif listed and unknown:
        notes.append(f"{len(fits)} of {len(colors)} colours in masks are listed and have their names")
        for color in unknown:
            near = [other for other in absent if max(abs(a - b) for a, b in zip(color, other, strict=True)) <= NEAR]
            near_by = f"; near it is {listed[near[0]].name} {list(near[0])}, which no mask holds" if near else ""
            absent = [other for other in absent if other not in near]
            code = color[0] << 16 | color[1] << 8 | color[2]
            notes.append(f"colour {list(color)} is not listed{near_by}; such as in {found.example(code).name}")
    if not fits:
        absent = []
    elif absent:
        notes.append(f"listed colours without a pixel: {_listed([listed[color].name for color in absent])}")
    order = [color for color in listed if color in fits or color in absent] + unknown
    entries = {color: listed.get(color, NamedClass(_name_of(color, colors))) for color in order}
    ignored = _ignored_colors(entries, said)
    classes = [color for color in order if color not in ignored]
    told = f"masks in {len(colors)} colours" + (f", ignored: {_listed([entries[c].name for c in ignored])}" if ignored else "")
    names = [entries[color].name for color in classes]
    return Labels(names, classes, told, mask_format="colors", ignore_colors=ignored, notes=notes)


def _name_of(color: Color, colors: Sequence[Color]) -> str:
    if set(colors) == {(0, 0, 0), (255, 255, 255)}:
        return BINARY[color[0] // 255]
    return f"rgb_{color[0]}_{color[1]}_{color[2]}"


def _ignored_colors(entries: Mapping[Color, NamedClass], said: Said) -> list[Color]:
    if said.ignore is None:
        return [color for color, entry in entries.items() if entry.is_ignored]
    ignored: list[Color] = []
    for item in said.ignore:
        color = next((c for c, entry in entries.items() if item == entry.name or (not isinstance(item, str | int) and list(item) == list(c))), None)
        if color is None:
            shown = ", ".join(f"{entry.name} {list(c)}" for c, entry in entries.items())
            raise UserError(f"ignore={item}: no colour or class of these masks; they hold {shown}")
        ignored.append(color)
    return ignored


def _from_ids(found: Survey, named: Sequence[NamedClass], said: Said) -> Labels:
    _refuse_palettes(found, named, said)
    values = list(found.values)
    notes: list[str] = []
    given = _by_id(found, named, notes)
    unlisted = [value for value in values if value not in given]
    _refuse_edges(found, [value for value in found.edge_values if value not in given], len(values))
    _refuse_two_codes(found, given, said)
    ignored = _ignored_ids(found, given, said, notes)
    known = {value: entry for value, entry in given.items() if value not in ignored}
    raw = [value for value in values if value not in ignored]
    if values == [0, 255] and not ignored:
        told = "masks of 0 and 255"
        raw, names = [0, 255], list(BINARY)
        if len(known) == 2:
            names = [known[value].name for value in raw]
    else:
        # Ids that no mask happens to hold keep their place where they are listed, or fall between others in a row.
        raw = sorted({*raw, *known})
        if _in_a_row(raw) and 0 in raw:
            raw = [value for value in range(raw[-1] + 1) if value not in ignored]
        names = [known[value].name if value in known else f"class_{value}" for value in raw]
        told = f"masks of ids {_runs([value for value in values if value not in ignored])}"
        if known and (without := [value for value in unlisted if value not in ignored]):
            notes.append(f"ids without a listed name: {_runs(without)}, such as in {found.example(without[0]).name}")
        if absent := [entry.name for value, entry in known.items() if value not in found.values]:
            notes.append(f"listed classes without a pixel: {_listed(absent)}")
    if ignored:
        told += f", ignored: {', '.join(str(value) for value in sorted(ignored))}"
    mapping: dict[int, int] | None = {value: index for index, value in enumerate(raw)}
    ignore_index = 255 if len(raw) <= 255 else 65535
    mapping |= dict.fromkeys(sorted(ignored), ignore_index)
    if raw == list(range(len(raw))) and ignored <= {ignore_index}:
        mapping = None
    return Labels(names, _colors_of(raw, known, found), told, ignore_index, mapping, notes=notes)


def _colors_of(raw: Sequence[int], known: Mapping[int, NamedClass], found: Survey) -> list[Color]:
    made = palette(len(raw))
    own = [known[value].color if value in known else None for value in raw]
    shown = [color or found.palette.get(value) or made[place] for place, (value, color) in enumerate(zip(raw, own, strict=True))]
    return shown if len(set(shown)) == len(shown) else made


def _by_id(found: Survey, named: Sequence[NamedClass], notes: list[str]) -> dict[int, NamedClass]:
    """The listed classes by the id in masks: by their own ids, by colours of the palette, or by their lines."""
    values = list(found.values)
    if not named:
        return {}
    if all(entry.id is not None for entry in named):
        given = {entry.id: entry for entry in named if entry.id is not None}
        if not given.keys() & found.values.keys():
            notes.append(f"listed are the ids {_runs(sorted(given))}, and masks hold {_runs(values)}: no name fits")
            return {}
        return given
    by_color = {entry.color: entry for entry in named if entry.color is not None}
    if found.palette and by_color and any(color in by_color for color in found.palette.values()):
        given = {value: by_color[color] for value, color in found.palette.items() if color in by_color}
        notes.append(f"names by the colours of the masks' palette: {_shown(given)}")
        return given
    top = [value for value in values if value != 255] or [0]
    lines: range | list[int] | None = None
    if values == [0, 255]:
        lines = [0, 255] if len(named) == 2 else None
    elif len(named) > top[-1] and (len(named) == top[-1] + 1 or not by_color):
        lines = range(len(named))
    elif values[0] == 1 and top == list(range(1, len(named) + 1)):
        lines = range(1, len(named) + 1)
    if lines is None:
        notes.append(
            f"{len(named)} names are listed, and masks hold {_runs(values)}: none is assigned, as it is open which is "
            "which. A list with a line of id,name each does it: names=FILE"
        )
        return {}
    given = dict(zip(lines, named, strict=True))
    notes.append(f"names by their lines: {_shown(given)}")
    return given


def _ignored_ids(found: Survey, given: Mapping[int, NamedClass], said: Said, notes: list[str]) -> set[int]:
    values = list(found.values)
    if said.ignore is not None:
        by_name = {entry.name: value for value, entry in given.items()}
        ignored: set[int] = set()
        for item in said.ignore:
            value = item if isinstance(item, int) else by_name.get(item) if isinstance(item, str) else None
            if value is None or (value not in found.values and value not in given):
                raise UserError(f"ignore={item}: no id or class of these masks; they hold {_runs(values)}")
            ignored.add(value)
        return ignored
    ignored = {value for value, entry in given.items() if entry.is_ignored}
    top = values[-1]
    rest = values[:-1]
    if top in (255, 65535) and top not in given and len(rest) > 1 and not _evenly_spaced(values):
        notes.append(f"{top} is taken for what is not labelled, as is the custom; ignore=[] makes it a class")
        ignored.add(top)
    return ignored


def _evenly_spaced(values: Sequence[int]) -> bool:
    """Whether classes are drawn as greys from 0 to 255, so that one can see them: 0, 85, 170, 255."""
    ideal = np.linspace(0, values[-1], len(values))
    return len(values) > 2 and bool(np.abs(np.array(values) - ideal).max() <= 1)


def _refuse_palettes(found: Survey, named: Sequence[NamedClass], said: Said) -> None:
    if found.palettes_differ is None or said.mask_format == "ids":
        return
    index, first, where, second, other = found.palettes_differ
    raise DataError(
        f"the palettes of the masks differ: {index} is {list(first)} in {where}, and {list(second)} in {other}.\n"
        "mask_format=colors reads the colours, mask_format=ids the numbers and leaves the palettes out of account"
    )


def _refuse_edges(found: Survey, edges: Sequence[int | Color], number: int) -> None:
    """Raise DataError where a third of the values, and no fewer than three, are those of soft edges."""
    if len(edges) < 3 or len(edges) < number / 3:
        return
    in_masks = "colours" if found.mask_format == "colors" else "values"
    example = next(iter(found.values_of))
    solid = [value for value in found.values if value not in found.edge_values]
    remedy = "draw them again without smoothing, and resize with the nearest pixel; JPEG changes values too"
    if found.mask_format == "ids" and found.values.keys() >= {0} and max(found.values) <= 255:
        remedy = (
            f"threshold={(max(found.values) + 1) // 2} makes two classes of them, all that is darker and all that is lighter; "
            "or " + remedy
        )
    shown = _runs(solid) if found.mask_format == "ids" else _listed([f"[{v >> 16}, {v >> 8 & 255}, {v & 255}]" for v in solid])
    raise DataError(
        f"{example} and others: {len(edges)} of {number} {in_masks} in masks stand on edges alone, between others, "
        f"such as {_listed(list(map(str, edges))[:3])}. These are no classes, but soft edges: of antialiasing, resizing or "
        f"JPEG compression. Apart from these, masks hold {shown or 'nothing'}.\n{remedy}"
    )


def _refuse_two_codes(found: Survey, given: Mapping[int, NamedClass], said: Said) -> None:
    """Raise DataError where some masks hold 0 and 1, and others 0 and 255."""
    if set(found.values) != {0, 1, 255} or said.ignore is not None or 255 in given:
        return
    if any({1, 255} <= values for values in found.values_of.values()):
        return
    raise DataError(
        f"some masks hold 0 and 1, as {found.example(1)}, others 0 and 255, as {found.example(255)}, and none both: is "
        "255 what 1 is there, or not labelled?\nGive 'class_mapping={0: 0, 1: 1, 255: 1}', or 'ignore=[255]'"
    )


def _refuse_instances(found: Survey, unknown: Sequence[Color], said: Said) -> None:
    """Raise DataError where nearly every mask has colours of its own, as masks of single objects have."""
    number, masks = len(unknown), len(found.values_of)
    alone = [code for code, times in found.values.items() if times == 1]
    if said.mask_format == "colors" or masks < 4 or number < 12 or len(alone) < 0.8 * number:
        return
    code = alone[0]
    raise DataError(
        f"{len(alone)} of {len(found.values)} colours stand in one mask only, such as "
        f"{[code >> 16, code >> 8 & 255, code & 255]} in {found.example(code)}: these number single objects, as COCO's "
        "panoptic PNGs do (id = R + 256 G + 65536 B), and are no classes. Make masks of classes of them first; "
        "mask_format=colors takes them for classes all the same"
    )


def _in_a_row(ids: Sequence[int]) -> bool:
    """Whether ids look counted up from 0 or 1: half of those up to the last one occur."""
    return bool(ids) and ids[0] <= 1 and len(ids) >= 0.5 * (ids[-1] + 1)


def _shown_values(found: Survey) -> str:
    if found.mask_format == "ids":
        return _runs(list(found.values))
    return _listed([f"[{code >> 16}, {code >> 8 & 255}, {code & 255}]" for code in found.values])


def _shown(given: Mapping[int, NamedClass]) -> str:
    return _listed([f"{value} {entry.name}" for value, entry in sorted(given.items())])


def _listed(names: Sequence[str], limit: int = 6) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def _runs(ids: Sequence[int]) -> str:
    values = np.array(ids)
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1) if len(values) else []
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs)
