"""Counting a data set with a bar in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from segkit.contracts import SampleSource
from segkit.data.statistics.counts import count
from segkit.data.statistics.sample_facts import Counted
from segkit.engine.progress import CONSOLE


def counted_with_progress(
    source: SampleSource, what: str, cache_dir: Path | None, processes: int | None, *, verify: bool = False
) -> Counted:
    """`count` with a bar in the terminal."""
    with bar_of(what, len(source)) as on_progress:
        return count(source, cache_dir, processes=processes, on_progress=on_progress, verify=verify)


@contextmanager
def bar_of(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar in the terminal, and the function that moves it."""
    bar = Progress(
        TextColumn(f"{what}: reading"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=CONSOLE,
        transient=True,
        disable=not CONSOLE.is_terminal,
    )
    task = bar.add_task(what, total=total)

    def show(done: int) -> None:
        # Only now: processes are forked before a thread draws the bar.
        bar.start()
        bar.update(task, completed=done)

    try:
        yield show
    finally:
        bar.stop()
