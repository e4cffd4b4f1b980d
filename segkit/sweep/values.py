"""Values of Hydra's override grammar: as text that is read as exactly this value, and as choices for Optuna."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString, Transformer
from hydra.errors import HydraException

from segkit.config.overrides import quoted


@dataclass(frozen=True)
class Choice:
    """One value of a categorical key: as the config has it, and as an override gives it."""

    value: bool | int | float | str | None
    text: str


def categories(values: Iterable[Any]) -> dict[Any, Choice]:
    """The choices that Hydra read, by what stands for each in the study. Raises ValueError for a value given twice.

    That is the value itself, or the text of a list or dict. Optuna tells values apart by `==`, which takes 1, 1.0
    and true for the same, and nan for nothing: where that matters, their texts stand for all of them.
    """
    plain = [value.text if isinstance(value, QuotedString) else value for value in values]
    texts = [as_text(value) for value in plain]
    if len(set(texts)) < len(texts):
        raise ValueError("a value is given twice")
    keys = [text if isinstance(value, list | dict) else value for value, text in zip(plain, texts, strict=True)]
    if len(set(keys)) < len(keys) or any(key != key for key in keys):
        keys = texts
    shown = [text if isinstance(value, list | dict) else value for value, text in zip(plain, texts, strict=True)]
    return {key: Choice(value, text) for key, value, text in zip(keys, shown, texts, strict=True)}


def as_text(value: Any) -> str:
    """A value as the text of an override that gives exactly this value, type included."""
    if isinstance(value, str):
        return value if _is_read_as_itself(value) else quoted(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_as_element, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{Transformer.str(key)}:{_as_element(item)}' for key, item in value.items())}}}"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def shown(value: Any) -> str:
    """A value as text for people: strings as they are, but in quotes where they read like null, true or a number."""
    if not isinstance(value, str):
        return as_text(value)
    try:
        is_text = isinstance(yaml.safe_load(value), str)
    except yaml.YAMLError:
        is_text = True
    return value if is_text else f"'{value}'"


def _as_element(value: Any) -> str:
    """A value inside a list or dict, where a comma, colon or bracket would end it."""
    text = value.text if isinstance(value, QuotedString) else value
    return quoted(text) if isinstance(text, str) and not re.fullmatch(r"[A-Za-z_]\w*", text) else as_text(text)


def _is_read_as_itself(text: str) -> bool:
    try:
        return OverridesParser.create().parse_override(f"key={text}").value() == text
    except HydraException:
        return False
