"""MLflow's rules for keys and values, so that no config and no class name can make a call fail."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from segkit.errors import printable

MAX_KEY = 250
MAX_PARAM_VALUE = 6000
MAX_TAG_VALUE = 5000
"""Characters. MLflow 3 takes longer tags, servers before it do not."""


def sanitised(keys: Iterable[str]) -> dict[str, str]:
    """Each key with the name MLflow accepts for it: `a[0]=b` becomes `a_0__b`; names stay distinct."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for key in keys:
        name = base = _sanitised(key)
        number = 2
        while name in taken:
            suffix = f"_{number}"
            name = base[: MAX_KEY - len(suffix)] + suffix
            number += 1
        taken.add(name)
        names[key] = name
    return names


def _sanitised(key: str) -> str:
    name = re.sub(r"[^\w.\- /]", "_", key)[:MAX_KEY]
    # MLflow reads names as paths and refuses those that are not in their shortest form.
    return "/".join("_" if part in ("", ".", "..") else part for part in name.split("/"))[:MAX_KEY]


def shortened(value: Any, limit: int) -> str:
    """`value` as text of at most `limit` characters, marked where it was cut."""
    text = str(value)
    mark = " ... (cut; whole in config/params.json)"
    return text if len(text) <= limit else text[: limit - len(mark)] + mark


def as_params(params: Mapping[str, Any]) -> dict[str, str]:
    """A flattened config as MLflow params."""
    names = sanitised(params)
    return {names[key]: shortened(value, MAX_PARAM_VALUE) for key, value in params.items()}


def as_tags(tags: Mapping[str, str]) -> dict[str, str]:
    names = sanitised(tags)
    return {names[key]: shortened(value, MAX_TAG_VALUE) for key, value in tags.items()}


def as_drawn(text: str) -> str:
    """A name from data as matplotlib has to be given it: between two dollars it would read a formula."""
    return printable(text).replace("$", r"\$")
