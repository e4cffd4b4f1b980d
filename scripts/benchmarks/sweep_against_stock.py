"""How soon segkit's sweep reaches what Hydra's own Optuna plugin finds in the end: the same space, the same seeds.

    python scripts/benchmarks/sweep_against_stock.py [--seeds 0 1 2] [--trials 20]

The plugin (hydra-optuna-sweeper with the Optuna 2 it asks for) runs in an environment of its own, which is made on
first use, and trains every trial to its end with `train.py`, one after another. segkit's sweep prunes. What is
compared is the time that the trials took, as their summary.json has it: the plugin's in all, and segkit's up to the
end of the first trial as good as the plugin's best, or until it has taken longer than the plugin did. Prints both for
each seed, and the ratio of their sums.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
ENVIRONMENT = Path(os.environ.get("SEGKIT_STOCK_VENV", REPOSITORY / ".venv-stock-sweeper"))
PACKAGES = ["hydra-core==1.3.2", "hydra-optuna-sweeper==1.2.0", "optuna<3", "sqlalchemy<2", "numpy<2", "setuptools<81"]

# Small enough for CPUs, long enough for bad settings to show before the end: 27 evaluations.
RUN = (
    "tracker=none dataset.num_train=160 dataset.num_val=24 dataset.image_size=48 dataset.crop_size=48 "
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


def make_environment() -> Path:
    """The Python of the plugin's own environment."""
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / "ready").exists():
        print(f"setting up {ENVIRONMENT}", file=sys.stderr)
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        (ENVIRONMENT / "ready").touch()
    return python


def stock(python: Path, folder: Path, seed: int, trials: int) -> tuple[float, float]:
    """The plugin's best score, and the seconds that all its trials took."""
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
    return max(s["best_score"] for s in summaries), sum(s["wall_time_s"] for s in summaries)


def ours(folder: Path, seed: int, goal: float, most_s: float) -> tuple[float, float, bool, str]:
    """The sweep's best score, the seconds of its trials, whether it reached `goal`, and how the trials ended.

    The command is run again for some more trials until it gets there, or its trials took longer than `most_s`.
    """
    command = [sys.executable, str(REPOSITORY / "train.py"), "-m", "sweep=tpe", *RUN]
    command += [f"{key}={value}" for key, value in SPACE.items()]
    command += ["hydra/sweeper/pruner=successive_halving", "hydra.sweeper.study_name=ours"]
    command += [f"hydra.sweeper.sampler.seed={seed}"]
    trials = 0
    while True:
        trials += 7
        subprocess.run(
            [*command, f"hydra.sweeper.n_trials={trials}"], check=True, cwd=folder, stdout=subprocess.DEVNULL
        )
        spent, best, statuses = 0.0, 0.0, list[str]()
        for number in range(trials):
            summary = json.loads((folder / "outputs/sweeps/ours" / str(number) / "summary.json").read_text())
            statuses.append(summary["status"])
            spent += summary["wall_time_s"]
            best = max(best, summary["best_score"])
            if best >= goal:
                break
        if best >= goal or spent > most_s:
            return best, spent, best >= goal, f"{statuses.count('pruned')} of {len(statuses)} trials pruned"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=20, help="of the plugin")
    options = parser.parse_args()
    python = make_environment()
    stock_time = our_time = 0.0
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            (place / "stock").mkdir()
            (place / "ours").mkdir()
            goal, whole = stock(python, place / "stock", seed, options.trials)
            best, spent, reached, told = ours(place / "ours", seed, goal, whole)
        stock_time += whole
        our_time += spent
        print(
            f"seed {seed}: stock plugin {goal:.4f} in {whole:.0f} s; "
            f"segkit {best:.4f} in {spent:.0f} s ({told}){'' if reached else ', NOT as good'}",
            flush=True,
        )
    print(
        f"ratio of trial time to the plugin's final best, over {len(options.seeds)} seeds: {our_time / stock_time:.2f}"
    )


if __name__ == "__main__":
    main()
