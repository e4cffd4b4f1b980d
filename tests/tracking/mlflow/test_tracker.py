"""The tracker and the process that follows its run folder, and stores and servers that work, fail, or keep silent."""

from __future__ import annotations

import http.server
import logging
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from segkit.cli.sync_mlflow import main as sync
from segkit.contracts import RunInfo, UserError
from segkit.run.record import load_record
from segkit.tracking.follower_process import follower
from segkit.tracking.mlflow.tracker import MlflowTracker
from segkit.tracking.null import NullTracker
from segkit.tracking.trackers import guarded
from tests.tracking.conftest import wait_until

INFO = RunInfo(name="a run", params={"seed": 1}, tags={"git.commit": "abc"})


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A follower of its own, as it takes its environment when it starts."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    follower().stop()
    yield
    follower().stop()


def track(run, uri: str, timeout_s: float = 60.0) -> MlflowTracker:
    return MlflowTracker(
        run.folder,
        uri=uri,
        artifact_location=str(run.folder.parent / "files"),
        every_s=0.1,
        timeout_s=timeout_s,
    )


def train_steps(uri: str, run_id: str) -> list[int]:
    return [metric.step for metric in MlflowClient(uri).get_metric_history(run_id, "train/loss")]


def test_the_run_is_visible_while_it_goes_on_and_ends_finished(run, store: str):
    tracker = track(run, store)
    assert tracker.run_id is None
    tracker.start(INFO)
    run.train(1)
    tracker.log({})
    wait_until(lambda: tracker.run_id is not None and train_steps(store, tracker.run_id) == [1])
    found = MlflowClient(store).get_run(tracker.run_id)
    assert found.info.status == "RUNNING"
    assert found.data.tags["mlflow.source.git.commit"] == "abc"
    run.train(2)
    tracker.finish("failed")
    assert MlflowClient(store).get_run(tracker.run_id).info.status == "FAILED"
    assert train_steps(store, tracker.run_id) == [1, 2]


def test_the_end_says_what_to_type_and_which_address_shows_the_runs(
    run, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    tracker = track(run, "sqlite:///outputs/mlflow.db")
    tracker.start(INFO)
    run.train(1)
    with caplog.at_level(logging.INFO):
        tracker.finish("completed")
    experiment = MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db").get_experiment_by_name("segkit")
    assert experiment is not None
    assert caplog.messages == [
        "compare runs: mlflow ui --backend-store-uri sqlite:///outputs/mlflow.db",
        f"open: http://127.0.0.1:5000/#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning",
    ]
    assert max(map(len, caplog.messages)) <= 80


def test_what_to_type_names_the_store_that_was_written(
    run, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """SQLAlchemy would open the file `o u` of the folder's plain name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "o%20u?t=2").mkdir()
    tracker = track(run, "sqlite:///o%20u?t=2/mlflow.db")
    tracker.start(INFO)
    run.train(1)
    with caplog.at_level(logging.INFO):
        tracker.finish("completed")
    typed = shlex.split(caplog.messages[0].removeprefix("compare runs: "))
    assert typed[:3] == ["mlflow", "ui", "--backend-store-uri"]
    assert MlflowClient(typed[3]).get_experiment_by_name("segkit") is not None
    assert (tmp_path / "o%20u?t=2" / "mlflow.db").exists()
    assert not list(tmp_path.glob("o u*"))


def test_a_resume_in_the_folder_is_the_same_mlflow_run(run, store: str):
    first = track(run, store)
    first.start(INFO)
    run.train(1, 2)
    first.finish("interrupted")
    assert MlflowClient(store).get_run(first.run_id).info.status == "KILLED"
    second = track(run, store)
    assert second.run_id == first.run_id
    second.start(INFO)
    run.train(2, 3)
    second.finish("completed")
    found = MlflowClient(store).get_run(first.run_id).info
    assert (found.run_id, found.status) == (second.run_id, "FINISHED")
    assert train_steps(store, first.run_id) == [1, 2, 3]


def test_the_id_of_a_continued_run_is_known_while_the_server_is_down(run, absent: str):
    tracker = track(run, absent, timeout_s=0.1)
    tracker.start(RunInfo("a run", {}, {}, continues="abc"))
    assert tracker.run_id == "abc"
    tracker.finish("interrupted")
    assert tracker.run_id == "abc"


class Refusing(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_error(500)

    do_GET = do_POST  # noqa: N815

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def refusing() -> Iterator[str]:
    """A server that answers 500 to everything."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def absent() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", ["refusing", "silent", "absent"])
def test_a_bad_server_costs_a_bounded_time(run, kind: str, request: pytest.FixtureRequest, caplog):
    tracker = track(run, request.getfixturevalue(kind), timeout_s=2.0)
    begun = time.monotonic()
    tracker.start(INFO)
    for step in range(100):
        run.train(step)
        tracker.log({})
    assert time.monotonic() - begun < 1.9, "the training waited for the server"

    def tells() -> bool:
        tracker.log({})
        return "is tried on" in caplog.text

    if kind != "silent":
        wait_until(tells)
    begun = time.monotonic()
    tracker.finish("completed")
    assert time.monotonic() - begun < 6.0
    assert caplog.text.count("is tried on") <= 1
    last = caplog.records[-1]
    assert last.levelno == logging.WARNING
    assert f"python scripts/sync_mlflow.py {run.folder}" in last.getMessage()
    assert "Nothing is lost" in last.getMessage()
    assert tracker.run_id is None


def test_what_a_server_missed_is_sent_later(run, server, capsys):
    """Down at first, then up, killed in mid-run, and up again: in the end every step stands once."""
    server.kill()
    tracker = track(run, server.uri, timeout_s=1.0)
    tracker.start(INFO)
    run.train(1, 2)
    run.artifact("best.pt", "weights")
    tracker.log({})
    tracker.finish("interrupted")
    assert sync([str(run.folder)]) == 1
    assert "not delivered" in capsys.readouterr().out
    server.start()
    assert sync([str(run.folder.parent)]) == 0
    client = MlflowClient(server.uri)
    resumed = track(run, server.uri, timeout_s=1.0)
    run_id = resumed.run_id
    assert train_steps(server.uri, run_id) == [1, 2]
    assert client.get_run(run_id).info.status == "KILLED"

    resumed.start(INFO)
    run.train(3)
    resumed.log({})
    wait_until(lambda: train_steps(server.uri, run_id) == [1, 2, 3])
    server.kill()
    run.train(4, 5)
    run.evaluate(5, miou=0.5)
    resumed.log({})
    resumed.finish("completed")
    server.start()
    assert sync([str(run.folder)]) == 0
    assert train_steps(server.uri, run_id) == [1, 2, 3, 4, 5]
    found = client.get_run(run_id)
    assert found.info.status == "FINISHED"
    assert found.data.metrics["val/miou"] == 0.5
    assert {file.path for file in client.list_artifacts(run_id)} == {"best.pt", "config"}
    assert len(client.search_runs([found.info.experiment_id])) == 1


SCRIPT = """
import sys, time
from pathlib import Path
from segkit.contracts import RunInfo
from segkit.tracking.follower_process import follower
from segkit.tracking.mlflow.tracker import MlflowTracker

tracker = MlflowTracker(Path(sys.argv[1]), uri=sys.argv[2], every_s=0.1, timeout_s=0.5)
tracker.start(RunInfo("a run", {}, {}))
tracker.log({})
print(follower().pid)
time.sleep(float(sys.argv[3]))
tracker.finish("completed")
assert "mlflow" not in sys.modules
print(time.time())
"""


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_mlflow_stays_out_of_the_process_and_its_own_ends_with_it(run, silent: str):
    command = [sys.executable, "-c", SCRIPT, str(run.folder), silent, "1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    pid, ended = result.stdout.split()
    assert time.time() - float(ended) < 5.0
    assert not is_alive(int(pid))


def test_a_follower_that_is_killed_is_replaced(run, store: str, caplog):
    tracker = track(run, store)
    tracker.start(INFO)
    run.train(1)
    wait_until(lambda: tracker.run_id is not None)
    os.kill(follower().pid, signal.SIGKILL)
    wait_until(lambda: follower().pid is None)
    run.train(2)
    tracker.finish("completed")
    assert train_steps(store, tracker.run_id) == [1, 2]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_one_follower_serves_all_runs_until_there_is_a_password_that_it_does_not_know(
    make_run, store: str, monkeypatch: pytest.MonkeyPatch
):
    runs = [make_run(name) for name in ("first", "second", "third")]
    trackers = [track(run, store) for run in runs]
    pids = []
    for run, tracker in zip(runs, trackers, strict=True):
        if run is runs[-1]:
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "somebody")
        tracker.start(INFO)
        run.train(1)
        pids.append(follower().pid)
    assert pids[0] == pids[1] != pids[2]
    wait_until(lambda: all(tracker.run_id for tracker in trackers))
    for run, tracker in zip(runs, trackers, strict=True):
        run.train(2)
        tracker.finish("completed")
        assert train_steps(store, tracker.run_id) == [1, 2]
        assert MlflowClient(store).get_run(tracker.run_id).info.status == "FINISHED"
    wait_until(lambda: not is_alive(pids[0]))  # its runs are over
    assert follower().pid == pids[2]
    follower().stop()
    assert not is_alive(pids[2])


def test_a_failure_of_before_a_resume_is_not_told_again(run, absent: str, caplog: pytest.LogCaptureFixture):
    for _ in range(2):
        tracker = track(run, absent, timeout_s=20.0)
        caplog.clear()
        tracker.start(INFO)
        tracker.log({})
        assert not caplog.messages
        tracker.finish("failed")
        assert "Connection refused" in caplog.text, "given up, before the longest wait was over"


def test_a_process_that_is_killed_leaves_a_killed_run_and_nothing_else(run, store: str):
    command = [sys.executable, "-c", SCRIPT, str(run.folder), store, "600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        pid = int(process.stdout.readline())
        tracker = track(run, store)
        wait_until(lambda: tracker.run_id is not None)
        run.train(1, 2, 3)
        process.kill()
    wait_until(lambda: not is_alive(pid))
    assert MlflowClient(store).get_run(tracker.run_id).info.status == "KILLED"
    assert train_steps(store, tracker.run_id) == [1, 2, 3]
    assert load_record(run.folder).status == "running", "which is for the next run in this folder to say"


def test_a_run_folder_that_cannot_be_written_does_not_stop_the_run(tmp_path: Path, caplog):
    tracker = guarded(MlflowTracker(tmp_path / "missing", uri="http://127.0.0.1:1", timeout_s=0.1))
    tracker.start(INFO)
    tracker.log({})
    tracker.finish("completed")
    assert "the run goes on without its tracker MlflowTracker" in caplog.text


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "mlruns", "./mlruns", "/tmp/mlruns", "", "ftp://x"])
def test_stores_that_mlflow_3_refuses_are_refused_at_once(tmp_path: Path, uri: str):
    with pytest.raises(UserError, match=r"tracker\.uri="):
        MlflowTracker(tmp_path, uri=uri)


def test_stores_that_say_too_little_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="names no file"):
        MlflowTracker(tmp_path, uri="sqlite:///:memory:")
    with pytest.raises(UserError, match="artifact_location"):
        MlflowTracker(tmp_path, uri="postgresql://db/mlflow")
    with pytest.raises(UserError, match="every_s=0"):
        MlflowTracker(tmp_path, uri="http://x", every_s=0)


def test_a_relative_store_stays_where_it_is_when_the_folder_changes(run, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tracker = MlflowTracker(run.folder, uri="sqlite:///my outputs/mlflow.db", timeout_s=120)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    tracker.start(INFO)
    tracker.finish("completed")
    assert (tmp_path / "my outputs" / "mlflow.db").exists()
    assert (tmp_path / "my outputs" / "mlflow-artifacts" / tracker.run_id / "artifacts" / "config").is_dir()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_the_null_tracker_writes_nothing(tmp_path: Path):
    tracker = NullTracker(tmp_path)
    tracker.start(INFO)
    tracker.log({})
    tracker.finish("completed")
    assert tracker.run_id is None
    assert list(tmp_path.iterdir()) == []
