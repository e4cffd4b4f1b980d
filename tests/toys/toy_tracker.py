"""A tracker of one's own: one class here, and conf/tracker/toy.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segkit.contracts import RunInfo
from segkit.tracking.null import NullTracker


class Diary(NullTracker):
    """Writes what happens to a run, a line each, into its folder."""

    def __init__(self, run_folder: Path, *, name: str = "diary.txt") -> None:
        super().__init__(run_folder)
        self.file = run_folder / name

    def start(self, info: RunInfo) -> None:
        self._write(f"{info.name} starts")

    def log(self, row: Mapping[str, Any]) -> None:
        self._write(f"{row['kind']} of step {row['step']}")

    def artifact(self, path: Path, target: str) -> None:
        self._write(f"{path.name} for {target}")

    def tag(self, tags: Mapping[str, str]) -> None:
        self._write(f"tags: {', '.join(tags)}")

    def finish(self, status: str) -> None:
        self._write(status)

    def _write(self, line: str) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
