"""What learns, and by what rule."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from segkit.contracts import Loss, Prediction, Recomputing, Schedule
from segkit.engine.ema import Ema
from segkit.errors import UserError


@dataclass
class Learning:
    """A model, its loss, and what changes its weights.

    Attributes:
        forward: images (B, C, H, W) to the model's prediction in training: the model itself, or it compiled.
            Evaluation always calls the model: its sizes may differ from image to image, and each would be compiled.
    """

    model: nn.Module
    loss: Loss
    optimizer: Optimizer
    schedule: Schedule
    ema: Ema | None
    forward: Callable[[Tensor], Prediction]

    @property
    def evaluated_model(self) -> nn.Module:
        return self.model if self.ema is None else self.ema.model


def recomputed_buffers(model: nn.Module) -> list[Tensor]:
    """Buffers of modules that the backward pass runs again."""
    parts = [part for part in model.modules() if isinstance(part, Recomputing) and part.gradient_checkpointing]
    return [buffer for part in parts for buffer in part.buffers()]


@contextmanager
def unchanged(buffers: Sequence[Tensor]) -> Generator[None]:
    """Puts `buffers` back to what they were."""
    before = [buffer.clone() for buffer in buffers]
    yield
    with torch.no_grad():
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)


class CompiledForward:
    """`model` compiled by torch.compile for whole batches of `batch_size` images of one size.

    Any other shape, such as the last and smaller batch of an epoch, goes through the model as it is: compiling
    for it would cost more than it saves. The compiled model shares its weights, and its state dict is untouched.

    Raises:
        UserError: there is no C++ compiler, which PyTorch's compiler needs on every device.
    """

    def __init__(self, model: nn.Module, batch_size: int):
        candidates = [os.environ.get("CXX"), "g++", "clang++", "c++", "cl"]
        if not any(name and shutil.which(name) for name in candidates):
            raise UserError(
                "trainer.compile=true: PyTorch's compiler needs a C++ compiler, and there is neither $CXX nor g++ nor "
                "clang++ on this machine. Install one (apt install g++), or leave trainer.compile=false"
            )
        # On a machine without a GPU it looks for CUDA's compiler all the same, and warns that there is none.
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
        self._model = model
        self._compiled = torch.compile(model)  # pyright: ignore[reportUnknownMemberType]
        self._batch_size = batch_size
        self._shape: torch.Size | None = None

    def __call__(self, images: Tensor) -> Prediction:
        if self._shape is None and len(images) == self._batch_size:
            self._shape = images.shape
        return self._compiled(images) if images.shape == self._shape else self._model(images)
