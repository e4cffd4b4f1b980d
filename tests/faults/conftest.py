"""Real trainings to do harm to: each a process of its own, started without the seconds that imports take."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY, TINY, command

PATIENCE_S = 100.0

TRAINING = [*TINY, "tracker=none", "trainer.evaluate.panel_samples=0", "trainer.num_workers=0"]


@dataclass
class Ended:
    """How a training ended: its exit code, or minus the signal that killed it, and all that it said."""

    returncode: int
    stdout: str
    stderr: str


@dataclass
class Training:
    """A training that runs, in the run folder `folder`."""

    starter: Starter
    pid: int
    folder: Path
    stdout: Path
    stderr: Path

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float = PATIENCE_S) -> Ended:
        answer = self.starter.ask({"wait": self.pid, "timeout": timeout})
        assert answer["returncode"] is not None, f"still running after {timeout} s: {self.stdout.read_text()}"
        return Ended(answer["returncode"], self.stdout.read_text(), self.stderr.read_text())

    def wait_for(self, text: str, file: str = "metrics.jsonl", *, timeout: float = PATIENCE_S) -> None:
        """Until `text` stands in a file of the run folder, or in what the training prints."""
        path = {"stdout": self.stdout, "stderr": self.stderr}.get(file, self.folder / file)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if path.exists() and text in path.read_text():
                return
            assert Path(f"/proc/{self.pid}/stat").exists(), self.stderr.read_text()
            assert ") Z " not in Path(f"/proc/{self.pid}/stat").read_text(), (
                self.stdout.read_text() + self.stderr.read_text()
            )
            time.sleep(0.002)
        raise AssertionError(f"{text!r} did not come to {path}")

    def wait_for_step(self, step: int) -> None:
        self.wait_for(f'"step": {step},')


class Starter:
    """The process that trainings are forked from."""

    def __init__(self) -> None:
        line, environment = command(script="tests/faults/forking.py", PYTHONPATH=str(REPOSITORY))
        self._process = subprocess.Popen(
            line, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._count = 0
        self._answer()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def start(
        self,
        folder: Path,
        *arguments: str,
        output: Path | None = None,
        script: Path | None = None,
        terminal: str | None = None,
        ignore: Sequence[str] = (),
        **environment: str,
    ) -> Training:
        """A tiny training into the run folder `folder`; what it prints is kept in files beside that, or in `output`.

        Or a script, with `arguments` alone.
        """
        self._count += 1
        output = output or folder.parent
        output.mkdir(parents=True, exist_ok=True)
        stdout, stderr = (output / f"{self._count}.{kind}" for kind in ("stdout", "stderr"))
        answer = self.ask(
            {
                "script": None if script is None else str(script),
                "arguments": [*([*TRAINING, f"hydra.run.dir={folder}"] if script is None else []), *arguments],
                "stdout": str(stdout),
                "stderr": str(stderr),
                "folder": str(output),
                "terminal": terminal,
                "ignore": list(ignore),
                "environment": environment,
            }
        )
        return Training(self, answer["pid"], folder, stdout, stderr)

    def train(self, folder: Path, *arguments: str, **keywords: Any) -> Ended:
        return self.start(folder, *arguments, **keywords).wait()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        assert answer, "the starter has died"
        return json.loads(answer)


@pytest.fixture(scope="session")
def starter() -> Iterator[Starter]:
    started = Starter()
    yield started
    started.close()
