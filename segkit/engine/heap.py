"""What becomes of memory that the process has freed: kept for the next step, or given back to the system."""

from __future__ import annotations

import ctypes
from functools import cache

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep() -> None:
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
    """Give freed memory back, where the C library can.

    Tensors of ever new sizes do not fit into the gaps that others left, and the process grows without holding more.
    """
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


@cache
def _of_glibc(name: str) -> ctypes._NamedFuncPointer | None:  # pyright: ignore[reportPrivateUsage]
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError, TypeError):  # another C library than glibc
        return None
