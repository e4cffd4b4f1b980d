"""Signals as requests that the loop honours between two steps."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any

from segkit.errors import Interrupted

STATUS = {
    signal.SIGINT: ("interrupted", 130),
    signal.SIGTERM: ("terminated", 143),
    signal.SIGUSR1: ("terminated", 143),  # what schedulers send ahead of a preemption
}


class Interrupts:
    """While open, SIGINT, SIGTERM and SIGUSR1 ask the run to stop; a second SIGINT ends the process at once."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        for number in STATUS:
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is signal.SIGINT and number == signal.SIGINT:
            os._exit(130)
        if self.received is None:
            self.received = signal.Signals(number)

    def as_exception(self, saved_as: str) -> Interrupted:
        assert self.received is not None
        status, exit_code = STATUS[self.received]
        return Interrupted(status, exit_code, f"{status} by {self.received.name}; {saved_as}")
