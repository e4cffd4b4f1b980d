"""What recording costs a run: the log, the display and MLflow, as shares of the time of a training step.

    python scripts/benchmarks/recording.py [--rounds 3] [--steps 100] [overrides of train.py ...]

Runs `train.py` in a terminal of its own, with its calls to the log, the display and the tracker timed, and prints
four shares of the time of a step: the lines of metrics.jsonl, the live display with its thread, the calls of the
tracker, and the process that delivers to MLflow, which has a core of its own where there is one. All are CPU times,
which a busy machine does not change. What happens at every step is a share of the step's own, the training process's
divided by its threads; what happens by the clock, the redrawing of the display and delivery, is a share of the clock's.
The store is an SQLite file that exists, as in every run but the very first.

Then the same steps with `tracker=none`, taking turns, with the medians of steps per second by the clock on the wall:
the first ten, while the other process may still be importing MLflow, and the rest.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pty
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
FIRST_STEPS = 10
SHARES: tuple[str, ...] = ("metrics.jsonl", "display", "tracker", "delivery")


class Meter:
    """CPU seconds by name and in all, and the steps' times, from the end of the first step to that of the last."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.spent = dict.fromkeys(SHARES, 0.0)
        self.redrawing = 0.0
        self.total = 0.0
        self.times: list[float] = []

    def timed(self, owner: type, method: str, name: str) -> None:
        """Have `owner.method` timed under `name`."""
        original: Callable[..., Any] = getattr(owner, method)

        def measured(*args: Any, **keywords: Any) -> Any:
            begun = time.thread_time()
            result = original(*args, **keywords)
            if 0 < len(self.times) < self.steps:
                self.spent[name] += time.thread_time() - begun
            if name == "metrics.jsonl" and args[1] == "train":
                self._step()
            return result

        setattr(owner, method, measured)

    def _step(self) -> None:
        self.times.append(time.perf_counter())
        sign = {1: -1, self.steps: 1}.get(len(self.times), 0)
        self.spent["delivery"] += sign * _follower_seconds()
        self.redrawing += sign * _display_thread_seconds()
        self.total += sign * time.process_time()


def _follower_seconds() -> float:
    """CPU time so far of the process that delivers; 0 without one."""
    from segkit.tracking.follower_process import follower

    pid = follower().pid
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _display_thread_seconds() -> float:
    """CPU time so far of the thread that redraws the live display."""
    drawing = [thread for thread in threading.enumerate() if type(thread).__name__ == "_RefreshThread"]
    return sum(time.clock_gettime(time.pthread_getcpuclockid(thread.ident or 0)) for thread in drawing)


def measure(steps: int, result: Path, arguments: list[str]) -> None:
    """Train in this process and leave the measurements in the file `result`."""
    import torch

    from segkit.cli.train import main
    from segkit.engine.progress import LiveDisplay
    from segkit.run.run_folder import RunFolder
    from segkit.tracking.mlflow.tracker import MlflowTracker

    meter = Meter(steps)
    meter.timed(RunFolder, "record", "metrics.jsonl")
    meter.timed(LiveDisplay, "step", "display")
    meter.timed(MlflowTracker, "log", "tracker")
    sys.argv = ["train.py", *arguments]
    main()
    clock, training = meter.times[-1] - meter.times[0], meter.total / torch.get_num_threads()
    shares = {name: spent / (clock if name == "delivery" else training) for name, spent in meter.spent.items()}
    shares["display"] += meter.redrawing / clock
    result.write_text(json.dumps({"times": meter.times, "shares": shares}))


def run(steps: int, overrides: list[str], folder: Path) -> dict[str, Any]:
    """The measurements of one run in a process and a terminal of its own."""
    result = folder / "result.json"
    arguments = [*overrides, f"trainer.max_steps={steps}", "trainer.evaluate.every_epochs=null"]
    arguments += ["trainer.progress=live", f"paths.output_dir={folder}"]
    terminal, inside = pty.openpty()
    words = [sys.executable, __file__, "--measure", str(result), "--steps", str(steps), *arguments]
    with subprocess.Popen(words, stdout=inside, env={**os.environ, "TERM": "xterm"}) as process:
        os.close(inside)
        with contextlib.suppress(OSError):  # the other end has been closed
            while os.read(terminal, 1 << 16):
                pass
    os.close(terminal)
    if process.returncode != 0:
        sys.exit(f"train.py ended with {process.returncode}")
    return json.loads(result.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100, help="steps a round")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options, overrides = parser.parse_known_args()
    if options.measure:
        measure(options.steps, options.measure, overrides)
        return
    if options.steps <= FIRST_STEPS + 1:
        parser.error(f"--steps: at least {FIRST_STEPS + 2}")
    recorded: list[dict[str, Any]] = []
    alone: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(FIRST_STEPS, overrides, folder)  # makes the store
        for number in range(options.rounds):
            recorded.append(run(options.steps, overrides, folder))
            alone.append(run(options.steps, [*overrides, "tracker=none"], folder))
            print(f"round {number + 1} of {options.rounds} done", flush=True)
    shares = {name: statistics.median(found["shares"][name] for found in recorded) for name in SHARES}
    for name, share in shares.items():
        print(f"{name:14}{100 * share:7.3f} % of the steps' time")
    in_the_run = sum(share for name, share in shares.items() if name != "delivery")
    print(f"{'in the run':14}{100 * in_the_run:7.3f} %; with delivery {100 * sum(shares.values()):.3f} %")
    for title, part in (("first 10", slice(0, FIRST_STEPS)), ("the rest", slice(FIRST_STEPS, None))):
        with_mlflow, without = (
            statistics.median((len(found["times"][part]) - 1) / (found["times"][part][-1] - found["times"][part][0])
            for found in results)
            for results in (recorded, alone)
        )  # fmt: skip
        ratio = with_mlflow / without
        print(f"{title} steps: {with_mlflow:.3f} steps/s with MLflow, {without:.3f} without; ratio {ratio:.3f}")


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    main()
