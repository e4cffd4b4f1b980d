"""What a data set is made of, counted from its samples: pixels of each class, sizes, channel statistics, contents.

Counting decodes every file once. What was counted is appended to a cache at once, so that a count that was
killed goes on where it stopped, and every tool that asks again has its answer without reading an image.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import cv2
import numpy as np

from segkit.contracts import LabelSpace, Sample, SampleSource, UserError
from segkit.data.statistics import verification
from segkit.data.statistics.counts_cache import appending, fingerprint, load, stamps_of
from segkit.data.statistics.sample_facts import Counted, SampleFacts
from segkit.data.transforms.apply import read
from segkit.data.workers.process import end_with
from segkit.errors import RunFailure
from segkit.run.machine import available_cores

CHUNK = 8
"""Samples that one call to a process counts: large against the cost of the call, small against what a kill loses."""


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
    stamps = stamps_of(source)
    names = tuple(source.name(index) for index in range(len(source)))
    file = None if cache_dir is None else cache_dir / f"counts-{fingerprint(source)}.jsonl"
    known = load(file)
    found: list[SampleFacts | str | None] = []
    for name, now in zip(names, stamps, strict=True):
        remembered = known.get(name)
        usable = remembered is not None and remembered.stamp == now and (remembered.verified or not verify)
        found.append(remembered if usable else None)
    missing = [index for index, facts in enumerate(found) if facts is None]
    done = len(found) - len(missing)
    report = on_progress or (lambda _: None)
    report(done)
    with appending(file) as append:
        for indices, counted in _counted(source, stamps, missing, processes, verify):
            for index, facts in zip(indices, counted, strict=True):
                found[index] = facts
                if isinstance(facts, SampleFacts):
                    append(names[index], facts)
            done += len(indices)
            report(done)
    return Counted(names, tuple(facts for facts in found if facts is not None), source.labels)


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


def _counted(
    source: SampleSource, stamps: Sequence[str], indices: Sequence[int], processes: int | None, verify: bool
) -> Iterator[tuple[Sequence[int], list[SampleFacts | str]]]:
    """Chunks of indices with what was found of them, in the order in which they are asked for."""
    chunks = [indices[start : start + CHUNK] for start in range(0, len(indices), CHUNK)]
    processes = min(available_cores() if processes is None else processes, len(chunks))
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
        facts = count_sample(sample, source.labels, stamp)
        if not verify:
            return facts
        return facts.model_copy(update={"verified": True, "orientations": verification.orientations(source, index)})
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
