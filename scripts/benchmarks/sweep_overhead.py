"""What a sweep costs beside its trials: 1,000 trials of a task that does nothing, in one process.

    python scripts/benchmarks/sweep_overhead.py [--trials 1000] [--sampler random]

Prints the seconds a trial for each tenth of the sweep, and the last tenth over the first.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from omegaconf import DictConfig

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from segkit.cli import app  # noqa: E402

CONFIG = """
defaults:
  - override hydra/sweeper: segkit
  - override hydra/hydra_logging: segkit
  - override hydra/sweeper/sampler: {sampler}
  - override hydra/sweeper/pruner: median
hydra:
  searchpath: ["file://{conf}"]
  sweeper: {{direction: max, storage: "sqlite:///sweeps.db", folder: trials, record: null, study_name: overhead}}
x: 0
y: 0
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--sampler", default="random", help="an option of hydra/sweeper/sampler")
    options = parser.parse_args()
    if options.trials < 10:
        parser.error("--trials: at least 10")
    begins: list[float] = []

    def task(config: DictConfig) -> float:
        begins.append(time.perf_counter())
        return float(config.x)

    with tempfile.TemporaryDirectory() as folder:
        conf = Path(folder) / "conf"
        conf.mkdir()
        (conf / "app.yaml").write_text(CONFIG.format(sampler=options.sampler, conf=REPOSITORY / "conf"))
        os.chdir(folder)
        app.CONF = conf
        sys.argv = ["app", "-m", "x=interval(0,1)", "y=interval(0,1)", f"hydra.sweeper.n_trials={options.trials}"]
        with open(os.devnull, "w") as nothing:  # noqa: PTH123
            shown, sys.stdout = sys.stdout, nothing
            try:
                app.launch("app", task)
            finally:
                sys.stdout = shown
        os.chdir(REPOSITORY)
    costs = [after - before for before, after in itertools.pairwise(begins)]
    tenth = len(costs) // 10
    tenths = [statistics.median(costs[i * tenth : (i + 1) * tenth]) for i in range(10)]
    print(f"{len(begins)} trials with sampler {options.sampler}; median seconds from one to the next, by tenths:")
    print("  " + "  ".join(f"{cost:.3f}" for cost in tenths))
    print(f"ratio of the last tenth to the first: {tenths[-1] / tenths[0]:.2f}")


if __name__ == "__main__":
    main()
