"""Memory that PyTorch has freed: it stays for the next step, until it is given back."""

from __future__ import annotations

import subprocess
import sys

import pytest

# A process of its own: where the C library puts a block depends on all that its process did before.
START = """
import sys
import torch
from segkit.engine import memory

device = torch.device("cpu")
memory.keep_freed()
"""
BLOCKS = """
block = int(sys.argv[1]) * 2**20
tensors = [torch.ones(block, dtype=torch.uint8) for _ in range(512 * 2**20 // block)]
held = memory.used(device)
del tensors
print((held - memory.used(device)) // 2**20)
memory.give_back()
print((held - memory.used(device)) // 2**20)
"""
SIZES = """
def evaluate(on_batch, number):
    for size in range(number):
        kept = torch.ones((1 + size) * 2**20, dtype=torch.uint8)
        del kept
        on_batch(size)

calls = []
with memory.given_back(calls.append) as on_batch:
    evaluate(on_batch, memory.BATCHES_HELD - 1)
    before = memory.used(device)
    on_batch(15)
    print((before - memory.used(device)) // 2**20)
    evaluate(on_batch, 8)
    before = memory.used(device)
print((before - memory.used(device)) // 2**20, calls == [*range(16), *range(8)])
"""

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what is promised of glibc")


def printed(script: str, *arguments: str) -> list[str]:
    command = [sys.executable, "-c", START + script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout.split()


@linux
@pytest.mark.parametrize("mebibytes", [16, 256])  # below and above what glibc maps by itself
def test_freed_memory_stays_until_it_is_given_back(mebibytes: int):
    freed, given_back = map(int, printed(BLOCKS, str(mebibytes)))
    assert freed < 32
    assert 480 < given_back < 640


@linux
def test_an_evaluation_gives_memory_back_now_and_then_and_at_its_end():
    after_16_batches, at_the_end, all_called = printed(SIZES)
    assert int(after_16_batches) >= 14  # the largest so far: 15 MiB
    assert int(at_the_end) >= 7
    assert all_called == "True"
