"""What of this machine a process may use."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import psutil

CONTROL_GROUP = Path("/sys/fs/cgroup")
MEMORY_FILES = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),  # of version 1
)


def available_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Bytes that can be had without swapping, within the limit of the control group if there is one."""
    available = psutil.virtual_memory().available
    for limit, used in MEMORY_FILES:
        with contextlib.suppress(OSError, ValueError):  # no such controller, or "max"
            limit_bytes = int((CONTROL_GROUP / limit).read_text())
            available = min(available, limit_bytes - int((CONTROL_GROUP / used).read_text()))
    return max(0, available)
