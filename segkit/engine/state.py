"""All mutable state of a run beside the state dicts of its components."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch


@dataclass
class TrainState:
    """How far a run has come. What a checkpoint saves is this and the components' state dicts.

    Attributes:
        step: optimizer steps done.
        images_seen: training images gone through the model.
        samples_skipped: of those, how many stood in for a sample whose file could not be used.
        steps_skipped: steps that changed no weight, because their loss or gradients were not finite.
        evaluated_step: the last step whose weights were evaluated; -1: none yet.
        evaluations: how many evaluations there have been.
        best_score: the best monitored score so far, or None.
        best_step: the step it belongs to.
        evaluations_since_best: evaluations since the score last improved enough; early stopping counts these.
        stopped_early: whether the run ended because it no longer improved.
    """

    step: int = 0
    images_seen: int = 0
    samples_skipped: int = 0
    steps_skipped: int = 0
    evaluated_step: int = -1
    evaluations: int = 0
    best_score: float | None = None
    best_step: int = -1
    evaluations_since_best: int = 0
    stopped_early: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def take(self, values: dict[str, Any]) -> None:
        """Go on from what `to_dict` gave, now or in an older version. Raises ValueError for anything else."""
        for name, value in values.items():
            if name not in vars(self) or not isinstance(value, bool | int | float | None):
                raise ValueError(f"state.{name}={value!r} is no part of a run's state")
            setattr(self, name, value)

    def note_score(self, score: float, *, mode: str, min_delta: float) -> bool:
        """Count an evaluation of the current step; whether it is the best so far. Only finite scores can be it.

        `min_delta` only counts for early stopping: the best checkpoint is the best, however small the gain.
        """
        self.evaluated_step = self.step
        self.evaluations += 1
        sign = 1.0 if mode == "max" else -1.0
        gain = math.inf if self.best_score is None else sign * (score - self.best_score)
        is_best = math.isfinite(score) and gain > 0
        self.evaluations_since_best = 0 if is_best and gain > min_delta else self.evaluations_since_best + 1
        if is_best:
            self.best_score, self.best_step = score, self.step
        return is_best


def random_state() -> dict[str, Any]:
    # Data has no random state (order and augmentation are functions of the position); dropout has.
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if len(state["cuda"]) == torch.cuda.device_count() > 0:
        torch.cuda.set_rng_state_all(state["cuda"])
