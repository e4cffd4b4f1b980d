"""Places where trials run, one at a time each: this process, processes of its own, or whatever a launcher starts.

Hydra's launchers block until the batch they are given ends. Here every batch is one job and every slot has a
thread that waits for it, so that a new trial starts when any ends.

Hydra's private names stand in this file alone: it has no public one for its basic launcher, whose jobs can have
processes of their own here, and none for the loggers of launchers.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, Protocol

import cloudpickle
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.singleton import Singleton
from hydra.plugins.launcher import Launcher

from segkit.sweep.trial_job import Outcome


class Slots(Protocol):
    """Runs jobs, `count` at once.

    Attributes:
        count: how many.
        is_here: jobs run in this process, and `run` returns when the job has ended.
    """

    count: int
    is_here: bool

    def run(self, overrides: Sequence[str], number: int) -> Future[Outcome]: ...

    def close(self) -> None:
        """Wait for nothing more."""
        ...


class Here:
    """One job after another in this process and thread: nothing to start, nothing to import again."""

    count = 1
    is_here = True

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher

    def run(self, overrides: Sequence[str], number: int) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        try:
            future.set_result(_launch(self._launcher, overrides, number))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None: ...


class Launched:
    """Jobs through a launcher that hands them to another scheduler: submitit's."""

    is_here = False

    def __init__(self, launcher: Launcher, count: int) -> None:
        self.count = count
        self._launcher = launcher
        self._slots = threading.Semaphore(count)

    def run(self, overrides: Sequence[str], number: int) -> Future[Outcome]:
        future: Future[Outcome] = Future()

        def wait() -> None:
            with self._slots:
                try:
                    future.set_result(_launch(self._launcher, overrides, number))
                except BaseException as error:
                    future.set_exception(error)

        # A daemon: a remote job that never ends must not keep a sweep from ending.
        threading.Thread(target=wait, name=f"trial {number}", daemon=True).start()
        return future

    def close(self) -> None: ...


class OwnProcesses:
    """Jobs in processes of their own, which keep what they imported for the next job.

    One pool a slot: in a common pool, as joblib's launcher has it, a process that is killed takes all with it. That
    launcher runs here in each process by itself.
    """

    is_here = False

    def __init__(self, launcher: Launcher, count: int) -> None:
        self.count = count
        if hasattr(launcher, "joblib"):
            vars(launcher)["joblib"]["n_jobs"] = 1
        self._payload = cloudpickle.dumps((launcher, Singleton.get_state()))
        self._threads = ThreadPoolExecutor(count)
        self._idle: list[ProcessPoolExecutor] = []

    def run(self, overrides: Sequence[str], number: int) -> Future[Outcome]:
        return self._threads.submit(self._in_process, list(overrides), number)

    def _in_process(self, overrides: list[str], number: int) -> Outcome:
        # Not a fork: CUDA and the threads of PyTorch do not survive one.
        spawn = multiprocessing.get_context("spawn")
        process = self._idle.pop() if self._idle else ProcessPoolExecutor(1, spawn, _leave_ctrl_c_to_the_sweep)
        try:
            outcome = process.submit(_launch_in_process, self._payload, overrides, number).result()
        except BaseException:
            process.shutdown(wait=False, cancel_futures=True)
            raise
        self._idle.append(process)
        return outcome

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._idle:
            process.shutdown(wait=False, cancel_futures=True)


def make_slots(launcher: Launcher, count: int) -> Slots:
    """`count` slots for what `launcher` starts."""
    # By name: where this module was imported first, Hydra's search for plugins has made a second class of it.
    is_basic = any(kind.__module__ == BasicLauncher.__module__ for kind in type(launcher).__mro__)
    is_local = is_basic or hasattr(launcher, "joblib")
    if not is_local:
        return Launched(launcher, count)
    return Here(launcher) if count == 1 else OwnProcesses(launcher, count)


@contextlib.contextmanager
def quiet_launchers() -> Iterator[None]:
    """Launchers announce every batch, and here each trial is one."""
    loggers = [logging.getLogger(name) for name in ("hydra._internal.core_plugins", "hydra_plugins")]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger in loggers:
            logger.setLevel(logging.NOTSET)


def _launch(launcher: Launcher, overrides: Sequence[str], number: int) -> Outcome:
    result: Any = launcher.launch([list(overrides)], initial_job_idx=number)[0]
    return result.return_value


def _leave_ctrl_c_to_the_sweep() -> None:
    # The terminal sends it to all; training listens for it by itself, and everything else the sweep ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _launch_in_process(payload: bytes, overrides: list[str], number: int) -> Outcome:
    launcher, state = cloudpickle.loads(payload)
    Singleton.set_state(state)
    with quiet_launchers():
        return _launch(launcher, overrides, number)
