import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.run.record import (
    close_if_killed,
    held_alone,
    load_progress,
    load_record,
    records_from,
    save_record,
)


@given(st.lists(st.dictionaries(st.text(max_size=3), st.integers()), max_size=6), st.integers(0, 400))
def test_reading_while_the_file_grows_gives_every_row_once(tmp_path_factory, rows, cut):
    path = tmp_path_factory.mktemp("rows") / "metrics.jsonl"
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(content[:cut])
    early = list(records_from(path, 0))
    path.write_bytes(content)
    late = list(records_from(path, early[-1][1] if early else 0))
    assert [row for row, _ in early + late] == rows


def test_a_line_torn_by_a_crash_is_passed_over(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo{"step": 2}\n{"step": 3}\n[1]\n{"ste')
    assert [row for row, _ in records_from(path, 0)] == [{"step": 1}, {}, {"step": 3}, {}]


def test_a_file_that_got_shorter_is_read_from_its_start(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    assert list(records_from(path, 1000)) == [({"step": 1}, 12)]


def test_what_cannot_be_read_counts_as_absent(tmp_path: Path):
    for name in ("run_info.json", "tracking.json"):
        (tmp_path / name).write_text('{"uri": "sqli')
    assert load_record(tmp_path) is None
    assert load_progress(tmp_path) is None


def test_a_record_comes_back_as_it_was(run):
    run.begin("http://localhost:5000", params={"lr": 0.1, "sizes": [1, None], "name": None})
    record = load_record(run.folder)
    save_record(run.folder, record)
    assert load_record(run.folder) == record
    assert record.params == {"lr": 0.1, "sizes": [1, None], "name": None}


def test_the_lock_tells_a_live_run(tmp_path: Path):
    with held_alone(tmp_path) as first:
        assert first
        with held_alone(tmp_path) as second:
            assert not second
    with held_alone(tmp_path) as third:
        assert third


@pytest.mark.parametrize(
    ("summary", "age", "expected"),
    [
        (None, 0, "killed"),
        ({"status": "completed"}, 10, "completed"),
        ({"status": "completed"}, -10, "killed"),  # of the part before a resume
        ({"status": "odd"}, 10, "killed"),
        ({}, 10, "killed"),
    ],
)
def test_a_run_that_died_gets_an_end(run, summary, age, expected):
    run.begin("http://localhost:5000")
    if summary is not None:
        path = run.folder / "summary.json"
        path.write_text(json.dumps(summary))
        moment = (run.folder / "run_info.json").stat().st_mtime + age
        os.utime(path, (moment, moment))
    assert close_if_killed(run.folder).status == expected
    assert load_record(run.folder).status == expected
    assert load_record(run.folder).ended is not None


def test_an_end_that_is_written_stands(run):
    run.begin("http://localhost:5000", status="failed", ended=5.0)
    assert close_if_killed(run.folder).ended == 5.0
