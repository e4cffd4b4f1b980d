"""The process that delivers run folders to MLflow while runs go on; `courier.Courier` starts it and talks to it.

stdin:  orders, a JSON object a line: {"folder": PATH, "every_s": SECONDS, "finish": whether the run has ended,
        "environment": {NAME: TEXT}}
stdout: news, a JSON object a line:   {"folder": PATH, "state": failing | caught up | ended, "error": TEXT or null}

It needs nobody to end it: when the parent has gone, however that was, the runs that it left open are delivered
once more, as killed unless their folder says how they ended, within `LAST_PASS_S`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from segkit.run.record import load_record
from segkit.tracking.mlflow.client import import_mlflow, reason
from segkit.tracking.mlflow.delivery import deliver

LAST_PASS_S = 10.0
LONGEST_PAUSE_S = 60.0
TOLD_AFTER = 2
"""The first failure is often a passing one: a locked database, a server just restarting."""

ATTEMPTS_AT_THE_END = 3
"""A second apart: enough for a locked database, short for a server that is down."""


class _Run(threading.Thread):
    """Delivers one run folder: a pass every `every_s` seconds, rarer while MLflow fails, until the run is over.

    Each run has a thread, so that a call to MLflow that never returns keeps no other run waiting.
    """

    def __init__(self, folder: str, every_s: float) -> None:
        super().__init__(daemon=True)
        self._folder = folder
        self._every_s = every_s
        self._wake = threading.Event()
        self._finishing = False
        self._orphaned = False
        self._failures = 0

    def finish(self) -> None:
        """The folder says how the run ended: deliver it to the end."""
        self._finishing, self._failures = True, 0
        self._wake.set()

    def go_on(self) -> None:
        """The run has been resumed before its last part was delivered to the end."""
        self._finishing = False

    def orphan(self) -> None:
        """Nobody will say how the run ended: one last pass."""
        self._orphaned = True
        self._wake.set()

    def run(self) -> None:
        while True:
            self._wake.clear()
            # Read first, so that the pass sees what was written before they were set.
            orphaned, finishing = self._orphaned, self._finishing
            try:
                deliver(Path(self._folder), run_is_over=orphaned)
                problem = None
            except Exception as error:
                record = load_record(Path(self._folder))
                problem = reason(error, "" if record is None else record.destination.uri)
            if orphaned:
                return
            if problem is None and self._failures >= TOLD_AFTER:
                self._tell("caught up", None)
            self._failures = 0 if problem is None else self._failures + 1
            if finishing and self._failures in (0, ATTEMPTS_AT_THE_END):
                self._tell("ended", problem)
                return
            if problem is not None and (finishing or self._failures == TOLD_AFTER):
                self._tell("failing", problem)
            self._wake.wait(1.0 if finishing else min(self._every_s * 2**self._failures, LONGEST_PAUSE_S))

    def _tell(self, state: str, error: str | None) -> None:
        line = json.dumps({"folder": self._folder, "state": state, "error": error}) + "\n"
        with contextlib.suppress(OSError):  # the parent has just gone
            os.write(sys.stdout.fileno(), line.encode())


def main(parent: int) -> None:
    """Serve the process `parent` as long as it lives."""
    threading.Thread(target=_import_early, daemon=True).start()
    runs: dict[str, _Run] = {}
    for line in _orders(parent):
        order = json.loads(line)
        folder = order["folder"]
        os.environ.update(order["environment"])
        if folder not in runs or not runs[folder].is_alive():
            runs[folder] = _Run(folder, order["every_s"])
            runs[folder].start()
        if order["finish"]:
            runs[folder].finish()
        else:
            runs[folder].go_on()
    deadline = time.monotonic() + LAST_PASS_S
    for run in runs.values():
        run.orphan()
    for run in runs.values():
        run.join(max(0.0, deadline - time.monotonic()))
    os._exit(0)  # whatever still hangs


def _orders(parent: int) -> Iterator[bytes]:
    """Lines from stdin, until the parent has gone."""
    unread = b""
    # Data workers are forked from the parent and hold the pipe open after its death.
    while os.getppid() == parent:
        readable, _, _ = select.select([sys.stdin.fileno()], [], [], 1.0)
        if not readable:
            continue
        received = os.read(sys.stdin.fileno(), 1 << 16)
        if not received:
            return
        *lines, unread = (unread + received).split(b"\n")
        yield from lines


def _import_early() -> None:
    with contextlib.suppress(Exception):  # what is wrong with it is told when there is a run to deliver
        import_mlflow()
