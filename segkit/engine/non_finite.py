"""What happens when a loss, a gradient or a weight becomes NaN or infinite."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from segkit.config.schema import NonFiniteSettings
from segkit.contracts import Batch, Strategy
from segkit.engine.scalars import PendingStep
from segkit.engine.state import TrainState
from segkit.errors import RunFailure
from segkit.run.checkpoint import Content

log = logging.getLogger(__name__)

REMEDY = "Try a lower optimizer.lr, trainer.clip_norm=1.0, trainer.precision=fp32, or trainer.non_finite.policy=skip."


class NonFiniteLoss(RunFailure):
    """The loss, its gradients or the weights became NaN or infinite; the last good checkpoint is untouched."""


class NonFiniteGuard:
    """Keeps what is not finite out of the weights (`skip`), or ends the run when it shows (`stop`).

    `stop` looks at numbers that are on their way to the log anyway, so that no step waits for them: the loss, and
    the norm of the gradients if they are clipped. Gradients that are not finite and not clipped show in the loss of
    the next step, and no checkpoint is saved in between. `skip` has to know before the optimizer acts: it reads one
    number a step from the device. A step that is skipped leaves weights, buffers and optimizer as they were. With
    fp16 the gradient scaler leaves out steps of its own accord while it finds its scale; they do not count here.
    """

    def __init__(self, settings: NonFiniteSettings, model: nn.Module, strategy: Strategy):
        self._settings = settings
        self._strategy = strategy
        self._skips = settings.policy == "skip"
        self._buffers = list(model.buffers()) if self._skips else []
        self._before: list[Tensor] = []

    def before_step(self) -> None:
        """Note what a forward pass changes by itself: the running statistics of batch norm."""
        self._before = [buffer.clone() for buffer in self._buffers]

    def refuses(self, loss: Tensor, optimizer: Optimizer) -> bool:
        """Whether the step is to be skipped; if so, all that the forward and backward pass changed is undone."""
        if not self._skips or not self._strategy.any(not bool(self._strategy.all_finite(loss, optimizer))):
            return False
        for buffer, before in zip(self._buffers, self._before, strict=True):
            buffer.copy_(before)
        optimizer.zero_grad(set_to_none=True)
        return True

    def count_skipped(self, state: TrainState, micro_batches: Sequence[Batch]) -> None:
        """Raises NonFiniteLoss if this skipped step is one too many."""
        state.steps_skipped += 1
        samples = ", ".join(sample_id for batch in micro_batches for sample_id in batch.ids)
        log.warning(
            "step %d skipped: its loss or its gradients are not finite (%d of at most %d). Samples of the step: %s",
            state.step,
            state.steps_skipped,
            self._settings.limit,
            samples,
        )
        if state.steps_skipped > self._settings.limit:
            raise NonFiniteLoss(
                f"{state.steps_skipped} steps had a loss or gradients that are not finite, more than "
                f"trainer.non_finite.limit={self._settings.limit}; the last was step {state.step}.\n"
                f"Samples of the step: {samples}.\nThe last good checkpoint is kept. "
                "Try a lower optimizer.lr, trainer.clip_norm=1.0, or trainer.precision=fp32."
            )

    def check_logged(self, step: PendingStep, record: dict[str, Any]) -> None:
        """Raise NonFiniteLoss if the numbers of a step, as they stand in the log, end the run."""
        loss, norm = record["loss"], record.get("grad_norm", 0.0)
        # A norm that is not finite is how the gradient scaler finds its scale.
        if self._skips or (math.isfinite(loss) and (math.isfinite(norm) or self._strategy.scales_gradients)):
            return
        what = "loss is" if not math.isfinite(loss) else "gradients are"
        parts = ", ".join(f"{name}={record[name]}" for name in step.names)
        raise NonFiniteLoss(
            f"the {what} not finite at step {record['step']} ({parts}; lr={record['lr']:.3g}).\n"
            f"Samples of the step: {', '.join(step.sample_ids)}.\nThe last good checkpoint is kept. {REMEDY}"
        )


def check_weights(content: Content, step: int) -> None:
    """Raise NonFiniteLoss if a weight or buffer of the model, or of its average, is not finite."""
    average: dict[str, Tensor] = {} if content["ema"] is None else content["ema"]["model"]
    weights: dict[str, Tensor] = content["model"]
    values = [value for value in (*weights.values(), *average.values()) if value.is_floating_point()]
    if not bool(torch.stack([value.sum().double() for value in values]).isfinite().all()):
        raise NonFiniteLoss(
            f"weights are not finite after step {step}; nothing was saved, the last good checkpoint is kept. {REMEDY}"
        )
