"""A run folder to fill as the engine would, and an MLflow server to start and kill."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from segkit.run.record import Destination, RunRecord, save_record

EPOCH_SECONDS = 1_700_000_000


class FakeRun:
    """Writes the files of a run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)

    def begin(self, uri: str, every_s: float = 5.0, **fields: Any) -> None:
        files = (self.folder.parent / "files").as_uri()
        destination = Destination(uri, "segkit", files, log_checkpoint=True, every_s=every_s)
        defaults: dict[str, Any] = {"name": "fake", "params": {"seed": 0}, "tags": {"model": "fcn"}}
        save_record(self.folder, RunRecord(destination, started=EPOCH_SECONDS, **defaults | fields))

    def train(self, *steps: int, **extra: Any) -> None:
        for step in steps:
            row = {
                "kind": "train",
                "step": step,
                "epoch": 0,
                "loss": 1 / (1 + step),
                "lr": 0.1,
                "time": time.time(),
            }
            self.append("metrics.jsonl", row | extra)

    def evaluate(self, step: int, **scores: float | None) -> None:
        row = {"kind": "eval", "split": "val", "step": step, "epoch": 0, "time": time.time()}
        self.append("metrics.jsonl", row | scores)

    def artifact(self, path: str, content: str, artifact_path: str = "") -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(content)
        self.append("artifacts.jsonl", {"path": path, "artifact_path": artifact_path})

    def append(self, name: str, row: dict[str, Any]) -> None:
        with (self.folder / name).open("a") as file:
            file.write(json.dumps(row) + "\n")


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture
def run(tmp_path: Path) -> FakeRun:
    return FakeRun(tmp_path / "run")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An SQLite store whose tables exist, since making them takes seconds; runs in it do not meet."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class MlflowServer:
    """MLflow's own server application on a port of its own, with a store that outlives it.

    Forked from this process, where MLflow is imported already: `mlflow server` takes twenty seconds a start.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: BaseProcess | None = None

    def start(self) -> None:
        if self.process is not None:
            return
        self.process = multiprocessing.get_context("fork").Process(target=self._serve, daemon=True)
        self.process.start()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return
            except OSError:
                time.sleep(0.1)
        pytest.fail("the MLflow server does not answer")

    def _serve(self) -> None:
        store = f"sqlite:///{self.folder}/server.db"
        os.environ |= {
            "_MLFLOW_SERVER_FILE_STORE": store,
            "_MLFLOW_SERVER_REGISTRY_STORE": store,
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(self.folder / "artifacts"),
        }
        import uvicorn
        from mlflow.server.fastapi_app import app

        uvicorn.run(app, host="127.0.0.1", port=self.port, log_level="warning")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[[str], FakeRun]:
    return lambda name: FakeRun(tmp_path / name)
