"""The tracker of `tracker=none`: the run folder is the only record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # it imports PyTorch, and this module is imported before that
    from segkit.contracts import RunInfo


class NullTracker:
    """Records nothing; `run_folder` is taken so that every tracker is built alike."""

    run_id: str | None = None

    def __init__(self, run_folder: Path) -> None: ...

    def start(self, info: RunInfo) -> None: ...

    def log(self, row: Mapping[str, Any]) -> None: ...

    def artifact(self, path: Path, target: str) -> None: ...

    def tag(self, tags: Mapping[str, str]) -> None: ...

    def finish(self, status: str) -> None: ...
