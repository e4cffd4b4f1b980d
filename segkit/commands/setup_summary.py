"""What `scripts/init_dataset.py` tells a person: what was found, what was chosen, and pictures of three pairs."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.text import Text

from segkit.commands.setup_state import Setup
from segkit.contracts import SampleSource
from segkit.engine.progress import CONSOLE
from segkit.errors import printable
from segkit.reporting.sample_sheet import SheetRow, sheet

PICTURED = 3
NAMED = 12
INDENT = 9
"""Columns of the headings."""


def say(heading: str, text: str, style: str = "") -> None:
    """A line with a heading on its left, wrapped beside it."""
    lines = textwrap.wrap(printable(text), max(CONSOLE.width - INDENT, 20), break_on_hyphens=False) or [""]
    for line in lines:
        CONSOLE.print(Text(f"{heading:<{INDENT}}", "bold") + Text(line, style), soft_wrap=True)
        heading = ""


def draw_examples(source: SampleSource, path: Path) -> Path:
    """A picture of three pairs across the data set, the classes' colours over them, with a legend."""
    places = np.unique(np.linspace(0, len(source) - 1, min(PICTURED, len(source))).round().astype(int))
    sheet([SheetRow(source.read(int(place)), ()) for place in places], source.labels, path, opacity=0.6)
    return path


def say_end(setup: Setup, picture: Path, *, drawn: str | None, command: str, config_dir: Path | None) -> None:
    """The summary and the next command.

    Args:
        drawn: how the validation split was made, if it was.
        command: that trains.
        config_dir: to name to that command; None: it looks there anyway.
    """
    train = setup.counted["train"]
    counts = ", ".join(f"{split} {len(counted.names)}" for split, counted in setup.counted.items())
    say("classes", f"{len(train.labels.names)}: {_names(train.labels.names)}")
    say("samples", counts + (f" ({drawn})" if drawn else ""))
    say("training", f"crops of {setup.node['crop_size']}, {setup.node['epochs']} epochs")
    if setup.pairs.get("train"):
        image, mask = setup.pairs["train"][0]
        say("a pair", f"{image} + {mask}")
    files = [setup.output / "dataset" / f"{setup.name}.yaml", setup.output / "experiment" / f"{setup.name}.yaml"]
    files += [setup.table] * (setup.kind == "table")
    for heading, file in [("look at", picture), *(("wrote", file) for file in files)]:
        CONSOLE.print(Text(f"{heading:<{INDENT}}", "bold") + Text(printable(str(file))), soft_wrap=True)
    if config_dir is not None:
        command += f" --config-dir {shlex.quote(str(config_dir))}"
    CONSOLE.print(Text(f"\nnext:  {command} experiment={setup.name}", "bold"), soft_wrap=True)


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED])
    return shown if len(names) <= NAMED else f"{shown} and {len(names) - NAMED} more"
