"""Batches of equal size out of samples whose sizes come mixed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from segkit.contracts import Batch

HELD_BYTES = 256 << 20
"""Decoded samples that wait for others of their size, at most, and the batches being made of them beside."""


def equal_sizes(batches: Iterable[Batch], batch_size: int, *, held_bytes: int = HELD_BYTES) -> Iterator[Batch]:
    """The samples of `batches` in batches of `batch_size`, as far as so many have the same size and types.

    Samples wait until there are enough of their size, in memory that does not grow with the number of sizes: above
    `held_bytes` the size that holds most of it goes first, however few its samples are. The order depends on the
    samples alone.
    """
    waiting: dict[tuple[object, ...], list[Batch]] = {}
    held = 0
    for batch in batches:
        key = (batch.images.shape[1:], batch.images.dtype, batch.mask.shape[1:], batch.mask.dtype)
        group = waiting.setdefault(key, [])
        group.append(batch)
        held += _bytes(batch)
        while sum(map(len, group)) >= batch_size:
            full, rest = _split(_joined(group), batch_size)
            held -= _bytes(full)
            group[:] = [rest] if len(rest) else []
            yield full
        if not group:
            del waiting[key]
        while held > held_bytes:
            largest = max(waiting, key=lambda key: sum(map(_bytes, waiting[key])))
            joined = _joined(waiting.pop(largest))
            held -= _bytes(joined)
            yield joined
    yield from map(_joined, waiting.values())


def _joined(batches: list[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    joined = Batch.joined(batches)
    return joined.pin_memory() if batches[0].images.is_pinned() else joined


def _split(batch: Batch, size: int) -> tuple[Batch, Batch]:
    if len(batch) == size:
        return batch, batch[:0]
    # Copied, or it would keep the memory of the whole.
    return batch[:size], batch[size:].clone()


def _bytes(batch: Batch) -> int:
    return batch.images.nbytes + batch.mask.nbytes
