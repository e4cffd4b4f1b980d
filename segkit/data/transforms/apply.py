"""One way to read samples and one to call transforms, those that are handed a sample or read for themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from segkit.contracts import DataError, ReadingTransform, Sample, SampleSource, Transform, UserError


def augmented(transform: Transform | ReadingTransform, source: SampleSource, index: int, seed: int) -> Sample:
    """Sample number `index` through a transform of either kind."""
    if isinstance(transform, ReadingTransform):
        return transform.read(source, index, seed)
    return transform(read(source, index), seed)


def read(source: SampleSource, index: int) -> Sample:
    """Sample number `index` with its mask in the type that `contracts.Sample` promises, whatever the source gives.

    Raises UserError for masks that are not of integers, and DataError for ids that are neither a class nor ignored.
    """
    sample, labels = source.read(index), source.labels
    mask, wanted = sample.mask, labels.mask_dtype
    if mask.dtype in (wanted, np.int32):
        return sample
    if mask.dtype.kind not in "iub":
        raise UserError(
            f"dataset: the mask of {sample.id} is {mask.dtype}; allowed: integers, such as {np.dtype(wanted)}"
        )
    num_ids = 2 if labels.multilabel else labels.num_classes
    strays = mask[(mask < 0) | (mask >= num_ids)]
    strays = strays[strays != labels.ignore_index]
    if strays.size:
        raise DataError(
            f"the mask of {sample.id} holds ids {strays.min()}..{strays.max()}; "
            f"allowed: 0..{num_ids - 1} and dataset.ignore_index={labels.ignore_index}"
        )
    return replace(sample, mask=mask.astype(wanted))
