"""Exponential moving average of a model's weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Ema:
    """A copy of `model` whose floating-point weights and buffers follow it slowly.

    After each step, average <- d * average + (1 - d) * weights, with d = min(decay, (1 + n) / (10 + n)) at
    update n, so that the random start is forgotten quickly (as in TensorFlow's ExponentialMovingAverage).
    Integer buffers are copied.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        averages: list[Tensor] = []
        values: list[Tensor] = []
        ours, theirs = self.model.state_dict(), model.state_dict()
        for name, average in ours.items():
            if average.is_floating_point():
                averages.append(average)
                values.append(theirs[name])
            else:
                average.copy_(theirs[name])
        torch._foreach_lerp_(averages, values, 1 - decay)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "model": self.model.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updates = int(state["updates"])
        self.model.load_state_dict(state["model"])
