"""Signals as requests: the loop honours them where it is safe, a command outside the loop ends at once."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Generator
from types import FrameType, TracebackType
from typing import Any

from segkit.errors import Interrupted

STATUS = {
    signal.SIGINT: ("interrupted", 130),
    signal.SIGTERM: ("terminated", 143),
    signal.SIGUSR1: ("terminated", 143),  # what schedulers send ahead of a preemption
    signal.SIGHUP: ("terminated", 129),  # the terminal is gone; nohup has it ignored, and so it stays
}

PATIENCE_S = 5.0
"""How long after a signal the loop goes on with what it waits for."""


class AskedToStop(BaseException):
    """A signal came some time ago and the loop is still waiting: nothing is half done, so it need not wait on."""


class Interrupts:
    """While open, a signal asks the run to stop, and `received` names it; another SIGINT ends the process at once."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._waiting = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        command = CommandSignals.current
        if command is not None:
            self.received, command.has_trained = command.received, True
        self._previous = _installed(self._receive)
        self._previous[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._lose_patience)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if CommandSignals.current is not None:
            CommandSignals.current.received = self.received
        _restore(self._previous)

    @contextlib.contextmanager
    def waiting(self) -> Generator[None]:
        """Around what changes no state of the run and may hang: it ends with AskedToStop `PATIENCE_S` after a signal.

        Not at once: a worker that is left in the middle of handing over a batch would complain.
        """
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number)
            signal.setitimer(signal.ITIMER_REAL, PATIENCE_S, 1.0)
        elif number == signal.SIGINT:
            _end_at_once()

    def _lose_patience(self, number: int, frame: FrameType | None) -> None:
        if self._waiting:
            raise AskedToStop

    def as_exception(self, saved_as: str) -> Interrupted:
        assert self.received is not None
        status, exit_code = STATUS[self.received]
        return Interrupted(status, exit_code, f"{status} by {self.received.name}; {saved_as}")


class CommandSignals:
    """From a command's start to its end, where no loop runs: a signal ends it, by KeyboardInterrupt or SystemExit.

    Attributes:
        current: those of the command that is running.
        received: the signal that it was told to stop by.
        has_trained: whether a loop has run.
    """

    current: CommandSignals | None = None

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.has_trained = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> CommandSignals:
        CommandSignals.current = self
        self._previous = _installed(self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        CommandSignals.current = None
        if self.received is None:  # else the process is about to end, and another signal is to be none of its troubles
            _restore(self._previous)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number)
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            raise SystemExit(self.exit_code)
        if number == signal.SIGINT:
            _end_at_once()

    @property
    def exit_code(self) -> int:
        assert self.received is not None
        return STATUS[self.received][1]

    @property
    def message(self) -> str:
        """What ended, and what that costs."""
        assert self.received is not None
        when = "after training; the checkpoints stand" if self.has_trained else "before there was anything to save"
        return f"{STATUS[self.received][0]} by {self.received.name} {when}"


def _installed(handler: Any) -> dict[signal.Signals, Any]:
    """Install `handler` for every signal that asks to stop; what stood there before."""
    numbers = [n for n in STATUS if n is not signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in numbers}


def _restore(previous: dict[signal.Signals, Any]) -> None:
    for number, handler in previous.items():
        signal.signal(number, handler)


def _end_at_once() -> None:
    show_cursor = b"\x1b[?25h" if os.isatty(2) else b""  # the live display hides it
    try:
        os.write(2, show_cursor + b"interrupted again: ended at once; the checkpoints saved before stand\n")
    finally:
        os._exit(130)
