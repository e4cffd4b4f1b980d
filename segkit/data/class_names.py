"""Names and colours of classes from the small files that data sets bring along."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segkit.data.content import UnusableError, read_text
from segkit.errors import printable

FILES = (
    "classes.txt class_names.txt labels.txt label_names.txt names.txt label_colors.txt labelmap.txt label_map.txt "
    "class_dict.csv classes.csv labels.csv classes.json class_names.json labels.json label_map.json dataset.json"
).split()
NOT_A_CLASS = frozenset(
    "void ignore ignored unlabeled unlabelled unlabeled_area unknown_area _ignore_ dontcare".split()
)
NESTED = ("classes", "labels", "names", "class_names", "categories", "label_map")
HEADER = frozenset("name class label r g b red green blue id index color colour class_name label_name".split())

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
        return self.name.lower().replace(" ", "_") in NOT_A_CLASS


def find_class_names(root: Path) -> tuple[list[NamedClass], Path | None]:
    """The classes of the first known file in `root` or beside it that holds some, and that file."""
    known = {name: number for number, name in enumerate(FILES)}
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        there = [path for path in folder.iterdir() if path.name.lower() in known and path.is_file()]
        for file in sorted(there, key=lambda path: known[path.name.lower()]):
            try:
                text = read_text(file, MOST_BYTES)
                classes = _from_json(json.loads(text)) if file.suffix.lower() == ".json" else _from_lines(text)
            except (UnusableError, ValueError, RecursionError):
                continue
            if classes:
                return [replace(entry, name=printable(entry.name)) for entry in classes], file
    return [], None


def _from_lines(text: str) -> list[NamedClass]:
    """One class a line: a name, with an id before it or a colour on either side."""
    found: list[NamedClass] = []
    for line in text.splitlines():
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
        elif len(numbers) == 1 and words[0].isdigit():
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
    number = next((item[key] for key in ("id", "index", "value") if isinstance(item.get(key), int)), None)
    color = next((item[key] for key in ("color", "colour", "rgb") if key in item), None)
    return None if name is None else NamedClass(name, number, _color(color))


def _color(value: Any) -> Color | None:
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        return int(value[1:3], 16), int(value[3:5], 16), int(value[5:7], 16)
    if isinstance(value, list) and len(value) == 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in value):
        return value[0], value[1], value[2]
    return None
