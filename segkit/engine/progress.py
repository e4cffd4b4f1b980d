"""What a person sees of a run: a live display in a terminal, plain lines elsewhere. Imports no PyTorch."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Mapping
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from segkit.config.credentials import masked

CONSOLE = Console(highlight=False)
log = logging.getLogger(__name__)


class ConsoleHandler(logging.Handler):
    """Log lines on the console, above a live display if there is one; whole lines, never wrapped, when piped."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = record.getMessage()
            if record.exc_info:
                line += "\n" + logging.Formatter().formatException(record.exc_info)
            if record.levelno >= logging.WARNING:
                line = f"{record.levelname.lower()}: {line}"
            style = (
                "red" if record.levelno >= logging.ERROR else "yellow" if record.levelno >= logging.WARNING else None
            )
            line = masked(line)
            CONSOLE.print(Text(line, style=style or ""), soft_wrap=not CONSOLE.is_terminal)
        except Exception:
            self.handleError(record)


class LogFile(logging.FileHandler):
    """Log lines in a file. A disk that refuses them is told of once; what it takes again later goes on there."""

    _refused = False

    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._refused:
            self._refused = True
            with contextlib.suppress(OSError):
                print(f"{self.baseFilename}: cannot be written ({error.strerror})", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """A length of time as people write it: 42 s, 3 min 5 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Display:
    """Progress of a run. The base class shows nothing; the loop calls every method from one thread."""

    def start(self, *, total_steps: int, steps_per_epoch: int, done_steps: int) -> None:
        """A run of `total_steps` optimizer steps begins, or goes on after `done_steps`."""

    def step(self, record: Mapping[str, Any]) -> None:
        """A line of kind train was recorded."""

    def evaluating(self, done: int, total: int) -> None:
        """`done` of `total` samples are evaluated."""

    def evaluated(self, record: Mapping[str, Any], *, is_best: bool) -> None:
        """A line of kind eval was recorded."""

    def stop(self) -> None:
        """The run has ended, in whatever way."""


class _Pace:
    """Smoothed loss and images/s, and the time left."""

    def __init__(self, total_steps: int, steps_per_epoch: int, done_steps: int):
        self.total_steps = total_steps
        self.steps_per_epoch = steps_per_epoch
        self.epochs = -(-total_steps // steps_per_epoch)
        self.loss = self.speed = float("nan")
        self._first_step = done_steps
        self._started = time.monotonic()

    def take(self, record: Mapping[str, Any]) -> None:
        def smoothed(old: float, new: float) -> float:
            return new if old != old else 0.9 * old + 0.1 * new

        self.loss = smoothed(self.loss, record["loss"])
        self.speed = smoothed(self.speed, record["images_per_second"])

    def remaining(self, step: int) -> str:
        done = step - self._first_step
        if done <= 0:
            return "-"
        return duration((time.monotonic() - self._started) / done * (self.total_steps - step))


def _score_line(record: Mapping[str, Any], shown: tuple[str, ...]) -> str:
    parts = [f"{name} {record[name]:.4f}" for name in shown if record.get(name) is not None]
    return "  ".join(parts)


class PlainDisplay(Display):
    """Plain lines, one every `every_s` seconds and one an evaluation, for logs, pipes and batch systems."""

    def __init__(self, shown: tuple[str, ...] = ("miou", "loss"), every_s: float = 10.0):
        self.shown = shown
        self.every_s = every_s
        self._last = 0.0

    def start(self, *, total_steps: int, steps_per_epoch: int, done_steps: int) -> None:
        self._pace = _Pace(total_steps, steps_per_epoch, done_steps)
        self._last = time.monotonic()

    def step(self, record: Mapping[str, Any]) -> None:
        self._pace.take(record)
        if time.monotonic() - self._last < self.every_s:
            return
        self._last = time.monotonic()
        log.info(
            "epoch %d/%d  step %d/%d  loss %.4f  lr %.2e  %.1f img/s  %s left",
            record["epoch"],
            self._pace.epochs,
            record["step"],
            self._pace.total_steps,
            self._pace.loss,
            record["lr"],
            self._pace.speed,
            self._pace.remaining(record["step"]),
        )

    def evaluated(self, record: Mapping[str, Any], *, is_best: bool) -> None:
        log.info(
            "epoch %d  step %d  %s: %s%s",
            record["epoch"],
            record["step"],
            record["split"],
            _score_line(record, self.shown),
            "  (best)" if is_best else "",
        )


class _Steps(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{int(task.completed)}/{int(task.total or 0)}")


class LiveDisplay(PlainDisplay):
    """One moving line: epoch, steps, loss, learning rate, images/s, time left, last score; evaluations above it."""

    def start(self, *, total_steps: int, steps_per_epoch: int, done_steps: int) -> None:
        super().start(total_steps=total_steps, steps_per_epoch=steps_per_epoch, done_steps=done_steps)
        self._score = ""
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            _Steps(),
            TextColumn("{task.fields[numbers]}"),
            console=CONSOLE,
            expand=True,
            refresh_per_second=4,
        )
        self._task = self._progress.add_task(
            "epoch -", total=total_steps, completed=done_steps, numbers="waiting for the first batch"
        )
        self._progress.start()

    def step(self, record: Mapping[str, Any]) -> None:
        self._pace.take(record)
        pace = self._pace
        numbers = f"loss {pace.loss:.3f} lr {record['lr']:.1e} {pace.speed:.0f} img/s"
        numbers += f" {pace.remaining(record['step']).replace(' min', 'm').replace(' s', 's')}{self._score}"
        self._progress.update(
            self._task,
            completed=record["step"],
            description=f"{record['epoch']}/{pace.epochs}",
            numbers=numbers,
        )

    def evaluating(self, done: int, total: int) -> None:
        self._progress.update(self._task, numbers=f"evaluating {done}/{total}{self._score}")

    def evaluated(self, record: Mapping[str, Any], *, is_best: bool) -> None:
        super().evaluated(record, is_best=is_best)
        if record.get("miou") is not None:
            self._score = f" mIoU {record['miou']:.3f}"

    def stop(self) -> None:
        if hasattr(self, "_progress"):
            with contextlib.suppress(OSError):  # the terminal may be gone
                self._progress.stop()


def make_display(kind: Literal["auto", "live", "plain", "off"], shown: tuple[str, ...]) -> Display:
    """The display for `trainer.progress`, which shows the scores named in `shown` after each evaluation."""
    if kind == "off":
        return Display()
    if kind == "live" or (kind == "auto" and CONSOLE.is_terminal):
        return LiveDisplay(shown)
    return PlainDisplay(shown)
