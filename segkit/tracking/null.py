"""The tracker of `tracker=none`: the run folder is the only record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from segkit.contracts import RunInfo


class NullTracker:
    """Records nothing; `run_folder` is taken so that every tracker is built alike."""

    run_id: str | None = None

    def __init__(self, run_folder: Path) -> None: ...

    def start(self, info: RunInfo) -> None: ...

    def notify(self) -> None: ...

    def tag(self, tags: Mapping[str, str]) -> None: ...

    def finish(self, status: str) -> None: ...
