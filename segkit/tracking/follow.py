"""Follow run folders and deliver what grows in them to MLflow, until the runs are over.

The program of the process that a training command starts beside itself, see `follower_process`, and of
`scripts/sync_mlflow.py --follow`. All it knows of a run it reads from its folder, and all that it has to say of the
delivery stands in tracking.json there.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from segkit.run.record import load_record
from segkit.tracking.mlflow.client import import_mlflow
from segkit.tracking.mlflow.delivery import deliver

LAST_PASS_S = 10.0
LONGEST_PAUSE_S = 60.0
ATTEMPTS_AT_THE_END = 3
"""A second apart: enough for a locked database, short for a server that is down."""


class Follower:
    """Delivers run folders while their runs go on.

    Args:
        is_over: whether the run of a folder has ended, for one whose folder does not say so.
    """

    def __init__(self, is_over: Callable[[Path], bool] = lambda folder: False) -> None:
        self._is_over = is_over
        self._followed: dict[Path, _Followed] = {}

    def look(self, folder: Path) -> None:
        """Deliver what `folder` holds now, and follow it from now on."""
        known = self._followed.get(folder)
        if known is None or not known.look():
            self._followed[folder] = _Followed(folder, self._is_over)
            self._followed[folder].start()

    def wait(self, goes_on: Callable[[], bool] = lambda: True) -> None:
        """Until all runs are over and delivered, or given up, as long as `goes_on`."""
        while goes_on() and any(followed.is_alive() for followed in self._followed.values()):
            time.sleep(0.2)

    def last_pass(self, within_s: float) -> None:
        """Deliver what is left, as killed where a folder does not say how its run ended."""
        deadline = time.monotonic() + within_s
        for followed in self._followed.values():
            followed.orphan()
        for followed in self._followed.values():
            followed.join(max(0.0, deadline - time.monotonic()))


class _Followed(threading.Thread):
    """Delivers one run folder: a pass every `tracker.every_s`, rarer while MLflow fails, until the run is over.

    Each folder has a thread, so that a call to MLflow that never returns keeps no other run waiting.
    """

    def __init__(self, folder: Path, is_over: Callable[[Path], bool]) -> None:
        super().__init__(daemon=True)
        self._folder = folder
        self._is_over = is_over
        self._asked = threading.Event()
        self._ending = threading.Lock()
        self._ended = False
        self._orphaned = False

    def look(self) -> bool:
        """Make a pass at once; False if there will be no more."""
        with self._ending:
            self._asked.set()
            return not self._ended

    def orphan(self) -> None:
        """Nobody will say how the run ended: one last pass."""
        self._orphaned = True
        self._asked.set()

    def run(self) -> None:
        failures, failures_at_end = 0, None
        while True:
            self._asked.clear()
            # Read first, so that the pass sees what was written before.
            orphaned = self._orphaned or self._is_over(self._folder)
            record = load_record(self._folder)
            ended_at = None if record is None else record.ended
            if ended_at != failures_at_end:  # the end has attempts of its own
                failures, failures_at_end = 0, ended_at
            try:
                deliver(self._folder, run_is_over=orphaned)
                failures = 0
            except Exception:  # whatever MLflow raises; `deliver` has noted it
                failures += 1
            has_ended = ended_at is not None
            if (orphaned or (has_ended and failures in (0, ATTEMPTS_AT_THE_END))) and self._end():
                return
            every_s = 5.0 if record is None else record.destination.every_s
            self._asked.wait(1.0 if has_ended else min(every_s * 2**failures, LONGEST_PAUSE_S))

    def _end(self) -> bool:
        """Whether this was the last pass: not if another was asked for meanwhile, as by a run that is resumed."""
        with self._ending:
            self._ended = self._orphaned or not self._asked.is_set()
            return self._ended


def main(parent: int) -> None:
    """Follow the folders that stdin names, each behind it a zero byte, as long as the process `parent` lives.

    A folder that is named again is looked at now. After the last one it goes on until their runs are over. When the
    parent has gone, however that was, the runs that it left open are delivered once more, within `LAST_PASS_S`.
    """

    def parent_lives() -> bool:
        return os.getppid() == parent

    threading.Thread(target=_import_early, daemon=True).start()
    follower = Follower()
    for folder in _names(sys.stdin.fileno(), parent_lives):
        follower.look(Path(os.fsdecode(folder)))
    follower.wait(parent_lives)
    follower.last_pass(LAST_PASS_S)
    os._exit(0)  # whatever still hangs


def _names(file: int, goes_on: Callable[[], bool]) -> Iterator[bytes]:
    unread = b""
    # Data workers are forked from the parent and hold the pipe open after its death.
    while goes_on():
        readable, _, _ = select.select([file], [], [], 1.0)
        if not readable:
            continue
        received = os.read(file, 1 << 16)
        if not received:
            return
        *names, unread = (unread + received).split(b"\0")
        yield from names


def _import_early() -> None:
    with contextlib.suppress(Exception):  # what is wrong with it is told when there is a run to deliver
        import_mlflow()
