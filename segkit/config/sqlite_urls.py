"""The files that SQLite URLs name, to us and to SQLAlchemy."""

from __future__ import annotations

import re
from pathlib import Path

SETTINGS = re.compile(r"[\w.]+=[^/&]*(&[\w.]+=[^/&]*)*")
"""Of an SQLite URI, behind its question mark."""


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite URI; None for any other store."""
    scheme, _, rest = uri.partition("://")
    if scheme.partition("+")[0] != "sqlite":
        return None
    return Path(_path_and_query(rest.removeprefix("/"))[0])


def _path_and_query(rest: str) -> tuple[str, str]:
    """A ? without settings `name=value&...` behind it, up to the end, is part of the path."""
    path, _, query = rest.rpartition("?")
    return (path, f"?{query}") if path and SETTINGS.fullmatch(query) else (rest, "")


def for_sqlalchemy(uri: str) -> str:
    """`uri` with its file named so that SQLAlchemy, which takes ? and %20 for its own, finds the file of that name."""
    if sqlite_file(uri) is None:
        return uri
    scheme, _, rest = uri.partition(":///")
    path, query = _path_and_query(rest)
    return f"{scheme}:///{path.replace('%', '%25').replace('?', '%3F')}{query}"
