from __future__ import annotations

import errno
import logging
import multiprocessing
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from segkit.contracts import DataError, Sample, UserError
from segkit.data.datasets import decoded_cache
from segkit.data.datasets.decoded_cache import DecodedCache, DiskStore, MemoryStore, decoding_digest, with_decoded_cache
from segkit.data.datasets.folder import Folder
from segkit.data.datasets.shapes import Shapes

NUMBER = 6


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("images", "masks"):
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
    for index in range(NUMBER):
        write(tmp_path / "data", index, index)
    return tmp_path / "data"


def write(root: Path, index: int, value: int) -> None:
    random = np.random.default_rng(value)
    cv2.imwrite(str(root / f"train/images/{index}.png"), random.integers(0, 256, (7, 9 + index, 3), np.uint8))
    cv2.imwrite(str(root / f"train/masks/{index}.png"), random.integers(0, 3, (7, 9 + index), np.uint8))


def folder(root: Path, **keys: Any) -> Folder:
    given = {"num_classes": 3, "decoded_cache": "disk", "cache_dir": str(root.parent / "cache"), **keys}
    return Folder(split="train", root=str(root), **given)


def cached(root: Path, kind: str) -> DecodedCache:
    source = with_decoded_cache(folder(root, decoded_cache=kind))
    assert isinstance(source, DecodedCache)
    return source


def same(first: Sample, second: Sample) -> bool:
    return (
        first.id == second.id
        and first.image.dtype == second.image.dtype
        and first.mask.dtype == second.mask.dtype
        and np.array_equal(first.image, second.image)
        and np.array_equal(first.mask, second.mask)
    )


def count_decoding(source: DecodedCache, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    decoded: list[int] = []
    read = type(source.source).read

    def counted(self: Folder, index: int) -> Sample:
        decoded.append(index)
        return read(self, index)

    monkeypatch.setattr(type(source.source), "read", counted)
    return decoded


@pytest.mark.parametrize("kind", ["disk", "ram"])
class TestBoth:
    def test_samples_are_decoded_once(self, root: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        source = cached(root, kind)
        plain = [source.source.read(index) for index in range(NUMBER)]
        decoded = count_decoding(source, monkeypatch)
        for _ in range(3):
            assert all(same(source.read(index), plain[index]) for index in range(NUMBER))
        assert decoded == list(range(NUMBER))

    def test_writing_to_a_sample_changes_no_other(self, root: Path, kind: str) -> None:
        source = cached(root, kind)
        plain = source.source.read(0)
        for _ in range(3):
            sample = source.read(0)
            assert same(sample, plain)
            sample.image[:] = 0
            sample.mask[:] = 0

    def test_a_changed_file_is_decoded_again(self, root: Path, kind: str) -> None:
        source = cached(root, kind)
        source.read(2)
        write(root, 2, value=99)
        os.utime(root / "train/images/2.png", ns=(1, 1))
        assert same(source.read(2), source.source.read(2))
        assert same(source.read(2), source.source.read(2))

    def test_a_file_that_is_gone_is_named(self, root: Path, kind: str) -> None:
        source = cached(root, kind)
        source.read(1)
        (root / "train/images/1.png").unlink()
        with pytest.raises(DataError, match=r"images/1\.png: "):
            source.read(1)

    def test_other_kinds_of_arrays_come_back_as_they_were(self, root: Path, kind: str) -> None:
        source = cached(root, kind)
        random = np.random.default_rng(0)
        for index, (image_type, mask_type, shape) in enumerate(
            [(np.float32, np.int32, (5, 4)), (np.uint8, np.uint8, (5, 4, 3))]
        ):
            sample = Sample(
                random.random((5, 4, 2)).astype(image_type), random.integers(0, 2, shape).astype(mask_type), f"{index}"
            )
            record = decoded_cache.packed(sample, b"s" * 32)
            source.store.put(index, sample.id, record)
            found = source.store.get(index, sample.id)
            assert found is not None
            arrays = decoded_cache.unpacked(found, b"s" * 32)
            assert arrays is not None
            assert same(Sample(*arrays, sample.id), sample)
            assert decoded_cache.unpacked(found, b"t" * 32) is None

    def test_processes_fill_it_together(self, root: Path, kind: str) -> None:
        source = cached(root, kind)
        plain = [source.source.read(index) for index in range(NUMBER)]

        def fill(first: int) -> None:
            good = all(same(source.read((first + step) % NUMBER), plain[(first + step) % NUMBER]) for step in range(60))
            os._exit(0 if good else 1)

        context = multiprocessing.get_context("fork")
        workers = [context.Process(target=fill, args=(first,)) for first in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [0, 0, 0]
        assert all(source.store.get(index, source.name(index)) is not None for index in range(NUMBER))
        assert all(same(source.read(index), plain[index]) for index in range(NUMBER))

    def test_it_is_a_source_like_the_one_behind_it(self, root: Path, kind: str) -> None:
        source = cached(root, kind)
        assert (len(source), source.name(3), source.labels) == (NUMBER, source.source.name(3), source.source.labels)
        assert source.identity() == source.source.identity()
        source.check()


def records(root: Path) -> list[Path]:
    return [path for path in (root.parent / "cache" / "decoded").rglob("*") if path.is_file()]


def test_a_second_run_finds_what_the_first_decoded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = [cached(root, "disk").read(index) for index in range(NUMBER)]
    again = cached(root, "disk")
    decoded = count_decoding(again, monkeypatch)
    assert all(same(again.read(index), plain[index]) for index in range(NUMBER))
    assert decoded == []
    assert len(records(root)) == NUMBER


@pytest.mark.parametrize("keep", [0, 1, 100, 127, 128, 129, -1])
def test_a_record_cut_off_is_not_taken_for_whole(root: Path, keep: int) -> None:
    source = cached(root, "disk")
    plain = source.read(0)
    [record] = records(root)
    whole = record.read_bytes()
    record.unlink()  # the sample above is mapped
    record.write_bytes(whole[:keep])
    assert same(source.read(0), plain)
    assert record.read_bytes() == whole


@pytest.mark.parametrize(("place", "content"), [(0, b"x"), (8, b"x"), (40, b"|O8"), (48, b"zz"), (56, b"\xff" * 8)])
def test_a_record_with_a_damaged_header_is_made_again(root: Path, place: int, content: bytes) -> None:
    source = cached(root, "disk")
    plain = source.read(0)
    [record] = records(root)
    whole = record.read_bytes()
    record.unlink()
    record.write_bytes(whole[:place] + content + whole[place + len(content) :])
    assert same(source.read(0), plain)
    assert record.read_bytes() == whole


def test_settings_that_change_samples_keep_them_apart(root: Path) -> None:
    mapped = folder(root, class_mapping={0: 2, 1: 1, 2: 0})
    digests = {
        decoding_digest(source)
        for source in (folder(root), mapped, folder(root, num_classes=4), folder(root, ignore_index=77))
    }
    assert len(digests) == 4
    assert decoding_digest(folder(root, crop_size=99, class_names=["x", "y", "z"])) == decoding_digest(folder(root))
    plain, other = cached(root, "disk").read(0), with_decoded_cache(mapped).read(0)
    assert np.array_equal(other.mask, 2 - plain.mask)


def test_a_full_disk_is_done_without(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    source = cached(root, "disk")
    monkeypatch.setattr(os, "fsync", full)
    with caplog.at_level(logging.WARNING):
        assert all(same(source.read(index), source.source.read(index)) for index in range(NUMBER))
    assert [record.getMessage() for record in caplog.records if "No space left" in record.getMessage()]
    assert len(caplog.records) == 1
    assert records(root) == []


def test_the_disk_is_not_filled_to_the_brim(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded_cache, "DISK_RESERVE", 1 << 60)
    source = cached(root, "disk")
    source.read(0)
    assert records(root) == []


def test_a_read_only_cache_folder_is_done_without(root: Path) -> None:
    (root.parent / "cache").write_text("a file where the folder should be")
    source = cached(root, "disk")
    assert same(source.read(0), source.source.read(0))


def test_memory_that_is_full_is_done_without(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = DecodedCache(folder(root), MemoryStore(NUMBER, capacity=3 * 4096))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert all(same(source.read(index), source.source.read(index)) for index in range(NUMBER))
    assert sum(source.store.get(index, "") is not None for index in range(NUMBER)) == 3
    assert len(caplog.records) == 1


def test_no_cache_unless_asked_for(root: Path) -> None:
    source = folder(root, decoded_cache=None)
    assert with_decoded_cache(source) is source
    shapes = Shapes(split="train", num_classes=7, decoded_cache="ram")
    assert with_decoded_cache(shapes) is shapes


def test_a_cache_on_disk_needs_a_place(root: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.decoded_cache=disk needs dataset\.cache_dir"):
        with_decoded_cache(folder(root, cache_dir=None))


def test_names_of_any_kind_have_a_record(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    for name in ("a/b.png", "../x", "ü 雪.png", "x" * 5000):
        store.put(0, name, [b"1", name.encode()])
        found = store.get(0, name)
        assert found is not None
        assert found[:] == b"1" + name.encode()
    assert all(path.resolve().is_relative_to(tmp_path) for path in tmp_path.rglob("*"))
