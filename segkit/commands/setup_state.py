"""What `scripts/init_dataset.py` has found out of a folder so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segkit.data.discovery.label_choice import Labels
from segkit.data.discovery.layout import Kind, Layout
from segkit.data.discovery.path_words import SplitName
from segkit.data.statistics.sample_facts import Counted


@dataclass
class Setup:
    """What is known of the data set, and what is to be written.

    Attributes:
        kind: that of the layout, but for a table where the validation split has to be drawn.
        node: the config of the data set, as its YAML file gives it.
        base: the option of the `dataset` group that it refines, or None.
        pairs: image and mask of each sample by split, once these are settled.
    """

    name: str
    root: Path
    output: Path
    layout: Layout
    kind: Kind
    pairs: dict[SplitName, list[tuple[str, str]]]
    node: dict[str, Any] = field(default_factory=dict[str, Any])
    base: str | None = None
    labels: Labels | None = None
    counted: dict[SplitName, Counted] = field(default_factory=dict["SplitName", Counted])

    @property
    def table(self) -> Path:
        return self.output / "dataset" / f"{self.name}.csv"

    @property
    def draws_val(self) -> bool:
        return self.layout.kind != "cityscapes" and "val" not in self.layout.pairs
