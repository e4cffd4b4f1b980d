from __future__ import annotations

import gc
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from segkit.contracts import UserError
from segkit.data.files.file_list import MISSING, FileList, files_below

NAMES = ["b/ünï 1.png", "a.png", "", "地図.PNG"]


def test_is_a_sequence_of_paths_that_keeps_its_order(tmp_path: Path) -> None:
    files = FileList(tmp_path, NAMES)
    assert len(files) == 4
    assert list(files.names()) == NAMES
    assert [files.name(index) for index in range(4)] == NAMES
    assert list(files) == [tmp_path / name for name in NAMES]
    assert files[-1] == tmp_path / "地図.PNG"
    assert list(files[1:3]) == [tmp_path / "a.png", tmp_path]
    with pytest.raises(IndexError):
        files[4]


def test_an_absolute_name_stands_for_itself(tmp_path: Path) -> None:
    files = FileList(tmp_path / "root", [str(tmp_path / "other.png")])
    (tmp_path / "other.png").write_text("five!")
    assert files[0] == tmp_path / "other.png"
    assert files.status()[0, 0] == 5


def test_status_is_size_and_time_of_change(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"123")
    status = FileList(tmp_path, ["a.png", "gone.png"]).status()
    assert status.tolist() == [[3, (tmp_path / "a.png").stat().st_mtime_ns], [MISSING, MISSING]]


def test_a_million_names_are_two_arrays(tmp_path: Path) -> None:
    files = FileList(tmp_path, (f"image_{index:07d}.png" for index in range(1_000_000)))
    assert files.name(999_999) == "image_0999999.png"
    assert files.text.nbytes + files.starts.nbytes == 1_000_000 * (17 + 8) + 8


def _private_bytes(look: Callable[[int], str], number: int) -> int:
    """Memory that looking at every name takes a forked process of its own."""

    def own() -> int:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_Dirty"))

    gc.collect()  # which writes to every container, and would else be counted when it happens in the loop
    before = own()
    for index in range(number):
        look(index)
    return own() - before


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's account of memory")
def test_a_forked_worker_that_looks_at_all_files_gets_no_copy_of_the_list(tmp_path: Path) -> None:
    names = [f"image_{index:06d}.png" for index in range(200_000)]
    context = multiprocessing.get_context("fork")
    with context.Pool(1, initializer=_hold, initargs=(FileList(tmp_path, names), names)) as pool:
        grown = pool.apply(_measure, (0,))
        of_a_list = pool.apply(_measure, (1,))
    assert grown < 500_000
    assert of_a_list > 8_000_000, "or this test measures nothing"


_held: tuple[FileList | list[str], ...] = ()


def _hold(*lists: FileList | list[str]) -> None:
    global _held
    _held = lists


def _measure(which: int) -> int:
    files = _held[which]
    return _private_bytes(files.name if isinstance(files, FileList) else files.__getitem__, len(files))


def test_pickles(tmp_path: Path) -> None:
    assert list(pickle.loads(pickle.dumps(FileList(tmp_path, NAMES)))) == [tmp_path / name for name in NAMES]


def test_files_are_found_below_folders_and_links_once_around(tmp_path: Path) -> None:
    for name in ("z.PNG", "b/c/x.jpg", "a.txt", ".hidden.png", "._z.png", ".git/y.png", "folder.png/inside.png"):
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/e.png").touch()
    (tmp_path / "root/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/circle").symlink_to(tmp_path / "root")
    (tmp_path / "root/file.png").symlink_to(tmp_path / "elsewhere/e.png")
    (tmp_path / "root/broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "root/itself").symlink_to(tmp_path / "root/itself")
    assert files_below(tmp_path / "root", {".png", ".jpg"}) == [
        *("again/e.png", "b/c/x.jpg", "file.png", "folder.png/inside.png", "link/e.png", "z.PNG")
    ]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gone: cannot be listed: No such file"):
        files_below(tmp_path / "gone", {".png"})
