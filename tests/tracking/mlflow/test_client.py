"""What is said of a store that cannot be used."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from requests.exceptions import ConnectionError as RequestsConnectionError
from sqlalchemy import create_engine
from urllib3.exceptions import MaxRetryError, ProtocolError

from segkit.sweep import storage
from segkit.tracking.mlflow import client
from segkit.tracking.mlflow.client import reason, sqlite_file


def test_the_innermost_of_disk_and_network_is_told():
    error = MlflowException("API request failed with exception ...")
    reset = ConnectionResetError("reset by peer")
    error.__cause__ = RequestsConnectionError(MaxRetryError(None, "/", ProtocolError("Connection aborted.", reset)))  # pyright: ignore
    assert reason(error) == "reset by peer"


def test_what_mlflow_itself_says_is_told_by_its_first_line():
    error = MlflowException("no such experiment\nat all")
    error.__context__, error.__suppress_context__ = FileNotFoundError("a detail of the library"), True
    assert reason(error) == "no such experiment"
    assert reason(ValueError()) == "ValueError"
    assert reason(MlflowException(message=sqlite3.OperationalError("database is locked"))) == "database is locked"
    assert len(reason(ValueError("x" * 1000))) == 300


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:////tmp/a b.db", "/tmp/a b.db"),
        ("sqlite+pysqlite:///a.db?mode=rw", "a.db"),
        ("http://localhost:5000", None),
    ],
)
def test_the_file_of_a_store(uri: str, file: str | None):
    found = sqlite_file(uri)
    assert (None if found is None else str(found)) == file


@pytest.mark.parametrize("name", ["a%20b", "q?c", "h#d e", "ü,[x]=y"])
def test_sqlalchemy_opens_the_file_of_the_very_name(tmp_path: Path, name: str):
    file = tmp_path / name / "store.db"
    file.parent.mkdir()
    assert client.sqlite_file(f"sqlite:///{file}?timeout=3") == file
    for for_sqlalchemy in (client._for_sqlalchemy, storage._for_sqlalchemy):  # pyright: ignore[reportPrivateUsage]
        engine = create_engine(for_sqlalchemy(f"sqlite:///{file}"))
        engine.connect().close()
        engine.dispose()
        assert file.exists()
        file.unlink()
