"""The largest batch that fits into memory, found by training steps in a process of its own: `trainer.autobatch`.

In a process of its own because memory that ran out there ends a trial and not the run, and because what it used is
given back whole. Drawn images of the training data's size stand in for the data.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import yaml

from segkit.config.recipe import Recipe
from segkit.contracts import SampleSource
from segkit.data.transforms.apply import augmented
from segkit.engine import memory
from segkit.errors import RunFailure
from segkit.experiment.resolved import Resolved
from segkit.tasks.kinds import task_of

log = logging.getLogger(__name__)

SHARE = 0.85
"""Of the free memory that may be used: allocators leave gaps, and evaluation and workers need some."""

FIRST_SIZES = (2, 4, 8)
LARGEST = 4096


def settled(recipe: Recipe, resolved: Resolved, source: SampleSource, transform: Any) -> Resolved:
    """What is decided, with the largest batch size that fits. Raises RunFailure if not even one image fits."""
    return replace(resolved, batch_size=_found(recipe, resolved, source, transform))


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


def _found(recipe: Recipe, resolved: Resolved, source: SampleSource, transform: Any) -> int:
    sample = augmented(transform, source, 0, 0)
    mask_shape = sample.mask.shape if sample.mask.ndim == 2 else (sample.mask.shape[-1], *sample.mask.shape[:2])
    drawn = {
        "image": [*sample.image.shape[-1:], *sample.image.shape[:2]],
        "image_type": str(sample.image.dtype),
        "mask": list(mask_shape),
        "mask_type": str(sample.mask.dtype),
        "classes": int(task_of(source.labels).example(1, (64, 64)).max()) + 1,
    }
    question = {
        "values": recipe.to_dict(),
        "resolved": resolved.to_dict(),
        "labels": asdict(source.labels),
        "samples": len(source),
        "drawn": drawn,
    }
    most = min(len(source), LARGEST)
    with _Probe(question) as probe:
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
        _tell(batch_size, recipe.settings.trainer.batch_size, Need.of(peaks), free, most)
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

    def __init__(self, question: dict[str, Any]):
        # YAML, as JSON would make text of keys that are numbers.
        self._question = {"experiment": yaml.safe_dump(question)}
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from segkit.experiment.autobatch_probe import main; main()"],
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
