"""The harness finds options that are one .py and one .yaml, runs good ones, and fails on broken ones."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, records, run, summary
from tests.harness.checks import CHECKS, check
from tests.harness.options import CONF, Option, every
from tests.toys.toy_dataset import write_example

TOYS = REPOSITORY / "tests" / "toys" / "conf"


@pytest.mark.parametrize(("group", "name"), every(TOYS))
def test_a_toy_runs(group: str, name: str, tmp_path: Path) -> None:
    check(Option(group, name, tmp_path, own=(TOYS,)))


def test_there_is_a_toy_of_each_kind_in_one_module_and_one_config_each() -> None:
    groups = ["dataset", "loss", "model/head", "predictor", "tracker", "trainer"]
    assert [group for group, _ in every(TOYS)] == groups
    assert len(list(TOYS.parent.glob("*.py"))) == len(groups)


def test_a_run_is_made_of_toys_alone(tmp_path: Path) -> None:
    write_example(tmp_path / "data")
    folder = tmp_path / "run"
    toys = [f"{group}={name}" for group, name in every(TOYS)]
    small = "backbone=timm backbone.name=test_resnet trainer.max_steps=2 trainer.num_threads=1".split()
    places = [f"dataset.root={tmp_path / 'data'}", f"hydra.run.dir={folder}"]
    done = run("--config-dir", str(TOYS), *toys, *small, *places, cwd=tmp_path, PYTHONPATH=str(REPOSITORY))
    assert done.returncode == 0, done.stderr
    assert any("squared" in key for key in records(folder, "train")[0])
    assert summary(folder)["status"] == "completed"
    assert (folder / "diary.txt").read_text().splitlines()[-1] == "completed"


BROKEN = {
    "loss": """
        from torch import nn
        class Broken(nn.Module):
            def forward(self, prediction, batch):
                raise ValueError("broken on purpose")
        """,
    "model/head": """
        from torch import nn
        class Broken(nn.Conv2d):
            def __init__(self, features, num_classes):
                super().__init__(features[-1].channels, num_classes, 1)
            def forward(self, maps):
                raise ValueError("broken on purpose")
        """,
    "dataset": """
        from segkit.data.datasets.shapes import Shapes
        class Broken(Shapes):
            def read(self, index):
                raise ValueError("broken on purpose")
        """,
    "tracker": """
        from segkit.tracking.null import NullTracker
        class Broken(NullTracker):
            def finish(self, status):
                raise ValueError("broken on purpose")
        """,
    "predictor": """
        class Broken:
            def __init__(self, model):
                pass
            def __call__(self, images):
                raise ValueError("broken on purpose")
        """,
    "trainer": """
        from segkit.engine.strategy.single_device import SingleDevice
        class Broken(SingleDevice):
            def step(self, optimizer, clip_norm):
                raise ValueError("broken on purpose")
        """,
    "optimizer": """
        class Broken:
            def __init__(self, model):
                raise ValueError("broken on purpose")
        """,
    "transform": """
        class Broken:
            def __call__(self, sample, seed):
                raise ValueError("broken on purpose")
        """,
}
BASES = {"dataset": "shapes", "trainer": "standard"}


@pytest.mark.parametrize("group", BROKEN)
def test_a_broken_one_fails(group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = f"broken_{group.replace('/', '_')}"
    (tmp_path / f"{module}.py").write_text(textwrap.dedent(BROKEN[group]))
    monkeypatch.syspath_prepend(tmp_path)
    target = f"_target_: {module}.Broken"
    lines = [f"defaults: [{BASES[group]}, _self_]"] if group in BASES else []
    lines += [f"strategy: {{{target}}}"] if group == "trainer" else [target]
    lines += ["_partial_: true"] * (group in ("model/head", "tracker", "predictor", "optimizer"))
    conf = tmp_path / "conf"
    (conf / group).mkdir(parents=True)
    (conf / group / "broken.yaml").write_text("\n".join(lines) + "\n")
    assert every(conf) == [(group, "broken")]
    with pytest.raises(Exception, match="broken on purpose"):
        check(Option(group, "broken", tmp_path / "run", own=(conf,)))


def test_a_data_set_of_files_without_an_example_fails_and_says_what_to_add(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "mine.yaml").write_text("defaults: [folder, _self_]\nnum_classes: 2\n")
    with pytest.raises(AssertionError, match=r"add write_example\(root: Path\) to segkit\.data\.datasets\.folder"):
        check(Option("dataset", "mine", tmp_path / "run", own=(tmp_path,)))


def test_a_group_that_nothing_runs_fails(tmp_path: Path) -> None:
    (tmp_path / "callback").mkdir()
    (tmp_path / "callback" / "mine.yaml").write_text("# @package _global_\nname: mine\n")
    with pytest.raises(AssertionError, match="add a function for the group"):
        check(Option("callback", "mine", tmp_path / "run", own=(tmp_path,)))


def test_no_check_is_of_a_group_that_has_gone() -> None:
    assert set(CHECKS) == {group for group, _ in every()}


def test_no_two_options_of_a_group_are_the_same_file() -> None:
    for group in CHECKS:
        texts = [file.read_text() for file in (CONF / group).glob("*.yaml")]
        assert len(set(texts)) == len(texts), group
