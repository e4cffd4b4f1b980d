"""The real training command against MLflow stores that fail in every way: nothing of the training changes.

One multirun has a job for each fault. Afterwards the stores are mended, and one call of `sync_mlflow.py` has to
bring all of them to MLflow.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

from segkit.cli.sync_mlflow import main as sync
from segkit.run.record import load_progress
from segkit.tracking.mlflow.delivery import deliver
from tests.conftest import losses, run, summary
from tests.faults.conftest import Ended, Starter
from tests.faults.unreliable_server import UnreliableServer
from tests.tracking.conftest import FakeRun, MlflowServer

TIMEOUT_S = 8.0
SLACK_S = 12.0
"""Beside the tracker: figures, and whatever else the machine is doing."""

IMPATIENT = f"tracker.timeout_s={TIMEOUT_S}"


@dataclass
class Fault:
    """A store at `uri`; what the user is told of it; and how it is mended."""

    uri: str
    told: str
    mend: Callable[[], object] = lambda: None


@dataclass
class Faulty:
    """What came of the runs, one a fault."""

    faults: dict[str, Fault]
    folders: dict[str, Path]
    done: Ended
    reference: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def unreliable(server: MlflowServer) -> Iterator[UnreliableServer]:
    with UnreliableServer(server.uri) as unreliable:
        yield unreliable
        unreliable.shutdown()


def mounted(folder: Path, options: str) -> bool:
    folder.mkdir()
    return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=False).returncode == 0


@pytest.fixture(scope="module")
def file_faults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Fault]]:
    """SQLite files that cannot be used."""
    folder = tmp_path_factory.mktemp("stores")
    whole = folder / "whole.db"
    fake = FakeRun(folder / "fake")
    fake.begin(f"sqlite:///{whole}")
    deliver(fake.folder)
    files = {name: folder / f"{name}.db" for name in ("locked", "corrupt", "newer")}
    for file in files.values():
        shutil.copy(whole, file)
    locked = sqlite3.connect(files["locked"], isolation_level=None)
    locked.execute("BEGIN EXCLUSIVE")
    files["corrupt"].write_bytes(b"no database" * 1000)
    with contextlib.closing(sqlite3.connect(files["newer"])) as newer, newer:
        newer.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    faults = {
        "locked": Fault(f"sqlite:///{files['locked']}", "database is locked", locked.close),
        "corrupt": Fault(f"sqlite:///{files['corrupt']}", "file is not a database", files["corrupt"].unlink),
        "newer": Fault(
            f"sqlite:///{files['newer']}", "out-of-date database schema", lambda: shutil.copy(whole, files["newer"])
        ),
    }
    full, readonly = folder / "full", folder / "readonly"

    def remount(place: Path, options: str) -> Callable[[], object]:
        return lambda: subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)

    # Room for the database, and for a part of the files.
    if mounted(full, "size=1600k"):
        faults["full"] = Fault(f"sqlite:///{full}/mlflow.db", "No space left on device", remount(full, "size=64m"))
    if mounted(readonly, "ro"):
        faults["readonly"] = Fault(
            f"sqlite:///{readonly}/mlflow.db", "Read-only file system", remount(readonly, "rw,size=64m")
        )
    yield faults
    locked.close()
    for place in (full, readonly):
        if place.is_mount():
            subprocess.run(["umount", "-l", place], check=True)  # clients of this process have it open


@pytest.fixture(scope="module")
def faulty(
    starter: Starter,
    file_faults: dict[str, Fault],
    unreliable: UnreliableServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Faulty:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    in_time = f"within {TIMEOUT_S:g} s"
    faults = {
        # First, while MLflow may not be imported yet.
        "silent": Fault(unreliable.uri("silent"), in_time),
        "drips": Fault(unreliable.uri("drips"), in_time),
        "slow": Fault(unreliable.uri("slow"), in_time),
        "refused": Fault(
            f"http://127.0.0.1:{port}/refused",
            "Connection refused",
            lambda: UnreliableServer(unreliable.real, port=port, healed=True),
        ),
        "error500": Fault(unreliable.uri("error500"), "500"),
        "error401": Fault(unreliable.uri("error401"), "401"),
        "error429": Fault(unreliable.uri("error429"), "429"),
        "html": Fault(unreliable.uri("html"), ""),
        "vanishes": Fault(unreliable.uri("vanishes"), "Remote end closed connection without response"),
        "forgetful": Fault(unreliable.uri("forgetful"), ""),
        **file_faults,
    }
    folder = tmp_path_factory.mktemp("faulty")
    training = starter.start(
        folder / "multirun",
        "hydra.mode=MULTIRUN",
        "tracker=mlflow",
        IMPATIENT,
        f"tracker.uri={','.join(fault.uri for fault in faults.values())}",
        f"hydra.sweep.dir={folder}/runs",
        "hydra.sweep.subdir=${hydra.job.num}",
    )
    done = training.wait(600)
    reference = folder / "reference"
    assert starter.train(reference).returncode == 0
    return Faulty(faults, {name: folder / "runs" / str(i) for i, name in enumerate(faults)}, done, reference)


@pytest.fixture(scope="module")
def synced(faulty: Faulty, unreliable: UnreliableServer) -> Faulty:
    """The same after the stores have been mended and sync_mlflow.py was called once."""
    unreliable.healed = True
    for fault in faulty.faults.values():
        fault.mend()
    done = run(
        str(faulty.reference.parent), cwd=faulty.reference.parent, script="scripts/sync_mlflow.py", COLUMNS="300"
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(" delivered ") == len(faulty.faults) - 1, done.stdout
    return faulty


def test_no_fault_costs_a_run_or_changes_its_losses(faulty: Faulty):
    assert faulty.done.returncode == 0, faulty.done.stderr
    assert "Traceback" not in faulty.done.stdout + faulty.done.stderr
    expected = losses(faulty.reference)
    assert len(expected) == 6
    for name, folder in faulty.folders.items():
        assert losses(folder) == expected, name
        assert summary(folder)["status"] == "completed", name


def test_no_fault_holds_a_run_up_beyond_its_bound(faulty: Faulty):
    for name, folder in faulty.folders.items():
        last_line = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
        delay = (folder / "summary.json").stat().st_mtime - last_line["time"]
        assert delay < TIMEOUT_S + SLACK_S, name


def test_the_user_is_told_once_what_is_wrong_and_what_to_do(faulty: Faulty):
    for name, folder in faulty.folders.items():
        lines = (folder / "train.log").read_text().splitlines()
        told = [line for line in lines if "MLflow" in line]
        if name == "forgetful":  # found again, the run needs no help
            assert told == []
            continue
        assert len(told) == 1, (name, told)
        assert f"python scripts/sync_mlflow.py {folder}" in told[0], name
        assert faulty.faults[name].told in told[0], (name, told)


def test_what_is_mended_gets_everything_once(synced: Faulty):
    for name, folder in synced.folders.items():
        fault, run_id = synced.faults[name], load_progress(folder).run_id
        client = MlflowClient(fault.uri)
        found = client.get_run(run_id)
        assert found.info.status == "FINISHED", name
        assert found.data.tags["segkit.status"] == "completed", name
        history = client.get_metric_history(run_id, "train/loss")
        assert {metric.step: metric.value for metric in history} == losses(folder), name
        assert len(history) == 6, name
        assert len(client.get_metric_history(run_id, "val/miou")) == 1, name
        files = {file.path for file in client.list_artifacts(run_id)}
        assert files == {"checkpoints", "config", "figures", "run"}, name
        assert [file.path for file in client.list_artifacts(run_id, "checkpoints")] == ["checkpoints/best.pt"], name
        own = client.search_runs([found.info.experiment_id], f"tags.`segkit.run_folder` = '{folder}'")
        assert [run.info.run_id for run in own] == [run_id], f"{name}: more than one run of one folder"


def wait_for(condition: Callable[[], object], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def followers_of(pid: int) -> list[int]:
    """The processes that deliver for the process `pid`, also after it has gone."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = entry.read_bytes().split(b"\0")
            if any(b"tracking.follow import" in word for word in words) and str(pid).encode() in words:
                found.append(int(entry.parent.name))
    return found


LONG = ("tracker=mlflow", "trainer.max_epochs=1000", "trainer.evaluate.every_epochs=null", "tracker.every_s=0.2")


def test_signals_and_kills_while_the_server_is_dead(starter: Starter, unreliable: UnreliableServer, tmp_path: Path):
    """SIGTERM leaves with 143 well within 30 s, a second Ctrl-C at once; after SIGKILL the end is known later."""
    unreliable.healed = False
    silent = f"tracker.uri={unreliable.uri('silent')}"
    runs = {
        name: starter.start(tmp_path / name, *LONG, silent, output=tmp_path / "output")
        for name in ("terminated", "interrupted", "killed")
    }
    for name, training in runs.items():
        training.wait_for_step(3)
        assert len(followers_of(training.pid)) == 1, name
    terminated, interrupted, killed = runs.values()
    killed.send(signal.SIGKILL)
    assert killed.wait().returncode == -signal.SIGKILL
    begun = time.monotonic()
    terminated.send(signal.SIGTERM)
    assert terminated.wait(60).returncode == 143
    assert time.monotonic() - begun < 25
    assert not followers_of(terminated.pid)
    assert f"python scripts/sync_mlflow.py {terminated.folder}" in (terminated.folder / "train.log").read_text()
    interrupted.send(signal.SIGINT)
    interrupted.wait_for('"status": "interrupted"', "run_info.json")
    begun = time.monotonic()
    interrupted.send(signal.SIGINT)
    assert interrupted.wait(60).returncode == 130
    assert time.monotonic() - begun < 5
    wait_for(lambda: not any(followers_of(training.pid) for training in runs.values()))
    unreliable.healed = True
    assert sync([str(tmp_path)]) == 0
    client = MlflowClient(unreliable.uri("silent"))
    for name, training in runs.items():
        run_id = load_progress(training.folder).run_id
        assert client.get_run(run_id).info.status == "KILLED", name
        steps = Counter(metric.step for metric in client.get_metric_history(run_id, "train/loss"))
        assert steps == Counter(list(losses(training.folder))), f"{name}: every step once"


@pytest.mark.slow
def test_a_server_killed_in_mid_run_gets_the_rest_when_it_is_back(
    starter: Starter, server: MlflowServer, tmp_path: Path
):
    patient = ("tracker.timeout_s=120", f"tracker.uri={server.uri}")
    training = starter.start(tmp_path / "run", *LONG, "trainer.max_epochs=100", *patient)
    folder = training.folder

    def arrived() -> int:
        progress = load_progress(folder)
        return 0 if progress is None else progress.last_step.get("train", 0)

    wait_for(arrived)
    server.kill()
    known = arrived()
    training.wait_for_step(known + 20)
    assert arrived() <= known + 20
    training.send(signal.SIGSTOP)  # it must not be over before the server is there again, which takes its time
    server.start()
    training.send(signal.SIGCONT)
    ended = training.wait(240)
    assert ended.returncode == 0, ended.stderr
    run_id = summary(folder)["mlflow_run_id"]
    client = MlflowClient(server.uri)
    assert client.get_run(run_id).info.status == "FINISHED"
    history = client.get_metric_history(run_id, "train/loss")
    assert {metric.step: metric.value for metric in history} == losses(folder)
    assert len(history) == len(losses(folder)) == 600
    assert "sync_mlflow" not in ended.stdout


@pytest.mark.slow
def test_eight_runs_open_a_fresh_store_in_the_same_second(starter: Starter, tmp_path: Path):
    store = f"sqlite:///{tmp_path}/fresh/mlflow.db"
    arguments = ("tracker=mlflow", f"tracker.uri={store}", "tracker.timeout_s=300")
    runs = [starter.start(tmp_path / f"run{n}", *arguments, f"seed={n}", output=tmp_path / f"{n}") for n in range(8)]
    for training in runs:
        ended = training.wait(400)
        assert (ended.returncode, ended.stderr) == (0, "")
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("segkit")
    found = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in found] == ["FINISHED"] * 8
    for training in runs:
        history = client.get_metric_history(load_progress(training.folder).run_id, "train/loss")
        assert {metric.step: metric.value for metric in history} == losses(training.folder)
        assert len(history) == 6


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["seeds", "sweep"])
def test_many_runs_with_a_silent_server_end_in_time(
    starter: Starter, unreliable: UnreliableServer, tmp_path: Path, kind: str
):
    """The run that sums up is bounded as well, and asks MLflow nothing for its links."""
    unreliable.healed = False
    many = ["seed=0,1"] if kind == "seeds" else ["hydra/sweeper=segkit", "hydra/sweeper/sampler=grid", "loss=ce,dice"]
    silent = f"tracker.uri={unreliable.uri('silent')}"
    training = starter.start(tmp_path / "run", "hydra.mode=MULTIRUN", *many, "tracker=mlflow", silent, IMPATIENT)
    ended = training.wait(200)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    assert ended.stdout.count("python scripts/sync_mlflow.py") == 3, ended.stdout
    unreliable.healed = True
    assert sync([str(tmp_path)]) == 0
