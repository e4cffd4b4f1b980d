"""A command of a moment, to sweep over: it does what its config says and leaves a line when it begins and ends."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

REPOSITORY = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(REPOSITORY))

from segkit.cli import app  # noqa: E402
from segkit.errors import UserError  # noqa: E402
from segkit.sweep.protocols import Trial  # noqa: E402


def task(config: DictConfig, trial: Trial | None = None) -> object:
    folder = Path(HydraConfig.get().runtime.output_dir)
    note(config, "begins", folder)
    match config.behaviour:
        case "raise":
            raise RuntimeError("this went wrong")
        case "mistake":
            raise UserError("data.root: no such folder")
        case "memory":
            raise MemoryError("no memory left")
        case "not_a_number":
            value: object = float("nan")
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "die_once" if not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        case "two":
            value = [config.x, 1 - config.x]
        case _:
            value = config.x + config.fold / 100
    # The trial of that number, if it is one, has to end first.
    while str(config.waits_for).isdigit() and not any(
        line["what"] == "ends" and line["folder"] == str(config.waits_for) for line in lines(config)
    ):
        time.sleep(0.02)
    for evaluation in range(1, config.evaluations + 1):
        time.sleep(config.seconds / config.evaluations)
        if trial is not None:
            trial.report(config.x * evaluation / config.evaluations, evaluation)
    note(config, "ends", folder)
    return value


def note(config: DictConfig, what: str, folder: Path) -> None:
    line = {"what": what, "folder": folder.name, "x": config.x, "time": time.time(), "pid": os.getpid()}
    line["any"] = OmegaConf.to_container(config)["any"]  # type: ignore[call-overload, index]
    with Path(config.notes).open("a") as file:
        file.write(json.dumps(line) + "\n")


def lines(config: DictConfig) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(config.notes).read_text().splitlines()]


if __name__ == "__main__":
    app.CONF = Path(__file__).parent / "conf"
    app.launch("app", task)
