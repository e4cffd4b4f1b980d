"""Time and extra peak memory of cross-entropy + Dice from logits at stride 4, for segkit and what else there is.

    python scripts/benchmarks/lean_loss.py [--rounds 5] [--with-monai] [--size 2,150,512,512 ...]

Each method computes its loss and the gradient of the logits, on CPU, with two threads, in fresh processes of
its own; the methods take turns, so that a machine whose speed drifts slows all alike. Time is the median over
rounds of the best of three steps. Extra memory is how far the first step raises the peak of the process's
resident memory above where it stood with inputs in place and the code warmed up at a small size; it includes the
gradient of the logits, and is given as a multiple of one full-size float32 (B, C, H, W) tensor. Linux only.

`--with-monai` makes an environment for MONAI below outputs/ with pip, on top of the packages of this interpreter.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import site
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
MONAI_ENVIRONMENT = REPOSITORY / "outputs" / "monai-environment"
SIZES = ("2,150,512,512", "8,19,512,512")
STRIDE = 4
STEPS = 3
# name: what is called, in which package
METHODS = {
    "plain": "F.interpolate + F.cross_entropy",
    "segkit": "segkit loss=combined: CE + Dice",
    "plain_dice": "F.interpolate + F.cross_entropy + one-hot Dice",
    "smp": "F.interpolate + smp's CE + Dice",
    "monai": "F.interpolate + MONAI's DiceCELoss",
}
TIME_GOAL, MEMORY_GOAL = 1.0, 0.25


def make(method: str, classes: int) -> Callable[[Any, Any], Any]:
    """The loss as a function of logits (B, C, h, w) and a uint8 mask (B, H, W)."""
    import torch.nn.functional as F

    def full_size(logits: Any, mask: Any) -> Any:
        return F.interpolate(logits, size=mask.shape[-2:], mode="bilinear", align_corners=False)

    match method:
        case "plain":
            return lambda logits, mask: F.cross_entropy(full_size(logits, mask), mask.long(), ignore_index=255)
        case "segkit":
            from segkit.contracts import Prediction
            from segkit.losses.combined import CombinedLoss

            loss = CombinedLoss(num_classes=classes, ignore_index=255)
            return lambda logits, mask: loss(Prediction(logits), mask).total
        case "plain_dice":

            def plain_dice(logits: Any, mask: Any) -> Any:
                full, target = full_size(logits, mask), mask.long()
                p, truth = full.softmax(dim=1), F.one_hot(target, classes).permute(0, 3, 1, 2).float()
                overlap, both = (p * truth).sum(dim=(2, 3)), p.sum(dim=(2, 3)) + truth.sum(dim=(2, 3))
                return F.cross_entropy(full, target) + (1 - (2 * overlap + 1) / (both + 1)).mean()

            return plain_dice
        case "smp":
            import segmentation_models_pytorch as smp

            ce = smp.losses.SoftCrossEntropyLoss(smooth_factor=0.0, ignore_index=255)
            dice = smp.losses.DiceLoss("multiclass", ignore_index=255)

            def smp_loss(logits: Any, mask: Any) -> Any:
                full, target = full_size(logits, mask), mask.long()
                return ce(full, target) + dice(full, target)

            return smp_loss
        case _:
            from monai.losses import DiceCELoss  # pyright: ignore[reportMissingImports]

            monai = DiceCELoss(to_onehot_y=True, softmax=True)
            return lambda logits, mask: monai(full_size(logits, mask), mask.long().unsqueeze(1))


def measure(method: str, size: tuple[int, ...], threads: int) -> dict[str, Any]:
    """One process's result: seconds of the best step, bytes of extra peak memory, and the gradient's digits."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    batch, classes, height, width = size
    loss = make(method, classes)

    def inputs(batch: int, height: int, width: int) -> tuple[Any, Any]:
        logits = 2 * torch.randn(batch, classes, height // STRIDE, width // STRIDE)
        return logits.requires_grad_(), torch.randint(classes, (batch, height, width), dtype=torch.uint8)

    def step(logits: Any, mask: Any) -> float:
        logits.grad = None
        started = time.perf_counter()
        loss(logits, mask).backward()
        return time.perf_counter() - started

    step(*inputs(1, 32, 32))
    logits, mask = inputs(batch, height, width)
    before = _reset_peak()
    step(logits, mask)
    extra = _status("VmHWM") - before
    gradient = logits.grad
    seconds = min(step(logits, mask) for _ in range(STEPS))
    return {"seconds": seconds, "extra": extra, "gradient_norm": gradient.norm().item()}


def _reset_peak() -> int:
    """Resident bytes now, from where the peak counts anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {key}")


def gradient_error(size: tuple[int, ...]) -> tuple[float, float]:
    """The largest difference of segkit's float32 gradient from plain CE + Dice in float64, and the largest gradient."""
    import torch

    torch.manual_seed(0)
    batch, classes, height, width = size
    logits = 2 * torch.randn(batch, classes, height // STRIDE, width // STRIDE)
    mask = torch.randint(classes, (batch, height, width), dtype=torch.uint8)
    gradients = []
    for method, dtype in (("plain_dice", torch.float64), ("segkit", torch.float32)):
        x = logits.to(dtype).requires_grad_()
        make(method, classes)(x, mask).backward()
        assert x.grad is not None
        gradients.append(x.grad.double())
    return (gradients[0] - gradients[1]).abs().max().item(), gradients[0].abs().max().item()


def monai_python() -> str:
    """The interpreter of MONAI's environment, made if it is not there yet."""
    python = MONAI_ENVIRONMENT / "bin" / "python"
    if not python.exists():
        venv.create(MONAI_ENVIRONMENT, with_pip=True)
        found = subprocess.run(
            [python, "-c", "import site; print(site.getsitepackages()[0])"],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        # What is installed for this interpreter, torch above all, is used and not installed again.
        Path(found.stdout.strip(), "benchmark.pth").write_text("\n".join(site.getsitepackages()))
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "monai"], check=True)
    return str(python)


def report(size: tuple[int, ...], results: dict[str, list[dict[str, Any]]]) -> bool:
    """Print the table of one size; whether the goals are met."""
    full = 4 * math.prod(size)
    seconds = {name: statistics.median(r["seconds"] for r in rounds) for name, rounds in results.items()}
    extra = {name: statistics.median(r["extra"] for r in rounds) for name, rounds in results.items()}
    print(f"\n{size} from stride {STRIDE}; one full-size float32 tensor: {full / 1e6:.0f} MB")
    print(f"{'forward + backward':48s}{'seconds':>9s}{'of plain CE':>13s}{'extra peak':>12s}{'of one full-size':>18s}")
    for name in results:
        print(
            f"{METHODS[name]:48s}{seconds[name]:9.3f}{seconds[name] / seconds['plain']:13.2f}"
            f"{extra[name] / 1e6:9.0f} MB{extra[name] / full:18.2f}"
        )
    met = True
    for what, found, goal in (
        ("time of plain CE", seconds["segkit"] / seconds["plain"], TIME_GOAL),
        ("extra peak of one full-size tensor", extra["segkit"] / full, MEMORY_GOAL),
    ):
        met &= found <= goal
        print(f"goal: at most {goal:g} of the {what}: {found:.3f}, {'met' if found <= goal else 'MISSED'}")
    return met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", nargs="+", default=SIZES, help="B,C,H,W of the full-size logits")
    parser.add_argument("--with-monai", action="store_true")
    parser.add_argument("--measure", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = [tuple(map(int, size.split(","))) for size in options.size]
    if options.measure:
        print(json.dumps(measure(options.measure, sizes[0], options.threads)))
        return
    pythons = {name: sys.executable for name in METHODS if name != "monai"}
    if options.with_monai:
        pythons["monai"] = monai_python()
    met = True
    for size in sizes:
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in pythons}
        for _ in range(options.rounds):
            for name, python in pythons.items():
                command = [python, __file__, "--measure", name, "--threads", str(options.threads)]
                command += ["--size", ",".join(map(str, size))]
                # MONAI's interpreter finds this checkout, but not what may shadow its own packages.
                output = subprocess.run(
                    command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "MPLBACKEND": "agg"}
                )
                results[name].append(json.loads(output.stdout.splitlines()[-1]))
        met &= report(size, results)
        error, largest = gradient_error(size)
        print(f"largest difference of the gradient from plain CE + Dice in float64: {error:.1e} of {largest:.1e}")
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    main()
