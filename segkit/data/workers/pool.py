"""Processes that read and augment: they end with whoever started them, and what ends them is told with its remedy.

The private names of PyTorch's DataLoader stand in this file alone: it has no public way to end its workers now, or to
tell which process is which worker.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from segkit.contracts import UserError
from segkit.data.workers.faults import death, exit_status, hang, no_batch, shortage, state
from segkit.data.workers.process import Board, Collating, Preparation, Reporting
from segkit.errors import RunFailure

TICK_S = 1.0
"""How often the watch looks at the workers."""

START_S = 120.0
"""Longest that workers may take to start: where they are not forked, each imports everything anew."""

QUICK_S = 2.0
"""How long workers that are ended may take to get done with their current sample."""


class Workers:
    """A DataLoader whose workers end with it, and whose failures name cause and remedy.

    Iterating gives what `collate` makes of each group of items; a UserError or RunFailure that it gives is raised.

    A worker that dies, that is at one sample for longer than `timeout_s`, or that takes up no work for as long,
    ends the iteration with RunFailure: at once where a batch is waited for, else when the next one is asked for,
    of this or any other `Workers` of the process.

    Args:
        dataset: items by key.
        groups: the keys of each batch.
        collate: what the items of a group become.
        name: what messages call the sample of a number.
        num_workers: processes; 0: none, everything is done here.
        pin_memory: give tensors in page-locked memory.
        timeout_s: longest that one sample may take, in seconds.
        persistent: keep the workers from one iteration to the next.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        groups: Iterable[list[Any]],
        *,
        collate: Callable[[list[Any]], Any],
        name: Callable[[int], str],
        num_workers: int,
        pin_memory: bool,
        timeout_s: float,
        persistent: bool,
    ) -> None:
        self.failure: RunFailure | None = None
        self._name = name
        self._timeout_s = timeout_s
        self._persistent = persistent
        self._waiting_since: float | None = None
        self._stopped: dict[int, float] = {}
        self._board = Board(num_workers)
        self._preparation = Preparation(self._board)
        self._loader = DataLoader(
            Reporting(dataset, self._board, name),
            batch_sampler=groups,
            collate_fn=Collating(collate),
            num_workers=num_workers,
            pin_memory=pin_memory,
            worker_init_fn=self._preparation,
            persistent_workers=persistent and num_workers > 0,
            # Its own generator: the loader seeds workers by a draw, which must not move the global one.
            generator=torch.Generator().manual_seed(0),
        )
        self._iterators: list[Any] = []
        self._watch: threading.Thread | None = None
        # When this object is dropped, too, and before the interpreter at its end would wait for workers for ever.
        weakref.finalize(self, _end, self._iterators, self._board, os.getpid())

    def __iter__(self) -> Iterator[Any]:
        if not self._persistent:
            self.close()
        with self._waiting():
            self._preparation.by_signal = _in_main_thread()
            iterator = iter(self._loader)
        if self._loader.num_workers:
            self._iterators[:] = [iterator]
            self._watch_over()
        while True:
            with self._waiting():
                item = next(iterator, None)
            if item is None:
                return
            if isinstance(item, UserError | RunFailure):
                raise item
            yield item

    def close(self) -> None:
        """End the workers at once."""
        _open.discard(self)
        self.failure = None
        self._stopped.clear()
        self._loader._iterator = None  # where PyTorch keeps persistent workers
        _end(self._iterators, self._board, os.getpid())
        self._board.clear()

    @property
    def is_waited_for(self) -> bool:
        return self._waiting_since is not None

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """While this is entered, a failure interrupts the main thread; one that came before is raised now."""
        for failure in [workers.failure for workers in list(_open)]:
            if failure is not None:
                raise failure
        self._waiting_since = time.monotonic()
        try:
            yield
        except (RuntimeError, OSError, EOFError) as error:
            failure = error if isinstance(error, RunFailure) else self.failure or self._explained(error)
            if failure is None or failure is error:
                raise
            raise failure from error
        finally:
            self._waiting_since = None

    def _explained(self, error: Exception) -> RunFailure | None:
        if "Caught" in str(error):  # raised by what a worker ran
            return None
        # Whoever waits at the other end of a pipe may learn of a death before the system tells of it.
        deadline = time.monotonic() + 1
        while self._processes and time.monotonic() < deadline:
            if (failure := self.dead()) is not None:
                return failure
            time.sleep(0.02)
        return shortage(error)

    @property
    def _processes(self) -> list[Any]:
        return [process for iterator in self._iterators for process in iterator._workers]

    def dead(self) -> RunFailure | None:
        """What to tell of the first worker that died, if one did."""
        for number, process in enumerate(self._processes):
            if status := exit_status(process):
                return death(number, process.pid, status, self._sample(number))
        return None

    def _sample(self, worker: int) -> str | None:
        """What messages call the sample that a worker is at."""
        index = self._board.sample(worker)
        return None if index is None else self._name(index)

    def hanging(self, since: float) -> RunFailure | None:
        """What to tell of a worker that hangs, if one does; times before `since`, monotonic, do not count."""
        now, limit = time.monotonic(), self._timeout_s
        newest, is_busy, have_started = since, False, True
        for number, process in enumerate(self._processes):
            began = max(since, self._board.since(number))
            newest = max(newest, began)
            is_reading = self._board.sample(number) is not None
            have_started &= self._board.has_started(number)
            if state(process.pid) in ("T", "t"):
                began = max(since, self._stopped.setdefault(number, now))
            else:
                self._stopped.pop(number, None)
                is_busy |= is_reading
            if (is_reading or number in self._stopped) and now - began > limit:
                return hang(number, process.pid, self._sample(number), now - began, limit)
        if not is_busy and self._waiting_since is not None:
            idle = now - max(newest, self._waiting_since)
            if idle > (limit if have_started else max(limit, START_S)):
                return no_batch(idle, limit)
        return None

    def give_up(self, failure: RunFailure) -> None:
        """Let `failure` end the iteration, and the workers end now."""
        self.failure = failure
        for process in self._processes:
            process.kill()
        # The main thread may be waiting for one of them in a way that knows no end.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGCHLD)

    def _watch_over(self) -> None:
        _open.add(self)
        if _in_main_thread() and not isinstance(signal.getsignal(signal.SIGCHLD), _ChildHandler):
            signal.signal(signal.SIGCHLD, _ChildHandler(signal.getsignal(signal.SIGCHLD)))
        if self._watch is None or not self._watch.is_alive():
            self._watch = threading.Thread(target=_watch, args=(weakref.ref(self),), name="data workers", daemon=True)
            self._watch.start()


_open: weakref.WeakSet[Workers] = weakref.WeakSet()
_ending = 0  # calls of `_end` that are under way, during which workers may die


class _ChildHandler:
    """For SIGCHLD: PyTorch's own raises wherever the main thread stands, be it in the middle of a checkpoint."""

    def __init__(self, previous: Any) -> None:
        self.previous = previous
        self.owner = os.getpid()

    def __call__(self, number: int, frame: Any) -> None:
        if _ending:
            return
        workers = list(_open) if os.getpid() == self.owner else []  # a forked process has inherited this
        for one in workers:
            one.failure = one.failure or one.dead()
        failures = [one.failure for one in workers if one.failure is not None]
        if failures and any(one.is_waited_for for one in workers):
            raise failures[0]
        if not failures and callable(self.previous):
            self.previous(number, frame)


def _watch(reference: weakref.ref[Workers]) -> None:
    """Look at workers until they are ended or given up."""
    since = looked = time.monotonic()
    while True:
        time.sleep(TICK_S)
        now = time.monotonic()
        if now - looked > 5 * TICK_S:
            since = now  # this process was stopped for a while, and so may they have been
        looked = now
        workers = reference()
        if workers is None or workers not in _open or workers.failure is not None:
            return
        failure = workers.hanging(since)
        if failure is not None:
            workers.give_up(failure)
            return
        del workers


def _end(iterators: list[Any], board: Board, owner: int) -> None:
    """End the workers of PyTorch's `iterators`, those that do not hang after their current batch."""
    global _ending
    if os.getpid() != owner:  # a copy of the list in a forked process
        return
    _ending += 1
    try:
        while iterators:
            iterator = iterators.pop()
            _kill_hanging(iterator._workers, board)
            iterator._shutdown_workers()
            for process in iterator._workers:
                process.kill()
                process.join(QUICK_S)
    finally:
        _ending -= 1


def _kill_hanging(processes: list[Any], board: Board) -> None:
    """Kill those that do not get done with their current sample in a moment: PyTorch would wait for each of them."""
    began = time.monotonic()

    def hanging() -> list[Any]:
        return [
            process
            for number, process in enumerate(processes)
            if exit_status(process) is None
            and (state(process.pid) in ("T", "t") or (board.sample(number) is not None and board.since(number) < began))
        ]

    while hanging() and time.monotonic() - began < QUICK_S:
        time.sleep(0.02)
    for process in hanging():
        process.kill()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
