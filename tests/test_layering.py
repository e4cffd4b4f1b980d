"""The arrows between the parts, read from the source."""

from __future__ import annotations

import ast
from pathlib import Path

import segkit

PACKAGE = Path(segkit.__file__).parent
PARTS = {"data", "models", "losses", "metrics", "optim", "predict", "tracking", "export", "sweep"}
FOUNDATION = {"errors", "contracts", "lazy_compiler", "quick_imports", "resizing", "trials", "config"}
JOINERS = {"objectives", "report", "record", "sweep_record", "trained", "experiment", "evaluation", "prediction"}
JOINERS |= {
    "autobatch",
    "computed_weights",
    "mean_and_std",
    "accepted_images",
    "data_check",
    "data_setup",
    "config_files",
    "split_making",
    "browsing",
    "multirun",
    "resuming",
}

ALLOWED = {
    "errors": set(),
    "contracts": {"errors"},
    "lazy_compiler": set(),
    "quick_imports": set(),
    "resizing": set(),
    "trials": set(),
    "config": {"errors", "quick_imports"},
    **{part: {"errors", "contracts", "quick_imports", "resizing"} for part in PARTS},
    # A sweep is composed before anything else is: it reads its own settings, sampler and pruner.
    "sweep": FOUNDATION,
    "engine": FOUNDATION,
    **{joiner: FOUNDATION | PARTS | JOINERS | {"engine"} for joiner in JOINERS},
    "cli": FOUNDATION | PARTS | JOINERS | {"engine"},
}


def imports(path: Path) -> set[str]:
    """The parts of segkit that a file imports, at its top or inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("segkit.")}
    return found


def test_imports_only_point_left():
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        wrong += [f"{path}: imports segkit.{name}" for name in imports(path) - ALLOWED[part] - {part}]
    assert not wrong, "\n".join(wrong)


def test_the_engine_never_names_a_part():
    """It is handed objects; the check above would also pass if a part were added to what it may import."""
    engine = set().union(*(imports(path) for path in (PACKAGE / "engine").rglob("*.py")))
    assert engine <= FOUNDATION | {"engine"}
    assert "contracts" in engine


def test_hydras_instantiate_is_called_in_one_place():
    users = [p for p in PACKAGE.rglob("*.py") if "hydra.utils" in p.read_text()]
    assert [p.relative_to(PACKAGE).as_posix() for p in users] == ["config/instantiate.py"]
