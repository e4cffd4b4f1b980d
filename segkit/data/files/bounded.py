"""What is in a file: read within bounds, whatever stands under its name."""

from __future__ import annotations

import codecs
import stat
from pathlib import Path

MAX_PIXELS = 2**27
"""A file of few bytes can declare any size; more than this (11585x11585) is not decoded."""
MAX_BYTES = 16 * MAX_PIXELS
"""Of a file: as many as four channels of 32 bits take uncompressed."""
MAX_TEXT_BYTES = 2**28
"""Of a list or table: some millions of names."""
TOO_LARGE = f"files of more than the {MAX_PIXELS} pixels that are decoded; cut them into tiles"
NOT_AN_IMAGE = "not an image, or damaged or cut off"
OTHER_NUMBER = "images of another number of channels than dataset.in_channels={}"
NO_FILE = "no regular files, but folders, pipes, sockets or devices"


class UnusableError(Exception):
    """Why a file cannot be used, without its name: whoever has a name for it adds that.

    Attributes:
        kind: the same words for all files with this fault.
        detail: what is particular to this file.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind
        self.detail = detail


def read_content(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The bytes of a regular file. Raises UnusableError; never waits for a pipe, or reads a device without end."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnusableError(NO_FILE)
        if status.st_size > limit:
            raise UnusableError(f"files of more than {limit >> 20} MiB", f"{status.st_size >> 20} MiB")
        with path.open("rb", buffering=0) as file:
            # What the system makes up, such as /proc/kmsg, has no size, and to read it may take for ever.
            return file.read(status.st_size) if status.st_size else b""
    except OSError as error:
        raise UnusableError(f"cannot be read: {error.strerror}") from None
    except ValueError:
        raise UnusableError("cannot be read: its name holds a zero byte") from None


def read_text(path: Path, limit: int = MAX_TEXT_BYTES, errors: str = "strict") -> str:
    """The text of a regular file with `\n` at the end of its lines, whichever system wrote them.

    UTF-8 with or without a byte order mark, or UTF-16 with one. Raises UnusableError.

    Args:
        errors: what becomes of bytes that are no UTF-8; `surrogateescape` keeps those of file names as they are.
    """
    content = read_content(path, limit)
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16") if is_utf16 else content.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise UnusableError(
            f"cannot be read as text in UTF-8, or UTF-16 with a byte order mark: {error.reason} at byte {error.start}"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def check_size(height: int, width: int) -> None:
    """Raise UnusableError for an image of more pixels than are decoded."""
    if height * width > MAX_PIXELS:
        raise UnusableError(TOO_LARGE, f"{width}x{height}")
