"""The per-class sums that cross-entropy, Dice and their kin are functions of, without the full-size logits.

`class_sums` takes logits at their own stride and the full-size mask. It resizes a tile of logits at a time, adds
up what the tile says, and forgets it; the backward pass makes each tile once more and takes its gradient straight back
to the logits. What it computes, and its gradient, are those of `logits.resize_logits` followed by the sums.

A kernel for one kind of device (say, in Triton) has one place to go: `_ClassSums` calls `_forward` and `_backward`,
which take and give plain tensors.

Shape suffixes: B batch, C classes, H W mask pixels; b images.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segkit.losses.tiled.probabilities import Reading, SigmoidTile, SoftmaxTile
from segkit.losses.tiled.resize import Resizing, Tile
from segkit.losses.tiled.tiling import Band, Plan


class ClassSums(NamedTuple):
    """Sums over the valid pixels of each sample, (B, C), float64 for float64 logits, else float32.

    p is the probability of a class at a pixel and y, 0 or 1, its truth.

    Attributes:
        overlap: of p y.
        predicted: of p.
        truth: of y.
        terms: the number of terms in `nll` and `nll_absent`: a softmax has one at the true class of each pixel
            (so this is `truth`), sigmoids at every class.
        nll: of -(1 - p)^gamma log p where y = 1: the negative log-likelihood, with the focal factor.
        nll_absent: of -p^gamma log(1 - p) where y = 0; zeros for a softmax.
        uniform: of -log p / C, or of -(log p + log(1 - p)) / 2 for sigmoids: the cross-entropy of a truth that knows
            nothing. Zeros unless asked for.
    """

    overlap: Tensor
    predicted: Tensor
    truth: Tensor
    terms: Tensor
    nll: Tensor
    nll_absent: Tensor
    uniform: Tensor


@torch.compiler.disable()
def class_sums(logits: Tensor, mask: Tensor, reading: Reading) -> ClassSums:
    """The sums for logits (B, C, h, w) of any floating type and a full-size mask of any integer type.

    The mask is (B, H, W) with class ids, or, for sigmoids only, (B, C, H, W) of 0 and 1. Extra memory: a few tiles, and
    the gradient of the logits. Runs eagerly inside `torch.compile`.

    Raises:
        RuntimeError: ids out of range; on CUDA as an assertion of the device.
    """
    overlap, predicted, nll, nll_absent, uniform, truth, terms = _ClassSums.apply(logits, mask, reading)
    return ClassSums(overlap, predicted, truth, terms, nll, nll_absent, uniform)


@torch.compiler.disable()
@torch.no_grad()
def pixel_nll(logits: Tensor, mask: Tensor, reading: Reading) -> Tensor:
    """-log p of what is true at each entry of the mask, in its shape; 0 where ignored. Has no gradient."""
    kept = torch.zeros(mask.shape, dtype=_dtype(logits), device=logits.device)
    with full_precision(logits.device):
        _forward(logits, mask, reading, keep_nll=kept)
    return kept


class _ClassSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, mask: Tensor, reading: Reading) -> tuple[Tensor, ...]:
        ctx.save_for_backward(logits, mask)
        ctx.reading = reading
        with full_precision(logits.device):
            sums_7BC = _forward(logits, mask, reading)
        ctx.mark_non_differentiable(sums_7BC[5], sums_7BC[6])
        return tuple(sums_7BC)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        logits, mask = ctx.saved_tensors
        with full_precision(logits.device):
            return _backward(logits, mask, ctx.reading, torch.stack(gradients[:5])), None, None


def _forward(logits: Tensor, mask: Tensor, reading: Reading, keep_nll: Tensor | None = None) -> list[Tensor]:
    """Seven sums, (B, C) each, in the order of `sums` below."""
    plan = Plan(Resizing(logits, _size(mask)), _held_at_once(logits, reading))

    def sums_of(band: Band, resizing: Resizing) -> Tensor:
        sums_7bC = torch.zeros(7, len(logits[band.images]), logits.shape[1], dtype=torch.float64, device=logits.device)
        for tile in plan.tiles(band):
            read = _read(resizing, mask, tile, reading)
            first = tile.images.start - band.images.start
            sums_7bC[:, first : first + len(read.mask)] += read.sums()
            if keep_nll is not None:
                keep_nll[tile.images, ..., tile.rows, tile.columns] = read.nll()
        return sums_7bC

    # Added up in float64: in float32 the small probabilities of a tile would vanish beside a large image's sum.
    total_7BC = torch.zeros(7, *logits.shape[:2], dtype=torch.float64, device=logits.device)
    for band, sums_7bC in plan.each(sums_of):
        total_7BC[:, band.images] += sums_7bC
    return list(total_7BC.to(plan.resizing.dtype).unbind())


def _backward(logits: Tensor, mask: Tensor, reading: Reading, gradients_5BC: Tensor) -> Tensor:
    """The gradient of the logits, given those of the first five sums."""
    plan = Plan(Resizing(logits, _size(mask)), _held_at_once(logits, reading))
    gradients_5BC = gradients_5BC.to(plan.resizing.dtype)
    gradient = plan.resizing.gradient()

    def gradient_of(band: Band, resizing: Resizing) -> Tensor:
        part = gradient[band.images, :, band.patch_rows]
        # Neighbouring bands share rows of the logits: what is added to them in turn is collected first.
        target = part if resizing.same_size else torch.zeros_like(part)
        for tile in plan.tiles(band):
            read = _read(resizing, mask, tile, reading)
            resizing.add_gradient(tile, read.gradient(gradients_5BC[:, tile.images]), target, band.origin)
        return target

    for band, part in plan.each(gradient_of):
        if not plan.resizing.same_size:
            gradient[band.images, :, band.patch_rows] += part
    return gradient.to(logits.dtype)


def _size(mask: Tensor) -> tuple[int, int]:
    return mask.shape[-2], mask.shape[-1]


def _dtype(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _read(resizing: Resizing, mask: Tensor, tile: Tile, reading: Reading) -> SoftmaxTile | SigmoidTile:
    part = mask[tile.images, ..., tile.rows, tile.columns]
    return (SigmoidTile if reading.sigmoid else SoftmaxTile)(resizing, resizing.tile(tile), part, reading)


def _held_at_once(logits: Tensor, reading: Reading) -> int:
    """Tensors of a tile's size that one tile needs."""
    if reading.sigmoid:
        return 12
    return 4 if logits.is_cuda else 2


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Neither autocast nor TF32: the matrices here resize logits, and a resized logit must not lose its digits."""
    backend: Any = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    matmul = backend.matmul
    before = matmul.fp32_precision
    with torch.autocast(device.type, enabled=False):
        matmul.fp32_precision = "ieee"
        try:
            yield
        finally:
            matmul.fp32_precision = before
