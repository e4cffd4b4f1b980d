"""Data workers that are killed, stopped, starved of memory or left behind, each by what does so to real ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.conftest import REPOSITORY, losses, summary
from tests.data.written import write_pair
from tests.faults.conftest import Starter

LOADING = Path(__file__).with_name("loading.py")
TIMEOUT_S = 2
LIMIT_S = 20  # a second or two for what takes no time-out; much more where the machine is busy with other things


class Loading:
    """A process of `loading.py`, and the workers that it has started."""

    def __init__(self, folder: Path, *arguments: str, prefix: list[str] | None = None) -> None:
        self.process = subprocess.Popen(
            [*(prefix or []), sys.executable, str(LOADING), str(folder), str(TIMEOUT_S), *arguments],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.workers: dict[str, list[int]] = json.loads(self.process.stdout.readline() or "{}")

    @property
    def everyone(self) -> list[int]:
        return [pid for pids in self.workers.values() for pid in pids]

    def end(self) -> tuple[str, float]:
        """What it says at its end, which is a failure, and how long that took."""
        started = time.monotonic()
        _, said = self.process.communicate(timeout=60)
        assert self.process.returncode == 1, said
        return said, time.monotonic() - started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, number in (("train", 6), ("val", 2)):
        for index in range(number):
            write_pair(tmp_path, f"{split}/images/{index}.png", f"{split}/masks/{index}.png", index, size=256)
    return tmp_path


@pytest.fixture
def loading(folder: Path) -> Iterator[Callable[..., Loading]]:
    started: list[Loading] = []

    def start(*arguments: str, **keywords: Any) -> Loading:
        started.append(Loading(folder, *arguments, **keywords))
        return started[-1]

    yield start
    for one in started:
        for pid in (one.process.pid, *one.everyone):
            if psutil.pid_exists(pid):
                os.kill(pid, signal.SIGKILL)
        one.process.communicate()


def remaining(pids: list[int], patience_s: float = LIMIT_S) -> list[int]:
    """Those of the processes that are still there, zombies too, after a moment to go."""
    deadline = time.monotonic() + patience_s
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return [pid for pid in pids if psutil.pid_exists(pid)]


def last_line(said: str) -> str:
    return said.strip().splitlines()[-1]


@pytest.mark.parametrize("which", [pytest.param("busy", marks=pytest.mark.slow), "idle"])
def test_a_worker_that_is_killed_ends_the_run_at_once(loading: Callable[..., Loading], which: str) -> None:
    run = loading()
    os.kill(run.workers[which][-1], signal.SIGKILL)
    said, seconds = run.end()
    assert re.search(r"RunFailure: data worker \d \(process \d+\) was killed \(SIGKILL\)", last_line(said))
    assert "ran out of memory" in said
    assert "lower trainer.num_workers or trainer.batch_size" in said
    assert seconds < LIMIT_S
    assert remaining(run.everyone) == []


@pytest.mark.parametrize("which", ["busy", pytest.param("idle", marks=pytest.mark.slow)])
def test_a_worker_that_is_stopped_ends_the_run_in_time(loading: Callable[..., Loading], which: str) -> None:
    run = loading()
    os.kill(run.workers[which][0], signal.SIGSTOP)
    said, seconds = run.end()
    assert re.search(r"RunFailure: data worker 0 \(process \d+\) was stopped by a signal \(SIGSTOP", last_line(said))
    assert TIMEOUT_S <= seconds < LIMIT_S
    assert remaining(run.everyone) == []


@pytest.mark.slow
def test_all_processes_stopped_for_a_while_go_on(loading: Callable[..., Loading]) -> None:
    """Ctrl-Z, or a scheduler that suspends the whole job."""
    run = loading()
    everyone = [run.process.pid, *run.everyone]
    for pid in everyone:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(TIMEOUT_S + 4)
    for pid in everyone:
        os.kill(pid, signal.SIGCONT)
    time.sleep(2)
    assert run.process.poll() is None


@pytest.mark.parametrize("stopped", [pytest.param(False, marks=pytest.mark.slow), True])
def test_workers_do_not_outlive_a_killed_parent(loading: Callable[..., Loading], stopped: bool) -> None:
    run = loading()
    if stopped:
        os.kill(run.workers["busy"][0], signal.SIGSTOP)
    run.process.kill()
    assert remaining(run.everyone) == []


def test_workers_that_hang_do_not_keep_a_process_from_ending(loading: Callable[..., Loading]) -> None:
    """Nothing was closed, and workers ignore the SIGTERM that Python sends them at its end."""
    run = loading("--leave")
    started = time.monotonic()
    _, said = run.process.communicate(timeout=60)
    assert run.process.returncode == 0, said
    assert "Traceback" not in said
    assert time.monotonic() - started < LIMIT_S
    assert remaining(run.everyone) == []


def test_memory_that_runs_out_in_a_worker_is_told_as_such(loading: Callable[..., Loading], folder: Path) -> None:
    for index in range(6):
        path = folder / "train" / "images" / f"{index}.npy"
        with path.with_suffix(".npy").open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (10000, 10000, 3)}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + 3 * 10**8)
        path.with_suffix(".png").unlink()
    run = loading("--spare", str(250 << 20))
    said, _ = run.end()
    assert re.search(r"RunFailure: memory ran out while reading train/images/\d\.npy .*: lower trainer\.num_", said)


def private_shared_memory(size: str) -> list[str]:
    """The beginning of a command line that gives what follows a /dev/shm of that size; skips where that is refused."""
    for unshare in (["unshare", "-m"], ["unshare", "-Urm"]):
        prefix = [*unshare, "sh", "-c", f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"', "sh"]
        if (
            shutil.which("unshare")
            and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
        ):
            return prefix
    pytest.skip("this system lets nobody mount a /dev/shm of their own")


def test_too_little_shared_memory_is_told_as_such(loading: Callable[..., Loading]) -> None:
    run = loading(prefix=private_shared_memory("512k"))
    said, seconds = run.end()
    assert "RunFailure: shared memory, through which data workers hand batches over, ran out" in said
    assert re.search(r"/dev/shm has \d MiB of \d MiB free\. Give a container more .*--shm-size=8g", said)
    assert "trainer.num_workers=0" in said
    assert seconds < LIMIT_S


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_training_whose_worker_fails_goes_on_later(starter: Starter, tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "run"
    arguments = ["trainer.num_workers=2", "trainer.checkpoint.every_steps=3", "trainer.max_epochs=100000"]
    run = starter.start(folder, *arguments, f"trainer.data_timeout_s={TIMEOUT_S}")
    run.wait_for_step(4)
    workers = [worker.pid for worker in psutil.Process(run.pid).children(recursive=True)]
    os.kill(workers[-1], number)
    started = time.monotonic()
    ended = run.wait()
    assert time.monotonic() - started < LIMIT_S + TIMEOUT_S
    assert ended.returncode == 1
    told = "was killed (SIGKILL)" if number is signal.SIGKILL else "was stopped by a signal (SIGSTOP"
    assert re.match(r"error: data worker \d \(process \d+\) was ", last_line(ended.stderr))
    assert told in last_line(ended.stderr)
    assert "Traceback" not in ended.stderr
    assert remaining(workers) == []
    assert summary(folder)["status"] == "failed"
    assert told in summary(folder)["error"]
    done = max(losses(folder))
    again = starter.train(folder, "resume=auto", f"trainer.max_steps={done + 2}", *arguments)
    assert again.returncode == 0, again.stderr
    assert max(losses(folder)) == done + 2
