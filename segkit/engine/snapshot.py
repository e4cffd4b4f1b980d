"""All that a run is at one step, as the content of a checkpoint, and a trainer put back to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from segkit.engine.checkpoint import Content
from segkit.engine.state import random_state, set_random_state
from segkit.errors import UserError

if TYPE_CHECKING:
    from segkit.engine.trainer import Trainer


def taken(trainer: Trainer) -> Content:
    """What a checkpoint holds: the state, the components' state dicts, and the identity of the run."""
    learning = trainer.learning
    return {
        **trainer.recording.identity,
        "run_id": trainer.recording.tracker.run_id,
        "state": trainer.state.to_dict(),
        "position": _position(trainer),
        "model": trainer.strategy.unwrap(learning.model).state_dict(),
        "ema": None if learning.ema is None else learning.ema.state_dict(),
        "optimizer": learning.optimizer.state_dict(),
        "schedule": learning.schedule.state_dict(),
        "strategy": trainer.strategy.state_dict(),
        "random": random_state(),
    }


def _position(trainer: Trainer) -> dict[str, int]:
    """What the meaning of a step depends on."""
    return {
        "trainer.batch_size": trainer.settings.batch_size,
        "trainer.accumulate": trainer.settings.accumulate,
        "steps_per_epoch": trainer.data.steps_per_epoch,
        "total_steps": trainer.total_steps,
    }


def restore(trainer: Trainer, content: Content, *, hyperparameters_changed: bool = False) -> None:
    """Put `trainer` where a checkpoint's content was taken.

    With `hyperparameters_changed` the numbers of optimizer and schedule are those that `trainer` was built with, and
    the learning rate is what they give at this step; else they are those of the content. Raises UserError when the
    checkpoint is of another model or optimizer.
    """
    try:
        _load(trainer, content, hyperparameters_changed)
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"resume: the checkpoint is of another model or optimizer than this config: {error}") from None
    # A longer patience, or none, lets a run go on that had stopped early.
    patience = trainer.settings.early_stopping.patience
    trainer.state.stopped_early = patience is not None and trainer.state.evaluations_since_best >= patience


def _load(trainer: Trainer, content: Content, hyperparameters_changed: bool) -> None:
    learning = trainer.learning
    trainer.strategy.unwrap(learning.model).load_state_dict(content["model"])
    if learning.ema is not None:
        # An average that was not kept so far starts from the weights as they are.
        average = content["ema"]
        learning.ema.load_state_dict({"updates": 0, "model": content["model"]} if average is None else average)
    trainer.strategy.load_state_dict(content["strategy"])
    trainer.state.take(content["state"])
    if hyperparameters_changed:
        _load_moments(learning.optimizer, content["optimizer"])
        learning.schedule.continue_at(trainer.state.step, content["schedule"])
    else:
        learning.optimizer.load_state_dict(content["optimizer"])
        learning.schedule.load_state_dict(content["schedule"])
    set_random_state(content["random"])
    dict(content["position"])  # raises where it is none


def _load_moments(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Load what `saved` knows of each parameter, and leave the numbers of the groups as they are."""
    groups = optimizer.state_dict()["param_groups"]
    if [group["params"] for group in groups] != [group["params"] for group in saved["param_groups"]]:
        raise ValueError("the groups of parameters differ")
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
