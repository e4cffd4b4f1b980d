"""Where the time of a step goes: a trace of some steps, and one page that sums it up."""

from __future__ import annotations

import contextlib
import gzip
import logging
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Generator
from contextlib import AbstractContextManager
from typing import Any

import torch

from segkit.engine import memory
from segkit.run.run_folder import RunFolder

log = logging.getLogger(__name__)

# Kineto would tell everybody without a GPU that there is none.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

WARM_UP_STEPS = 3
MEASURED_STEPS = 10
REGIONS = {
    "data wait": "a batch from the loader",
    "forward": "the model, and the batch's way to the device",
    "loss": "the loss of the logits",
    "backward": "gradients",
    "optimizer": "clipping, weights, schedule, average of the weights",
}


class Profile:
    """Does nothing: what the loop calls when `trainer.profile` is off."""

    def region(self, name: str) -> AbstractContextManager[Any]:
        """Part `name` of a step."""
        return contextlib.nullcontext()

    def step_done(self, num_images: int) -> None:
        """A step is over, its line in the log included."""

    def close(self) -> None:
        """The loop is over; a measurement that is still under way is written as it is."""


class StepProfile(Profile):
    """Measures the steps after a short warm-up, then writes profile/trace.json.gz and profile/summary.md.

    The device is waited for at both ends of each part, so that work is counted where it was asked for; measured
    steps are therefore somewhat slower on a GPU than others.
    """

    def __init__(self, folder: RunFolder, device: torch.device):
        self._folder = folder
        self._device = device
        self._steps_seen = 0
        self._images = 0
        self._seconds: dict[str, float] = defaultdict(float)
        self._started = 0.0
        self._profiler: torch.profiler.profile | None = None

    @contextlib.contextmanager
    def region(self, name: str) -> Generator[None]:
        assert name in REGIONS, name
        if self._profiler is None:
            yield
            return
        started = self._now()
        with torch.profiler.record_function(name):
            yield
        self._seconds[name] += self._now() - started

    def step_done(self, num_images: int) -> None:
        self._steps_seen += 1
        if self._profiler is not None:
            self._images += num_images
        if self._steps_seen == WARM_UP_STEPS:
            activities = [torch.profiler.ProfilerActivity.CPU]
            if self._device.type == "cuda":
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            self._profiler = torch.profiler.profile(activities=activities, acc_events=True)
            self._profiler.start()
            self._started = self._now()
        elif self._steps_seen == WARM_UP_STEPS + MEASURED_STEPS:
            self.close()

    def close(self) -> None:
        profiler, self._profiler = self._profiler, None
        measured = self._steps_seen - WARM_UP_STEPS
        if profiler is None or measured <= 0:
            if self._steps_seen < WARM_UP_STEPS + 1:
                log.warning("trainer.profile: too few steps to measure; it takes more than %d", WARM_UP_STEPS)
            return
        total = self._now() - self._started
        profiler.stop()
        try:
            self._write(profiler, measured, total)
        except OSError as error:  # a profile is not worth a run
            log.warning("the profile could not be written: %s", error)

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _write(self, profiler: torch.profiler.profile, measured: int, total: float) -> None:
        folder = self._folder.path / "profile"
        folder.mkdir(exist_ok=True)
        plain = folder / "trace.json"
        profiler.export_chrome_trace(str(plain))
        trace = folder / "trace.json.gz"
        with plain.open("rb") as whole, gzip.open(trace, "wb", compresslevel=5) as packed:
            shutil.copyfileobj(whole, packed)
        plain.unlink()
        summary = folder / "summary.md"
        summary.write_text(self._page(profiler, measured, total))
        for path in (trace, summary):
            self._folder.list_artifact(path, "profile")
        shares = ", ".join(f"{name} {self._seconds[name] / total:.0%}" for name in REGIONS)
        log.info("profile of %d steps: %s; see %s", measured, shares, summary)

    def _page(self, profiler: torch.profiler.profile, measured: int, total: float) -> str:
        lines = [
            f"# Where {measured} training steps spent their time",
            "",
            f"{self._device}, {total / measured * 1000:.1f} ms a step, {self._images / total:.2f} images/s, "
            f"{memory.peak(self._device) / memory.GIB:.2f} GiB of memory at most.",
            "",
            "| part | ms a step | share | |",
            "|---|---:|---:|---|",
        ]
        rest = total - sum(self._seconds.values())
        parts = [(name, self._seconds[name], what) for name, what in REGIONS.items()]
        for name, seconds, what in [*parts, ("everything else", rest, "the log, the display, the loop itself")]:
            lines.append(f"| {name} | {seconds / measured * 1000:.2f} | {seconds / total:.1%} | {what} |")
        lines += ["", _advice({name: seconds / total for name, seconds, _ in parts}), "", "## Operators", ""]
        lines += _operators(profiler, measured, on_gpu=self._device.type == "cuda")
        lines += ["", "The whole trace: open trace.json.gz at https://ui.perfetto.dev or chrome://tracing.", ""]
        return "\n".join(lines)


def _operators(profiler: torch.profiler.profile, measured: int, *, on_gpu: bool) -> list[str]:
    """A table of the operators that take longest by themselves."""
    # PyTorch's list is not typed.
    events: list[Any] = [event for event in profiler.key_averages() if event.key not in REGIONS]  # pyright: ignore
    spent = {
        event.key: float(event.self_device_time_total if on_gpu else event.self_cpu_time_total) for event in events
    }
    calls = {event.key: int(event.count) for event in events}
    whole = sum(spent.values()) or 1.0
    device = "GPU" if on_gpu else "CPU"
    lines = [f"| operator | calls a step | {device} ms a step | share |", "|---|---:|---:|---:|"]
    for name in sorted(spent, key=lambda name: spent[name], reverse=True)[:15]:
        numbers = f"{calls[name] / measured:.1f} | {spent[name] / measured / 1000:.2f} | {spent[name] / whole:.1%}"
        lines.append(f"| `{name}` | {numbers} |")
    return lines


def _advice(shares: dict[str, float]) -> str:
    if shares["data wait"] > 0.1:
        return (
            f"**The model waits for data {shares['data wait']:.0%} of the time.** More trainer.num_workers, "
            "dataset.decoded_cache=disk, or a lighter transform would help."
        )
    longest = max(shares, key=lambda name: shares[name])
    if longest in ("forward", "backward"):
        return (
            "The network itself takes most of the time. A faster precision (trainer.precision=auto), "
            "trainer.compile=true or a smaller backbone would help; the loop would not."
        )
    return f"Most of the time goes into: {longest}."
