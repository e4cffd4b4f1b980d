"""Which samples train, which evaluate: the data set's own splits, lists of names, or folds."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from segkit.contracts import DataError, SampleSource, UserError
from segkit.data.datasets.source import Split
from segkit.data.datasets.subsets import MakeSource, Pool, Subset, pooled, shown
from segkit.data.statistics.counts import count
from segkit.data.statistics.folds import as_named, digest, make_folds, read_list

log = logging.getLogger(__name__)


class Splitting(Protocol):
    """What the config node `split` builds.

    Attributes:
        digest: of the lists of samples it goes by; None for the data set's own splits, and before the first call.
    """

    digest: str | None

    def __call__(self, make_source: MakeSource, split: Split) -> SampleSource: ...


class Official:
    """The splits that the data set itself has."""

    digest: str | None = None

    def __call__(self, make_source: MakeSource, split: Split) -> SampleSource:
        return make_source(split=split)


@dataclass(kw_only=True, eq=False)
class _Listed:
    """Splits that name their samples. A subclass gives `lists`, and `called`, a word for the record.

    Args:
        pool: splits of the data set whose samples may be listed.
        digest: of the lists; a run keeps that of its own, so that no later evaluation meets other lists, which
            might hold what the run was trained on.

    Raises UserError for names that are no sample and for samples listed twice.
    """

    pool: Sequence[Split] = ("train", "val")
    digest: str | None = None
    _source: Pool | None = field(default=None, init=False, repr=False)

    def __call__(self, make_source: MakeSource, split: Split) -> SampleSource:
        lists = self.lists(make_source)
        self._compare(digest(lists))
        if split not in lists:
            return make_source(split=split)
        source = self._pooled(make_source)
        everything = {source.name(index) for index in range(len(source))}
        lists = {part: as_named(names, everything) for part, names in lists.items()}
        times = Counter(name for names in lists.values() for name in names)
        if twice := [name for name, number in times.items() if number > 1]:
            raise UserError(f"split: {shown(twice)}: listed more than once; a sample belongs to one list")
        if missing := [name for name in times if name not in everything]:
            raise UserError(
                f"split: {shown(missing)}: listed, but no sample of the data set's splits {' and '.join(self.pool)}; "
                f"allowed are names such as {next(iter(everything), 'none: there are no samples')}"
            )
        if split == "train" and (left := len(everything) - len(times)):
            log.warning("%d samples of the data set are in no list and take no part", left)
        return Subset(source, lists[split], f"{split} of {self.called}")

    def lists(self, make_source: MakeSource) -> dict[str, list[str]]:
        """Sample names for train, val and perhaps test."""
        raise NotImplementedError

    @property
    def called(self) -> str:
        raise NotImplementedError

    def _pooled(self, make_source: MakeSource) -> Pool:
        if self._source is None:
            self._source = pooled(make_source, self.pool)
        return self._source

    def _compare(self, found: str) -> None:
        if self.digest not in (None, found):
            raise UserError(
                f"split: these are other lists of samples ({found}) than those of the training run ({self.digest}), "
                "which may have trained on what would be evaluated; the lists or the data set have changed"
            )
        self.digest = found


@dataclass(kw_only=True, eq=False)
class Lists(_Listed):
    """Splits from lists of sample names: `train.txt`, `val.txt` and, if there is one, `test.txt`, one name a line.

    Without a `test.txt`, the test split is the data set's own.

    Args, besides those above:
        folder: that holds the lists.
    """

    folder: str

    def lists(self, make_source: MakeSource) -> dict[str, list[str]]:
        folder = Path(self.folder).expanduser()
        lists = {part: read_list(folder / f"{part}.txt") for part in ("train", "val")}
        if (folder / "test.txt").exists():
            lists["test"] = read_list(folder / "test.txt")
        return lists

    @property
    def called(self) -> str:
        return Path(self.folder).name


@dataclass(kw_only=True, eq=False)
class KFold(_Listed):
    """One fold evaluates and the others train; `-m split.fold=0,1,2,3,4` is a cross-validation.

    Args, besides those above:
        fold: the one that evaluates, from 0 on.
        folds: how many there are.
        folder: lists made by `scripts/make_splits.py`; None: the folds are made here, and are the same for the
            same data, `folds`, `seed` and `group_pattern`.
        seed: of the folds; not that of the run, so that runs share their folds.
        group_pattern: a regular expression; samples in whose names it finds the same text stay together. Its
            first group is what counts, else the whole match.
        cache_dir: where the pixels counted of each sample are remembered.
    """

    fold: int
    folds: int = 5
    folder: str | None = None
    seed: int = 0
    group_pattern: str | None = None
    cache_dir: str | None = None
    _folds: dict[str, list[str]] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise UserError(f"split.folds={self.folds}; allowed: 2 or more")
        if not 0 <= self.fold < self.folds:
            raise UserError(f"split.fold={self.fold}; allowed: 0..{self.folds - 1} (split.folds={self.folds})")

    def lists(self, make_source: MakeSource) -> dict[str, list[str]]:
        if self._folds is None:
            self._folds = self._made(make_source) if self.folder is None else self._read(Path(self.folder).expanduser())
        lists: dict[str, list[str]] = {"train": [], "val": []}
        for name, samples in self._folds.items():
            lists.setdefault({f"fold_{self.fold}": "val", "test": "test"}.get(name, "train"), []).extend(samples)
        return lists

    @property
    def called(self) -> str:
        return f"fold {self.fold} of {self.folds}"

    def _made(self, make_source: MakeSource) -> dict[str, list[str]]:
        source = self._pooled(make_source)
        if source.on_error == "raise":
            source.check()
        counted = count(source, None if self.cache_dir is None else Path(self.cache_dir))
        if counted.problems and source.on_error == "raise":
            raise DataError("\n".join(counted.problems.values()))
        return make_folds(counted, folds=self.folds, seed=self.seed, group_pattern=self.group_pattern)

    def _read(self, folder: Path) -> dict[str, list[str]]:
        there = len(list(folder.glob("fold_*.txt")))
        if there != self.folds:
            raise UserError(
                f"split.folder={self.folder} has {there} lists fold_*.txt, but split.folds={self.folds}; "
                "make them with scripts/make_splits.py, or set split.folds"
            )
        folds = {f"fold_{number}": read_list(folder / f"fold_{number}.txt") for number in range(self.folds)}
        if (folder / "test.txt").exists():
            folds["test"] = read_list(folder / "test.txt")
        return folds
