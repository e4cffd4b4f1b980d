"""What stands between the loop and the hardware, and what sets the learning rate."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Strategy(Protocol):
    """Precision and placement: the one seam between the loop and the hardware.

    A strategy runs the loop in one process or in several, of which each sees its share of every batch. Whatever is
    decided is decided on values that all of them have: `reduce`, `any`.

    Attributes:
        device: where this process computes.
        precision: fp32, bf16 or fp16.
        rank: the number of this process, from 0.
        world_size: how many processes there are.
        scales_gradients: whether steps whose gradients overflow are left out, of the strategy's own accord.
    """

    device: torch.device
    precision: Literal["fp32", "bf16", "fp16"]
    rank: int
    world_size: int

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run folder."""
        ...

    @property
    def scales_gradients(self) -> bool: ...

    def prepare(self, model: nn.Module, *, channels_last: bool) -> nn.Module:
        """The model on its device, wrapped if need be; to be called before an optimizer is made of it."""
        ...

    def autocast(self) -> AbstractContextManager[Any]: ...

    def accumulating(self, model: nn.Module, *, is_last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of a micro-batch: gradients need not be summed over processes before the last."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss`, this process's part of the step's loss, to the sum over all processes."""
        ...

    def all_finite(self, loss: Tensor, optimizer: Optimizer) -> Tensor:
        """Whether `loss` and the gradients at hand are finite, a bool scalar."""
        ...

    def step(self, optimizer: Optimizer, clip_norm: float | None) -> Tensor | None:
        """One optimizer step on the gradients at hand, which are cleared. The gradient norm if it was clipped."""
        ...

    def reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, the same in each."""
        ...

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set in any process."""
        ...

    def full_state(self, model: nn.Module, optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
        """The state dicts of model and optimizer as one process without a wrapper would have them."""
        ...

    def load_full_state(
        self, model: nn.Module, optimizer: Optimizer, model_state: dict[str, Any], optimizer_state: dict[str, Any]
    ) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Schedule(Protocol):
    """A learning-rate schedule stepped once after every optimizer step."""

    def step(self) -> None: ...

    def evaluated(self, score: float) -> None:
        """The monitored score of an evaluation after the latest step; NaN where it is undefined."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...

    def continue_at(self, step: int, saved: dict[str, Any]) -> None:
        """Stand where this schedule, as it was built, is after `step` steps.

        Of the state `saved` by one with other numbers only what cannot be had again counts, such as scores gone by.
        """
        ...
