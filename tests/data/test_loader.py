from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.contracts import Batch, DataError, LabelSpace, Sample, UserError
from segkit.data.loader import EvaluationLoader, TrainLoader

LABELS = LabelSpace(("a", "b"), ((0, 0, 0), (255, 255, 255)))


class Numbered:
    """Sample i is an image full of i; what is listed in `sizes` has that many rows instead of 2."""

    labels = LABELS

    def __init__(self, length: int, *, sizes: dict[int, int] | None = None, bad: int = -1, kill: int = -1) -> None:
        self.length = length
        self.sizes = sizes or {}
        self.bad = bad
        self.kill = kill

    def __len__(self) -> int:
        return self.length

    def read(self, index: int) -> Sample:
        if index == self.bad:
            raise DataError(f"images/{index}.png: damaged")
        if index == self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        rows = self.sizes.get(index, 2)
        return Sample(np.full((rows, 3, 3), index, np.uint8), np.full((rows, 3), index % 2, np.uint8), str(index))


def add_noise(sample: Sample, seed: int) -> Sample:
    noise = np.random.default_rng(seed).integers(0, 50, sample.image.shape, dtype=np.uint8)
    return Sample(sample.image + noise, sample.mask, sample.id)


def keep(sample: Sample, seed: int) -> Sample:
    return sample


def train_loader(source: Any, transform: Any = add_noise, **keys: Any) -> TrainLoader:
    return TrainLoader(source, transform, **{"batch_size": 4, "seed": 0, "num_workers": 0, **keys})


def flat(step: list[Batch]) -> list[tuple[tuple[str, ...], bytes, bytes]]:
    return [(batch.ids, batch.images.numpy().tobytes(), batch.mask.numpy().tobytes()) for batch in step]


def first_steps(loader: TrainLoader, count: int, start: int = 0) -> list[Any]:
    try:
        return [flat(step) for step in itertools.islice(loader.batches(start), count)]
    finally:
        loader.close()


def children() -> list[psutil.Process]:
    return psutil.Process().children()


def test_an_epoch_takes_every_sample_once() -> None:
    loader = train_loader(Numbered(10))
    assert loader.steps_per_epoch == 3
    steps = [[len(batch) for batch in step] for step in itertools.islice(loader.batches(0), 6)]
    assert steps == [[4], [4], [2], [4], [4], [2]]
    epochs = first_steps(loader, 6)
    ids = [[id for step in epochs[start : start + 3] for batch in step for id in batch[0]] for start in (0, 3)]
    assert sorted(ids[0], key=int) == sorted(ids[1], key=int) == [str(index) for index in range(10)]
    assert ids[0] != ids[1]


def test_accumulated_steps_never_straddle_epochs() -> None:
    loader = train_loader(Numbered(9), batch_size=2, accumulate=2)
    assert loader.steps_per_epoch == 3
    steps = [[len(batch) for batch in step] for step in itertools.islice(loader.batches(0), 4)]
    assert steps == [[2, 2], [2, 2], [1], [2, 2]]


@pytest.mark.parametrize("num_workers", [1, 3])
def test_workers_change_nothing(num_workers: int) -> None:
    keys = {"accumulate": 2, "batch_size": 3}
    alone = first_steps(train_loader(Numbered(10), **keys), 6)
    assert first_steps(train_loader(Numbered(10), num_workers=num_workers, **keys), 6) == alone


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 12),
    batch_size=st.integers(1, 5),
    accumulate=st.integers(1, 4),
    start=st.integers(0, 12),
)
def test_starting_late_equals_skipping(length: int, batch_size: int, accumulate: int, start: int) -> None:
    def loader() -> TrainLoader:
        return train_loader(Numbered(length), batch_size=batch_size, accumulate=accumulate)

    assert first_steps(loader(), 3, start) == first_steps(loader(), 3 + start)[start:]


def test_starting_late_reads_nothing_of_what_is_skipped() -> None:
    reads: list[int] = []

    class Counted(Numbered):
        def read(self, index: int) -> Sample:
            reads.append(index)
            return super().read(index % 100)

    first_steps(train_loader(Counted(1000)), 1, start=249_999)
    assert len(reads) == 4


def test_augmentation_differs_by_seed_epoch_and_sample() -> None:
    def images(seed: int) -> list[bytes]:
        loader = train_loader(Numbered(2, sizes={}), seed=seed, batch_size=1)
        noise = [step[0].images.numpy() - int(step[0].ids[0]) for step in itertools.islice(loader.batches(0), 6)]
        return [image.tobytes() for image in noise]

    assert len({*images(0), *images(1)}) == 12


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_global_generators_are_left_alone(num_workers: int) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    first_steps(train_loader(Numbered(5), num_workers=num_workers), 3)
    evaluation = EvaluationLoader(Numbered(5), split="val", batch_size=2, num_workers=num_workers)
    list(evaluation)
    evaluation.close()
    assert torch.equal(torch.rand(1), expected)


def test_batches_hold_small_integers_channels_first() -> None:
    batch = next(train_loader(Numbered(1), keep).batches(0))[0]
    assert (batch.images.shape, batch.images.dtype) == ((1, 3, 2, 3), torch.uint8)
    assert (batch.mask.shape, batch.mask.dtype) == ((1, 2, 3), torch.uint8)
    assert batch.images.is_contiguous()


def test_8_bit_and_deeper_images_meet_in_0_to_1() -> None:
    class Mixed(Numbered):
        def read(self, index: int) -> Sample:
            sample = super().read(index)
            image = np.full((2, 3, 3), 255, np.uint8) if index else np.ones((2, 3, 3), np.float32)
            return Sample(image, sample.mask.astype(np.int32), sample.id)

    batch = next(train_loader(Mixed(2), keep).batches(0))[0]
    assert (batch.images.dtype, batch.mask.dtype) == (torch.float32, torch.int32)
    assert batch.images.unique().tolist() == [1.0]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_file_arrives_as_itself(num_workers: int) -> None:
    loader = train_loader(Numbered(4, bad=2), num_workers=num_workers)
    with pytest.raises(DataError) as error:
        first_steps(loader, 1)
    assert str(error.value) == "images/2.png: damaged"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_file_in_evaluation_arrives_as_itself(num_workers: int) -> None:
    loader = EvaluationLoader(Numbered(4, bad=2), split="val", batch_size=2, num_workers=num_workers)
    with pytest.raises(DataError) as error:
        list(loader)
    assert str(error.value) == "images/2.png: damaged"
    loader.close()


def test_a_killed_worker_is_told_as_such() -> None:
    loader = train_loader(Numbered(4, kill=2), num_workers=2)
    with pytest.raises(RuntimeError, match=r"a data worker died .* lower trainer\.num_workers"):
        first_steps(loader, 1)
    assert children() == []


def test_a_hanging_worker_is_given_up() -> None:
    def hang(sample: Sample, seed: int) -> Sample:
        time.sleep(60)
        return sample

    loader = train_loader(Numbered(4), hang, num_workers=1, timeout_s=0.5)
    with pytest.raises(RuntimeError, match=r"no batch came from the data workers within 0\.5 s"):
        next(loader.batches(0))
    loader.close()
    assert children() == []


def test_other_errors_keep_their_traceback() -> None:
    def fail(sample: Sample, seed: int) -> Sample:
        raise ZeroDivisionError("the user's own bug")

    with pytest.raises(ZeroDivisionError, match=r"(?s)in fail.*the user's own bug"):
        first_steps(train_loader(Numbered(4), fail, num_workers=1), 1)


def test_close_ends_the_workers_at_once() -> None:
    loader = train_loader(Numbered(100), num_workers=2)
    next(loader.batches(0))
    assert len(children()) == 2
    start = time.monotonic()
    loader.close()
    assert children() == []
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_outlive_signals_to_the_group(number: signal.Signals) -> None:
    """The parent decides what a Ctrl-C ends; until then its batches keep coming."""
    loader = train_loader(Numbered(100), num_workers=1)
    steps: Iterator[list[Batch]] = loader.batches(0)
    next(steps)
    children()[0].send_signal(number)
    for _ in range(20):
        next(steps)
    loader.close()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_samples_of_different_sizes_do_not_stack(num_workers: int) -> None:
    loader = train_loader(Numbered(2, sizes={1: 5}), keep, num_workers=num_workers)
    with pytest.raises(UserError, match=r"different sizes: .*let it crop or resize, or set trainer\.batch_size=1"):
        first_steps(loader, 1)


def test_training_needs_a_sample() -> None:
    with pytest.raises(UserError, match="has no samples"):
        train_loader(Numbered(0))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_keeps_order_and_sizes(num_workers: int) -> None:
    source = Numbered(9, sizes={4: 5, 5: 5})
    loader = EvaluationLoader(source, split="val", batch_size=3, num_workers=num_workers)
    assert (loader.split, len(loader), loader.labels) == ("val", 9, LABELS)
    for _ in range(2):
        batches = list(loader)
        # Groups 012, 345 and 678; the second holds a change of size.
        assert [batch.ids for batch in batches] == [("0", "1", "2"), ("3",), ("4", "5"), ("6", "7", "8")]
        assert [batch.images.shape[-2] for batch in batches] == [2, 2, 5, 2]
    loader.close()
    assert children() == []


def test_an_evaluation_left_halfway_starts_afresh() -> None:
    loader = EvaluationLoader(Numbered(20), split="val", batch_size=2, num_workers=2)
    next(iter(loader))
    assert [id for batch in loader for id in batch.ids] == [str(index) for index in range(20)]
    loader.close()
    assert children() == []
