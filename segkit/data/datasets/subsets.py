"""Parts of data sets, and several of them in a row, as sources of their own."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Protocol, runtime_checkable

import numpy as np

from segkit.contracts import DataError, Sample, SampleSource, SampleView, UserError
from segkit.data.datasets.source import Split
from segkit.data.files.inspection import Faults

MakeSource = Callable[..., SampleSource]
"""Called with `split="train"`, "val" or "test"."""

SHOWN = 5


@runtime_checkable
class SortedFaults(Protocol):
    """A source that tells its faults by kind."""

    def faults(self) -> Faults: ...


class Pool(SampleSource):
    """The samples of several splits in a row.

    Raises UserError when two samples have the same name, so that a name leaves open which is meant.
    """

    def __init__(self, sources: Sequence[SampleSource]) -> None:
        self.sources = tuple(sources)
        self.labels = sources[0].labels
        self.on_error = sources[0].on_error
        self._is_sound = False
        self.starts = np.cumsum([0, *(len(source) for source in sources)])
        names = Counter(self.name(index) for index in range(len(self)))
        if twice := [name for name, times in names.items() if times > 1]:
            raise UserError(
                f"{shown(twice)}: in more than one split of the data set; a sample needs one name of its own"
            )

    def __len__(self) -> int:
        return int(self.starts[-1])

    def at(self, index: int) -> tuple[SampleSource, int]:
        """The source that holds sample number `index`, and its number there."""
        place = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.sources[place], index - int(self.starts[place])

    def over(self, wrap: Callable[[SampleSource], SampleSource]) -> Pool:
        """The same samples through what `wrap` makes of the sources."""
        wrapped = copy(self)
        wrapped.sources = tuple(wrap(source) for source in self.sources)
        return wrapped

    def name(self, index: int) -> str:
        source, place = self.at(index)
        return source.name(place)

    def read(self, index: int) -> Sample:
        source, place = self.at(index)
        return source.read(place)

    def check(self) -> None:
        """Once: the training and the evaluation part of a fold ask the same pool."""
        if self._is_sound:
            return
        problems: list[str] = []
        for source in self.sources:
            try:
                source.check()
            except DataError as error:
                problems.append(str(error))
        if problems:
            raise DataError("\n".join(problems))
        self._is_sound = True

    def faults(self) -> Faults:
        merged = Faults()
        for source in self.sources:
            merged = merged | faults_of(source)
        return merged

    def identity(self) -> Mapping[str, str]:
        parts = [source.identity() for source in self.sources]
        return {
            "root": parts[0]["root"],
            "split": "+".join(part["split"] for part in parts),
            "samples": str(len(self)),
            "digest": hashlib.sha256("\n".join(part["digest"] for part in parts).encode()).hexdigest(),
        }


class Subset(SampleSource):
    """Some samples of a source, by name, in the order of the source.

    Args:
        source: whose samples these are; nothing else can be read through a subset.
        names: of the samples; all must be there.
        split: what the subset is called in the record.

    Raises UserError naming those that `source` does not have.
    """

    def __init__(self, source: SampleSource, names: Sequence[str], split: str) -> None:
        wanted = set(names)
        places = {source.name(index): index for index in range(len(source))}
        if missing := [name for name in names if name not in places]:
            raise UserError(
                f"split: {shown(missing)}: listed for {split}, but no sample of the data set; "
                f"allowed are names such as {next(iter(places), 'none: it is empty')}"
            )
        self.base_source = source
        self.labels = source.labels
        self.on_error = source.on_error
        self.split = split
        self.indices = np.array([place for name, place in places.items() if name in wanted], np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def over(self, wrap: Callable[[SampleSource], SampleSource]) -> Subset:
        """The same samples through what `wrap` makes of the source."""
        wrapped = copy(self)
        wrapped.base_source = wrap(self.base_source)
        return wrapped

    def name(self, index: int) -> str:
        return self.base_source.name(int(self.indices[index]))

    def at(self, index: int) -> tuple[SampleSource, int]:
        """The source that this is a part of, and the number there of sample number `index`."""
        return self.base_source, int(self.indices[index])

    def read(self, index: int) -> Sample:
        return self.base_source.read(int(self.indices[index]))

    def check(self) -> None:
        self.base_source.check()

    def identity(self) -> Mapping[str, str]:
        base = self.base_source.identity()
        digest = hashlib.sha256(base["digest"].encode())
        for index in range(len(self)):
            digest.update(b"\0" + self.name(index).encode("utf-8", "surrogateescape"))
        return {"root": base["root"], "split": self.split, "samples": str(len(self)), "digest": digest.hexdigest()}


def pooled(make_source: MakeSource, splits: Sequence[Split]) -> Pool:
    """The samples of `splits` of a data set in one source. Raises UserError, with a hint, for one it has not."""
    sources: list[SampleSource] = []
    for split in splits:
        try:
            sources.append(make_source(split=split))
        except UserError as error:
            if len(splits) == 1:
                raise
            others = [other for other in splits if other != split and _is_there(make_source, other)]
            if not others:
                raise
            raise UserError(
                f"{error}\nIf the data set has no {split} split: split.pool=[{','.join(others)}] "
                "(pool=[...] of scripts/make_splits.py) does without it"
            ) from None
    return Pool(sources)


def _is_there(make_source: MakeSource, split: Split) -> bool:
    try:
        make_source(split=split)
    except UserError:
        return False
    return True


def faults_of(source: SampleSource) -> Faults:
    """The faults of a source by kind; of one that does not sort them, what its check says."""
    if isinstance(source, SortedFaults):
        return source.faults()
    faults = Faults()
    try:
        source.check()
    except DataError as error:
        faults.add(str(error), getattr(source, "split", "data"))
    return faults


def leaf(source: SampleSource, index: int) -> tuple[SampleSource, int]:
    """The source, and the number in it, that sample number `index` of a view on sources comes from."""
    return leaf(*source.at(index)) if isinstance(source, SampleView) else (source, index)


def shown(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    text = ", ".join(names[:SHOWN])
    return text if len(names) <= SHOWN else f"{text} and {len(names) - SHOWN} more"
