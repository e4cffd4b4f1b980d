"""Logits at the size of a mask. Imports nothing of segkit."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def resize_logits(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits (B, C, H, W) at `size` = (H, W), bilinear with pixel areas aligned (align_corners=False).

    The one place where logits change size, so that training, evaluation and export agree.
    """
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=(int(size[0]), int(size[1])), mode="bilinear", align_corners=False)
