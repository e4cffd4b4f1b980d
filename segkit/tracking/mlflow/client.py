"""The store that MLflow keeps runs in: how it is opened, and what is said when it is not."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import filelock

from segkit.config.credentials import REFUSED, connectable, how_to_give, masked
from segkit.config.sqlite_urls import for_sqlalchemy, sqlite_file
from segkit.run.record import Destination

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOCKED_DATABASE_S = 3.0
"""How long a locked SQLite file is waited for."""

ENVIRONMENT = {
    # Delivery has its own retries; MLflow's default is to try one call for four minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Defaults for MLflow's own settings; what the user has set in the environment stands."""


@functools.cache
def connect(destination: Destination) -> tuple[MlflowClient, str]:
    """A client of the store and the id of the experiment; both are made if need be.

    Raises whatever MLflow, SQLAlchemy or the file system raise when it cannot be opened.
    """
    make_client = import_mlflow()
    with _store_lock(destination):
        _probe(destination)
        client = make_client(tracking_uri=for_sqlalchemy(connectable(destination.uri, "tracker.uri")))
        experiment = client.get_experiment_by_name(destination.experiment)
        if experiment is not None:
            return client, experiment.experiment_id
        return client, client.create_experiment(destination.experiment, destination.artifact_location)


def import_mlflow() -> type[MlflowClient]:
    """The class of MLflow's clients, once MLflow is imported, which takes seconds."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):  # they announce every table of a fresh store
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient


def _probe(destination: Destination) -> None:
    """Raise sqlite3.Error for a file that is locked or no database: MLflow would try it for two minutes."""
    file = sqlite_file(destination.uri)
    if file is None or not file.exists():
        return
    with contextlib.closing(sqlite3.connect(file, timeout=LOCKED_DATABASE_S)) as database:
        database.execute("SELECT count(*) FROM sqlite_master")


def _store_lock(destination: Destination) -> AbstractContextManager[object]:
    """Keeps processes that open a fresh SQLite store at once out of each other's schema migration."""
    file = sqlite_file(destination.uri)
    if file is None:
        return nullcontext()
    file.parent.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(file.with_name(f".{file.name}.lock"))


def reason(error: BaseException, uri: str = "") -> str:
    """What is wrong, in a line: of what the network or the disk raised the innermost, which says it in few words.

    What to do is added where the store at `uri` wants a password.
    """
    told = error
    for inner in _chain(error):
        if str(inner) and (isinstance(inner, OSError | sqlite3.Error) or type(inner).__module__.startswith("urllib3")):
            told = inner
    lines = masked(str(told)).strip().splitlines()
    text = lines[0][:300] if lines else type(told).__name__
    return f"{text}; {how_to_give(uri)}" if re.search(REFUSED, text) else text


def _chain(error: BaseException) -> Iterator[BaseException]:
    """`error` and what it came from; urllib3 names that among the arguments of its own, where others chain."""
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in seen:
        yield found
        seen.append(found)
        context = None if found.__suppress_context__ else found.__context__
        candidates = (*found.args, getattr(found, "reason", None), found.__cause__, context)
        found = next((inner for inner in candidates if isinstance(inner, BaseException)), None)
