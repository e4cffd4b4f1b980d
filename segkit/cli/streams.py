"""Standard output and standard error that outlive whoever reads them."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Generator
from typing import Any, TextIO


class _Dropping(io.FileIO):
    """What cannot be written is dropped: the pipe's reader is gone (`| head`), or the terminal, or the disk is full."""

    def write(self, data: Any) -> int | None:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


@contextlib.contextmanager
def lasting_streams() -> Generator[None]:
    """While open, nothing that is said can end a run: not a line, not a progress bar, not a library's print."""
    _fill_closed()
    with (
        contextlib.redirect_stdout(_lasting(sys.stdout)) as output,
        contextlib.redirect_stderr(_lasting(sys.stderr)) as errors,
    ):
        try:
            yield
        finally:
            for stream in (output, errors):
                stream.flush()


def _fill_closed() -> None:
    """Give the standard streams that are closed (`>&-`) to /dev/null, or the next files opened would take their place.

    Python has None for such a stream, which has no methods.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


def _lasting(stream: TextIO) -> TextIO:
    """`stream` made to last; as it is where it is no file, as in tests and notebooks."""
    try:
        number = stream.fileno()
        stream.flush()
    except (OSError, ValueError):
        return stream
    raw = _Dropping(number, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=stream.encoding, errors=stream.errors, line_buffering=raw.isatty()
    )
