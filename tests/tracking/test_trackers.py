"""Several trackers of one run: each is told everything, and none can end the run or silence another."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from segkit.cli import train
from segkit.contracts import RunInfo, UserError
from segkit.run.record import load_record
from segkit.run.run_folder import RunFolder
from segkit.tracking.null import NullTracker
from segkit.tracking.trackers import guarded, several
from tests.conftest import TINY, Ended


class Noting:
    """Writes down what it is told."""

    run_id = "noted"

    def __init__(self, run_folder: Path, *, name: str = "noted.jsonl") -> None:
        self.file = run_folder / name

    def note(self, *what: Any) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps(what, default=str) + "\n")

    def start(self, info: RunInfo) -> None:
        self.note("start", info.name)

    def log(self, row: Mapping[str, Any]) -> None:
        self.note("log", row)

    def artifact(self, path: Path, target: str) -> None:
        self.note("artifact", path, target)

    def tag(self, tags: Mapping[str, str]) -> None:
        self.note("tag", tags)

    def finish(self, status: str) -> None:
        self.note("finish", status)

    def noted(self) -> list[list[Any]]:
        return [json.loads(line) for line in self.file.read_text().splitlines()]


class Failing(Noting):
    def note(self, *what: Any) -> None:
        raise ConnectionError("its server is gone")


def test_a_tracker_is_told_every_line_as_it_stands_in_the_folder_and_every_file(tmp_path: Path):
    folder, tracker = RunFolder(tmp_path), Noting(tmp_path)
    folder.tracker = tracker
    folder.record("train", {"step": 1, "loss": float("nan"), "lr": 0.1})
    folder.list_artifact(tmp_path / "a.png", "figures")
    (row,) = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert tracker.noted() == [["log", row], ["artifact", str(tmp_path / "a.png"), "figures"]]


def test_what_one_tracker_raises_is_told_once_and_keeps_nothing_from_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    trackers = several(tmp_path, trackers={"bad": Failing, "none": NullTracker, "good": Noting})
    trackers.start(RunInfo("a run", {}, {}))
    for step in range(3):
        trackers.log({"step": step})
    trackers.finish("completed")
    good = Noting(tmp_path)
    assert [what for what, *_ in good.noted()] == ["start", "log", "log", "log", "finish"]
    assert caplog.messages == ["the run goes on without its tracker bad: its server is gone"]
    assert several(tmp_path, trackers={"none": NullTracker, "good": Noting}).run_id == "noted"
    assert guarded(trackers) is trackers


@pytest.mark.parametrize("trackers", [{}, {"a": NullTracker, "b": NullTracker}, {"a": 5}])
def test_trackers_that_cannot_go_together_are_refused(tmp_path: Path, trackers: dict[str, Any]):
    with pytest.raises(UserError, match=r"tracker\.trackers"):
        several(tmp_path, trackers=trackers)


def test_a_run_with_mlflow_and_a_tracker_of_ones_own(
    call: Callable[..., Ended], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    own = tmp_path / "conf" / "tracker"
    own.mkdir(parents=True)
    (own / "noting.yaml").write_text("_target_: tests.tracking.test_trackers.Noting\n_partial_: true\n")
    (own / "failing.yaml").write_text("_target_: tests.tracking.test_trackers.Failing\n_partial_: true\n")
    with caplog.at_level(logging.WARNING):
        done = call(
            train.main,
            *TINY,
            *("--config-dir", str(tmp_path / "conf"), "tracker=several", "hydra.run.dir=run"),
            *("+tracker@tracker.trackers.own=noting", "+tracker.trackers.own.name=own.jsonl"),
            "+tracker@tracker.trackers.bad=failing",
            *("tracker.trackers.mlflow.uri=http://127.0.0.1:9", "tracker.trackers.mlflow.timeout_s=0.5"),
        )
    assert done.returncode == 0, done.stderr
    noted = Noting(tmp_path / "run", name="own.jsonl").noted()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row for what, row, *_ in noted if what == "log"] == lines
    assert {target for what, _, *target in noted if what == "artifact" for target in target} >= {"run", "checkpoints"}
    assert noted[-1] == ["finish", "completed"]
    record = load_record(tmp_path / "run")
    assert record is not None
    assert (record.status, record.destination.uri) == ("completed", "http://127.0.0.1:9")
