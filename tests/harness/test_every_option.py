"""Every option of every group, found by glob, is built and run.

This is what makes it safe to have no registry: a YAML that names a class that moved, a key that the constructor does
not take, a head whose forward raises, and a data set whose read raises fail here.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from segkit.experiment.resume_rules import changes, leaves, rule_of
from segkit.run import checkpoint
from segkit.run.stored_config import stored_config
from tests.harness.checks import check
from tests.harness.options import Option, every


@pytest.mark.parametrize(("group", "name"), every())
def test_it_runs_and_its_config_comes_back_from_a_checkpoint(group: str, name: str, tmp_path: Path) -> None:
    option = Option(group, name, tmp_path)
    check(option)
    values = option.recipe.to_dict()
    checkpoint.write_flushed({"config": values}, tmp_path / "last.pt")
    # As text, True is not 1 and a key 255 is not "255".
    assert repr(stored_config(checkpoint.read(tmp_path / "last.pt"))) == repr(values)
    assert [key for key, _ in leaves(values) if rule_of(key) is None] == []
    assert changes(values, values) == []
