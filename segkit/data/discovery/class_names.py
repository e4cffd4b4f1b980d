"""Names and colours of classes from the small files that data sets bring along."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from segkit.contracts import UserError
from segkit.data.files.bounded import UnusableError, read_text
from segkit.errors import printable

FILES = (
    "classes.txt class_names.txt labels.txt label_names.txt names.txt label_colors.txt labelmap.txt label_map.txt "
    "codes.txt colors.txt obj.names class_dict.csv classes.csv labels.csv class_names.csv label_colors.csv "
    "_classes.csv classes.json class_names.json labels.json label_map.json id2label.json label2id.json categories.json "
    "notes.json dataset.json classes.yaml classes.yml data.yaml data.yml"
).split()
NOT_A_CLASS = frozenset(
    "void ignore ignored unlabeled unlabelled unlabeled_area unknown_area _ignore_ dontcare dont_care".split()
)
NESTED = ("classes", "labels", "names", "class_names", "categories", "label_map", "id2label")
NAME_COLUMNS = frozenset("name class label class_name label_name classname category object".split())
ID_COLUMNS = frozenset("id index value pixel_value class_id label_id train_id pixel".split())
COLOR_COLUMNS = frozenset("color colour rgb color_rgb hex".split())
RGB_COLUMNS = ({"r", "red"}, {"g", "green"}, {"b", "blue"})
HEADER = NAME_COLUMNS | ID_COLUMNS | COLOR_COLUMNS | frozenset("r g b red green blue parts actions".split())

MOST_BYTES = 2**22
"""Of a file of class names; a larger one holds something else."""

Color = tuple[int, int, int]


@dataclass(frozen=True)
class NamedClass:
    """A name, with the raw id and the colour that belong to it where the file gives them."""

    name: str
    id: int | None = None
    color: Color | None = None

    @property
    def is_ignored(self) -> bool:
        return re.sub(r"[\W_]+", "_", self.name.lower()).strip("_") in {name.strip("_") for name in NOT_A_CLASS}


def find_class_names(root: Path, file: str | None = None) -> tuple[list[NamedClass], Path | None]:
    """The classes of the first known file in `root` or beside it that holds some, and that file.

    Args:
        file: to read instead, below `root` or anywhere. Raises UserError when it holds no classes.
    """
    if file is not None:
        path = next((path for path in (root / file, Path(file).expanduser()) if path.is_file()), None)
        if path is None:
            raise UserError(f"names={file}: there is no such file, neither here nor in {root}")
        if not (classes := _classes_in(path)):
            raise UserError(f"names={file}: no class names in it; allowed: a name a line, CSV, JSON or YAML")
        return classes, path
    known = {name: number for number, name in enumerate(FILES)}
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        there = [path for path in folder.iterdir() if path.name.lower() in known and path.is_file()]
        for path in sorted(there, key=lambda path: known[path.name.lower()]):
            if classes := _classes_in(path):
                return classes, path
    return [], None


def _classes_in(file: Path) -> list[NamedClass]:
    try:
        text = read_text(file, MOST_BYTES)
    except UnusableError as problem:
        raise UserError(f"{file}: {problem}; save it in UTF-8, or give names=FILE for another one") from None
    try:
        suffix = file.suffix.lower()
        if suffix == ".json":
            found = _from_json(json.loads(text))
        elif suffix in (".yaml", ".yml"):
            found = _from_json(yaml.safe_load(text))
        else:
            found = _from_table(text) or _from_lines(text)
    except (ValueError, RecursionError, yaml.YAMLError, csv.Error):
        return []
    return _unique([replace(entry, name=printable(entry.name.strip())) for entry in found if entry.name.strip()], file)


def _unique(found: Sequence[NamedClass], file: Path) -> list[NamedClass]:
    """The classes, each with a name of its own. Raises UserError for an id or a colour of two."""
    for key in ("id", "color"):
        first: dict[Any, NamedClass] = {}
        for entry in found:
            value = getattr(entry, key)
            if value is not None and first.setdefault(value, entry).name != entry.name:
                raise UserError(f"{file}: {key} {value} stands for {first[value].name} and for {entry.name}")
    result: list[NamedClass] = []
    for number, entry in enumerate(found):
        is_taken = any(other.name == entry.name for other in result)
        result.append(replace(entry, name=f"{entry.name} ({number})") if is_taken else entry)
    return result


def _from_table(text: str) -> list[NamedClass]:
    """Rows below a header that names a column of names, and of ids or colours; none without such a header."""
    first = text.lstrip("# \n").partition("\n")[0]
    delimiter = max(",;\t:", key=first.count)
    headers = [re.sub(r"[\W_]+", "_", header.strip().lower()).strip("_") for header in first.split(delimiter)]
    if len(headers) < 2 or not set(headers) <= HEADER:
        return []

    def column(names: frozenset[str] | set[str]) -> int | None:
        return next((place for place, header in enumerate(headers) if header in names), None)

    lines = io.StringIO(text.lstrip("# \n").partition("\n")[2])
    rows = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
    number, color = column(ID_COLUMNS), column(COLOR_COLUMNS)
    parts = [column(names) for names in RGB_COLUMNS]
    name = None
    for place in (place for place, header in enumerate(headers) if header in NAME_COLUMNS):
        # A column `label` beside `name` may hold ids.
        if all(len(row) <= place or row[place].strip().isdigit() for row in rows):
            number = place if number is None else number
        elif name is None:
            name = place
    if name is None:
        return []
    found: list[NamedClass] = []
    for row in rows:
        if len(row) <= name or not row[name].strip() or row[0].startswith("#"):
            continue
        cells = [cell.strip() for cell in row] + [""] * len(headers)
        rgb = [cells[part] for part in parts if part is not None]
        own = _color([int(v) if v.isdigit() else v for v in rgb]) if len(rgb) == 3 else None
        own = own if own is not None or color is None else _color(cells[color])
        found.append(NamedClass(cells[name], _whole(cells[number]) if number is not None else None, own))
    return found


def _from_lines(text: str) -> list[NamedClass]:
    """One class a line: a name, with an id before it or a colour on either side."""
    found: list[NamedClass] = []
    for line in text.split("\n"):
        line = line.strip()
        words = [word for word in re.split(r"[,;:\t ]+", line) if word]
        if not words or line.startswith("#") or (len(words) > 1 and {word.lower() for word in words} <= HEADER):
            continue
        numbers = [int(word) for word in words if re.fullmatch(r"\d{1,5}", word)]
        name = " ".join(word for word in words if not re.fullmatch(r"\d{1,5}", word))
        if not name:
            continue
        if len(numbers) in (3, 4) and max(numbers[-3:]) <= 255:
            color = (numbers[-3], numbers[-2], numbers[-1])
            found.append(NamedClass(name, numbers[0] if len(numbers) == 4 else None, color))
        elif (len(numbers) == 1 and words[0].isdigit()) or (
            len(numbers) == 1 and words[-1].isdigit() and re.search(r"[,;:\t]\s*\d+$", line)
        ):
            found.append(NamedClass(name, numbers[0]))
        else:
            found.append(NamedClass(line))
    return found


def _from_json(content: Any) -> list[NamedClass]:
    """Names in a list, ids by name, names by id, or objects with a name; also below a key such as classes."""
    if isinstance(content, dict):
        for key in NESTED:
            if isinstance(content.get(key), list | dict):
                return _from_json(content[key])
        if content and all(isinstance(value, int) for value in content.values()):
            return [NamedClass(str(name), id) for name, id in sorted(content.items(), key=lambda item: item[1])]
        if content and all(str(key).isdigit() and isinstance(value, str) for key, value in content.items()):
            return [NamedClass(name, int(id)) for id, name in sorted(content.items(), key=lambda item: int(item[0]))]
        if content and all(_color(value) is not None for value in content.values()):
            return [NamedClass(str(name), None, _color(value)) for name, value in content.items()]
        return []
    if not isinstance(content, list):
        return []
    return [entry for item in content if (entry := _from_item(item)) is not None]


def _from_item(item: Any) -> NamedClass | None:
    if isinstance(item, str):
        return NamedClass(item)
    if not isinstance(item, dict):
        return None
    name = next((item[key] for key in ("name", "label", "readable", "title") if isinstance(item.get(key), str)), None)
    keys = ("id", "index", "value", "class_id")
    number = next((whole for key in keys if (whole := _whole(item.get(key))) is not None), None)
    color = next((item[key] for key in ("color", "colour", "rgb") if key in item), None)
    return None if name is None else NamedClass(name, number, _color(color))


def _whole(value: Any) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"\d{1,5}", value.strip()):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 65535 else None


def _color(value: Any) -> Color | None:
    if isinstance(value, str):
        if re.fullmatch(r"#[0-9a-fA-F]{6}", value):
            code = int(value[1:], 16)
            return code >> 16, code >> 8 & 255, code & 255
        value = [int(part) for part in re.findall(r"\d{1,5}", value)]
    if isinstance(value, list) and len(value) == 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in value):
        return value[0], value[1], value[2]
    return None
