"""A disk that fills up: a file system of a few megabytes, filled and emptied from outside while a training runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segkit.engine.evaluator import Evaluation
from segkit.run import checkpoint
from segkit.run.checkpoint_store import CheckpointKeeper
from segkit.run.run_folder import RunFolder
from tests.conftest import records, summary
from tests.engine.in_process import SMALL_HEAD, finish, trainer_of
from tests.faults.conftest import Starter
from tests.faults.saving import content

OFTEN = "trainer.checkpoint.every_steps=1 trainer.max_epochs=1000 trainer.evaluate.every_steps=40".split()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty disk of 48 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "segkit-test", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(disk: Path) -> Path:
    """Take all the room that is left; the file that has it."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (2**16, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
    return filler


def fill_until(disk: Path, told: Callable[[], bool]) -> Path:
    """Fill the disk again and again: a save under way, or an old checkpoint that goes, gives room back."""

    def filled() -> bool:
        fill(disk)
        time.sleep(0.05)
        return told()

    wait_until(filled)
    return disk / "filler"


def wait_until(holds: Callable[[], bool]) -> None:
    """Until it holds at some moment: the next save is tried all the time."""
    deadline = time.monotonic() + 100
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_training_goes_on_while_the_disk_is_full_and_lacks_nothing_afterwards(
    starter: Starter, disk: Path, tmp_path: Path
):
    training = starter.start(disk / "run", *OFTEN, output=tmp_path)
    training.wait_for_step(3)
    filler = fill_until(disk, lambda: "cannot save a checkpoint" in training.stdout.read_text())
    fill_until(disk, lambda: "metrics.jsonl: cannot be written" in training.stdout.read_text())
    kept, saved = checkpoint.newest(training.folder / "checkpoints") or pytest.fail("no checkpoint survived")
    assert kept.name == "last.pt"
    wait_until(lambda: not list((training.folder / "checkpoints").glob(".*.part")))  # or they would hold the room
    filler.unlink()
    training.wait_for("no line is missing", "stdout")
    training.wait_for_step(saved["state"]["step"] + 30)
    training.send(signal.SIGINT)
    ended = training.wait()
    assert ended.returncode == 130, ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    refusal = next(line for line in ended.stdout.splitlines() if "cannot save a checkpoint" in line)
    for text in ("last.pt", "No space left on device", "it needs", "MB are free", "Make room", "goes on"):
        assert text in refusal
    steps = [line["step"] for line in records(training.folder, "train")]
    assert steps == list(range(1, len(steps) + 1))
    assert checkpoint.read(training.folder / "checkpoints" / "last.pt")["state"]["step"] == steps[-1]
    assert summary(training.folder)["status"] == "interrupted"


def test_stopped_while_the_disk_is_full_the_checkpoint_before_is_gone_on_from(
    starter: Starter, disk: Path, tmp_path: Path
):
    training = starter.start(disk / "run", *OFTEN, output=tmp_path)
    training.wait_for_step(3)
    filler = fill_until(disk, lambda: "cannot save a checkpoint" in training.stdout.read_text())
    training.send(signal.SIGTERM)
    ended = training.wait(30)
    assert ended.returncode == 143, ended.stderr
    assert "could NOT be saved" in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    filler.unlink()
    saved = checkpoint.read(training.folder / "checkpoints" / "last.pt")["state"]["step"]
    resumed = starter.train(training.folder, "trainer.max_epochs=1000", f"trainer.max_steps={saved + 2}", "resume=auto",
                            output=tmp_path)  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
    assert f"at step {saved}" in resumed.stdout
    # The steps that were lost may stand before, trained but not saved.
    assert records(training.folder, "train")[-1]["step"] == saved + 2


def test_a_run_that_is_to_stop_stops_and_says_why(starter: Starter, disk: Path, tmp_path: Path):
    training = starter.start(disk / "run", *OFTEN, "trainer.checkpoint.on_error=stop", output=tmp_path)
    training.wait_for_step(3)
    fill_until(disk, lambda: "cannot save a checkpoint" in training.stderr.read_text())
    ended = training.wait()
    assert ended.returncode == 1
    for text in ("last.pt", "No space left on device", "it needs", "MB are free", "Make room"):
        assert text in ended.stderr
    assert checkpoint.newest(training.folder / "checkpoints") is not None


def test_a_best_score_that_found_no_room_is_not_the_best(disk: Path):
    """Evaluations score 0.1, 0.3 and 0.2 and the disk is full at the second: the third is the best that is there."""
    trainer = trainer_of(disk / "run", *SMALL_HEAD, "trainer.max_epochs=3", "optimizer=sgd")
    evaluate, scores = trainer.evaluator, [0.1, 0.3, 0.2]
    monitor = trainer.settings.checkpoint.monitor

    class Scripted:
        data = evaluate.data

        def __call__(self, *arguments: Any, **keys: Any) -> Evaluation:
            evaluation = evaluate(*arguments, **keys)
            if len(scores) == 2:
                fill(disk)
            elif len(scores) == 1:
                (disk / "filler").unlink()
            return replace(evaluation, scores=evaluation.scores | {monitor: scores.pop(0)})

    trainer.evaluator = Scripted()  # pyright: ignore[reportAttributeAccessIssue]
    trainer.fit()
    finish(trainer)
    assert scores == []
    assert (trainer.state.best_score, trainer.state.best_step) == (0.2, trainer.state.step)
    best = checkpoint.read(disk / "run" / "checkpoints" / "best.pt")["state"]
    assert (best["best_score"], best["step"]) == (0.2, trainer.state.step)


def test_lines_wait_for_the_disk_and_a_torn_one_is_completed(disk: Path, caplog: pytest.LogCaptureFixture):
    run = RunFolder(disk / "run")
    run.record("train", {"step": 1})
    filler = fill(disk)
    os.truncate(filler, filler.stat().st_size - 4096)
    for step in range(2, 400):  # a page takes some of them
        run.record("train", {"step": step, "loss": 0.1})
    run.write_summary({"text": "x" * 10_000})
    assert not (disk / "run" / "metrics.jsonl").read_bytes().endswith(b"\n")
    assert len([r for r in caplog.records if "metrics.jsonl: cannot be written" in r.getMessage()]) == 1
    assert "summary.json: cannot be written" in caplog.text
    filler.unlink()
    run.record("train", {"step": 400})
    run.close()
    lines = (disk / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 401))
    assert sorted(p.name for p in (disk / "run").iterdir()) == [".lock", "artifacts.jsonl", "checkpoints",
                                                                "metrics.jsonl"]  # fmt: skip


def test_lines_that_never_found_room_are_counted(disk: Path, caplog: pytest.LogCaptureFixture):
    run = RunFolder(disk / "run")
    fill(disk)
    for step in range(3):
        run.record("train", {"step": step})
    run.close()
    assert "metrics.jsonl: lacks its last 3 lines" in caplog.text


@pytest.mark.parametrize("free", [0, 4096, 40_000, 100_000])
def test_a_checkpoint_that_finds_no_room_leaves_the_one_before_and_nothing_half_written(disk: Path, free: int):
    folder = disk / "checkpoints"
    folder.mkdir()
    keeper = CheckpointKeeper(folder, keep_top=1, mode="max")
    keeper.save(content(1), score=0.1, is_best=True)
    filler = fill(disk)
    os.truncate(filler, filler.stat().st_size - free)
    big = content(2)
    big["model"]["weight"] = big["model"]["weight"].repeat(10)
    with pytest.raises(OSError, match=r"last\.pt: No space left on device; it needs 0\.1 MB and 0\.\d MB are free"):
        keeper.save(big, score=0.2, is_best=True)
    assert not list(folder.glob(".*"))
    assert {checkpoint.read(path)["state"]["step"] for path in folder.iterdir()} == {1}
    filler.unlink()
    keeper.save(big, score=0.2, is_best=True)
    assert checkpoint.read(folder / "best.pt")["state"]["step"] == 2
