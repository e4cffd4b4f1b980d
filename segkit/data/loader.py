"""Samples to batches: training data as a function of position, and evaluation data at its own sizes."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator

import numpy as np

from segkit.contracts import Batch, DataError, LabelSpace, ReadingTransform, SampleSource, Transform, UserError
from segkit.data.workers.collate import collate_equal_sizes, collate_runs
from segkit.data.workers.pool import Workers
from segkit.data.workers.same_size import equal_sizes
from segkit.data.workers.samples import AugmentedSamples, OnError, PlainSamples
from segkit.run.machine import available_cores

MOST_WORKERS = 8

log = logging.getLogger(__name__)


class TrainLoader:
    """Micro-batches of augmented samples; implements `contracts.TrainingData`.

    The order of an epoch is a function of (seed, epoch), the augmentation of a sample one of (seed, epoch,
    index): neither depends on the number of workers, or on where training started. An optimizer step never
    straddles two epochs, and the last, smaller batch of an epoch is kept.

    With `on_error="skip"` a sample with a file that cannot be used is replaced by one drawn from (seed, epoch,
    index) and, should that fail too, by the next so drawn: what stands in its place depends on which files are
    broken, and on nothing else. Every skip is logged with the file's name, and counted.

    Args:
        source: where samples come from.
        transform: augmentation; every sample must come out at the same size.
        on_error: what a file that cannot be used does: raise DataError, or have its sample skipped.
        batch_size: samples in a micro-batch.
        accumulate: micro-batches in an optimizer step.
        seed: of order and augmentation, 0 or more.
        num_workers: processes that read and augment; 0: none, it is done here.
        pin_memory: give batches in page-locked memory, for a CUDA device.
        timeout_s: longest that a worker may take for one sample before it counts as hanging, in seconds.
    """

    def __init__(
        self,
        source: SampleSource,
        transform: Transform | ReadingTransform,
        *,
        batch_size: int,
        accumulate: int = 1,
        seed: int,
        num_workers: int,
        on_error: OnError = "raise",
        pin_memory: bool = False,
        timeout_s: float = 25,
    ) -> None:
        if len(source) == 0:
            raise UserError("the training split of the dataset has no samples; training needs at least 1")
        self.num_samples = len(source)
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.seed = seed
        self.samples_skipped = 0
        self._start_step = 0
        self._workers = Workers(
            AugmentedSamples(source, transform, seed, on_error),
            _KeyBatches(self._key_batches),
            collate=collate_equal_sizes,
            name=source.name,
            num_workers=num_workers,
            pin_memory=pin_memory,
            timeout_s=timeout_s,
            persistent=False,
        )

    @property
    def steps_per_epoch(self) -> int:
        return -(-self._batches_per_epoch // self.accumulate)

    def batches(self, start_step: int) -> Iterator[list[Batch]]:
        self._start_step = start_step
        stream = self._counted(iter(self._workers))
        for step in itertools.count(start_step):
            first = step % self.steps_per_epoch * self.accumulate
            yield list(itertools.islice(stream, min(self.accumulate, self._batches_per_epoch - first)))

    def _counted(self, stream: Iterator[tuple[Batch, list[DataError]]]) -> Iterator[Batch]:
        for batch, skipped in stream:
            self.samples_skipped += _logged(skipped)
            yield batch

    def close(self) -> None:
        """End the workers at once."""
        self._workers.close()

    @property
    def _batches_per_epoch(self) -> int:
        return -(-self.num_samples // self.batch_size)

    def _key_batches(self) -> Iterator[list[tuple[int, int]]]:
        """The (epoch, index) of the samples of each micro-batch from the start step on, without end."""
        start_epoch, step = divmod(self._start_step, self.steps_per_epoch)
        first = step * self.accumulate * self.batch_size
        for epoch in itertools.count(start_epoch):
            order = np.random.default_rng([self.seed, epoch, 0]).permutation(self.num_samples)
            for start in range(first, self.num_samples, self.batch_size):
                yield [(epoch, index) for index in order[start : start + self.batch_size].tolist()]
            first = 0


class EvaluationLoader:
    """One pass over a split, samples as they are; implements `contracts.EvaluationData`.

    Samples of the same size share batches of `batch_size`, wherever in the split they are, as `equal_sizes` says: the
    order is the split's own where all have one size. With `on_error="skip"` samples with a file that cannot be used
    are left out, logged and counted.
    """

    def __init__(
        self,
        source: SampleSource,
        *,
        split: str,
        batch_size: int,
        num_workers: int,
        on_error: OnError = "raise",
        pin_memory: bool = False,
        timeout_s: float = 25,
    ) -> None:
        self.split = split
        self.labels: LabelSpace = source.labels
        self.name = source.name
        self.samples_skipped = 0
        self._num_samples = len(source)
        self._batch_size = batch_size
        self._pin_memory = pin_memory
        self._workers = Workers(
            PlainSamples(source, on_error),
            _Groups(self._num_samples, batch_size),
            collate=collate_runs,
            name=source.name,
            num_workers=num_workers,
            pin_memory=pin_memory,
            timeout_s=timeout_s,
            persistent=True,
        )

    def __iter__(self) -> Iterator[Batch]:
        self.samples_skipped = 0
        for batch in equal_sizes(self._runs(), self._batch_size):
            yield batch.pin_memory() if self._pin_memory and not batch.images.is_pinned() else batch
        if self._num_samples and self.samples_skipped == self._num_samples:
            raise DataError(f"not one of the {self._num_samples} samples of the {self.split} split could be used")

    def _runs(self) -> Iterator[Batch]:
        """Neighbours of one size."""
        for batches, skipped in self._workers:
            self.samples_skipped += _logged(skipped)
            yield from batches

    def __len__(self) -> int:
        return self._num_samples

    def close(self) -> None:
        """End the workers at once."""
        self._workers.close()


class _Groups:
    """Lists of neighbouring indices, made as they are asked for: a list of a million would be held by every worker."""

    def __init__(self, num_samples: int, batch_size: int) -> None:
        self.num_samples = num_samples
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, self.num_samples, self.batch_size):
            yield list(range(start, min(start + self.batch_size, self.num_samples)))


class _KeyBatches:
    """An iterable that starts afresh from `make` each time, as a batch sampler must."""

    def __init__(self, make: Callable[[], Iterator[list[tuple[int, int]]]]) -> None:
        self.make = make

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self.make()


def default_workers(device_type: str) -> int:
    """Processes that read and augment, for whoever does not say how many.

    A GPU leaves the cores free, so they read ahead: all but one, up to eight. On a CPU none: the cores that
    train are those that would read, so that nothing runs at the same time, and what a sample takes is a
    hundredth of what its training step takes.
    """
    return 0 if device_type == "cpu" else max(1, min(MOST_WORKERS, available_cores() - 1))


def _logged(skipped: list[DataError]) -> int:
    for error in skipped:
        log.warning("skipped a sample: %s", error)
    return len(skipped)
