"""One way to call transforms, those that are handed a sample and those that read for themselves."""

from __future__ import annotations

from segkit.contracts import ReadingTransform, Sample, SampleSource, Transform


def augmented(transform: Transform | ReadingTransform, source: SampleSource, index: int, seed: int) -> Sample:
    """Sample number `index` through a transform of either kind."""
    if isinstance(transform, ReadingTransform):
        return transform.read(source, index, seed)
    return transform(source.read(index), seed)
