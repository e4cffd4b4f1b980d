from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkit.data.files import inspection
from segkit.data.files.decode import read_mask
from segkit.data.files.file_list import FileList
from segkit.data.files.inspection import Facts, Faults, Inspection, facts_of_mask, inspected


@pytest.fixture
def masks(tmp_path: Path) -> FileList:
    (tmp_path / "masks").mkdir()
    for name in "ab":
        Image.fromarray(np.array([[0, 3, 3]], np.uint8)).save(tmp_path / f"masks/{name}.png")
    return FileList(tmp_path / "masks", ["a.png", "b.png"])


class Reader:
    """Reads facts of masks, and counts how often."""

    def __init__(self) -> None:
        self.reads: list[Path] = []

    def __call__(self, path: Path) -> Facts:
        self.reads.append(path)
        return facts_of_mask(read_mask(path))


def facts(*ids: int, pixels: bytes | None = None) -> Facts:
    """Those of a mask of one row, whose pixels are its ids if nothing else is said."""
    pixels = bytes(ids) if pixels is None else pixels
    return Facts((1, len(pixels)), ids, zlib.crc32(pixels))


THREE = facts(0, 3, pixels=bytes([0, 3, 3]))


def all_facts(found: Inspection) -> list[Facts | None]:
    return [found.facts(index) for index in range(len(found.sizes))]


def test_facts_are_size_ids_and_a_checksum(masks: FileList) -> None:
    assert facts_of_mask(read_mask(masks[0])) == THREE
    assert all_facts(inspected(masks, Reader(), None)) == [THREE] * 2


def test_sound_files_are_read_once(masks: FileList, tmp_path: Path) -> None:
    first, again = Reader(), Reader()
    found = all_facts(inspected(masks, first, tmp_path / "cache.npz"))
    assert all_facts(inspected(masks, again, tmp_path / "cache.npz")) == found == [THREE] * 2
    assert (sorted(first.reads), again.reads) == (list(masks), [])


def test_changed_files_are_read_again(masks: FileList, tmp_path: Path) -> None:
    inspected(masks, Reader(), tmp_path / "cache.npz")
    Image.fromarray(np.array([[1, 2, 3, 4]], np.uint8)).save(masks[1])
    reader = Reader()
    found = inspected(masks, reader, tmp_path / "cache.npz")
    assert reader.reads == [masks[1]]
    assert all_facts(found) == [THREE, facts(1, 2, 3, 4)]


def test_new_files_join_those_that_are_known(masks: FileList, tmp_path: Path) -> None:
    inspected(masks, Reader(), tmp_path / "cache.npz")
    Image.fromarray(np.array([[7]], np.uint8)).save(masks.base / "0.png")
    reader = Reader()
    more = FileList(masks.base, ["0.png", "b.png"])
    assert all_facts(inspected(more, reader, tmp_path / "cache.npz")) == [facts(7), THREE]
    assert reader.reads == [masks.base / "0.png"]
    # Fewer than are known, and in another order.
    fewer = FileList(masks.base, ["b.png", "0.png"])
    assert all_facts(inspected(fewer, reader, tmp_path / "cache.npz")) == [THREE, facts(7)]
    assert len(reader.reads) == 1


def test_a_call_that_is_cut_short_is_gone_on_with(
    masks: FileList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "CHUNK", 1)

    def interrupted(path: Path) -> Facts:
        if path == masks[1]:
            raise KeyboardInterrupt
        return Reader()(path)

    with pytest.raises(KeyboardInterrupt):
        inspected(masks, interrupted, tmp_path / "cache.npz")
    reader = Reader()
    assert all_facts(inspected(masks, reader, tmp_path / "cache.npz")) == [THREE] * 2
    assert reader.reads == [masks[1]]


def test_unusable_files_are_looked_at_every_time(masks: FileList, tmp_path: Path) -> None:
    sound = masks[0].read_bytes()
    masks[0].write_bytes(b"")
    found = inspected(masks, Reader(), tmp_path / "cache.npz")
    assert list(found.problems) == [0]
    assert found.facts(0) is None
    masks[0].write_bytes(sound)
    assert inspected(masks, Reader(), tmp_path / "cache.npz").problems == {}


def test_a_file_that_is_gone_is_a_problem_though_it_was_sound(masks: FileList, tmp_path: Path) -> None:
    inspected(masks, Reader(), tmp_path / "cache.npz")
    masks[1].unlink()
    found = inspected(masks, Reader(), tmp_path / "cache.npz")
    assert str(found.problems[1]) == "cannot be read: No such file or directory"


@pytest.mark.parametrize("content", [b"", b"{", b"PK\x03\x04", b"\x93NUMPY", b"[" * 100_000, "object", "short"])
def test_a_spoilt_cache_is_done_without(masks: FileList, tmp_path: Path, content: bytes | str) -> None:
    cache = tmp_path / "cache.npz"
    first = all_facts(inspected(masks, Reader(), cache))
    if isinstance(content, bytes):
        cache.write_bytes(content)
    else:
        arrays = dict(np.load(cache))
        arrays |= {"sizes": np.array([None, None])} if content == "object" else {"ids": arrays["ids"][:1]}
        with cache.open("wb") as file:
            np.savez(file, **arrays)
    reader = Reader()
    assert all_facts(inspected(masks, reader, cache)) == first
    assert len(reader.reads) == 2
    inspected(masks, reader, cache)
    assert len(reader.reads) == 2


def test_a_cache_that_cannot_be_written_is_done_without(masks: FileList, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where the folder should be")
    found = inspected(masks, Reader(), tmp_path / "file" / "cache.npz")
    assert (len(found.sizes), found.problems) == (2, {})


def test_no_files_at_all(tmp_path: Path) -> None:
    for _ in range(2):
        assert all_facts(inspected(FileList(tmp_path, []), Reader(), tmp_path / "cache.npz")) == []


def test_reports_group_by_kind() -> None:
    faults = Faults()
    assert not faults
    faults.add("bad masks", "a")
    faults.add("bad images", "b")
    faults.add("bad masks", "c")
    assert faults.report("Three:") == "Three:\n2 bad masks:\n  a\n  c\n1 bad images:\n  b"
    assert (faults | faults).by_kind() == {"bad masks": ["a", "c", "a", "c"], "bad images": ["b", "b"]}
