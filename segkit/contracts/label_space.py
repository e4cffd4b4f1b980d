"""The classes of a data set, and how they are weighed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from segkit.errors import UserError, printable

ClassWeightMethod = Literal["inverse", "inverse_sqrt", "inverse_log", "effective", "enet", "median"]
"""Ways to weigh classes by their share of the training pixels; numbers take their place before a loss is built."""


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a data set: what the ids 0..num_classes-1 mean, and which id is left out.

    Attributes:
        names: one name a class, in the order of the ids.
        colors: one RGB colour a class, each channel in 0..255.
        ignore_index: the mask id that takes no part in losses and metrics; never a class id.
        multilabel: whether a pixel may belong to several classes, or to none. Masks then have one channel a
            class, which holds 0, 1 or `ignore_index`; a single class is allowed, and is binary segmentation.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    ignore_index: int = 255
    multilabel: bool = False

    def __post_init__(self) -> None:
        needed = 1 if self.multilabel else 2
        if len(self.names) < needed:
            raise UserError(f"dataset.class_names has {len(self.names)} entries; segmentation needs at least {needed}")
        if len(set(self.names)) != len(self.names):
            repeated = sorted({name for name in self.names if self.names.count(name) > 1})
            raise UserError(f"dataset.class_names repeats {', '.join(repeated)}; every class needs its own name")
        if len(self.colors) != len(self.names):
            raise UserError(f"dataset.colors has {len(self.colors)} entries for {len(self.names)} classes")
        if self.multilabel and not 2 <= self.ignore_index <= 255:
            raise UserError(f"dataset.ignore_index={self.ignore_index}; multi-label masks allow 2..255")
        if not self.multilabel and 0 <= self.ignore_index < len(self.names):
            raise UserError(
                f"dataset.ignore_index={self.ignore_index} is the id of class {self.names[self.ignore_index]!r}; "
                f"allowed: a negative id or one of at least {len(self.names)}"
            )

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> LabelSpace:
        """What `dataclasses.asdict` has made of one; names that a terminal cannot print are escaped."""
        return cls(
            tuple(printable(str(name)) for name in stored["names"]),
            tuple((r, g, b) for r, g, b in stored["colors"]),
            int(stored["ignore_index"]),
            bool(stored.get("multilabel", False)),
        )

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @property
    def parameters(self) -> dict[str, Any]:
        """What constructors of models, losses, transforms and metrics are given of it, by the names they have there."""
        return {"num_classes": self.num_classes, "ignore_index": self.ignore_index, "multilabel": self.multilabel}

    @property
    def mask_dtype(self) -> type[np.uint8] | type[np.int32]:
        """The type of masks: uint8 if it holds all ids, else int32."""
        fits = self.num_classes <= 256 and 0 <= self.ignore_index <= 255
        return np.uint8 if fits else np.int32
