"""Damaged checkpoints: reported and passed over, or the same as ever; never a crash or a silent zero."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segkit.errors import UserError
from segkit.run import checkpoint
from segkit.run.checkpoint_store import CheckpointKeeper
from tests.conftest import losses, records
from tests.faults.conftest import Starter
from tests.faults.saving import content, save

SHORT = ["trainer.max_steps=3", "trainer.checkpoint.every_steps=1", "trainer.evaluate.every_epochs=9"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose last.pt is of step 3."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    save(folder, 1, 3, stopped=False)
    return folder


@pytest.fixture(scope="module")
def trained(starter: Starter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of three steps, each of them saved."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    done = starter.train(folder, *SHORT)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def damaged(trained: Path, tmp_path: Path) -> Path:
    """A copy of `trained` to do harm to; its files are apart, where the run had linked them."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def digest_of(path: Path) -> str | None:
    """Of what `read` makes of a file; None if it calls it damaged."""
    try:
        return checkpoint.digest(checkpoint.read(path))
    except UserError:
        return None


def outcomes(file: Path, variants: list[bytes]) -> list[str | None]:
    """What `read` makes of each variant of a file; `newest` has to agree, with a whole previous.pt beside it."""
    found: list[str | None] = []
    previous = checkpoint.digest(checkpoint.read(file.parent / "previous.pt"))
    for variant in variants:
        file.write_bytes(variant)
        found.append(digest_of(file))
        best = checkpoint.newest(file.parent)
        assert best is not None
        assert checkpoint.digest(best[1]) in ({previous} if found[-1] is None else {found[-1], previous})
    return found


def pair(folder: Path, steps: tuple[int, int] = (1, 2)) -> Path:
    """A folder of a previous.pt and a last.pt; the latter."""
    keeper = CheckpointKeeper(folder, keep_top=1, mode="max")
    for step in steps:
        keeper.save(content(step))
    return folder / "last.pt"


def test_a_file_cut_off_anywhere_is_damaged(tmp_path: Path):
    last = pair(tmp_path)
    data = last.read_bytes()
    lengths = sorted({*range(0, 200, 7), *range(0, len(data), 501), *range(len(data) - 200, len(data), 7)})
    assert set(outcomes(last, [data[:length] for length in lengths])) == {None}


def test_a_flipped_bit_anywhere_is_noticed_or_changes_nothing(tmp_path: Path):
    last = pair(tmp_path)
    data = last.read_bytes()
    whole = checkpoint.digest(content(2))
    draw = random.Random(0)
    weights = data.find(content(2)["model"]["weight"].numpy().tobytes())
    # Every byte but those of the weights, whose middle is all the same.
    offsets = [*range(0, weights + 40, 3), *range(weights + 12_000 - 40, len(data), 3)]
    variants = []
    for offset in offsets:
        flipped = bytearray(data)
        flipped[offset] ^= 1 << draw.randrange(8)
        variants.append(bytes(flipped))
    found = outcomes(last, variants)
    assert set(found) <= {None, whole}
    assert found.count(None) > len(found) / 4


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_stretch_of_zeros_or_noise_is_noticed_or_changes_nothing(tmp_path_factory: Any, data: Any):
    folder = tmp_path_factory.mktemp("holes")
    last = pair(folder)
    original = last.read_bytes()
    start = data.draw(st.integers(0, len(original) - 1))
    hole = data.draw(st.one_of(st.integers(1, 9000).map(bytes), st.binary(min_size=1, max_size=50)))
    variants = [original[:start] + hole + original[start + len(hole) :], bytes(len(original)), original + hole]
    assert set(outcomes(last, variants)) <= {None, checkpoint.digest(content(2))}


def test_a_damaged_last_checkpoint_never_takes_the_place_of_the_one_before(tmp_path: Path):
    last = pair(tmp_path)
    last.write_bytes(last.read_bytes()[:-300])
    keeper = CheckpointKeeper(tmp_path, keep_top=1, mode="max")
    keeper.save(content(3))
    steps = {p.name: checkpoint.read(p)["state"]["step"] for p in tmp_path.iterdir()}
    assert steps == {"last.pt": 3, "previous.pt": 1}


def test_a_fresh_start_in_an_old_folder_is_newer_than_what_lies_there(tmp_path: Path):
    CheckpointKeeper(tmp_path, keep_top=1, mode="max").save(content(500), score=0.9, is_best=True)
    CheckpointKeeper(tmp_path, keep_top=1, mode="max").save(content(7), score=0.1, is_best=False)
    (tmp_path / "previous.pt").unlink()
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert (found[0].name, found[1]["state"]["step"]) == ("last.pt", 7)


@pytest.mark.parametrize(
    "harm", ["cut", "gone", pytest.param("bit", marks=pytest.mark.slow), pytest.param("zeros", marks=pytest.mark.slow)]
)
def test_resume_tells_of_the_damage_and_takes_the_newest_whole_one(starter: Starter, damaged: Path, harm: str):
    for name in ("last", "best"):  # of the same step
        file = damaged / "checkpoints" / f"{name}.pt"
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 4
        if harm == "gone":
            file.unlink()
        else:
            file.write_bytes({"cut": data[:-5000], "bit": data, "zeros": bytes(len(data))}[harm])
    for file in (damaged / "checkpoints").glob("top*"):
        file.unlink()
    before = losses(damaged)
    done = starter.train(damaged, *SHORT, "resume=auto")
    assert done.returncode == 0, done.stderr
    assert ("last.pt is missing" if harm == "gone" else "passing over a damaged checkpoint") in done.stdout
    assert "last.pt" in done.stdout
    assert "at step 2" in done.stdout
    assert [line["step"] for line in records(damaged, "train")] == [1, 2, 3, 3]
    assert losses(damaged) == before


def test_where_all_are_damaged_nothing_is_trained(starter: Starter, damaged: Path):
    files = list((damaged / "checkpoints").glob("*.pt"))
    assert len(files) >= 3
    for file in files:
        file.write_bytes(file.read_bytes()[:1000])
    before = {path: path.read_bytes() for path in [*files, damaged / "metrics.jsonl"]}
    done = starter.train(damaged, *SHORT, "resume=auto")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert all(str(file) in done.stderr for file in files)
    assert {path: path.read_bytes() for path in before} == before


def test_where_all_are_gone_the_start_from_zero_is_not_silent(starter: Starter, damaged: Path):
    shutil.rmtree(damaged / "checkpoints")
    done = starter.train(damaged, *SHORT, "resume=auto")
    assert done.returncode == 0
    assert "warning: resume=auto: no checkpoint in" in done.stdout
    assert "tells of 3 steps" in done.stdout
