"""Runs whose output nobody reads to its end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from segkit.cli.streams import lasting_streams
from tests.conftest import TINY, command, records, summary


def test_a_run_goes_on_when_the_reader_of_its_output_is_gone(tmp_path: Path):
    line, environment = command(*TINY, "tracker=none", f"hydra.run.dir={tmp_path / 'run'}")
    # As in `python train.py 2>&1 | head -0`.
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(line, env=environment, cwd=tmp_path, stdout=writing, stderr=writing, timeout=240, check=False)
    os.close(writing)
    assert done.returncode == 0
    # 24 images in batches of 4.
    assert [record["step"] for record in records(tmp_path / "run", "train")] == [1, 2, 3, 4, 5, 6]
    assert summary(tmp_path / "run")["status"] == "completed"


SPEAKER = """
import sys
from segkit.cli.streams import lasting_streams
with lasting_streams():
    for stream in (sys.stdout, sys.stderr):
        print("x" * 100000, file=stream, flush=True)
        print("the rest is written as the program ends", file=stream)
    open("made", "w").write("data")
"""


@pytest.mark.parametrize("closed", [">&- 2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full", "2>&1 | true", "| head -c 9"])
def test_nothing_that_is_said_ends_a_program(tmp_path: Path, closed: str):
    run = f'"{sys.executable}" -c "$SPEAKER" {closed}; exit ${{PIPESTATUS[0]}}'
    environment = {**os.environ, "SPEAKER": SPEAKER}
    done = subprocess.run(
        ["bash", "-c", run], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made").read_text() == "data"


def test_what_is_said_arrives_and_the_streams_are_those_of_before(capfd: pytest.CaptureFixture[str]):
    before = sys.stdout, sys.stderr
    with lasting_streams(), lasting_streams():
        print("größe")
        print("fault", file=sys.stderr)
    assert (sys.stdout, sys.stderr) == before
    assert capfd.readouterr() == ("größe\n", "fault\n")
