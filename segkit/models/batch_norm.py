"""Batch norm that also trains on one value a channel: a single image pooled or strided to one pixel."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_PAUSED = "segkit_training_paused"


def accept_single_values(model: nn.Module) -> None:
    """Make every batch norm of `model` use its running statistics where a batch gives one value a channel.

    Such a batch has no variance and PyTorch refuses it, which ends an epoch whose last batch holds one image.
    The running statistics are what evaluation uses, and they are left unchanged; with more than one value
    nothing differs from plain batch norm. Hooks, because the layers belong to timm and smp.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            module.register_forward_pre_hook(_leave_training)
            module.register_forward_hook(_return_to_training)


def _is_single(values: Tensor) -> bool:
    return values.numel() == values.shape[1]


def _leave_training(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    if layer.training and _is_single(inputs[0]):
        layer.training = False
        setattr(layer, _PAUSED, True)


def _return_to_training(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
    if getattr(layer, _PAUSED, False):
        layer.training = True
        setattr(layer, _PAUSED, False)
