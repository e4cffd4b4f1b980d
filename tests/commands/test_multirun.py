"""Mean and spread over folds and seeds, from what the runs left behind."""

from __future__ import annotations

import json
import sqlite3
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from segkit.cli import evaluate, train
from segkit.commands.multirun import _shared_words, jobs, repeated, spread, summarise
from tests.conftest import TINY, Ended


def job(sweep: Path, number: int, overrides: list[str], miou: float | None, status: str = "completed") -> None:
    folder = sweep / str(number)
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    if miou is not None:
        best = {"split": "val", "step": 7, "epoch": 1, "miou": miou, "iou/car": None}
        (folder / "summary.json").write_text(json.dumps({"status": status, "best": best, "mlflow_run_id": None}))


def test_mean_std_min_and_max_by_hand():
    found = spread([{"miou": 0.2, "a": 1}, {"miou": 0.4}, {"miou": 0.6, "a": 2}])
    assert set(found) == {"miou"}  # what not all runs have is no mean over them
    assert found["miou"] == pytest.approx({"mean": 0.4, "std": 0.2, "min": 0.2, "max": 0.6})
    assert spread([{"miou": 0.5}])["miou"]["std"] == 0
    assert spread([]) == {}


def test_runs_that_differ_in_more_than_fold_and_seed_are_told_apart(tmp_path: Path):
    for number, (loss, fold) in enumerate([("dice", 0), ("dice", 1), ("ce", 0), ("ce", 1)]):
        job(tmp_path, number, [f"loss={loss}", "split=kfold", f"split.fold={fold}"], 0.1 * number)
    groups = repeated(jobs(tmp_path))
    assert [[found.folder.name for found in group] for group in groups.values()] == [["0", "1"], ["2", "3"]]
    summarise(tmp_path)
    settings = json.loads((tmp_path / "summary.json").read_text())["settings"]
    assert [found["overrides"]["loss"] for found in settings] == ["dice", "ce"]
    assert settings[0]["spread"]["miou"]["mean"] == pytest.approx(0.05)
    assert settings[1]["spread"]["miou"]["std"] == pytest.approx(statistics.stdev([0.2, 0.3]))


def test_a_run_that_failed_is_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    job(tmp_path, 0, ["seed=0"], 0.4)
    job(tmp_path, 1, ["seed=1"], 0.9, status="failed")
    job(tmp_path, 2, ["seed=2"], None)
    job(tmp_path, 10, ["seed=10"], 0.6)
    summarise(tmp_path)
    content = json.loads((tmp_path / "summary.json").read_text())
    (found,) = content["settings"]
    assert found["kind"] == "repeats"
    assert found["spread"]["miou"]["mean"] == pytest.approx(0.5)
    assert [run["seed"] for run in found["runs"]] == ["0", "1", "2", "10"]
    assert content["status"] == "failed"
    assert "seed 1 is left out" in caplog.text
    assert "seed 2 is left out" in caplog.text


def test_a_search_is_not_summarised(tmp_path: Path):
    for number in range(3):
        job(tmp_path, number, [f"optimizer.lr=0.{number}"], 0.4)
    job(tmp_path, 3, ["seed=1"], 0.4)  # nothing to compare it with
    (tmp_path / "4" / ".hydra").mkdir(parents=True)
    (tmp_path / "4" / ".hydra" / "overrides.yaml").write_text("][")
    summarise(tmp_path)
    assert not (tmp_path / "summary.json").exists()


def test_a_cross_validation_leaves_its_mean_and_spread_in_mlflow(call: Callable[..., Ended], tmp_path: Path):
    arguments = ["-m", *TINY, "split=kfold", "split.folds=2", "split.fold=0,1,7", "hydra.sweep.dir=sweep"]
    done = call(train.main, *arguments, "tracker.timeout_s=60")
    # The third fold does not exist: the two others are told, and the command does not end well.
    assert done.returncode == 2
    assert "split.fold=7; allowed: 0..1" in done.stderr
    (found,) = json.loads((tmp_path / "sweep" / "summary.json").read_text())["settings"]
    assert [run["status"] for run in found["runs"]] == ["completed", "completed", "failed"]
    scores = [run["scores"]["miou"] for run in found["runs"][:2]]
    assert found["spread"]["miou"]["mean"] == pytest.approx(statistics.fmean(scores))

    # evaluate.py finds the fold that the run was held against, without being told.
    assert call(evaluate.main, "run=sweep/0", "output=again").returncode == 0
    again = json.loads((tmp_path / "again" / "scores.json").read_text())
    assert again["miou"] == pytest.approx(scores[0], abs=1e-6)

    database = sqlite3.connect(tmp_path / "outputs" / "mlflow.db")

    def rows(query: str) -> list[tuple[Any, ...]]:
        return database.execute(query).fetchall()

    kinds = dict(rows("select value, run_uuid from tags where key = 'segkit.kind'"))
    run_id = kinds["cross-validation"]
    metrics = dict(rows(f"select key, value from latest_metrics where run_uuid = '{run_id}'"))
    assert metrics["mean/miou"] == pytest.approx(statistics.fmean(scores))
    assert metrics["std/miou"] == pytest.approx(statistics.stdev(scores))
    assert (metrics["min/miou"], metrics["max/miou"]) == pytest.approx((min(scores), max(scores)))
    tags = dict(rows(f"select key, value from tags where run_uuid = '{run_id}'"))
    assert "mlflow.parentRunId" not in tags
    assert tags["segkit.runs"].split(", ") == [run["mlflow_run_id"] for run in found["runs"][:2]]
    together = rows(f"select run_uuid from tags where key = 'segkit.multirun' and value = '{tmp_path / 'sweep'}'")
    assert len(together) == 3
    # Each fold is recorded with the data of its own subset.
    digests = rows("select distinct value from tags where key = 'data.val.digest'")
    assert len(digests) == 2


def test_the_run_of_mean_and_spread_has_the_words_that_all_runs_share():
    names = ["lr=0.1 seed=0 fcn shapes", "lr=0.1 seed=1 fcn shapes"]
    assert _shared_words(names) == "lr=0.1 fcn shapes"
