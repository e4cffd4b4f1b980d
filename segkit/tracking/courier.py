"""What the training process knows of the process that delivers its run folders to MLflow.

A process, not a thread: importing MLflow and opening a store take seconds of Python, during which a thread would
hold the interpreter's lock again and again between two operators of the network; and whatever hangs, leaks or
crashes in a client of a remote store does so elsewhere. The run folder is what the two share.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from segkit.config.credentials import VARIABLE

PACKAGES = str(Path(__file__).resolve().parents[2])

START = """
import sys
sys.path.append(sys.argv[2])
from segkit.tracking.courier_process import main
main(parent=int(sys.argv[1]))
"""

PASSED_ON = (VARIABLE, "MLFLOW_TRACKING_USERNAME")

PAUSE_AFTER_A_CRASH_S = 60.0


@dataclass(frozen=True)
class News:
    """Of one run: delivery is failing, has caught up, or has ended, and what MLflow said if not all has arrived."""

    state: Literal["failing", "caught up", "ended"]
    error: str | None


class Courier:
    """Delivers run folders in a process of its own, started when first needed; one serves all runs of a process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._folders: set[str] = set()
        self._news: defaultdict[str, list[News]] = defaultdict(list)
        self._unread = b""
        self._not_before = 0.0

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def prepare(self) -> None:
        """Start the process, which begins by importing MLflow. Raises OSError when the system refuses."""
        if self._process is not None:
            return
        # Python's -P keeps the working directory, which is the user's, from hiding modules.
        command = [sys.executable, "-P", "-c", START, str(os.getpid()), PACKAGES]
        self._not_before = time.monotonic() + PAUSE_AFTER_A_CRASH_S  # until it has been started
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the training
        )
        self._not_before = 0.0
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)

    def begin(self, folder: Path, every_s: float) -> None:
        """Have `folder` delivered every `every_s` seconds from now on; nothing new if it is already."""
        if str(folder.absolute()) in self._folders or time.monotonic() < self._not_before:
            return
        self._order(folder, every_s, finish=False)

    def news(self, folder: Path) -> list[News]:
        """What has come of `folder` since the last call; never waits."""
        self._read()
        return self._news.pop(str(folder.absolute()), [])

    def finish(self, folder: Path, every_s: float, wait_s: float) -> str | None:
        """Deliver what is left of `folder`, waiting at most `wait_s`; what is wrong if not everything has arrived.

        What could not be delivered by then still may be, as long as this process lives.
        """
        deadline = time.monotonic() + wait_s
        self._news.pop(str(folder.absolute()), None)
        self._order(folder, every_s, finish=True)
        self._folders.discard(str(folder.absolute()))  # a run that is resumed in it begins anew
        problem = None
        while self._process is not None:
            assert self._process.stdout is not None
            left = deadline - time.monotonic()
            if left <= 0:
                return problem or f"it did not take everything within {wait_s:g} s"
            poll = select.poll()
            poll.register(self._process.stdout, select.POLLIN)
            poll.poll(1000 * left)
            for news in self.news(folder):
                problem = news.error
                if news.state == "ended":
                    return problem
        return "the process that delivers to it has died"

    def stop(self) -> None:
        """End the process at once. What it had not delivered stays in the run folders."""
        process, self._process = self._process, None
        self._folders.clear()
        self._news.clear()
        self._unread = b""
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with contextlib.suppress(OSError):
                    pipe.close()

    def _order(self, folder: Path, every_s: float, *, finish: bool) -> None:
        self.prepare()
        assert self._process is not None
        assert self._process.stdin is not None
        order = {"folder": str(folder.absolute()), "every_s": every_s, "finish": finish}
        # The process may have been started before there was a password to inherit.
        order["environment"] = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        with contextlib.suppress(BrokenPipeError):  # it has died, which reading finds out
            os.write(self._process.stdin.fileno(), json.dumps(order).encode() + b"\n")
        self._folders.add(str(folder.absolute()))

    def _read(self) -> None:
        if self._process is None:
            return
        assert self._process.stdout is not None
        try:
            received = os.read(self._process.stdout.fileno(), 1 << 16)
        except BlockingIOError:
            return
        if not received:  # killed, as by the system when memory runs out
            self.stop()
            self._not_before = time.monotonic() + PAUSE_AFTER_A_CRASH_S
            return
        *lines, self._unread = (self._unread + received).split(b"\n")
        for line in lines:
            news = json.loads(line)
            self._news[news["folder"]].append(News(news["state"], news["error"]))


_courier = Courier()


def courier() -> Courier:
    """The one of this process."""
    return _courier


def _leave_to_the_parent() -> None:
    global _courier
    _courier = Courier()


os.register_at_fork(after_in_child=_leave_to_the_parent)
atexit.register(lambda: _courier.stop())
