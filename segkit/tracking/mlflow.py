"""The tracker of `tracker=mlflow`: a background thread that delivers the run folder while the run goes on."""

from __future__ import annotations

import contextlib
import getpass
import logging
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from segkit.contracts import RunInfo, UserError
from segkit.tracking.delivery import deliver, sqlite_file
from segkit.tracking.run_folder import (
    Destination,
    RunRecord,
    is_delivered,
    load_progress,
    load_record,
    save_record,
)

log = logging.getLogger(__name__)

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SERVERS = ("http", "https", "databricks")
LONGEST_PAUSE_S = 60.0


class MlflowTracker:
    """Records a run in MLflow without ever raising into it or holding it up.

    The thread reads what the run wrote to its folder; the run itself only wakes it. MLflow is imported in the
    thread, after the first record: starting takes no time, and data workers have been forked by then.

    Args:
        run_folder: where metrics.jsonl and artifacts.jsonl grow.
        uri: an MLflow server (http, https, databricks) or database (sqlite, postgresql, mysql, mssql).
        experiment: the MLflow experiment; made if it does not exist.
        artifact_location: folder or URI for the files of a new experiment. None puts them beside an SQLite
            file or leaves the choice to the server; other databases have no default.
        every_s: seconds between deliveries.
        timeout_s: how long `finish` waits at most, in seconds.
        log_checkpoint: whether files under checkpoints/ are sent too.

    Raises:
        UserError: a URI that MLflow 3 cannot use, or one that says too little.
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
        uri, artifact_location = _resolved(uri, artifact_location)
        self._folder = Path(run_folder)
        self._destination = Destination(uri, experiment, artifact_location, log_checkpoint)
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._wake = threading.Event()
        self._finishing = threading.Event()
        self._deadline = float("inf")
        self._failures = 0
        self._last_error = "it did not answer in time"
        self._thread = threading.Thread(target=self._deliver_until_finished, name="mlflow", daemon=True)

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
                RunRecord(self._destination, info.name, dict(info.params), tags, started, continues=info.continues),
            )
            self._thread.start()

    def notify(self) -> None:
        self._wake.set()

    def tag(self, tags: Mapping[str, str]) -> None:
        with self._kept_from_the_run():
            record = load_record(self._folder)
            assert record is not None, "tags come after start"
            save_record(self._folder, replace(record, tags=record.tags | dict(tags)))
            self._wake.set()

    def finish(self, status: str) -> None:
        with self._kept_from_the_run():
            record = load_record(self._folder)
            assert record is not None, "finish comes after start"
            record = replace(record, status=status, ended=time.time())
            save_record(self._folder, record)
            self._deadline = time.monotonic() + self._timeout_s
            self._finishing.set()
            self._wake.set()
            self._thread.join(self._timeout_s)
            if not is_delivered(self._folder, record, load_progress(self._folder)):
                self._warn("not everything has reached MLflow")

    def _deliver_until_finished(self) -> None:
        """The thread: a pass whenever there is news, at most one in `every_s`, rarer while MLflow fails."""
        while time.monotonic() < self._deadline:
            self._wake.wait()
            self._wake.clear()
            finishing = self._finishing.is_set()  # read first, so that the pass sees what finish() wrote
            delivered = self._attempt()
            if finishing and delivered:
                return
            if not delivered:
                self._wake.set()
            if finishing:
                time.sleep(min(1.0, self._every_s))
            else:
                self._finishing.wait(min(self._every_s * 2**self._failures, LONGEST_PAUSE_S))

    def _attempt(self) -> bool:
        try:
            deliver(self._folder)
        except Exception as error:
            self._last_error = _first_line(error)
            self._failures += 1
            # The first failure is often a passing one: a locked database, a server just restarting.
            if self._failures == 2 and not self._finishing.is_set():
                self._warn("MLflow cannot be reached or refuses the run; trying on")
            return False
        if self._failures >= 2:
            log.info("MLflow has caught up")
        self._failures = 0
        return True

    def _warn(self, what: str) -> None:
        log.warning(
            "%s (%s: %s). Nothing is lost: the results are in the run folder. To send them later: "
            "python scripts/sync_mlflow.py %s",
            what,
            re.sub(r"//[^@/]*@", "//", self._destination.uri),
            self._last_error,
            self._folder,
        )

    @contextlib.contextmanager
    def _kept_from_the_run(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            log.warning("the run goes on without MLflow", exc_info=True)


def _resolved(uri: str, artifact_location: str | None) -> tuple[str, str | None]:
    """The URI and the artifact location, both independent of the working directory."""
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme not in DATABASES + SERVERS:
        raise UserError(
            f"tracker.uri={uri!r}: allowed are sqlite:///path/to/mlflow.db, http(s)://server:port, "
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


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0][:300] if text else type(error).__name__
