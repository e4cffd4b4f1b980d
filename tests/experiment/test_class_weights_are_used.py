"""Class weights change the loss, or are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from segkit.errors import UserError
from tests.harness.options import CONF, Option, options

WEIGHTED = [name for name in options("loss") if "class_weights:" in (CONF / "loss" / f"{name}.yaml").read_text()]
WEIGHTS = "[1.0, 2.0, 0.5, 3.0, 1.0, 0.1, 4.0]"

IGNORING = """
from segkit.losses.cross_entropy import CrossEntropyLoss

class Ignoring(CrossEntropyLoss):
    def __post_init__(self):
        self.class_weights = None
        super().__post_init__()
"""


@pytest.mark.parametrize("name", WEIGHTED)
def test_every_loss_that_has_them_is_accepted(name: str, tmp_path: Path) -> None:
    made = Option("loss", name, tmp_path).experiment(f"loss.class_weights={WEIGHTS}")
    assert made.recipe.class_weight_keys == ["loss.class_weights"]
    made.components(steps_per_epoch=4)


def test_a_loss_of_ones_own_that_ignores_them_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ignoring_loss.py").write_text(IGNORING)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "conf" / "loss").mkdir(parents=True)
    (tmp_path / "conf" / "loss" / "mine.yaml").write_text("_target_: ignoring_loss.Ignoring\nclass_weights: null\n")
    option = Option("loss", "mine", tmp_path / "out", own=(tmp_path / "conf",))
    option.experiment().components(steps_per_epoch=4)
    with pytest.raises(UserError, match=r"^loss\.class_weights: ignoring_loss\.Ignoring gives the same with any"):
        option.experiment(f"loss.class_weights={WEIGHTS}").components(steps_per_epoch=4)
