"""Learning rates at steps that can be worked out by hand, and exact resume."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import ExponentialLR, OneCycleLR, ReduceLROnPlateau, StepLR

from segkit.contracts import Schedule, UserError
from segkit.optim.schedules import constant, cosine, multistep, onecycle, poly, step_decay
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


def test_multistep_by_hand_counts_from_the_start_of_the_run() -> None:
    expected = [1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25]
    assert rates(partial(multistep, milestones_steps=[5, 2], gamma=0.5), 6) == pytest.approx(expected)
    assert rates(partial(multistep, milestones_epochs=[0.5, 1.25], gamma=0.5), 6, epoch=4) == pytest.approx(expected)
    warmed = partial(multistep, milestones_steps=[2, 5], gamma=0.5, warmup_steps=3)
    assert rates(warmed, 6) == pytest.approx([0.25, 0.5, 0.75, 0.5, 0.5, 0.25, 0.25])


def plateau(**options: Any) -> Callable[..., TorchSchedule]:
    reduce = partial(ReduceLROnPlateau, mode="max", factor=0.5, patience=1, threshold=0.0, threshold_mode="abs")
    return partial(TorchSchedule, scheduler=reduce, **options)


def after_scores(make: Callable[..., TorchSchedule], scores: list[float]) -> list[float]:
    """The learning rate after each evaluation, one a step."""
    of_run = optimizer(1.0)
    schedule = make(of_run, total_steps=20, steps_per_epoch=5)
    seen = []
    for score in scores:
        of_run.step()
        schedule.step()
        schedule.evaluated(score)
        seen.append(of_run.param_groups[0]["lr"])
    return seen


def test_plateau_by_hand_the_second_score_in_a_row_that_is_no_better_halves_the_rate() -> None:
    scores = [0.1, 0.3, 0.3, 0.2, 0.4, math.nan, 0.4, 0.5]
    assert after_scores(plateau(), scores) == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_plateau_counts_no_evaluation_during_warm_up() -> None:
    # Steps 1 and 2 warm up; from the evaluation after the third on, the scores count.
    found = after_scores(plateau(warmup_steps=3), [0.9, 0.9, 0.3, 0.3, 0.3, 0.3])
    assert found == pytest.approx([0.5, 0.75, 1.0, 1.0, 0.5, 0.5])


@pytest.mark.parametrize("stop", range(8))
def test_plateau_resumes_bit_for_bit(stop: int, tmp_path: Path) -> None:
    scores = [0.5, 0.4, 0.4, 0.4, 0.4, 0.6, 0.1, 0.1, 0.1]
    unbroken = after_scores(plateau(warmup_steps=2), scores)
    lengths: dict[str, Any] = {"total_steps": 20, "steps_per_epoch": 5}
    first, second = optimizer(1.0), optimizer(1.0)
    schedule = plateau(warmup_steps=2)(first, **lengths)
    for score in scores[:stop]:
        first.step()
        schedule.step()
        schedule.evaluated(score)
    torch.save((first.state_dict(), schedule.state_dict()), tmp_path / "state.pt")
    schedule = plateau(warmup_steps=2)(second, **lengths)
    of_optimizer, of_schedule = torch.load(tmp_path / "state.pt", weights_only=True)
    second.load_state_dict(of_optimizer)
    schedule.load_state_dict(of_schedule)
    for score, rate in zip(scores[stop:], unbroken[stop:], strict=True):
        second.step()
        schedule.step()
        schedule.evaluated(score)
        assert second.param_groups[0]["lr"] == rate


FACTORS: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "poly": poly,
    "cosine": cosine,
    "step": partial(step_decay, every_epochs=0.7),
    "multistep": partial(multistep, milestones_epochs=[0.5, 2]),
}


@pytest.mark.parametrize("name", FACTORS)
@given(
    epochs=st.integers(1, 6),
    steps_per_epoch=st.integers(2, 30),
    warmup=st.floats(0, 0.9),
    lr=st.floats(1e-6, 10),
)
@settings(max_examples=25, deadline=None)
def test_laws_of_every_schedule(name: str, epochs: int, steps_per_epoch: int, warmup: float, lr: float) -> None:
    total = epochs * steps_per_epoch
    warmup_steps = min(round(warmup * steps_per_epoch), total - 1)
    found = rates(partial(FACTORS[name], warmup_steps=warmup_steps), total, epoch=steps_per_epoch, lr=lr)
    # Never above the rate that was asked for, never negative, and above 0 until the last step is done.
    assert all(0 < rate <= lr * (1 + 1e-12) for rate in found[:-1])
    assert 0 <= found[-1] <= lr
    # It rises through warm-up by equal steps, and never after it.
    rises = [after - before for before, after in pairwise(found)]
    assert all(rise == pytest.approx(lr / (warmup_steps + 1)) for rise in rises[: max(warmup_steps - 1, 0)])
    assert all(rise <= lr * 1e-12 for rise in rises[warmup_steps:])
    # Rates scale with the one that was asked for, and epochs are so many steps.
    other = rates(partial(FACTORS[name], warmup_steps=warmup_steps), total, epoch=steps_per_epoch, lr=2 * lr)
    assert other == pytest.approx([2 * rate for rate in found])
    in_epochs = partial(FACTORS[name], warmup_epochs=warmup_steps / steps_per_epoch)
    assert rates(in_epochs, total, epoch=steps_per_epoch, lr=lr) == found


@given(total=st.integers(2, 200), rise=st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_onecycle_rises_to_its_peak_and_falls_from_it(total: int, rise: float) -> None:
    found = rates(partial(onecycle, rise=rise), total)
    peak = math.ceil(rise * total)
    assert found[:peak] == sorted(found[:peak])
    assert found[peak:] == sorted(found[peak:], reverse=True)
    assert max(found) <= 1.0
    if total - rise * total >= 1:
        assert found[-1] == pytest.approx(4e-6)


def test_onecycle_is_that_of_torch() -> None:
    """Torch ends on the last step, ours just after it: its 101 points are our 100 steps and one more."""
    reference = optimizer(1.0)
    theirs = OneCycleLR(reference, max_lr=1.0, total_steps=101, pct_start=0.31)
    expected = [reference.param_groups[0]["lr"]]
    for _ in range(100):
        reference.step()
        theirs.step()
        expected.append(reference.param_groups[0]["lr"])
    # Their peak lies at 0.31 * 101 - 1 = 30.31 steps.
    assert rates(partial(onecycle, rise=0.3031), 100) == pytest.approx(expected, abs=1e-9)


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
    "onecycle": onecycle,
    "step": partial(step_decay, every_steps=3),
    "multistep": partial(multistep, milestones_epochs=[1, 3.5], warmup_steps=4),
}


# All there are in PyTorch.
TORCH: dict[str, Callable[..., Any]] = {
    "step": partial(lr_scheduler.StepLR, step_size=2),
    "multistep": partial(lr_scheduler.MultiStepLR, milestones=[1, 3]),
    "constant": lr_scheduler.ConstantLR,
    "linear": lr_scheduler.LinearLR,
    "exponential": partial(lr_scheduler.ExponentialLR, gamma=0.9),
    "polynomial": partial(lr_scheduler.PolynomialLR, total_iters=9),
    "cosine": partial(lr_scheduler.CosineAnnealingLR, T_max=12),
    "warm restarts": partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=3),
    "cyclic": partial(lr_scheduler.CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=3, cycle_momentum=False),
    "one-cycle": partial(lr_scheduler.OneCycleLR, max_lr=1.0, total_steps=40),
    "lambda": partial(lr_scheduler.LambdaLR, lr_lambda=lambda step: 0.9**step),
    "multiplicative": partial(lr_scheduler.MultiplicativeLR, lr_lambda=lambda step: 0.9),
    "sequential": partial(
        lr_scheduler.SequentialLR,
        schedulers=[lr_scheduler.ConstantLR, partial(lr_scheduler.ExponentialLR, gamma=0.9)],
        milestones=[4],
    ),
    "chained": partial(
        lr_scheduler.ChainedScheduler,
        schedulers=[lr_scheduler.ConstantLR, partial(lr_scheduler.ExponentialLR, gamma=0.9)],
    ),
}
SCHEDULES |= {
    f"torch {name}": partial(TorchSchedule, scheduler=make, interval="step", warmup_steps=2)
    for name, make in TORCH.items()
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
        (multistep, "milestones_steps=None, scheduler.milestones_epochs=None"),
        (partial(multistep, milestones_steps=[1], milestones_epochs=[1.0]), "null for the other"),
        (partial(multistep, milestones_epochs=[-1.0]), "milestones_epochs=-1.0"),
    ],
)
def test_bad_arguments_are_named(make: Callable[..., Schedule], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(optimizer(1.0), total_steps=10, steps_per_epoch=10)
