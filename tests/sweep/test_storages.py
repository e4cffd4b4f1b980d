"""Other storages and launchers: a real PostgreSQL, a journal, submitit's local executor."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from segkit.sweep.storage import open_storage
from tests.sweep.conftest import Sweeps

SEARCH = "x=interval(0,1)"


def postgres_binaries() -> Path | None:
    found = [Path(path).resolve().parent for path in (shutil.which("initdb"), shutil.which("pg_ctl")) if path]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in found if (folder / "initdb").exists() and (folder / "postgres").exists()), None)


@pytest.fixture
def postgres() -> Iterator[str]:
    """The URL of a fresh PostgreSQL server on loopback."""
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server is installed")
    # Not below pytest's own folder, which other users may not enter: the server refuses to run as root.
    folder = Path(tempfile.mkdtemp(prefix="segkit-postgres-"))
    user = "postgres" if os.getuid() == 0 else None
    if user is not None:
        try:
            shutil.chown(folder, user)
        except LookupError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run = {"check": True, "capture_output": True, "user": user, "cwd": "/"}
    data = folder / "data"
    subprocess.run([binaries / "initdb", "-D", data, "-U", "segkit", "--auth=trust", "--no-sync"], **run)
    server = subprocess.Popen(
        [binaries / "postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", folder, "-F"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=user,
        cwd="/",
    )
    url = f"postgresql+psycopg2://segkit@127.0.0.1:{port}/postgres"
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        time.sleep(0.5)
        yield url
    finally:
        server.send_signal(signal.SIGINT)  # at once, whoever is still connected
        server.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


def test_two_processes_share_a_study_on_postgresql_and_a_killed_one_is_made_up_for(sweeps: Sweeps, postgres: str):
    pytest.importorskip("psycopg2")
    command = [SEARCH, f"hydra.sweeper.storage='{postgres}'", "hydra.sweeper.n_trials=6", "seconds=0.3"]
    one, other = sweeps.start(*command), sweeps.start(*command)
    sweeps.wait_for(lambda: len({note["pid"] for note in sweeps.notes("begins")}) == 2, one)
    other.kill()
    other.communicate()
    _, err = one.communicate(timeout=240)
    assert one.returncode == 0, err
    study = optuna.load_study(study_name="s", storage=postgres)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 6
    assert set(Counter(note["folder"] for note in sweeps.notes("ends"))) == {str(number) for number in range(6)}


def test_a_journal_serves_as_storage(sweeps: Sweeps):
    command = [SEARCH, f"hydra.sweeper.storage=journal:///{sweeps.folder}/journal.log", "seconds=0.2"]
    processes = [sweeps.start(*command, "hydra.sweeper.n_trials=5") for _ in range(2)]
    assert all(process.wait(timeout=240) == 0 for process in processes)
    open_storage.cache_clear()
    study = optuna.load_study(study_name="s", storage=open_storage(f"journal:///{sweeps.folder}/journal.log"))
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 5


def test_submitit_runs_each_trial_as_a_job_of_its_own(sweeps: Sweeps):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    ended = sweeps.run(SEARCH, "hydra/launcher=submitit_local", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2")
    assert ended.returncode == 0, ended.stderr
    assert sweeps.states() == {TrialState.COMPLETE: 3}
    assert len({note["pid"] for note in sweeps.notes()}) == 3


def test_a_password_in_the_storage_opens_it_and_is_written_nowhere(sweeps: Sweeps, postgres: str):
    pytest.importorskip("psycopg2")
    storage = postgres.replace("segkit@", "segkit:storageX4@")
    launcher = ["hydra/launcher=submitit_local", "hydra.sweeper.n_jobs=2"]  # it pickles what it is given into files
    ended = sweeps.run(SEARCH, f"hydra.sweeper.storage='{storage}'", "hydra.sweeper.n_trials=2", *launcher)
    assert ended.returncode == 0, ended.stderr
    study = optuna.load_study(study_name="s", storage=postgres)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2
    files = [path for path in sweeps.folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".pkl" for path in files)
    assert not [path for path in files if b"storageX4" in path.read_bytes()]
