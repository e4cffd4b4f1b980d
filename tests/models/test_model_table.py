"""The script that tabulates every model."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys

from tests.conftest import REPOSITORY

SCRIPT = str(REPOSITORY / "scripts" / "model_table.py")


def test_counts_are_those_made_by_hand() -> None:
    """simple_unet of width 4 on 256 x 256 pixels, each level with a quarter of the pixels of the one above."""
    command = [sys.executable, SCRIPT, "--measure", "model=simple_unet model.width=4", "--size=256", "--runs=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    pixels = [256 * 256 // 4**level for level in range(5)]
    down = sum(9 * pixels[k] * a * b for k, (a, b) in enumerate([(3, 4), (4, 8), (8, 16), (16, 32), (32, 64)]))
    up = sum(9 * pixels[k] * a * b for k, a, b in [(3, 96, 32), (2, 48, 16), (1, 24, 8), (0, 12, 4)])
    assert found["macs"] == down + up + pixels[0] * 4 * 19
    assert found["parameters"] == 9 * (12 + 32 + 128 + 512 + 2048 + 3072 + 768 + 192 + 48) + 2 * (124 + 60) + 5 * 19
    assert found["milliseconds"] > 0
    # The last level's 12 channels are joined before they are convolved to 4, and the logits have 19.
    assert 4 * pixels[0] * 19 < found["peak_bytes"] < 40 * 4 * pixels[0] * 19


def test_every_option_and_decoder_has_a_row() -> None:
    rows = runpy.run_path(SCRIPT)["choices"]()
    options = {path.stem for path in (REPOSITORY / "conf" / "model").glob("*.yaml")}
    assert {row.split()[0].removeprefix("model=") for row in rows} == options
    assert sum(row.startswith("model=smp") for row in rows) == 12
