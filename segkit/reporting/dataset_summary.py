"""The report on a data set within 80 columns of a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from segkit.engine.progress import CONSOLE
from segkit.errors import printable

SHOWN = 5
"""Places of each finding that the terminal shows; the files have them all."""

SIZES = 4
Report = Mapping[str, Any]
"""As `check_data.py` writes it into report.json."""


def show(report: Report) -> None:
    CONSOLE.print(_class_table(report))
    for split, found in report["splits"].items():
        CONSOLE.print(f"{split}: {_images(found)}", highlight=False)
    for split in report["absent"]:
        CONSOLE.print(f"{split}: there is no such split", highlight=False)
    for style, findings in (("bold red", report["faults"]), ("yellow", report["remarks"])):
        for kind, places in findings.items():
            CONSOLE.print(Text(f"\n{len(places)} {kind}:", style))
            for place in places[:SHOWN]:
                CONSOLE.print(Text(printable(f"  {place}")))
            if len(places) > SHOWN:
                CONSOLE.print(f"  ... and {len(places) - SHOWN} more", highlight=False)
    CONSOLE.print()
    if not report["faults"]:
        CONSOLE.print(Text("sound: nothing has to be mended", "green"))


def _images(found: Mapping[str, Any]) -> str:
    """How many images a split has, of which sizes, and how much of them is ignored."""
    sizes = list(found["sizes"].items())
    shown = ", ".join(f"{number} of {size}" for size, number in sizes[:SIZES])
    more = f" and {len(sizes) - SIZES} other sizes" if len(sizes) > SIZES else ""
    ignored = found["ignored_pixels"]
    every = ignored + sum(found["pixels"])
    share = f"; {ignored / every:.1%} ignored" if every else ""
    return f"{found['samples']} samples: {shown}{more}{share}"


def _class_table(report: Report) -> Table:
    """Share of the labelled pixels, and images that hold the class, of each split; weights by median frequency."""
    table = Table("class", box=None, pad_edge=False)
    for split in report["splits"]:
        table.add_column(f"{split} pixels", justify="right")
        table.add_column("images", justify="right")
    weights = report.get("class_weights", {}).get("median")
    if weights is not None:
        table.add_column("median weight", justify="right")
    for index, name in enumerate(report["classes"]):
        row: list[str] = []
        for found in report["splits"].values():
            row += [f"{found['pixels'][index] / max(sum(found['pixels']), 1):.2%}", str(found["images"][index])]
        row += [] if weights is None else [f"{weights[index]:.3g}"]
        table.add_row(Text(name, overflow="ellipsis", no_wrap=True), *row)
    return table
