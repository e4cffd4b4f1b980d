"""What is wrong with a value of the config whatever key it is given to."""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import AllowInfNan

LARGEST = 2**63
"""Numbers from here on, and below its negative, are no 64-bit integers."""


def odd_values(value: Any, annotation: Any, default: Any = None) -> Iterator[tuple[str, str]]:
    """Findings about `value` and what it holds, each with where it is: "" or ".key.0".

    Numbers that are not finite, unless the annotation has pydantic's AllowInfNan or the default is no finite number
    either; integers of more than 64 bits; true and false where the annotation knows numbers and no truth values.
    """
    parts = list(_parts(annotation))
    means_infinity = AllowInfNan(True) in parts or (isinstance(default, float) and not math.isfinite(default))
    means_truth = bool in parts or not {int, float} & {part for part in parts if isinstance(part, type)}
    for place, leaf in _leaves(value):
        if isinstance(leaf, float) and not math.isfinite(leaf) and not means_infinity:
            yield place, f": should be a finite number (found {leaf})"
        elif isinstance(leaf, bool):
            if not means_truth:
                yield place, f": should be a number (found {str(leaf).lower()})"
        elif isinstance(leaf, int) and not -LARGEST <= leaf < LARGEST:
            yield place, f": should be an integer of 64 bits (found {leaf:.3e})"


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{place}.{index}")
    else:
        yield place, value


def _parts(annotation: Any) -> Iterator[Any]:
    """The types that an annotation is made of, and what annotates them."""
    yield annotation
    yield from getattr(annotation, "__metadata__", ())
    for part in typing.get_args(annotation):
        yield from _parts(part)
