"""Memory: how much of it this process uses, what becomes of what it frees, and what to say when there is too little."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Generator, Sequence
from functools import cache
from pathlib import Path

import torch

from segkit.config.schema import TrainerSettings
from segkit.errors import RunFailure

GIB = 2**30

# Of glibc's malloc.h: PyTorch has no setting of its own for what its CPU allocator, malloc, does with freed memory.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4

# Batches of an evaluation after which freed memory is given back to the system.
BATCHES_HELD = 16

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


def keep_freed() -> None:
    """Have freed memory stay with the process, where the C library can, so that the next step finds it there.

    As it is, glibc maps every tensor of tens of megabytes anew, and the system clears each page of it when it is
    touched: with the activations of a training step on a CPU, in every step again. It is a setting of the process, so
    for commands to choose, and not for parts that others may import. After an allocation that failed, glibc serves the
    thread from another arena, which maps blocks above 64 MiB all the same.
    """
    set_option = _of_glibc("mallopt")
    if set_option is not None:
        set_option(M_MMAP_MAX, 0)
        set_option(M_TRIM_THRESHOLD, 2**31 - 1)


def give_back() -> None:
    """Give freed memory back to the system, where the C library can."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


@contextlib.contextmanager
def given_back(on_batch: Callable[[int], None]) -> Generator[Callable[[int], None]]:
    """For an evaluation in a process that keeps freed memory: `on_batch`, which then gives it back now and then.

    Tensors of ever new sizes do not fit into the gaps that others left, and the process would grow without holding
    more; at the end, because whole images leave other gaps than crops fill.
    """
    batches = 0

    def count(done: int) -> None:
        nonlocal batches
        on_batch(done)
        batches += 1
        if batches % BATCHES_HELD == 0:
            give_back()

    yield count
    give_back()


@cache
def _of_glibc(name: str) -> Callable[..., int] | None:
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError, TypeError):  # another C library than glibc
        return None


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
