"""Tiles and matrices against the resizing that they stand for."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.contracts import resize_logits
from segkit.losses import resizing
from segkit.losses.resizing import Resizing

SMALL = {"CPU_ELEMENTS": 60, "SMALLEST": 60, "COLUMNS": 3, "SEGMENT": 2}


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
    with patch.multiple(resizing, **SMALL), torch.no_grad():
        ours = Resizing(logits.detach(), sizes[2:])
        full, seen, gradient = torch.empty_like(expected), torch.zeros(batch, *sizes[2:]), ours.gradient()
        for tile in ours.tiles(held_at_once=2):
            where = (tile.images, slice(None), tile.rows, tile.columns)
            full[where] = ours.tile(tile).transpose(1, 2)
            seen[tile.images, tile.rows, tile.columns] += 1
            ours.add_gradient(tile, upstream[where].transpose(1, 2).contiguous(), gradient)
        for number in range(3):
            torch.testing.assert_close(ours.one_class(number), expected[:, number])
            torch.testing.assert_close(ours.transposed(upstream[:, number]), slope[:, number])
    assert bool((seen == 1).all())
    torch.testing.assert_close(full, expected)
    torch.testing.assert_close(gradient, slope)


def test_any_layout_of_logits_will_do() -> None:
    logits = torch.randn(2, 3, 5, 7)
    for other in (logits.to(memory_format=torch.channels_last), logits.repeat(1, 2, 1, 1)[:, ::2] * 0 + logits):
        tiles = [Resizing(x, (10, 14)) for x in (logits, other)]
        first, second = (r.tile(next(iter(r.tiles(2)))).clone() for r in tiles)
        assert torch.equal(first, second)


def test_positions_far_along_a_side_are_those_of_the_library() -> None:
    """F.interpolate places pixels in float32: at a ratio that is no power of two its weights are off by some 1e-5."""
    logits = torch.randn(1, 2, 3, 1500) * 100
    expected = resize_logits(logits, (3, 4999))
    ours = Resizing(logits, (3, 4999))
    full = torch.cat([ours.tile(tile).transpose(1, 2).clone() for tile in ours.tiles(2)], dim=3)
    torch.testing.assert_close(full, expected, atol=1e-4, rtol=1e-6)
