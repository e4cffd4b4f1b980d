"""When something recurs: every so many optimizer steps, or every so many epochs."""

from __future__ import annotations

from dataclasses import dataclass

from segkit.config.schema import TrainerSettings


@dataclass(frozen=True)
class Cadence:
    """A recurrence that is a function of the step alone, so that a resumed run keeps its rhythm.

    Attributes:
        every_steps: optimizer steps between two occurrences, or None.
        every_epochs: epochs between two occurrences, fractions included, or None. Both given: either counts.
        steps_per_epoch: optimizer steps in an epoch.
    """

    every_steps: int | None
    every_epochs: float | None
    steps_per_epoch: int

    def is_due(self, step: int) -> bool:
        """Whether it falls on the moment after optimizer step number `step`, counted from 1."""
        if step <= 0:
            return False
        if self.every_steps is not None and step % self.every_steps == 0:
            return True
        if self.every_epochs is None:
            return False
        period = self.every_epochs * self.steps_per_epoch
        # Fractions of an epoch need not be whole steps: due where a multiple of the period has just been passed.
        return int(step / period + 1e-9) > int((step - 1) / period + 1e-9)


def total_steps(settings: TrainerSettings, steps_per_epoch: int) -> int:
    """Optimizer steps of the whole run: max_epochs or max_steps, whichever comes first."""
    limits = [settings.max_steps] if settings.max_steps is not None else []
    if settings.max_epochs is not None:
        limits.append(settings.max_epochs * steps_per_epoch)
    return min(limits)
