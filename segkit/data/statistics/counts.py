"""What a data set is made of, counted from its samples: pixels of each class, sizes, channel statistics, contents.

Counting decodes every file once. What was counted is appended to a cache at once, so that a count that was
killed goes on where it stopped, and every tool that asks again has its answer without reading an image.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from segkit.contracts import LabelSpace, Sample, SampleSource, UserError
from segkit.data.datasets.subsets import leaf
from segkit.data.files.decode import READING_VERSION
from segkit.data.statistics import verification
from segkit.data.transforms.apply import read
from segkit.data.workers.process import end_with
from segkit.errors import RunFailure

CHUNK = 8
"""Samples that one call to a process counts: large against the cost of the call, small against what a kill loses."""

NOT_COUNTED = frozenset(
    {
        "split",
        "mean",
        "std",
        "data_mean",
        "data_std",
        "crop_size",
        "epochs",
        "cache_dir",
        "class_names",
        "on_error",
        "decoded_cache",
    }
)
"""Fields of a source that change neither the pixels nor the ids that it reads."""


class SampleFacts(BaseModel):
    """One sample that could be read.

    Attributes:
        stamp: size and time of change of each of its files, or what else tells that it is still the same.
        shape: (height, width).
        pixels: of each class.
        ignored: pixels that belong to no class; of multi-label masks, ignored entries.
        content: digest of the decoded image.
        sums, squares: of each image channel and of its square, of values in 0..1, or in units of their own.
        orientations: of image and mask, 1..8 as in EXIF. 1: stored upright.
        verified: whether a second read and a second decoder gave the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stamp: str
    shape: tuple[int, int]
    pixels: tuple[int, ...]
    ignored: int
    content: str
    sums: tuple[float, ...]
    squares: tuple[float, ...]
    orientations: tuple[int, int] = (1, 1)
    verified: bool = False


@dataclass(frozen=True)
class Counted:
    """What was found of the samples of a source, in their order: facts, or what makes a sample unusable."""

    names: tuple[str, ...]
    found: tuple[SampleFacts | str, ...]
    labels: LabelSpace

    @property
    def facts(self) -> dict[str, SampleFacts]:
        """The facts of the usable samples, by name."""
        pairs = zip(self.names, self.found, strict=True)
        return {name: facts for name, facts in pairs if isinstance(facts, SampleFacts)}

    @property
    def problems(self) -> dict[str, str]:
        pairs = zip(self.names, self.found, strict=True)
        return {name: problem for name, problem in pairs if isinstance(problem, str)}

    def only(self, names: Collection[str]) -> Counted:
        """What was found of some of the samples."""
        wanted = set(names)
        kept = [pair for pair in zip(self.names, self.found, strict=True) if pair[0] in wanted]
        return Counted(tuple(name for name, _ in kept), tuple(found for _, found in kept), self.labels)

    @property
    def pixels(self) -> NDArray[np.int64]:
        """Pixels (N, K) of each class in each usable sample."""
        rows = [facts.pixels for facts in self.facts.values()]
        return np.array(rows, np.int64).reshape(len(rows), self.labels.num_classes)

    def mean_and_std(self) -> tuple[list[float], list[float]]:
        """Of each image channel over all pixels of the usable samples, in 0..1 or in their own units."""
        facts = list(self.facts.values())
        count = sum(height * width for height, width in (fact.shape for fact in facts))
        assert count, "there is at least one usable sample"
        mean = np.sum([fact.sums for fact in facts], axis=0) / count
        square = np.sum([fact.squares for fact in facts], axis=0) / count
        return mean.tolist(), np.sqrt(np.maximum(square - mean**2, 0)).tolist()

    def normalisation(self) -> dict[str, list[float]]:
        """`mean` and `std` as a config states them: four digits, and none of the latter 0, as they divide."""
        mean, std = self.mean_and_std()
        # What has no contrast has a spread of rounding errors.
        spread = [max(s, abs(m) / 1000) or 0.001 for m, s in zip(mean, std, strict=True)]
        return {"mean": [float(f"{m:.4g}") for m in mean], "std": [float(f"{s:.4g}") for s in spread]}

    def turned_apart(self) -> dict[str, str]:
        """Samples whose image EXIF turns otherwise than their mask, and how; see `verification.turned_apart`."""
        found = {name: verification.turned_apart(facts.shape, facts.orientations) for name, facts in self.facts.items()}
        return {name: how for name, how in found.items() if how is not None}


def count(
    source: SampleSource,
    cache_dir: Path | None,
    *,
    processes: int | None = None,
    on_progress: Callable[[int], None] | None = None,
    verify: bool = False,
) -> Counted:
    """Everything counted of `source`; samples that have not changed since an earlier count are not read again.

    Args:
        cache_dir: where counts are remembered; one that cannot be written is done without. None: nowhere.
        processes: that read at the same time; None: one a core.
        on_progress: told how many samples are done, the first time with those that were remembered.
        verify: read every sample twice, and images that are not of 8 bits with a second decoder as well; samples
            whose reads differ are not usable.
    """
    stamps = _stamps(source)
    names = tuple(source.name(index) for index in range(len(source)))
    file = None if cache_dir is None else cache_dir / f"counts-{fingerprint(source)}.jsonl"
    known = _load(file)
    found: list[SampleFacts | str | None] = []
    for name, now in zip(names, stamps, strict=True):
        remembered = known.get(name)
        usable = remembered is not None and remembered.stamp == now and (remembered.verified or not verify)
        found.append(remembered if usable else None)
    missing = [index for index, facts in enumerate(found) if facts is None]
    done = len(found) - len(missing)
    report = on_progress or (lambda _: None)
    report(done)
    with _appending(file) as append:
        for indices, counted in _counted(source, stamps, missing, processes, verify):
            for index, facts in zip(indices, counted, strict=True):
                found[index] = facts
                if isinstance(facts, SampleFacts):
                    append(names[index], facts)
            done += len(indices)
            report(done)
    return Counted(names, tuple(facts for facts in found if facts is not None), source.labels)


def fingerprint(source: SampleSource) -> str:
    """Digest of how a data set is read, the same for its splits: where it is, and what becomes of raw ids."""
    base: Any = leaf(source, 0)[0]
    facts: dict[str, Any] = {"pixels": READING_VERSION, "class": f"{type(base).__module__}.{type(base).__qualname__}"}
    if dataclasses.is_dataclass(base):
        fields = [field.name for field in dataclasses.fields(base) if field.init and field.name not in NOT_COUNTED]
        facts |= {name: getattr(base, name) for name in fields}
    if "root" in facts:
        facts["root"] = str(Path(facts["root"]).expanduser().absolute())
    labels = source.labels
    facts |= {"labels": [labels.num_classes, labels.ignore_index, labels.multilabel]}
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def count_sample(sample: Sample, labels: LabelSpace, stamp: str) -> SampleFacts:
    """Facts of one decoded sample."""
    mask = sample.mask
    if labels.multilabel:
        pixels = (mask == 1).sum(axis=(0, 1))
        ignored = int((mask == labels.ignore_index).sum())
    else:
        inside = (mask >= 0) & (mask < labels.num_classes)
        pixels = np.bincount(mask[inside].ravel(), minlength=labels.num_classes)
        ignored = mask.size - int(pixels.sum())
    image = sample.image
    scale = 255.0 if image.dtype == np.uint8 else 1.0
    flat = image.reshape(-1, image.shape[2])
    if image.dtype == np.uint8:
        # A histogram is exact, and faster than converting every pixel to a float.
        values = np.arange(256, dtype=np.float64)
        histograms = [np.bincount(flat[:, channel], minlength=256) for channel in range(flat.shape[1])]
        sums = [float(histogram @ values) / scale for histogram in histograms]
        squares = [float(histogram @ values**2) / scale**2 for histogram in histograms]
    else:
        sums = flat.sum(axis=0, dtype=np.float64).tolist()
        squares = np.square(flat, dtype=np.float64).sum(axis=0).tolist()
    content = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16)
    content.update(f"{image.shape} {image.dtype}".encode())
    return SampleFacts(
        stamp=stamp,
        shape=(mask.shape[0], mask.shape[1]),
        pixels=tuple(pixels.tolist()),
        ignored=ignored,
        content=content.hexdigest(),
        sums=tuple(sums),
        squares=tuple(squares),
    )


def _stamps(source: SampleSource) -> list[str]:
    """What changes when a sample does: sizes and times of its files, else the digest of its source."""
    digests: dict[int, str] = {}
    stamps: list[str] = []
    for index in range(len(source)):
        base, place = leaf(source, index)
        files = getattr(base, "paths", lambda _: None)(place)
        if files:
            stamps.append(" ".join(_status(path) for path in files))
        else:
            if id(base) not in digests:
                digests[id(base)] = base.identity()["digest"][:16]
            stamps.append(digests[id(base)])
    return stamps


def _status(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "missing"
    return f"{status.st_size}:{status.st_mtime_ns}"


def _counted(
    source: SampleSource, stamps: Sequence[str], indices: Sequence[int], processes: int | None, verify: bool
) -> Iterator[tuple[Sequence[int], list[SampleFacts | str]]]:
    """Chunks of indices with what was found of them, in the order in which they are asked for."""
    chunks = [indices[start : start + CHUNK] for start in range(0, len(indices), CHUNK)]
    processes = min(_cores() if processes is None else processes, len(chunks))
    # A daemon, such as a worker of some launchers, may have no children.
    if processes <= 1 or multiprocessing.current_process().daemon:
        for chunk in chunks:
            yield chunk, [_read_and_count(source, stamps[index], index, verify) for index in chunk]
        return
    with ProcessPoolExecutor(processes, initializer=_prepare_process, initargs=(source, os.getpid())) as pool:
        waiting = [pool.submit(_count_chunk, [(index, stamps[index]) for index in chunk], verify) for chunk in chunks]
        try:
            for chunk, future in zip(chunks, waiting, strict=True):
                yield chunk, future.result()
        except BrokenProcessPool as error:
            raise RunFailure(
                "a process that reads the data died; if nobody killed it, memory ran out: use fewer processes"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _read_and_count(source: SampleSource, stamp: str, index: int, verify: bool) -> SampleFacts | str:
    try:
        sample = read(source, index)
        problem = verification.mismatch(source, index, sample) if verify else None
        if problem is not None:
            return problem
        found = {"verified": verify, "orientations": verification.orientations(source, index)}
        return count_sample(sample, source.labels, stamp).model_copy(update=found)
    except UserError as problem:
        return str(problem)


_source: SampleSource | None = None


def _prepare_process(source: SampleSource, parent: int) -> None:
    """Hand the source over once, leave threads and Ctrl-C to the parent, and end when the parent is gone."""
    global _source
    _source = source
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A parent that was killed cannot tell its pool to end, and the pool would wait for work for ever.
    end_with(parent, by_signal=False)


def _count_chunk(tasks: Sequence[tuple[int, str]], verify: bool) -> list[SampleFacts | str]:
    assert _source is not None
    return [_read_and_count(_source, stamp, index, verify) for index, stamp in tasks]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _load(file: Path | None) -> Mapping[str, SampleFacts]:
    """What the cache holds by name; the last word on a name counts, and a torn line is passed over."""
    known: dict[str, SampleFacts] = {}
    if file is None:
        return known
    with contextlib.suppress(OSError), file.open("rb") as lines:
        for line in lines:
            try:
                entry = json.loads(line)
                name = entry.pop("name")
                known[name] = SampleFacts.model_validate(entry)
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                continue
    return known


@contextlib.contextmanager
def _appending(file: Path | None) -> Iterator[Callable[[str, SampleFacts], None]]:
    """A function that adds a line to the cache, handed to the system at once."""
    descriptor = None
    if file is not None:
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                os.write(descriptor, b"\n")  # a kill tore the last line; it ends here

    def append(name: str, facts: SampleFacts) -> None:
        if descriptor is not None:
            line = json.dumps({"name": name, **facts.model_dump()}) + "\n"
            with contextlib.suppress(OSError):
                # One write a line: other processes that append at the same time cannot come in between.
                os.write(descriptor, line.encode())

    try:
        yield append
    finally:
        if descriptor is not None:
            os.close(descriptor)
