"""Batch norm where PyTorch's own errs: on one value a channel, and when a checkpointed stage is recomputed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_PAUSED = "segkit_training_paused"
_HELD = "segkit_statistics_held"


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


def keep_statistics_when_recomputed(model: nn.Module) -> None:
    """Make the batch norms of a gradient-checkpointed `model` count each batch once in their running statistics.

    The backward pass runs a checkpointed stage a second time, which would move the statistics a second time.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            module.register_forward_pre_hook(_hold_statistics)
            # always_call: PyTorch ends a recomputation by an exception as soon as it has what it needs.
            module.register_forward_hook(_release_statistics, always_call=True)


def _hold_statistics(layer: Any, inputs: tuple[Any, ...]) -> None:
    if torch.compiler.is_compiling():  # recomputation is the compiler's own then, and leaves statistics alone
        return
    in_backward_pass = torch._C._current_graph_task_id() != -1
    if layer.training and in_backward_pass:
        # Without running statistics PyTorch would save other tensors than in the forward pass, and refuse.
        setattr(layer, _HELD, (layer.momentum, layer.num_batches_tracked.clone()))
        layer.momentum = 0.0


def _release_statistics(layer: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    if torch.compiler.is_compiling():
        return
    if (held := getattr(layer, _HELD, None)) is not None:
        layer.momentum, num_batches = held
        layer.num_batches_tracked.copy_(num_batches)
        setattr(layer, _HELD, None)
