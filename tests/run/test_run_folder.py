from __future__ import annotations

import json
from pathlib import Path

import pytest

from segkit.errors import UserError
from segkit.run.run_folder import RunFolder


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_record_is_on_the_disk_at_once_in_full_precision(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.record("train", {"step": 1, "loss": 0.1 + 0.2})
    (record,) = lines(tmp_path / "metrics.jsonl")
    assert (record["kind"], record["step"], record["loss"]) == ("train", 1, 0.30000000000000004)


def test_what_is_not_finite_is_null(tmp_path: Path):
    RunFolder(tmp_path).record("eval", {"miou": float("nan"), "loss": float("inf")})
    (record,) = lines(tmp_path / "metrics.jsonl")
    assert record["miou"] is None
    assert record["loss"] is None


def test_a_torn_last_line_is_cut_off_and_the_rest_kept(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\n{"kind": "tra')
    RunFolder(tmp_path).record("train", {"step": 2})
    assert [record["step"] for record in lines(tmp_path / "metrics.jsonl")] == [1, 2]


def test_the_last_step_is_that_of_the_last_training_line(tmp_path: Path):
    folder = RunFolder(tmp_path)
    assert folder.last_step() == 0
    for step in (1, 2, 12):
        folder.record("train", {"step": step, "loss": 0.5})
    folder.record("eval", {"split": "val", "step": 12})
    assert folder.last_step() == 12


def test_of_a_long_file_only_the_torn_line_is_cut_off(tmp_path: Path):
    line = json.dumps({"kind": "train", "text": "x" * 1000}) + "\n"
    (tmp_path / "metrics.jsonl").write_text(line * 20_000 + line[:500])
    RunFolder(tmp_path).close()
    assert (tmp_path / "metrics.jsonl").read_text() == line * 20_000


def test_a_second_run_in_the_same_folder_is_refused_until_the_first_is_over(tmp_path: Path):
    first = RunFolder(tmp_path)
    with pytest.raises(UserError, match="another process"):
        RunFolder(tmp_path)
    first.close()
    RunFolder(tmp_path).close()
