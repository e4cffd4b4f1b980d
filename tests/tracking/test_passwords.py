"""Passwords of a run and of a sweep: they do their work, and no file holds them."""

from __future__ import annotations

import base64
import http.server
import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from segkit.cli import sync_mlflow
from segkit.config.credentials import VARIABLE
from segkit.errors import UserError
from segkit.sweep.storage import open_storage
from segkit.tracking.mlflow.client import connect
from segkit.tracking.mlflow.tracker import MlflowTracker
from tests.conftest import REPOSITORY, TINY, run, summary
from tests.tracking.conftest import FakeRun, MlflowServer

PASSWORD = "pass,wordX1"  # a comma has to be quoted on the command line
SECRETS = (PASSWORD, "tokenX2tokenX2", "bucketX3", "storageX4", "environmentX5")

OWN_DATA = """
from dataclasses import dataclass

from segkit.data.datasets.shapes import Shapes


@dataclass(kw_only=True, eq=False, repr=False)
class Private(Shapes):
    root: str
    token: str

    def __post_init__(self) -> None:
        assert (self.root, self.token) == ("s3://me:bucketX3@bucket/images", "tokenX2tokenX2")
        print("the data set was given its secrets")
        super().__post_init__()
"""
OWN_CONFIG = """
defaults: [shapes, _self_]
_target_: private_data.Private
root: s3://me:bucketX3@bucket/images
token: null
"""


class Guard:
    """A server that hands on to another what comes with the right password, and answers 401 to everything else."""

    def __init__(self, server: MlflowServer) -> None:
        wanted = "Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode()

        class Handler(http.server.BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Authorization") != wanted:
                    return self.answer(401, b"who are you?")
                headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "authorization")}
                request = urllib.request.Request(server.uri + self.path, body or None, headers, method=self.command)
                try:
                    with urllib.request.urlopen(request) as response:
                        self.answer(response.status, response.read())
                except urllib.error.HTTPError as error:
                    self.answer(error.code, error.read())

            def answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None: ...

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.place = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def guard(server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guard]:
    monkeypatch.setenv(VARIABLE, "{}")
    server.start()
    guard = Guard(server)
    yield guard
    guard.server.shutdown()
    guard.server.server_close()


@pytest.fixture
def own_data(tmp_path: Path) -> list[str]:
    (tmp_path / "conf" / "dataset").mkdir(parents=True)
    (tmp_path / "conf" / "dataset" / "private.yaml").write_text(OWN_CONFIG)
    (tmp_path / "private_data.py").write_text(OWN_DATA)
    return ["--config-dir", str(tmp_path / "conf")]


def files_with_a_secret(folder: Path) -> list[str]:
    """Every file below `folder` that holds one; PyTorch stores what is in a checkpoint uncompressed."""
    found: list[str] = []
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        found += [f"{path}: {secret}" for secret in SECRETS if secret.encode() in content]
    return found


def options(guard: Guard) -> list[str]:
    return [
        *TINY,
        "dataset=private",
        "dataset.token=tokenX2tokenX2",
        "trainer.max_steps=2",
        f"tracker.uri='http://me:{PASSWORD}@{guard.place}'",
        "+hydra.job.env_set.MY_TOKEN=environmentX5",
    ]


def test_a_run_uses_its_passwords_and_writes_none_of_them(
    guard: Guard, server: MlflowServer, own_data: list[str], tmp_path: Path
):
    folder = tmp_path / "runs" / "one"
    arguments = [*own_data, *options(guard), f"hydra.run.dir={folder}"]
    ended = run(*arguments, cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{REPOSITORY}")
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said
    assert "the data set was given its secrets" in said
    assert not any(secret in said for secret in SECRETS)
    assert files_with_a_secret(folder) + files_with_a_secret(server.folder) == []
    for file in (".hydra/config.yaml", ".hydra/overrides.yaml", ".hydra/hydra.yaml", "run_info.json"):
        assert f"http://me:***@{guard.place}" in (folder / file).read_text(), file
    assert summary(folder)["mlflow_run_id"], said
    recorded = MlflowClient(server.uri).get_run(summary(folder)["mlflow_run_id"])
    assert recorded.info.status == "FINISHED"
    assert recorded.data.params["dataset.root"] == "s3://me:***@bucket/images"
    assert said.splitlines()[-1] == (
        f"compare runs: http://{guard.place}/#/experiments/{recorded.info.experiment_id}/runs"
        "?workflowType=machine_learning"
    )


def test_a_sweep_uses_its_passwords_and_writes_none_of_them(
    guard: Guard, server: MlflowServer, own_data: list[str], tmp_path: Path
):
    searched = ["sweep=tpe", "optimizer.lr=interval(0.001,0.01)", "hydra.sweeper.params=null"]
    sweep = [*searched, "hydra.sweeper.n_trials=1", *options(guard)]
    ended = run("-m", *own_data, *sweep, cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{REPOSITORY}")
    said = ended.stdout + ended.stderr
    assert ended.returncode == 0, said
    assert not any(secret in said for secret in SECRETS)
    assert files_with_a_secret(tmp_path / "outputs") + files_with_a_secret(server.folder) == []
    trial = next((tmp_path / "outputs" / "sweeps").glob("*/0"))
    assert MlflowClient(server.uri).get_run(summary(trial)["mlflow_run_id"]).info.status == "FINISHED"


def test_what_waits_is_sent_with_a_password_from_the_environment_or_the_command_line(
    guard: Guard,
    run: FakeRun,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    run.begin(f"http://me:***@{guard.place}")
    run.train(1)
    arguments = [str(run.folder)]
    assert sync_mlflow.main(arguments) == 1
    assert "MLFLOW_TRACKING_USERNAME" in re.sub(r"[\s│]+", "", capsys.readouterr().out)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a wrong one")
    assert sync_mlflow.main(arguments) == 1
    said = re.sub(r"[\s│]+", "", capsys.readouterr().out)
    assert "401" in said
    assert "setMLFLOW_TRACKING_USERNAMEandMLFLOW_TRACKING_PASSWORD" in said
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    connect.cache_clear()
    assert sync_mlflow.main(arguments) == 0
    run.train(2)
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    connect.cache_clear()
    assert sync_mlflow.main([*arguments, "--uri", f"http://me:{PASSWORD}@{guard.place}"]) == 0
    assert files_with_a_secret(run.folder) == []
    assert json.loads((run.folder / "tracking.json").read_text())["last_step"] == {"train": 2}


def test_a_storage_that_cannot_be_opened_is_told_without_its_password(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, "{}")
    pytest.importorskip("psycopg2")
    with pytest.raises(UserError, match=r"hydra.sweeper.storage=postgresql://me:\*\*\*@127.0.0.1:9/x") as told:
        open_storage("postgresql://me:storageX4@127.0.0.1:9/x")
    assert "storageX4" not in str(told.value)


def test_what_cannot_work_or_would_be_stored_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, "{}")
    for name in ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    # As in a config that was written: best.yaml of a sweep, the params of another run.
    with pytest.raises(UserError, match=r"tracker\.uri=http://me:\*\*\*@host: its password is not kept; set MLFLOW_"):
        MlflowTracker(tmp_path, uri="http://me:***@host")
    with pytest.raises(UserError, match=r"tracker\.artifact_location=ftp://me:\*\*\*@host/x: MLflow would store"):
        MlflowTracker(tmp_path, uri="http://host", artifact_location="ftp://me:bucketX3@host/x")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "tokenX2tokenX2")
    MlflowTracker(tmp_path, uri="http://me:***@host")
