"""Groups of samples dealt out to parts so that every class is shared out alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def stratified(
    amounts: NDArray[np.int64], groups: Sequence[int], shares: Sequence[float], seed: int
) -> NDArray[np.int64]:
    """The part (N,) that each of N samples belongs to; samples of one group are never parted.

    Iterative stratification in the manner of Sechidis, Tsoumakas and Vlahavas 2011 ("On the stratification of
    multi-label data"): what is rarest is dealt out first, to the part that lacks most of it for its size. That
    algorithm takes one label at a time, yes or no; with amounts of pixels, it then leaves the frequent classes
    worse than chance does. Here a group counts by its share of all pixels of every class: the group with the
    largest share of any class comes first and goes where the sum over classes of lack times share is largest.
    A part takes no more samples than its own number while another has room.

    Args:
        amounts: of each class in each sample, (N, K).
        groups: number of the group of each sample.
        shares: of each part, above 0; only their proportions count.
        seed: decides between equals.
    """
    random = np.random.default_rng(seed)
    ids, members = np.unique(np.asarray(groups, np.int64), return_inverse=True)
    sizes = np.bincount(members, minlength=len(ids))
    # The samples themselves are a class too, which those without any other have.
    held = np.zeros((len(ids), amounts.shape[1] + 1))
    np.add.at(held, members, np.hstack([amounts, np.ones((len(amounts), 1))]))
    held /= np.maximum(held.sum(axis=0), 1)
    weights = np.asarray(shares, np.float64) / sum(shares)
    room = _whole_numbers(weights * len(groups), random)
    lack = np.repeat(weights[:, None], held.shape[1], axis=1)
    part_of = np.empty(len(ids), np.int64)
    for group in np.lexsort((random.permutation(len(ids)), -held.max(axis=1))):
        part = _neediest((lack / weights[:, None]) @ held[group], room, int(sizes[group]), random)
        part_of[group] = part
        lack[part] -= held[group]
        room[part] -= sizes[group]
    return part_of[members]


def _neediest(need: NDArray[np.float64], room: NDArray[np.int64], size: int, random: np.random.Generator) -> int:
    """The part with the largest need among those with room for `size` samples; else the one with most room."""
    candidates = np.flatnonzero(room >= size)
    if not len(candidates):
        candidates = np.flatnonzero(room == room.max())
    best = candidates[need[candidates] >= need[candidates].max() - 1e-12]
    return int(best[0] if len(best) == 1 else random.choice(best))


def _whole_numbers(sizes: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.int64]:
    """Whole numbers with the same sum, each within 1 of its own; the largest remainders are rounded up."""
    whole = np.floor(sizes + 1e-9).astype(np.int64)
    left = round(float(sizes.sum())) - int(whole.sum())
    order = np.lexsort((random.random(len(sizes)), -(sizes - whole).round(9)))
    whole[order[:left]] += 1
    return whole
