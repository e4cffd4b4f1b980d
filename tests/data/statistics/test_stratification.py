"""Samples dealt out to parts: classes alike, groups whole, sizes right, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.data.statistics.stratification import stratified


def test_each_part_gets_its_share_of_a_rare_class():
    # 100 samples of 100 pixels; 10 of them hold 50 pixels of a rare class. 5 folds: 2 of the 10 in each.
    rare = np.zeros(100, np.int64)
    rare[:10] = 50
    amounts = np.stack([100 - rare, rare], axis=1)
    parts = stratified(amounts, range(100), [0.2] * 5, seed=3)
    assert np.bincount(parts).tolist() == [20] * 5
    assert [int(rare[parts == part].sum()) for part in range(5)] == [100] * 5


def test_amounts_that_differ_a_lot_are_dealt_out_better_than_by_chance():
    random = np.random.default_rng(0)
    amounts = (random.lognormal(5, 1, (200, 8)) * (random.random((200, 8)) < 0.5)).astype(np.int64)

    def worst(parts: np.ndarray) -> float:
        shares = np.array([amounts[parts == part].sum(axis=0) for part in range(4)]) / amounts.sum(axis=0)
        return float(np.abs(shares - 0.25).max())

    by_chance = np.median([worst(np.random.default_rng(seed).permutation(200) % 4) for seed in range(20)])
    assert worst(stratified(amounts, range(200), [0.25] * 4, seed=0)) < 0.5 * by_chance


def test_shares_need_not_be_equal():
    parts = stratified(np.ones((50, 1), np.int64), range(50), [0.7, 0.2, 0.1], seed=0)
    assert np.bincount(parts).tolist() == [35, 10, 5]


def test_the_seed_decides():
    amounts = np.random.default_rng(0).integers(0, 100, (60, 4))
    first, again, other = (stratified(amounts, range(60), [0.5, 0.5], seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_groups_are_never_parted_and_nothing_is_lost(data: st.DataObject):
    number = data.draw(st.integers(1, 40))
    groups = data.draw(st.lists(st.integers(0, 12), min_size=number, max_size=number))
    amounts = np.array(data.draw(st.lists(st.tuples(*[st.integers(0, 10**6)] * 3), min_size=number, max_size=number)))
    shares = data.draw(st.lists(st.floats(0.05, 1), min_size=2, max_size=5))
    parts = stratified(amounts, groups, shares, data.draw(st.integers(0, 5)))
    assert parts.shape == (number,)
    assert set(parts.tolist()) <= set(range(len(shares)))
    for group in set(groups):
        assert len({int(part) for part, own in zip(parts, groups, strict=True) if own == group}) == 1


@pytest.mark.parametrize("number", [7, 23, 100])
def test_single_samples_fill_the_parts_to_within_one(number: int):
    amounts = np.random.default_rng(number).integers(0, 9, (number, 3))
    sizes = np.bincount(stratified(amounts, range(number), [0.2] * 5, seed=0), minlength=5)
    assert sizes.sum() == number
    assert sizes.max() - sizes.min() <= 1
