"""Decoded samples kept uncompressed, on disk or in memory, so that a crop reads only the pixels it shows.

Filled as samples are first read, by all workers at once; there is no build that could be cut off. A record
counts only if it is whole and its files have the path, size and time of change they had when it was made.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import mmap
import os
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from segkit.contracts import Sample, SampleSource, UserError
from segkit.data.datasets.source import Source
from segkit.data.datasets.subsets import Pool, Subset
from segkit.data.files.decode import READING_VERSION
from segkit.run.machine import available_memory

log = logging.getLogger(__name__)

MAGIC = b"segkit01"
HEADER = struct.Struct("<8s32s8s8s7q")  # magic, signature, types of image and mask, their shapes, number of axes
HEADER_BYTES = 128
TYPES = frozenset({b"|u1", b"<i4", b"<f4"})
DISK_RESERVE = 2 << 30  # bytes left free on the disk, for checkpoints
MEMORY_SHARE = 0.5  # of what is available, at most
# What changes nothing about a decoded sample.
NOT_DECODED = frozenset(
    "split class_names mean std data_mean data_std crop_size epochs on_error decoded_cache cache_dir".split()
)


class Store(Protocol):
    """Records by sample: bytes with the signature of what they were made from in their header."""

    def get(self, index: int, name: str) -> mmap.mmap | None:
        """The record of a sample, mapped so that writing to it changes a private copy; None if there is none."""
        ...

    def put(self, index: int, name: str, record: list[bytes | memoryview]) -> None:
        """Keep a record, or do without: never raises for want of space."""
        ...


class DecodedCache:
    """The samples of a source, decoded once; implements `contracts.SampleSource`.

    Args:
        source: where samples come from; its `paths` name their files.
        store: where they are kept.
    """

    def __init__(self, source: Source, store: Store) -> None:
        self.source = source
        self.store = store
        self.labels = source.labels
        self.on_error: Literal["raise", "skip"] = source.on_error

    def __len__(self) -> int:
        return len(self.source)

    def name(self, index: int) -> str:
        return self.source.name(index)

    def check(self) -> None:
        self.source.check()

    def identity(self) -> Mapping[str, str]:
        return self.source.identity()

    def read(self, index: int) -> Sample:
        signature = self._signature(index)
        if signature is None:  # a file is gone: the source says which
            return self.source.read(index)
        name = self.name(index)
        record = self.store.get(index, name)
        arrays = None if record is None else unpacked(record, signature)
        if arrays is not None:
            return Sample(*arrays, name)
        sample = self.source.read(index)
        if self._signature(index) == signature:  # not replaced while it was read
            self.store.put(index, name, packed(sample, signature))
        return sample

    def _signature(self, index: int) -> bytes | None:
        """A digest of path, size and time of change of the files of a sample; None if one cannot be found."""
        digest = hashlib.blake2b(digest_size=32)
        try:
            for path in self.source.paths(index) or ():
                status = path.stat()
                digest.update(os.fsencode(path))
                digest.update(struct.pack("<xqq", status.st_size, status.st_mtime_ns))
        except OSError:
            return None
        return digest.digest()


class DiskStore:
    """One file a record, in folders of a few hundred; each appears whole, whoever else writes it too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writes = True

    def get(self, index: int, name: str) -> mmap.mmap | None:
        try:
            with self._file(name).open("rb") as file:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError):  # none, or an empty one
            return None

    def put(self, index: int, name: str, record: list[bytes | memoryview]) -> None:
        if not self.writes:
            return
        path = self._file(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            disk = os.statvfs(path.parent)
            if disk.f_bavail * disk.f_frsize < DISK_RESERVE + sum(map(len, record)):
                raise OSError(errno.ENOSPC, f"less than {DISK_RESERVE >> 30} GiB would be left on the disk")
            self._write(path, record)
        except OSError as error:
            self.writes = False
            log.warning("dataset.decoded_cache=disk: %s takes no more (%s); the rest is decoded", self.folder, error)

    def _write(self, path: Path, record: list[bytes | memoryview]) -> None:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.writelines(record)
                file.flush()
                # Without it a power failure may leave the new name with old or empty blocks.
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise

    def _file(self, name: str) -> Path:
        key = hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest()
        return self.folder / key[:2] / key[2:]


class MemoryStore:
    """Records one after the other in memory that workers forked later share, gone with the last of them.

    Args:
        num_samples: how many samples there are.
        capacity: most bytes to hold; None: half of what is available.
    """

    def __init__(self, num_samples: int, capacity: int | None = None) -> None:
        self.capacity = int(MEMORY_SHARE * available_memory()) if capacity is None else capacity
        self.writes = True
        self._descriptor = os.memfd_create("segkit")
        # Where each record begins and how long it is; the last row is where the next one goes.
        self._table = np.frombuffer(mmap.mmap(-1, (num_samples + 1) * 16), np.int64).reshape(-1, 2)

    def get(self, index: int, name: str) -> mmap.mmap | None:
        start, length = self._table[index].tolist()
        if not length:
            return None
        return mmap.mmap(self._descriptor, length, access=mmap.ACCESS_COPY, offset=start)

    def put(self, index: int, name: str, record: list[bytes | memoryview]) -> None:
        if not self.writes:
            return
        length = sum(map(len, record))
        pages = -(-length // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        try:
            start = self._reserved(pages)
            if start + pages > self.capacity:
                raise OSError(errno.ENOMEM, f"{self.capacity / 2**30:.1f} GiB are full")
            _write_all(self._descriptor, record, start)
        except OSError as error:
            self.writes = False
            log.warning("dataset.decoded_cache=ram: memory takes no more (%s); the rest is decoded", error)
            return
        self._table[index, 0] = start
        # Last, since a length says that all the rest is there.
        self._table[index, 1] = length

    def _reserved(self, length: int) -> int:
        """The start of `length` bytes that are no other's."""
        # A lock of the system's, which a worker that is killed does not leave behind.
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        try:
            start = int(self._table[-1, 0])
            if start + length <= self.capacity:
                self._table[-1, 0] = start + length
            return start
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)


def with_decoded_cache(source: SampleSource) -> SampleSource:
    """`source` behind the cache that its `decoded_cache` asks for. Raises UserError if there is no place for one."""
    if isinstance(source, Pool | Subset):
        return source.over(with_decoded_cache)
    kind = getattr(source, "decoded_cache", None)
    if kind is None or not isinstance(source, Source) or not len(source) or source.paths(0) is None:
        return source
    if kind == "ram":
        return DecodedCache(source, MemoryStore(len(source)))
    cache_dir = getattr(source, "cache_dir", None)
    if cache_dir is None:
        raise UserError("dataset.decoded_cache=disk needs dataset.cache_dir, the folder to keep decoded samples in")
    return DecodedCache(source, DiskStore(Path(cache_dir).absolute() / "decoded" / decoding_digest(source)))


def decoding_digest(source: Source) -> str:
    """16 hexadecimal digits that change with every setting that may change what `source` makes of a file."""
    settings = {f.name: repr(getattr(source, f.name)) for f in fields(source) if f.init and f.name not in NOT_DECODED}
    named = f"{READING_VERSION} {type(source).__module__}.{type(source).__qualname__} {sorted(settings.items())}"
    return hashlib.blake2b(named.encode(), digest_size=8).hexdigest()


def packed(sample: Sample, signature: bytes) -> list[bytes | memoryview]:
    """A sample as the parts of a record: header, image, mask."""
    image, mask = np.ascontiguousarray(sample.image), np.ascontiguousarray(sample.mask)
    shapes = [*image.shape, *mask.shape, 1][:6]
    header = HEADER.pack(MAGIC, signature, image.dtype.str.encode(), mask.dtype.str.encode(), *shapes, mask.ndim)
    return [header.ljust(HEADER_BYTES, b"\0"), image.data.cast("B"), mask.data.cast("B")]


def unpacked(record: mmap.mmap, signature: bytes) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Image and mask of a record, read as they are touched; None unless it is whole and has this signature."""
    if len(record) < HEADER_BYTES:
        return None
    magic, signed, image_type, mask_type, *shapes, mask_axes = HEADER.unpack_from(record)
    if magic != MAGIC or signed != signature:
        return None
    names = [name.rstrip(b"\0") for name in (image_type, mask_type)]
    if not TYPES.issuperset(names) or mask_axes not in (2, 3) or min(shapes) < 1:
        return None
    types = [np.dtype(name.decode()) for name in names]
    image_shape, mask_shape = shapes[:3], shapes[3 : 3 + mask_axes]
    image_items, mask_items = int(np.prod(image_shape)), int(np.prod(mask_shape))
    mask_start = HEADER_BYTES + image_items * types[0].itemsize
    if len(record) != mask_start + mask_items * types[1].itemsize:
        return None
    image = np.frombuffer(record, types[0], image_items, HEADER_BYTES).reshape(image_shape)
    return image, np.frombuffer(record, types[1], mask_items, mask_start).reshape(mask_shape)


def _write_all(descriptor: int, parts: list[bytes | memoryview], start: int) -> None:
    for part in parts:
        done = 0
        while done < len(part):
            done += os.pwrite(descriptor, part[done:], start + done)
        start += len(part)
