"""SQLite URLs whose paths hold what SQLAlchemy takes for its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import create_engine

from segkit.config.sqlite_urls import for_sqlalchemy, sqlite_file


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:////tmp/a b.db", "/tmp/a b.db"),
        ("sqlite+pysqlite:///a.db?mode=rw", "a.db"),
        ("sqlite:///a?b=c/a.db?mode=rw&timeout=3", "a?b=c/a.db"),
        ("http://localhost:5000", None),
    ],
)
def test_the_file_of_a_store(uri: str, file: str | None):
    found = sqlite_file(uri)
    assert (None if found is None else str(found)) == file


@pytest.mark.parametrize("name", ["a%20b", "q?c", "h#d e", "ü,[x]=y", "u?a=b", "o%20u?t=#2&v=1"])
def test_sqlalchemy_opens_the_file_of_the_very_name(tmp_path: Path, name: str):
    file = tmp_path / name / "store.db"
    file.parent.mkdir()
    assert sqlite_file(f"sqlite:///{file}?timeout=3") == file
    engine = create_engine(for_sqlalchemy(f"sqlite:///{file}"))
    engine.connect().close()
    engine.dispose()
    assert file.exists()
