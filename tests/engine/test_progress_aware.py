"""What depends on the progress of a run, or on its scores: told by the trainer, and the same after a resume."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from segkit.contracts import Batch, ProgressAware, TrainingData
from segkit.engine.trainer import Trainer
from segkit.errors import Interrupted
from tests.conftest import losses, records
from tests.engine.in_process import finish, trainer_of

# Masks drawn at random and annealed, points drawn at random, and a rate that falls after every evaluation but the
# first, as no score gains 1.0: twelve steps, evaluated after every second.
STATEFUL = (
    "model=eomt backbone.name=test_vit model.num_queries=8 loss=set_prediction loss.num_points=200 "
    "optimizer=adamw optimizer.layer_decay=0.8 scheduler=plateau scheduler.scheduler.patience=0 "
    "scheduler.scheduler.threshold=1.0 scheduler.scheduler.factor=0.5 scheduler.warmup_steps=2 "
    "trainer.max_epochs=3 trainer.evaluate.every_steps=2"
).split()
class StopsBefore:
    """Training data that sends the signal of a scheduler ahead of one of the steps."""

    def __init__(self, data: TrainingData, step: int) -> None:
        self.data = data
        self.step = step

    def __getattr__(self, name: str) -> Any:
        return getattr(self.data, name)

    def batches(self, start_step: int) -> Iterator[list[Batch]]:
        for number, batches in enumerate(self.data.batches(start_step), start_step):
            if number == self.step:
                signal.raise_signal(signal.SIGTERM)
            yield batches


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in trainer.learning.model.state_dict().values()])


def test_masks_points_and_a_plateau_go_on_bit_for_bit(tmp_path: Path):
    unbroken = trainer_of(tmp_path / "unbroken", *STATEFUL)
    unbroken.fit()
    finish(unbroken)
    rates = {record["step"]: record["lr"] for record in records(tmp_path / "unbroken", "train")}
    # The evaluation after step 2 is the first whose score counts; the one after step 4 is no better.
    expected = [1 / 3, 2 / 3, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.0625, 0.0625]
    assert list(rates.values()) == pytest.approx([1e-4 * factor for factor in expected])

    # The signal comes during the fourth step: stopped after it, and before its evaluation.
    folder = tmp_path / "stopped"
    stopped = trainer_of(folder, *STATEFUL)
    stopped.data = StopsBefore(stopped.data, 3)
    with pytest.raises(Interrupted):
        stopped.fit()
    finish(stopped)
    resumed = trainer_of(folder, *STATEFUL, f"resume={folder}")
    assert resumed.state.step == 4
    assert resumed.state.evaluated_step == 2
    resumed.fit()
    finish(resumed)
    assert losses(folder) == losses(tmp_path / "unbroken")
    assert {record["step"]: record["lr"] for record in records(folder, "train")} == rates
    assert torch.equal(weights(resumed), weights(unbroken))


class Told(nn.Module):
    """Notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[float] = []

    def set_progress(self, done: float) -> None:
        self.done.append(done)


def test_modules_of_model_and_loss_are_told_the_share_of_the_steps_done_before_each(tmp_path: Path):
    told = [Told(), Told()]
    assert all(isinstance(module, ProgressAware) for module in told)
    trainer = trainer_of(tmp_path / "run", "model=fcn", "backbone.name=test_resnet", "trainer.max_steps=4")
    learning = trainer.learning
    learning.model.told, learning.loss.told = told
    again = Trainer(
        learning,
        trainer.data,
        trainer.evaluator,
        trainer.recording,
        strategy=trainer.strategy,
        settings=trainer.settings,
    )
    again.fit()
    finish(again)
    assert [module.done for module in told] == [[0.0, 0.25, 0.5, 0.75]] * 2
