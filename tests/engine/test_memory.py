"""Memory figures, and what is said when there is too little."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch

from segkit.engine import memory
from segkit.errors import RunFailure
from tests.conftest import records, run, summary
from tests.engine.in_process import SMALL_HEAD, finish, trainer_of

CPU = torch.device("cpu")
LAZY = 0.99  # Linux adds up the pages of threads now and then only


def test_used_memory_grows_by_what_is_taken_and_the_peak_stays():
    before = memory.used(CPU)
    # Straight from the system: a tensor may be given memory that an earlier test took and the allocator kept.
    with mmap.mmap(-1, 64 * 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as taken:
        taken.write(b"1" * len(taken))
        during = memory.used(CPU)
    assert during - before > 60 * 2**20
    assert memory.used(CPU) < during - 60 * 2**20
    assert memory.peak(CPU) >= during * LAZY


def test_a_run_records_what_it_used(finished: Path):
    lines = records(finished, "train")
    assert all(0.05 < line["memory_gib"] < 64 for line in lines)
    told = summary(finished)
    assert told["memory_peak_gib"] >= LAZY * max(line["memory_gib"] for line in lines)
    assert 0.05 < told["memory_gib"] * LAZY <= told["memory_peak_gib"]


def test_only_shortage_is_explained(tmp_path: Path):
    trainer = trainer_of(tmp_path, *SMALL_HEAD)
    finish(trainer)
    with pytest.raises(ZeroDivisionError), memory.shortage_explained(trainer.settings, CPU):
        raise ZeroDivisionError
    with (
        pytest.raises(RunFailure, match=r"trainer\.batch_size=2 trainer\.accumulate=2"),
        memory.shortage_explained(trainer.settings, CPU),
    ):
        torch.empty(2**48)  # 1 PiB of floats


def test_a_run_with_too_little_memory_says_what_to_do(tmp_path: Path):
    """The address space is limited from outside, as by a batch system; the batch would need many times as much."""
    limited = tmp_path / "limited.py"
    limited.write_text(
        "import resource, sys, torch\n"
        "from segkit.cli.train import main\n"
        "import segkit.experiment\n"
        "now = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (now + 1_500_000_000, now + 1_500_000_000))\n"
        "main()\n"
    )
    done = run(
        "tracker=none",
        *"dataset.num_train=512 dataset.num_val=2 dataset.image_size=128 dataset.crop_size=128".split(),
        *"trainer.batch_size=512 trainer.evaluate.panel_samples=0 trainer.num_threads=1 trainer.max_steps=1".split(),
        *"backbone=timm backbone.name=test_resnet trainer.precision=fp32".split(),
        f"hydra.run.dir={tmp_path / 'run'}",
        cwd=tmp_path,
        script=str(limited),
    )
    assert done.returncode == 1, done.stderr
    assert "out of memory on cpu with trainer.batch_size=512" in done.stderr
    assert "trainer.batch_size=256 trainer.accumulate=2" in done.stderr
    assert "Traceback" not in done.stderr
    assert summary(tmp_path / "run")["status"] == "failed"
