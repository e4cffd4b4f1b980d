"""Delivery into real SQLite stores."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import mlflow.artifacts
import pytest
from mlflow import MlflowClient

from segkit.run.record import is_delivered, load_progress, load_record, save_record
from segkit.tracking.mlflow.delivery import deliver, page

fork = multiprocessing.get_context("fork")


def end(run, status: str = "completed") -> None:
    save_record(run.folder, replace(load_record(run.folder), status=status, ended=1_700_000_060.0))


def steps(client: MlflowClient, run_id: str, key: str) -> list[int]:
    return [metric.step for metric in client.get_metric_history(run_id, key)]


def test_everything_in_the_folder_arrives(run, store: str):
    run.begin(store, name="first", params={"seed": 0, "model.head": None}, tags={"model": "fcn"})
    run.train(1, 2, 3, images_seen=8, sample_ids=["a"], **{"loss/ce": 0.5})
    run.evaluate(3, miou=0.5, **{"iou/road": 0.75, "iou/a+b": 0.25, "iou/absent": None})
    run.artifact("panels/val.png", "picture", "panels")
    run.artifact("summary.json", "{}")
    end(run)
    run_id = deliver(run.folder).run_id
    client = MlflowClient(store)
    found = client.get_run(run_id)
    assert found.info.run_name == "first"
    assert found.info.status == "FINISHED"
    assert (found.info.start_time, found.info.end_time) == (1_700_000_000_000, 1_700_000_060_000)
    assert found.data.params == {"seed": "0", "model.head": "None"}
    assert found.data.tags["model"] == "fcn"
    assert set(found.data.metrics) == {
        "train/loss", "train/lr", "train/images_seen", "train/loss/ce", "epoch",
        "val/miou", "val/iou/road", "val/iou/a_b",
    }  # fmt: skip
    assert found.data.metrics["val/iou/road"] == 0.75
    assert steps(client, run_id, "train/loss") == [1, 2, 3]
    assert [metric.value for metric in client.get_metric_history(run_id, "train/loss")] == [
        1 / 2,
        1 / 3,
        1 / 4,
    ]
    assert artifact(store, run_id, "panels/val.png") == "picture"
    assert artifact(store, run_id, "summary.json") == "{}"
    assert is_delivered(run.folder, load_record(run.folder), load_progress(run.folder))


def test_the_page_of_a_run_is_known_without_asking(run, store: str, make_run):
    run.begin(store)
    run_id = deliver(run.folder).run_id
    experiment = MlflowClient(store).get_experiment_by_name("segkit").experiment_id
    assert page(run.folder) == f"#/experiments/{experiment}/runs/{run_id}"
    assert page(make_run("elsewhere").folder) is None


def artifact(store: str, run_id: str, path: str) -> str:
    return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=path, tracking_uri=store)).read_text()


def test_a_second_delivery_sends_only_what_is_new(run, store: str, monkeypatch: pytest.MonkeyPatch):
    run.begin(store)
    run.train(1, 2)
    run.artifact("best.pt", "old")
    run_id = deliver(run.folder).run_id
    sent: list[tuple[str, int]] = []
    log_batch, log_artifact = MlflowClient.log_batch, MlflowClient.log_artifact

    def counting_batch(self, run_id, metrics=(), **rest):
        sent.extend((metric.key, metric.step) for metric in metrics)
        return log_batch(self, run_id, metrics=metrics, **rest)

    def counting_artifact(self, run_id, path, folder=None):
        sent.append((Path(path).name, 0))
        return log_artifact(self, run_id, path, folder)

    monkeypatch.setattr(MlflowClient, "log_batch", counting_batch)
    monkeypatch.setattr(MlflowClient, "log_artifact", counting_artifact)
    assert deliver(run.folder).run_id == run_id
    assert sent == []
    run.train(3)
    run.artifact("best.pt", "newer")
    run.artifact("best.pt", "newest")
    deliver(run.folder)
    assert sent == [("train/loss", 3), ("train/lr", 3), ("epoch", 3), ("best.pt", 0)]
    assert artifact(store, run_id, "best.pt") == "newest"


def test_a_torn_last_line_waits_for_its_rest(run, store: str):
    run.begin(store)
    run.train(1, 2)
    whole = (run.folder / "metrics.jsonl").read_bytes()
    (run.folder / "metrics.jsonl").write_bytes(whole[:-20])
    run_id = deliver(run.folder).run_id
    assert steps(MlflowClient(store), run_id, "train/loss") == [1]
    (run.folder / "metrics.jsonl").write_bytes(whole)
    deliver(run.folder)
    assert steps(MlflowClient(store), run_id, "train/loss") == [1, 2]


def test_a_resume_continues_the_run_without_repeating_steps(run, store: str):
    run.begin(store, params={"trainer.max_epochs": 2, "seed": 0})
    run.train(1, 2, 3)
    run.evaluate(3, miou=0.4)
    end(run, "terminated")
    run_id = deliver(run.folder).run_id
    client = MlflowClient(store)
    assert client.get_run(run_id).info.status == "KILLED"
    run.begin(store, params={"trainer.max_epochs": 4, "seed": 0, "resume": "auto"})
    run.train(2, 3, 4)
    run.evaluate(3, miou=0.4)
    run.evaluate(4, miou=0.6)
    assert deliver(run.folder).run_id == run_id
    found = client.get_run(run_id)
    assert found.info.status == "RUNNING"
    assert found.data.params == {"trainer.max_epochs": "2", "seed": "0", "resume": "auto"}
    assert found.data.tags["changed_on_resume"] == "trainer.max_epochs: 2 -> 4"
    assert json.loads(artifact(store, run_id, "config/params.json"))["trainer.max_epochs"] == 4
    assert steps(client, run_id, "train/loss") == [1, 2, 3, 4]
    assert steps(client, run_id, "val/miou") == [3, 4]


def test_a_resume_in_another_folder_continues_the_run(make_run, store: str):
    first, second, third = (make_run(name) for name in ("first", "second", "third"))
    first.begin(store)
    first.train(1, 2, 3)
    first.evaluate(2, miou=0.4)
    run_id = deliver(first.folder).run_id
    second.begin(store, continues=run_id)
    second.train(3, 4)
    second.evaluate(4, miou=0.6)
    end(second)
    assert deliver(second.folder).run_id == run_id
    client = MlflowClient(store)
    assert steps(client, run_id, "train/loss") == [1, 2, 3, 4]
    assert steps(client, run_id, "val/miou") == [2, 4]
    end(first, "killed")
    deliver(first.folder)
    assert client.get_run(run_id).info.status == "FINISHED", "the folder left behind has no say any more"
    third.begin(store, continues="0" * 32)
    assert deliver(third.folder).run_id not in (None, run_id, "0" * 32)


def test_params_beyond_every_limit_arrive(run, store: str):
    params = {f"group.key{index}": index for index in range(200)} | {
        "a[0]=b": 1,
        "a.0..b": 2,
        "k" * 400: 3,
        "long": "x" * 10_000,
        "wide": "\N{SNOWMAN}" * 6_000,
        "empty": "",
    }
    run.begin(store, params=params, tags={f"tag{index}": "t" * 6_000 for index in range(120)})
    run_id = deliver(run.folder).run_id
    data = MlflowClient(store).get_run(run_id).data
    assert len(data.params) == 206
    assert data.params["a_0__b"] == "1"
    assert data.params["group.key199"] == "199"
    assert len(data.params["long"]) == 6000
    assert {f"tag{index}" for index in range(120)} <= set(data.tags)
    assert json.loads(artifact(store, run_id, "config/params.json")) == params


def test_more_metrics_than_a_call_takes(run, store: str):
    run.begin(store)
    run.train(*range(400))
    run.evaluate(399, **{f"iou/class {index}": 0.5 for index in range(1100)})
    run_id = deliver(run.folder).run_id
    client = MlflowClient(store)
    assert steps(client, run_id, "train/lr") == list(range(400))
    assert sum(key.startswith("val/iou/") for key in client.get_run(run_id).data.metrics) == 1100


def test_a_failure_between_two_calls_leaves_no_gap(run, store: str, monkeypatch: pytest.MonkeyPatch):
    run.begin(store)
    run.train(*range(400))  # three metrics each: one call takes 333 steps
    log_batch = MlflowClient.log_batch

    def once(self, run_id, metrics=(), **rest):
        if metrics and metrics[0].step > 0:
            raise ConnectionError("gone")
        return log_batch(self, run_id, metrics=metrics, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", once)
        with pytest.raises(ConnectionError):
            deliver(run.folder)
    client = MlflowClient(store)
    run_id = load_progress(run.folder).run_id
    assert steps(client, run_id, "train/loss") == list(range(333))
    deliver(run.folder)
    assert steps(client, run_id, "train/loss") == list(range(400))


@pytest.mark.parametrize("call", ["create_run", "log_batch", "log_dict", "log_artifact", "set_terminated"])
def test_a_kill_after_any_call_loses_and_repeats_nothing(run, store: str, call: str):
    run.begin(store)
    run.train(1, 2)
    run.artifact("best.pt", "weights")
    end(run)

    def die_after_the_call() -> None:
        original = getattr(MlflowClient, call)

        def lethal(*args, **keywords):
            original(*args, **keywords)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(MlflowClient, call, lethal)
        deliver(run.folder)

    MlflowClient(store).search_experiments()  # the child shall not be the one to make the tables
    child = fork.Process(target=die_after_the_call)
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    progress = deliver(run.folder)
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("segkit")
    runs = client.search_runs([experiment.experiment_id], f"tags.segkit_key = '{progress.key}'")
    assert [found.info.run_id for found in runs] == [progress.run_id]
    assert runs[0].info.status == "FINISHED"
    assert steps(client, progress.run_id, "train/loss") == [1, 2]
    assert [file.path for file in client.list_artifacts(progress.run_id)] == ["best.pt", "config"]


def test_eight_processes_open_a_fresh_store_at_once(tmp_path: Path, make_run):
    store = f"sqlite:///{tmp_path}/new folder/mlflow.db"
    runs = [make_run(f"run{index}") for index in range(8)]
    barrier = fork.Barrier(8)

    def deliver_together(run) -> None:
        barrier.wait()
        deliver(run.folder)

    for run in runs:
        run.begin(store)
        run.train(1)
    children = [fork.Process(target=deliver_together, args=(run,)) for run in runs]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0] * 8
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("segkit")
    assert len(client.search_runs([experiment.experiment_id])) == 8


def test_checkpoints_stay_here_when_asked_and_nothing_outside_leaves(run, store: str, tmp_path: Path):
    run.begin(store)
    record = load_record(run.folder)
    save_record(run.folder, replace(record, destination=replace(record.destination, log_checkpoint=False)))
    (tmp_path / "secret").write_text("secret")
    run.artifact("checkpoints/best.pt", "weights", "checkpoints")
    for path in ("../secret", str(tmp_path / "secret"), "never-written.png", "checkpoints", ""):
        run.append("artifacts.jsonl", {"path": path, "artifact_path": ""})
    run.append("artifacts.jsonl", {})  # what is left of a torn line
    run_id = deliver(run.folder).run_id
    assert [file.path for file in MlflowClient(store).list_artifacts(run_id)] == ["config"]
    assert is_delivered(run.folder, load_record(run.folder), load_progress(run.folder))


def test_another_destination_gets_the_whole_run(run, store: str, tmp_path: Path):
    run.begin(store)
    run.train(1, 2)
    first = deliver(run.folder)
    record = load_record(run.folder)
    save_record(run.folder, replace(record, destination=replace(record.destination, experiment="other")))
    second = deliver(run.folder)
    assert second.run_id != first.run_id
    assert steps(MlflowClient(store), second.run_id, "train/loss") == [1, 2]


def test_a_thousand_records_take_seconds_not_minutes(run, store: str):
    run.begin(store)
    run.train(*range(1000))
    begun = time.monotonic()
    deliver(run.folder)
    assert time.monotonic() - begun < 20
