"""Files of checkpoints: flushed to the disk when written, and carrying a digest, so that damage is noticed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import shutil
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segkit.errors import UserError

log = logging.getLogger(__name__)

FORMAT = 2
READABLE = (1, 2)
"""Formats that can be read: 1, of version 0.1, held the config as JSON text and told nothing of the data."""

Content = dict[str, Any]


def digest(content: Any) -> str:
    """SHA-256 over all keys, plain values, and tensors (type, shape and bytes) of a nested content."""
    hasher = hashlib.sha256()
    _feed(hasher.update, content)
    return hasher.hexdigest()


def _feed(update: Callable[[Any], None], value: Any) -> None:
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous()
        update(f"tensor {flat.dtype} {tuple(flat.shape)};".encode())
        update(flat.reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):  # pyright: ignore
            update(f"key {key!r};".encode())
            _feed(update, value[key])
        update(b"end;")
    elif isinstance(value, list | tuple):
        update(f"sequence {len(value)};".encode())  # pyright: ignore
        for item in value:  # pyright: ignore
            _feed(update, item)
    else:
        update(f"{type(value).__name__} {value!r};".encode())


def write_flushed(content: Content, path: Path, number: int = 0) -> None:
    """Write a checkpoint, the save of that `number`, and have it on the disk. Raises OSError."""
    envelope = {"format": FORMAT, "digest": digest(content), "number": number, "content": content}
    try:
        with path.open("wb") as file:
            torch.save(envelope, file)
            file.flush()
            os.fsync(file.fileno())
    except RuntimeError as error:
        # PyTorch may report a failed write of its zip file so; the cause is the exception before it.
        cause = error.__context__
        raise cause if isinstance(cause, OSError) else OSError(str(error).splitlines()[0]) from error


def refused(path: Path, content: Content, error: OSError) -> OSError:
    """`error`, met in saving `content` at `path`, in words that name the file, the room it takes, and the remedy."""
    what, remedy = f"{path}: {error.strerror or error}", "Look after that disk"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(path.parent).free
        what += f"; it needs {_megabytes(_num_bytes(content))} and {_megabytes(free)} are free"
        remedy = "Make room on that disk"
    named = OSError(f"{what}. {remedy}, or run in a folder on another one with hydra.run.dir=...")
    named.errno = error.errno
    return named


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB"


def _num_bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(_num_bytes, value.values()))  # pyright: ignore
    return sum(map(_num_bytes, value)) if isinstance(value, list | tuple) else 0  # pyright: ignore


def remove(path: Path) -> None:
    """Remove a file if it is there and can be."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have the names of a folder's files on the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class DamagedCheckpoint(UserError):
    """A file that is no whole checkpoint: torn, altered, of another kind, or holding code."""


def read(path: Path) -> Content:
    """The content of a whole checkpoint, on the CPU. Nothing in the file can run code. Raises DamagedCheckpoint."""
    # Not mapped: a disk error would then be a signal that kills the process, not an exception.
    envelope = _open(path, mmap=False)
    try:
        found = digest(envelope["content"])
    except Exception as error:  # what was altered may be anything
        raise DamagedCheckpoint(f"{path}: the content cannot be read ({_first_line(error)})") from None
    if found != envelope["digest"]:
        raise DamagedCheckpoint(f"{path}: the content does not match its digest; the file is damaged")
    return envelope["content"]


def _open(path: Path, *, mmap: bool) -> dict[str, Any]:
    try:
        _refuse_compressed(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's guesses at what other kind of file it may be
            envelope = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except Exception as error:  # a damaged pickle makes PyTorch raise whatever it comes across
        raise DamagedCheckpoint(f"{path}: not a whole segkit checkpoint ({_first_line(error)})") from None
    if not isinstance(envelope, dict) or not {"format", "digest", "content"} <= set(envelope):  # pyright: ignore
        raise DamagedCheckpoint(f"{path}: a PyTorch file, but not a segkit checkpoint")
    if envelope["format"] not in READABLE:
        allowed = " and ".join(map(str, READABLE))
        raise UserError(f"{path}: checkpoint format {envelope['format']}; this segkit reads formats {allowed}")
    return envelope  # pyright: ignore


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0][:160] if text else type(error).__name__


def _refuse_compressed(path: Path) -> None:
    """Raise ValueError for a file that is no zip of stored parts: compressed ones could fill the memory."""
    if not path.is_file() and path.exists():
        raise ValueError("not a regular file")
    with path.open("rb") as file, zipfile.ZipFile(file) as parts:
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts.infolist()):
            raise ValueError("it is compressed, which segkit's checkpoints never are")


def newest(folder: Path) -> tuple[Path, Content] | None:
    """The whole checkpoint of a checkpoint folder that was saved last, or None if there are no files at all.

    Every damaged file that is passed over is reported, and so is a last.pt that is gone. Raises UserError if there
    are files but none is whole.
    """
    damaged: list[str] = []
    saved: dict[Path, tuple[int, int, bool]] = {}
    for path in sorted(folder.glob("*.pt")):
        try:
            saved[path] = when_saved(path)
        except UserError as error:
            damaged.append(str(error))
    found: tuple[Path, Content] | None = None
    for path in sorted(saved, key=saved.__getitem__, reverse=True):
        try:
            found = path, read(path)
            break
        except UserError as error:
            damaged.append(str(error))
    for message in damaged:
        log.warning("passing over a damaged checkpoint: %s", message)
    if found is None and damaged:
        raise UserError(f"{folder}: no whole checkpoint among {len(damaged)} files:\n" + "\n".join(damaged))
    if found is not None and not (folder / "last.pt").exists():
        log.warning("%s is missing; the newest of the others is taken: %s", folder / "last.pt", found[0].name)
    return found


def when_saved(path: Path) -> tuple[int, int, bool]:
    """What checkpoints of one folder are ordered by: the save and the step; among equals last.pt comes last.

    Saves are counted, as the step starts again where a run is started afresh in the folder of an earlier one.
    """
    envelope = _open(path, mmap=True)
    try:
        return int(envelope.get("number", 0)), int(envelope["content"]["state"]["step"]), path.name == "last.pt"
    except (KeyError, TypeError, ValueError):
        raise DamagedCheckpoint(f"{path}: not a segkit checkpoint") from None


def resolve(path: Path, *, prefer: str | None = None) -> tuple[Path, Content]:
    """The checkpoint meant by a checkpoint file or a run folder; of a folder, `prefer` if whole, else the newest.

    Raises UserError when there is none.
    """
    path = path.expanduser()
    if path.is_dir():
        folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
        if prefer is not None and (folder / prefer).exists():
            try:
                return folder / prefer, read(folder / prefer)
            except DamagedCheckpoint as error:
                log.warning("passing over a damaged checkpoint: %s", error)
        found = newest(folder)
        if found is None:
            raise UserError(f"{path}: no checkpoint in this folder; a run folder has one at checkpoints/last.pt")
        return found
    return path, read(path)
