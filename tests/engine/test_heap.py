"""Memory that PyTorch has freed: it stays for the next step, until it is given back."""

from __future__ import annotations

import subprocess
import sys

import pytest

# A process of its own: where the C library puts a block depends on all that its process did before.
SCRIPT = """
import sys
import torch
from segkit.engine import heap, memory

device, block = torch.device("cpu"), int(sys.argv[1]) * 2**20
heap.keep()
tensors = [torch.ones(block, dtype=torch.uint8) for _ in range(512 * 2**20 // block)]
held = memory.used(device)
del tensors
print((held - memory.used(device)) // 2**20)
heap.give_back()
print((held - memory.used(device)) // 2**20)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what is promised of glibc")
@pytest.mark.parametrize("mebibytes", [16, 256])  # below and above what glibc maps by itself
def test_freed_memory_stays_until_it_is_given_back(mebibytes: int):
    command = [sys.executable, "-c", SCRIPT, str(mebibytes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    freed, given_back = map(int, done.stdout.split())
    assert freed < 32
    assert 480 < given_back < 640
