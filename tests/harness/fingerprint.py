"""What can be seen of built objects from outside, as text: two that differ in it were built differently."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MOST_DEPTH = 6


def digest(tensor: Any) -> str:
    array = tensor.detach().float().numpy() if isinstance(tensor, Tensor) else np.asarray(tensor)
    return f"{array.shape}{hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]}"


def attributes(value: Any, depth: int = 0, seen: frozenset[int] = frozenset()) -> Any:
    """Plain values, tensors and containers in the attributes of an object, and of those in it."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.dtype | torch.device):
        return repr(value)
    if id(value) in seen or depth > MOST_DEPTH:
        return "..."
    seen |= {id(value)}
    inner = functools.partial(attributes, depth=depth + 1, seen=seen)
    if isinstance(value, Tensor | np.ndarray):
        return digest(value)
    if isinstance(value, Mapping):
        return [(str(key), inner(item)) for key, item in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return [inner(item) for item in value]
    if isinstance(value, functools.partial):
        return [inner(value.func), inner(value.args), inner(value.keywords)]
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return [type(value).__qualname__, inner(getattr(value, "__dict__", None) or str(type(value)))]


def network(module: nn.Module) -> list[Any]:
    """Layers with their numbers, the shapes of weights, which of them learn, and plain attributes."""
    weights = [(name, tuple(value.shape), value.requires_grad) for name, value in module.named_parameters()]
    plain = [
        (name, key, repr(value))
        for name, part in module.named_modules()
        for key, value in vars(part).items()
        if isinstance(value, bool | int | float | str | tuple | list) and not key.startswith("__")
    ]
    return [repr(module), weights, plain]
