"""The per-class sums that cross-entropy, Dice and their kin are functions of, without the full-size logits.

`class_sums` takes logits at their own stride and the full-size mask. It resizes a tile of logits at a time, adds
up what the tile says, and forgets it; the backward pass makes each tile once more and takes its gradient straight back
to the logits. What it computes, and its gradient, are those of `resizing.resize_logits` followed by the sums.

A kernel for one kind of device (say, in Triton) has one place to go: `_ClassSums` calls `_forward` and `_backward`,
which take and give plain tensors.

Shape suffixes: B batch, C classes, H W mask pixels; b images, R T rows and columns of a tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.losses.bands import Band, Plan
from segkit.losses.resizing import Resizing, Tile


@dataclass(frozen=True)
class Reading:
    """How logits and mask are read.

    Attributes:
        ignore_index: the mask value that counts for nothing.
        sigmoid: every class for itself (p = sigmoid of its logit) in place of a softmax over classes.
        gamma: exponent of the focal factor on the surprise; 0: none.
        even: whether the `even` sums are wanted.
    """

    ignore_index: int
    sigmoid: bool = False
    gamma: float = 0.0
    even: bool = False


class ClassSums(NamedTuple):
    """Sums over the valid pixels of each sample, (B, C), float64 for float64 logits, else float32.

    p is the probability of a class at a pixel and y, 0 or 1, its truth.

    Attributes:
        overlap: of p y.
        predicted: of p.
        truth: of y.
        judged: of the terms in `surprise` and `surprise_absent`: a softmax is judged at the true class of each pixel
            (so this is `truth`), sigmoids at every class.
        surprise: of -(1 - p)^gamma log p where y = 1.
        surprise_absent: of -p^gamma log(1 - p) where y = 0; zeros for a softmax.
        even: of -log p / C, or of -(log p + log(1 - p)) / 2 for sigmoids: the cross-entropy of a truth that knows
            nothing. Zeros unless asked for.
    """

    overlap: Tensor
    predicted: Tensor
    truth: Tensor
    judged: Tensor
    surprise: Tensor
    surprise_absent: Tensor
    even: Tensor


@torch.compiler.disable()
def class_sums(logits: Tensor, mask: Tensor, reading: Reading) -> ClassSums:
    """The sums for logits (B, C, h, w) of any floating type and a full-size mask of any integer type.

    The mask is (B, H, W) with class ids, or, for sigmoids only, (B, C, H, W) of 0 and 1. Extra memory: a few tiles, and
    the gradient of the logits. Runs eagerly inside `torch.compile`.

    Raises:
        RuntimeError: ids out of range; on CUDA as an assertion of the device.
    """
    overlap, predicted, surprise, surprise_absent, even, truth, judged = _ClassSums.apply(logits, mask, reading)
    return ClassSums(overlap, predicted, truth, judged, surprise, surprise_absent, even)


@torch.compiler.disable()
@torch.no_grad()
def pixel_surprise(logits: Tensor, mask: Tensor, reading: Reading) -> Tensor:
    """-log p of what is true at each entry of the mask, in its shape; 0 where ignored. Has no gradient."""
    kept = torch.zeros(mask.shape, dtype=_dtype(logits), device=logits.device)
    with full_precision(logits.device):
        _forward(logits, mask, reading, keep_surprise=kept)
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


def _forward(logits: Tensor, mask: Tensor, reading: Reading, keep_surprise: Tensor | None = None) -> list[Tensor]:
    """Seven sums, (B, C) each, in the order of `sums` below."""
    plan = Plan(Resizing(logits, _size(mask)), _held_at_once(reading))

    def sums_of(band: Band, resizing: Resizing) -> Tensor:
        sums_7bC = torch.zeros(7, len(logits[band.images]), logits.shape[1], dtype=torch.float64, device=logits.device)
        for tile in plan.tiles(band):
            read = _read(resizing, mask, tile, reading)
            first = tile.images.start - band.images.start
            sums_7bC[:, first : first + len(read.mask)] += read.sums()
            if keep_surprise is not None:
                keep_surprise[tile.images, ..., tile.rows, tile.columns] = read.surprise()
        return sums_7bC

    # Added up in float64: in float32 the small probabilities of a tile would vanish beside a large image's sum.
    total_7BC = torch.zeros(7, *logits.shape[:2], dtype=torch.float64, device=logits.device)
    for band, sums_7bC in plan.each(sums_of):
        total_7BC[:, band.images] += sums_7bC
    return list(total_7BC.to(plan.resizing.dtype).unbind())


def _backward(logits: Tensor, mask: Tensor, reading: Reading, gradients_5BC: Tensor) -> Tensor:
    """The gradient of the logits, given those of the first five sums."""
    plan = Plan(Resizing(logits, _size(mask)), _held_at_once(reading))
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


def _read(resizing: Resizing, mask: Tensor, tile: Tile, reading: Reading) -> _Softmax | _Sigmoids:
    part = mask[tile.images, ..., tile.rows, tile.columns]
    return (_Sigmoids if reading.sigmoid else _Softmax)(resizing, resizing.tile(tile), part, reading)


class _Softmax:
    """One tile read as a softmax over classes; in place, in two buffers of the tile's size."""

    def __init__(self, resizing: Resizing, logits_bRCT: Tensor, mask_bRT: Tensor, reading: Reading) -> None:
        self.logits_bRCT, self.mask = logits_bRCT, mask_bRT
        self.reading = reading
        ids_bRT = mask_bRT.long()
        valid_bRT = ids_bRT != reading.ignore_index
        self.target_bR1T = ids_bRT.masked_fill_(~valid_bRT, 0).unsqueeze(2)
        self.valid_bR1T = valid_bRT.to(logits_bRCT.dtype).unsqueeze(2)
        batch, _, classes, _ = logits_bRCT.shape
        image_b111 = torch.arange(batch, device=mask_bRT.device).view(-1, 1, 1, 1)
        self.entry = (self.target_bR1T + image_b111 * classes).flatten()
        self.p_bRCT = torch.softmax(logits_bRCT, 2, out=resizing.buffer("probabilities", *logits_bRCT.shape))

    def log_probability_of_truth(self) -> Tensor:
        """(b, R, 1, T): from the logits, since a probability may be too small for its type. 0 where ignored."""
        log_p = self.logits_bRCT.gather(2, self.target_bR1T) + self._minus_log_sum()
        return log_p * self.valid_bR1T

    def _minus_log_sum(self) -> Tensor:
        """log p - logit, the same for every class of a pixel; taken at the largest, where it is the most exact."""
        return self.p_bRCT.amax(2, keepdim=True).log_() - self.logits_bRCT.amax(2, keepdim=True)

    def surprise(self) -> Tensor:
        return focal(self.log_probability_of_truth(), self.reading.gamma).squeeze(2)

    def sums(self) -> Tensor:
        log_p = self.log_probability_of_truth()
        truth = self._by_class(self.valid_bR1T)
        even = torch.zeros_like(truth)
        if self.reading.even:
            log_p_bRCT = self.logits_bRCT.add_(self._minus_log_sum()).mul_(self.valid_bR1T)
            even = log_p_bRCT.sum((1, 3)).double() / -self.p_bRCT.shape[2]
        predicted = self.p_bRCT.mul_(self.valid_bR1T).sum((1, 3)).double()
        surprise = self._by_class(focal(log_p, self.reading.gamma))
        overlap = self._by_class(log_p.exp().mul_(self.valid_bR1T))
        return torch.stack([overlap, predicted, surprise, torch.zeros_like(truth), even, truth, truth])

    def _by_class(self, values_bR1T: Tensor) -> Tensor:
        batch, _, classes, _ = self.p_bRCT.shape
        bins = torch.zeros(batch * classes, dtype=torch.float64, device=values_bR1T.device)
        return bins.scatter_add_(0, self.entry, values_bR1T.flatten().double()).view(batch, classes)

    def gradient(self, gradients_5bC: Tensor) -> Tensor:
        """With g the gradients of overlap, predicted, surprise and even, t the true class, f the slope of the surprise
        in log p_t, and d the sum over k of p_k (g_predicted_k - g_even_k / C / p_k): d/d logit_k =
        p_k (g_predicted_k - d - g_overlap_t p_t - f) + [k = t] (g_overlap_t p_t + f) - g_even_k / C.
        """
        of_overlap, of_predicted, of_surprise, _, of_even = gradients_5bC.contiguous()
        p_bRCT, shape = self.p_bRCT, self.target_bR1T.shape
        truth = of_overlap.view(-1).index_select(0, self.entry).view(shape) * p_bRCT.gather(2, self.target_bR1T)
        mean = torch.matmul(of_predicted.unsqueeze(1).unsqueeze(1), p_bRCT)
        slope = of_surprise.view(-1).index_select(0, self.entry).view(shape)
        if self.reading.gamma:
            truth += slope * focal_slope(self.log_probability_of_truth(), self.reading.gamma)
        else:
            truth -= slope
        shared = -(mean + truth)
        if self.reading.even:
            of_even = of_even / p_bRCT.shape[2]
            shared += of_even.sum(1).view(-1, 1, 1, 1)
        gradient = torch.add(of_predicted[:, None, :, None], shared, out=self.logits_bRCT).mul_(p_bRCT)
        gradient.scatter_add_(2, self.target_bR1T, truth)
        if self.reading.even:
            gradient -= of_even[:, None, :, None]
        return gradient.mul_(self.valid_bR1T)


class _Sigmoids:
    """One tile read as a sigmoid for every class."""

    def __init__(self, resizing: Resizing, logits_bRCT: Tensor, mask: Tensor, reading: Reading) -> None:
        self.logits, self.mask = logits_bRCT, mask
        self.reading = reading
        classes = logits_bRCT.shape[2]
        if mask.dim() == 4:
            mask = mask.transpose(1, 2).long()
            valid = mask != reading.ignore_index
            truth = mask == 1
            check_in_range((mask == 0) | truth | ~valid)
        else:
            mask = mask.unsqueeze(2).long()
            valid = mask != reading.ignore_index
            truth = mask == torch.arange(classes, device=mask.device).view(-1, 1)
            check_in_range((mask >= 0) & (mask < classes) | ~valid)
        self.truth = (truth & valid).to(logits_bRCT.dtype)
        self.valid = valid.to(logits_bRCT.dtype).expand_as(logits_bRCT)
        self.sign = 2 * self.truth - 1
        self.log_p = F.logsigmoid(self.logits * self.sign)  # of what is true

    def surprise(self) -> Tensor:
        return (focal(self.log_p, self.reading.gamma) * self.valid).transpose(1, 2)

    def sums(self) -> Tensor:
        surprise = focal(self.log_p, self.reading.gamma)
        p = self.logits.sigmoid()
        even = torch.zeros_like(p)
        if self.reading.even:
            even = -(F.logsigmoid(self.logits) + F.logsigmoid(-self.logits)) / 2 * self.valid
        absent = self.valid - self.truth
        terms = [p * self.truth, p * self.valid, surprise * self.truth, surprise * absent, even]
        return torch.stack([term.sum((1, 3)).double() for term in (*terms, self.truth, self.valid)])

    def gradient(self, gradients_5bC: Tensor) -> Tensor:
        of_overlap, of_predicted, of_surprise, of_absent, of_even = gradients_5bC[:, :, None, :, None]
        p = self.logits.sigmoid()
        of_p = of_predicted + of_overlap * self.truth
        of_surprise = of_absent + (of_surprise - of_absent) * self.truth
        slope = focal_slope(self.log_p, self.reading.gamma)
        # The probability of what is not true, from the logit: 1 - p would lose small ones.
        gradient = of_surprise * slope * self.sign * torch.sigmoid(-self.logits * self.sign)
        gradient += of_p * p * torch.sigmoid(-self.logits)
        if self.reading.even:
            gradient += of_even * (p - 0.5)
        return gradient.mul_(self.valid)


def check_in_range(fits: Tensor) -> None:
    """Raise RuntimeError unless all of `fits` is true; on CUDA later, as an assertion of the device: nothing waits."""
    torch._assert_async(fits.all(), "the mask holds a value that is out of range")  # pyright: ignore[reportPrivateImportUsage]


def focal(log_p: Tensor, gamma: float) -> Tensor:
    """-(1 - p)^gamma log p."""
    if not gamma:
        return -log_p
    return -(_doubt(log_p) ** gamma) * log_p


def focal_slope(log_p: Tensor, gamma: float) -> Tensor:
    """The derivative of `focal` in log p."""
    if not gamma:
        return -torch.ones_like(log_p)
    doubt = _doubt(log_p)
    return gamma * doubt ** (gamma - 1) * log_p.exp() * log_p - doubt**gamma


def _doubt(log_p: Tensor) -> Tensor:
    """1 - p; clamped because a power below 1 has no finite slope at 0."""
    return (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).eps)


def _held_at_once(reading: Reading) -> int:
    """Tensors of a tile's size that one tile needs."""
    return 12 if reading.sigmoid else 2


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
