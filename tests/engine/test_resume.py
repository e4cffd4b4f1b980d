"""A run that was stopped and resumed is, bit for bit, the run that never stopped: real processes, real signals."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from segkit.engine import checkpoint
from tests.conftest import TINY, command, losses, records, summary, train

# Dropout in the head, augmentation in the data, EMA, accumulation and a schedule: all that has state.
STATEFUL = (
    "trainer.max_epochs=3 trainer.accumulate=2 trainer.ema.decay=0.9 transform=default trainer.clip_norm=1.0 "
    "trainer.checkpoint.every_steps=1 trainer.evaluate.every_epochs=1 optimizer.lr=1e-3"
).split()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    done = train(folder, *STATEFUL)
    assert done.returncode == 0, done.stderr
    return folder


def tensors(value: Any, name: str = "") -> dict[str, torch.Tensor]:
    """Every tensor of a nested content by its path."""
    if isinstance(value, torch.Tensor):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {k: v for key, item in items for k, v in tensors(item, f"{name}.{key}").items()}


def assert_same_run(folder: Path, unbroken: Path) -> None:
    assert losses(folder) == losses(unbroken)
    ours, theirs = (checkpoint.read(f / "checkpoints" / "last.pt") for f in (folder, unbroken))
    assert ours["state"] == theirs["state"]
    ours, theirs = tensors(ours), tensors(theirs)
    assert list(ours) == list(theirs)
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different
    assert summary(folder)["best_score"] == summary(unbroken)["best_score"]


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    line, environment = command(*TINY, "tracker=none", f"hydra.run.dir={folder}", *STATEFUL, *arguments)
    return subprocess.Popen(
        line, env=environment, cwd=folder.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_step(process: subprocess.Popen, folder: Path, step: int) -> None:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        path = folder / "metrics.jsonl"
        if path.exists() and f'"step": {step},' in path.read_text():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    raise AssertionError(f"step {step} did not come")


@pytest.mark.parametrize(
    ("number", "exit_code", "status"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_saves_and_the_resumed_run_ends_as_if_nothing_had_been(
    tmp_path: Path, unbroken: Path, number: signal.Signals, exit_code: int, status: str
):
    folder = tmp_path / "run"
    process = start(folder)
    wait_for_step(process, folder, 2)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == exit_code, stderr
    assert "resume=" in stderr
    assert "Traceback" not in stderr
    assert summary(folder)["status"] == status
    stopped_at = checkpoint.read(folder / "checkpoints" / "last.pt")["state"]["step"]
    assert stopped_at == max(losses(folder)) < max(losses(unbroken))

    # The worker count is free to change in between.
    resumed = train(folder, *STATEFUL, "resume=auto", "trainer.num_workers=1")
    assert resumed.returncode == 0, resumed.stderr
    assert f"at step {stopped_at}" in resumed.stdout
    assert [r["step"] for r in records(folder, "train")] == list(range(1, max(losses(unbroken)) + 1))
    assert_same_run(folder, unbroken)


def test_after_a_kill_the_newest_whole_checkpoint_is_taken(tmp_path: Path, unbroken: Path):
    folder = tmp_path / "run"
    process = start(folder)
    wait_for_step(process, folder, 4)
    process.kill()
    process.communicate()
    # As if the kill had struck the file too.
    newest = folder / "checkpoints" / "last.pt"
    newest.write_bytes(newest.read_bytes()[:-1000])

    resumed = train(folder, *STATEFUL, "resume=auto")
    assert resumed.returncode == 0, resumed.stderr
    assert "damaged checkpoint" in resumed.stdout
    assert set(losses(folder)) == set(losses(unbroken))
    assert_same_run(folder, unbroken)


def test_resume_from_a_checkpoint_of_another_folder(tmp_path: Path, unbroken: Path):
    saved = tmp_path / "somewhere.pt"
    # The fourth step was the best one that was evaluated, or the sixth: either is in the middle.
    saved.write_bytes((unbroken / "checkpoints" / "previous.pt").read_bytes())
    step = checkpoint.read(saved)["state"]["step"]
    folder = tmp_path / "run"
    done = train(folder, *STATEFUL, f"resume={saved}")
    assert done.returncode == 0, done.stderr
    assert min(losses(folder)) == step + 1
    expected = losses(unbroken)
    assert all(expected[number] == loss for number, loss in losses(folder).items())


def test_resume_auto_starts_afresh_where_there_is_nothing(tmp_path: Path):
    done = train(tmp_path / "run", "resume=auto", "trainer.max_steps=1")
    assert done.returncode == 0, done.stderr
    assert "starting afresh" in done.stdout


def test_a_checkpoint_of_another_model_is_the_users_mistake(tmp_path: Path, unbroken: Path):
    done = train(tmp_path / "run", *STATEFUL, f"resume={unbroken}", "model.head.channels=8")
    assert done.returncode == 2
    assert "resume" in done.stderr
    assert "another model" in done.stderr
    assert "Traceback" not in done.stderr
