"""Sweeps of the real command line over a task of a moment, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from segkit.sweep.storage import open_storage
from tests.conftest import REPOSITORY, Ended

APP = REPOSITORY / "tests" / "sweep" / "app" / "app.py"
optuna.logging.set_verbosity(optuna.logging.ERROR)


class Sweeps:
    """One folder in which sweeps are started, and what they leave there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.storage = f"sqlite:///{folder / 'sweeps.db'}"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "SEGKIT_CONF": str(REPOSITORY / "conf"), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        return subprocess.Popen(
            [sys.executable, str(APP), "-m", *arguments],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a signal to the sweep is not one to the tests
        )

    def run(self, *arguments: str, timeout: float = 240) -> Ended:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=timeout)
        ended = Ended(process.returncode, err)
        ended.stdout = out  # type: ignore[attr-defined]
        return ended

    def study(self, name: str = "s") -> optuna.Study:
        open_storage.cache_clear()
        return optuna.load_study(study_name=name, storage=open_storage(self.storage))

    def trials(self, name: str = "s") -> list[FrozenTrial]:
        return self.study(name).get_trials()

    def states(self, name: str = "s") -> Counter[TrialState]:
        return Counter(trial.state for trial in self.trials(name))

    def notes(self, what: str | None = None) -> list[dict[str, Any]]:
        path = self.folder / "notes.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [note for note in map(json.loads, lines) if what is None or note["what"] == what]

    def wait_for(self, condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "it did not come"
            time.sleep(0.02)


@pytest.fixture
def sweeps(tmp_path: Path) -> Sweeps:
    return Sweeps(tmp_path)
