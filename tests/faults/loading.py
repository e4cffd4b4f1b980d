"""A process that reads batches of a folder for ever, beside an evaluation whose worker waits: what training does.

`loading.py FOLDER TIMEOUT [--spare BYTES] [--leave]`: `--spare` bounds the memory that it may have beside what it has
once everything is imported; `--leave` ends it after the first batch with workers that hang, closing nothing.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from typing import Any

import psutil

from segkit.contracts import Sample
from segkit.data.datasets.folder import Folder
from segkit.data.loader import EvaluationLoader, TrainLoader


def keep(sample: Sample, seed: int) -> Sample:
    return sample


def linger(sample: Sample, seed: int, done: list[str] = []) -> Sample:  # noqa: B006
    if done:
        time.sleep(1000)
    done.append(sample.id)
    return sample


def children() -> list[int]:
    return [child.pid for child in psutil.Process().children()]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("timeout", type=float)
    parser.add_argument("--spare", type=int)
    parser.add_argument("--leave", action="store_true")
    options = parser.parse_args()
    keys: dict[str, Any] = {"root": options.folder, "num_classes": 2}
    train, val = (Folder(split=split, **keys) for split in ("train", "val"))
    if options.spare is not None:
        limit = psutil.Process().memory_info().vms + options.spare
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    waiting = EvaluationLoader(val, split="val", batch_size=2, num_workers=1, timeout_s=options.timeout)
    assert len(list(waiting)) == 1
    idle = children()
    loader = TrainLoader(
        train,
        linger if options.leave else keep,
        batch_size=1 if options.leave else 2,
        seed=0,
        num_workers=2,
        timeout_s=options.timeout,
    )
    for number, _ in enumerate(loader.batches(0)):
        if number == 0:
            print(json.dumps({"idle": idle, "busy": [pid for pid in children() if pid not in idle]}), flush=True)
        if options.leave:
            return
        time.sleep(0.02)


if __name__ == "__main__":
    main()
