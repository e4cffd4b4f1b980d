"""The largest batch that fits into memory, found by training steps in a process of its own: `trainer.autobatch`.

In a process of its own because memory that ran out there ends a trial and not the run, and because what it used is
given back whole. Drawn images of the training data's size stand in for the data.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from segkit.config.schema import RootSettings, checked
from segkit.contracts import Batch, SampleSource
from segkit.data.transforms.apply import augmented
from segkit.engine import heap, memory
from segkit.errors import RunFailure, UserError
from segkit.experiment import mean_and_std

log = logging.getLogger(__name__)

SHARE = 0.85
"""Of the free memory that may be used: allocators leave gaps, and evaluation and workers need some."""

FIRST_SIZES = (2, 4, 8)
LARGEST = 4096


def settled(values: dict[str, Any], settings: RootSettings, source: SampleSource, transform: Any) -> RootSettings:
    """The settings with the largest batch size that fits. `values` is changed with them.

    Raises RunFailure if not even one image fits.
    """
    values["trainer"]["batch_size"] = _found(values, settings, source, transform)
    return checked(RootSettings, values)


@dataclass(frozen=True)
class Need:
    """Bytes that training takes as a function of the batch size: `fixed + per_image * size`."""

    fixed: float
    per_image: float

    @classmethod
    def of(cls, peaks: Mapping[int, int]) -> Need:
        """The line through the two largest batches measured, which are the least disturbed by what is fixed."""
        (small, low), (large, high) = sorted(peaks.items())[-2:]
        per_image = max((high - low) / (large - small), 1.0)
        return cls(high - per_image * large, per_image)

    def fits(self, num_bytes: float) -> int:
        return int((num_bytes - self.fixed) / self.per_image)


def _found(values: dict[str, Any], settings: RootSettings, source: SampleSource, transform: Any) -> int:
    sample = augmented(transform, source, 0, 0)
    mask_shape = sample.mask.shape if sample.mask.ndim == 2 else (sample.mask.shape[-1], *sample.mask.shape[:2])
    drawn = {
        "image": [*sample.image.shape[-1:], *sample.image.shape[:2]],
        "image_type": str(sample.image.dtype),
        "mask": list(mask_shape),
        "mask_type": str(sample.mask.dtype),
        "classes": 2 if source.labels.multilabel else source.labels.num_classes,
    }
    most = min(len(source), LARGEST)
    with _Probe(values, drawn) as probe:
        peaks: dict[int, int] = {}
        for size in sorted({min(size, most) for size in FIRST_SIZES}):
            peak = probe.peak(size)
            if peak is None:
                most = size - 1
                break
            peaks[size] = peak
        if len(peaks) < 2:
            return _of_few(probe, peaks, most)
        free = probe.free
        batch_size = max(max(peaks), min(most, Need.of(peaks).fits(free * SHARE)))
        # A GPU tells when memory runs out; a CPU's process would be killed, or the whole machine brought to a halt.
        while probe.can_run_out and batch_size > max(peaks):
            peak = probe.peak(batch_size)
            if peak is not None:
                peaks[batch_size] = peak
                break
            batch_size = max(max(peaks), int(batch_size * 0.9))
        _tell(batch_size, settings.trainer.batch_size, Need.of(peaks), free, most)
    return batch_size


def _of_few(probe: _Probe, peaks: Mapping[int, int], most: int) -> int:
    """The answer where fewer than two sizes could be measured."""
    if peaks:
        return max(peaks)
    if most == 1 and probe.peak(1) is not None:  # two were too many
        return 1
    raise RunFailure(
        "trainer.autobatch: not even one image fits into memory. What helps: smaller crops (dataset.crop_size), "
        "trainer.precision=auto, backbone.gradient_checkpointing=true, a smaller backbone"
    )


def _tell(batch_size: int, asked: int, need: Need, free: int, most: int) -> None:
    takes = (need.fixed + need.per_image * batch_size) / memory.GIB
    why = "all training images" if batch_size == most else f"{free / memory.GIB:.1f} GiB are free"
    log.info(
        "trainer.autobatch: trainer.batch_size=%d in place of %d takes about %.1f GiB (%.2f GiB an image; %s). "
        "The learning rate stays as it is; larger batches often want a higher one",
        batch_size,
        asked,
        takes,
        need.per_image / memory.GIB,
        why,
    )


class _Probe:
    """A process that trains on drawn batches and says how much memory that took.

    Attributes:
        free: bytes that the process may come to use.
        can_run_out: whether too large a batch is an answer and not the end of the process.
    """

    def __init__(self, values: dict[str, Any], drawn: dict[str, Any]):
        # JSON would make text of keys that are numbers.
        self._question = {"values": yaml.safe_dump(values), "drawn": drawn}
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from segkit.experiment.autobatch import probe; probe()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        self._send(self._question)
        told = self._answer()
        if told is None:
            raise RunFailure("trainer.autobatch: the process that tries batches ended before the first; see above")
        self.free, self.can_run_out = int(told["free"]), bool(told["can_run_out"])

    def __enter__(self) -> _Probe:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def peak(self, size: int) -> int | None:
        """Bytes in use at most while training on `size` images, or None if they were too many."""
        self._send({"size": size})
        answer = self._answer()
        if answer is None:
            code = self._process.wait()
            if code != -signal.SIGKILL:
                raise RunFailure(f"trainer.autobatch: a training step failed (exit code {code}); see above")
            self._start()  # killed by the system for want of memory
            return None
        return answer["peak"]

    def _send(self, content: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(content) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer will be missing

    def _answer(self) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("segkit-probe "):
                return json.loads(line.removeprefix("segkit-probe "))
        return None


def probe() -> None:
    """What the process does: training steps of the sizes asked for on stdin, and answers on stdout, as JSON lines."""
    from segkit.experiment.training import build_learning, build_strategy

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process too
    question = json.loads(sys.stdin.readline())
    values, drawn = yaml.safe_load(question["values"]), question["drawn"]
    values["trainer"]["compile"] = False
    options = checked(RootSettings, values).trainer
    if options.num_threads is not None:
        torch.set_num_threads(options.num_threads)
    heap.keep()  # as in training
    strategy = build_strategy(values, options)
    on_gpu = strategy.device.type == "cuda"
    # What this process has taken by now is part of the peaks to come.
    taken = 0 if on_gpu else memory.used(strategy.device)
    free = taken + (torch.cuda.mem_get_info(strategy.device)[0] if on_gpu else _free_on_host())
    _say({"free": free, "can_run_out": on_gpu})
    learning = build_learning(values, options, strategy, steps_per_epoch=1, normalization=mean_and_std.decide(values))
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
                strategy.backward(learning.loss(prediction, batch.mask).total)
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
    return Batch(images, mask, tuple(map(str, range(size))))


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
    """Bytes that this process may use: what the machine has free, or what its container is allowed."""
    if not Path("/proc/self/clear_refs").exists():
        raise UserError("trainer.autobatch=true: on a CPU only Linux can tell; give trainer.batch_size yourself")
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    assert found is not None
    free = int(found.group(1)) * 1024
    root = Path("/sys/fs/cgroup")
    old = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")
    for limit, used in (("memory.max", "memory.current"), old):
        try:
            free = min(free, int((root / limit).read_text()) - int((root / used).read_text()))
        except (OSError, ValueError):  # no such controller, or "max"
            continue
    return free
