"""Samples by the keys that loaders plan, as they are or augmented, and what stands in for those that are broken."""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch.utils.data import Dataset

from segkit.contracts import DataError, ReadingTransform, Sample, SampleSource, Transform, UserError
from segkit.data.transforms.apply import augmented, read
from segkit.data.workers.collate import REPLACEMENTS, Item, Skipped

OnError = Literal["raise", "skip"]


class PlainSamples(Dataset[Item]):
    """Samples by index."""

    def __init__(self, source: SampleSource, on_error: OnError) -> None:
        self.source = source
        self.on_error = on_error

    def __getitem__(self, index: int) -> Item:
        try:
            return read(self.source, index)
        except UserError as error:
            return Skipped(error) if self.on_error == "skip" and isinstance(error, DataError) else error


class AugmentedSamples(Dataset[Item]):
    """Augmented samples by (epoch, index)."""

    def __init__(
        self, source: SampleSource, transform: Transform | ReadingTransform, seed: int, on_error: OnError
    ) -> None:
        self.source = source
        self.transform = transform
        self.seed = seed
        self.on_error = on_error

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        try:
            return self._augmented(index, place=key)
        except DataError as error:
            return Skipped(error, self._replacement(epoch, index)) if self.on_error == "skip" else error
        except UserError as error:
            return error

    def _augmented(self, index: int, *, place: tuple[int, int]) -> Sample:
        """Sample number `index` augmented for its place, the (epoch, index) that was planned."""
        epoch, planned = place
        # 0 in the last place is the order of the epoch.
        seed = int(np.random.SeedSequence([self.seed, epoch, 1 + planned]).generate_state(1)[0])
        return augmented(self.transform, self.source, index, seed)

    def _replacement(self, epoch: int, index: int) -> Sample | None:
        """The first sample that can be used of those drawn for the place of (epoch, index)."""
        # 1 in the last place are replacements.
        draws = np.random.default_rng([self.seed, epoch, 1 + index, 1])
        for other in draws.integers(len(self.source), size=REPLACEMENTS).tolist():
            try:
                return self._augmented(other, place=(epoch, index))
            except DataError:
                continue
        return None
