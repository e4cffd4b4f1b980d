"""Memory: how much of it this process uses, and what to say when there is too little."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator, Sequence
from pathlib import Path

import torch

from segkit.config.schema import TrainerSettings
from segkit.errors import RunFailure

GIB = 2**30

# What PyTorch's CPU allocator says; on CUDA there is an exception for it.
ALLOCATION_FAILED = ("DefaultCPUAllocator: can't allocate", "DefaultCPUAllocator: not enough memory", "std::bad_alloc")


def used(device: torch.device) -> int:
    """Bytes in use now: PyTorch's on a CUDA device, else the resident memory of this process (workers apart)."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # no Linux; the peak is what the system tells
        return peak(device)


def peak(device: torch.device) -> int:
    """The most bytes in use at once since this process began, counted as in `used`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def is_shortage(error: BaseException) -> bool:
    """Whether an exception says that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # A RunFailure says already whose memory it was: that of a data worker, say.
    return (
        isinstance(error, RuntimeError)
        and not isinstance(error, RunFailure)
        and any(text in str(error) for text in ALLOCATION_FAILED)
    )


@contextlib.contextmanager
def shortage_told(doing: str, remedies: Sequence[str], device: torch.device, kept: str = "") -> Generator[None]:
    """Turns an exception that means too little memory into a RunFailure that says what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise RunFailure(
            f"out of memory on {device} {doing} ({peak(device) / GIB:.1f} GiB in use at most): {said}\n"
            f"{kept}What helps, any of:\n  " + "\n  ".join(remedies)
        ) from error


@contextlib.contextmanager
def shortage_explained(settings: TrainerSettings, device: torch.device) -> Generator[None]:
    """The same for a training run."""
    remedies = list[str]()
    if settings.batch_size > 1:
        half = settings.batch_size // 2
        remedies.append(
            f"trainer.batch_size={half} trainer.accumulate={settings.accumulate * 2} (as many images a step)"
        )
    if settings.evaluate.batch_size > 1:
        remedies.append("trainer.evaluate.batch_size=1, if an evaluation was under way")
    remedies.append("trainer.autobatch=true, which finds the largest batch that fits")
    if settings.precision == "fp32":
        remedies.append("trainer.precision=auto")
    remedies += ["backbone.gradient_checkpointing=true", "smaller crops (dataset.crop_size)"]
    kept = "The last checkpoint is kept; go on with resume=auto in the same folder. "
    with shortage_told(f"with trainer.batch_size={settings.batch_size}", remedies, device, kept):
        yield
