"""No key is there for nobody: code of the package reads every parameter that a config may give, and every setting."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import segkit
from segkit.config import instantiate, schema
from segkit.config.schema import Settings
from segkit.sweep import settings as sweep_settings
from tests.harness.options import CONF

PACKAGE = Path(segkit.__file__).parent
TEXTS = "\n".join(file.read_text() for file in sorted(CONF.rglob("*.yaml")))
TARGETS = sorted(set(re.findall(r"_target_: (segkit\.[\w.]+)", TEXTS)))
SETTINGS = [
    found
    for module in (schema, sweep_settings)
    for found in vars(module).values()
    if inspect.isclass(found) and issubclass(found, Settings) and found is not Settings
]

NOT_READ = {
    "NullTracker.run_folder": "every tracker is built alike",
}
"""Parameters that are taken and not read, and why."""


@cache
def attributes_read() -> set[str]:
    """Names that are read as attributes anywhere in the package, or stand as text in calls, tuples and brackets."""
    found: set[str] = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add(node.attr)
            elif isinstance(node, ast.Tuple | ast.Subscript | ast.Call):
                texts = [part.value for part in ast.iter_child_nodes(node) if isinstance(part, ast.Constant)]
                found |= {text for text in texts if isinstance(text, str) and text.isidentifier()}
    return found


def names_read(function: Callable[..., Any]) -> set[str]:
    """Names that a function, or the constructors of a class, read."""
    parts = [function]
    if inspect.isclass(function):
        parts = [part for part in function.__mro__ if part.__module__.startswith("segkit.")]
    trees = [ast.parse(inspect.getsource(inspect.getmodule(part))) for part in parts]  # pyright: ignore
    names = {part.__name__ for part in parts}
    bodies = [node for tree in trees for node in tree.body if getattr(node, "name", None) in names]
    nodes = [node for body in bodies for node in ast.walk(body)]
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


@pytest.mark.parametrize("target", TARGETS)
def test_every_parameter_is_read(target: str) -> None:
    found = instantiate.locate(target, "")
    read = names_read(found) | attributes_read() | set(re.findall(r"\$\{\w+\.(\w+)\}", TEXTS))
    unread = [name for name in instantiate.parameters_of(found) or {} if name not in read]
    assert [name for name in unread if f"{found.__name__}.{name}" not in NOT_READ] == []


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.__name__)
def test_every_setting_is_read(settings: type[Settings]) -> None:
    assert set(settings.model_fields) - attributes_read() == set()
