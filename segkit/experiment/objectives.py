"""What a run can be judged by beside its monitored score: other scores of its best evaluation, and its costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from segkit.engine.trainer import Trainer
from segkit.errors import UserError

TIMED_PASSES = 20


def values(names: Sequence[str], trainer: Trainer, best: Mapping[str, Any]) -> list[float | None]:
    """The objectives `names` of a run that has ended: scores of its `best` evaluation, or costs of its model.

    `parameters`: how many the model has. `macs`: multiply-accumulate operations for one image of the evaluated
    split. `latency_ms`: the median time to predict that image on the run's device, in the run's precision and with
    its predictor, in milliseconds. Raises UserError for a name that is neither.
    """
    model = trainer.learning.evaluated_model
    costs: dict[str, Callable[[], float]] = {
        "parameters": lambda: float(sum(parameter.numel() for parameter in model.parameters())),
        "macs": lambda: _macs(_prediction(trainer)),
        "latency_ms": lambda: _latency_ms(_prediction(trainer), trainer.strategy.device),
    }
    unknown = [name for name in names if name not in costs and name not in best]
    if unknown:
        scores = sorted(name for name, value in best.items() if isinstance(value, float))
        raise UserError(f"hydra.sweeper.objectives: {unknown[0]}; allowed: {', '.join([*costs, *scores])}")
    return [costs[name]() if name in costs else best[name] for name in names]


def _prediction(trainer: Trainer) -> Callable[[], Tensor]:
    """Predicts the first image of the evaluated split, alone."""
    model = trainer.learning.evaluated_model.eval()
    predictor = trainer.evaluator.predictor(model)
    batches = iter(trainer.evaluator.data)
    images = next(batches).images[:1].to(trainer.strategy.device)
    trainer.evaluator.data.close()

    @torch.inference_mode()
    def predict() -> Tensor:
        with trainer.strategy.autocast():
            return predictor(images).logits

    return predict


def _macs(predict: Callable[[], Tensor]) -> float:
    from torch.utils.flop_counter import FlopCounterMode  # imports Triton where it is installed

    with FlopCounterMode(display=False) as counter:
        predict()
    return counter.get_total_flops() / 2


def _latency_ms(predict: Callable[[], Tensor], device: torch.device) -> float:
    def timed() -> float:
        started = time.perf_counter()
        predict()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return 1000 * (time.perf_counter() - started)

    for _ in range(3):  # the first passes choose algorithms and allocate
        timed()
    return statistics.median(timed() for _ in range(TIMED_PASSES))
