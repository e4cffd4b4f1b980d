"""The process beside a training that follows its run folders; what it does is in `follow`.

A process, not a thread: importing MLflow and opening a store take seconds of Python, during which a thread would
hold the interpreter's lock again and again between two operators of the network; and whatever hangs, leaks or
crashes in a client of a remote store does so elsewhere. It is told the folders, and nothing comes back: what there is
to know of the delivery stands in the run folder.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

from segkit.config.credentials import VARIABLE

PACKAGES = str(Path(__file__).resolve().parents[2])

START = """
import sys
sys.path.append(sys.argv[2])
from segkit.tracking.follow import main
main(parent=int(sys.argv[1]))
"""

PASSED_ON = (VARIABLE, "MLFLOW_TRACKING_USERNAME")

PAUSE_AFTER_A_CRASH_S = 60.0


class FollowerProcess:
    """Started when first needed; one follows all runs of this process, as importing MLflow takes seconds of CPU."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._earlier: list[subprocess.Popen[bytes]] = []
        self._environment: dict[str, str] = {}
        self._folders: set[Path] = set()
        self._not_before = 0.0

    @property
    def pid(self) -> int | None:
        """None if there is none, or none any more."""
        if self._process is not None and self._process.poll() is not None:  # killed, as when memory runs out
            self.stop()
            self._not_before = time.monotonic() + PAUSE_AFTER_A_CRASH_S
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process, which begins by importing MLflow. Raises OSError when the system refuses."""
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        if self.pid is not None:
            if environment == self._environment:
                return
            # A password that this one was not started with: it ends when its runs do, and another takes the new ones.
            self._retire()
        # Python's -P keeps the working directory, which is the user's, from hiding modules.
        command = [sys.executable, "-P", "-c", START, str(os.getpid()), PACKAGES]
        self._not_before = time.monotonic() + PAUSE_AFTER_A_CRASH_S  # until it has been started
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the training
        )
        self._environment = environment
        self._not_before = 0.0

    def follow(self, folder: Path) -> None:
        """Have `folder` followed from now on, and looked at now. Raises OSError when the system refuses."""
        self.start()
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died, which `pid` finds out
            os.write(self._process.stdin.fileno(), os.fsencode(folder.absolute()) + b"\0")
        self._folders.add(folder.absolute())

    def go_on_following(self, folder: Path) -> None:
        """Have `folder` followed if it is not any more: after a crash, and a pause, so as not to crash all the time."""
        if (self.pid is None or folder.absolute() not in self._folders) and time.monotonic() >= self._not_before:
            self.follow(folder)

    def stop(self) -> None:
        """End the process at once. What it had not delivered stays in the run folders."""
        self._retire()
        for process in self._earlier:
            process.kill()
            process.wait()
        self._earlier.clear()

    def _retire(self) -> None:
        process, self._process = self._process, None
        self._folders.clear()
        if process is not None:
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
            self._earlier.append(process)


_follower = FollowerProcess()


def follower() -> FollowerProcess:
    """The one of this process."""
    return _follower


def _leave_to_the_parent() -> None:
    global _follower
    _follower = FollowerProcess()


os.register_at_fork(after_in_child=_leave_to_the_parent)
atexit.register(lambda: _follower.stop())
