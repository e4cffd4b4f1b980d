"""All that a run is at one step, as the content of a checkpoint, and a trainer put back to it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from segkit.engine.checkpoint import Content
from segkit.engine.state import random_state, set_random_state
from segkit.errors import UserError

if TYPE_CHECKING:
    from segkit.engine.trainer import Trainer

log = logging.getLogger(__name__)


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


def restore(trainer: Trainer, content: Content) -> None:
    """Put `trainer` where a checkpoint's content was taken.

    What makes the run differ from one that never stopped is logged. Raises UserError when the checkpoint is of
    another model or optimizer.
    """
    try:
        before = _load(trainer, content)
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"resume: the checkpoint is of another model or optimizer than this config: {error}") from None
    learning = trainer.learning
    for name, value in _position(trainer).items():
        if before.get(name) != value:
            log.warning(
                "%s was %s and is now %s: this run will differ from one that never stopped",
                name,
                before.get(name),
                value,
            )
    if (learning.ema is None) != (content["ema"] is None):
        log.warning(
            "trainer.ema.decay: the checkpoint was saved %s an average of the weights",
            "without" if content["ema"] is None else "with",
        )
    # A longer patience, or none, lets a run go on that had stopped early.
    patience = trainer.settings.early_stopping.patience
    trainer.state.stopped_early = patience is not None and trainer.state.evaluations_since_best >= patience


def _load(trainer: Trainer, content: Content) -> dict[str, int]:
    """Put back all that has state; the position that the checkpoint was saved at."""
    learning = trainer.learning
    trainer.strategy.unwrap(learning.model).load_state_dict(content["model"])
    learning.optimizer.load_state_dict(content["optimizer"])
    learning.schedule.load_state_dict(content["schedule"])
    if learning.ema is not None and content["ema"] is not None:
        learning.ema.load_state_dict(content["ema"])
    trainer.strategy.load_state_dict(content["strategy"])
    trainer.state.take(content["state"])
    set_random_state(content["random"])
    return dict(content["position"])
