"""What scores cost of an evaluation, and labels without resized logits against labels of the whole.

    python scripts/benchmarks/evaluation.py [--rounds 5] [--threads 2] [--classes 19 150]

First the share of an evaluation: DeepLabV3+ with ResNet-18, channels-last, images of 512 x 512, the precision that
`trainer.precision=auto` chooses. Forward passes, labels and counts take turns; times are medians over rounds. "Counts"
is the confusion matrix alone; "scores" are the resizing of the logits from stride 4, the choice of the classes, and
the counts. How long the choice takes depends on the logits. "Trained" are logits in which the class of the truth, at
most 16 an image in areas of 64 x 64, stands out from noise, and the weights are random; "untrained" are those of the
random weights, with hardly a difference between the classes: the worst case. The goal is held against the first. "As
users write it" are F.interpolate, argmax and torchmetrics' MulticlassJaccardIndex.

Then time and memory of labels alone, in fresh processes that take turns, of trained logits as above and of noise.
Memory is how far the peak of the process's resident memory rises, in multiples of one full-size float32 (B, C, H, W)
tensor. Linux only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
EDGE, STRIDE, STEPS = 512, 4, 3
GOAL = 0.03
METHODS = {
    "whole": "F.interpolate, then argmax",
    "whole_channels_last": "the same of channels-last logits",
    "ours": "segkit's resized_argmax",
    "ours_noise": "the same of noise",
}


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def masks(batch: int, classes: int) -> Any:
    """Areas of up to 16 classes (B, H, W) uint8 with an ignored border."""
    import torch

    generator = torch.Generator().manual_seed(0)
    present = torch.stack([torch.randperm(classes, generator=generator)[:16] for _ in range(batch)])
    coarse = present.gather(1, torch.randint(present.shape[1], (batch, 64), generator=generator)).view(batch, 8, 8)
    mask = coarse.repeat_interleave(EDGE // 8, 1).repeat_interleave(EDGE // 8, 2).to(torch.uint8)
    mask[:, :4] = 255
    return mask


def trained_logits(mask: Any, classes: int) -> Any:
    """Logits (B, C, h, w) of noise, in which the class of the truth stands out."""
    import torch

    truth = mask[:, None, ::STRIDE, ::STRIDE].long().clamp(max=classes - 1)
    logits = torch.randn(len(mask), classes, *truth.shape[-2:], generator=torch.Generator().manual_seed(0))
    return logits.scatter_add_(1, truth, torch.full(truth.shape, 12.0))


def shares(classes: int, options: argparse.Namespace) -> bool:
    """Print what scores take of an evaluation; whether the goal is met."""
    import torch
    import torch.nn.functional as F
    from torchmetrics.classification import MulticlassJaccardIndex

    from segkit.engine.strategy.single_device import SingleDevice
    from segkit.logits import resized_argmax
    from segkit.metrics.confusion import ConfusionMatrix
    from segkit.models.backbones.timm_backbone import TimmBackbone
    from segkit.models.heads.deeplabv3plus import DeepLabV3PlusHead
    from segkit.models.segmenter import Segmenter

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    strategy = SingleDevice("cpu", "auto")
    model = Segmenter(
        backbone=lambda **keys: TimmBackbone(name="resnet18", pretrained=False, **keys),
        head=DeepLabV3PlusHead,
        num_classes=classes,
        mean=[0.485, 0.456, 0.406],
        std=[0.229, 0.224, 0.225],
    )
    model = strategy.prepare(model, channels_last=True).eval()
    images = torch.randint(256, (options.batch_size, 3, EDGE, EDGE), dtype=torch.uint8)
    mask = masks(options.batch_size, classes)
    ours, theirs = ConfusionMatrix(classes, 255), MulticlassJaccardIndex(classes, ignore_index=255)

    def forward() -> Any:
        with strategy.autocast():
            return model(images).logits

    def users_way(logits: Any) -> None:
        full = F.interpolate(logits, size=mask.shape[-2:], mode="bilinear", align_corners=False)
        theirs.update(full.argmax(dim=1), mask.long())

    print(
        f"\n{classes} classes, {options.batch_size} images of {EDGE} x {EDGE}, {strategy.precision}, "
        f"{options.threads} threads; shares of the evaluation"
    )
    with torch.inference_mode():
        untrained = forward()
        trained = trained_logits(mask, classes).to(untrained.dtype).contiguous(memory_format=torch.channels_last)
        predicted = resized_argmax(untrained, mask.shape[-2:])
        parts: dict[str, Callable[[], Any]] = {
            "forward": forward,
            "counts": lambda: ours.update(predicted, mask),
            "trained": lambda: resized_argmax(trained, mask.shape[-2:]),
            "untrained": lambda: resized_argmax(untrained, mask.shape[-2:]),
            "trained, users": lambda: users_way(trained),
            "untrained, users": lambda: users_way(untrained),
        }
        for part in parts.values():
            part()
        rounds = [{name: timed(part) for name, part in parts.items()} for _ in range(options.rounds)]
    seconds = {name: statistics.median(found[name] for found in rounds) for name in parts}
    share: dict[str, float] = {}
    for kind in ("trained", "untrained"):
        scores = seconds[kind] + seconds["counts"]
        total, users = seconds["forward"] + scores, seconds[f"{kind}, users"]
        share[kind] = scores / total
        print(
            f"  {kind:10s} counts {seconds['counts'] / total:6.2%}, scores {share[kind]:6.2%} of {1e3 * total:.0f} ms; "
            f"as users write it {users / (seconds['forward'] + users):6.2%}, {users / scores:.1f} times as long"
        )
    met = share["trained"] <= GOAL
    print(f"goal: scores at most {GOAL:.0%} with trained logits: {share['trained']:.2%}, {'met' if met else 'MISSED'}")
    return met


def measure(method: str, classes: int, options: argparse.Namespace) -> dict[str, float]:
    """One process's result: seconds of the best step, and bytes of extra peak memory."""
    import torch
    import torch.nn.functional as F

    from segkit.logits import resized_argmax

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    mask = masks(options.batch_size, classes)
    given = torch.randn(len(mask), classes, EDGE // STRIDE, EDGE // STRIDE)
    if method != "ours_noise":
        given = trained_logits(mask, classes)
    if method == "whole_channels_last":
        given = given.contiguous(memory_format=torch.channels_last)

    def step(logits: Any, edge: int) -> None:
        if method.startswith("ours"):
            resized_argmax(logits, (edge, edge))
        else:
            F.interpolate(logits, size=(edge, edge), mode="bilinear", align_corners=False).argmax(dim=1)

    step(given[:1, :, :8, :8], 32)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    step(given, EDGE)
    extra = _status("VmHWM") - before
    return {"seconds": min(timed(lambda: step(given, EDGE)) for _ in range(STEPS)), "extra": extra}


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {key}")


def labels(classes: int, options: argparse.Namespace) -> None:
    """Print time and memory of the ways to labels."""
    command = [sys.executable, __file__, "--threads", str(options.threads), "--batch-size", str(options.batch_size)]
    command += ["--classes", str(classes)]
    results: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
    for _ in range(options.rounds):
        for method, found in results.items():
            done = subprocess.run([*command, "--measure", method], check=True, stdout=subprocess.PIPE, text=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    full = 4 * options.batch_size * classes * EDGE**2
    seconds = {method: statistics.median(r["seconds"] for r in found) for method, found in results.items()}
    extra = {method: statistics.median(r["extra"] for r in found) for method, found in results.items()}
    size = (options.batch_size, classes, EDGE // STRIDE, EDGE // STRIDE)
    print(f"\nlabels at {EDGE} x {EDGE} of {size} logits; one full-size float32 tensor: {full / 1e6:.0f} MB")
    print(f"{'':46s}{'ms':>8s}{'of whole':>10s}{'extra peak of one full-size':>30s}")
    for method, name in METHODS.items():
        print(
            f"{name:46s}{1000 * seconds[method]:8.0f}{seconds[method] / seconds['whole']:10.2f}"
            f"{extra[method] / full:30.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--classes", type=int, nargs="+", default=[19, 150])
    parser.add_argument("--measure", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.classes[0], options)))
        return
    met = [shares(classes, options) for classes in options.classes]
    for classes in options.classes:
        labels(classes, options)
    sys.exit(0 if all(met) else 1)


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    main()
