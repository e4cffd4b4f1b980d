"""Which classes the values in masks are, what is ignored, and which names fit; nothing here is guessed in silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from segkit.contracts import DataError, UserError
from segkit.data.datasets.source import palette
from segkit.data.discovery.class_names import Color, NamedClass
from segkit.data.discovery.listed_names import BINARY, LARGEST_VALUES, by_id, dark_and_bright, names_of_mapped, shortly
from segkit.data.discovery.mask_survey import MaskFormat, Survey, rgb_of, runs, shown_values
from segkit.data.discovery.unfit_masks import refuse_objects, refuse_palettes, refuse_soft_edges, refuse_two_codes

NEAR = 16
"""A listed colour is near one in masks where no channel differs by more: likely one of the two is a slip."""


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
        mapping: id in masks to class id, or 255.
        threshold: of grey masks with soft edges: from this value on a pixel is foreground.
    """

    mask_format: MaskFormat | None = None
    ignore: Sequence[int | str | Sequence[int]] | None = None
    mapping: Mapping[int, int] | None = None
    threshold: int | None = None


UNSURE = frozenset({"unknown", "undefined", "other", "others", "none"})
"""Names of which it is open whether they are a class."""


def choose_labels(found: Survey, named: Sequence[NamedClass], said: Said) -> Labels:
    """The label space of surveyed masks. Raises DataError or UserError where it cannot be told without a guess."""
    if said.threshold is not None:
        labels = _thresholded(found, said.threshold, named)
    elif said.mapping is not None:
        labels = _mapped(found, said.mapping, named)
    elif found.mask_format == "colors":
        labels = _from_colors(found, named, said)
    else:
        labels = _from_ids(found, named, said)
    if unsure := [name for name in labels.names if name.lower() in UNSURE]:
        labels.notes.append(f"{unsure[0]} counts as a class; 'ignore=[{unsure[0]}]' leaves it out")
    if len(labels.names) < 2:
        raise DataError(f"the masks hold {shown_values(found)} and no second class; there is nothing to learn")
    return labels


def _thresholded(found: Survey, threshold: int, named: Sequence[NamedClass]) -> Labels:
    if found.mask_format != "ids" or max(found.values) > 255:
        raise UserError(f"threshold={threshold}: is for grey masks of 8 bits")
    notes: list[str] = []
    names = dark_and_bright(named, notes)
    told = f"masks of grey values: {names[1]} from {threshold} on, {names[0]} below"
    mapping = {value: int(value >= threshold) for value in range(256)}
    return Labels(names, palette(2), told, mapping=mapping, notes=notes)


def _mapped(found: Survey, mapping: Mapping[int, int], named: Sequence[NamedClass]) -> Labels:
    if found.mask_format != "ids":
        raise UserError("class_mapping: is for masks of ids, and these hold colours")
    if missing := sorted(found.values.keys() - mapping.keys() - {255}):
        raise UserError(
            f"class_mapping: masks hold {runs(missing)} too, such as {found.example(missing[0])}; allowed for each: a "
            "class id, or 255 to ignore it"
        )
    classes = sorted(set(mapping.values()) - {255})
    if classes != list(range(len(classes))):
        raise UserError(f"class_mapping: maps to {runs(classes)}; allowed: class ids from 0 on without a gap, and 255")
    notes: list[str] = []
    names = names_of_mapped(found, mapping, len(classes), named, notes)
    told = f"masks of ids {runs(list(found.values))}, mapped"
    return Labels(names, palette(len(classes)), told, mapping=dict(mapping), notes=notes)


def _from_colors(found: Survey, named: Sequence[NamedClass], said: Said) -> Labels:
    """A class a colour: with the name that is listed for the colour, else with one made of the colour."""
    named = _as_greys(found, named)
    listed = {entry.color: entry for entry in named if entry.color is not None}
    codes = {red << 16 | green << 8 | blue for red, green, blue in listed}
    refuse_soft_edges(found, codes)
    refuse_objects(found, [code for code in found.values if code not in codes], said.mask_format)
    colors = [rgb_of(code) for code in found.values]
    unlisted = [color for color in colors if color not in listed]
    absent = [color for color in listed if color not in colors]
    notes: list[str] = []
    if len(unlisted) == len(colors):
        if named:
            what = "none of whose colours is in the masks" if listed else "without colours, which cannot be matched"
            notes.append(
                f"{len(named)} names are listed, {what}: the classes are named by their colours. A file with a line "
                "of name,r,g,b each does it: names=FILE"
            )
        absent = []
    elif unlisted:
        notes.append(f"{len(colors) - len(unlisted)} of {len(colors)} colours in masks are listed and have their names")
        for color in unlisted:
            near = [other for other in absent if max(abs(a - b) for a, b in zip(color, other, strict=True)) <= NEAR]
            near_by = "".join(f"; near it is {listed[one].name} {list(one)}, which no mask holds" for one in near)
            absent = [other for other in absent if other not in near]
            notes.append(f"{list(color)}, as in {found.example(_code(color)).name}, is not listed{near_by}")
    if absent:
        notes.append(f"listed classes without a pixel: {shortly([listed[color].name for color in absent])}")
    order = [color for color in listed if color in colors or color in absent] + unlisted
    entries = {color: listed.get(color, NamedClass(_name_of(color, colors))) for color in order}
    ignored = _ignored_colors(entries, said)
    classes = [color for color in order if color not in ignored]
    told = f"masks in {len(colors)} colours"
    if ignored:
        told += f", ignored: {shortly([f'{entries[color].name} {list(color)}' for color in ignored])}"
    names = [entries[color].name for color in classes]
    return Labels(names, classes, told, mask_format="colors", ignore_colors=ignored, notes=notes)


def _as_greys(found: Survey, named: Sequence[NamedClass]) -> Sequence[NamedClass]:
    """Listed ids as the greys that masks of ids stored as RGB hold in their place."""
    is_grey = all(len(set(rgb_of(code))) == 1 for code in found.values)
    if not is_grey or any(entry.color is not None for entry in named):
        return named
    return [
        NamedClass(entry.name, entry.id, (entry.id, entry.id, entry.id))
        for entry in named
        if entry.id is not None and entry.id <= 255
    ] or named


def _code(color: Color) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]


def _name_of(color: Color, colors: Sequence[Color]) -> str:
    if set(colors) == {(0, 0, 0), (255, 255, 255)}:
        return BINARY[color[0] // 255]
    return f"rgb_{color[0]}_{color[1]}_{color[2]}"


def _ignored_colors(entries: Mapping[Color, NamedClass], said: Said) -> list[Color]:
    if said.ignore is None:
        return [color for color, entry in entries.items() if entry.is_ignored]
    by_name = {entry.name: color for color, entry in entries.items()}
    ignored: list[Color] = []
    for item in said.ignore:
        color = by_name.get(item) if isinstance(item, str) else None
        if isinstance(item, Sequence) and not isinstance(item, str):
            color = next((own for own in entries if list(own) == list(item)), None)
        if color is None:
            shown = shortly([f"{entry.name} {list(own)}" for own, entry in entries.items()], 12)
            raise UserError(f"ignore={item}: no colour or class of these masks; they hold {shown}")
        ignored.append(color)
    return ignored


def _from_ids(found: Survey, named: Sequence[NamedClass], said: Said) -> Labels:
    refuse_palettes(found, said.mask_format)
    values = list(found.values)
    notes: list[str] = []
    given = by_id(found, named, notes)
    refuse_soft_edges(found, given)
    if said.ignore is None:
        refuse_two_codes(found, given)
    ignored = _ignored_ids(found, given, said, notes)
    known = {value: entry for value, entry in given.items() if value not in ignored}
    raw = [value for value in values if value not in ignored]
    told = f"masks of ids {runs(raw)}"
    if raw == [0, 255] and len(known) != 2:
        names = list(BINARY)
    else:
        # Ids that no mask happens to hold keep their place where they are listed, or lie between others in a row.
        raw = sorted({*raw, *known})
        if _is_in_a_row(raw):
            raw = [value for value in range(raw[-1] + 1) if value not in ignored]
        names = [known[value].name if value in known else f"class_{value}" for value in raw]
        if known and (unnamed := [value for value in values if value not in given and value not in ignored]):
            notes.append(f"ids without a listed name: {runs(unnamed)}, such as in {found.example(unnamed[0]).name}")
        if absent := [f"{value} {entry.name}" for value, entry in known.items() if value not in found.values]:
            notes.append(f"listed classes without a pixel: {shortly(absent)}")
    if ignored:
        told += f", ignored: {runs(sorted(ignored))}"
    ignore_index = 255 if len(raw) <= 255 else 65535
    mapping: dict[int, int] | None = {value: index for index, value in enumerate(raw)}
    mapping |= dict.fromkeys(sorted(ignored), ignore_index)
    # Where palettes differ, a mapping that is spelled out tells the data check that numbers were meant.
    if raw == list(range(len(raw))) and ignored <= {ignore_index} and found.palettes_differ is None:
        mapping = None
    return Labels(names, _colors_of(raw, known, found), told, ignore_index, mapping, notes=notes)


def _colors_of(raw: Sequence[int], known: Mapping[int, NamedClass], found: Survey) -> list[Color]:
    """Those listed, else those of the palette of the masks; Pascal VOC's if two would be the same."""
    made = palette(len(raw))
    own = [known[value].color if value in known else None for value in raw]
    shown = [color or found.palette.get(raw[place]) or made[place] for place, color in enumerate(own)]
    return shown if len(set(shown)) == len(shown) else made


def _ignored_ids(found: Survey, given: Mapping[int, NamedClass], said: Said, notes: list[str]) -> set[int]:
    values = list(found.values)
    if said.ignore is not None:
        by_name = {entry.name: value for value, entry in given.items()}
        ignored: set[int] = set()
        for item in said.ignore:
            value = by_name.get(item) if isinstance(item, str) else item
            if not isinstance(value, int) or (value not in found.values and value not in given):
                raise UserError(f"ignore={item}: no id or class of these masks; they hold {runs(values)}")
            ignored.add(value)
        return ignored
    ignored = {value for value, entry in given.items() if entry.is_ignored}
    top = values[-1]
    if top in LARGEST_VALUES and top not in given and len(values) > 2 and not _is_evenly_spaced(values):
        notes.append(f"{top} is taken for what is not labelled, as is the custom; ignore=[] makes it a class")
        ignored.add(top)
    return ignored


def _is_evenly_spaced(values: Sequence[int]) -> bool:
    """Whether classes are drawn as greys from black to white, so that one can see them: 0, 85, 170, 255."""
    return bool(np.abs(np.array(values) - np.linspace(0, values[-1], len(values))).max() <= 1)


def _is_in_a_row(ids: Sequence[int]) -> bool:
    """Whether ids look counted up from 0: half of those up to the last one occur."""
    return ids[:1] == [0] and len(ids) >= 0.5 * (ids[-1] + 1)
