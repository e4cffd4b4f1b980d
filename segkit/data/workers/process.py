"""What runs inside a data worker: its settings, what it notes of its work, and how it fails so that it can be told."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import cv2
import torch
from torch.utils.data import Dataset, get_worker_info

from segkit.data.workers.faults import shortage

IDLE, STARTING = -1.0, -2.0
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Board:
    """What each worker is at and since when, in memory that the workers write and their parent reads."""

    def __init__(self, num_workers: int) -> None:
        self._notes = multiprocessing.RawArray("d", 2 * max(num_workers, 1))
        self.clear()

    def clear(self) -> None:
        for worker in range(len(self._notes) // 2):
            self._note(worker, STARTING)

    def note(self, worker: int, sample: int | None) -> None:
        """Say that `worker` begins with the sample of that number, or waits for work."""
        self._note(worker, IDLE if sample is None else sample)

    def _note(self, worker: int, number: float) -> None:
        self._notes[2 * worker + 1] = time.monotonic()
        self._notes[2 * worker] = number

    def has_started(self, worker: int) -> bool:
        return self._notes[2 * worker] != STARTING

    def sample(self, worker: int) -> int | None:
        """The number of the sample that `worker` is at; None: it waits for work."""
        number = self._notes[2 * worker]
        return None if number < 0 else int(number)

    def since(self, worker: int) -> float:
        """When that began, in monotonic seconds, which are the same for all processes of a machine."""
        return self._notes[2 * worker + 1]


class Reporting(Dataset[Any]):
    """The items of a dataset in groups, each noted on the board while a worker is at it.

    Where memory runs out, RunFailure ends the group: raised in a worker, it would arrive in a traceback.
    """

    def __init__(self, dataset: Dataset[Any], board: Board, name: Callable[[int], str]) -> None:
        self.dataset = dataset
        self.board = board
        self.name = name

    def __getitems__(self, keys: list[Any]) -> list[Any]:
        items: list[Any] = []
        info = get_worker_info()
        for key in keys:
            sample = sample_of(key)
            if info is not None:
                self.board.note(info.id, sample)
            try:
                items.append(self.dataset[key])
            except MemoryError as error:
                return [shortage(error, f"while reading {self.name(sample)}")]
        if info is not None:
            self.board.note(info.id, None)
        return items


def sample_of(key: Any) -> int:
    """The number of the sample that a loader's key, an index or (epoch, index), is of."""
    return key[-1] if isinstance(key, tuple) else key  # pyright: ignore[reportUnknownVariableType]


class Collating:
    """`collate`, with RunFailure in place of a batch where memory, or what is shared of it, runs out."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, items: list[Any]) -> Any:
        try:
            return self.collate(items)
        except (RuntimeError, OSError, MemoryError) as error:
            failure = shortage(error, "while putting a batch together")
            if failure is None:
                raise
            return failure


class Preparation:
    """Makes a fresh worker leave threads to its parent, and the end of the run to it as well.

    Attributes:
        parent: the process that the worker ends with.
        by_signal: let the system end it; right if the thread that starts the worker lives as long as the parent,
            since Linux takes that thread for the parent.
    """

    def __init__(self, board: Board) -> None:
        self.board = board
        self.parent = os.getpid()
        self.by_signal = False

    def __call__(self, worker: int) -> None:
        cv2.setNumThreads(0)
        torch.set_num_threads(1)
        # What asks the run to stop often reaches the whole process group; the parent still needs its batch then.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        end_with(self.parent, by_signal=self.by_signal)
        self.board.note(worker, None)


def end_with(parent: int, *, by_signal: bool) -> None:
    """Let this process end within a second of its parent, which may be killed without a chance to say so."""
    if by_signal and sys.platform == "linux":
        # This also ends a worker that was stopped, or that waits for a file system that hangs.
        if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) == 0 and os.getppid() == parent:
            return
    threading.Thread(target=_end_when_left, args=(parent,), daemon=True).start()


def _end_when_left(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
