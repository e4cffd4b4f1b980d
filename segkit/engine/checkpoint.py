"""Checkpoints that are whole or not there: written aside, flushed, renamed, and carrying a digest."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segkit.errors import UserError

log = logging.getLogger(__name__)

FORMAT = 1
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


def write(content: Content, path: Path) -> None:
    """Put a checkpoint at `path`, flushed to the disk: all of it, or what stood there before. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, "digest": digest(content), "content": content}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except RuntimeError as error:
        # PyTorch reports a failed write of its zip file so; the message names no file.
        temporary.unlink(missing_ok=True)
        raise OSError(f"{path}: writing failed ({str(error).splitlines()[0]})") from error
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class DamagedCheckpoint(UserError):
    """A file that is no whole checkpoint: torn, altered, of another kind, or holding code."""


def read(path: Path) -> Content:
    """The content of a whole checkpoint, on the CPU. Nothing in the file can run code. Raises DamagedCheckpoint."""
    envelope = _open(path)
    content = envelope["content"]
    try:
        found = digest(content)
    except (RuntimeError, MemoryError, TypeError, ValueError) as error:  # tensors of sizes that nobody has
        raise DamagedCheckpoint(f"{path}: not a whole segkit checkpoint ({type(error).__name__})") from None
    if found != envelope.get("digest"):
        raise DamagedCheckpoint(f"{path}: the content does not match its digest; the file is damaged")
    return content


def _open(path: Path) -> dict[str, Any]:
    try:
        _refuse_compressed(path)
        envelope = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except Exception as error:  # PyTorch raises whatever a damaged or foreign file makes Python raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DamagedCheckpoint(f"{path}: not a whole segkit checkpoint ({reason[:160]})") from None
    if not isinstance(envelope, dict) or not {"format", "digest", "content"} <= set(envelope):  # pyright: ignore
        raise DamagedCheckpoint(f"{path}: a PyTorch file, but not a segkit checkpoint")
    if envelope["format"] != FORMAT:
        raise UserError(f"{path}: checkpoint format {envelope['format']}; this segkit reads format {FORMAT}")
    return envelope  # pyright: ignore


def _refuse_compressed(path: Path) -> None:
    """Raise ValueError for a file that is no zip of stored parts: compressed ones could fill the memory."""
    if not path.is_file() and path.exists():
        raise ValueError("not a regular file")
    with path.open("rb") as file, zipfile.ZipFile(file) as parts:
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts.infolist()):
            raise ValueError("it is compressed, which segkit's checkpoints never are")


def newest(folder: Path) -> tuple[Path, Content] | None:
    """The whole checkpoint of a checkpoint folder that is furthest on, or None if there are no files at all.

    Every damaged file that is passed over is reported. Raises UserError if there are files but none is whole.
    """
    steps: dict[Path, int] = {}
    damaged: list[str] = []
    for path in sorted(folder.glob("*.pt")):
        try:
            steps[path] = int(_open(path)["content"]["state"]["step"])
        except UserError as error:
            damaged.append(str(error))
        except (KeyError, TypeError):
            damaged.append(f"{path}: not a segkit checkpoint")
    found: tuple[Path, Content] | None = None
    # Among equals, last.pt before the names that are linked to it.
    for path in sorted(steps, key=lambda p: (steps[p], p.name == "last.pt"), reverse=True):
        try:
            found = path, read(path)
            break
        except UserError as error:
            damaged.append(str(error))
    for message in damaged:
        log.warning("passing over a damaged checkpoint: %s", message)
    if found is None and damaged:
        raise UserError(f"{folder}: no whole checkpoint among {len(damaged)} files:\n" + "\n".join(damaged))
    return found


def resolve(path: Path, *, prefer: str | None = None) -> tuple[Path, Content]:
    """The checkpoint meant by a checkpoint file or a run folder; of a folder, `prefer` if whole, else the newest.

    Raises UserError when there is none.
    """
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


class CheckpointKeeper:
    """Which checkpoints of a run stay: last.pt and previous.pt, best.pt, and top-<step>-<score>.pt for the best k.

    One file is written and linked to every name it deserves. What is kept follows from the folder alone, so a
    resumed run goes on with it.
    """

    TOP = re.compile(r"top-(\d+)-(.+)\.pt")

    def __init__(self, folder: Path, *, keep_top: int, mode: str):
        self.folder = folder
        self.keep_top = keep_top
        self.mode = mode
        for left_over in folder.glob(".*.part"):
            left_over.unlink(missing_ok=True)

    def save(self, content: Content, *, score: float | None = None, is_best: bool = False) -> Path:
        """Write last.pt, and make it one of the best if `score` (finite) is. Raises OSError if it cannot be written."""
        fresh = self.folder / ".fresh.part"
        write(content, fresh)
        # The best come first: killed in between, the folder holds a best checkpoint that is simply the newest.
        if score is not None:
            self._link(fresh, f"top-{content['state']['step']:08d}-{score:.6f}.pt")
            self._drop_all_but_top()
        if is_best:
            self._link(fresh, "best.pt")
        if (self.folder / "last.pt").exists():
            self._link(self.folder / "last.pt", "previous.pt")
        fresh.replace(self.folder / "last.pt")
        _sync_folder(self.folder)
        return self.folder / "last.pt"

    def top(self) -> list[Path]:
        """The best checkpoints, best first."""
        scored = [
            (float(m.group(2)), int(m.group(1)), p) for p in self.folder.iterdir() if (m := self.TOP.fullmatch(p.name))
        ]
        sign = -1.0 if self.mode == "max" else 1.0
        return [path for *_, path in sorted(scored, key=lambda entry: (sign * entry[0], entry[1]))]

    def paths(self) -> dict[str, Any]:
        """What summary.json says of the checkpoints, relative to the run folder."""
        run_folder = self.folder.parent
        named = {n: self.folder / f"{n}.pt" for n in ("last", "best")}
        shown: dict[str, Any] = {n: str(p.relative_to(run_folder)) for n, p in named.items() if p.exists()}
        return shown | {"top": [str(p.relative_to(run_folder)) for p in self.top()]}

    def delete_all(self) -> None:
        for path in self.folder.glob("*.pt"):
            path.unlink(missing_ok=True)

    def _drop_all_but_top(self) -> None:
        for path in self.top()[self.keep_top :]:
            path.unlink(missing_ok=True)

    def _link(self, file: Path, name: str) -> None:
        target = self.folder / name
        temporary = self.folder / f".{name}.part"
        temporary.unlink(missing_ok=True)
        try:
            os.link(file, temporary)
        except OSError:  # a file system without hard links
            temporary.write_bytes(file.read_bytes())
        temporary.replace(target)
