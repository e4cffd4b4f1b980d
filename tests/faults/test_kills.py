"""SIGKILL and refused system calls at any instant, also inside a checkpoint write: the tracer does it from outside."""

from __future__ import annotations

import itertools
import json
import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from segkit.run import checkpoint
from segkit.run.run_folder import RunFolder
from tests.conftest import losses, summary
from tests.faults.conftest import Ended, Starter
from tests.faults.saving import save

CALLS = "openat,write,fsync,rename,link,unlink,ftruncate,close"
SCRIPT = Path(__file__).parent / "saving.py"

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@pytest.fixture(scope="module")
def three_saves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with saves of steps 1, 2 and 3."""
    folder = tmp_path_factory.mktemp("saves") / "run"
    save(folder, 1, 3, stopped=False)
    return folder


def traced(starter: Starter, folder: Path, *options: str, last: int = 5) -> Ended:
    """Saves of steps 4 to `last` into `folder` under strace with `options`, which see nothing of the start."""
    saving = starter.start(folder, str(folder), "4", str(last), script=SCRIPT)
    state = Path(f"/proc/{saving.pid}/stat")
    while ") T " not in state.read_text():
        time.sleep(0.002)
    tracer = subprocess.Popen(
        ["strace", "-p", str(saving.pid), "-o", str(folder.parent / "trace"), *options],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tracer.stderr is not None
    said = tracer.stderr.readline()
    if "attached" not in said:
        saving.send(signal.SIGKILL)
        saving.wait()
        pytest.skip(f"strace cannot attach here: {said}")
    saving.send(signal.SIGCONT)
    ended = saving.wait()
    tracer.wait(timeout=20)
    return ended


def assert_goes_on(folder: Path, *, at_least: int) -> int:
    """A whole checkpoint no older than `at_least` is found, the records can be read, and saving goes on; its step."""
    found = checkpoint.newest(folder / "checkpoints")
    assert found is not None
    step = found[1]["state"]["step"]
    assert step >= at_least
    assert torch.equal(found[1]["model"]["weight"], torch.full((3000,), float(step)))
    json.loads((folder / "summary.json").read_text())
    save(folder, step + 1, step + 1, stopped=False)
    assert [json.loads(line)["kind"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert checkpoint.read(folder / "checkpoints" / "last.pt")["state"]["step"] == step + 1
    assert not list((folder / "checkpoints").glob(".*"))
    return step


@pytest.fixture(scope="module")
def calls(starter: Starter, three_saves: Path, tmp_path_factory: pytest.TempPathFactory) -> Counter[str]:
    """How often the saves of steps 4 and 5 make each system call."""
    folder = tmp_path_factory.mktemp("counted") / "run"
    shutil.copytree(three_saves, folder)
    assert traced(starter, folder, "-e", f"trace={CALLS}").returncode == 0
    found = Counter(re.findall(r"^(\w+)\(", (folder.parent / "trace").read_text(), re.M))
    assert found["rename"] >= 8
    assert found["fsync"] >= 4
    return found


def kill_everywhere(starter: Starter, three_saves: Path, tmp_path: Path, cases: list[tuple[str, int]]) -> set[int]:
    steps: set[int] = set()
    for call, number in cases:
        folder = tmp_path / f"{call}-{number}" / "run"
        shutil.copytree(three_saves, folder)
        options = ("-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}")
        ended = traced(starter, folder, *options)
        assert ended.returncode == -signal.SIGKILL, (call, number, ended)
        steps.add(assert_goes_on(folder, at_least=3))
    return steps


@needs_strace
def test_a_kill_at_some_system_calls_of_a_save_costs_no_checkpoint(
    starter: Starter, three_saves: Path, calls: Counter[str], tmp_path: Path
):
    cases = [(call, number) for call in ("rename", "link", "fsync") for number in range(1, calls[call] + 1, 2)]
    assert kill_everywhere(starter, three_saves, tmp_path, cases) == {3, 4, 5}


@pytest.mark.slow
@needs_strace
def test_a_kill_at_any_system_call_of_a_save_costs_no_checkpoint(
    starter: Starter, three_saves: Path, calls: Counter[str], tmp_path: Path
):
    cases = [(call, number) for call in CALLS.split(",") for number in range(1, calls[call] + 1)]
    assert kill_everywhere(starter, three_saves, tmp_path, cases) == {3, 4, 5}


@needs_strace
@pytest.mark.parametrize(
    ("injected", "saved"),
    [
        ("fsync:error=EIO:when=1", 5),
        ("fsync:error=EIO", 3),
        ("write:error=ENOSPC", 3),
        ("write:error=EIO:when=2", 5),
        ("rename:error=EIO:when=1", 5),
        ("openat:error=EROFS", 3),
        ("link:error=EPERM", 5),  # a file system without hard links
    ],
)
def test_a_refused_system_call_costs_no_checkpoint(
    starter: Starter, three_saves: Path, tmp_path: Path, injected: str, saved: int
):
    folder = tmp_path / "run"
    shutil.copytree(three_saves, folder)
    call = injected.partition(":")[0]
    only = ["-P", str(folder / "checkpoints" / ".fresh.part")] if call in ("write", "openat") else []
    ended = traced(starter, folder, "-e", f"trace={call}", "-e", f"inject={injected}", *only)
    assert ended.returncode == 0, ended.stderr
    if call != "link":
        assert re.search(r"step 4: .*last\.pt: .*hydra\.run\.dir", ended.stdout), ended.stdout
        assert ("needs 0.0 MB" in ended.stdout) == ("ENOSPC" in injected)
    assert not list((folder / "checkpoints").glob(".*"))
    assert assert_goes_on(folder, at_least=3) == saved


@needs_strace
@pytest.mark.parametrize("call", ["read,pread64,readv", "mmap", "openat"])
def test_a_checkpoint_that_the_disk_cannot_read_is_passed_over(
    starter: Starter, three_saves: Path, tmp_path: Path, call: str
):
    folder = tmp_path / "run"
    shutil.copytree(three_saves, folder)
    for path in (folder / "checkpoints").iterdir():  # those of step 3, by their other names
        if path.name.startswith(("best", "top")):
            path.unlink()
    only = ["-P", str(folder / "checkpoints" / "last.pt")]
    ended = traced(starter, folder, "-e", f"trace={call}", "-e", f"inject={call}:error=EIO", *only, last=3)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "newest: ('previous.pt', 2)\n"
    assert "last.pt" in ended.stderr


@needs_strace
def test_without_hard_links_a_kill_costs_no_checkpoint_either(starter: Starter, three_saves: Path, tmp_path: Path):
    for number in range(1, 9, 2):
        folder = tmp_path / str(number) / "run"
        shutil.copytree(three_saves, folder)
        options = ("-e", "trace=link,rename", "-e", "inject=link:error=EPERM")
        ended = traced(starter, folder, *options, "-e", f"inject=rename:signal=KILL:when={number}")
        assert ended.returncode == -signal.SIGKILL
        assert_goes_on(folder, at_least=3)


STATEFUL = "trainer.max_epochs=4 trainer.checkpoint.every_steps=1 trainer.ema.decay=0.9 transform=default".split()


def test_a_training_killed_again_and_again_ends_as_one_that_was_not(starter: Starter, tmp_path: Path):
    unbroken, folder = tmp_path / "unbroken", tmp_path / "run"
    assert starter.train(unbroken, *STATEFUL).returncode == 0
    delays = random.Random(1)
    for kill in itertools.count():
        training = starter.start(folder, *STATEFUL, "resume=auto")
        if kill == 3:
            break
        training.wait_for_step(4 + 6 * kill)
        time.sleep(delays.uniform(0, 0.1))
        training.send(signal.SIGKILL)
        assert training.wait().returncode == -signal.SIGKILL
    ended = training.wait()
    assert ended.returncode == 0, ended.stderr
    assert losses(folder) == losses(unbroken)
    ours, theirs = (checkpoint.read(f / "checkpoints" / "last.pt") for f in (folder, unbroken))
    ignored = {"config", "run_id"}
    assert [k for k in theirs if k not in ignored and checkpoint.digest(ours[k]) != checkpoint.digest(theirs[k])] == []
    assert summary(folder)["best_score"] == summary(unbroken)["best_score"]


@needs_strace
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_signal_while_a_checkpoint_is_written(starter: Starter, tmp_path: Path, number: signal.Signals, code: int):
    training = starter.start(tmp_path / "run", *STATEFUL, "trainer.max_epochs=1000")
    training.wait_for_step(3)
    slow_disk = ["-e", "trace=fsync", "-e", "inject=fsync:delay_enter=500000"]
    tracer = subprocess.Popen(
        ["strace", "-p", str(training.pid), "-o", "/dev/null", *slow_disk], stderr=subprocess.PIPE
    )
    checkpoints = training.folder / "checkpoints"
    time.sleep(1)
    deadline = time.monotonic() + 30
    while not (checkpoints / ".fresh.part").exists():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    training.send(number)
    ended = training.wait()
    tracer.wait(timeout=20)
    assert ended.returncode == code, ended.stderr
    found = checkpoint.newest(checkpoints)
    assert found is not None
    steps = losses(training.folder)
    assert found[0].name == "last.pt"
    if number == signal.SIGKILL:
        assert max(steps) - 2 <= found[1]["state"]["step"] <= max(steps)
    else:
        assert found[1]["state"]["step"] == max(steps)
        assert not list(checkpoints.glob(".*"))
    assert "passing over" not in ended.stdout


def test_the_second_process_in_a_folder_is_refused_and_names_the_first(starter: Starter, tmp_path: Path):
    first = starter.start(tmp_path / "run", "trainer.max_epochs=1000")
    first.wait_for_step(1)
    second = starter.train(tmp_path / "run", "resume=auto")
    assert second.returncode == 2
    assert "another process" in second.stderr
    assert f"process {first.pid} on" in second.stderr
    assert str(tmp_path / "run") in second.stderr
    assert len(second.stderr.strip().splitlines()) == 1
    first.send(signal.SIGKILL)
    first.wait()
    RunFolder(tmp_path / "run").close()


def test_data_workers_that_outlive_a_kill_do_not_hold_the_folder(starter: Starter, tmp_path: Path):
    first = starter.start(tmp_path / "run", "trainer.max_epochs=1000", "trainer.num_workers=2")
    first.wait_for_step(1)
    workers = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    assert len(workers) >= 2
    for worker in workers:  # as one does that hangs in reading
        subprocess.run(["kill", "-STOP", worker], check=True)
    first.send(signal.SIGKILL)
    first.wait()
    try:
        RunFolder(tmp_path / "run").close()
    finally:
        for worker in workers:
            subprocess.run(["kill", "-KILL", worker], check=False)
