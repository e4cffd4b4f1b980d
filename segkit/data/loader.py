"""Samples to batches: training data as a function of position, and evaluation data at its own sizes."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from segkit.contracts import Batch, LabelSpace, Sample, SampleSource, Transform, UserError


class TrainLoader:
    """Micro-batches of augmented samples; implements `contracts.TrainingData`.

    The order of an epoch is a function of (seed, epoch), the augmentation of a sample one of (seed, epoch,
    index): neither depends on the number of workers, or on where training started. An optimizer step never
    straddles two epochs, and the last, smaller batch of an epoch is kept.

    Args:
        source: where samples come from.
        transform: augmentation; every sample must come out at the same size.
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
        transform: Transform,
        *,
        batch_size: int,
        accumulate: int = 1,
        seed: int,
        num_workers: int,
        pin_memory: bool = False,
        timeout_s: float = 600,
    ) -> None:
        if len(source) == 0:
            raise UserError("the training split of the dataset has no samples; training needs at least 1")
        self.num_samples = len(source)
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.seed = seed
        self._start_step = 0
        self._workers = _Workers(
            _AugmentedSamples(source, transform, seed),
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
        stream = iter(self._workers)
        for step in itertools.count(start_step):
            first = step % self.steps_per_epoch * self.accumulate
            yield list(itertools.islice(stream, min(self.accumulate, self._batches_per_epoch - first)))

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
            order = np.random.default_rng([self.seed, epoch, 0]).permutation(self.num_samples).tolist()
            for start in range(first, self.num_samples, self.batch_size):
                yield [(epoch, index) for index in order[start : start + self.batch_size]]
            first = 0


class EvaluationLoader:
    """One pass over a split in its own order, samples as they are; implements `contracts.EvaluationData`.

    Neighbours of the same size share a batch of at most `batch_size`; a change of size starts a new one.
    """

    def __init__(
        self,
        source: SampleSource,
        *,
        split: str,
        batch_size: int,
        num_workers: int,
        pin_memory: bool = False,
        timeout_s: float = 600,
    ) -> None:
        self.split = split
        self.labels: LabelSpace = source.labels
        self._num_samples = len(source)
        starts = range(0, self._num_samples, batch_size)
        groups = [list(range(start, min(start + batch_size, self._num_samples))) for start in starts]
        self._workers = _Workers(
            _PlainSamples(source),
            groups,
            collate=_collate_runs,
            num_workers=num_workers,
            pin_memory=pin_memory,
            timeout_s=timeout_s,
            persistent=True,
        )

    def __iter__(self) -> Iterator[Batch]:
        for batches in self._workers:
            yield from batches

    def __len__(self) -> int:
        return self._num_samples

    def close(self) -> None:
        """End the workers at once."""
        self._workers.close()


class _PlainSamples(Dataset[Sample | UserError]):
    """Samples by index. A UserError is an item too: raised in a worker, it would arrive in a traceback."""

    def __init__(self, source: SampleSource) -> None:
        self.source = source

    def __getitem__(self, index: int) -> Sample | UserError:
        try:
            return self.source.read(index)
        except UserError as error:
            return error


class _AugmentedSamples(Dataset[Sample | UserError]):
    """Augmented samples by (epoch, index), with a UserError as an item like `_PlainSamples`."""

    def __init__(self, source: SampleSource, transform: Transform, seed: int) -> None:
        self.source = source
        self.transform = transform
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> Sample | UserError:
        epoch, index = key
        # 0 in the last place is the order of the epoch.
        sample_seed = np.random.SeedSequence([self.seed, epoch, 1 + index]).generate_state(1)
        try:
            return self.transform(self.source.read(index), int(sample_seed[0]))
        except UserError as error:
            return error


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


def _collate_runs(samples: list[Sample | UserError]) -> list[Batch] | UserError:
    """One batch for each run of samples of the same size, or the first error among the samples."""
    sound: list[Sample] = []
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
        sound.append(sample)
    return [_stack(list(run)) for _, run in itertools.groupby(sound, key=lambda sample: sample.image.shape)]


def _collate_equal_sizes(samples: list[Sample | UserError]) -> Batch | UserError:
    """One batch of all the samples, or the first error among them, or that they differ in size."""
    batches = _collate_runs(samples)
    if isinstance(batches, UserError):
        return batches
    if len(batches) > 1:
        first, other = batches[0], batches[1]
        return UserError(
            f"transform gave samples of different sizes: {first.ids[0]} {tuple(first.images.shape[-2:])}, "
            f"{other.ids[0]} {tuple(other.images.shape[-2:])}; "
            "let it crop or resize, or set trainer.batch_size=1"
        )
    return batches[0]


def _stack(samples: list[Sample]) -> Batch:
    """Samples of one size as a batch, in the types they came in."""
    images = [sample.image for sample in samples]
    if any(image.dtype != np.uint8 for image in images):
        # A data set of 8-bit and deeper images; float images are in 0..1.
        images = [image / np.float32(255) if image.dtype == np.uint8 else image for image in images]
    masks = np.stack([sample.mask for sample in samples])
    if masks.ndim == 4:  # multi-label: one channel a class
        masks = masks.transpose(0, 3, 1, 2).copy()
    return Batch(
        torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy()),
        torch.from_numpy(masks),
        tuple(sample.id for sample in samples),
    )
