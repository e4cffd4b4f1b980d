from __future__ import annotations

import math

from segkit.engine.state import TrainState


def noted(scores: list[float], mode: str = "max", min_delta: float = 0.0) -> tuple[TrainState, list[bool]]:
    state = TrainState()
    best = []
    for score in scores:
        state.step += 1
        best.append(state.note_score(score, mode=mode, min_delta=min_delta))
    return state, best


def test_the_best_score_and_its_step_are_kept():
    state, best = noted([0.3, 0.5, 0.4])
    assert best == [True, True, False]
    assert (state.best_score, state.best_step, state.evaluations_since_best) == (0.5, 2, 1)


def test_lower_is_better_in_mode_min():
    assert noted([0.3, 0.5, 0.2], mode="min")[1] == [True, False, True]


def test_nan_is_never_the_best_not_even_first():
    state, best = noted([math.nan, 0.1, math.nan])
    assert best == [False, True, False]
    assert state.best_score == 0.1


def test_infinity_is_never_the_best_and_blocks_no_later_one():
    assert noted([math.inf, 0.1, -math.inf, 0.2])[1] == [False, True, False, True]
    assert noted([-math.inf, 0.3, math.inf, 0.2], mode="min")[1] == [False, True, False, True]


def test_a_gain_below_min_delta_is_the_best_checkpoint_but_no_progress():
    state, best = noted([0.50, 0.505, 0.509], min_delta=0.01)
    assert best == [True, True, True]
    assert state.evaluations_since_best == 2


def test_it_survives_a_checkpoint():
    state, _ = noted([0.3, 0.5, 0.4])
    copy = TrainState()
    copy.take(state.to_dict())
    assert copy == state
