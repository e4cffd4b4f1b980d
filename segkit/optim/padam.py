"""Padam, a partially adaptive Adam."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from segkit.contracts import UserError


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
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            for name in ("first", "second", "largest_second"):
                state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        gradient = gradient.add(parameter, alpha=group["weight_decay"])
        state["first"].lerp_(gradient, 1 - beta1)
        state["second"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        torch.maximum(state["largest_second"], state["second"], out=state["largest_second"])
        scale = (state["largest_second"] / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
        step_size = group["lr"] / (1 - beta1 ** state["step"])
        parameter.addcdiv_(state["first"], scale.pow_(2 * group["partial"]), value=-step_size)
