"""Memory that PyTorch has freed: it stays for the next step, until it is given back."""

from __future__ import annotations

import sys

import pytest
import torch

from segkit.engine import heap, memory

MIB = 2**20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what is promised of glibc")
@pytest.mark.parametrize("mebibytes", [16, 256])  # below and above what glibc maps by itself
def test_freed_memory_stays_until_it_is_given_back(mebibytes: int):
    device = torch.device("cpu")
    heap.keep()
    tensors = [torch.ones(mebibytes * MIB, dtype=torch.uint8) for _ in range(512 // mebibytes)]
    held = memory.used(device)
    del tensors
    assert memory.used(device) > held - 32 * MIB
    heap.give_back()
    assert memory.used(device) < held - 480 * MIB
