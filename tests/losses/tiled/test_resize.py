"""Tiles and matrices against the resizing that they stand for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.logits import resize_logits
from segkit.losses.tiled import resize, tiling
from segkit.losses.tiled.resize import Resizing
from segkit.losses.tiled.tiling import Plan


@contextmanager
def small_tiles(elements: int = 60) -> Iterator[None]:
    """Many tiles, of some pixels each."""
    with (
        patch.multiple(tiling, CPU_ELEMENTS=elements, SMALLEST=elements),
        patch.multiple(resize, COLUMNS=3, SEGMENT=2),
    ):
        yield


@contextmanager
def threads(number: int) -> Iterator[None]:
    """That many threads, however little there is to do."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        with patch.multiple(tiling, WORTH_A_THREAD=1):
            yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=60, deadline=None)
@given(sizes=st.tuples(*[st.integers(1, 12)] * 4), batch=st.integers(1, 3), seed=st.integers(0, 1000))
def test_tiles_are_the_resized_logits_and_go_back_as_autograd_does(
    dtype: torch.dtype, sizes: tuple[int, int, int, int], batch: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, 3, *sizes[:2], generator=generator, dtype=dtype, requires_grad=True)
    expected = resize_logits(logits, sizes[2:])
    upstream = torch.randn(expected.shape, generator=generator, dtype=dtype)
    (slope,) = torch.autograd.grad(expected, logits, upstream)
    with small_tiles(), torch.no_grad():
        plan = Plan(Resizing(logits.detach(), sizes[2:]), held_at_once=2)
        ours, (band,) = plan.resizing, plan.bands()
        full, seen, gradient = torch.empty_like(expected), torch.zeros(batch, *sizes[2:]), ours.gradient()
        for tile in plan.tiles(band):
            where = (tile.images, slice(None), tile.rows, tile.columns)
            full[where] = ours.tile(tile).transpose(1, 2)
            seen[tile.images, tile.rows, tile.columns] += 1
            ours.add_gradient(tile, upstream[where].transpose(1, 2).contiguous(), gradient, (0, 0))
        for number in range(3):
            torch.testing.assert_close(ours.one_class(number), expected[:, number])
            torch.testing.assert_close(ours.transposed(upstream[:, number]), slope[:, number])
    assert bool((seen == 1).all())
    torch.testing.assert_close(full, expected)
    torch.testing.assert_close(gradient, slope)


def resized(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    plan = Plan(Resizing(logits, size), held_at_once=2)
    full = torch.empty(*logits.shape[:2], *size)
    for tile in plan.tiles(plan.bands()[0]):
        full[tile.images, :, tile.rows, tile.columns] = plan.resizing.tile(tile).transpose(1, 2)
    return full


def test_any_layout_of_logits_will_do() -> None:
    logits = torch.randn(2, 3, 5, 7)
    spread = torch.empty(2, 6, 5, 14)[:, ::2, :, ::2].copy_(logits)
    for other in (logits.to(memory_format=torch.channels_last), spread):
        assert torch.equal(resized(logits, (10, 14)), resized(other, (10, 14)))


def test_positions_far_along_a_side_are_those_of_the_library() -> None:
    """F.interpolate places pixels in float32: at a ratio that is no power of two its weights are off by some 1e-5."""
    logits = torch.randn(1, 2, 3, 1500) * 100
    torch.testing.assert_close(resized(logits, (3, 4999)), resize_logits(logits, (3, 4999)), atol=1e-4, rtol=1e-6)
