"""Layers that several of the real-time networks are built of."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn

from segkit.models.layers.batch_norm import BatchNorm2d


def conv_norm(
    in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution that maps h pixels to ceil(h / stride), and batch norm."""
    return nn.Sequential(
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=False,
        ),
        BatchNorm2d(out_channels),
    )


def conv_norm_act(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    act: Callable[[], nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """`conv_norm` and an activation."""
    return conv_norm(in_channels, out_channels, kernel_size, stride=stride, groups=groups).append(act())


def initialize(model: nn.Module, heads: Iterable[nn.Module]) -> None:
    """Give convolutions outside the backbone He's normal initialisation, and the heads' last near-zero weights.

    Training thus starts from nearly equal class probabilities.
    """
    backbone = getattr(model, "backbone", None)
    of_backbone = set() if backbone is None else set(backbone.modules())
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module not in of_backbone:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    for head in heads:
        classifier = [module for module in head.modules() if isinstance(module, nn.Conv2d)][-1]
        nn.init.normal_(classifier.weight, std=0.01)
        if classifier.bias is not None:
            nn.init.zeros_(classifier.bias)
