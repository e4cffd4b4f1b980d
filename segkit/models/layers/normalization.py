"""Normalisation as the first layer of a model, so that training, evaluation and export cannot disagree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segkit.contracts import UserError


class Statistics(NamedTuple):
    """Mean and standard deviation of each image channel, in the units that `Normalize` states."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def of_channels(self, number: int) -> Statistics:
        """The same for images of `number` channels, as timm adapts the weights of the first layer to them.

        It adds up the weights of all channels for a single one, which gets their average here, and else uses
        them again and again in their order: channel 3 is treated as channel 0.
        """
        if number == 1:
            return Statistics(*((sum(values) / len(values),) for values in self))
        return Statistics(*(tuple(values[channel % len(values)] for channel in range(number)) for values in self))


IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Normalize(nn.Module):
    """Images (B, C, H, W), less the mean and over the standard deviation of their channels.

    uint8 images are divided by 255 first, so `mean` and `std` are in 0..1 for them. Float images (those that
    did not come as 8 bit) are taken as they are, with `mean` and `std` in their own units.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if not mean or len(mean) != len(std):
            raise UserError(f"dataset.mean has {len(mean)} and dataset.std {len(std)} values; both need one a channel")
        if min(std) <= 0:
            raise UserError(f"dataset.std={list(std)}; allowed: numbers above 0")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1] != len(self.mean):
            raise UserError(f"images have {images.shape[1]} channels, dataset.mean and dataset.std {len(self.mean)}")
        values = images.to(self.mean.dtype)
        if images.dtype == torch.uint8:
            values = values / 255
        return (values - self.mean) / self.std
