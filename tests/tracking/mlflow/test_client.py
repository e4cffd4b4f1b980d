"""What is said of a store that cannot be used."""

from __future__ import annotations

import sqlite3

from mlflow.exceptions import MlflowException
from requests.exceptions import ConnectionError as RequestsConnectionError
from urllib3.exceptions import MaxRetryError, ProtocolError

from segkit.tracking.mlflow.client import reason


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
