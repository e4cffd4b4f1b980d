"""`trainer.autobatch=true`: the largest batch that fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from segkit.experiment import autobatch
from segkit.experiment.assembly import Experiment
from segkit.experiment.autobatch import Need
from segkit.run import checkpoint
from tests.composed import recipe
from tests.conftest import TINY, records, train


def test_need_is_the_line_through_what_was_measured():
    """1 GB whatever the batch, and 50 MB an image: 100 images take 6 GB."""
    need = Need.of({2: 1_100_000_000, 4: 1_200_000_000, 8: 1_400_000_000})
    assert (need.fixed, need.per_image) == (1e9, 50e6)
    assert need.fits(6e9) == 100
    assert need.fits(6.04e9) == 100


def test_one_disturbed_measurement_does_not_divide_by_zero():
    assert Need.of({4: 2_000_000_000, 8: 2_000_000_000}).fits(3e9) == 1_000_000_008


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training images of 32 x 32: all of them fit."""
    folder = tmp_path_factory.mktemp("autobatch") / "run"
    done = train(folder, "trainer.autobatch=true", "trainer.max_epochs=2", "trainer.evaluate.every_epochs=1")
    assert done.returncode == 0, done.stderr
    assert "trainer.batch_size=24 in place of 4" in done.stdout
    return folder


def test_a_batch_is_never_larger_than_the_data(found: Path):
    assert [line["images_seen"] for line in records(found, "train")] == [24, 48]
    assert checkpoint.read(found / "checkpoints" / "last.pt")["position"]["trainer.batch_size"] == 24


def test_a_resumed_run_keeps_its_batch_size(found: Path):
    done = train(found, "trainer.autobatch=true", "trainer.max_epochs=3", "resume=auto")
    assert done.returncode == 0, done.stderr
    assert "trainer.batch_size=24, as the run had it before" in done.stdout
    assert [line["images_seen"] for line in records(found, "train")] == [24, 48, 72]


def test_a_warm_up_in_steps_is_one_that_the_run_has_room_for(monkeypatch: pytest.MonkeyPatch):
    """24 images in batches of 4 are 6 steps an epoch, and 12 in all: more than the 5 of the warm-up."""
    monkeypatch.setattr(autobatch, "LARGEST", 4)
    overrides = "trainer.autobatch=true trainer.max_epochs=2 scheduler.warmup_steps=5".split()
    assert Experiment(recipe(*TINY, *overrides)).resolved.batch_size == 4
