"""Every command as its help, the README and `python -m` tell people to start it."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

import segkit.cli
from segkit.cli import browse, evaluate
from segkit.cli.arguments import arranged
from segkit.cli.init_dataset import with_folder_key
from segkit.config import instantiate
from segkit.config.overrides import quoted
from segkit.config.recipe import Recipe
from segkit.config.schema import (
    BrowseSettings,
    CheckDataSettings,
    EvaluateScriptSettings,
    InitDatasetSettings,
    MakeSplitsSettings,
    PredictScriptSettings,
    RootSettings,
    Settings,
    checked,
)
from tests.conftest import REPOSITORY, Ended

# What each command cannot do without.
COMMANDS: dict[str, tuple[type[Settings], list[str]]] = {
    "train": (RootSettings, []),
    "evaluate": (EvaluateScriptSettings, ["run=a"]),
    "predict": (PredictScriptSettings, ["run=a", "input=b", "output=c"]),
    "check_data": (CheckDataSettings, ["dataset=shapes"]),
    "make_splits": (MakeSplitsSettings, ["dataset=shapes", "output=c"]),
    "browse": (BrowseSettings, []),
    "init_dataset": (InitDatasetSettings, ["folder=a"]),
}
# What stands in usage lines for something of the user's own.
SAMPLES = {"NAME": "folder", "FOLDER": "images", "DIR": "data", "RUN": "run", "FILE_OR_FOLDER": "images", "K": "4"}


@pytest.fixture(autouse=True)
def _resolvers() -> None:
    OmegaConf.register_new_resolver("pid", lambda: 0, replace=True)


def compose(root: str, overrides: list[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        return hydra.compose(root, overrides)


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    is_list = isinstance(node, list) and any(isinstance(entry, dict) for entry in node)
    if node and (is_list or isinstance(node, dict)):
        for name, value in enumerate(node) if is_list else node.items():
            yield from leaves(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, node


def typed(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(typed, value))}]"
    return quoted(value) if isinstance(value, str) else json.dumps(value)


@pytest.mark.parametrize("root", COMMANDS)
def test_every_key_that_help_lists_is_taken(root: str):
    settings, needed = COMMANDS[root]
    shown = OmegaConf.to_container(compose(root, needed))
    # The choices of a group are options, and the rest are keys, one override each.
    splits = [f"split={name}" for name in ("train", "val", "test")] if isinstance(shown.get("split"), str) else []  # pyright: ignore
    overrides = [f"{key}={typed(value)}" for key, value in leaves(shown) if not (splits and key == "split")]
    given = compose(root, [*[line for line in needed if line.startswith("dataset=")], *overrides])
    assert OmegaConf.to_container(given) == shown
    for split in splits or [""]:
        values = instantiate.plain(compose(root, [*needed, *filter(None, [split])]))
        checked(settings, values)
        if split:
            assert values["split"] == split.partition("=")[2]


def usage(root: str) -> list[str]:
    """The arguments of a command's usage line, those in brackets included."""
    header = OmegaConf.load(REPOSITORY / "conf" / f"{root}.yaml").hydra.help.header
    (line,) = re.findall(
        rf"usage: python scripts/{root}\.py (.+)", header.replace("transform=NAME", "transform=strong")
    )
    return [re.sub(r"[A-Z_]+$", lambda word: SAMPLES[word.group()], word) for word in re.sub(r"[][]", "", line).split()]


@pytest.mark.parametrize("root", [root for root in COMMANDS if root != "train"])
def test_the_usage_line_of_a_command_is_understood(root: str):
    settings, _ = COMMANDS[root]
    overrides = arranged(with_folder_key(usage(root)) if root == "init_dataset" else usage(root))
    needed = ["dataset.num_classes=4", "dataset.root=data"] if "dataset=folder" in overrides else []
    checked(settings, instantiate.plain(compose(root, [*overrides, *needed])))


def of_readme(root: str) -> list[list[str]]:
    text = (REPOSITORY / "README.md").read_text().replace("\\\n", " ")
    lines = [line.partition(f"scripts/{root}.py ")[2] for line in text.splitlines() if re.match(r" +python ", line)]
    return [shlex.split(re.sub(r"<[^>]*>", "somewhere", line), comments=True) for line in lines if line]


@pytest.mark.parametrize("root", [root for root in COMMANDS if root != "train"])
def test_what_the_readme_says_of_a_command_is_understood(root: str):
    lines = of_readme(root)
    assert lines
    for line in lines:
        overrides = arranged(with_folder_key(line) if root == "init_dataset" else line)
        values = instantiate.plain(compose(root, overrides))
        checked(COMMANDS[root][0], values)


MODULES = sorted(
    path.stem for path in Path(segkit.cli.__file__).parent.glob("*.py") if "def main(" in path.read_text("utf-8")
)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("module", MODULES)
def test_python_m_runs_a_command(module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", [f"{module}.py", "--help"])
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"segkit.cli.{module}", run_name="__main__")
    assert ended.value.code in (0, None)
    assert "usage: " in capsys.readouterr().out


# Numbers that are no numbers; each key that holds a number names itself.
@pytest.mark.parametrize("wrong", [float("inf"), float("nan"), 10**30, "many", [1, "x"], {"a": 1}])
def test_every_key_that_holds_a_number_refuses_what_is_none(wrong: Any):
    values: dict[str, Any] = instantiate.plain(compose("train", []))
    keys = [key for key, value in leaves(values) if isinstance(value, int | float) and not isinstance(value, bool)]
    assert len(keys) > 40
    silent: list[str] = []
    for key in keys:
        *parents, name = key.split(".")
        node: Any = values
        for part in parents:
            node = node[int(part) if isinstance(node, list) else part]
        right, node[name] = node[name], wrong
        try:
            Recipe.of(values)
        except instantiate.ConfigError as error:
            if not str(error).startswith(key):
                silent.append(f"{key}: {error}")
        else:
            silent.append(key)
        finally:
            node[name] = right
    allowed = {"loss.auxiliary_weight"} if wrong == {"a": 1} else set()  # one weight a head
    assert set(silent) == allowed


def test_a_run_is_evaluated_on_another_split(call: Callable[..., Ended], finished: Path, tmp_path: Path):
    done = call(evaluate.main, f"run={finished}", "split=test", "output=scores")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "scores" / "scores.json").read_text())["split"] == "test"


def test_samples_of_another_split_are_drawn(call: Callable[..., Ended], tmp_path: Path):
    done = call(browse.main, "split=val", "samples=1", "variants=1", "output=a sheet.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a sheet.png").exists()
