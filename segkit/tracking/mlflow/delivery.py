"""Bring MLflow level with a run folder: the same step during a run, at its end, and long after it.

Everything is read from the folder, and what has arrived is written back to it after each call to MLflow, so
delivery may be cut off anywhere and taken up again by another process. What is sent twice because an answer
was lost lands on itself: metrics carry their record's own time, artifacts and tags replace, and the run is
found again by its key.
"""

from __future__ import annotations

import contextlib
import functools
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from segkit.run.record import (
    ARTIFACTS,
    METRICS,
    RUNNING,
    Destination,
    Progress,
    RunRecord,
    delivering,
    ended,
    is_number,
    load_progress,
    load_record,
    records_from,
    save_progress,
)
from segkit.tracking.mlflow import keys as names
from segkit.tracking.mlflow.client import connect, reason

if TYPE_CHECKING:
    from mlflow.entities import Metric

Item = TypeVar("Item")

MAX_METRICS = 1000
MAX_PARAMS = 25
"""MLflow takes 100 params a call but only 1 MB: 25 of 6,000 characters fit even when each is escaped."""

STATUS = {
    "completed": "FINISHED",
    "stopped": "FINISHED",  # by trainer.stop_after_steps
    "pruned": "KILLED",  # MLflow knows no better word; the tag segkit.status does
    "failed": "FAILED",
    "interrupted": "KILLED",
    "terminated": "KILLED",
    "killed": "KILLED",
}

KEY = "segkit_key"
"""Tag of an MLflow run: the `Progress.key` of the folder that speaks for it."""

NOT_A_METRIC = {"kind", "split", "step", "epoch", "time"}


def deliver(folder: Path, *, run_is_over: bool = False) -> Progress:
    """Send what `folder` holds and MLflow has not; gives the progress made, which is also in tracking.json.

    One process at a time does so for one folder; others wait. With `run_is_over` a run whose folder does not say
    how it ended is sent as killed.

    Raises whatever MLflow raises when it cannot be reached or refuses, which is in tracking.json as well; calling
    again goes on from there.
    """
    with delivering(folder):
        record = load_record(folder)
        if record is None:
            raise FileNotFoundError(f"{folder} holds no readable run_info.json: not a run recorded with tracker=mlflow")
        record = ended(folder, record) if run_is_over else record
        try:
            delivery = _Delivery(folder, record)
            delivery.find_or_create_run()
            delivery.describe()
            delivery.send_metrics()
            try:
                delivery.send_artifacts()
            finally:  # an artifact that the server refuses must not leave the run shown as running for ever
                delivery.send_status()
            delivery.note_success()
        except Exception as error:
            _note_failure(folder, record, error)
            raise
        return delivery.progress


def page(folder: Path) -> str | None:
    """Where in MLflow's UI the run of `folder` stands, from the UI's own address on; None if it is not there yet."""
    progress = load_progress(folder)
    if progress is None or progress.run_id is None or progress.experiment_id is None:
        return None
    return f"#/experiments/{progress.experiment_id}/runs/{progress.run_id}"


class _Delivery:
    """One pass over one folder."""

    def __init__(self, folder: Path, record: RunRecord) -> None:
        self.folder = folder
        self.record = record
        self.progress = _progress_towards(record.destination, folder)
        self.client, self.experiment_id = connect(record.destination)
        self.progress.experiment_id = self.experiment_id

    @property
    def run_id(self) -> str:
        assert self.progress.run_id is not None
        return self.progress.run_id

    def save(self) -> None:
        save_progress(self.folder, self.progress)

    def note_success(self) -> None:
        if self.progress.failures:
            self.progress.failures, self.progress.error, self.progress.failed_at_end = 0, "", None
            self.save()

    def find_or_create_run(self) -> None:
        if self.progress.run_id is not None:
            return
        if self.progress.creating:  # asked for before, and the answer never came
            found = self.client.search_runs([self.experiment_id], f"tags.{KEY} = '{self.progress.key}'")
            if found:
                self.progress.run_id = found[0].info.run_id
                self.save()
                return
        if self.record.continues is not None and self._take_over(self.record.continues):
            return
        self.progress.creating = True
        self.save()
        run = self.client.create_run(
            self.experiment_id,
            start_time=_milliseconds(self.record.started),
            tags={KEY: self.progress.key},
            run_name=self.record.name,
        )
        self.progress.run_id = run.info.run_id
        self.save()

    def _take_over(self, run_id: str) -> bool:
        """Go on with another folder's run behind its last step; False if this store does not know the run."""
        from mlflow.exceptions import MlflowException

        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        if run.info.lifecycle_stage != "active":
            return False
        self.client.set_tag(run_id, KEY, self.progress.key)
        for source, name in {name.partition("/")[0]: name for name in run.data.metrics if "/" in name}.items():
            history = self.client.get_metric_history(run_id, name)
            self.progress.last_step[source] = max(metric.step for metric in history)
        self.progress.run_id = run_id
        self.save()
        return True

    def describe(self) -> None:
        """Send params and tags, again after a resume with other ones.

        MLflow never changes a param: those that differ are listed in a tag, and config/params.json is new.
        """
        from mlflow.entities import Param, RunTag

        if self.progress.described == self.record.digest():
            return
        params = names.as_params(self.record.params)
        sent = self.client.get_run(self.run_id).data.params
        changed = [f"{key}: {sent[key]} -> {value}" for key, value in params.items() if sent.get(key, value) != value]
        tags = dict(self.record.tags)
        if changed:
            tags["changed_on_resume"] = "; ".join(changed)
        new = [Param(key, value) for key, value in params.items() if key not in sent]
        for batch in _batches(new, MAX_PARAMS):
            self.client.log_batch(self.run_id, params=batch)
        all_tags = [RunTag(key, value) for key, value in names.as_tags(tags).items()]
        for batch in _batches(all_tags, MAX_PARAMS):
            self.client.log_batch(self.run_id, tags=batch)
        self.client.log_dict(self.run_id, self.record.params, "config/params.json")
        self.progress.described = self.record.digest()
        self.save()

    def send_metrics(self) -> None:
        waiting: list[Metric] = []
        before = self.progress.metrics_offset
        for row, offset in records_from(self.folder / METRICS, before):
            metrics = self._new_metrics(row)
            if len(waiting) + len(metrics) > MAX_METRICS:
                self._send_batch(waiting)
                waiting = []
            # Only now: what the line above saved must not count this row.
            waiting += metrics
            self.progress.metrics_offset = offset
            if metrics:
                self.progress.last_step[_source(row)] = row["step"]
        if self.progress.metrics_offset != before:
            self._send_batch(waiting)

    def _send_batch(self, metrics: list[Metric]) -> None:
        for batch in _batches(metrics, MAX_METRICS):
            self.client.log_batch(self.run_id, metrics=batch, synchronous=True)
        self.save()

    def _new_metrics(self, row: dict[str, Any]) -> list[Metric]:
        """The metrics of one line of metrics.jsonl; none for a step that was delivered before a resume."""
        from mlflow.entities import Metric

        source, step, seconds = _source(row), row.get("step"), row.get("time")
        if not source or not isinstance(step, int) or not is_number(seconds):
            return []
        if step <= self.progress.last_step.get(source, -1):
            return []
        keys = tuple(key for key, value in row.items() if key not in NOT_A_METRIC and is_number(value))
        named = [(name, row[key]) for key, name in _metric_names(source, keys).items()]
        if source == "train" and is_number(row.get("epoch")):
            named.append(("epoch", row["epoch"]))
        return [Metric(name, float(value), _milliseconds(seconds), step) for name, value in named]

    def send_artifacts(self) -> None:
        rows = [
            (Path(str(row.get("path") or "")), str(row.get("artifact_path") or ""), offset)
            for row, offset in records_from(self.folder / ARTIFACTS, self.progress.artifacts_offset)
        ]
        newest = {(path, target): offset for path, target, offset in rows}
        for path, target, offset in rows:
            if newest[path, target] == offset and self._is_wanted(path):
                self.client.log_artifact(self.run_id, str(self.folder / path), target or None)
            self.progress.artifacts_offset = offset
            self.save()

    def _is_wanted(self, path: Path) -> bool:
        # A line of the list is data: it may not reach for files outside the run folder.
        inside = not path.is_absolute() and ".." not in path.parts
        checkpoint = path.parts[:1] == ("checkpoints",)
        return inside and (self.record.destination.log_checkpoint or not checkpoint) and (self.folder / path).is_file()

    def send_status(self) -> None:
        if self.progress.status == self.record.status:
            return
        if self.record.status == RUNNING:
            self.client.update_run(self.run_id, status="RUNNING")
        elif self.client.get_run(self.run_id).data.tags.get(KEY) == self.progress.key:
            # Otherwise another folder has taken the run over, and its end is not this folder's.
            ended = _milliseconds(self.record.ended or time.time())
            self.client.set_terminated(self.run_id, STATUS[self.record.status], end_time=ended)
        self.progress.status = self.record.status
        self.save()


def _progress_towards(destination: Destination, folder: Path) -> Progress:
    """The folder's progress if it is about this destination, else a fresh one."""
    progress = load_progress(folder)
    here = (destination.uri, destination.experiment)
    if progress is not None and (progress.uri, progress.experiment) == here:
        return progress
    return Progress(*here, key=uuid.uuid4().hex)


def _note_failure(folder: Path, record: RunRecord, error: Exception) -> None:
    # From the file: what an attempt that failed had in memory may not have arrived.
    progress = _progress_towards(record.destination, folder)
    progress.failures = progress.failures + 1 if progress.failed_at_end == record.ended else 1
    progress.failed_at_end = record.ended
    progress.error = reason(error, record.destination.uri)
    with contextlib.suppress(OSError):  # the disk of the run folder may be what is full
        save_progress(folder, progress)


def _source(row: dict[str, Any]) -> str:
    """What the row's metrics are filed under: train, or the evaluated split; "" for a torn row."""
    source = row.get("split") if row.get("kind") == "eval" else row.get("kind")
    return source if isinstance(source, str) else ""


@functools.lru_cache(maxsize=64)
def _metric_names(source: str, keys: tuple[str, ...]) -> dict[str, str]:
    accepted = names.sanitised(f"{source}/{key}" for key in keys)
    return {key: accepted[f"{source}/{key}"] for key in keys}


def _batches(items: list[Item], size: int) -> Iterator[list[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
