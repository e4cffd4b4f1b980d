import fcntl
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from segkit.cli import sync_mlflow
from segkit.cli.sync_mlflow import main
from segkit.run.record import load_progress, load_record
from tests.tracking.conftest import wait_until

LAUNCHER = Path(__file__).parents[2] / "scripts" / "sync_mlflow.py"


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


def test_a_killed_run_is_sent_and_ended(run, store: str, capsys):
    run.begin(store)
    run.train(1, 2)
    assert main([str(run.folder.parent)]) == 0
    progress = load_progress(run.folder)
    assert MlflowClient(store).get_run(progress.run_id).info.status == "KILLED"
    assert progress.run_id in capsys.readouterr().out
    assert main([str(run.folder)]) == 0
    assert "complete" in capsys.readouterr().out


def test_a_live_run_is_left_alone(run, store: str, capsys):
    run.begin(store)
    before = (run.folder / "run_info.json").read_text()
    with (run.folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main([str(run.folder)]) == 0
    assert "running" in capsys.readouterr().out
    assert (run.folder / "run_info.json").read_text() == before
    assert load_progress(run.folder) is None


def test_one_bad_folder_does_not_stop_the_others(make_run, store: str, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(sync_mlflow, "ATTEMPTS", 1)
    torn, unreachable, good = (make_run(name) for name in ("1torn", "2unreachable", "3good"))
    torn.begin(store)
    (torn.folder / "run_info.json").write_text('{"name')
    unreachable.begin("http://127.0.0.1:1")
    good.begin(store)
    assert main([str(tmp_path)]) == 1
    output = capsys.readouterr().out
    assert "run_info.json cannot be read" in output
    assert "http://127.0.0.1:1" in output
    assert load_progress(good.folder).run_id in output


def test_a_silent_store_is_waited_for_once_not_once_a_folder(make_run, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(sync_mlflow, "ATTEMPTS", 1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for number in range(5):
            make_run(f"run{number}").begin(f"http://127.0.0.1:{silent.getsockname()[1]}")
        begun = time.monotonic()
        assert main([str(tmp_path)]) == 1
        assert time.monotonic() - begun < 8
    assert capsys.readouterr().out.count("timed out") == 5


def test_wrong_input_and_nothing_to_do(tmp_path: Path, capsys):
    assert main([str(tmp_path / "missing")]) == 2
    assert f"no such folder: {tmp_path / 'missing'}" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 0
    assert "no runs recorded" in capsys.readouterr().out


def test_the_launcher_answers_without_mlflow_or_torch():
    code = (
        "import runpy, sys\n"
        "sys.argv = ['sync_mlflow.py', '--help']\n"
        f"try: runpy.run_path({str(LAUNCHER)!r}, run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'mlflow', 'torch', 'rich'} & set(sys.modules)"
    )
    help_text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "Exit code: 0 everything delivered" in help_text


def test_a_live_run_is_followed_until_it_is_over(run, store: str, capsys):
    run.begin(store, every_s=0.1)
    run.train(1)
    with (run.folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        following = threading.Thread(target=main, args=(["--follow", str(run.folder)],))
        following.start()
        wait_until(lambda: (progress := load_progress(run.folder)) and progress.last_step == {"train": 1})
        run.train(2)
        wait_until(lambda: load_progress(run.folder).last_step == {"train": 2})
        assert following.is_alive()
    following.join(60)
    assert not following.is_alive()
    assert "complete" in capsys.readouterr().out
    progress = load_progress(run.folder)
    assert MlflowClient(store).get_run(progress.run_id).info.status == "KILLED"
    assert load_record(run.folder).status == "killed"
