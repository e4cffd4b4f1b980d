"""Single samples, the sources that they are read from, and what augments them.

Shape suffixes: B batch, C classes or channels, H W full-size pixels, h w pixels at a head's own stride.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from numpy.typing import NDArray

from segkit.contracts.label_space import LabelSpace


@dataclass(frozen=True)
class Sample:
    """One decoded image with its mask, before or after augmentation.

    Attributes:
        image: (H, W, C) uint8 RGB as decoded, or float32 for inputs that are not 8-bit.
        mask: (H, W) uint8, or int32 where ids exceed 255; class ids and the ignore id only. Multi-label:
            (H, W, K) uint8, one channel a class, of 0, 1 and the ignore id.
        id: what a person calls the sample: a path relative to the data set's root, or a generated name.
    """

    image: NDArray[Any]
    mask: NDArray[Any]
    id: str


@runtime_checkable
class SampleSource(Protocol):
    """One split of a data set: a fixed sequence of samples, each read on its own and the same every time."""

    labels: LabelSpace
    on_error: Literal["raise", "skip"]

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """The id that sample number `index` has, without reading it."""
        ...

    def read(self, index: int) -> Sample:
        """Sample number `index`. Raises DataError naming the file when it cannot be used."""
        ...

    def check(self) -> None:
        """Raise DataError listing every offending file (up to a limit). Called once before the first step."""
        ...

    def identity(self) -> Mapping[str, str]:
        """What names this data for the record: root, split, number of samples, and a digest of the file list."""
        ...


@runtime_checkable
class SampleView(Protocol):
    """A source whose samples are those of other sources, some of them or several in a row."""

    def at(self, index: int) -> tuple[SampleSource, int]:
        """The source that sample number `index` comes from, and its number there."""
        ...


@runtime_checkable
class StoredSamples(Protocol):
    """A source whose samples lie in files, by which a count tells whether a sample is still the same."""

    def paths(self, index: int) -> Sequence[Path] | None:
        """The files of sample number `index`; None: it is in none."""
        ...


class Transform(Protocol):
    """Augmentation as a pure function of the sample and a seed."""

    def __call__(self, sample: Sample, seed: int) -> Sample: ...


@runtime_checkable
class ReadingTransform(Protocol):
    """Augmentation that reads for itself: only as much of a sample as it needs, or other samples too."""

    def read(self, source: SampleSource, index: int, seed: int) -> Sample:
        """Sample number `index` augmented: a function of the source, the index and the seed, and of nothing else."""
        ...
