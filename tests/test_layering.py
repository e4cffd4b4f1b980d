"""The arrows between the rooms of the package, read from the source: all of them point the same way."""

from __future__ import annotations

import ast
from pathlib import Path

import segkit

PACKAGE = Path(segkit.__file__).parent

ORDER = (
    "errors logits contracts config run data models losses metrics tasks optim predictors "
    "engine tracking reporting sweep experiment commands cli"
).split()
"""Every room may import those before it. A file needs no entry here: its folder has one."""

PARTS = {"data", "models", "losses", "metrics", "tasks", "optim", "predictors"}
"""What a config composes; the engine is handed objects of them and imports none."""


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The modules of segkit that a file imports, at its top or inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name for name in names if name.startswith("segkit.")}
    return found


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE or path.name != "__init__.py"]


def test_every_room_imports_only_rooms_before_it():
    places = {name: place for place, name in enumerate(ORDER)}
    assert set(map(room, FILES)) == set(ORDER)
    wrong = [
        f"{path.relative_to(PACKAGE)}: imports {name}"
        for path in FILES
        for name in imports(path)
        if places[name.split(".")[1]] > places[room(path)]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_each_other_in_a_circle():
    modules = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in FILES}
    arrows = {
        module: {known for name in imports(path) for known in (name, name.rpartition(".")[0]) if known in modules}
        for module, path in modules.items()
    }
    left = set(arrows)
    while ready := {module for module in left if not arrows[module] & left - {module}}:
        left -= ready
    assert not left, f"circles among {', '.join(sorted(left))}"


def test_parts_that_a_config_composes_do_not_know_each_other():
    """Losses import no models, models no data, and the engine none of them."""
    allowed = {"tasks": {"metrics"}}
    wrong = [
        f"{path.relative_to(PACKAGE)}: imports {name}"
        for path in FILES
        for name in imports(path)
        if room(path) in PARTS | {"engine"}
        and name.split(".")[1] in PARTS - {room(path)} - allowed.get(room(path), set())
    ]
    assert not wrong, "\n".join(wrong)


def test_few_modules_lie_flat_and_no_two_have_one_name():
    assert len([path for path in FILES if path.parent == PACKAGE]) <= 6
    names = [path.name for path in FILES if path.name != "__init__.py"]
    assert sorted(set(names)) == sorted(names), sorted({name for name in names if names.count(name) > 1})


def test_hydras_instantiate_is_called_in_one_place():
    users = [p for p in PACKAGE.rglob("*.py") if "hydra.utils" in p.read_text()]
    assert [p.relative_to(PACKAGE).as_posix() for p in users] == ["config/instantiate.py"]
