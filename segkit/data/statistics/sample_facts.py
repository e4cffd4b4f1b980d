"""What was found of the samples of a data set, and what follows from it: shares of classes, mean and std."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from segkit.contracts import LabelSpace
from segkit.data.statistics import verification


class SampleFacts(BaseModel):
    """One sample that could be read.

    Attributes:
        stamp: size and time of change of each of its files, or what else tells that it is still the same.
        shape: (height, width).
        pixels: of each class.
        ignored: pixels that belong to no class; of multi-label masks, ignored entries.
        content: digest of the decoded image.
        sums, squares: of each image channel and of its square, of values in 0..1, or in units of their own.
        orientations: of image and mask, 1..8 as in EXIF. 1: stored upright, or, if not verified, not looked at.
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
