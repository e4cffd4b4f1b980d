"""Checkpoints are whole or not there, and nothing in them runs."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from segkit.errors import UserError
from segkit.run import checkpoint
from segkit.run.checkpoint import DamagedCheckpoint
from segkit.run.checkpoint_store import CheckpointKeeper


def content(step: int) -> dict:
    return {"state": {"step": step}, "model": {"weight": torch.full((3, 4), float(step))}, "ema": None}


def test_a_checkpoint_comes_back_as_it_went(tmp_path: Path):
    checkpoint.write_flushed(content(7), tmp_path / "a.pt")
    read = checkpoint.read(tmp_path / "a.pt")
    assert read["state"] == {"step": 7}
    assert torch.equal(read["model"]["weight"], torch.full((3, 4), 7.0))


def test_pytorch_reads_it_with_weights_only(tmp_path: Path):
    checkpoint.write_flushed(content(7), tmp_path / "a.pt")
    assert torch.load(tmp_path / "a.pt", weights_only=True)["content"]["state"]["step"] == 7


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64, torch.bool])
def test_the_digest_is_about_values_types_shapes_and_names(dtype: torch.dtype):
    base = checkpoint.digest({"a": torch.ones(2, 3, dtype=dtype)})
    assert base == checkpoint.digest({"a": torch.ones(2, 3, dtype=dtype)})
    changed = torch.ones(2, 3, dtype=dtype)
    changed[1, 2] = 0
    others = [{"a": changed}, {"a": torch.ones(3, 2, dtype=dtype)}, {"b": torch.ones(2, 3, dtype=dtype)}]
    assert base not in map(checkpoint.digest, [*others, {"a": torch.ones(2, 3, dtype=torch.float16)}])


def test_every_flipped_bit_of_the_weights_is_noticed(tmp_path: Path):
    path = tmp_path / "a.pt"
    checkpoint.write_flushed(content(7), path)
    whole = path.read_bytes()
    start = whole.find(torch.full((12,), 7.0).numpy().tobytes())
    assert start > 0
    for offset in range(start, start + 48, 5):
        torn = bytearray(whole)
        torn[offset] ^= 0x10
        path.write_bytes(torn)
        with pytest.raises(DamagedCheckpoint, match=r"damaged|not a whole"):
            checkpoint.read(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_damaged(tmp_path: Path, share: float):
    path = tmp_path / "a.pt"
    checkpoint.write_flushed(content(7), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DamagedCheckpoint, match=r"a\.pt"):
        checkpoint.read(path)


def test_the_newest_whole_one_is_found_and_damage_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for step in (1, 2, 3):
        checkpoint.write_flushed(content(step), tmp_path / f"step{step}.pt")
    (tmp_path / "step3.pt").write_bytes((tmp_path / "step3.pt").read_bytes()[:-100])
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found[0].name == "step2.pt"
    assert "step3.pt" in caplog.text


def test_an_empty_folder_has_none_but_a_folder_of_damage_is_an_error(tmp_path: Path):
    assert checkpoint.newest(tmp_path) is None
    (tmp_path / "last.pt").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="no whole checkpoint"):
        checkpoint.newest(tmp_path)


class Trap:
    def __reduce__(self):
        return os.system, ("touch /tmp/segkit-trap-was-sprung",)


@pytest.mark.parametrize("how", ["pickle", "torch", "inside"])
def test_a_checkpoint_that_would_run_code_is_refused_and_nothing_runs(tmp_path: Path, how: str):
    sprung = Path("/tmp/segkit-trap-was-sprung")
    sprung.unlink(missing_ok=True)
    path = tmp_path / "evil.pt"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Trap()))
    elif how == "torch":
        torch.save(Trap(), path)
    else:
        torch.save({"format": 1, "digest": "", "content": {"state": {"step": 9}, "model": Trap()}}, path)
    with pytest.raises(DamagedCheckpoint, match=r"evil\.pt"):
        checkpoint.read(path)
    assert not sprung.exists()


def test_last_previous_best_and_top_k(tmp_path: Path):
    keeper = CheckpointKeeper(tmp_path, keep_top=2, mode="max")
    best = -1.0
    for step, score in enumerate([0.2, 0.5, 0.3, 0.4], start=1):
        keeper.save(content(step), score=score, is_best=score > best)
        best = max(best, score)
    keeper.save(content(5))
    steps = {p.name: checkpoint.read(p)["state"]["step"] for p in tmp_path.glob("*.pt")}
    assert steps == {
        "last.pt": 5,
        "previous.pt": 4,
        "best.pt": 2,
        "top-00000002-0.500000.pt": 2,
        "top-00000004-0.400000.pt": 4,
    }
    assert [p.name for p in keeper.top()] == ["top-00000002-0.500000.pt", "top-00000004-0.400000.pt"]


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_none_of_the_best(tmp_path: Path, score: float):
    CheckpointKeeper(tmp_path, keep_top=1, mode="max").save(content(1), score=score)
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


def test_in_mode_min_the_lowest_stay(tmp_path: Path):
    keeper = CheckpointKeeper(tmp_path, keep_top=1, mode="min")
    for step, score in enumerate([0.5, 0.2, 0.3], start=1):
        keeper.save(content(step), score=score)
    assert [p.name for p in keeper.top()] == ["top-00000002-0.200000.pt"]


def test_what_a_kill_left_half_written_is_cleared_away(tmp_path: Path):
    (tmp_path / ".fresh.part").write_bytes(b"half")
    CheckpointKeeper(tmp_path, keep_top=1, mode="max")
    assert list(tmp_path.iterdir()) == []
