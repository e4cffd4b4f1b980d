"""How soon segkit's sweep reaches what Hydra's own Optuna plugin finds in the end: the same space, the same seeds.

    python scripts/benchmarks/sweep_against_stock.py [--seeds 10 11 12] [--trials 20]

The plugin (hydra-optuna-sweeper with the Optuna 2 it asks for) runs in an environment of its own, which is made on
first use, and trains every trial to its end with `train.py`, one after another. segkit's sweep prunes. What is
compared is the work of the trials, as their summary.json has it, in training steps, which do not depend on what else
the machine is doing, and in seconds, which also hold evaluations: the plugin's in all, and segkit's up to the end of
the first trial as good as the plugin's best, or until it has taken more steps than the plugin did. Prints both for each
seed, and the ratios of their sums.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from environments import environment

REPOSITORY = Path(__file__).resolve().parents[2]
ENVIRONMENT = Path(os.environ.get("SEGKIT_STOCK_VENV", REPOSITORY / ".venv-stock-sweeper"))
PACKAGES = ["hydra-core==1.3.2", "hydra-optuna-sweeper==1.2.0", "optuna<3", "sqlalchemy<2", "numpy<2", "setuptools<81"]

# Small enough for CPUs, long enough for bad settings to show before the end: 27 evaluations.
RUN = (
    "tracker=none dataset.num_train=160 dataset.num_val=64 dataset.image_size=48 dataset.crop_size=48 "
    "backbone=timm backbone.name=test_resnet model.head.aspp_channels=64 model.head.decoder_channels=64 "
    "trainer.max_epochs=9 trainer.evaluate.every_epochs=0.334 trainer.evaluate.panel_samples=0 trainer.progress=off"
).split()
SPACE = {
    "optimizer.lr": "tag(log,interval(1e-5,1e-1))",
    "optimizer.weight_decay": "tag(log,interval(1e-6,1e-1))",
    "loss": "choice(combined,ce,focal,dice)",
    "scheduler": "choice(poly,constant)",
}

STOCK_APP = '''
import json, os, subprocess, sys
import hydra
from hydra.core.hydra_config import HydraConfig

@hydra.main(version_base="1.2", config_path=None, config_name="stock")
def main(config):
    """One whole training in segkit's environment; what the plugin minimises or maximises."""
    folder = HydraConfig.get().runtime.output_dir
    subprocess.run([os.environ["SEGKIT_PYTHON"], os.environ["SEGKIT_TRAIN"], *json.loads(os.environ["SEGKIT_RUN"]),
                    "hydra.run.dir=" + os.path.join(folder, "run"), *HydraConfig.get().overrides.task],
                   check=True, stdout=subprocess.DEVNULL)
    with open(os.path.join(folder, "run", "summary.json")) as file:
        return json.load(file)["best_score"]

from hydra.core.config_store import ConfigStore
ConfigStore.instance().store("stock", {
    "defaults": [{"override hydra/sweeper": "optuna"}],
    "optimizer": {"lr": 0.0, "weight_decay": 0.0}, "loss": "", "scheduler": "",
})
main()
'''


@dataclass
class Spent:
    """What trials took."""

    steps: int = 0
    seconds: float = 0.0

    def add(self, summary: dict[str, Any]) -> None:
        self.steps += summary["step"]
        self.seconds += summary["wall_time_s"]

    def __str__(self) -> str:
        return f"{self.steps} steps ({self.seconds:.0f} s)"


def stock(python: Path, folder: Path, seed: int, trials: int) -> tuple[float, Spent]:
    """The plugin's best score, and what all its trials took."""
    app = folder / "app.py"
    app.write_text(STOCK_APP)
    environment = {
        **os.environ,
        "SEGKIT_PYTHON": sys.executable,
        "SEGKIT_TRAIN": str(REPOSITORY / "train.py"),
        "SEGKIT_RUN": json.dumps(RUN),
    }
    command = [str(python), str(app), "-m", *(f"{key}={value}" for key, value in SPACE.items())]
    command += [f"hydra.sweeper.n_trials={trials}", "hydra.sweeper.n_jobs=1", "hydra.sweeper.direction=maximize"]
    command += [f"hydra.sweeper.sampler.seed={seed}", f"hydra.sweep.dir={folder}/trials"]
    subprocess.run(command, check=True, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    summaries = [json.loads(path.read_text()) for path in folder.glob("trials/*/run/summary.json")]
    spent = Spent()
    for summary in summaries:
        spent.add(summary)
    return max(summary["best_score"] for summary in summaries), spent


def ours(folder: Path, seed: int, goal: float, most_steps: int) -> tuple[float, Spent, bool, str]:
    """The sweep's best score, what its trials took, whether it reached `goal`, and how the trials ended.

    The command is run again for some more trials until it gets there, or its trials took more than `most_steps`.
    """
    command = [sys.executable, str(REPOSITORY / "train.py"), "-m", "sweep=tpe", *RUN]
    command += [f"{key}={value}" for key, value in SPACE.items()]
    # The first cut after one epoch of nine: three evaluations.
    command += ["hydra/sweeper/pruner=successive_halving", "hydra.sweeper.pruner.min_resource=3"]
    command += ["hydra.sweeper.study_name=ours"]
    command += [f"hydra.sweeper.sampler.seed={seed}"]
    trials = 0
    while True:
        trials += 7
        subprocess.run(
            [*command, f"hydra.sweeper.n_trials={trials}"], check=True, cwd=folder, stdout=subprocess.DEVNULL
        )
        spent, best, statuses = Spent(), 0.0, list[str]()
        for number in range(trials):
            summary = json.loads((folder / "outputs/sweeps/ours" / str(number) / "summary.json").read_text())
            statuses.append(summary["status"])
            spent.add(summary)
            best = max(best, summary["best_score"])
            if best >= goal:
                break
        if best >= goal or spent.steps > most_steps:
            return best, spent, best >= goal, f"{statuses.count('pruned')} of {len(statuses)} trials pruned"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12])
    parser.add_argument("--trials", type=int, default=20, help="of the plugin")
    options = parser.parse_args()
    python = environment(ENVIRONMENT, PACKAGES)
    total, our_total = Spent(), Spent()
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            (place / "stock").mkdir()
            (place / "ours").mkdir()
            goal, whole = stock(python, place / "stock", seed, options.trials)
            best, spent, reached, told = ours(place / "ours", seed, goal, whole.steps)
        for sum_of, one in ((total, whole), (our_total, spent)):
            sum_of.steps += one.steps
            sum_of.seconds += one.seconds
        print(
            f"seed {seed}: stock plugin {goal:.4f} in {whole}; "
            f"segkit {best:.4f} in {spent} ({told}){'' if reached else ', NOT as good'}",
            flush=True,
        )
    print(
        f"to the plugin's final best, over {len(options.seeds)} seeds: "
        f"{our_total.steps / total.steps:.2f} of its steps, {our_total.seconds / total.seconds:.2f} of its trial time"
    )


if __name__ == "__main__":
    main()
