"""Findings about a config, in the words of whoever typed it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from segkit.errors import UserError

UNION_MEMBER = re.compile(r"(function|constrained)-|\w+(-or-\w+)?\[")
"""How pydantic names the member of a union that it has tried, among the keys."""


class ConfigError(UserError):
    """A key of the config is unknown, missing, or holds something that is not allowed."""


def unknown_key(key: str, allowed: Iterable[str]) -> str:
    """One line about a key that nothing reads, with the nearest existing one and all that are allowed."""
    names = sorted(allowed)
    parent, _, name = key.rpartition(".")
    nearest = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {parent + '.' if parent else ''}{nearest[0]}?" if nearest else ""
    return f"{key}: nothing reads this key.{hint} Allowed here: {', '.join(names) or 'no keys at all'}"


def _keys_at(settings: type[BaseModel], location: tuple[Any, ...]) -> Iterable[str]:
    for part in location:
        field = settings.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return ()
        settings = field.annotation
    return settings.model_fields


def describe(error: ValidationError, settings: type[BaseModel] | None = None, prefix: str = "") -> str:
    """All findings of a pydantic error, one line each: the key, what was found, what is allowed."""
    lines: list[str] = []
    for finding in error.errors(include_url=False):
        location = tuple(part for part in finding["loc"] if not UNION_MEMBER.match(str(part)))
        key = ".".join([*([prefix] if prefix else []), *map(str, location)])
        match finding["type"]:
            case "extra_forbidden" if settings is not None:
                lines.append(unknown_key(key, _keys_at(settings, location[:-1])))
            case "odd_value":
                message = finding["msg"]
                lines.append(f"{key}{message}" if message.startswith(".") or not key else f"{key}: {message}")
            case "missing":
                lines.append(f"{key}: missing; give it a value")
            case _:
                message = finding["msg"].removeprefix("Value error, ").removeprefix("Input ")
                shown = finding.get("input")
                found = "" if isinstance(shown, dict) else f" (found {shown!r})"
                lines.append(f"{key}: {message}{found}")
    # A union reports one finding a member; the same key need not stand many times.
    return "\n".join(dict.fromkeys(lines))
