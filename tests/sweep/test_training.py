"""Sweeps over the real training command: pruning, records in MLflow, and exact continuation of a killed trial."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import yaml
from mlflow import MlflowClient
from optuna.trial import TrialState

from segkit.sweep.storage import open_storage
from tests.conftest import REPOSITORY, TINY, losses, run, summary

SWEEP = [*TINY, "hydra/sweeper=segkit", "hydra.sweeper.study_name=s"]


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    open_storage.cache_clear()
    storage = open_storage(f"sqlite:///{folder / 'outputs' / 'sweeps.db'}")
    return optuna.load_study(study_name="s", storage=storage).get_trials()


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole trial and one that is pruned: no score reaches the bound, and a last evaluation is not judged."""
    folder = tmp_path_factory.mktemp("swept")
    done = run(
        "-m",
        *SWEEP,
        "hydra/sweeper/sampler=grid",
        "hydra/sweeper/pruner=threshold",
        "hydra.sweeper.pruner.lower=2",
        "hydra.sweeper.pruner.n_warmup_steps=0",
        "trainer.max_epochs=1,3",
        "model=fcn",
        "loss=ce",
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_a_run_that_the_study_ends_is_pruned_everywhere(swept: Path):
    whole, pruned = trials(swept)
    assert (whole.state, pruned.state) == (TrialState.COMPLETE, TrialState.PRUNED)
    folders = [Path(trial.user_attrs["folder"]) for trial in (whole, pruned)]
    assert [summary(folder)["status"] for folder in folders] == ["completed", "pruned"]
    assert pruned.intermediate_values == {0: summary(folders[1])["final"]["miou"]}
    assert whole.value == summary(folders[0])["best_score"]
    assert max(losses(folders[1])) == 6, "six steps make an epoch: it ended at the first evaluation"
    assert (folders[0] / "checkpoints" / "best.pt").exists()
    assert not list((folders[1] / "checkpoints").glob("*.pt")), "200 pruned trials would fill a disk"


def test_trials_and_sweep_are_flat_runs_that_compare_at_once(swept: Path):
    client = MlflowClient(f"sqlite:///{swept / 'outputs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("segkit")
    assert experiment is not None
    runs = {r.data.tags.get("sweep.trial", "summary"): r for r in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"0", "1", "summary"}
    assert not any("mlflow.parentRunId" in r.data.tags for r in runs.values())
    assert {r.data.tags["sweep"] for r in runs.values()} == {"s"}
    assert [runs[n].info.status for n in ("0", "1", "summary")] == ["FINISHED", "KILLED", "FINISHED"]
    assert runs["1"].data.tags["segkit.status"] == "pruned"
    assert runs["1"].data.metrics["val/miou"] >= 0
    assert [runs[n].data.params["trainer.max_epochs"] for n in "01"] == ["1", "3"]
    assert [trial.user_attrs["mlflow_run_id"] for trial in trials(swept)] == [runs[n].info.run_id for n in "01"]

    of_sweep = runs["summary"]
    assert of_sweep.data.tags["sweep.role"] == "summary"
    assert of_sweep.data.metrics["sweep/best"] == pytest.approx(trials(swept)[0].value)
    assert f"runs/{runs['0'].info.run_id}" in of_sweep.data.tags["mlflow.note.content"]
    conf = "sweep/conf/experiment"
    files = {
        item.path for place in ("figures", "sweep", conf) for item in client.list_artifacts(of_sweep.info.run_id, place)
    }
    assert {"figures/history.png", f"{conf}/best.yaml", "sweep/trials.csv", "sweep/sweep.json"} <= files


def test_the_best_config_runs_from_anywhere_as_the_trial_was(swept: Path, tmp_path: Path):
    line = ["--config-dir", str(swept / "outputs" / "sweeps" / "s" / "conf"), "experiment=best"]
    done = run(*line, "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    best = min(trials(swept), key=lambda trial: trial.state is not TrialState.COMPLETE)
    assert yaml.safe_load(done.stdout) == yaml.safe_load(
        (Path(best.user_attrs["folder"]) / ".hydra" / "config.yaml").read_text()
    )
    trained = run(*line, "trainer.max_steps=1", "tracker=none", "hydra.run.dir=again", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "fcn timm ce shapes" in (tmp_path / "again" / "train.log").read_text()


def test_a_killed_trial_goes_on_bit_for_bit_where_it_stopped(tmp_path: Path):
    command = [*SWEEP, "tracker=none", "optimizer.lr=choice(1e-3)", "hydra.sweeper.n_trials=1", "trainer.max_epochs=3"]
    command += ["trainer.checkpoint.every_steps=1"]
    broken, unbroken = tmp_path / "broken", tmp_path / "unbroken"
    for folder in (broken, unbroken):
        folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), "-m", *command],
        cwd=broken,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    trial = broken / "outputs" / "sweeps" / "s" / "0"
    deadline = time.monotonic() + 200
    while not (trial / "metrics.jsonl").exists() or '"step": 8,' not in (trial / "metrics.jsonl").read_text():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert trials(broken)[0].state is TrialState.RUNNING
    for folder in (broken, unbroken):
        done = run("-m", *command, cwd=folder)
        assert done.returncode == 0, done.stderr
    assert losses(trial) == losses(unbroken / "outputs" / "sweeps" / "s" / "0")
    assert [t.value for t in trials(broken)] == [t.value for t in trials(unbroken)]
    assert "resumed from" in (trial / "train.log").read_text()


def test_several_objectives_are_scores_and_costs_of_the_run(tmp_path: Path):
    done = run(
        "-m",
        *SWEEP,
        "tracker=none",
        "hydra/sweeper/sampler=grid",
        "hydra.sweeper.direction=[max,min,min,min]",
        "hydra.sweeper.objectives=[miou,parameters,macs,latency_ms]",
        "model.head.channels=choice(8,16)",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    small, large = trials(tmp_path)
    for trial in (small, large):
        record = summary(Path(trial.user_attrs["folder"]))
        assert trial.values[:2] == [record["best_score"], record["parameters"]]
        assert trial.values[3] > 0
    # The hidden layer and the classifier on the last map, 1x1 at stride 32 of 32 pixels: 8 more channels of each.
    more_parameters, more_macs = (large.values[i] - small.values[i] for i in (1, 2))
    in_channels = (more_parameters - 8 * 2 - 8 * 7) / (8 * 9)
    assert in_channels == round(in_channels)
    assert more_macs == 8 * 9 * in_channels + 8 * 7
    assert "Pareto front" in done.stdout
