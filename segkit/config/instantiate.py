"""From config nodes to objects: the only call of Hydra's instantiate.

A node with a `_target_` has its constructor's signature as schema. Before anything is built, every key of
every node is held against that signature, and every plain value against its annotation, so that a
misspelt key is one clear message at the start and not a TypeError an hour later.

Parameters that every part may have, such as the number of classes, are supplied where a node leaves them out.
"""

from __future__ import annotations

import importlib
import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hydra.utils import instantiate as hydra_instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError
from pydantic_core import SchemaError

from segkit.config.credentials import hidden, revealed
from segkit.config.findings import ConfigError, describe, unknown_key
from segkit.config.odd_values import odd_values
from segkit.config.renamed import with_current_names

SPECIAL_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}
Node = Mapping[str, Any]


def plain(config: Any) -> Any:
    """A composed config as plain dicts and lists, every interpolation resolved, passwords and tokens masked.

    `build` puts these back. Classes have their current names. Raises ConfigError for gaps.
    """
    if isinstance(config, DictConfig | ListConfig):
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            raise ConfigError("\n".join(f"{key}: missing; give it a value, as in {key}=..." for key in missing))
        config = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        if strange := list(_not_plain(config)):
            raise ConfigError("\n".join(strange))
    return hidden(with_current_names(config))


def _not_plain(values: Any, key: str = "") -> Iterator[str]:
    """Findings about what YAML and OmegaConf know and a config may not hold: bytes, keys that are no text."""
    if isinstance(values, dict | list):
        for name, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from _not_plain(value, f"{key}.{name}" if key else str(name))
    elif values is not None and not isinstance(values, str | int | float | bool):
        yield f"{key}: should be text, a number, true, false, null, a list or keys with values (found {values!r})"


def locate(target: str, key: str) -> Callable[..., Any]:
    """The class or function that a dotted name means. Raises ConfigError naming `key` if there is none."""
    parts = target.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:length])
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
                continue
            raise ConfigError(f"{key}={target}: importing {module_name} failed: {error}") from error
        except (ValueError, TypeError):  # no name of a module: empty, relative, or with a zero byte
            continue
        for part in parts[length:]:
            found = getattr(found, part, None)
        if callable(found):
            return found
        break
    raise ConfigError(f"{key}={target}: no such class or function")


def nodes(config: Any, key: str) -> Iterator[tuple[str, Node]]:
    """Every node with a `_target_` in a plain config, outermost first, with its dotted key."""
    if isinstance(config, Mapping):
        if "_target_" in config:
            yield key, config
        for name, value in config.items():
            yield from nodes(value, f"{key}.{name}")
    elif isinstance(config, Sequence) and not isinstance(config, str):
        for index, value in enumerate(config):
            yield from nodes(value, f"{key}.{index}")


def _holds_node(value: Any) -> bool:
    return next(nodes(value, ""), None) is not None


def _annotations(target: Callable[..., Any]) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}


def _fits(value: Any, annotation: Any) -> str | None:
    """What is wrong with `value` for `annotation`, or None. Annotations that pydantic cannot read allow all."""
    try:
        adapter = TypeAdapter(annotation, config=None if _is_model(annotation) else _LENIENT)
        adapter.validate_python(value)
    except ValidationError as error:
        return describe(error)
    except (PydanticSchemaGenerationError, SchemaError, TypeError, NameError, AttributeError):
        if inspect.isclass(annotation) and value is not None:  # one that pydantic cannot read, such as a protocol
            return f": should be an object, which keys with a _target_ describe (found {value!r})"
    return None


def _is_model(annotation: Any) -> bool:
    return inspect.isclass(annotation) and issubclass(annotation, BaseModel)


_LENIENT = ConfigDict(arbitrary_types_allowed=True)


def check_node(node: Node, key: str, supplied: Sequence[str] = ()) -> list[str]:
    """Findings about one node: unknown keys, missing ones, and values of the wrong type.

    `supplied` are the parameters that it is given later.
    """
    target = locate(str(node["_target_"]), f"{key}._target_")
    parameters = parameters_of(target)
    if parameters is None:
        return []
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    named = {n for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    annotations = _annotations(target)
    findings: list[str] = []
    for name, value in node.items():
        if name in SPECIAL_KEYS:
            continue
        if name not in named and not takes_any:
            findings.append(unknown_key(f"{key}.{name}", named - set(supplied)))
        elif not _holds_node(value):
            default = parameters[name].default if name in parameters else None
            odd = [f"{place}{text}" for place, text in odd_values(value, annotations.get(name, Any), default)]
            wrong = _fits(value, annotations[name]) if name in annotations and not odd else None
            findings += [f"{key}.{name}{line}" for line in (odd or _prefixed(wrong or ""))]
    if not node.get("_partial_") and "_args_" not in node:
        for name, parameter in parameters.items():
            needed = parameter.default is parameter.empty and name in named
            if needed and name not in node and name not in supplied:
                findings.append(f"{key}.{name}: missing; give it a value")
    return findings


def parameters_of(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    """The parameters of a class or function; None for a builtin without a signature."""
    try:
        return inspect.signature(target).parameters
    except ValueError:
        return None


def with_supplied(config: Any, key: str, supplied: Mapping[str, Any]) -> Any:
    """A copy of a config in which its nodes have the `supplied` values for parameters of these names.

    A value that the config gives stays. A `_partial_` node below another is left to whoever calls it.
    """
    if isinstance(config, Mapping):
        filled = {name: with_supplied(value, f"{key}.{name}", supplied) for name, value in config.items()}
        if "_target_" in config and not config.get("_partial_"):
            parameters = parameters_of(locate(str(config["_target_"]), f"{key}._target_")) or {}
            filled |= {name: value for name, value in supplied.items() if name in parameters and name not in filled}
        return filled
    if isinstance(config, list):
        return [with_supplied(value, f"{key}[{index}]", supplied) for index, value in enumerate(config)]
    return config


def _prefixed(text: str) -> list[str]:
    """Lines of `describe` without a prefix, each beginning with ': ' or '.inner.key: '."""
    return [line if line.startswith(":") else f".{line}" for line in text.splitlines()]


def check(config: Any, key: str, supplied: Sequence[str] = (), *, everywhere: Sequence[str] = ()) -> None:
    """Hold every node of a plain config against its constructor. Raises ConfigError with all findings.

    `supplied` are what the outermost node is given later, `everywhere` what any of them is.
    """
    findings: list[str] = []
    for node_key, node in nodes(config, key):
        findings += check_node(node, node_key, (*(supplied if node_key == key else ()), *everywhere))
    if findings:
        raise ConfigError("\n".join(findings))


def build(config: Any, key: str, *, supplied: Sequence[str] = ()) -> Any:
    """The object that a plain config node describes, after `check`.

    A `_partial_` node gives a `functools.partial` that takes the `supplied` parameters. A constructor's own
    ValueError comes out as it is: it speaks to the user already.
    """
    config = revealed(config, key)
    check(config, key, supplied)
    return _construct(config, key)


REFUSALS = (ValueError, TypeError, RuntimeError, AssertionError, ArithmeticError, LookupError, AttributeError)
"""How constructors that do not check their arguments fail with them."""


def _construct(config: Any, key: str) -> Any:
    from hydra.errors import InstantiationException

    from segkit.errors import RunFailure, UserError

    try:
        return hydra_instantiate(config, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        if isinstance(cause, REFUSALS) and not isinstance(cause, RunFailure):
            raise ConfigError(f"{key}: cannot be built with these values. {_told(error, key)}") from cause
        raise (cause or error) from None


def _told(error: Exception, key: str) -> str:
    """Hydra's report of a constructor that failed, with the key as it stands in the whole config."""
    return re.sub(r"\nfull_key: (.*)", rf"\nkey: {key}.\1", str(error).strip())
