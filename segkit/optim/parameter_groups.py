"""An optimizer over a model's parameters, in groups that decay and learn as they should."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatch
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
    head_lr_factor: float = 1.0,
    backbone_lr_factor: float = 1.0,
    layer_decay: float = 1.0,
    decay_norm_and_bias: bool = False,
) -> Optimizer:
    """`optimizer`, built over the groups of `parameter_groups` with `lr` and `weight_decay`.

    Raises UserError for numbers out of range, and for an optimizer that does not work here.
    """
    if not lr > 0:
        raise UserError(f"optimizer.lr={lr}; allowed: numbers above 0")
    if not weight_decay >= 0:
        raise UserError(f"optimizer.weight_decay={weight_decay}; allowed: numbers from 0 up")
    groups = parameter_groups(
        model,
        lr=lr,
        weight_decay=weight_decay,
        head_lr_factor=head_lr_factor,
        backbone_lr_factor=backbone_lr_factor,
        layer_decay=layer_decay,
        decay_norm_and_bias=decay_norm_and_bias,
    )
    try:
        built = optimizer(groups, lr=lr, weight_decay=weight_decay)
    except UserError:
        raise
    except (AssertionError, ImportError, RuntimeError, TypeError, ValueError) as error:
        # An unknown name, a package or a device that is missing, groups it cannot handle.
        raise UserError(f"optimizer.optimizer cannot be built: {error}") from error
    if getattr(built, "is_second_order", False):
        raise UserError("optimizer.optimizer needs second derivatives, which are not kept; allowed: any other")
    return built


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    head_lr_factor: float = 1.0,
    backbone_lr_factor: float = 1.0,
    layer_decay: float = 1.0,
    decay_norm_and_bias: bool = False,
) -> list[dict[str, Any]]:
    """Named groups of the parameters that train: the head's, then the backbone's from its end to its stem.

    Args:
        model: its submodule `backbone`, if it has one, is what `backbone_lr_factor` and `layer_decay` are about.
        lr: learning rate, of head and backbone times their factors.
        weight_decay: of weights; 0 for biases, norm layers and layer scales, which are the parameters of one
            dimension, and for what a module's own `no_weight_decay()` names, such as position embeddings.
        head_lr_factor: usually 1, or 10 for a new head on a pretrained backbone.
        backbone_lr_factor: usually 1, or 0.1 for pretrained weights.
        layer_decay: every layer of the backbone learns this many times as fast as the one after it, the last
            one with the factor 1. Layers are those of timm's `group_matcher`: blocks, and the stem; where it has
            none, the backbone's parts in the order they are declared in. Clark et al., "ELECTRA" (arXiv
            2003.10555); 0.65 to 0.9 are usual.
        decay_norm_and_bias: decay those of one dimension too.
    """
    backbone = getattr(model, "backbone", None)
    _check_factors(
        backbone, head_lr_factor=head_lr_factor, backbone_lr_factor=backbone_lr_factor, layer_decay=layer_decay
    )
    depths = {} if backbone is None else layer_depths(backbone)
    exempt = {id(parameter) for parameter in _not_to_decay(model)}
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        in_backbone = id(parameter) in depths
        # Without layer decay the backbone is one layer; the head comes before all of them.
        depth = (depths[id(parameter)] if layer_decay != 1 else 0) if in_backbone else -1
        decays = (parameter.ndim > 1 or decay_norm_and_bias) and id(parameter) not in exempt
        if (depth, decays) not in groups:
            part = "head" if not in_backbone else "backbone" if layer_decay == 1 else f"backbone_{depth}"
            factor = backbone_lr_factor * layer_decay**depth if in_backbone else head_lr_factor
            groups[depth, decays] = {
                "params": [],
                "lr": lr * factor,
                "weight_decay": weight_decay if decays else 0.0,
                "name": part if decays else f"{part}_no_decay",
            }
        groups[depth, decays]["params"].append(parameter)
    if not groups:
        raise UserError("the model has no parameter to train; is backbone.frozen=true all there is of it?")
    return [groups[key] for key in sorted(groups, key=lambda key: (key[0], not key[1]))]


def _check_factors(backbone: nn.Module | None, **factors: float) -> None:
    for key, factor in factors.items():
        if not factor > 0 or (key == "layer_decay" and factor > 1):
            allowed = "above 0, up to 1" if key == "layer_decay" else "above 0"
            hint = " (backbone.frozen=true trains no backbone parameter)" if key == "backbone_lr_factor" else ""
            raise UserError(f"optimizer.{key}={factor}; allowed: numbers {allowed}{hint}")
        if backbone is None and factor != 1:
            raise UserError(f"optimizer.{key}={factor}, but this model has no backbone; allowed: 1")


def layer_depths(backbone: nn.Module) -> dict[int, int]:
    """How many layers lie between each parameter, by its id, and the backbone's end."""
    owner, layers = _layers(backbone)
    last = max(layers.values(), default=0)
    depths = {id(parameter): last - layers[name] for name, parameter in owner.named_parameters() if name in layers}
    # What is not a layer's, such as a norm of the output, learns as fast as the last.
    return {id(parameter): depths.get(id(parameter), 0) for parameter in backbone.parameters()}


def _layers(backbone: nn.Module) -> tuple[nn.Module, Mapping[str, int]]:
    """The module that is made of layers, and the number of the layer of each of its parameters by name."""
    for module in backbone.modules():
        matcher = getattr(module, "group_matcher", None)
        if callable(matcher):
            from timm.models import group_parameters  # seconds to import, and only for these models

            return module, group_parameters(module, matcher(coarse=False), reverse=True)
    layers: dict[str, int] = {}
    number = -1
    for part_name, part in _parts(backbone, ""):
        named = list(part.named_parameters(prefix=part_name))
        # A norm of its own belongs to the convolution that it follows.
        number += number < 0 or any(parameter.ndim > 1 for _, parameter in named)
        layers |= {name: number for name, _ in named}
    return backbone, layers


def _parts(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Blocks and what stands between them, in order, as timm's matchers have them; its feature maps have none."""
    children = [(name, child) for name, child in module.named_children() if any(True for _ in child.parameters())]
    is_wrapper = len(children) == 1 and not isinstance(module, nn.Sequential | nn.ModuleList)
    for name, child in children:
        if is_wrapper or isinstance(child, nn.Sequential | nn.ModuleList) or hasattr(child, "blocks"):
            yield from _parts(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _not_to_decay(model: nn.Module) -> Iterator[nn.Parameter]:
    """Parameters that a module's own `no_weight_decay()` names, as timm's models do; names may be patterns."""
    for module in model.modules():
        exempt = getattr(module, "no_weight_decay", None)
        if callable(exempt):
            patterns: Any = exempt()
            for name, parameter in module.named_parameters():
                if any(fnmatch(name, pattern) for pattern in patterns):
                    yield parameter
