"""Atrous convolutions on maps that are small for their rate."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AtrousConv2d(nn.Conv2d):
    """A Conv2d of stride 1 that keeps the size of its maps, and leaves out the taps that meet nothing but padding.

    At a rate as large as the map, all taps of a 3x3 kernel but the middle one do (Chen et al., arXiv 1706.05587,
    section 3.3): a crop of 256 pixels is 16 wide at stride 16, where rates run to 18 or 36. The results and all
    gradients are those of the whole kernel, at a ninth of the work.

    Args:
        kernel_size: odd, along both sides or (down, right).
        dilation: the rate, in pixels of the map.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        dilation: int | tuple[int, int],
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        sizes = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
        rates = dilation if isinstance(dilation, tuple) else (dilation, dilation)
        halves = sizes[0] // 2, sizes[1] // 2
        padding = halves[0] * rates[0], halves[1] * rates[1]
        super().__init__(in_channels, out_channels, sizes, padding=padding, dilation=rates, groups=groups, bias=bias)
        self.halves = halves
        """Taps on either side of the middle one, down and right."""

    def forward(self, input: Tensor) -> Tensor:
        # A graph for maps of any size needs all taps.
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
            return super().forward(input)
        # Of the taps on either side of the middle one, those whose reach ends within the map.
        seeing = tuple(
            min(half, (size - 1) // rate)
            for half, size, rate in zip(self.halves, input.shape[-2:], self.dilation, strict=True)
        )
        if seeing == self.halves:
            return super().forward(input)
        weight = self.weight
        for axis, (half, taps) in enumerate(zip(self.halves, seeing, strict=True), start=2):
            weight = weight.narrow(axis, half - taps, 2 * taps + 1)
        # A kernel one tap wide has no rate; oneDNN has fast kernels for depthwise convolutions only where none is told.
        rates = [rate if taps else 1 for rate, taps in zip(self.dilation, seeing, strict=True)]
        padding = [taps * rate for taps, rate in zip(seeing, rates, strict=True)]
        return F.conv2d(input, weight, self.bias, padding=padding, dilation=rates, groups=self.groups)
