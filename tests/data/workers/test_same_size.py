from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.contracts import Batch, Targets
from segkit.data.workers.same_size import equal_sizes

ONE_SAMPLE = 4 * 10 * 10
"""Bytes of the largest sample below, three channels and a mask."""


def sample(number: int, edge: int, dtype: torch.dtype = torch.uint8) -> Batch:
    pixels = torch.full((1, 3, 10, edge), number, dtype=dtype)
    return Batch(pixels, Targets(pixels[:, 0].to(torch.uint8)), (str(number),))


@settings(max_examples=100, deadline=None)
@given(edges=st.lists(st.sampled_from([7, 8, 9, 10]), max_size=40), batch_size=st.integers(1, 5))
def test_every_sample_comes_once_in_batches_as_full_as_they_can_be(edges: list[int], batch_size: int) -> None:
    batches = list(equal_sizes((sample(*pair) for pair in enumerate(edges)), batch_size))
    assert sorted(int(id) for batch in batches for id in batch.ids) == list(range(len(edges)))
    assert len(batches) == sum(-(-number // batch_size) for number in Counter(edges).values())
    for batch in batches:
        assert len(batch) == len(batch.images) == len(batch.mask) <= batch_size
        for index, id in enumerate(batch.ids):
            assert batch.images[index].unique().tolist() == batch.mask[index].unique().tolist() == [int(id)]
            assert batch.images.shape[-1] == edges[int(id)]


@settings(max_examples=100, deadline=None)
@given(edges=st.lists(st.integers(1, 10), max_size=60), held=st.integers(0, 10))
def test_what_waits_is_bounded_whatever_the_number_of_sizes(edges: list[int], held: int) -> None:
    """No more than `held` samples wait while the next is read."""
    waiting: set[int] = set()

    def read() -> Iterator[Batch]:
        for number, edge in enumerate(edges):
            assert sum(edges[other] for other in waiting) * 40 <= held * ONE_SAMPLE
            waiting.add(number)
            yield sample(number, edge)

    for batch in equal_sizes(read(), 4, held_bytes=held * ONE_SAMPLE):
        waiting -= {int(id) for id in batch.ids}
    assert not waiting


def test_types_are_not_mixed() -> None:
    batches = [sample(0, 8), sample(1, 8, torch.float32), sample(2, 8)]
    assert [batch.ids for batch in equal_sizes(batches, 4)] == [("0", "2"), ("1",)]


def test_full_batches_pass_as_they_are() -> None:
    batch = next(iter(equal_sizes([sample(0, 8)], 1)))
    assert list(equal_sizes([batch, batch], 1))[1] is batch
