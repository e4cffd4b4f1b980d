"""A run that was stopped and resumed, as a person does it; `tests/faults/test_resume_matrix.py` tries every way."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

from segkit.run import checkpoint
from tests.conftest import TINY, command, losses, records, summary, train

# Dropout in the head, augmentation in the data, EMA, accumulation and a schedule: all that has state.
STATEFUL = (
    "trainer.max_epochs=3 trainer.accumulate=2 trainer.ema.decay=0.9 transform=default trainer.clip_norm=1.0 "
    "trainer.checkpoint.every_steps=1 trainer.evaluate.every_epochs=1 optimizer.lr=1e-3"
).split()


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


def test_ctrl_c_saves_and_the_resumed_run_ends_as_if_nothing_had_been(tmp_path: Path):
    unbroken, folder = tmp_path / "unbroken", tmp_path / "run"
    assert train(unbroken, *STATEFUL).returncode == 0
    process = start(folder)
    wait_for_step(process, folder, 2)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert f"Go on with resume={folder}" in stderr
    assert len(stderr.strip().splitlines()) == 1
    assert summary(folder)["status"] == "interrupted"
    stopped_at = checkpoint.read(folder / "checkpoints" / "last.pt")["state"]["step"]
    assert stopped_at == max(losses(folder)) < max(losses(unbroken))

    # The worker count is free to change in between.
    resumed = train(folder, *STATEFUL, "resume=auto", "trainer.num_workers=1")
    assert resumed.returncode == 0, resumed.stderr
    assert f"at step {stopped_at}" in resumed.stdout
    assert [r["step"] for r in records(folder, "train")] == list(range(1, max(losses(unbroken)) + 1))
    assert losses(folder) == losses(unbroken)
    ours, theirs = (checkpoint.read(f / "checkpoints" / "last.pt") for f in (folder, unbroken))
    for part in ("state", "model", "ema", "optimizer", "schedule", "strategy", "random"):
        assert checkpoint.digest(ours[part]) == checkpoint.digest(theirs[part]), part
    assert summary(folder)["best_score"] == summary(unbroken)["best_score"]
