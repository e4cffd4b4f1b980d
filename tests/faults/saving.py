"""Saves checkpoints through the engine's own classes, for a tracer to interfere with.

    saving.py RUN_FOLDER FIRST_STEP LAST_STEP

Stops itself before the first; prints what the disk refuses, and goes on; prints which is found to be the newest.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from segkit.run import checkpoint
from segkit.run.checkpoint_store import CheckpointKeeper
from segkit.run.run_folder import RunFolder


def content(step: int) -> dict[str, Any]:
    return {"state": {"step": step}, "model": {"weight": torch.full((3000,), float(step))}}


def save(folder: Path, first: int, last: int, *, stopped: bool) -> None:
    """Steps `first` to `last`, each a record, a checkpoint that is the best so far, and a summary."""
    run = RunFolder(folder)
    keeper = CheckpointKeeper(run.checkpoints, keep_top=2, mode="max")
    if stopped:
        os.kill(os.getpid(), signal.SIGSTOP)
    for step in range(first, last + 1):
        run.record("train", {"step": step, "loss": 0.5})
        try:
            keeper.save(content(step), score=step / 100, is_best=True)
        except OSError as error:
            print(f"step {step}: {error}", flush=True)
        run.write_summary({"status": "running", "step": step})
    run.close()


if __name__ == "__main__":
    save(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), stopped=True)
    newest = checkpoint.newest(Path(sys.argv[1]) / "checkpoints")
    print("newest:", newest and (newest[0].name, newest[1]["state"]["step"]), flush=True)
