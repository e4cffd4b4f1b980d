"""The tracker of `tracker=mlflow`: has the run folder delivered, by another process, while the run goes on."""

from __future__ import annotations

import contextlib
import getpass
import logging
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from segkit.config.credentials import MASK, connectable, hidden, holds_secret, masked
from segkit.contracts import RunInfo, UserError
from segkit.run.record import Destination, RunRecord, is_delivered, load_progress, load_record, save_record
from segkit.tracking.courier import courier
from segkit.tracking.mlflow.client import sqlite_file

log = logging.getLogger(__name__)

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SERVERS = ("http", "https", "databricks")

STOPPED = ("interrupted", "terminated")
WAIT_WHEN_STOPPED_S = 10.0
"""Who sent the signal, or pressed Ctrl-C, waits; a scheduler kills what has not gone after 30 s."""


class MlflowTracker:
    """Records a run in MLflow without ever raising into it or holding it up.

    A process of its own delivers what the run writes to its folder; see `courier`.

    Args:
        run_folder: where metrics.jsonl and artifacts.jsonl grow.
        uri: an MLflow server (http, https, databricks) or database (sqlite, postgresql, mysql, mssql). A password
            in it is written nowhere.
        experiment: the MLflow experiment; made if it does not exist.
        artifact_location: folder or URI for the files of a new experiment. None puts them beside an SQLite
            file or leaves the choice to the server; other databases have no default.
        every_s: seconds between deliveries.
        timeout_s: how long `finish` waits at most, in seconds; at most 10 after a signal.
        log_checkpoint: whether files under checkpoints/ are sent too.

    Raises:
        UserError: a URI that MLflow 3 cannot use, or one that says too little, also one whose password is masked
            and not to be found; an artifact location with a password, which MLflow would store.
    """

    def __init__(
        self,
        run_folder: Path,
        *,
        uri: str,
        experiment: str = "segkit",
        artifact_location: str | None = None,
        every_s: float = 5.0,
        timeout_s: float = 30.0,
        log_checkpoint: bool = True,
    ) -> None:
        if every_s <= 0 or timeout_s < 0:
            raise UserError(
                f"tracker.every_s={every_s} and tracker.timeout_s={timeout_s}: "
                "allowed are seconds above 0 and seconds from 0 on"
            )
        if artifact_location is not None and (MASK in artifact_location or holds_secret(artifact_location)):
            raise UserError(
                f"tracker.artifact_location={masked(artifact_location)}: MLflow would store the password; leave it "
                "out and give it in the environment (for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
            )
        uri, artifact_location = _resolved(uri, artifact_location)
        uri = hidden(uri)
        connectable(uri, "tracker.uri")
        self._folder = Path(run_folder)
        self._destination = Destination(uri, experiment, artifact_location, log_checkpoint)
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._told: set[str] = set()

    @property
    def run_id(self) -> str | None:
        """The MLflow run, also that of an earlier part of this run; None until MLflow has given one."""
        progress, record = load_progress(self._folder), load_record(self._folder)
        if progress is not None and progress.uri == self._destination.uri and progress.run_id is not None:
            return progress.run_id
        return None if record is None else record.continues

    def start(self, info: RunInfo) -> None:
        tags = dict(info.tags) | {"mlflow.source.name": sys.argv[0], "mlflow.source.type": "LOCAL"}
        with contextlib.suppress(KeyError, OSError):  # a container's user may have no name
            tags["mlflow.user"] = getpass.getuser()
        if "git.commit" in tags:
            tags["mlflow.source.git.commit"] = tags["git.commit"]
        earlier = load_record(self._folder)
        started = time.time() if earlier is None else earlier.started
        with self._kept_from_the_run():
            save_record(
                self._folder,
                RunRecord(
                    self._destination,
                    masked(info.name),
                    masked(dict(info.params)),
                    masked(tags),
                    started,
                    continues=info.continues,
                ),
            )
            courier().begin(self._folder, self._every_s)

    def notify(self) -> None:
        with self._kept_from_the_run():
            for news in courier().news(self._folder):
                if news.state == "failing":
                    log.warning(
                        "MLflow cannot be reached or refuses the run (%s: %s); the run goes on and keeps its results "
                        "in its folder, and delivery is tried on",
                        self._destination.uri,
                        news.error,
                    )
                elif news.state == "caught up":
                    log.info("MLflow has caught up")
            courier().begin(self._folder, self._every_s)  # again, if its process has died

    def tag(self, tags: Mapping[str, str]) -> None:
        with self._kept_from_the_run():
            record = load_record(self._folder)
            assert record is not None, "tags come after start"
            save_record(self._folder, replace(record, tags=record.tags | masked(dict(tags))))

    def finish(self, status: str) -> None:
        with self._kept_from_the_run():
            record = load_record(self._folder)
            assert record is not None, "finish comes after start"
            record = replace(record, status=status, ended=time.time())
            save_record(self._folder, record)
            wait_s = min(self._timeout_s, WAIT_WHEN_STOPPED_S) if status in STOPPED else self._timeout_s
            try:
                problem = courier().finish(self._folder, self._every_s, wait_s)
            except KeyboardInterrupt:
                problem = "not waited for, after Ctrl-C"
            if not is_delivered(self._folder, record, load_progress(self._folder)):
                log.warning(
                    "not everything has reached MLflow (%s: %s). Nothing is lost: the results are in the run folder. "
                    "To send them later: python scripts/sync_mlflow.py %s",
                    self._destination.uri,
                    problem,
                    self._folder,
                )
            elif status not in STOPPED:
                for line in self._where_to_look():
                    log.info("%s", line)

    def _where_to_look(self) -> list[str]:
        """What to type and which address to open; MLflow's own start page shows no training runs."""
        progress, uri = load_progress(self._folder), self._destination.uri
        scheme = uri.partition("://")[0].partition("+")[0]
        if progress is None or scheme == "databricks":
            return []
        page = f"#/experiments/{progress.experiment_id}/runs?workflowType=machine_learning"
        if scheme in SERVERS:
            place = uri.partition("://")[2].rpartition("@")[2].rstrip("/")
            return [f"compare runs: {scheme}://{place}/{page}"]
        file = sqlite_file(uri)
        if file is not None and file.is_relative_to(Path.cwd()):
            uri = uri.replace(str(file), str(file.relative_to(Path.cwd())), 1)
        uri = uri.replace(f":{MASK}@", "@")
        return [
            f"compare runs: mlflow ui --backend-store-uri {shlex.quote(uri)}",
            f"open: http://127.0.0.1:5000/{page}",
        ]

    @contextlib.contextmanager
    def _kept_from_the_run(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if str(error) not in self._told:
                is_a_fault_of_ours = not isinstance(error, OSError)
                log.warning("the run goes on without MLflow (%s)", error, exc_info=is_a_fault_of_ours)
            self._told.add(str(error))


def _resolved(uri: str, artifact_location: str | None) -> tuple[str, str | None]:
    """The URI and the artifact location, both independent of the working directory."""
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme not in DATABASES + SERVERS:
        raise UserError(
            f"tracker.uri={masked(uri)!r}: allowed are sqlite:///path/to/mlflow.db, http(s)://server:port, "
            "databricks, postgresql://..., mysql://... and mssql://... (plain folders are gone in MLflow 3); "
            "tracker=none records nothing"
        )
    if scheme in DATABASES and artifact_location is not None and "://" not in artifact_location:
        artifact_location = Path(artifact_location).absolute().as_uri()
    file = sqlite_file(uri)
    if file is None:
        if artifact_location is None and scheme in DATABASES:
            raise UserError(
                f"tracker.artifact_location=null: a {scheme} database holds no files; "
                "give a folder or a URI such as s3://bucket/path"
            )
        return uri, artifact_location
    if file.name in ("", ":memory:"):
        raise UserError(f"tracker.uri={uri!r} names no file; allowed is sqlite:///path/to/mlflow.db")
    file_uri = uri.replace(str(file), str(file.absolute()), 1)
    return file_uri, artifact_location or (file.absolute().parent / "mlflow-artifacts").as_uri()
