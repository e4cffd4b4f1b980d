"""Samples as tensors, and what gives them to training and evaluation.

Shape suffixes: B batch, C classes or channels, H W full-size pixels, h w pixels at a head's own stride.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from segkit.errors import UserError


@dataclass(frozen=True)
class Targets:
    """What is to be predicted of the samples of a batch.

    Attributes:
        mask: (B, H, W) uint8, or int32 where ids exceed 255; multi-label (B, K, H, W) uint8.
    """

    mask: Tensor

    def each(self, function: Callable[[Tensor], Tensor]) -> Targets:
        """These with `function` applied to each of their tensors."""
        return Targets(function(self.mask))

    @classmethod
    def joined(cls, parts: Sequence[Targets]) -> Targets:
        return cls(torch.cat([part.mask for part in parts]))


@dataclass(frozen=True)
class Batch:
    """Samples of one size, as small integers: a quarter to a fifth of the bytes of floats and int64 ids.

    Attributes:
        images: (B, C, H, W) uint8 RGB as decoded (float32 for inputs that are not 8-bit).
        targets: what is to be predicted of them.
        ids: B sample ids.
    """

    images: Tensor
    targets: Targets
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def mask(self) -> Tensor:
        return self.targets.mask

    def each(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The same samples with `function` applied to each tensor, whose first dimension stays."""
        return Batch(function(self.images), self.targets.each(function), self.ids)

    def __getitem__(self, part: slice) -> Batch:
        """Some of the samples, in memory that is shared with the whole."""
        return Batch(self.images[part], self.targets.each(lambda tensor: tensor[part]), self.ids[part])

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        return self.each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        return self.each(Tensor.pin_memory)

    def clone(self) -> Batch:
        return self.each(Tensor.clone)

    @classmethod
    def joined(cls, parts: Sequence[Batch]) -> Batch:
        """Samples of several batches of one size, in a row."""
        return cls(
            torch.cat([part.images for part in parts]),
            Targets.joined([part.targets for part in parts]),
            tuple(id for part in parts for id in part.ids),
        )


def integer_mask(mask: Tensor, *ids: int) -> Tensor:
    """`mask` in a type that PyTorch computes with on every device and that can hold `ids` too: itself, or as int64.

    A number that the type cannot hold is compared by its lowest bits: in uint8, 255 == -1 and 44 == 300.

    Raises UserError for masks that are not of integers.
    """
    if mask.is_floating_point() or mask.is_complex():
        found = str(mask.dtype).removeprefix("torch.")
        raise UserError(f"masks are {found}; allowed: integers of any type, as in mask.astype(numpy.int64)")
    if mask.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        bounds = torch.iinfo(mask.dtype)
        if all(bounds.min <= id <= bounds.max for id in ids):
            return mask
    return mask.long()


def num_valid(mask: Tensor, ignore_index: int) -> Tensor:
    """How many entries of a mask are not `ignore_index`, an int64 scalar."""
    return (integer_mask(mask, ignore_index) != ignore_index).sum()


class TrainingData(Protocol):
    """Micro-batches of training data as a function of position, so that a resume starts anywhere.

    Attributes:
        samples_skipped: samples given so far in whose place another stands, because a file could not be used.
    """

    samples_skipped: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the data."""
        ...

    def batches(self, start_step: int) -> Iterator[list[Batch]]:
        """The micro-batches of each optimizer step from `start_step` on, across epochs, without end."""
        ...

    def close(self) -> None:
        """End the workers at once."""
        ...


class EvaluationData(Protocol):
    """One pass over a split at the samples' own sizes, in any order that is the same every time.

    Attributes:
        samples_skipped: samples left out of the last pass because a file could not be used.
    """

    samples_skipped: int

    @property
    def split(self) -> str: ...

    def name(self, index: int) -> str:
        """The id that sample number `index` of the split has, without reading it."""
        ...

    def __iter__(self) -> Iterator[Batch]: ...

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def close(self) -> None:
        """End the workers at once."""
        ...
