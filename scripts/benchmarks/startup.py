"""How soon commands answer: `--cfg job`, `--help`, and the first training step of the embedded default.

    python scripts/benchmarks/startup.py [--rounds 5] [overrides of train.py ...]

The first step is timed from the start of the process to the `time` of the first line in metrics.jsonl. Each round
also times `import torch` alone, which no training can do without: the ratios to it mean something on other machines,
and the medians on this one. The first round, which warms the disk cache, does not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TRAIN = [sys.executable, str(REPOSITORY / "train.py")]


def answer(command: list[str]) -> float:
    """Seconds that `command` takes."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def first_step(overrides: list[str]) -> float:
    """Seconds from the start of `python train.py` to the end of its first step."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*TRAIN, "trainer.max_steps=1", f"hydra.run.dir={folder}/run", f"paths.output_dir={folder}"]
        # What comes after the step is kept short.
        command += ["dataset.num_val=8", "trainer.evaluate.panel_samples=0", *overrides]
        started = time.time()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with Path(folder, "run", "metrics.jsonl").open() as lines:
            return json.loads(next(lines))["time"] - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options, overrides = parser.parse_known_args()
    seconds: dict[str, list[float]] = {"--cfg job": [], "--help": [], "import torch": [], "first step": []}
    for number in range(options.rounds + 1):
        taken = {
            "--cfg job": answer([*TRAIN, "--cfg", "job"]),
            "--help": answer([*TRAIN, "--help"]),
            "import torch": answer([sys.executable, "-c", "import torch"]),
            "first step": first_step(overrides),
        }
        if number:
            for name, value in taken.items():
                seconds[name].append(value)
    torch_alone = statistics.median(seconds["import torch"])
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:14s} {median:6.2f} s (median of {len(values)}), {median / torch_alone:5.2f} times `import torch`")


if __name__ == "__main__":
    main()
