"""How soon commands answer: `--cfg job`, `--help`, and the first training step of the embedded default.

    python scripts/benchmarks/startup.py [--rounds 5] [overrides of train.py ...]

The first step is timed from the start of the process to the `time` of the first line in metrics.jsonl. Each round
also times `import torch` alone, and the shortest program that takes one step of AdamW on one of timm's networks, which
is what every training here does at the least: the ratios to these mean something on other machines, and the medians on
this one. The first round, which warms the disk cache, does not count.
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
SHORTEST = """
import torch, timm
network = timm.create_model("resnet18")
optimizer = torch.optim.AdamW(network.parameters())
network(torch.zeros(8, 3, 64, 64)).sum().backward()
optimizer.step()
"""
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
    seconds: dict[str, list[float]] = {}
    for number in range(options.rounds + 1):
        taken = {
            "--cfg job": answer([*TRAIN, "--cfg", "job"]),
            "--help": answer([*TRAIN, "--help"]),
            "import torch": answer([sys.executable, "-c", "import torch"]),
            "shortest step": answer([sys.executable, "-c", SHORTEST]),
            "first step": first_step(overrides),
        }
        if number:
            for name, value in taken.items():
                seconds.setdefault(name, []).append(value)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        ratios = f"{median / medians['import torch']:5.2f} times `import torch`"
        ratios += f", {median / medians['shortest step']:5.2f} times the shortest step"
        print(f"{name:14s} {median:6.2f} s (median of {options.rounds}), {ratios}")


if __name__ == "__main__":
    main()
