"""All that a run is at one step, as the content of a checkpoint, and a trainer put back to it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

from torch.optim import Optimizer

from segkit.config.schema import TrainerSettings
from segkit.contracts import Strategy, TrainingData
from segkit.engine.components import Learning
from segkit.engine.outputs import Recording
from segkit.engine.state import TrainState, random_state, set_random_state
from segkit.errors import UserError
from segkit.run.checkpoint import Content

SCHEDULED = ("lr", "initial_lr", "momentum", "betas")
"""What schedules change in an optimizer; one that starts anew does so from the numbers of the config."""


class Running(Protocol):
    """What a trainer has that makes up its state."""

    learning: Learning
    data: TrainingData
    recording: Recording
    strategy: Strategy
    settings: TrainerSettings
    state: TrainState
    total_steps: int


def taken(trainer: Running) -> Content:
    """What a checkpoint holds: the state, the components' state dicts, and the identity of the run."""
    learning = trainer.learning
    model, optimizer = trainer.strategy.full_state(learning.model, learning.optimizer)
    return {
        **trainer.recording.identity,
        "run_id": trainer.recording.tracker.run_id,
        "state": trainer.state.to_dict(),
        "position": _position(trainer),
        "model": model,
        "ema": None if learning.ema is None else learning.ema.state_dict(),
        "optimizer": optimizer,
        "schedule": learning.schedule.state_dict(),
        "strategy": trainer.strategy.state_dict(),
        "random": random_state(),
    }


def _position(trainer: Running) -> dict[str, int]:
    """What the meaning of a step depends on."""
    return {
        "trainer.batch_size": trainer.settings.batch_size,
        "trainer.accumulate": trainer.settings.accumulate,
        "steps_per_epoch": trainer.data.steps_per_epoch,
        "total_steps": trainer.total_steps,
    }


def restore(trainer: Running, content: Content, changed: Collection[str] = ()) -> None:
    """Put `trainer` where a checkpoint's content was taken.

    `changed` names the hyperparameters of optimizer and schedule, such as `lr` or `weight_decay`, that are not those
    of the content: they stay as `trainer` was built with them, and the learning rate is what they give at this step.
    Raises UserError when the checkpoint is of another model or optimizer.
    """
    try:
        _load(trainer, content, changed)
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"resume: the checkpoint is of another model or optimizer than this config: {error}") from None
    # A longer patience, or none, lets a run go on that had stopped early.
    patience = trainer.settings.early_stopping.patience
    trainer.state.stopped_early = patience is not None and trainer.state.evaluations_since_best >= patience


def _load(trainer: Running, content: Content, changed: Collection[str]) -> None:
    learning = trainer.learning
    optimizer = content["optimizer"]
    if changed:
        optimizer = _all_but(learning.optimizer, optimizer, {*changed, *SCHEDULED})
    trainer.strategy.load_full_state(learning.model, learning.optimizer, content["model"], optimizer)
    if learning.ema is not None:
        # An average that was not kept so far starts from the weights as they are.
        average = content["ema"]
        learning.ema.load_state_dict({"updates": 0, "model": content["model"]} if average is None else average)
    trainer.strategy.load_state_dict(content["strategy"])
    trainer.state.take(content["state"])
    if changed:
        learning.schedule.continue_at(trainer.state.step, content["schedule"])
    else:
        learning.schedule.load_state_dict(content["schedule"])
    set_random_state(content["random"])
    dict(content["position"])  # raises where it is none


def _all_but(optimizer: Optimizer, saved: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """A saved state but for the hyperparameters called `names`, which are those of `optimizer`."""
    built = optimizer.state_dict()["param_groups"]
    groups = [
        group | {name: own[name] for name in own if name in names}
        for group, own in zip(saved["param_groups"], built, strict=True)
    ]
    return {"state": saved["state"], "param_groups": groups}
