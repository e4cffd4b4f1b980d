"""Samples to batches: training data as a function of position, and evaluation data at its own sizes."""

from __future__ import annotations

import itertools
import logging
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from segkit.contracts import (
    Batch,
    DataError,
    LabelSpace,
    ReadingTransform,
    Sample,
    SampleSource,
    Transform,
    UserError,
)
from segkit.data.augmentation import augmented

OnError = Literal["raise", "skip"]
REPLACEMENTS = 100  # tried for a sample that cannot be used, before giving up
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
        timeout_s: how long to wait for a worker's batch before giving up, in seconds.
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
        timeout_s: float = 600,
    ) -> None:
        if len(source) == 0:
            raise UserError("the training split of the dataset has no samples; training needs at least 1")
        self.num_samples = len(source)
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.seed = seed
        self.samples_skipped = 0
        self._start_step = 0
        self._workers = _Workers(
            _AugmentedSamples(source, transform, seed, on_error),
            _KeyBatches(self._key_batches),
            collate=_collate_equal_sizes,
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
    """One pass over a split in its own order, samples as they are; implements `contracts.EvaluationData`.

    Neighbours of the same size share a batch of at most `batch_size`; a change of size starts a new one. With
    `on_error="skip"` samples with a file that cannot be used are left out, logged and counted.
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
        timeout_s: float = 600,
    ) -> None:
        self.split = split
        self.labels: LabelSpace = source.labels
        self.samples_skipped = 0
        self._num_samples = len(source)
        self._workers = _Workers(
            _PlainSamples(source, on_error),
            _Groups(self._num_samples, batch_size),
            collate=_collate_runs,
            num_workers=num_workers,
            pin_memory=pin_memory,
            timeout_s=timeout_s,
            persistent=True,
        )

    def __iter__(self) -> Iterator[Batch]:
        self.samples_skipped = 0
        for batches, skipped in self._workers:
            self.samples_skipped += _logged(skipped)
            yield from batches
        if self._num_samples and self.samples_skipped == self._num_samples:
            raise DataError(f"not one of the {self._num_samples} samples of the {self.split} split could be used")

    def __len__(self) -> int:
        return self._num_samples

    def close(self) -> None:
        """End the workers at once."""
        self._workers.close()


@dataclass(frozen=True)
class _Skipped:
    """A sample that could not be used, and what stands in its place, if anything does."""

    error: DataError
    replacement: Sample | None = None


# What a worker makes of one key. A UserError is an item too: raised in a worker, it would arrive in a traceback.
_Item = Sample | _Skipped | UserError


class _PlainSamples(Dataset[_Item]):
    """Samples by index."""

    def __init__(self, source: SampleSource, on_error: OnError) -> None:
        self.source = source
        self.on_error = on_error

    def __getitem__(self, index: int) -> _Item:
        try:
            return self.source.read(index)
        except UserError as error:
            return _Skipped(error) if self.on_error == "skip" and isinstance(error, DataError) else error


class _AugmentedSamples(Dataset[_Item]):
    """Augmented samples by (epoch, index)."""

    def __init__(
        self, source: SampleSource, transform: Transform | ReadingTransform, seed: int, on_error: OnError
    ) -> None:
        self.source = source
        self.transform = transform
        self.seed = seed
        self.on_error = on_error

    def __getitem__(self, key: tuple[int, int]) -> _Item:
        epoch, index = key
        try:
            return self._augmented(index, place=key)
        except DataError as error:
            return _Skipped(error, self._replacement(epoch, index)) if self.on_error == "skip" else error
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


class _Workers:
    """A DataLoader whose workers die with it, and whose failures say what to do.

    Iterating gives what `collate` makes of each group of items; a UserError that `collate` returns is raised.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        groups: Iterable[list[Any]],
        *,
        collate: Callable[[list[Any]], Any],
        num_workers: int,
        pin_memory: bool,
        timeout_s: float,
        persistent: bool,
    ) -> None:
        self._timeout_s = timeout_s
        self._loader = DataLoader(
            dataset,
            batch_sampler=groups,
            collate_fn=collate,
            num_workers=num_workers,
            pin_memory=pin_memory,
            timeout=timeout_s if num_workers else 0,
            worker_init_fn=_prepare_worker,
            persistent_workers=persistent and num_workers > 0,
            # Its own generator: the loader seeds workers by a draw, which must not move the global one.
            generator=torch.Generator().manual_seed(0),
        )
        self._iterator: Any = None

    def __iter__(self) -> Iterator[Any]:
        self._iterator = iter(self._loader)
        while (item := self._next()) is not None:
            if isinstance(item, UserError):
                raise item
            yield item

    def _next(self) -> Any:
        try:
            return next(self._iterator, None)
        except RuntimeError as error:
            if "timed out" in str(error):
                raise RuntimeError(
                    f"no batch came from the data workers within {self._timeout_s:g} s; "
                    "is the file system that holds the data hanging?"
                ) from error
            if "DataLoader worker" in str(error) and "Caught" not in str(error):
                raise RuntimeError(
                    f"a data worker died ({error}); if memory ran out, lower trainer.num_workers"
                ) from error
            raise

    def close(self) -> None:
        iterator, self._iterator = self._iterator, None
        self._loader._iterator = None  # where PyTorch keeps persistent workers
        # PyTorch offers no public way to end workers before the garbage collector does.
        if hasattr(iterator, "_shutdown_workers"):
            iterator._shutdown_workers()
            for worker in iterator._workers:
                worker.kill()
                worker.join()


def _prepare_worker(worker: int) -> None:
    """Leave threads to the training process, and the end of the run to it as well."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    # Ctrl-C and a scheduler's SIGTERM reach the whole process group; the parent still needs its batch then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def default_workers(device_type: str) -> int:
    """Processes that read and augment, for whoever does not say how many.

    A GPU leaves the cores free, so they read ahead: all but one, up to eight. On a CPU none: the cores that
    train are those that would read, so that nothing runs at the same time, and what a sample takes is a
    hundredth of what its training step takes.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if device_type == "cpu" else max(1, min(MOST_WORKERS, cores - 1))


def _logged(skipped: list[DataError]) -> int:
    for error in skipped:
        log.warning("skipped a sample: %s", error)
    return len(skipped)


def _sorted_out(items: list[_Item]) -> tuple[list[Sample], list[DataError]] | UserError:
    """The samples to use and why others were skipped, or the first error among the items."""
    sound: list[Sample] = []
    skipped: list[DataError] = []
    for item in items:
        if isinstance(item, UserError):
            return item
        if isinstance(item, _Skipped):
            skipped.append(item.error)
        sample = item.replacement if isinstance(item, _Skipped) else item
        if sample is not None:
            sound.append(sample)
    return sound, skipped


def _collate_runs(items: list[_Item]) -> tuple[list[Batch], list[DataError]] | UserError:
    """One batch for each run of samples of the same size, and why others are left out; or the first error."""
    sorted_out = _sorted_out(items)
    if isinstance(sorted_out, UserError):
        return sorted_out
    sound, skipped = sorted_out
    runs = itertools.groupby(sound, key=lambda sample: sample.image.shape)
    return [_stack(list(run)) for _, run in runs], skipped


def _collate_equal_sizes(items: list[_Item]) -> tuple[Batch, list[DataError]] | UserError:
    """One batch of as many samples as items, and why others were replaced; or the first error among them."""
    collated = _collate_runs(items)
    if isinstance(collated, UserError):
        return collated
    batches, skipped = collated
    if sum(map(len, batches)) < len(items):
        return DataError(f"{skipped[0]}; {REPLACEMENTS} samples drawn to take its place could not be used either")
    if len(batches) > 1:
        first, other = batches[0], batches[1]
        return UserError(
            f"transform gave samples of different sizes: {first.ids[0]} {tuple(first.images.shape[-2:])}, "
            f"{other.ids[0]} {tuple(other.images.shape[-2:])}; "
            "let it crop or resize, or set trainer.batch_size=1"
        )
    return batches[0], skipped


def _stack(samples: list[Sample]) -> Batch:
    """Samples of one size as a batch, in the types they came in."""
    images = [sample.image for sample in samples]
    if any(image.dtype != np.uint8 for image in images):
        # A data set of 8-bit and deeper images; float images are in 0..1.
        images = [image / np.float32(255) if image.dtype == np.uint8 else image for image in images]
    height, width, channels = images[0].shape
    images_BCHW = np.empty((len(images), channels, height, width), images[0].dtype)
    for image, planes in zip(images, images_BCHW, strict=True):
        # OpenCV takes channels apart three times as fast as NumPy.
        cv2.split(image, list(planes))
    masks = [sample.mask if sample.mask.ndim == 2 else np.moveaxis(sample.mask, -1, 0) for sample in samples]
    return Batch(
        torch.from_numpy(images_BCHW),
        torch.from_numpy(np.stack(masks)),
        tuple(sample.id for sample in samples),
    )
