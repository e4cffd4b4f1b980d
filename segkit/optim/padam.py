"""Padam, a partially adaptive Adam."""

# PyTorch's own optimizers are written with its foreach functions, private as their names are.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from segkit.contracts import UserError

MOMENTS = ("first", "second", "largest_second")


class Padam(Optimizer):
    """AMSGrad whose second moment is raised to `partial` in place of 1/2.

    Chen et al., "Closing the Generalization Gap of Adaptive Gradient Methods in Training Deep Neural
    Networks" (arXiv 1806.06763), algorithm 1, with Adam's bias corrections, so that `partial` 0.5 is
    AMSGrad; towards 0 it becomes SGD with momentum, and takes its larger learning rates (the paper: 0.1).
    Weight decay is added to the gradient, as in Adam.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 0.1,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        partial: float = 0.125,
    ) -> None:
        if not 0 < partial <= 0.5:
            raise UserError(f"optimizer.optimizer.partial={partial}; allowed: above 0, up to 0.5")
        if not all(0 <= beta < 1 for beta in betas):
            raise UserError(f"optimizer.optimizer.betas={list(betas)}; allowed: from 0 up to, but not, 1")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "partial": partial}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._update(parameters, group)
        return loss

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        states = [self._state(parameter) for parameter in parameters]
        first, second, largest = ([state[name] for state in states] for name in MOMENTS)
        beta1, beta2 = group["betas"]
        # One kernel for many parameters where the device has such kernels.
        gradients = torch._foreach_add(
            [p.grad for p in parameters if p.grad is not None], parameters, alpha=group["weight_decay"]
        )
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, value=1 - beta2)
        torch._foreach_maximum_(largest, second)
        scales = torch._foreach_div(largest, [1 - beta2 ** state["step"] for state in states])
        torch._foreach_sqrt_(scales)
        torch._foreach_add_(scales, group["eps"])
        torch._foreach_pow_(scales, 2 * group["partial"])
        step_sizes = [-group["lr"] / (1 - beta1 ** state["step"]) for state in states]
        torch._foreach_addcdiv_(parameters, first, scales, step_sizes)

    def _state(self, parameter: Tensor) -> dict[str, Any]:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            for name in MOMENTS:
                state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["step"] += 1
        return state
