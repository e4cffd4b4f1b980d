"""The process that delivers run folders to MLflow while runs go on; `courier.Courier` starts it and talks to it.

stdin:  orders, a JSON object a line: {"folder": PATH, "every_s": SECONDS, "finish": whether the run has ended}
stdout: news, a JSON object a line:   {"folder": PATH, "state": failing | caught up | ended, "error": TEXT or null}

It needs nobody to end it: when the parent has gone, however that was, the runs that it left open are
delivered once more, as killed unless their folder says how they ended, within `LAST_PASS_S`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from segkit.tracking.delivery import deliver, import_mlflow, reason

LAST_PASS_S = 15.0
LONGEST_PAUSE_S = 60.0
ATTEMPTS_AT_THE_END = 3
"""A second apart: enough for a locked database, short for a server that is down."""


@dataclass
class _Run:
    """A run folder that is being delivered; `due` is the time of its next pass on the monotonic clock."""

    folder: Path
    every_s: float
    due: float = 0.0
    failures: int = 0
    finishing: bool = False


class _Orders:
    """Lines from stdin, as they come."""

    def __init__(self) -> None:
        self._unread = b""
        self.ended = False

    def wait(self, seconds: float) -> list[bytes]:
        """Whole lines that have come, waiting up to `seconds` for the first."""
        readable, _, _ = select.select([sys.stdin.fileno()], [], [], max(0.0, seconds))
        if not readable:
            return []
        received = os.read(sys.stdin.fileno(), 1 << 16)
        self.ended = not received
        *lines, self._unread = (self._unread + received).split(b"\n")
        return lines


def main(parent: int) -> None:
    """Serve the process `parent` as long as it lives."""
    threading.Thread(target=_outlive_briefly, args=(parent,), daemon=True).start()
    with contextlib.suppress(Exception):  # what is wrong with it is told when there is a run to deliver
        import_mlflow()
    runs: dict[str, _Run] = {}
    orders = _Orders()
    while not orders.ended and os.getppid() == parent:
        next_due = min((run.due for run in runs.values()), default=float("inf"))
        for line in orders.wait(min(1.0, next_due - time.monotonic())):
            order = json.loads(line)
            run = runs.setdefault(order["folder"], _Run(Path(order["folder"]), order["every_s"]))
            if order["finish"]:
                run.finishing, run.failures, run.due = True, 0, 0.0
        due = [run for run in runs.values() if run.due <= time.monotonic()]
        # One at a time, so that the orders that came meanwhile are seen; first what somebody waits for.
        for run in sorted(due, key=lambda run: (not run.finishing, run.due))[:1]:
            if _pass(run):
                del runs[str(run.folder)]
    for run in runs.values():
        with contextlib.suppress(Exception):
            deliver(run.folder, run_is_over=True)


def _pass(run: _Run) -> bool:
    """Deliver what is new, and set the time of the next pass; whether there is none."""
    try:
        deliver(run.folder)
    except Exception as error:
        run.failures += 1
        if run.finishing:
            if run.failures == ATTEMPTS_AT_THE_END:
                _tell(run, "ended", reason(error))
                return True
        elif run.failures == 2:  # the first is often a passing one: a locked database, a server just restarting
            _tell(run, "failing", reason(error))
        pause = 1.0 if run.finishing else min(run.every_s * 2**run.failures, LONGEST_PAUSE_S)
        run.due = time.monotonic() + pause
        return False
    if run.finishing:
        _tell(run, "ended", None)
        return True
    if run.failures >= 2:
        _tell(run, "caught up", None)
    run.failures = 0
    run.due = time.monotonic() + run.every_s
    return False


def _tell(run: _Run, state: str, error: str | None) -> None:
    line = json.dumps({"folder": str(run.folder), "state": state, "error": error}) + "\n"
    with contextlib.suppress(OSError):  # the parent has just gone
        os.write(sys.stdout.fileno(), line.encode())


def _outlive_briefly(parent: int) -> None:
    """End this process soon after its parent, also when a call to MLflow never returns."""
    while os.getppid() == parent:
        time.sleep(0.5)
    time.sleep(LAST_PASS_S)
    os._exit(1)
