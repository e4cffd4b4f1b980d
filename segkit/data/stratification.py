"""Groups of samples dealt out to parts so that every class is shared out alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def stratified(
    amounts: NDArray[np.int64], groups: Sequence[int], shares: Sequence[float], seed: int
) -> NDArray[np.int64]:
    """The part (N,) that each of N samples belongs to; samples of one group are never parted.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, "On the stratification of multi-label
    data", algorithm 1) of amounts instead of labels: the class that the fewest remaining groups hold comes
    first, of its groups the one with most of it, which goes to the part that lacks most of that class for its
    size. Other than there, a part takes no more samples than its share while another has room.

    Args:
        amounts: of each class in each sample, (N, K).
        groups: number of the group of each sample.
        shares: of each part, above 0, with a sum of 1.
        seed: decides between equals.
    """
    ids, members = np.unique(np.asarray(groups, np.int64), return_inverse=True)
    sizes = np.bincount(members, minlength=len(ids))
    held = np.zeros((len(ids), amounts.shape[1]))
    np.add.at(held, members, amounts)
    random = np.random.default_rng(seed)
    weight = np.asarray(shares, np.float64) / sum(shares)
    room = _whole_numbers(weight * len(groups), random)
    lacking = weight[:, None] * held.sum(axis=0)
    # A column for what groups without any class have: themselves.
    held = np.hstack([held, sizes[:, None]])
    lacking = np.hstack([lacking, (weight * len(groups))[:, None]])
    tie = random.permutation(len(ids))
    part_of = np.full(len(ids), -1)
    remaining = np.ones(len(ids), bool)
    while remaining.any():
        column = _rarest(held, remaining)
        candidates = np.flatnonzero(remaining & (held[:, column] > 0))
        for group in candidates[np.lexsort((tie[candidates], -held[candidates, column]))]:
            part = _neediest(lacking[:, column] / weight, room, int(sizes[group]), random)
            part_of[group] = part
            lacking[part] -= held[group]
            room[part] -= sizes[group]
        remaining[candidates] = False
    return part_of[members]


def _rarest(held: NDArray[np.float64], remaining: NDArray[np.bool_]) -> int:
    """The class that the fewest remaining groups hold, of equals the one with least; the last column if none."""
    holders = (held[remaining, :-1] > 0).sum(axis=0)
    if not holders.any():
        return held.shape[1] - 1
    amounts = held[remaining, :-1].sum(axis=0)
    order = np.lexsort((amounts, np.where(holders > 0, holders, np.iinfo(np.int64).max)))
    return int(order[0])


def _neediest(need: NDArray[np.float64], room: NDArray[np.int64], size: int, random: np.random.Generator) -> int:
    """The part with the largest need among those with room for `size` samples; else the one with most room."""
    open_parts = np.flatnonzero(room >= size)
    if not len(open_parts):
        open_parts = np.flatnonzero(room == room.max())
    best = open_parts[need[open_parts] >= need[open_parts].max() - 1e-9]
    return int(best[0] if len(best) == 1 else random.choice(best))


def _whole_numbers(sizes: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.int64]:
    """Whole numbers with the same sum, each within 1 of its own; the largest remainders are rounded up."""
    whole = np.floor(sizes + 1e-9).astype(np.int64)
    left = round(float(sizes.sum())) - int(whole.sum())
    order = np.lexsort((random.random(len(sizes)), -(sizes - whole).round(9)))
    whole[order[:left]] += 1
    return whole
