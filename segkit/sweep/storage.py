"""Where studies are kept, and the lock under which processes share one out.

A study is data: nothing in it can run code.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import pickle
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql import text

from segkit.config.credentials import REFUSED, connectable, how_to_give, masked
from segkit.config.sqlite_urls import for_sqlalchemy, sqlite_file
from segkit.errors import UserError

SQLITE_TIMEOUT_S = 120.0
"""How long a process waits for others to finish writing: many more than ever write at once."""

PATIENCE_S = 600.0
"""Longest wait for the lock of a study, which is held while one trial is sampled."""

CMAES_PARTS = {
    ("cmaes._cma", "CMA"),
    ("cmaes._cmawm", "CMAwM"),
    ("cmaes._sepcma", "SepCMA"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
}
"""All that a CMA-ES optimizer consists of; Optuna keeps it in the study as a pickle."""


class _CmaesUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in CMAES_PARTS:
            return super().find_class(module, name)
        raise UserError(f"hydra.sweeper.storage: the study holds a pickle of {module}.{name}, which is refused")


def refuse_code_in_studies() -> None:
    """Make Optuna's one use of pickle for what studies hold read CMA-ES optimizers and nothing else."""
    from optuna.samplers import _cmaes

    # Optuna gives no other way in.
    _cmaes.pickle = types.SimpleNamespace(  # pyright: ignore
        dumps=pickle.dumps, loads=lambda content: _CmaesUnpickler(io.BytesIO(content)).load()
    )


@functools.cache
def open_storage(url: str) -> BaseStorage:
    """The storage at `url`, made if it is a file that does not exist; one a process.

    `sqlite:///path`, which several processes of one machine share; `postgresql://...` or `mysql://...`, for many
    machines; `journal:///path`, a file for machines that share a folder over NFS. A password may be masked, see
    `credentials`. Raises UserError.
    """
    shown, url = masked(url), connectable(url, "hydra.sweeper.storage")
    refuse_code_in_studies()
    scheme, _, rest = url.partition("://")
    path = sqlite_file(url) or Path(rest.removeprefix("/"))
    try:
        if scheme == "journal":
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = JournalFileOpenLock(str(path))
            return JournalStorage(JournalFileBackend(str(path), lock))
        dialect = scheme.partition("+")[0]
        if dialect in DATABASE_LOCKS:
            # Processes that find no tables would all make them.
            engine = create_engine(url)
            with _held_in_database(engine, dialect, "segkit sweeps"):
                storage = optuna.storages.get_storage(url)
            engine.dispose()
            return storage
        if dialect != "sqlite":
            return optuna.storages.get_storage(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_name(f".{path.name}.lock")):
            if not path.exists():
                _make_sqlite(url, path)
            sqlite = RDBStorage(for_sqlalchemy(url), engine_kwargs={"connect_args": {"timeout": SQLITE_TIMEOUT_S}})
            return optuna.storages.get_storage(sqlite)
    except (StorageInternalError, SQLAlchemyError, ImportError, ValueError, RuntimeError, OSError) as error:
        reason = masked(str(error)).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if re.search(REFUSED, str(error)):
            reason += f"; {how_to_give(shown)}"
        raise UserError(
            f"hydra.sweeper.storage={shown}: cannot be opened ({reason}); allowed: "
            "sqlite:///path/to/sweeps.db, postgresql://user@host/name (pip install 'segkit[postgresql]'), "
            "mysql://..., journal:///path/on/a/shared/folder"
        ) from None


def _make_sqlite(url: str, path: Path) -> None:
    """Make a store aside and move it in place: killed in between, a store with half its tables opens no more."""
    fresh = path.with_name(f".{path.name}.fresh")
    fresh.unlink(missing_ok=True)
    made = RDBStorage(for_sqlalchemy(url.replace(str(path), str(fresh))))
    made.engine.dispose()
    fresh.replace(path)


@contextlib.contextmanager
def study_lock(storage: BaseStorage, url: str, study_name: str) -> Iterator[None]:
    """Held by one process at a time, on whichever machine, and let go by the system when that process dies.

    A file beside a storage that is a file; the database's own lock for PostgreSQL and MySQL. Other storages have
    none: there two processes that ask in the same instant may start one trial more than `n_trials`.
    """
    scheme, _, rest = url.partition("://")
    backend: Any = getattr(storage, "_backend", storage)
    dialect = scheme.partition("+")[0]
    if dialect in ("sqlite", "journal"):
        file = sqlite_file(url) or Path(rest.removeprefix("/"))
        digest = hashlib.sha256(study_name.encode()).hexdigest()[:16]
        with filelock.FileLock(file.with_name(f".{file.name}.{digest}.lock"), timeout=PATIENCE_S):
            yield
    elif dialect in DATABASE_LOCKS and isinstance(backend, RDBStorage):
        with _held_in_database(backend.engine, dialect, study_name):
            yield
    else:
        yield


DATABASE_LOCKS = {
    "postgresql": ("SELECT pg_advisory_lock(:key)", "SELECT pg_advisory_unlock(:key)"),
    "mysql": (f"SELECT GET_LOCK(:key, {PATIENCE_S:g})", "SELECT RELEASE_LOCK(:key)"),
}
"""How a session of each database takes and leaves a lock of that name; it leaves all of them when it ends."""


@contextlib.contextmanager
def _held_in_database(engine: Engine, dialect: str, name: str) -> Iterator[None]:
    take, leave = DATABASE_LOCKS[dialect]
    digest = hashlib.sha256(name.encode()).hexdigest()
    # PostgreSQL names a lock by one signed 64-bit number, MySQL by up to 64 characters.
    key: Any = int(digest[:16], 16) - 2**63 if dialect == "postgresql" else f"segkit-{digest[:32]}"
    with engine.connect() as connection:
        connection.execute(text(take), {"key": key})
        try:
            yield
        finally:
            connection.execute(text(leave), {"key": key})
