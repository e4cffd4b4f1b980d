"""The folder of one run: what outsiders read of it, written so that a kill at any instant leaves it readable."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from segkit.errors import UserError


class RunFolder:
    """metrics.jsonl, artifacts.jsonl, summary.json and checkpoints/ of one run, held by one process at a time.

    Raises UserError when another process holds the folder.
    """

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(path / ".lock")
        self._metrics = _opened_for_lines(path / "metrics.jsonl")
        self._artifacts = _opened_for_lines(path / "artifacts.jsonl")

    def record(self, kind: str, values: Mapping[str, Any]) -> None:
        """Add a line to metrics.jsonl. Floats keep full precision; what is not finite is written as null."""
        record = {"kind": kind, **values, "time": time.time()}
        self._metrics.write(json.dumps({k: _json_value(v) for k, v in record.items()}, allow_nan=False) + "\n")

    def list_artifact(self, path: Path, artifact_path: str = "") -> None:
        """Name a file of this folder as one that trackers keep too, below `artifact_path`."""
        entry = {"path": path.relative_to(self.path).as_posix(), "artifact_path": artifact_path}
        self._artifacts.write(json.dumps(entry) + "\n")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        write_json(self.path / "summary.json", summary)

    def close(self) -> None:
        self._metrics.close()
        self._artifacts.close()
        self._lock.close()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` so that a reader sees all of it or what stood there before."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(_json_value(dict(content)), indent=2, allow_nan=False) + "\n")
    temporary.replace(path)


def _locked(path: Path) -> IO[str]:
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"{path.parent}: another process is running in this folder; "
            "wait for it, or give this run its own with hydra.run.dir=..."
        ) from None
    return file


def _opened_for_lines(path: Path) -> IO[str]:
    """`path` for appending whole lines, each handed to the system at once. A torn last line is cut off first."""
    with contextlib.suppress(FileNotFoundError):
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)
    return path.open("a", buffering=1, encoding="utf-8")


def _json_value(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): _json_value(v) for k, v in value.items()}  # pyright: ignore
    if isinstance(value, list | tuple):
        return [_json_value(v) for v in value]  # pyright: ignore
    return str(value) if isinstance(value, Path) else value
