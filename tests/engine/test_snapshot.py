"""Checkpoints that are whole files, but whose content is not that of a run of this config."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from segkit.engine import snapshot
from segkit.engine.trainer import Trainer
from segkit.errors import UserError
from segkit.run import checkpoint
from tests.engine.in_process import SMALL_HEAD, finish, trainer_of

PARTS = ("state", "position", "model", "ema", "optimizer", "schedule", "strategy", "random")
WRONG: dict[str, Any] = {
    "a number": 3,
    "a text": "text",
    "nothing": None,
    "an empty list": [],
    "an empty table": {},
    "other names": {"step": {"step": [1, "x"]}, "cpu": 3},
    "a tensor": torch.ones(3),
}
# What a run without an average, without a gradient scaler, or from a longer or an earlier training may have there.
ALLOWED = {
    *(("ema", "nothing"), ("state", "an empty table")),
    *(("position", what) for what in ("an empty table", "an empty list", "other names")),
    *(("strategy", what) for what in WRONG if what != "a tensor"),
}


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    trainer = trainer_of(tmp_path_factory.mktemp("run"), *SMALL_HEAD, "trainer.ema.decay=0.9")
    trainer.train_step(next(trainer.data.batches(0)))
    yield trainer
    finish(trainer)


@pytest.fixture(scope="module")
def taken(trainer: Trainer) -> checkpoint.Content:
    return copy.deepcopy(snapshot.taken(trainer))


def test_what_was_taken_is_what_is_put_back(trainer: Trainer, taken: checkpoint.Content):
    trainer.train_step(next(trainer.data.batches(0)))
    assert checkpoint.digest(snapshot.taken(trainer)) != checkpoint.digest(taken)
    snapshot.restore(trainer, copy.deepcopy(taken))
    assert checkpoint.digest(snapshot.taken(trainer)) == checkpoint.digest(taken)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_missing_is_a_message(trainer: Trainer, taken: checkpoint.Content, part: str):
    with pytest.raises(UserError, match="resume: the checkpoint is of another model or optimizer"):
        snapshot.restore(trainer, {name: value for name, value in taken.items() if name != part})


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_something_else_is_a_message(trainer: Trainer, taken: checkpoint.Content, part: str, what: str):
    content = {**copy.deepcopy(taken), part: WRONG[what]}
    if (part, what) in ALLOWED:
        snapshot.restore(trainer, content)
        return
    with pytest.raises(UserError, match="resume: the checkpoint is of another model or optimizer"):
        snapshot.restore(trainer, content)


@pytest.mark.parametrize("state", [{"step": "4"}, {"step": [4]}, {"__class__": 1}, {"note_score": 1}])
def test_a_state_of_other_names_or_values_is_a_message(
    trainer: Trainer, taken: checkpoint.Content, state: dict[str, Any]
):
    with pytest.raises(UserError, match=r"state\.\w+=.* is no part of a run's state"):
        snapshot.restore(trainer, {**copy.deepcopy(taken), "state": state})
