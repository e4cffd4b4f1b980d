"""The process that tries batches for `trainer.autobatch`: training steps, and how much memory they took.

It reads what to try from stdin and answers on stdout, a JSON object a line.
"""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from segkit.config.recipe import Recipe
from segkit.contracts import Batch, LabelSpace, Targets
from segkit.engine import memory
from segkit.errors import UserError
from segkit.experiment.assembly import Experiment
from segkit.experiment.resolved import Resolved
from segkit.experiment.training import prepare_torch
from segkit.run.machine import available_memory


def main() -> None:
    """Training steps of the sizes asked for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process too
    question = yaml.safe_load(json.loads(sys.stdin.readline())["experiment"])
    drawn = question["drawn"]
    recipe = Recipe.of(question["values"]).replaced({"trainer.compile": False})
    experiment = Experiment(
        recipe,
        Resolved.from_dict(question["resolved"]),
        LabelSpace.from_dict(question["labels"]),
    )
    options, strategy = experiment.options, experiment.strategy
    prepare_torch(options, recipe.settings.seed, strategy.device)
    on_gpu = strategy.device.type == "cuda"
    # What this process has taken by now is part of the peaks to come.
    taken = 0 if on_gpu else memory.used(strategy.device)
    free = taken + (torch.cuda.mem_get_info(strategy.device)[0] if on_gpu else _free_on_host())
    _say({"free": free, "can_run_out": on_gpu})
    # As of batches of one, the most steps that there can be: the schedule is built and not used.
    learning = experiment.components(steps_per_epoch=question["samples"])
    learning.model.train()
    for line in sys.stdin:
        size = int(json.loads(line)["size"])
        _reset_peak(on_gpu)
        try:
            # The second step finds the optimizer's state in place.
            for _ in range(2):
                batch = _drawn(drawn, size).to(strategy.device)
                with strategy.autocast():
                    prediction = learning.forward(batch.images)
                strategy.backward(learning.loss(prediction, batch).total)
                strategy.step(learning.optimizer, options.clip_norm)
                del batch, prediction
            _say({"peak": torch.cuda.max_memory_reserved() if on_gpu else _peak_on_host()})
        except (RuntimeError, MemoryError) as error:
            if not memory.is_shortage(error):
                raise
            _say({"peak": None})
        learning.optimizer.zero_grad(set_to_none=True)
        if on_gpu:
            torch.cuda.empty_cache()


def _say(content: dict[str, Any]) -> None:
    print("segkit-probe " + json.dumps(content), flush=True)


def _drawn(drawn: dict[str, Any], size: int) -> Batch:
    image_type, mask_type = (getattr(torch, drawn[name]) for name in ("image_type", "mask_type"))
    images = torch.randint(0, 255 if image_type == torch.uint8 else 2, (size, *drawn["image"])).to(image_type)
    mask = torch.randint(0, drawn["classes"], (size, *drawn["mask"])).to(mask_type)
    return Batch(images, Targets(mask), tuple(map(str, range(size))))


def _reset_peak(on_gpu: bool) -> None:
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def _peak_on_host() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1)) * 1024


def _free_on_host() -> int:
    if not Path("/proc/self/clear_refs").exists():
        raise UserError("trainer.autobatch=true: on a CPU only Linux can tell; give trainer.batch_size yourself")
    return available_memory()
