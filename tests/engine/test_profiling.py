"""`trainer.profile=true`: a trace and one page, of some steps."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from segkit.engine.profiling import MEASURED_STEPS, REGIONS
from tests.engine.in_process import SMALL_HEAD, finish, trainer_of


def test_trace_and_summary_of_ten_steps(tmp_path: Path):
    trainer = trainer_of(tmp_path, *SMALL_HEAD, "trainer.profile=true", "trainer.max_epochs=4", "trainer.accumulate=1")
    trainer.fit()
    finish(trainer)
    page = (tmp_path / "profile" / "summary.md").read_text()
    assert page.startswith(f"# Where {MEASURED_STEPS} training steps")
    rows = dict(re.findall(r"^\| ([\w ]+) \| [\d.]+ \| ([\d.]+)% \|", page, re.MULTILINE))
    assert list(rows) == [*REGIONS, "everything else"]
    assert sum(map(float, rows.values())) == pytest.approx(100, abs=0.5)
    assert all(0 < float(share) < 100 for share in rows.values())
    assert "aten::" in page

    with gzip.open(tmp_path / "profile" / "trace.json.gz", "rt") as file:
        events = json.load(file)["traceEvents"]
    names = [event.get("name") for event in events]
    assert all(names.count(region) == MEASURED_STEPS for region in ("forward", "loss", "backward", "optimizer"))
    listed = [json.loads(line) for line in (tmp_path / "artifacts.jsonl").read_text().splitlines()]
    assert {entry["path"] for entry in listed if entry["artifact_path"] == "profile"} == {
        "profile/trace.json.gz",
        "profile/summary.md",
    }


def test_a_short_run_is_measured_as_far_as_it_goes(tmp_path: Path):
    trainer = trainer_of(tmp_path, *SMALL_HEAD, "trainer.profile=true", "trainer.max_steps=5")
    trainer.fit()
    finish(trainer)
    assert (tmp_path / "profile" / "summary.md").read_text().startswith("# Where 2 training steps")


def test_too_short_a_run_is_told_so(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    trainer = trainer_of(tmp_path, *SMALL_HEAD, "trainer.profile=true", "trainer.max_steps=2")
    trainer.fit()
    finish(trainer)
    assert not (tmp_path / "profile").exists()
    assert "too few steps to measure" in caplog.text


def test_the_measured_run_learns_the_same(tmp_path: Path):
    from tests.conftest import losses

    for name in ("false", "true"):
        trainer = trainer_of(tmp_path / name, *SMALL_HEAD, f"trainer.profile={name}", "trainer.max_steps=6")
        trainer.fit()
        finish(trainer)
    assert losses(tmp_path / "true") == losses(tmp_path / "false")
