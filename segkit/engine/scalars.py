"""Numbers of a step on their way to the log, without making the device wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segkit.contracts import LossTerms


def add_share(scalars: dict[str, Tensor], terms: LossTerms, share: Tensor | float) -> None:
    """Add a micro-batch's share of the loss and of its parts to the scalars of the step."""
    for name, value in {"loss": terms.total, **{f"loss/{n}": v for n, v in terms.parts.items()}}.items():
        value = value.detach() * share
        scalars[name] = scalars[name] + value if name in scalars else value


@dataclass
class PendingStep:
    """A step whose numbers may still be under way: its record without them, and the ids of its samples."""

    record: dict[str, Any]
    sample_ids: tuple[str, ...]
    names: tuple[str, ...]
    values: Tensor
    event: torch.cuda.Event | None

    def read(self) -> dict[str, float]:
        if self.event is not None:
            self.event.synchronize()
        return dict(zip(self.names, self.values.numpy().tolist(), strict=True))


class ScalarQueue:
    """Gives steps back in order once their numbers are on the host: at once on a CPU, a step later on a GPU."""

    def __init__(self) -> None:
        self._pending: deque[PendingStep] = deque()

    def put(self, record: dict[str, Any], scalars: Mapping[str, Tensor], sample_ids: tuple[str, ...]) -> None:
        values = torch.stack([value.detach().double() for value in scalars.values()])
        event = None
        if values.is_cuda:
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            values = host.copy_(values, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._pending.append(PendingStep(record, sample_ids, tuple(scalars), values, event))

    def ready(self) -> Iterator[PendingStep]:
        """The steps whose numbers can be read now. At most one step is left behind, so that memory stays bounded."""
        while self._pending:
            event = self._pending[0].event
            if event is not None and len(self._pending) < 2 and not event.query():
                return
            yield self._pending.popleft()

    def drain(self) -> Iterator[PendingStep]:
        """All steps, waiting for their numbers."""
        while self._pending:
            yield self._pending.popleft()
