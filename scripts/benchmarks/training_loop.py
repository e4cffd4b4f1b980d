"""Training images/s of the whole `train.py` command as a share of a bare loop's, and how long it waits for data.

    python scripts/benchmarks/training_loop.py [--rounds 3] [--steps 40] [--keep-memory] [overrides of train.py ...]

The bare loop trains the same network with the same loss, optimizer, precision and batch size on one batch that
lies in memory: no data, no log, no tracker, no progress display. It leaves freed memory to the C library; with
`--keep-memory` it keeps it, as training does (`segkit/engine/memory.py`). Both run in processes of their own and
take turns, so that a machine whose speed drifts slows both; the medians are compared. The first steps of
either, which allocate memory, do not count; nor does evaluation.
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
WARM_UP_STEPS = 5


def whole_command(overrides: list[str], steps: int, folder: Path) -> tuple[float, float]:
    """Images/s and the share of time spent waiting for data of `python train.py` over `steps` steps."""
    command = [sys.executable, str(REPOSITORY / "train.py"), *overrides]
    command += [f"trainer.max_steps={steps + WARM_UP_STEPS}", f"hydra.run.dir={folder}"]
    command += [
        "trainer.evaluate.every_epochs=null",
        "trainer.progress=plain",
        f"paths.output_dir={folder.parent}",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    train = [line for line in lines if line["kind"] == "train"]
    start, counted = train[WARM_UP_STEPS - 1], train[WARM_UP_STEPS:]
    # From line to line: whatever happens between two steps is part of it.
    seconds = counted[-1]["time"] - start["time"]
    images = counted[-1]["images_seen"] - start["images_seen"]
    return images / seconds, sum(line["data_wait_s"] for line in counted) / seconds


def bare_loop(overrides: list[str], steps: int, keep_memory: bool) -> float:
    """Images/s of the loop that everyone would write first."""
    import hydra
    import torch
    from omegaconf import OmegaConf

    from segkit.config.recipe import Recipe
    from segkit.contracts import Batch, Targets
    from segkit.data.transforms.apply import augmented
    from segkit.engine import memory
    from segkit.experiment.assembly import Experiment

    OmegaConf.register_new_resolver("pid", lambda: 0, replace=True)
    with hydra.initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        experiment = Experiment(Recipe.of(hydra.compose("train", overrides)))
    if keep_memory:
        memory.keep_freed()
    torch.manual_seed(experiment.recipe.settings.seed)
    source, strategy = experiment.source("train"), experiment.strategy
    samples = [
        augmented(experiment.transform, source, index, seed=index) for index in range(experiment.options.batch_size)
    ]
    images = torch.stack([torch.from_numpy(s.image).permute(2, 0, 1) for s in samples]).to(strategy.device)
    mask = torch.stack([torch.from_numpy(s.mask) for s in samples]).to(strategy.device)
    batch = Batch(images, Targets(mask), tuple(sample.id for sample in samples))
    learning = experiment.components(steps)
    model, loss, optimizer = learning.model.train(), learning.loss, learning.optimizer
    started = 0.0
    for step in range(steps + WARM_UP_STEPS):
        if step == WARM_UP_STEPS:
            _synchronize()
            started = time.perf_counter()
        with strategy.autocast():
            prediction = model(images)
        loss(prediction, batch).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    _synchronize()
    return steps * len(images) / (time.perf_counter() - started)


def _synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40, help="counted steps a round")
    parser.add_argument("--keep-memory", action="store_true", help="in the bare loop too")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    options, overrides = parser.parse_known_args()
    if options.bare:
        print(bare_loop(overrides, options.steps, options.keep_memory))
        return
    whole: list[float] = []
    waiting: list[float] = []
    bare: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            speed, share = whole_command(overrides, options.steps, Path(folder) / f"round{number}")
            whole.append(speed)
            waiting.append(share)
            command = [sys.executable, __file__, "--bare", "--steps", str(options.steps), *overrides]
            command += ["--keep-memory"] * options.keep_memory
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            bare.append(float(output.split()[-1]))
            print(
                f"round {number + 1}: train.py {whole[-1]:.2f} img/s, bare loop {bare[-1]:.2f} img/s",
                flush=True,
            )
    print(f"train.py   {statistics.median(whole):8.2f} img/s (median of {options.rounds})")
    print(f"bare loop  {statistics.median(bare):8.2f} img/s")
    print(f"ratio      {statistics.median(whole) / statistics.median(bare):8.3f}")
    print(f"waiting for data: {100 * statistics.median(waiting):.2f} % of the time")


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    main()
