"""Stopped anywhere, several times, with other numbers of workers in between: bit for bit the run that never stopped."""

from __future__ import annotations

import itertools
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segkit.run import checkpoint
from tests.conftest import losses, records, summary
from tests.faults.conftest import Starter

# Dropout in the head, augmentation in the data, clipping, a best score and patience: what every run here has.
ALWAYS = (
    "trainer.max_epochs=6 trainer.clip_norm=1.0 transform=strong trainer.checkpoint.every_steps=3 "
    "trainer.evaluate.every_epochs=1.5 trainer.early_stopping.patience=9 trainer.checkpoint.keep_top=3"
).split()
STOPS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143, signal.SIGKILL: -9}

Unbroken = Callable[..., Path]


@pytest.fixture(scope="module")
def unbroken(starter: Starter, tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    """The folder of a run with the settings given that was never stopped; made once for each."""
    made: dict[tuple[str, ...], Path] = {}

    def folder(*settings: str) -> Path:
        if settings not in made:
            path = tmp_path_factory.mktemp("unbroken") / "run"
            done = starter.train(path, *ALWAYS, *settings)
            assert done.returncode == 0, done.stderr
            made[settings] = path
        return made[settings]

    return folder


def leaves(value: Any, name: str = "") -> dict[str, Any]:
    """Every plain value and every tensor, as its digest, by its path in a nested content."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else None
    if items is None:
        return {name: checkpoint.digest(value)}
    return {path: leaf for key, item in items for path, leaf in leaves(item, f"{name}.{key}").items()}


def assert_same(folder: Path, unbroken: Path) -> None:
    """Every state of the last and the best checkpoint, the losses of all steps, all evaluations."""
    for name in ("last.pt", "best.pt"):
        ours, theirs = (leaves(checkpoint.read(f / "checkpoints" / name)) for f in (folder, unbroken))
        different = {path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path)}
        assert different <= {".config.resume", ".config.trainer.num_workers"}, name
    assert losses(folder) == losses(unbroken)
    assert sorted(losses(folder)) == list(range(1, max(losses(unbroken)) + 1))
    for kind in ("train", "eval"):
        ours, theirs = ({r["step"]: r for r in records(f, kind)} for f in (folder, unbroken))
        measured = {"time", "images_per_second", "data_wait_s"}
        for step, record in theirs.items():
            assert {k: v for k, v in ours[step].items() if k not in measured and "memory" not in k} == {
                k: v for k, v in record.items() if k not in measured and "memory" not in k
            }
    ours, theirs = summary(folder), summary(unbroken)
    for name in ("status", "step", "images_seen", "best_score", "best_step", "stopped_early"):
        assert ours[name] == theirs[name]
    assert [Path(p).name for p in ours["checkpoints"]["top"]] == [Path(p).name for p in theirs["checkpoints"]["top"]]


def broken(starter: Starter, folder: Path, settings: list[str], *, workers: list[int], seed: int) -> None:
    """A run stopped once fewer than there are `workers`, at random steps, by random signals, and then left to end."""
    draw = random.Random(seed)
    for attempt, num_workers in enumerate(workers):
        arguments = [*ALWAYS, *settings, "resume=auto", f"trainer.num_workers={num_workers}"]
        training = starter.start(folder, *arguments)
        if attempt == len(workers) - 1:
            ended = training.wait()
            assert ended.returncode == 0, ended.stderr
            return
        done = max(losses(folder), default=0) if (folder / "metrics.jsonl").exists() else 0
        training.wait_for_step(done + draw.randint(1, 3))
        number = draw.choice(list(STOPS))
        training.send(number)
        ended = training.wait()
        assert ended.returncode == STOPS[number], ended.stderr
        assert "Traceback" not in ended.stderr


def settings(accumulate: int, ema: str, *others: str) -> list[str]:
    return [f"trainer.accumulate={accumulate}", f"trainer.ema.decay={ema}", *others]


@pytest.mark.parametrize(
    ("chosen", "workers"),
    [
        (settings(3, "0.9", "trainer.precision=bf16", "scheduler=onecycle"), [0, 3, 1]),
        (settings(1, "null", "trainer.precision=fp16", "scheduler=plateau", "optimizer=lion"), [1, 0, 3]),
    ],
    ids=["accumulation, EMA, bf16, one-cycle", "fp16 with its scaler, plateau, Lion"],
)
def test_a_run_stopped_twice_is_the_run_that_never_stopped(
    starter: Starter, unbroken: Unbroken, tmp_path: Path, chosen: list[str], workers: list[int]
):
    broken(starter, tmp_path / "run", chosen, workers=workers, seed=len(chosen))
    assert_same(tmp_path / "run", unbroken(*chosen))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [[0, 0], [1, 1], [3, 3], [0, 1, 3, 0], [3, 0, 1, 1]], ids=str)
@pytest.mark.parametrize(("accumulate", "ema"), list(itertools.product([1, 3], ["null", "0.9"])))
def test_every_number_of_workers_and_accumulation_with_and_without_ema(
    starter: Starter, unbroken: Unbroken, tmp_path: Path, accumulate: int, ema: str, workers: list[int]
):
    chosen = settings(accumulate, ema)
    broken(starter, tmp_path / "run", chosen, workers=workers, seed=accumulate + len(workers))
    assert_same(tmp_path / "run", unbroken(*chosen))


OF_PYTORCH = (
    "scheduler=torch scheduler.interval=step ~scheduler.scheduler.gamma scheduler.scheduler._target_=torch.optim."
)
SCHEDULES = {
    "plateau": "scheduler=plateau scheduler.scheduler.patience=0",
    "plateau after warm-up": "scheduler=plateau scheduler.scheduler.patience=0 scheduler.warmup_steps=7",
    "one-cycle": "scheduler=onecycle",
    "one-cycle of PyTorch, which cycles momentum too": OF_PYTORCH
    + "lr_scheduler.OneCycleLR +scheduler.scheduler.max_lr=0.01 +scheduler.scheduler.total_steps=40",
    "warm restarts": OF_PYTORCH + "lr_scheduler.CosineAnnealingWarmRestarts +scheduler.scheduler.T_0=4",
    "cyclic": OF_PYTORCH + "lr_scheduler.CyclicLR +scheduler.scheduler.base_lr=1e-4 +scheduler.scheduler.max_lr=0.01",
    "SWA": OF_PYTORCH + "swa_utils.SWALR +scheduler.scheduler.swa_lr=0.01",
    "exponential, by epochs": "scheduler=torch",
    "cosine": "scheduler=cosine scheduler.warmup_epochs=1.3",
    "step": "scheduler=step scheduler.every_epochs=1",
    "multistep": "scheduler=multistep scheduler.milestones_epochs=[1,2.5]",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule(starter: Starter, unbroken: Unbroken, tmp_path: Path, name: str):
    chosen = settings(1, "null", *SCHEDULES[name].split())
    broken(starter, tmp_path / "run", chosen, workers=[0, 0, 0], seed=len(name))
    assert_same(tmp_path / "run", unbroken(*chosen))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "lion", "padam"])
def test_every_optimizer_in_every_precision(
    starter: Starter, unbroken: Unbroken, tmp_path: Path, optimizer: str, precision: str
):
    chosen = settings(1, "0.99", f"optimizer={optimizer}", f"trainer.precision={precision}", "optimizer.lr=1e-3")
    broken(starter, tmp_path / "run", chosen, workers=[0, 1, 0], seed=len(optimizer + precision))
    assert_same(tmp_path / "run", unbroken(*chosen))


def test_early_stopping_counts_across_a_stop(starter: Starter, tmp_path: Path):
    # A score that cannot improve: every evaluation after the first counts.
    patient = "trainer.early_stopping.patience=3 trainer.early_stopping.min_delta=9 trainer.max_epochs=9".split()
    patient += ["trainer.evaluate.every_epochs=1", "trainer.checkpoint.every_steps=1"]
    whole, folder = tmp_path / "whole", tmp_path / "run"
    assert starter.train(whole, *patient).returncode == 0
    training = starter.start(folder, *patient)
    training.wait_for('"kind": "eval", "split": "val", "step": 12')
    training.send(signal.SIGTERM)
    assert training.wait().returncode == 143
    assert starter.train(folder, *patient, "resume=auto").returncode == 0
    for run in (whole, folder):
        found = summary(run)
        assert (found["step"], found["stopped_early"]) == (24, True)
    assert losses(folder) == losses(whole)


def test_from_a_checkpoint_of_another_folder(starter: Starter, unbroken: Unbroken, tmp_path: Path):
    whole = unbroken(*settings(1, "null"))
    saved = tmp_path / "somewhere.pt"
    saved.write_bytes((whole / "checkpoints" / "previous.pt").read_bytes())
    step = checkpoint.read(saved)["state"]["step"]
    folder = tmp_path / "run"
    done = starter.train(folder, *ALWAYS, *settings(1, "null"), f"resume={saved}")
    assert done.returncode == 0, done.stderr
    found = losses(folder)
    assert sorted(found) == list(range(step + 1, max(losses(whole)) + 1))
    assert all(losses(whole)[number] == loss for number, loss in found.items())


def test_auto_starts_afresh_where_there_is_nothing(starter: Starter, tmp_path: Path):
    done = starter.train(tmp_path / "run", "resume=auto", "trainer.max_steps=1")
    assert done.returncode == 0, done.stderr
    assert "starting afresh\n" in done.stdout
    assert "warning" not in done.stdout


def test_a_checkpoint_of_another_model_is_the_users_mistake(starter: Starter, unbroken: Unbroken, tmp_path: Path):
    whole = unbroken(*settings(1, "null"))
    done = starter.train(tmp_path / "run", f"resume={whole}", "model.head.channels=8")
    assert done.returncode == 2
    assert "resume" in done.stderr
    assert "another model" in done.stderr
    assert "Traceback" not in done.stderr
