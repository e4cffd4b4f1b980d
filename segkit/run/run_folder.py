"""The folder of one run: what outsiders read of it, written so that a kill at any instant leaves it readable."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import math
import os
import re
import socket
import tempfile
import time
import weakref
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkit.errors import UserError

if TYPE_CHECKING:  # it imports PyTorch
    from segkit.contracts import Tracker

log = logging.getLogger(__name__)

TRAIN_LINE = re.compile(r'\{"kind": "train", "step": (\d+)')
LONGEST_LINE = 2**24


class RunFolder:
    """metrics.jsonl, artifacts.jsonl, summary.json and checkpoints/ of one run, held by one process at a time.

    A disk that refuses to be written to is reported and does not end the run. The `tracker`, if there is one, is told
    of every line and every file to be kept.

    Raises UserError when another process holds the folder, or nothing can be written to it.
    """

    def __init__(self, path: Path):
        self.path = path
        self.tracker: Tracker | None = None
        self.checkpoints = path / "checkpoints"
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(path / ".lock")
            self._metrics = _Lines(path / "metrics.jsonl")
            self._artifacts = _Lines(path / "artifacts.jsonl")
        except OSError as error:
            raise UserError(
                f"{error.filename or path}: cannot be written ({error.strerror}); "
                "give this run another folder with hydra.run.dir=..."
            ) from None

    def record(self, kind: str, values: Mapping[str, Any]) -> None:
        """Add a line to metrics.jsonl. Floats keep full precision; what is not finite is written as null."""
        row = {k: _json_value(v) for k, v in {"kind": kind, **values, "time": time.time()}.items()}
        self._metrics.write(json.dumps(row, allow_nan=False) + "\n")
        if self.tracker is not None:
            self.tracker.log(row)

    def list_artifact(self, path: Path, artifact_path: str = "") -> None:
        """Name a file of this folder as one that trackers keep too, below `artifact_path`."""
        entry = {"path": path.relative_to(self.path).as_posix(), "artifact_path": artifact_path}
        self._artifacts.write(json.dumps(entry) + "\n")
        if self.tracker is not None:
            self.tracker.artifact(path, artifact_path)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        try:
            write_json(self.path / "summary.json", summary)
        except OSError as error:
            log.error("%s: cannot be written (%s)", self.path / "summary.json", error.strerror)

    def last_step(self) -> int:
        """The last step that metrics.jsonl tells of; 0 if there is none."""
        return _last_step(self.path / "metrics.jsonl")

    def close(self) -> None:
        self._metrics.close()
        self._artifacts.close()
        self._lock.close()


def results_in(folder: Path) -> str:
    """What an earlier process has left of a run in its folder, for people; empty if there is nothing."""
    checkpoints = len(list((folder / "checkpoints").glob("*.pt")))
    found = [f"{checkpoints} checkpoint{'s' * (checkpoints > 1)}"] if checkpoints else []
    metrics = folder / "metrics.jsonl"
    if metrics.exists() and metrics.stat().st_size:
        found.append(f"metrics.jsonl up to step {_last_step(metrics)}")
    return ", ".join(found)


def _last_step(metrics: Path) -> int:
    with metrics.open(encoding="utf-8", errors="replace") as lines:
        steps = [int(found.group(1)) for line in lines if (found := TRAIN_LINE.match(line))]
    return steps[-1] if steps else 0


def output_folder(path: Path, key: str) -> Path:
    """`path`, with ~ expanded, made and found to take files. Raises UserError naming `key`, which gave it."""
    try:
        folder = path.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a home that nobody has
        reason = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else str(error)
        raise UserError(f"{key}={path}: cannot be written ({reason}); give another folder") from None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` so that a reader sees all of it or what stood there before. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(_json_value(dict(content)), indent=2, allow_nan=False) + "\n")
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


class _Lines:
    """A file to add whole lines to, each handed to the system at once. A torn last line is cut off first.

    What the disk refuses is kept, and written as soon as it takes it again: no line is lost or torn meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting = bytearray()
        self._refused = False
        # Unbuffered, so that a write tells how much of a line has come through.
        self._file = FileIO(path, "a+")
        content = _tail(self._file)
        if not content.endswith(b"\n"):
            self._file.truncate(self._file.seek(0, os.SEEK_END) - len(content) + content.rfind(b"\n") + 1)

    def write(self, line: str) -> None:
        self._waiting += line.encode()
        try:
            while self._waiting:
                del self._waiting[: self._file.write(self._waiting)]
        except OSError as error:
            if not self._refused:
                log.warning(
                    "%s: cannot be written (%s); its lines are kept until the disk takes them",
                    self._path,
                    error.strerror,
                )
            self._refused = True
            return
        if self._refused:
            log.info("%s: is written again; no line is missing", self._path)
        self._refused = False

    def close(self) -> None:
        self.write("")
        if self._waiting:
            log.error("%s: lacks its last %d lines, which the disk refused", self._path, self._waiting.count(b"\n"))
        self._file.close()


def _tail(file: FileIO) -> bytes:
    """The last bytes of a file: more than its longest line has."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - LONGEST_LINE))
    return file.read()


# Of forked data workers, which may outlive a run that is killed, none may hold its folder.
_locks: weakref.WeakSet[FileIO] = weakref.WeakSet()


def _let_go() -> None:
    for file in _locks:
        file.close()


os.register_at_fork(after_in_child=_let_go)


def _locked(path: Path) -> FileIO:
    """The file, locked until it is closed or the process is gone; it names its holder."""
    file = FileIO(path, "a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"{path.parent}: another process is running in this folder ({_holder(file)}); "
            "wait for it, or give this run its own with hydra.run.dir=..."
        ) from None
    except OSError as error:
        log.warning(
            "%s: cannot be locked on this file system (%s); let no other process run in this folder",
            path,
            error.strerror,
        )
    _locks.add(file)
    with contextlib.suppress(OSError):  # a full disk
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
    return file


def _holder(file: FileIO) -> str:
    file.seek(0)
    return file.read(200).decode(errors="replace") or "which does not say its name"


def _json_value(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): _json_value(v) for k, v in value.items()}  # pyright: ignore
    if isinstance(value, list | tuple):
        return [_json_value(v) for v in value]  # pyright: ignore
    return str(value) if isinstance(value, Path) else value
