"""The tracker of `tracker=mlflow`: has another process follow the run folder and deliver it while the run goes on."""

from __future__ import annotations

import contextlib
import getpass
import logging
import math
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkit.config.credentials import MASK, connectable, hidden, holds_secret, masked
from segkit.config.sqlite_urls import for_sqlalchemy, sqlite_file
from segkit.errors import UserError
from segkit.run.record import Destination, RunRecord, is_delivered, load_progress, load_record, save_record
from segkit.tracking.follow import ATTEMPTS_AT_THE_END
from segkit.tracking.follower_process import follower

if TYPE_CHECKING:  # it imports PyTorch, and this module is imported before that
    from segkit.contracts import RunInfo

log = logging.getLogger(__name__)

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SERVERS = ("http", "https", "databricks")

STOPPED = ("interrupted", "terminated")
WAIT_WHEN_STOPPED_S = 10.0
"""Who sent the signal, or pressed Ctrl-C, waits; a scheduler kills what has not gone after 30 s."""

POLL_S = 0.05

TOLD_AFTER = 2
"""Failures. The first is often a passing one: a locked database, a server just restarting."""


class MlflowTracker:
    """Records a run in MLflow without holding it up.

    It writes who and what the run is to the folder, in run_info.json; another process follows the folder and delivers
    what is in it, see `follower_process`; and what comes of that is read from tracking.json.

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
        self._destination = Destination(uri, experiment, artifact_location, log_checkpoint, every_s)
        self._timeout_s = timeout_s
        self._look_every_s = min(every_s, 1.0)
        self._next_look = 0.0
        self._failures_before = 0
        self._is_failing = False

    @staticmethod
    def start_early() -> None:
        """Start the process that imports MLflow, best while PyTorch is imported here.

        Later, it would slow down the steps of the first epoch.
        """
        with contextlib.suppress(OSError):
            follower().start()

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
        earlier, progress = load_record(self._folder), load_progress(self._folder)
        self._failures_before = 0 if progress is None else progress.failures
        started = time.time() if earlier is None else earlier.started
        record = RunRecord(
            self._destination,
            masked(info.name),
            masked(dict(info.params)),
            masked(tags),
            started if info.started is None else info.started,
            continues=info.continues,
        )
        save_record(self._folder, record)
        follower().follow(self._folder)

    def log(self, row: Mapping[str, Any]) -> None:
        """The follower reads `row` in the folder; this tells, now and then, how it gets on."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + self._look_every_s
        follower().go_on_following(self._folder)
        progress = load_progress(self._folder)
        if progress is None or progress.uri != self._destination.uri:
            return
        if progress.failures < self._failures_before:
            self._failures_before = 0  # those of an earlier part of the run are over
        if self._is_failing and not progress.failures:
            self._is_failing = False
            log.info("MLflow has caught up")
        elif not self._is_failing and progress.failures >= TOLD_AFTER and progress.failures != self._failures_before:
            self._is_failing = True
            log.warning(
                "MLflow cannot be reached or refuses the run (%s: %s); the run goes on and keeps its results "
                "in its folder, and delivery is tried on",
                self._destination.uri,
                progress.error,
            )

    def artifact(self, path: Path, target: str) -> None:
        """The follower reads the list in the folder."""

    def tag(self, tags: Mapping[str, str]) -> None:
        record = self._record()
        save_record(self._folder, replace(record, tags=record.tags | masked(dict(tags))))

    def finish(self, status: str) -> None:
        record = replace(self._record(), status=status, ended=time.time())
        save_record(self._folder, record)
        try:
            problem = self._wait(record, min(self._timeout_s, WAIT_WHEN_STOPPED_S if status in STOPPED else math.inf))
        except KeyboardInterrupt:
            problem = "not waited for, after Ctrl-C"
        if problem is not None and not is_delivered(self._folder, record, load_progress(self._folder)):
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

    def _record(self) -> RunRecord:
        record = load_record(self._folder)
        if record is None:
            raise UserError(f"{self._folder} holds no readable run_info.json any more")
        return record

    def _wait(self, record: RunRecord, wait_s: float) -> str | None:
        """Until everything has arrived, or its delivery is given up, for `wait_s` at most; what is wrong otherwise."""
        deadline = time.monotonic() + wait_s
        follower().follow(self._folder)
        while True:
            progress = load_progress(self._folder)
            if is_delivered(self._folder, record, progress):
                return None
            failed = progress is not None and progress.failures > 0 and progress.failed_at_end == record.ended
            if progress is not None and failed and progress.failures >= ATTEMPTS_AT_THE_END:
                return progress.error
            if follower().pid is None:
                return "the process that delivers to it has died"
            if time.monotonic() >= deadline:
                return (
                    progress.error
                    if progress is not None and failed
                    else f"it did not take everything within {wait_s:g} s"
                )
            time.sleep(POLL_S)

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
            f"compare runs: mlflow ui --backend-store-uri {shlex.quote(for_sqlalchemy(uri))}",
            f"open: http://127.0.0.1:5000/{page}",
        ]


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
