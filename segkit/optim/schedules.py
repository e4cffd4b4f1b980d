"""Learning rates as functions of the optimizer step, stepped once after each.

A schedule is called with the optimizer, the steps of the whole run and those of one epoch. Its lengths end in
`_steps` or `_epochs`, so that they cannot be mixed up. Factors multiply each parameter group's own learning
rate. Warm-up of W steps multiplies with 1 / (W + 1), 2 / (W + 1), ..., W / (W + 1); the schedule proper
follows it, over the steps that are left.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer

from segkit.contracts import UserError


class FactorSchedule:
    """Each group's learning rate times `factor` of the step: nothing but the step is state.

    Args:
        factor: of the number of steps since warm-up.
        warmup: steps of warm-up.
        last: the run's last step; past it the factor stays as it is there.
    """

    def __init__(self, optimizer: Optimizer, factor: Callable[[int], float], *, warmup: int, last: int) -> None:
        self.optimizer = optimizer
        self.factor = factor
        self.warmup = warmup
        self.last = last
        self.current = 0
        for group in optimizer.param_groups:
            # Kept in the group, and so in checkpoints, where `lr` is already multiplied.
            group.setdefault("initial_lr", group["lr"])
        self._apply()

    def step(self) -> None:
        self.current += 1
        self._apply()

    def evaluated(self, score: float) -> None:
        """Nothing: the learning rate is a function of the step."""

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.current}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.current = state_dict["step"]
        self._apply()

    def continue_at(self, step: int, saved: dict[str, Any]) -> None:
        self.current = step
        self._apply()

    def _apply(self) -> None:
        if self.current < self.warmup:
            factor = (self.current + 1) / (self.warmup + 1)
        else:
            factor = self.factor(min(self.current, self.last) - self.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor


def constant(
    optimizer: Optimizer,
    *,
    total_steps: int,
    steps_per_epoch: int,
    warmup_steps: int | None = None,
    warmup_epochs: float | None = None,
) -> FactorSchedule:
    """The learning rate as it is."""
    warmup = warmup_length(total_steps, steps_per_epoch, steps=warmup_steps, epochs=warmup_epochs)
    return FactorSchedule(optimizer, lambda step: 1.0, warmup=warmup, last=total_steps)


def poly(
    optimizer: Optimizer,
    *,
    total_steps: int,
    steps_per_epoch: int,
    power: float = 0.9,
    warmup_steps: int | None = None,
    warmup_epochs: float | None = None,
) -> FactorSchedule:
    """(1 - progress)^power, which falls to 0 just after the last step: DeepLab's (arXiv 1606.00915)."""
    if not power >= 0:
        raise UserError(f"scheduler.power={power}; allowed: numbers from 0 up")
    warmup = warmup_length(total_steps, steps_per_epoch, steps=warmup_steps, epochs=warmup_epochs)
    length = total_steps - warmup
    return FactorSchedule(optimizer, lambda step: (1 - step / length) ** power, warmup=warmup, last=total_steps)


def cosine(
    optimizer: Optimizer,
    *,
    total_steps: int,
    steps_per_epoch: int,
    min_factor: float = 0.0,
    warmup_steps: int | None = None,
    warmup_epochs: float | None = None,
) -> FactorSchedule:
    """Half a cosine from 1 to `min_factor`, without restarts (arXiv 1608.03983)."""
    _check_share("min_factor", min_factor)
    warmup = warmup_length(total_steps, steps_per_epoch, steps=warmup_steps, epochs=warmup_epochs)
    length = total_steps - warmup
    return FactorSchedule(
        optimizer, lambda step: _cosine(1.0, min_factor, step / length), warmup=warmup, last=total_steps
    )


def onecycle(
    optimizer: Optimizer,
    *,
    total_steps: int,
    steps_per_epoch: int,
    rise: float = 0.3,
    start_factor: float = 0.04,
    end_factor: float = 4e-6,
) -> FactorSchedule:
    """From `start_factor` up to 1 in the share `rise` of the run, then down to `end_factor`, on cosines.

    The shape of torch's OneCycleLR (arXiv 1708.07120); momentum stays as it is. It has no other warm-up.
    """
    for name, value in (("rise", rise), ("start_factor", start_factor), ("end_factor", end_factor)):
        _check_share(name, value)
    peak = rise * total_steps

    def factor(step: int) -> float:
        if step < peak:
            return _cosine(start_factor, 1.0, step / peak)
        return _cosine(1.0, end_factor, (step - peak) / max(total_steps - peak, 1))

    return FactorSchedule(optimizer, factor, warmup=0, last=total_steps)


def step_decay(
    optimizer: Optimizer,
    *,
    total_steps: int,
    steps_per_epoch: int,
    every_steps: int | None = None,
    every_epochs: float | None = None,
    gamma: float = 0.1,
    warmup_steps: int | None = None,
    warmup_epochs: float | None = None,
) -> FactorSchedule:
    """`gamma` to the number of whole intervals gone by since warm-up."""
    _check_share("gamma", gamma)
    interval = length_in_steps("every", steps_per_epoch, steps=every_steps, epochs=every_epochs)
    if not interval:
        raise UserError("scheduler.every_epochs or scheduler.every_steps must be set, to one step at least")
    warmup = warmup_length(total_steps, steps_per_epoch, steps=warmup_steps, epochs=warmup_epochs)
    return FactorSchedule(optimizer, lambda step: gamma ** (step // interval), warmup=warmup, last=total_steps)


def multistep(
    optimizer: Optimizer,
    *,
    total_steps: int,
    steps_per_epoch: int,
    milestones_steps: Sequence[int] | None = None,
    milestones_epochs: Sequence[float] | None = None,
    gamma: float = 0.1,
    warmup_steps: int | None = None,
    warmup_epochs: float | None = None,
) -> FactorSchedule:
    """`gamma` to the number of milestones gone by, which count from the start of the run."""
    _check_share("gamma", gamma)
    if bool(milestones_steps) == bool(milestones_epochs):
        raise UserError(
            f"scheduler.milestones_steps={milestones_steps}, scheduler.milestones_epochs={milestones_epochs}; "
            "allowed: a list of numbers for one of them, and null for the other"
        )
    lengths = [(step, None) for step in milestones_steps or ()] + [(None, epoch) for epoch in milestones_epochs or ()]
    milestones = sorted(
        length_in_steps("milestones", steps_per_epoch, steps=steps, epochs=epochs) or 0 for steps, epochs in lengths
    )
    warmup = warmup_length(total_steps, steps_per_epoch, steps=warmup_steps, epochs=warmup_epochs)
    return FactorSchedule(
        optimizer, lambda step: gamma ** bisect_right(milestones, step + warmup), warmup=warmup, last=total_steps
    )


def length_in_steps(name: str, steps_per_epoch: int, *, steps: int | None, epochs: float | None) -> int | None:
    """A length given as `<name>_steps` or `<name>_epochs`, in optimizer steps; None if it is not given.

    The one place where epochs become steps.
    """
    found = f"scheduler.{name}_steps={steps}, scheduler.{name}_epochs={epochs}"
    if steps is not None and epochs is not None:
        raise UserError(f"{found}: both are set; set one of them to null")
    if min(steps or 0, epochs or 0) < 0:
        raise UserError(f"{found}; allowed: numbers from 0 up, or null")
    return steps if epochs is None else round(epochs * steps_per_epoch)


def warmup_length(total_steps: int, steps_per_epoch: int, *, steps: int | None, epochs: float | None) -> int:
    """Steps of warm-up, 0 if none is given. Raises UserError if they do not leave a step of the run."""
    warmup = length_in_steps("warmup", steps_per_epoch, steps=steps, epochs=epochs) or 0
    if warmup >= total_steps:
        raise UserError(f"the scheduler's warm-up takes {warmup} steps, and the run has {total_steps}")
    return warmup


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def _check_share(key: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise UserError(f"scheduler.{key}={value}; allowed: 0..1")
