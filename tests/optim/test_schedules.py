"""Learning rates at steps that can be worked out by hand, and exact resume."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)

from segkit.contracts import Schedule, UserError
from segkit.optim.schedules import constant, cosine, one_cycle, poly, step_decay
from segkit.optim.torch_schedule import TorchSchedule


def optimizer(*rates: float) -> torch.optim.SGD:
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates])


def rates(make: Callable[..., Schedule], total: int, epoch: int = 10, lr: float = 1.0) -> list[float]:
    """The learning rate that each step trains with, and the one after the last."""
    of_run = optimizer(lr)
    schedule = make(of_run, total_steps=total, steps_per_epoch=epoch)
    seen = []
    for _ in range(total):
        seen.append(of_run.param_groups[0]["lr"])
        of_run.step()
        schedule.step()
    return [*seen, of_run.param_groups[0]["lr"]]


def test_poly_by_hand() -> None:
    assert rates(poly, 4) == pytest.approx([1.0, 0.75**0.9, 0.5**0.9, 0.25**0.9, 0.0])


def test_cosine_by_hand() -> None:
    half = math.sqrt(0.5)
    found = rates(partial(cosine, min_factor=0.2), 4)
    assert found == pytest.approx([1.0, 0.6 + 0.4 * half, 0.6, 0.6 - 0.4 * half, 0.2])


def test_step_by_hand_in_steps_and_in_epochs() -> None:
    expected = [1.0, 1.0, 0.1, 0.1, 0.01, 0.01, 0.001]
    assert rates(partial(step_decay, every_steps=2), 6) == pytest.approx(expected)
    assert rates(partial(step_decay, every_epochs=0.5), 6, epoch=4) == pytest.approx(expected)


def test_one_cycle_is_that_of_torch() -> None:
    """Torch ends on the last step, ours just after it: its 101 points are our 100 steps and one more."""
    reference = optimizer(1.0)
    theirs = OneCycleLR(reference, max_lr=1.0, total_steps=101, pct_start=0.31)
    expected = [reference.param_groups[0]["lr"]]
    for _ in range(100):
        reference.step()
        theirs.step()
        expected.append(reference.param_groups[0]["lr"])
    # Their peak lies at 0.31 * 101 - 1 = 30.31 steps.
    assert rates(partial(one_cycle, rise=0.3031), 100) == pytest.approx(expected, abs=1e-9)


def test_warm_up_begins_above_zero_and_the_schedule_follows_it() -> None:
    found = rates(partial(poly, power=1.0, warmup_steps=3), 7)
    assert found == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.75, 0.5, 0.25, 0.0])
    assert rates(partial(poly, power=1.0, warmup_epochs=0.3), 7) == pytest.approx(found)
    halving = partial(ExponentialLR, gamma=0.5)
    wrapped = partial(TorchSchedule, scheduler=halving, interval="step", warmup_steps=3)
    assert rates(wrapped, 6) == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.5, 0.25, 0.125])


def test_groups_keep_their_own_rates() -> None:
    both = optimizer(1.0, 0.1)
    schedule = poly(both, total_steps=2, steps_per_epoch=1, power=1.0)
    schedule.step()
    assert [group["lr"] for group in both.param_groups] == pytest.approx([0.5, 0.05])


def test_past_the_end_the_rate_stays() -> None:
    of_run = optimizer(1.0)
    schedule = cosine(of_run, total_steps=2, steps_per_epoch=1, min_factor=0.1)
    for _ in range(5):
        schedule.step()
    assert of_run.param_groups[0]["lr"] == pytest.approx(0.1)


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_torch_schedule_steps_by_its_interval(interval: str) -> None:
    wrapped = partial(TorchSchedule, scheduler=partial(StepLR, step_size=2, gamma=0.1), interval=interval)
    found = rates(wrapped, 12, epoch=3)
    period = 2 if interval == "step" else 6
    assert found == pytest.approx([0.1 ** (step // period) for step in range(13)])


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": partial(constant, warmup_steps=3),
    "poly": partial(poly, warmup_epochs=0.2),
    "cosine": partial(cosine, min_factor=0.01),
    "one_cycle": one_cycle,
    "step": partial(step_decay, every_steps=3),
    "torch cosine": partial(TorchSchedule, scheduler=partial(CosineAnnealingLR, T_max=12), interval="step"),
    "torch milestones": partial(TorchSchedule, scheduler=partial(MultiStepLR, milestones=[1, 3]), warmup_steps=2),
    "torch one-cycle": partial(
        TorchSchedule, scheduler=partial(OneCycleLR, max_lr=1.0, total_steps=40), interval="step"
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("stop", [0, 1, 2, 7])
def test_resume_gives_the_same_rates_bit_for_bit(name: str, stop: int, tmp_path: Path) -> None:
    uninterrupted = rates(SCHEDULES[name], 15, epoch=3, lr=0.3)
    lengths: dict[str, Any] = {"total_steps": 15, "steps_per_epoch": 3}
    first = optimizer(0.3)
    schedule = SCHEDULES[name](first, **lengths)
    for _ in range(stop):
        first.step()
        schedule.step()
    torch.save((first.state_dict(), schedule.state_dict()), tmp_path / "state.pt")
    second = optimizer(0.3)
    schedule = SCHEDULES[name](second, **lengths)
    of_optimizer, of_schedule = torch.load(tmp_path / "state.pt", weights_only=True)
    second.load_state_dict(of_optimizer)
    schedule.load_state_dict(of_schedule)
    resumed = [second.param_groups[0]["lr"]]
    for _ in range(stop, 15):
        second.step()
        schedule.step()
        resumed.append(second.param_groups[0]["lr"])
    assert resumed == uninterrupted[stop:]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(poly, warmup_steps=1, warmup_epochs=1.0), "both are set"),
        (partial(poly, warmup_steps=-1), "warmup_steps=-1"),
        (partial(poly, warmup_epochs=1.0), "takes 10 steps, and the run has 10"),
        (partial(cosine, min_factor=1.5), "scheduler.min_factor=1.5"),
        (step_decay, "every_epochs or scheduler.every_steps must be set"),
        (partial(TorchSchedule, scheduler=ReduceLROnPlateau), "waits for a metric"),
    ],
)
def test_bad_arguments_are_named(make: Callable[..., Schedule], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(optimizer(1.0), total_steps=10, steps_per_epoch=10)
