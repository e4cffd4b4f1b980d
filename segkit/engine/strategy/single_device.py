"""Precision and placement: the one seam between the loop and the hardware."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from segkit.errors import UserError

Precision = Literal["auto", "fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class SingleDevice:
    """A `contracts.Strategy` of one process: one device, with autocast and, for fp16, a gradient scaler.

    Args:
        device: "auto" (the first CUDA device, else the CPU) or a device PyTorch knows, such as "cuda:1".
        precision: "auto" is the best that the device does natively: bf16, else fp16 on CUDA; bf16, else fp32 on CPUs.

    Raises:
        UserError: a device that is not there.
    """

    rank = 0
    world_size = 1
    is_main = True

    def __init__(self, device: str = "auto", precision: Precision = "auto"):
        self.device = _device(device)
        self.precision: Literal["fp32", "bf16", "fp16"] = (
            native_precision(self.device) if precision == "auto" else precision
        )
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def prepare(self, model: nn.Module, *, channels_last: bool) -> nn.Module:
        model = model.to(self.device)
        return model.to(memory_format=torch.channels_last) if channels_last else model

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(
            self.device.type,
            dtype=DTYPES[self.precision],
            enabled=self.precision != "fp32",
            cache_enabled=True,
        )

    def accumulating(self, model: nn.Module, *, is_last: bool) -> AbstractContextManager[Any]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        self._scaler.scale(loss).backward()  # pyright: ignore[reportUnknownMemberType]

    @property
    def scales_gradients(self) -> bool:
        """Whether a scaler leaves out steps whose gradients overflow, of its own accord."""
        return self._scaler.is_enabled()

    def all_finite(self, loss: Tensor, optimizer: Optimizer) -> Tensor:
        """Whether `loss` and the gradients at hand are finite, a bool scalar. Overflow is the scaler's own matter."""
        if self.scales_gradients:
            return loss.isfinite()
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        return loss.isfinite() & nn.utils.get_total_norm(gradients).isfinite()

    def step(self, optimizer: Optimizer, clip_norm: float | None) -> Tensor | None:
        """One optimizer step on the gradients at hand, which are cleared. The gradient norm if it was clipped."""
        norm = None
        if clip_norm is not None:
            self._scaler.unscale_(optimizer)
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            norm = nn.utils.clip_grad_norm_(parameters, clip_norm)
        self._scaler.step(optimizer)
        self._scaler.update()
        optimizer.zero_grad(set_to_none=True)
        return norm

    def reduce(self, tensor: Tensor) -> Tensor:
        return tensor

    def any(self, flag: bool) -> bool:
        return flag

    def full_state(self, model: nn.Module, optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
        return model.state_dict(), optimizer.state_dict()

    def load_full_state(
        self, model: nn.Module, optimizer: Optimizer, model_state: dict[str, Any], optimizer_state: dict[str, Any]
    ) -> None:
        model.load_state_dict(model_state)
        optimizer.load_state_dict(optimizer_state)

    def state_dict(self) -> dict[str, Any]:
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state and self._scaler.is_enabled():
            self._scaler.load_state_dict(state)


def native_precision(device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """The fastest precision that `device` computes in without emulation and that trains well."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    if device.type == "cpu" and _cpu_has_bf16():
        return "bf16"
    return "fp32"


def _cpu_has_bf16() -> bool:
    # Newer than the oldest PyTorch that is allowed; one that cannot tell stays with fp32.
    if not hasattr(torch.cpu, "get_capabilities"):
        return False
    # oneDNN runs bf16 on AVX-512 without the bf16 extension too, but slower than fp32.
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"trainer.device={name}: no such device; allowed: auto, cpu, cuda, cuda:0, ...") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"trainer.device={name}: PyTorch sees {torch.cuda.device_count()} CUDA devices; allowed: auto, cpu"
        )
    return device
