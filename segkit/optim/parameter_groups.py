"""An optimizer over a model's parameters, in groups that decay and learn as they should."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from segkit.contracts import UserError


def build_optimizer(
    model: nn.Module,
    optimizer: Callable[..., Optimizer],
    *,
    lr: float,
    weight_decay: float,
    backbone_lr_factor: float = 1.0,
    decay_norm_and_bias: bool = False,
) -> Optimizer:
    """`optimizer`, built over the groups of `parameter_groups` with `lr` and `weight_decay`."""
    if not lr > 0:
        raise UserError(f"optimizer.lr={lr}; allowed: numbers above 0")
    if not weight_decay >= 0:
        raise UserError(f"optimizer.weight_decay={weight_decay}; allowed: numbers from 0 up")
    groups = parameter_groups(
        model,
        lr=lr,
        weight_decay=weight_decay,
        backbone_lr_factor=backbone_lr_factor,
        decay_norm_and_bias=decay_norm_and_bias,
    )
    return optimizer(groups, lr=lr, weight_decay=weight_decay)


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    backbone_lr_factor: float = 1.0,
    decay_norm_and_bias: bool = False,
) -> list[dict[str, Any]]:
    """Up to four named groups of the parameters that train, in the model's order; empty ones left out.

    Args:
        model: its submodule `backbone`, if it has one, is what `backbone_lr_factor` is about.
        lr: learning rate, of the backbone times `backbone_lr_factor`.
        weight_decay: of weights; 0 for biases and norm layers, which are the parameters of one dimension.
        backbone_lr_factor: usually 1, or 0.1 for pretrained weights.
        decay_norm_and_bias: decay those too.
    """
    backbone = getattr(model, "backbone", None)
    if not backbone_lr_factor > 0:
        raise UserError(
            f"optimizer.backbone_lr_factor={backbone_lr_factor}; allowed: numbers above 0 "
            "(backbone.frozen=true trains no backbone parameter)"
        )
    if backbone is None and backbone_lr_factor != 1:
        raise UserError(
            f"optimizer.backbone_lr_factor={backbone_lr_factor}, but this model has no backbone; allowed: 1"
        )
    of_backbone = {id(parameter) for parameter in backbone.parameters()} if backbone is not None else set()
    groups: dict[str, dict[str, Any]] = {}
    for part, factor in (("head", 1.0), ("backbone", backbone_lr_factor)):
        groups[part] = {"params": [], "lr": lr * factor, "weight_decay": weight_decay}
        groups[f"{part}_no_decay"] = {"params": [], "lr": lr * factor, "weight_decay": 0.0}
    for parameter in model.parameters():
        if parameter.requires_grad:
            part = "backbone" if id(parameter) in of_backbone else "head"
            decays = parameter.ndim > 1 or decay_norm_and_bias
            groups[part if decays else f"{part}_no_decay"]["params"].append(parameter)
    filled = [{**group, "name": name} for name, group in groups.items() if group["params"]]
    if not filled:
        raise UserError("the model has no parameter to train; is backbone.frozen=true all there is of it?")
    return filled
