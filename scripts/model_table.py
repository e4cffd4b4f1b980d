"""Every model with its parameters, multiply-adds, CPU latency and memory, as a Markdown table.

    python scripts/model_table.py [--size 512] [--runs 5] [--output docs/models.md] [model=pspnet ...]

Each model is built by its option of conf/model (and each decoder of smp) with its default backbone for 19 classes, in a
process of its own on one thread, and predicts one image of --size pixels a side. Arguments choose the rows; several
overrides of one row are joined by spaces: "model=fcn backbone=resnet50".
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
CONF = REPOSITORY / "conf"
NUM_CLASSES = 19
HEADER = (
    "| Model | Backbone | Parameters (M) | MACs (G) | Latency (ms) | Peak memory (MiB) |",
    "|---|---|---:|---:|---:|---:|",
)


def choices() -> list[str]:
    """Overrides that choose each row: every option of conf/model, and every decoder in place of `smp`."""
    from typing import get_args

    from segkit.models.networks.smp import Decoder

    options = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
    needs = {"dpt": " backbone=vit_small"}
    decoders = [f"model=smp model.decoder={decoder}{needs.get(decoder, '')}" for decoder in get_args(Decoder)]
    return [*(f"model={option}" for option in options if option != "smp"), *decoders]


def measure(choice: str, size: int, runs: int) -> dict[str, Any]:
    """One row. To be called in a fresh process: what ran before would hide memory."""
    import hydra
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from segkit.config.recipe import Recipe

    torch.set_num_threads(1)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        recipe = Recipe.of(hydra.compose("train", choice.split()))
    filled = {"num_classes": NUM_CLASSES, "mean": [0.5] * 3, "std": [0.25] * 3}  # their values cost nothing
    model: Any = recipe.build("model", filled=filled).eval()
    images = torch.randint(256, (1, model.input_channels, size, size), dtype=torch.uint8)
    with torch.inference_mode():
        added = _memory_added(lambda: model(images))
        seconds: list[float] = []
        for _ in range(runs):
            start = time.perf_counter()
            model(images)
            seconds.append(time.perf_counter() - start)
        with FlopCounterMode(display=False) as counter:
            model(images)
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    return {
        "backbone": (recipe.values.get("backbone") or {}).get("name", ""),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "macs": counter.get_total_flops() // 2,
        "milliseconds": 1000 * min(seconds),  # what other processes add is no property of the model
        "peak_bytes": weights + added,
    }


def _memory_added(call: Any) -> int:
    """Bytes by which the process' resident memory rose, at its highest, while `call` ran (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)  # or memory that building the model has freed would be used, unseen
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith(f"{name}:")]
    return 1024 * int(line.split()[1])


def row(choice: str, found: dict[str, Any]) -> str:
    name = choice.replace("model=smp model.decoder=", "smp ").removeprefix("model=").partition(" backbone=")[0]
    return (
        f"| {name} | {found['backbone'] or '-'} | {found['parameters'] / 1e6:.2f} | {found['macs'] / 1e9:.1f} "
        f"| {found['milliseconds']:.0f} | {found['peak_bytes'] / 2**20:.0f} |"
    )


def introduction(size: int, runs: int) -> list[str]:
    import torch

    return [
        f"{NUM_CLASSES} classes, one image of {size} x {size} in float32, each model with its default backbone.",
        f"Measured on one thread of {processor()} with PyTorch {torch.__version__}; latencies compare within it.",
        "",
        "- MACs: multiply-adds of one prediction, as PyTorch's FlopCounterMode counts them.",
        f"- Latency: the fastest of {runs} predictions, to logits at the head's own stride.",
        "- Peak memory: the weights, and what the first prediction added to the process at its highest.",
        "",
        "Made by `python scripts/model_table.py --output docs/models.md`.",
    ]


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("choices", nargs="*", help="rows, as overrides of train.py; default: every model")
    parser.add_argument("--size", type=int, default=512, help="pixels along each side of the image")
    parser.add_argument("--runs", type=int, default=5, help="timed predictions a model; the fastest counts")
    parser.add_argument("--output", type=Path, help="also write the page to this file")
    parser.add_argument("--measure", action="store_true", help="print one choice's numbers as JSON")
    arguments = parser.parse_args()
    sys.path.insert(0, str(REPOSITORY))
    if arguments.measure:
        print(json.dumps(measure(arguments.choices[0], arguments.size, arguments.runs)))
        return
    lines = ["# Models", "", *introduction(arguments.size, arguments.runs), "", *HEADER]
    print("\n".join(lines), flush=True)
    for choice in arguments.choices or choices():
        command = [
            sys.executable,
            __file__,
            "--measure",
            choice,
            f"--size={arguments.size}",
            f"--runs={arguments.runs}",
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{choice} failed:\n{done.stderr}")
        lines.append(row(choice, json.loads(done.stdout.splitlines()[-1])))
        print(lines[-1], flush=True)
    lines += ["", f"The machine's load average at the end: {os.getloadavg()[2]:.1f} over 15 minutes."]
    print(lines[-1])
    if arguments.output is not None:
        arguments.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
