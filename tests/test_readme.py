"""What the README tells people to type is understood."""

from __future__ import annotations

import re
import shlex

import hydra
import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from segkit.config import instantiate
from segkit.config.recipe import Recipe
from segkit.config.schema import EvaluateScriptSettings, PredictScriptSettings, checked
from segkit.sweep.search_space import read_space
from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()


def commands(script: str) -> list[list[str]]:
    """The arguments of every command line of the README that runs `script`."""
    text = README.replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    found = [line.partition(f"{script}")[2] for line in lines if re.match(rf"(python|\S+ \S+ python) {script}", line)]
    return [shlex.split(re.sub(r"<[^>]*>", "somewhere", line), comments=True) for line in found]


@pytest.fixture(autouse=True)
def _resolvers() -> None:
    OmegaConf.register_new_resolver("pid", lambda: 0, replace=True)


def one_point(overrides: list[str]) -> list[str]:
    """The overrides with some value in the place of each that is swept over."""
    parser = OverridesParser.create()
    swept = [line for line in overrides if parser.parse_override(line).is_sweep_override()]
    if not swept:
        return overrides
    space = read_space(swept, {}, None, None)
    trial = optuna.create_study().ask(dict(space.distributions))
    return [line for line in overrides if line not in swept] + space.overrides(trial.params)


# Experiments that another command of the README writes first.
TRAINING = [line for line in commands("train.py") if not {"experiment=NAME", "experiment=best"} & set(line)]


@pytest.mark.parametrize("arguments", TRAINING, ids=" ".join)
def test_a_training_command_composes_and_every_key_binds(arguments: list[str]):
    assert set(arguments) & {"--help", "--cfg", "-m"} or not any(a.startswith("-") for a in arguments)
    overrides = [a for a in arguments if "=" in a]
    with hydra.initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        Recipe.of(hydra.compose("train", one_point(overrides)))


@pytest.mark.parametrize(
    ("script", "settings"), [("evaluate", EvaluateScriptSettings), ("predict", PredictScriptSettings)]
)
def test_the_other_scripts_are_called_right(script: str, settings: type):
    lines = commands(f"scripts/{script}.py")
    assert lines
    for overrides in lines:
        with hydra.initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
            checked(settings, instantiate.plain(hydra.compose(script, overrides)))


def test_the_two_first_commands_are_those_of_make_and_ci():
    train, test = ("python3 scripts/with_env.py python train.py", "python3 scripts/with_env.py pytest")
    assert train in README
    assert test in README
    assert test in (REPOSITORY / ".ci" / "run").read_text()
    makefile = (REPOSITORY / "Makefile").read_text()
    assert "RUN = python3 scripts/with_env.py" in makefile


def test_pictures_and_files_that_are_named_are_there():
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (REPOSITORY / path).exists(), path
