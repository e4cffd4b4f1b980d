from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from segkit.engine.cadence import Cadence


def due(cadence: Cadence, until: int) -> list[int]:
    return [step for step in range(until + 1) if cadence.is_due(step)]


def test_every_three_steps():
    assert due(Cadence(3, None, steps_per_epoch=10), 10) == [3, 6, 9]


def test_every_epoch_falls_on_its_last_step():
    assert due(Cadence(None, 1, steps_per_epoch=5), 12) == [5, 10]


def test_half_epochs_of_five_steps_fall_where_a_multiple_of_two_and_a_half_has_just_passed():
    assert due(Cadence(None, 0.5, steps_per_epoch=5), 10) == [3, 5, 8, 10]


def test_either_of_the_two_counts():
    assert due(Cadence(4, 1, steps_per_epoch=5), 10) == [4, 5, 8, 10]


def test_neither_is_never():
    assert due(Cadence(None, None, steps_per_epoch=5), 100) == []


@given(st.floats(0.1, 3), st.integers(1, 50))
def test_it_recurs_as_often_as_the_period_fits(every_epochs: float, steps_per_epoch: int):
    steps = 6 * steps_per_epoch
    times = len(due(Cadence(None, every_epochs, steps_per_epoch), steps))
    assert times == min(steps, times)
    if every_epochs * steps_per_epoch >= 1:
        assert abs(times - 6 / every_epochs) <= 1
