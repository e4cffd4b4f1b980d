"""The run folder as delivery sees it: what the run recorded, and how much of it has been sent.

Written by the engine:  metrics.jsonl, artifacts.jsonl (one JSON object a line), summary.json.
Written by the tracker: run_info.json, a `RunRecord`: what is to be recorded, and where.
Written by delivery:    tracking.json, a `Progress`: what has arrived there, and what the last failure was.
One writer a file, so that neither the training process nor a later `sync_mlflow` can undo the other's word.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

from segkit.config.credentials import hidden

METRICS = "metrics.jsonl"
ARTIFACTS = "artifacts.jsonl"
SUMMARY = "summary.json"
RUN_INFO = "run_info.json"
PROGRESS = "tracking.json"
LOCK = ".lock"
DELIVERY_LOCK = ".delivery.lock"

RUNNING = "running"
KILLED = "killed"
ENDED = ("completed", "stopped", "pruned", "failed", "interrupted", "terminated", KILLED)


@dataclass(frozen=True)
class Destination:
    """Where a run is recorded, and how often; see `MlflowTracker` for the meaning of each field."""

    uri: str
    experiment: str
    artifact_location: str | None
    log_checkpoint: bool
    every_s: float = 5.0


@dataclass(frozen=True)
class RunRecord:
    """What is to be known of a run besides its metrics and artifacts.

    Attributes:
        name, params, tags: as in `segkit.contracts.RunInfo`.
        started, ended: unix seconds; `ended` is None while the run goes on.
        continues: the MLflow run to go on with, if it is known there.
        status: running, completed, stopped, pruned, failed, interrupted, terminated or killed.
    """

    destination: Destination
    name: str
    params: dict[str, Any]
    tags: dict[str, str]
    started: float
    ended: float | None = None
    status: str = RUNNING
    continues: str | None = None

    def digest(self) -> str:
        """Identity of what MLflow keeps as params and tags."""
        text = json.dumps([self.params, self.tags], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Progress:
    """How far delivery has come.

    Attributes:
        uri, experiment: the destination all of this is about; another destination starts from nothing.
        key: marks the MLflow run as this folder's, to find it again when the answer to its creation was lost.
        creating: a run has been asked for, so there may be one that carries `key`.
        experiment_id: of the experiment, in the store.
        described: `RunRecord.digest` of the params and tags sent last.
        metrics_offset, artifacts_offset: bytes of the files delivered.
        last_step: highest step delivered, for train and for each evaluated split.
        status: the status sent last, "" before the first.
        failures: attempts since the last one that went well.
        error: what the last of them met, "" when it went well.
        failed_at_end: `RunRecord.ended` of the run that `failures` counts attempts for; None while it goes on.
    """

    uri: str
    experiment: str
    key: str
    creating: bool = False
    experiment_id: str | None = None
    run_id: str | None = None
    described: str = ""
    metrics_offset: int = 0
    artifacts_offset: int = 0
    last_step: dict[str, int] = field(default_factory=dict)
    status: str = ""
    failures: int = 0
    error: str = ""
    failed_at_end: float | None = None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace `path` in one stroke: a reader, or a crash, meets the old content or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as file:
        json.dump(content, file, indent=1, default=str)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def save_record(folder: Path, record: RunRecord) -> None:
    write_json(folder / RUN_INFO, asdict(record))


def load_record(folder: Path) -> RunRecord | None:
    """The record in `folder`; None if there is none that can be read."""
    try:
        content = json.loads((folder / RUN_INFO).read_text())
        # Masked: one written by segkit 0.1 may hold a password.
        destination = Destination(**content["destination"] | {"uri": hidden(content["destination"]["uri"])})
        return RunRecord(**content | {"destination": destination})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def close_if_killed(folder: Path) -> RunRecord | None:
    """The record, with its end filled in when the run died before it could write one.

    Only for the holder of the folder's lock: nobody else knows that the run is over.
    """
    record = load_record(folder)
    if record is None or record.status != RUNNING:
        return record
    record = ended(folder, record)
    save_record(folder, record)
    return record


def ended(folder: Path, record: RunRecord) -> RunRecord:
    """`record` of a run that is over, with its end filled in if it has none, as far as the folder tells it."""
    if record.status != RUNNING:
        return record
    info, summary = folder / RUN_INFO, folder / SUMMARY
    files = [path for path in (info, folder / METRICS, summary) if path.exists()]
    last = max(path.stat().st_mtime for path in files)
    return replace(record, status=_summary_status(summary, info.stat().st_mtime), ended=last)


def _summary_status(summary: Path, since: float) -> str:
    """The status in summary.json, if that was written after `since` and not by the part before a resume."""
    try:
        status = json.loads(summary.read_text())["status"] if summary.stat().st_mtime >= since else KILLED
    except (OSError, ValueError, TypeError, KeyError):
        return KILLED
    return status if status in ENDED else KILLED


def save_progress(folder: Path, progress: Progress) -> None:
    write_json(folder / PROGRESS, asdict(progress))


def load_progress(folder: Path) -> Progress | None:
    """The progress in `folder`; None if there is none that can be read."""
    try:
        content = json.loads((folder / PROGRESS).read_text())
        return Progress(**content | {"uri": hidden(content["uri"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def records_from(path: Path, offset: int) -> Iterator[tuple[dict[str, Any], int]]:
    """The JSON objects of whole lines from byte `offset` on, each with the offset behind it.

    A last line without its newline is still being written and is left for the next time. A line that is no
    JSON object was torn by a crash and is passed over. A file shorter than `offset` was replaced: it is read
    from its start.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset if offset <= path.stat().st_size else 0)
        position = file.tell()
        for line in file:
            if not line.endswith(b"\n"):
                return
            position += len(line)
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            yield (record if isinstance(record, dict) else {}), position


def is_delivered(folder: Path, record: RunRecord, progress: Progress | None) -> bool:
    """Whether MLflow has everything that stands in the run folder."""
    return (
        progress is not None
        and (progress.uri, progress.experiment) == (record.destination.uri, record.destination.experiment)
        and progress.described == record.digest()
        and progress.status == record.status
        and not any(True for _ in records_from(folder / METRICS, progress.metrics_offset))
        and not any(True for _ in records_from(folder / ARTIFACTS, progress.artifacts_offset))
    )


def is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@contextlib.contextmanager
def held_alone(folder: Path) -> Iterator[bool]:
    """Hold the lock that a live run holds on its folder; gives False, without waiting, when it is taken."""
    with (folder / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


@contextlib.contextmanager
def delivering(folder: Path) -> Iterator[None]:
    """Be the only one who delivers `folder`, waiting for another: a run's own process, or a `sync_mlflow`."""
    with (folder / DELIVERY_LOCK).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
