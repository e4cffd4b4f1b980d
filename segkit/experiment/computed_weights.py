"""Class weights named by a method, as in `loss.class_weights=median`, replaced by numbers counted on the data."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast, get_args

from segkit.contracts import ClassWeightMethod, DataError, SampleSource, UserError
from segkit.data.statistics.class_weights import class_weights
from segkit.data.statistics.counts import Counted, count

log = logging.getLogger(__name__)

KEY = "class_weights"
METHODS: tuple[str, ...] = get_args(ClassWeightMethod)
Node = dict[str, Any]


def fill_in(values: Node, source: SampleSource) -> None:
    """Put numbers in the place of every method below `values["loss"]`; methods go to `values["computed"]`.

    What is counted is `source`, the training split, so that a fold weighs by its own samples. Raises DataError
    for samples that cannot be read.
    """
    asked = {f"loss.{key}": node for key, node in _nodes(values["loss"]) if _method(node, f"loss.{key}") is not None}
    if not asked:
        return
    cache = values["dataset"].get("cache_dir") or str(Path(values["paths"]["output_dir"]) / "cache")
    counted = count(source, Path(cache))
    if counted.problems and source.on_error == "raise":
        raise DataError("\n".join(counted.problems.values()))
    for key, node in asked.items():
        method = cast(ClassWeightMethod, node[KEY])
        node[KEY] = weights_by(method, counted)
        values.setdefault("computed", {})[key] = method
        pairs = zip(source.labels.names, node[KEY], strict=True)
        log.info("%s=%s: %s", key, method, ", ".join(f"{name} {weight:.3f}" for name, weight in pairs))


def weights_by(method: ClassWeightMethod, counted: Counted) -> list[float]:
    """Six digits of each weight: enough for training, and short where a person reads them."""
    return [float(f"{weight:.6g}") for weight in class_weights(counted.pixels, method)]


def check(loss: Node) -> None:
    """Raise UserError for a word that is no method."""
    for key, node in _nodes(loss):
        _method(node, f"loss.{key}")


def left_out(node: Any) -> Any:
    """A copy of a config node in which null stands for methods, as constructors know only numbers."""
    if isinstance(node, Mapping):
        return {
            key: None if key == KEY and isinstance(value, str) and value in METHODS else left_out(value)
            for key, value in node.items()
        }
    return [left_out(value) for value in node] if isinstance(node, list) else node


def _nodes(node: Any, prefix: str = "") -> Iterator[tuple[str, Node]]:
    """Every mapping that has class weights, with the dotted key of these."""
    if isinstance(node, dict):
        if KEY in node:
            yield f"{prefix}{KEY}", node
        for name, value in node.items():
            yield from _nodes(value, f"{prefix}{name}.")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _nodes(value, f"{prefix}{index}.")


def _method(node: Node, key: str) -> str | None:
    value = node[KEY]
    if not isinstance(value, str):
        return None
    if value not in METHODS:
        raise UserError(f"{key}={value}; allowed: a list of numbers, one a class, null, or {', '.join(METHODS)}")
    return value
