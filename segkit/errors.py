"""Exceptions that carry an exit code of the command line. Imports nothing, so that `--help` stays light."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` without what a terminal would obey: control characters but line breaks and tabs, and halves of letters.

    Names of files and classes come from data, and end up in messages.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c in "\n\t" or c.isprintable() or (c.isspace() and c > "\x9f") else ascii(c)[1:-1] for c in text
    )


class UserError(ValueError):
    """The user's input is at fault: a config key, a data file, a checkpoint offered.

    The command line turns it into one message on stderr and exit code 2. The message names the key or
    the file, what was found, and what is allowed.
    """

    exit_code = 2

    def __str__(self) -> str:
        return printable(super().__str__())


class DataError(UserError):
    """A data file is at fault, whenever that comes to light: at the check before the first step or in mid-run."""


class RunFailure(RuntimeError):
    """The run cannot go on, though neither program nor input is at fault: a worker was killed, memory ran out.

    The command line turns it into one message on stderr and exit code 1. The message names cause and remedy.
    """

    exit_code = 1

    def __str__(self) -> str:
        return printable(super().__str__())


class Interrupted(Exception):
    """The run was asked to stop from outside and has saved what it had.

    Attributes:
        status: "interrupted" (Ctrl-C) or "terminated" (SIGTERM, SIGUSR1), as in summary.json.
        exit_code: 130 or 143.
    """

    def __init__(self, status: str, exit_code: int, message: str):
        super().__init__(message)
        self.status = status
        self.exit_code = exit_code


class Pruned(Exception):
    """The sweep has seen enough of this trial: the run has saved and ends here."""
