from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkit.data import inspection
from segkit.data.inspection import Facts, Faults, inspect_image, inspect_mask, inspected


@pytest.fixture
def masks(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "masks" / f"{name}.png" for name in "ab"]
    paths[0].parent.mkdir()
    for path in paths:
        Image.fromarray(np.array([[0, 3, 3]], np.uint8)).save(path)
    return paths


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The paths of masks read from here on."""
    reads: list[Path] = []
    read_mask = inspection.read_mask

    def counted(path: Path) -> object:
        reads.append(path)
        return read_mask(path)

    monkeypatch.setattr(inspection, "read_mask", counted)
    return reads


def test_facts_are_size_and_ids(masks: list[Path]) -> None:
    facts = inspect_mask(masks[0])
    assert (facts.shape, facts.ids) == ((1, 3), (0, 3))
    assert inspect_image(masks[0]).shape == (1, 3)


def test_sound_files_are_read_once(masks: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = inspected(masks, inspect_mask, tmp_path / "cache.json")
    reads = count_reads(monkeypatch)
    assert inspected(masks, inspect_mask, tmp_path / "cache.json") == first
    assert reads == []


def test_changed_files_are_read_again(masks: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inspected(masks, inspect_mask, tmp_path / "cache.json")
    Image.fromarray(np.array([[1, 2, 3, 4]], np.uint8)).save(masks[1])
    reads = count_reads(monkeypatch)
    facts, _ = inspected(masks, inspect_mask, tmp_path / "cache.json")
    assert reads == [masks[1]]
    assert facts[masks[1]].ids == (1, 2, 3, 4)


def test_unusable_files_are_looked_at_every_time(masks: list[Path], tmp_path: Path) -> None:
    sound = masks[0].read_bytes()
    masks[0].write_bytes(b"")
    _, problems = inspected(masks, inspect_mask, tmp_path / "cache.json")
    assert list(problems) == [masks[0]]
    masks[0].write_bytes(sound)
    assert inspected(masks, inspect_mask, tmp_path / "cache.json")[1] == {}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"/x": 3}', b"\xff\xfe", b"[" * 100_000])
def test_a_spoilt_cache_is_done_without(masks: list[Path], tmp_path: Path, content: bytes) -> None:
    first = inspected(masks, inspect_mask, tmp_path / "cache.json")
    cache = tmp_path / "cache.json"
    cache.write_bytes(content)
    assert inspected(masks, inspect_mask, tmp_path / "cache.json") == first
    assert inspection.FACTS_BY_PATH.validate_json(cache.read_bytes()).keys() == {str(path) for path in masks}


def test_a_cache_that_cannot_be_written_is_done_without(masks: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where the folder should be")
    facts, problems = inspected(masks, inspect_mask, tmp_path / "file" / "cache.json")
    assert (len(facts), problems) == (2, {})


def test_no_files_at_all(tmp_path: Path) -> None:
    assert inspected([], inspect_mask, None) == ({}, {})


def test_facts_survive_the_cache(tmp_path: Path) -> None:
    facts = {"/x": Facts(1, 2, (3, 4), (0, 255))}
    assert inspection.FACTS_BY_PATH.validate_json(inspection.FACTS_BY_PATH.dump_json(facts)) == facts


def test_reports_group_by_kind() -> None:
    faults = Faults()
    assert not faults
    faults.add("bad masks", "a")
    faults.add("bad images", "b")
    faults.add("bad masks", "c")
    assert faults.report("Three:") == "Three:\n2 bad masks:\n  a\n  c\n1 bad images:\n  b"
