from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.contracts import Batch, DataError, LabelSpace, Sample, UserError
from segkit.data.files.file_list import FileList
from segkit.data.loader import EvaluationLoader, TrainLoader, default_workers
from segkit.errors import RunFailure

LABELS = LabelSpace(("a", "b"), ((0, 0, 0), (255, 255, 255)))


class Numbered:
    """Sample i is an image full of i; what is listed in `sizes` has that many rows instead of 2."""

    labels = LABELS

    def __init__(
        self, length: int, *, sizes: dict[int, int] | None = None, bad: int | set[int] = -1, kill: int = -1
    ) -> None:
        self.length = length
        self.sizes = sizes or {}
        self.bad = bad if isinstance(bad, set) else {bad}
        self.kill = kill

    def __len__(self) -> int:
        return self.length

    def name(self, index: int) -> str:
        return f"images/{index}.png"

    def read(self, index: int) -> Sample:
        if index in self.bad:
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


before: set[int] = set()


@pytest.fixture(autouse=True)
def _others() -> None:
    """Processes that other tests have left, such as the one that delivers to MLflow."""
    before.clear()
    before.update(child.pid for child in psutil.Process().children())


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if child.pid not in before]


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


class TestSkipping:
    """With on_error=skip."""

    def epoch(self, bad: set[int], **keys: Any) -> tuple[list[str], int]:
        """The ids of one epoch of 20 samples, and how many were skipped."""
        loader = train_loader(Numbered(20, bad=bad), on_error="skip", **keys)
        try:
            ids = [id for step in itertools.islice(loader.batches(0), 5) for batch in step for id in batch.ids]
        finally:
            loader.close()
        return ids, loader.samples_skipped

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_another_sample_stands_in_counted_and_logged(
        self, num_workers: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        whole, none = self.epoch(set())
        ids, skipped = self.epoch({3, 8}, num_workers=num_workers)
        assert (none, skipped) == (0, 2)
        assert len(ids) == 20
        assert not {"3", "8"} & set(ids)
        # All others stand where they stood.
        assert [new for new, old in zip(ids, whole, strict=True) if new != old and old not in ("3", "8")] == []
        messages = sorted(record.getMessage() for record in caplog.records)
        assert messages == [f"skipped a sample: images/{index}.png: damaged" for index in (3, 8)]

    def test_what_stands_in_depends_on_the_broken_files_alone(self) -> None:
        ids = self.epoch({3, 8})
        assert self.epoch({3, 8}, num_workers=2) == ids
        loader = train_loader(Numbered(20, bad={3, 8}), on_error="skip")
        late = [id for step in itertools.islice(loader.batches(3), 2) for batch in step for id in batch.ids]
        assert late == ids[0][12:]
        # One more broken file changes nothing but the places where it stood itself, or stood in.
        more = self.epoch({3, 8, 11})[0]
        assert {old for old, new in zip(ids[0], more, strict=True) if old != new} == {"11"}

    @settings(max_examples=25, deadline=None)
    @given(st.sets(st.integers(0, 19), max_size=18))
    def test_the_count_is_exact(self, bad: set[int]) -> None:
        ids, skipped = self.epoch(bad)
        assert skipped == len(bad)
        assert not {str(index) for index in bad} & set(ids)

    def test_prefetched_batches_count_only_when_they_are_used(self) -> None:
        loader = train_loader(Numbered(20, bad=set(range(0, 20, 2))), on_error="skip", num_workers=2)
        steps = loader.batches(0)
        assert loader.samples_skipped == 0
        for _ in range(5):
            next(steps)
        loader.close()
        assert loader.samples_skipped == 10

    def test_augmentation_differs_between_the_places_of_a_stand_in(self) -> None:
        loader = train_loader(Numbered(2, bad={1}), on_error="skip", batch_size=1)
        images = [step[0].images.numpy().tobytes() for step in itertools.islice(loader.batches(0), 6)]
        assert len(set(images)) == 6

    @pytest.mark.parametrize("num_workers", [0, 1])
    def test_nothing_but_broken_files_ends_it(self, num_workers: int) -> None:
        with pytest.raises(DataError, match=r"images/\d\.png: damaged; 100 samples drawn to take its place could not"):
            self.epoch(set(range(20)), num_workers=num_workers)

    def test_only_data_is_skipped(self) -> None:
        def refuse(sample: Sample, seed: int) -> Sample:
            raise UserError("transform.size=0")

        with pytest.raises(UserError, match=r"transform\.size=0"):
            first_steps(train_loader(Numbered(4), refuse, on_error="skip"), 1)

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_evaluation_leaves_them_out(self, num_workers: int, caplog: pytest.LogCaptureFixture) -> None:
        source = Numbered(9, bad={0, 1, 4})
        loader = EvaluationLoader(source, split="val", batch_size=2, num_workers=num_workers, on_error="skip")
        for _ in range(2):
            assert [id for batch in loader for id in batch.ids] == ["2", "3", "5", "6", "7", "8"]
            assert loader.samples_skipped == 3
        loader.close()
        assert len(caplog.records) == 6

    def test_an_evaluation_of_nothing_is_no_evaluation(self) -> None:
        loader = EvaluationLoader(Numbered(3, bad={0, 1, 2}), split="val", batch_size=2, num_workers=0, on_error="skip")
        with pytest.raises(DataError, match="not one of the 3 samples of the val split could be used"):
            list(loader)


class Listed(Numbered):
    """As many samples as entries in a list of files, of which only the names are looked at."""

    def __init__(self, files: FileList) -> None:
        super().__init__(len(files))
        self.files = files

    def read(self, index: int) -> Sample:
        assert self.files.name(index)
        return super().read(index % 200)


def own_memory(num_files: int) -> float:
    """Megabytes that a worker holds for itself after 100 batches of a list of so many files."""
    files = FileList(Path("/data"), (f"images/city_{index:08d}_leftImg8bit.png" for index in range(num_files)))
    loader = train_loader(Listed(files), num_workers=1, batch_size=16)
    steps = loader.batches(0)
    for _ in range(100):
        next(steps)
    [worker] = children()
    used = worker.memory_full_info().uss / 2**20
    loader.close()
    evaluation = EvaluationLoader(Listed(files), split="val", batch_size=16, num_workers=1)
    batches = iter(evaluation)
    for _ in range(20):
        next(batches)
    [worker] = children()
    used = max(used, worker.memory_full_info().uss / 2**20)
    evaluation.close()
    return used


def test_memory_of_workers_does_not_grow_with_the_number_of_files() -> None:
    few = own_memory(1000)
    # The names are 34 MB as arrays, and some 100 MB as a list of strings.
    assert own_memory(1_000_000) < few + 8


@pytest.mark.parametrize(
    ("device", "cores", "workers"), [("cpu", 64, 0), ("cuda", 1, 1), ("cuda", 4, 3), ("cuda", 64, 8)]
)
def test_workers_unless_told(device: str, cores: int, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    assert default_workers(device) == workers


def test_a_killed_worker_is_told_as_such() -> None:
    loader = train_loader(Numbered(4, kill=2), num_workers=2)
    with pytest.raises(
        RunFailure, match=r"was killed \(SIGKILL\) while reading images/2\.png.* lower trainer\.num_workers"
    ):
        first_steps(loader, 1)
    assert children() == []


def test_a_hanging_worker_is_given_up() -> None:
    def hang(sample: Sample, seed: int) -> Sample:
        time.sleep(60)
        return sample

    loader = train_loader(Numbered(4), hang, num_workers=1, timeout_s=0.5)
    with pytest.raises(
        RunFailure, match=r"has been reading images/\d\.png for \d s: .* raise trainer\.data_timeout_s=0\.5"
    ):
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
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
def test_samples_of_one_size_share_a_batch_wherever_they_are(num_workers: int) -> None:
    source = Numbered(9, sizes={4: 5, 5: 5})
    loader = EvaluationLoader(source, split="val", batch_size=3, num_workers=num_workers)
    assert (loader.split, len(loader), loader.labels) == ("val", 9, LABELS)
    assert loader.name(7) == "images/7.png"
    for _ in range(2):
        batches = list(loader)
        assert [batch.ids for batch in batches] == [("0", "1", "2"), ("3", "6", "7"), ("8",), ("4", "5")]
        assert [batch.images.shape[-2] for batch in batches] == [2, 2, 2, 5]
        assert all(str(int(batch.images[i, 0, 0, 0])) == id for batch in batches for i, id in enumerate(batch.ids))
    loader.close()
    assert children() == []


def test_an_evaluation_left_halfway_starts_afresh() -> None:
    loader = EvaluationLoader(Numbered(20), split="val", batch_size=2, num_workers=2)
    next(iter(loader))
    assert [id for batch in loader for id in batch.ids] == [str(index) for index in range(20)]
    loader.close()
    assert children() == []
