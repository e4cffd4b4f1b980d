"""Threads that share the work share nothing else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.losses.tiled.resize import Resizing
from segkit.losses.tiled.tiling import Band, Plan
from tests.losses.tiled.test_resize import small_tiles, threads


@settings(max_examples=30, deadline=None)
@given(batch=st.integers(1, 5), height=st.integers(1, 9), width=st.integers(1, 9), number=st.integers(1, 3))
def test_every_pixel_is_worked_on_once_whatever_the_number_of_threads(
    batch: int, height: int, width: int, number: int
) -> None:
    with threads(number), small_tiles():
        plan = Plan(Resizing(torch.zeros(batch, 2, 3, 3), (height, width)), held_at_once=2)
        seen = torch.zeros(batch, height, width)
        for band, found in plan.each(lambda band, _: list(plan.tiles(band))):
            for tile in found:
                assert band.rows.start <= tile.rows.start < tile.rows.stop <= band.rows.stop
                seen[tile.images, tile.rows, tile.columns] += 1
    assert bool((seen == 1).all())


def test_bands_come_back_in_order_and_the_number_of_threads_stays() -> None:
    with threads(2):
        plan = Plan(Resizing(torch.zeros(3, 2, 3, 3), (8, 8)), held_at_once=2)
        found = [
            (band.origin, origin, num_threads)
            for band, (origin, num_threads) in plan.each(lambda band, _: (band.origin, torch.get_num_threads()))
        ]
        assert len(found) == 9
        assert all(band == origin for band, origin, _ in found)
        assert {num_threads for *_, num_threads in found} == {1}
        assert torch.get_num_threads() == 2


def test_an_error_in_a_thread_comes_out() -> None:
    def fail(band: Band, resizing: Resizing) -> None:
        raise IndexError(f"image {band.images.start}")

    with threads(2), pytest.raises(IndexError, match="image 0"):
        list(Plan(Resizing(torch.zeros(3, 2, 3, 3), (8, 8)), held_at_once=2).each(fail))
