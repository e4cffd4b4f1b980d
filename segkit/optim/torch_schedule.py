"""Any schedule of torch.optim.lr_scheduler as a `contracts.Schedule`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from segkit.contracts import UserError
from segkit.optim.schedules import warmup_length

HISTORY = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")
"""What ReduceLROnPlateau remembers of the scores gone by."""


class TorchSchedule:
    """A PyTorch schedule, stepped every step or epoch, after warm-up to the learning rate it starts with.

    ReduceLROnPlateau is stepped after every evaluation instead, with the monitored score; evaluations during
    warm-up do not count.

    Args:
        scheduler: called with the optimizer, as are the `schedulers` that SequentialLR and ChainedScheduler are
            made of; its own lengths count in `interval`, or in evaluations.
        interval: how often it is stepped; epochs count from the end of warm-up.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        scheduler: Callable[..., LRScheduler],
        total_steps: int,
        steps_per_epoch: int,
        interval: Literal["step", "epoch"] = "epoch",
        warmup_steps: int | None = None,
        warmup_epochs: float | None = None,
    ) -> None:
        self.optimizer = optimizer
        self.warmup = warmup_length(total_steps, steps_per_epoch, steps=warmup_steps, epochs=warmup_epochs)
        self.every = steps_per_epoch if interval == "epoch" else 1
        try:
            self.scheduler = _built(scheduler, optimizer)
        except (ValueError, TypeError, ArithmeticError, AssertionError) as error:
            raise UserError(f"scheduler.scheduler cannot be built with these values: {error}") from error
        self.plateau = self.scheduler if isinstance(self.scheduler, ReduceLROnPlateau) else None
        self.current = 0
        self.start = [group["lr"] for group in optimizer.param_groups]
        self._warm_up()

    def step(self) -> None:
        self.current += 1
        if self.current <= self.warmup:
            self._warm_up()
        elif self.plateau is None and (self.current - self.warmup) % self.every == 0:
            self.scheduler.step()

    def evaluated(self, score: float) -> None:
        if self.plateau is not None and self.current >= self.warmup:
            self.plateau.step(score)

    def state_dict(self) -> dict[str, Any]:
        rates = [group["lr"] for group in self.optimizer.param_groups]
        return {
            "step": self.current,
            "start": list(self.start),
            "rates": rates,
            "scheduler": self.scheduler.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.current = state_dict["step"]
        self.scheduler.load_state_dict(state_dict["scheduler"])
        for group, rate in zip(self.optimizer.param_groups, state_dict["rates"], strict=True):
            group["lr"] = rate

    def continue_at(self, step: int, saved: dict[str, Any]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the optimizer has not stepped in between
            for _ in range(step):
                self.step()
        if self.plateau is not None and "num_bad_epochs" in saved.get("scheduler", {}):
            self._take_reductions(self.plateau, saved)

    def _take_reductions(self, plateau: ReduceLROnPlateau, saved: dict[str, Any]) -> None:
        """Go on with what the scores of before have led to: how far the rates have come down, and how long since."""
        if "start" not in saved:
            raise ValueError(
                "a checkpoint of version 0.1 does not tell by how much scheduler=plateau has reduced the rate"
            )
        plateau.load_state_dict({name: saved["scheduler"][name] for name in HISTORY})
        if self.current < self.warmup:
            return
        pairs = zip(saved["rates"], saved["start"], strict=True)
        for group, start, (rate, earlier) in zip(self.optimizer.param_groups, self.start, pairs, strict=True):
            group["lr"] = start * rate / earlier

    def _warm_up(self) -> None:
        factor = min(1.0, (self.current + 1) / (self.warmup + 1))
        for group, start in zip(self.optimizer.param_groups, self.start, strict=True):
            group["lr"] = start * factor


def _built(scheduler: Callable[..., LRScheduler], optimizer: Optimizer) -> LRScheduler:
    parts = getattr(scheduler, "keywords", {}).get("schedulers")
    if parts is not None:
        scheduler = partial(scheduler, schedulers=[_built(part, optimizer) for part in parts])
    return scheduler(optimizer=optimizer)
