"""Atrous convolutions on maps that are small for their rate."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def leave_out_unseen_taps(model: nn.Module) -> None:
    """Have the atrous convolutions of `model` leave out the taps that meet nothing but padding.

    At a rate as large as the map, all taps of a 3x3 kernel but the middle one do (Chen et al., arXiv 1706.05587,
    section 3.3): a crop of 256 pixels is 16 wide at stride 16, where rates run to 18 or 36. The results and all
    gradients are those of the whole kernel, at a ninth of the work. Parameters stay as they are. On modules that exist
    already, because many belong to smp.
    """
    for module in model.modules():
        if type(module) is nn.Conv2d and max(module.dilation) > 1 and _keeps_size(module):
            module.__class__ = AtrousConv2d


class AtrousConv2d(nn.Conv2d):
    """A Conv2d that keeps the size of its maps, and leaves out the taps that meet nothing but padding."""

    def forward(self, input: Tensor) -> Tensor:
        # A graph for maps of any size needs all taps.
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
            return super().forward(input)
        halves = _halves(self)
        # Of the taps on either side of the middle one, those whose reach ends within the map.
        seeing = [
            min(half, (size - 1) // rate)
            for half, size, rate in zip(halves, input.shape[-2:], self.dilation, strict=True)
        ]
        if seeing == halves:
            return super().forward(input)
        weight = self.weight
        for axis, (half, taps) in enumerate(zip(halves, seeing, strict=True), start=2):
            weight = weight.narrow(axis, half - taps, 2 * taps + 1)
        # A kernel one tap wide has no rate; oneDNN has fast kernels for depthwise convolutions only where none is told.
        rates = [rate if taps else 1 for rate, taps in zip(self.dilation, seeing, strict=True)]
        padding = [taps * rate for taps, rate in zip(seeing, rates, strict=True)]
        return F.conv2d(input, weight, self.bias, padding=padding, dilation=rates, groups=self.groups)


def _keeps_size(layer: nn.Conv2d) -> bool:
    return (
        layer.stride == (1, 1)
        and layer.padding_mode == "zeros"
        and all(size % 2 == 1 for size in layer.kernel_size)
        and list(layer.padding) == [half * rate for half, rate in zip(_halves(layer), layer.dilation, strict=True)]
    )


def _halves(layer: nn.Conv2d) -> list[int]:
    """Taps on each side of the middle one."""
    return [size // 2 for size in layer.kernel_size]
