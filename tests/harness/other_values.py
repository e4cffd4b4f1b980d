"""Other values of a key that its constructor may take, made from the one it has and from its annotation."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, get_args, get_origin

GUESSES: tuple[Any, ...] = (1, 2, 0.5, True, "other", [1], [0.5, 0.5, 0.5], {"auxiliary": 0.1})
"""For keys that are null."""


def others(value: Any, annotation: Any = None) -> Iterator[Any]:
    """Values to try in the place of `value`, likely ones first."""
    yield from (choice for choice in choices(annotation) if choice != value)
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value * 2, value // 2, value - 1, value + 16)
    elif isinstance(value, float):
        yield from (value / 2, value * 2, value + 0.25, 0.5, 0.1, 1.0, value + 1)
    elif isinstance(value, str):
        yield value + "_other"
    elif isinstance(value, Mapping):
        yield from ({**value, key: other} for key, old in islice(value.items(), 2) for other in others(old))
    elif isinstance(value, Sequence):
        for place, old in enumerate(value[:2]):
            yield from ([*value[:place], other, *value[place + 1 :]] for other in islice(others(old), 2))
        yield from (value[:-1], [*value, *value[-1:]])
    else:
        yield from GUESSES
    if value is not None:
        yield None


def choices(annotation: Any) -> Iterator[Any]:
    """The values that a Literal in an annotation names."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        for part in get_args(annotation):
            yield from choices(part)
