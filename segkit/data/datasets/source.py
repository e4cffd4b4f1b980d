"""What every data set has in common: its label space, the statistics of its images, and its crop size."""

# No `from __future__ import annotations`: subclasses in other modules inherit the annotations as they are.
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from segkit.contracts import LabelSpace, Sample, UserError
from segkit.data.files.inspection import Faults

Split = Literal["train", "val", "test"]
Positive = Annotated[int, Field(gt=0)]
ClassId = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Spread = Annotated[float, Field(gt=0)]


@dataclass(kw_only=True, eq=False, repr=False)
class Source:
    """One split of a data set. A subclass gives `__len__`, `name`, `read` and `identity`, and `check` where needed.

    A dataclass, so that the fields of a subclass and these make one constructor, against which the keys of a
    config node are checked. The rest of the config interpolates these keys: each stands once, here.

    Args:
        split: the split to read.
        num_classes: number of classes; the ids in masks are 0..num_classes-1.
        ignore_index: the mask id that takes no part in losses and metrics.
        class_names: one name a class; None: class_0, class_1, ...
        colors: one RGB colour a class, 0..255; None: the palette of Pascal VOC, continued.
        mean: to normalise each image channel with, in 0..1; None: what the pretrained weights were trained with,
            without any `data_mean`.
        std: the same for the standard deviation.
        data_mean: of each channel of the training images, in 0..1; None: not known, and ImageNet's in its place.
        data_std: the same for the standard deviation.
        in_channels: number of image channels.
        crop_size: edge of a training sample in pixels, or (height, width).
        epochs: how many passes over the training split a run makes unless told otherwise.
        multilabel: masks have one channel a class, as `LabelSpace` says.
        on_error: what a file that cannot be used does in mid-run: `raise` ends the run and names it, `skip` goes on
            with another sample in its place, logged and counted.
        decoded_cache: where decoded training samples are kept, uncompressed: on `disk` below
            `cache_dir`, in memory (`ram`) for the length of the run, or not at all.
    """

    split: Split
    num_classes: Positive
    ignore_index: ClassId = 255
    class_names: Sequence[Annotated[str, Field(min_length=1)]] | None = None
    colors: Sequence[Sequence[Annotated[int, Field(ge=0, le=255)]]] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[Spread] | None = None
    data_mean: Sequence[float] | None = None
    data_std: Sequence[Spread] | None = None
    in_channels: Positive = 3
    crop_size: Positive | Sequence[Positive] = 256
    epochs: Positive = 30
    multilabel: bool = False
    on_error: Literal["raise", "skip"] = "raise"
    decoded_cache: Literal["disk", "ram"] | None = None
    labels: LabelSpace = field(init=False)

    def __post_init__(self) -> None:
        for key in ("mean", "std", "data_mean", "data_std"):
            values: Sequence[float] | None = getattr(self, key)
            if values is None:
                continue
            if len(values) != self.in_channels:
                raise UserError(f"dataset.{key} has {len(values)} values for dataset.in_channels={self.in_channels}")
            if key.endswith("std") and min(values) <= 0:
                raise UserError(f"dataset.{key}={list(values)}; allowed: numbers above 0")
        height_width(self.crop_size, "dataset.crop_size")
        names = self.class_names
        if names is None:
            names = [f"class_{index}" for index in range(self.num_classes)]
        if len(names) != self.num_classes:
            raise UserError(f"dataset.class_names has {len(names)} names for dataset.num_classes={self.num_classes}")
        colors = (
            palette(self.num_classes)
            if self.colors is None
            else [rgb(color, "dataset.colors") for color in self.colors]
        )
        self.labels = LabelSpace(tuple(names), tuple(colors), self.ignore_index, self.multilabel)

    @property
    def mask_dtype(self) -> type[np.uint8] | type[np.int32]:
        """The type of every mask of this data set: uint8 if it holds all ids, else int32."""
        return self.labels.mask_dtype

    def __len__(self) -> int:
        raise NotImplementedError

    def name(self, index: int) -> str:
        """The id of sample number `index`, without reading it."""
        raise NotImplementedError

    def paths(self, index: int) -> tuple[Path, Path] | None:
        """The files of image and mask number `index`, unread; None where samples do not come from files."""
        return None

    def orientations(self, index: int) -> tuple[int, int]:
        """How viewers turn image and mask number `index`, 1..8 as in EXIF; 1: not at all."""
        return 1, 1

    def second_opinion(self, index: int, sample: Sample) -> str | None:
        """How another decoder sees the image of sample number `index` otherwise than `read` did; None: the same."""
        return None

    def read(self, index: int) -> Sample:
        """Sample number `index`, the same every time. Raises DataError naming a file that cannot be used."""
        raise NotImplementedError

    def faults(self) -> Faults:
        """The offending files by kind."""
        return Faults()

    def check(self) -> None:
        """Raise DataError listing the offending files, up to a limit. Called once before the first step."""

    def identity(self) -> Mapping[str, str]:
        """What names this data for the record: root, split, number of samples, and a digest."""
        raise NotImplementedError


def height_width(size: int | Sequence[int], key: str) -> tuple[int, int]:
    """The (height, width) in pixels that `size`, one edge or both, means. Raises UserError naming `key`."""
    edges = (size, size) if isinstance(size, int) else tuple(size)
    if len(edges) != 2 or min(edges) < 1:
        raise UserError(f"{key}={size}; allowed: one edge length in pixels, or [height, width], each at least 1")
    return edges[0], edges[1]


def palette(num_colors: int) -> list[tuple[int, int, int]]:
    """Distinct RGB colours, black first: Pascal VOC's, where neighbours differ in the highest bits.

    Every third bit of the id goes to one channel, the lowest bits of the id to the highest of the colour.
    """
    colors: list[tuple[int, int, int]] = []
    for index in range(num_colors):
        red, green, blue = (
            sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8)) for channel in range(3)
        )
        colors.append((red, green, blue))
    return colors


def rgb(color: Sequence[int], key: str) -> tuple[int, int, int]:
    """A colour of three numbers in 0..255. Raises UserError naming `key`."""
    if len(color) != 3 or min(color) < 0 or max(color) > 255:
        raise UserError(f"{key} has {list(color)}; allowed: three whole numbers in 0..255")
    return color[0], color[1], color[2]
