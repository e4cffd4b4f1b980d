"""Whether an augmentation does to masks only what it may: move their ids, and ignore what it uncovers."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segkit.contracts import LabelSpace, ReadingTransform, Sample, Transform, UserError
from segkit.data.transforms.apply import augmented
from segkit.data.transforms.color import PixelStep

SEEDS = 8
SMALL = (48, 64)
CONSTANT_BORDER, NEAREST = 0, 0  # OpenCV's numbers
FILLS = ("fill_mask", "mask_drop_value")


def check_masks(transform: Transform | ReadingTransform, labels: LabelSpace, channels: int) -> None:
    """Raise UserError naming a step of `transform`, and its argument, that makes labels which are not in the mask.

    Steps of Albumentations, nested ones too, must fill masks with `labels.ignore_index` and never interpolate
    them. Their arguments tell so; and each step, applied to every sample, and then all of them together are tried
    on masks of one class, of another, and of stripes of a class and what is ignored, with several seeds: only
    those ids may come out. What raises on such a small picture is left for training to find.
    """
    steps = list(_steps(transform, "transform"))
    for key, step in steps:
        _check_arguments(step, f"{key} ({type(step).__name__})", labels)
    for key, step in steps:
        if "mask" not in step.targets:
            continue
        from segkit.data.transforms.albumentations_pipeline import AlbumentationsTransform

        always = copy.deepcopy(step)
        always.p = 1.0
        _probe(AlbumentationsTransform([always], None), f"{key} ({type(step).__name__})", labels, [SMALL], channels)
    size = getattr(transform, "size", None)
    height, width = size if isinstance(size, tuple) else SMALL
    sizes = [(height * 5 // 4 + 1, width * 5 // 4 + 1), (height * 3 // 4 + 1, width // 2 + 1)]
    _probe(transform, "transform", labels, sizes, channels)


def _steps(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """The steps of Albumentations of a transform, with their config keys; of OneOf, Sequential and such their own."""
    if (base := getattr(node, "base", None)) is not None:
        yield from _steps(base, f"{key}.base")
    steps = getattr(node, "steps", None)
    for number, step in enumerate(steps if isinstance(steps, list | tuple) else ()):
        if not isinstance(step, PixelStep):
            yield from _innermost(step, f"{key}.steps.{number}")


def _innermost(step: Any, key: str) -> Iterator[tuple[str, Any]]:
    # Only here, where a step of it has been built: to import it takes seconds.
    from albumentations import BaseCompose, BasicTransform

    if isinstance(step, BasicTransform):
        yield key, step
    elif isinstance(step, BaseCompose):
        for number, inner in enumerate(step.transforms):
            yield from _innermost(inner, f"{key}.transforms.{number}")


def _check_arguments(step: Any, named: str, labels: LabelSpace) -> None:
    ignored = labels.ignore_index
    interpolation = getattr(step, "mask_interpolation", None)
    if interpolation is not None and interpolation != NEAREST:
        raise UserError(
            f"{named}: mask_interpolation={interpolation} makes ids that lie between those of a mask; "
            "set mask_interpolation: 0 (nearest)"
        )
    if getattr(step, "pad_if_needed", True) is False:
        return
    if getattr(step, "border_mode", CONSTANT_BORDER) != CONSTANT_BORDER:
        return
    for argument in FILLS:
        value = getattr(step, argument, None)
        if value is not None and not np.all(np.asarray(value) == ignored):
            raise UserError(
                f"{named}: {argument}={value} gives pixels without a label {_class(value, labels)}; "
                f"set {argument}: ${{dataset.ignore_index}}, which is {ignored}"
            )


def _class(value: Any, labels: LabelSpace) -> str:
    known = not labels.multilabel and isinstance(value, int | float) and value in range(labels.num_classes)
    return f"class {value:g} ({labels.names[int(value)]})" if known else f"the value {value}"


def _probe(
    transform: Transform | ReadingTransform,
    named: str,
    labels: LabelSpace,
    sizes: Sequence[tuple[int, int]],
    channels: int,
) -> None:
    for size in sizes:
        image = np.random.default_rng(0).integers(0, 256, (*size, channels), np.uint8)
        for mask in _masks(size, labels):
            allowed = {*np.unique(mask).tolist(), labels.ignore_index}
            source = _Probe(Sample(image, mask, "probe"), labels)
            for seed in range(SEEDS):
                try:
                    found = augmented(transform, source, 0, seed).mask
                except Exception:  # a picture of this size may not be what steps are made for
                    break
                made = sorted(set(np.unique(found).tolist()) - allowed)
                if made:
                    held = " and ".join(map(str, sorted(allowed - {labels.ignore_index}) or ["no class"]))
                    raise UserError(
                        f"{named}: made ids {', '.join(map(str, made[:5]))} of a mask of {held}; a step may move ids, "
                        f"but what it uncovers or drops must become dataset.ignore_index={labels.ignore_index} "
                        "(fill_mask, mask_drop_value), and masks are not interpolated (mask_interpolation: 0)"
                    )


def _masks(size: tuple[int, int], labels: LabelSpace) -> Iterator[NDArray[Any]]:
    """Masks of the last class, of the first, and of stripes of the last and what is ignored."""
    small = labels.num_classes <= 256 and 0 <= labels.ignore_index <= 255
    shape = (*size, labels.num_classes) if labels.multilabel else size
    first, last = (0, 1) if labels.multilabel else (0, labels.num_classes - 1)
    for name in (last, first):
        yield np.full(shape, name, np.uint8 if small else np.int32)
    stripes = np.full(shape, last, np.uint8 if small else np.int32)
    stripes[:, np.arange(size[1]) % 8 < 4] = labels.ignore_index
    yield stripes


class _Probe:
    """A source of one sample, again and again; a `contracts.SampleSource`."""

    on_error: Literal["raise", "skip"] = "raise"

    def __init__(self, sample: Sample, labels: LabelSpace) -> None:
        self.sample = sample
        self.labels = labels

    def __len__(self) -> int:
        return 2

    def name(self, index: int) -> str:
        return self.sample.id

    def read(self, index: int) -> Sample:
        return Sample(self.sample.image.copy(), self.sample.mask.copy(), self.sample.id)

    def check(self) -> None: ...

    def identity(self) -> dict[str, str]:
        return {}
