"""Files that an attacker would offer: pickles that run something, and small files that would fill the memory."""

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch

GIBIBYTE = 2**30


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.file}",)


def pickles(trap: Trap) -> dict[str, bytes]:
    """The content of a file for each form in which PyTorch, or anything that reads files for it, takes a pickle."""
    forms = {f"protocol {number}": pickle.dumps(trap, protocol=number) for number in (0, 2, 5)}
    forms["in a list"] = pickle.dumps({"content": [1, {"model": trap}], "format": 1, "digest": ""})
    for name, is_zip in (("torch zip", True), ("torch legacy", False)):
        file = io.BytesIO()
        torch.save({"format": 1, "digest": "", "content": trap}, file, _use_new_zipfile_serialization=is_zip)
        forms[name] = file.getvalue()
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("sys_info", "storages", "tensors", "pickle"):
            content = pickle.dumps(trap, protocol=2)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    forms["torch tar"] = file.getvalue()
    file = io.BytesIO()
    np.save(file, np.array([trap], object), allow_pickle=True)
    forms["numpy"] = file.getvalue()
    file = io.BytesIO()
    np.savez(file, text=np.array([trap], object))
    forms["numpy zip"] = file.getvalue()
    file = io.BytesIO()
    scripted = torch.jit.script(torch.nn.Identity())
    torch.jit.save(scripted, file)
    forms["torchscript"] = file.getvalue()
    return forms


def compressed_zip(content: bytes) -> bytes:
    """A file of torch.save, its parts compressed."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as parts, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as smaller:
        for part in parts.infolist():
            smaller.writestr(part.filename, parts.read(part))
    return file.getvalue()


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(2**20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    return b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes(9) + b"\xff\xd9"


def tiff(width: int, height: int) -> bytes:
    """Five channels of nothing, all in one strip that is not there."""
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1),
               (273, 4, 1, 8), (277, 3, 1, 5), (278, 4, 1, height), (279, 4, 1, 100), (284, 3, 1, 1)]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(4)


def inflating_tiff(expanded: int) -> bytes:
    """16x16 pixels of five channels, whose one strip stands for `expanded` bytes."""
    file = io.BytesIO()
    picture = np.zeros((16, 16, 5), np.uint8)
    tifffile.imwrite(file, picture, photometric="minisblack", planarconfig="contig", compression="zlib")
    file.seek(0)
    with tifffile.TiffFile(file) as opened:
        places = [opened.pages[0].tags[name].offset for name in ("StripOffsets", "StripByteCounts")]  # pyright: ignore
    content, bomb = bytearray(file.getvalue()), zeros(expanded)
    for place, value in zip(places, (len(content), len(bomb)), strict=True):
        struct.pack_into("<HII", content, place + 2, 4, 1, value)  # one number of 32 bits, here itself
    return bytes(content) + bomb


def inflating_matlab(expanded: int) -> bytes:
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    bomb = zeros(expanded)
    return header + struct.pack("<II", 15, len(bomb)) + bomb


@functools.cache
def zeros(number: int) -> bytes:
    """So many zero bytes in Deflate, made without having them all."""
    deflater = zlib.compressobj(1)
    parts = [deflater.compress(bytes(2**24)) for _ in range(number >> 24)]
    return b"".join([*parts, deflater.flush()])


def numpy_header(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
    return file.getvalue()


def bombs(folder: Path) -> dict[str, Path]:
    """Files that are small on the disk, by what they do; the suffix says how they would be read."""
    small: dict[str, bytes] = {
        "png.png": png(60000, 60000),
        "jpeg.jpg": jpeg(65000, 65000),
        "tiff.tif": tiff(60000, 60000),
        "inflating.tif": inflating_tiff(GIBIBYTE),
        "inflating.mat": inflating_matlab(GIBIBYTE),
        "declared.npy": numpy_header((10**6, 10**6)) + bytes(8),
        "empty.npy": numpy_header((10**12, 3), "|V0"),
        "text.npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 8999 + b"\n",
        "zip.npy": zipped(GIBIBYTE),
        "deep.json": b"[" * 10**6,
        "deeper.json": json.dumps({"classes": "x"}).encode() + b"{" * 10**6,
    }
    paths: dict[str, Path] = {}
    for name, content in small.items():
        paths[name] = folder / name
        paths[name].write_bytes(content)
    for name, content in {
        "sparse.npy": numpy_header((10**6, 10**6)),
        "sparse.png": png(8, 8),
        "sparse.json": b"[",
    }.items():
        paths[name] = folder / name
        with paths[name].open("wb") as file:
            file.write(content)
            file.truncate(10**12)
    return paths


def zipped(number: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as parts, parts.open("a.npy", "w") as part:
        for _ in range(number >> 24):
            part.write(bytes(2**24))
    return file.getvalue()


def read(path: Path) -> Any:
    """What segkit reads a file of this suffix as. Raises UnusableError or UserError."""
    from segkit.data.datasets.sbd import Sbd
    from segkit.data.discovery.class_names import find_class_names
    from segkit.data.files.decode import read_color_mask, read_image, read_layers, read_mask

    if path.suffix == ".json":
        folder = path.with_suffix("")
        folder.mkdir(exist_ok=True)
        path.rename(folder / "classes.json")
        return find_class_names(folder)
    if path.suffix == ".mat":
        return Sbd.raw_mask(object.__new__(Sbd), path)
    from segkit.data.files.bounded import UnusableError

    for reader in (read_mask, read_color_mask, lambda p: read_layers(p, 5), lambda p: read_image(p, 5), read_image):
        try:
            reader(path)
        except UnusableError as error:
            refused = error
        else:
            raise AssertionError(f"{path} was read")
    raise refused


def main(folder: str) -> None:
    """Read every bomb of a folder; print how many MiB that took, and how each was refused."""
    import resource

    from segkit.data.files.inspection import UnusableError
    from segkit.errors import UserError

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusals: dict[str, str] = {}
    for path in sorted(Path(folder).iterdir()):
        try:
            read(path)
        except (UnusableError, UserError) as error:
            refusals[path.name] = str(error)
    took = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps({"took": took, "refusals": refusals}))


if __name__ == "__main__":
    import sys

    main(sys.argv[1])
