"""A loss or gradients that are NaN or infinite: the run stops, or the step leaves no trace."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segkit.contracts import LossTerms, Prediction
from segkit.engine.non_finite import NonFiniteLoss
from segkit.engine.trainer import Trainer
from segkit.run import checkpoint
from tests.conftest import records
from tests.engine.in_process import SMALL_HEAD, finish, trainer_of

STEPS = 8  # 16 images, batches of 4, two epochs
SAVES = ("trainer.max_epochs=2", "trainer.checkpoint.every_steps=1", "trainer.evaluate.every_epochs=2")


class _NanBackward(torch.autograd.Function):
    """The identity, with a gradient of NaN."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient * math.nan


class SickLoss(nn.Module):
    """A user's loss that is NaN or infinite at some training steps, or only its gradient is."""

    def __init__(self, loss: nn.Module, steps: set[int], what: str) -> None:
        super().__init__()
        self.loss, self.steps, self.what = loss, steps, what
        self.calls = 0

    def forward(self, prediction: Prediction, mask: Tensor) -> LossTerms:
        terms: LossTerms = self.loss(prediction, mask)
        self.calls += torch.is_grad_enabled()
        if torch.is_grad_enabled() and self.calls in self.steps:
            sick = {
                "nan": lambda loss: loss * math.nan,
                "inf": lambda loss: loss + math.inf,
                "gradient": _NanBackward.apply,
            }
            terms.total = sick[self.what](terms.total)
        return terms


@contextmanager
def run(folder: Path, *arguments: str, steps: set[int], what: str = "nan") -> Iterator[Trainer]:
    trainer = trainer_of(folder, *SMALL_HEAD, *SAVES, *arguments)
    trainer.learning.loss = SickLoss(trainer.learning.loss, steps, what)  # pyright: ignore
    trainer.evaluator.loss = None
    try:
        yield trainer
    finally:
        finish(trainer)


def test_stop_ends_the_run_at_the_step_and_names_its_samples(tmp_path: Path):
    with run(tmp_path, "trainer.log_sample_ids=true", steps={3}) as trainer:
        with pytest.raises(NonFiniteLoss, match="the loss is not finite at step 3") as failure:
            trainer.fit()
        lines = records(tmp_path, "train")
        assert [line["step"] for line in lines] == [1, 2, 3]
        assert lines[2]["loss"] is None
        assert all(sample in str(failure.value) for sample in lines[2]["sample_ids"])
        assert failure.value.exit_code == 1
        last = checkpoint.read(tmp_path / "checkpoints" / "last.pt")
        assert last["state"]["step"] == 2
        assert all(value.isfinite().all() for value in last["model"].values())


def test_gradients_that_are_not_finite_are_never_saved(tmp_path: Path):
    with run(tmp_path, steps={3}, what="gradient") as trainer:
        with pytest.raises(NonFiniteLoss, match="weights are not finite after step 3"):
            trainer.fit()
        assert checkpoint.read(tmp_path / "checkpoints" / "last.pt")["state"]["step"] == 2


@pytest.mark.parametrize("which", ["model", "average"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_weight_and_no_averaged_weight_that_is_not_finite_is_saved(tmp_path: Path, which: str, value: float):
    with run(tmp_path, "trainer.ema.decay=0.9", steps=set()) as trainer:
        learning = trainer.learning
        assert learning.ema is not None
        trainer.train_step(next(trainer.data.batches(0)))
        trainer.save()
        module = learning.model if which == "model" else learning.ema.model
        with torch.no_grad():
            next(module.parameters())[0, 0, 0, 0] = value
        with pytest.raises(NonFiniteLoss, match="weights are not finite after step 1; nothing was saved"):
            trainer.save()
        saved = checkpoint.read(tmp_path / "checkpoints" / "last.pt")
        values = (*saved["model"].values(), *saved["ema"]["model"].values())
        assert all(value.isfinite().all() for value in values)


def test_clipped_gradients_tell_at_their_own_step(tmp_path: Path):
    told = pytest.raises(NonFiniteLoss, match="the gradients are not finite at step 3")
    with run(tmp_path, "trainer.clip_norm=1.0", steps={3}, what="gradient") as trainer, told:
        trainer.fit()


@pytest.mark.parametrize("what", ["nan", "inf", "gradient"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_skipped_step_changes_nothing_that_is_learnt(tmp_path: Path, what: str, optimizer: str):
    arguments = ("trainer.non_finite.policy=skip", "trainer.ema.decay=0.9", f"optimizer={optimizer}")
    with run(tmp_path, *arguments, steps={3}, what=what) as trainer:
        batches = trainer.data.batches(0)

        def learnt() -> list[Any]:
            learning = trainer.learning
            assert learning.ema is not None
            states = (learning.model.state_dict(), learning.optimizer.state_dict()["state"], learning.ema.state_dict())
            return copy.deepcopy([*states])

        for _ in range(2):
            trainer.train_step(next(batches))
        before = learnt()
        trainer.train_step(next(batches))
        assert checkpoint.digest(learnt()) == checkpoint.digest(before)
        assert (trainer.state.step, trainer.state.steps_skipped) == (3, 1)
        trainer.train_step(next(batches))
        assert checkpoint.digest(learnt()) != checkpoint.digest(before)


def test_skipping_goes_on_to_the_end_and_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with run(tmp_path, "trainer.non_finite.policy=skip", steps={2, 5}) as trainer:
        trainer.fit()
        lines = records(tmp_path, "train")
        assert [line["steps_skipped"] for line in lines] == [0, 1, 1, 1, 2, 2, 2, 2]
        assert [line["loss"] is None for line in lines] == [line["step"] in (2, 5) for line in lines]
        assert checkpoint.read(tmp_path / "checkpoints" / "last.pt")["state"]["steps_skipped"] == 2
        assert "step 2 skipped" in caplog.text
        assert "step 5 skipped" in caplog.text


def test_skipping_has_a_limit(tmp_path: Path):
    limit = ("trainer.non_finite.policy=skip", "trainer.non_finite.limit=2")
    with run(tmp_path, *limit, steps={2, 4, 5, 7}) as trainer:
        with pytest.raises(NonFiniteLoss, match=r"more than trainer\.non_finite\.limit=2; the last was step 5"):
            trainer.fit()
        assert checkpoint.read(tmp_path / "checkpoints" / "last.pt")["state"]["step"] == 4


def test_one_bad_micro_batch_skips_the_whole_step(tmp_path: Path):
    arguments = ("trainer.non_finite.policy=skip", "trainer.accumulate=2")
    with run(tmp_path, *arguments, steps={3}) as trainer:  # the first half of the second step
        trainer.fit()
        assert [line["steps_skipped"] for line in records(tmp_path, "train")] == [0, 1, 1, 1]
