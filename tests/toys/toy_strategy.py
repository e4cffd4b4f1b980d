"""A strategy of one's own: one class here, and conf/trainer/toy.yaml."""

from __future__ import annotations

from torch import Tensor
from torch.optim import Optimizer

from segkit.engine.strategy.single_device import Precision, SingleDevice


class SignDescent(SingleDevice):
    """Steps on the signs of the gradients times `size`, as a worker that sends one bit a parameter would."""

    def __init__(self, device: str = "auto", precision: Precision = "auto", size: float = 1.0) -> None:
        super().__init__(device, precision)
        self.size = size

    def step(self, optimizer: Optimizer, clip_norm: float | None) -> Tensor | None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad = parameter.grad.sign() * self.size
        return super().step(optimizer, clip_norm)
