"""Losses that need full-size maps, computed for one class at a time, so that no more than a few maps exist at once.

Shape suffixes: B batch, C classes, H W mask pixels, h w pixels of the logits.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from segkit.losses.base import Head
from segkit.losses.tiled.class_sums import full_precision
from segkit.losses.tiled.resize import Resizing
from segkit.losses.tiled.tiling import Band, Plan


class Judge(Protocol):
    """What a loss says of one class."""

    def __call__(self, number: int, map_BHW: Tensor) -> tuple[Tensor, Tensor]:
        """The loss (scalar) of class `number` and its derivative (B, H, W) in the class's full-size map.

        The map holds the probabilities of a softmax, or, where `sigmoid`, the logits.
        """
        ...


@torch.compiler.disable()
def sum_over_classes(head: Head, judge: Judge, weights_C: Tensor, *, sigmoid: bool) -> Tensor:
    """The weighted sum of what `judge` says of each class of a head, from its resized logits.

    The gradient is found in the forward pass, if at all, and only scaled in the backward pass: a judge may sort
    millions of pixels, and is asked once.
    """
    size = (head.mask.shape[-2], head.mask.shape[-1])
    learning = torch.is_grad_enabled() and head.logits.requires_grad
    return _SumOverClasses.apply(head.logits, size, judge, weights_C, sigmoid, learning)


class _SumOverClasses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, size: tuple[int, int], judge: Judge, weights_C: Tensor, sigmoid: bool, learning: bool
    ) -> Tensor:
        resizing = Resizing(logits, size)
        with full_precision(logits.device):
            log_sum_BHW = None if sigmoid else _log_sum(resizing)
            total, gradient = _evaluated(resizing, judge, weights_C.to(resizing.dtype), log_sum_BHW, learning)
        if gradient is not None:
            ctx.save_for_backward(gradient.to(logits.dtype))
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0].to(gradient.dtype), None, None, None, None, None


def _log_sum(resizing: Resizing) -> Tensor:
    """The logarithm of the denominator of the softmax, (B, H, W)."""
    plan = Plan(resizing, held_at_once=3)
    log_sum_BHW = torch.empty(len(resizing.logits), *resizing.size, dtype=resizing.dtype, device=resizing.logits.device)

    def fill(band: Band, sibling: Resizing) -> None:
        for tile in plan.tiles(band):
            log_sum_BHW[tile.images, tile.rows, tile.columns] = sibling.tile(tile).logsumexp(dim=2)

    for _ in plan.each(fill):
        pass
    return log_sum_BHW


def _evaluated(
    resizing: Resizing, judge: Judge, weights_C: Tensor, log_sum_BHW: Tensor | None, learning: bool
) -> tuple[Tensor, Tensor | None]:
    """The sum over classes and, if `learning`, its gradient; of a softmax where there is a `log_sum`.

    With a_k the derivative in p_k, that in logit k is p_k a_k - p_k (sum over j of p_j a_j): the second term is known
    only when every class has been evaluated.
    """
    gradient = resizing.gradient() if learning else None
    total = torch.zeros_like(weights_C[0])
    shared_BHW = None if log_sum_BHW is None else torch.zeros_like(log_sum_BHW)

    def map_of(number: int) -> Tensor:
        logits_BHW = resizing.one_class(number)
        return logits_BHW if log_sum_BHW is None else logits_BHW.sub(log_sum_BHW).exp_()

    for number, weight in enumerate(weights_C):
        # Saves work on CPUs; a GPU would have to be waited for.
        if not weight.is_cuda and weight == 0:
            continue
        map_BHW = map_of(number)
        value, slope_BHW = judge(number, map_BHW)
        total += weight * value
        if gradient is None:
            continue
        slope_BHW = weight * slope_BHW
        if shared_BHW is not None:
            slope_BHW *= map_BHW
            shared_BHW += slope_BHW
        gradient[:, number] += resizing.transposed(slope_BHW)
    if gradient is not None and shared_BHW is not None:
        for number in range(len(weights_C)):
            gradient[:, number] -= resizing.transposed(shared_BHW * map_of(number))
    return total, gradient
