"""Signals at any moment: the exit code says which, one line says what is saved, a second Ctrl-C ends it at once."""

from __future__ import annotations

import os
import pty
import signal
import time
from pathlib import Path

import pytest

from segkit.run import checkpoint
from tests.conftest import losses, records, summary
from tests.faults.conftest import Starter, Training

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143, signal.SIGHUP: 129}
LONG = ["trainer.max_epochs=1000", "trainer.evaluate.every_epochs=1000"]
# One image at a time, of which there are many.
LONG_EVALUATION = ["dataset.num_val=3000", "trainer.evaluate.batch_size=1", "trainer.max_epochs=1"]


def each_signal(*slow: signal.Signals) -> pytest.MarkDecorator:
    """The test with each signal; those that another test of the default suite sends at that moment are `slow`."""
    marks = {number: pytest.mark.slow if number in slow else () for number in CODES}
    return pytest.mark.parametrize("number", [pytest.param(n, marks=marks[n], id=n.name) for n in CODES])


def saved_step(folder: Path) -> int:
    return checkpoint.read(folder / "checkpoints" / "last.pt")["state"]["step"]


def is_gone(training: Training) -> bool:
    """Whether none of the training's processes is left: it leads a session of its own."""
    return not any(
        stat.read_text().rpartition(")")[2].split()[3] == str(training.pid)
        for stat in Path("/proc").glob("[0-9]*/stat")
        if stat.exists()
    )


@each_signal(signal.SIGINT, signal.SIGHUP)
def test_in_the_loop_a_signal_saves(starter: Starter, tmp_path: Path, number: signal.Signals):
    training = starter.start(tmp_path / "run", *LONG)
    training.wait_for_step(3)
    training.send(number)
    ended = training.wait(30)
    assert ended.returncode == CODES[number], ended.stderr
    assert saved_step(training.folder) == max(losses(training.folder)) >= 3
    assert summary(training.folder)["status"] == ("interrupted" if number is signal.SIGINT else "terminated")
    assert len(ended.stderr.strip().splitlines()) == 1
    assert f"by {number.name}" in ended.stderr
    assert f"resume={training.folder}" in ended.stderr


@each_signal(signal.SIGINT, signal.SIGTERM)
def test_before_the_loop_there_is_nothing_to_save(starter: Starter, tmp_path: Path, number: signal.Signals):
    training = starter.start(tmp_path / "run")
    training.wait_for("", ".hydra/overrides.yaml")
    training.send(number)
    ended = training.wait(30)
    assert ended.returncode == CODES[number], ended.stderr
    assert ended.stderr.startswith(f"{'interrupted' if number is signal.SIGINT else 'terminated'} by {number.name}")
    assert "before there was anything to save" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert not list(training.folder.glob("checkpoints/*.pt"))


def test_in_an_evaluation_a_signal_saves_and_the_evaluation_is_done_again(starter: Starter, tmp_path: Path):
    training = starter.start(tmp_path / "run", *LONG_EVALUATION)
    training.wait_for_step(6)
    time.sleep(0.2)
    training.send(signal.SIGTERM)
    assert training.wait(30).returncode == 143
    assert saved_step(training.folder) == 6
    assert records(training.folder, "eval") == []
    done = starter.train(
        training.folder, *LONG_EVALUATION, "dataset.num_val=6", "resume=auto", "resume_changed_data=true"
    )
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in records(training.folder, "eval")] == [6]
    assert len(records(training.folder, "train")) == 6


def test_while_the_data_hangs_a_signal_saves(starter: Starter, tmp_path: Path):
    training = starter.start(tmp_path / "run", *LONG, "trainer.num_workers=1")
    training.wait_for_step(3)
    workers = Path(f"/proc/{training.pid}/task/{training.pid}/children").read_text().split()
    for worker in workers:
        os.kill(int(worker), signal.SIGSTOP)
    time.sleep(1)  # what was read ahead is used up
    training.send(signal.SIGTERM)
    ended = training.wait(30)
    assert ended.returncode == 143, ended.stderr
    assert saved_step(training.folder) == max(losses(training.folder))
    assert is_gone(training)


def test_while_the_figures_are_drawn_the_first_signal_ends_a_run_that_is_done(starter: Starter, tmp_path: Path):
    training = starter.start(tmp_path / "run", "trainer.max_steps=2")
    training.wait_for('"completed"', "summary.json")
    training.send(signal.SIGTERM)
    ended = training.wait(30)
    assert ended.returncode == 143, ended.stderr
    assert ended.stderr == "terminated by SIGTERM after training; the checkpoints stand\n"
    assert summary(training.folder)["status"] == "completed"
    assert saved_step(training.folder) == 2


def test_a_second_ctrl_c_ends_the_process_at_once(starter: Starter, tmp_path: Path):
    training = starter.start(tmp_path / "run", *LONG, "trainer.num_workers=1")
    training.wait_for_step(3)
    training.send(signal.SIGINT)
    training.wait_for('"interrupted"', "summary.json")
    training.send(signal.SIGINT)
    ended = training.wait(30)
    assert ended.returncode == 130
    assert not (training.folder / "figures" / "curves.png").exists()
    assert ended.stderr == "interrupted again: ended at once; the checkpoints saved before stand\n"
    assert saved_step(training.folder) == max(losses(training.folder))


@pytest.mark.parametrize("moment", ["start", "evaluation"])
def test_a_second_ctrl_c_at_other_moments(starter: Starter, tmp_path: Path, moment: str):
    training = starter.start(tmp_path / "run", *LONG_EVALUATION)
    if moment == "start":
        training.wait_for("", ".hydra/overrides.yaml")
    else:
        training.wait_for_step(6)
    training.send(signal.SIGINT)
    time.sleep(0.1)  # or they would be one
    training.send(signal.SIGINT)
    ended = training.wait(30)
    assert ended.returncode == 130
    assert "Traceback" not in ended.stderr


def test_a_signal_ends_a_whole_multirun(starter: Starter, tmp_path: Path):
    sweep = tmp_path / "sweep"
    training = starter.start(tmp_path / "unused", *LONG, "seed=0,1", f"hydra.sweep.dir={sweep}", "-m")
    training.folder = sweep / "0"
    training.wait_for_step(2)
    training.send(signal.SIGINT)
    ended = training.wait(30)
    assert ended.returncode == 130, ended.stderr
    assert saved_step(sweep / "0") >= 2
    assert not (sweep / "1").exists()


def test_a_terminal_that_closes_is_a_signal_and_what_cannot_be_printed_is_no_failure(starter: Starter, tmp_path: Path):
    ours, theirs = pty.openpty()
    training = starter.start(tmp_path / "run", *LONG, terminal=os.ttyname(theirs), TERM="xterm", COLUMNS="80")
    os.close(theirs)
    os.set_blocking(ours, False)
    deadline = time.monotonic() + 100
    while not (training.folder / "metrics.jsonl").exists() or not losses(training.folder):
        assert time.monotonic() < deadline
        try:
            os.read(ours, 100_000)
        except OSError:
            time.sleep(0.01)
    os.close(ours)
    ended = training.starter.ask({"wait": training.pid, "timeout": 30})
    assert ended["returncode"] == 129
    assert saved_step(training.folder) == max(losses(training.folder))
    assert summary(training.folder)["status"] == "terminated"


def test_under_nohup_a_terminal_that_closes_changes_nothing(starter: Starter, tmp_path: Path):
    training = starter.start(tmp_path / "run", "trainer.max_epochs=2", ignore=["SIGHUP"])
    training.wait_for_step(1)
    training.send(signal.SIGHUP)
    assert training.wait().returncode == 0
    assert max(losses(training.folder)) == 12
