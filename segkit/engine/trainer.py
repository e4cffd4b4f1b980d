"""THE loop. It reads from top to bottom; everything it needs is handed to it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from segkit.config.schema import TrainerSettings
from segkit.contracts import Batch, Loss, ProgressAware, Schedule, Tracker, TrainingData
from segkit.engine.cadence import Cadence
from segkit.engine.checkpoint import CheckpointKeeper, Content
from segkit.engine.ema import Ema
from segkit.engine.evaluator import Evaluation, Evaluator
from segkit.engine.interrupts import AskedToStop, Interrupts
from segkit.engine.progress import Display
from segkit.engine.run_folder import RunFolder
from segkit.engine.scalars import PendingStep, ScalarQueue
from segkit.engine.state import TrainState, random_state, set_random_state
from segkit.engine.strategy.base import SingleDevice
from segkit.errors import UserError

log = logging.getLogger(__name__)


class NonFiniteLoss(RuntimeError):
    """The loss, or the weights, became NaN or infinite; the last good checkpoint is untouched."""


@dataclass
class Learning:
    """What learns, and by what rule."""

    model: nn.Module
    loss: Loss
    optimizer: Optimizer
    schedule: Schedule
    ema: Ema | None = None

    @property
    def evaluated_model(self) -> nn.Module:
        return self.model if self.ema is None else self.ema.model


@dataclass
class Recording:
    """Where a run leaves its traces.

    Attributes:
        folder: the run folder.
        keeper: the checkpoints in it.
        tracker: the recorder beside it.
        display: what a person sees meanwhile.
        identity: what every checkpoint carries beside the state: the config, the label space.
        on_best: called with every evaluation that is the best so far.
        on_score: called with the monitored score and the number of each evaluation, once it is saved. What it
            raises ends the run.
    """

    folder: RunFolder
    keeper: CheckpointKeeper
    tracker: Tracker
    display: Display
    identity: Mapping[str, Any] = field(default_factory=dict[str, Any])
    on_best: Callable[[Evaluation], None] = lambda evaluation: None
    on_score: Callable[[float, int], None] = lambda score, evaluation: None


@dataclass
class Clock:
    """Where the time of this process went, in seconds: steps in all, of that waiting for data, and evaluations."""

    steps: float = 0.0
    waiting: float = 0.0
    evaluation: float = 0.0
    images: int = 0


class Trainer:
    """Trains from wherever the state stands to the end that the settings name."""

    def __init__(
        self,
        learning: Learning,
        data: TrainingData,
        evaluator: Evaluator,
        recording: Recording,
        *,
        strategy: SingleDevice,
        settings: TrainerSettings,
    ):
        self.learning = learning
        self.data = data
        self.evaluator = evaluator
        self.recording = recording
        self.strategy = strategy
        self.settings = settings
        self.state = TrainState()
        self.clock = Clock()
        self.last_scores: dict[str, float] = {}
        parts = [part for part in (learning.model, learning.loss) if isinstance(part, nn.Module)]
        self._progress_aware = [m for part in parts for m in part.modules() if isinstance(m, ProgressAware)]
        self._scalars = ScalarQueue()
        self._interrupts = Interrupts()
        steps = data.steps_per_epoch
        self.total_steps = total_steps(settings, steps)
        self._evaluate_when = Cadence(settings.evaluate.every_steps, settings.evaluate.every_epochs, steps)
        self._save_when = Cadence(settings.checkpoint.every_steps, settings.checkpoint.every_epochs, steps)

    def fit(self) -> Literal["completed"]:
        """Train, evaluate and save until the end. Raises Interrupted after a signal, with a checkpoint saved."""
        self.recording.display.start(
            total_steps=self.total_steps,
            steps_per_epoch=self.data.steps_per_epoch,
            done_steps=self.state.step,
        )
        try:
            with self._interrupts:
                self._evaluate_if_due()
                batches = self.data.batches(self.state.step)
                while self.state.step < self.total_steps and not self.state.stopped_early:
                    self._timed_step(batches)
                    self._stop_if_asked()
                    if not self._evaluate_if_due() and self._save_when.is_due(self.state.step):
                        self.save()
                self._finish_log()
                self._stop_if_asked()  # by a signal during the last evaluation
        except AskedToStop:
            self._stop_if_asked()
        finally:
            self.recording.display.stop()
        return "completed"

    def train_step(self, micro_batches: list[Batch]) -> dict[str, Tensor]:
        """One optimizer step on the mean loss over the images of all micro-batches; the step's scalars."""
        learning = self.learning
        learning.model.train()
        for module in self._progress_aware:
            module.set_progress(self.state.step / self.total_steps)
        num_images = sum(len(batch) for batch in micro_batches)
        scalars: dict[str, Tensor] = {}
        for host_batch in micro_batches:
            batch = host_batch.to(self.strategy.device)
            share = len(batch) / num_images
            with self.strategy.autocast():
                prediction = learning.model(batch.images)
            terms = learning.loss(prediction, batch.mask)
            self.strategy.backward(terms.total * share)
            for name, value in {
                "loss": terms.total,
                **{f"loss/{n}": v for n, v in terms.parts.items()},
            }.items():
                value = value.detach() * share
                scalars[name] = scalars[name] + value if name in scalars else value
        norm = self.strategy.step(learning.optimizer, self.settings.clip_norm)
        learning.schedule.step()
        if learning.ema is not None:
            learning.ema.update(learning.model)
        self.state.step += 1
        self.state.images_seen += num_images
        return scalars if norm is None else scalars | {"grad_norm": norm}

    def _timed_step(self, batches: Iterator[list[Batch]]) -> None:
        started = time.perf_counter()
        skipped_before = self.data.samples_skipped
        with self._interrupts.waiting():
            micro_batches = next(batches)
        waited = time.perf_counter() - started
        lr = float(self.learning.optimizer.param_groups[0]["lr"])
        scalars = self.train_step(micro_batches)
        seconds = time.perf_counter() - started
        ids = tuple(sample_id for batch in micro_batches for sample_id in batch.ids)
        self.clock.steps += seconds
        self.clock.waiting += waited
        self.clock.images += len(ids)
        self.state.samples_skipped += self.data.samples_skipped - skipped_before
        record = {
            "step": self.state.step,
            "epoch": -(-self.state.step // self.data.steps_per_epoch),
            "loss": math.nan,
            "lr": lr,
            "images_seen": self.state.images_seen,
            "images_per_second": len(ids) / seconds,
            "data_wait_s": waited,
            "samples_skipped": self.state.samples_skipped,
        }
        self._scalars.put(record, scalars, ids)
        for step in self._scalars.ready():
            self._log_step(step)

    def _log_step(self, step: PendingStep) -> None:
        record = step.record | step.read()
        if self.settings.log_sample_ids:
            record["sample_ids"] = list(step.sample_ids)
        self.recording.folder.record("train", record)
        self.recording.tracker.notify()
        if not math.isfinite(record["loss"]):
            parts = ", ".join(f"{name}={record[name]}" for name in step.names)
            raise NonFiniteLoss(
                f"the loss is not finite at step {record['step']} ({parts}; lr={record['lr']:.3g}).\n"
                f"Samples of the step: {', '.join(step.sample_ids)}.\n"
                "The last good checkpoint is kept. Try a lower optimizer.lr, trainer.clip_norm=1.0, or "
                "trainer.precision=fp32."
            )
        self.recording.display.step(record)

    def _finish_log(self) -> None:
        for step in self._scalars.drain():
            self._log_step(step)

    def _stop_if_asked(self) -> None:
        if self._interrupts.received is None:
            return
        self._finish_log()
        path = self.save()
        where = f"saved step {self.state.step} to {path}" if path else f"step {self.state.step} could NOT be saved"
        raise self._interrupts.as_exception(f"{where}. Go on with resume={self.recording.folder.path}")

    def _evaluate_if_due(self) -> bool:
        """Evaluate and save if this step asks for it and it has not been done; also after a resume in between."""
        step = self.state.step
        is_last = step >= self.total_steps
        if step == self.state.evaluated_step or not (is_last or self._evaluate_when.is_due(step)):
            return False
        self._finish_log()
        evaluation = self._evaluate()
        score = self._monitored(evaluation.scores)
        settings = self.settings
        is_best = self.state.note_score(
            score, mode=settings.checkpoint.mode, min_delta=settings.early_stopping.min_delta
        )
        self.learning.schedule.evaluated(score)
        patience = settings.early_stopping.patience
        if patience is not None and self.state.evaluations_since_best >= patience and not is_last:
            self.state.stopped_early = True
            log.info("stopping early: no better %s in %d evaluations", settings.checkpoint.monitor, patience)
        record = {"split": evaluation.split, "step": step, "epoch": -(-step // self.data.steps_per_epoch)}
        self.recording.folder.record("eval", record | evaluation.scores)
        self.recording.display.evaluated(record | evaluation.scores, is_best=is_best)
        if is_best:
            self.recording.on_best(evaluation)
        self.recording.tracker.notify()
        self.save(score=None if math.isnan(score) else score, is_best=is_best)
        if not is_last:
            self.recording.on_score(score, self.state.evaluations)
        return True

    def _evaluate(self) -> Evaluation:
        started = time.perf_counter()

        def on_batch(done: int) -> None:
            self.recording.display.evaluating(done, len(self.evaluator.data))
            self._stop_if_asked()

        with self._interrupts.waiting():
            evaluation = self.evaluator(self.learning.evaluated_model, self.strategy, on_batch=on_batch)
        self.clock.evaluation += time.perf_counter() - started
        self.last_scores = evaluation.scores
        return evaluation

    def _monitored(self, scores: Mapping[str, float]) -> float:
        name = self.settings.checkpoint.monitor
        if name not in scores:
            raise UserError(f"trainer.checkpoint.monitor={name}: not evaluated. Allowed: {', '.join(sorted(scores))}")
        return scores[name]

    def save(self, *, score: float | None = None, is_best: bool = False) -> Path | None:
        """Save last.pt, and the best ones if it is one. None when the disk refuses: training goes on, and says so.

        Raises NonFiniteLoss rather than save weights that are not finite.
        """
        self._finish_log()
        content = self.content()
        weights: list[Tensor] = [v for v in content["model"].values() if v.is_floating_point()]
        if not bool(torch.stack([weight.sum().double() for weight in weights]).isfinite().all()):
            raise NonFiniteLoss(
                f"weights are not finite after step {self.state.step}; nothing was saved, "
                "the last good checkpoint is kept"
            )
        try:
            return self.recording.keeper.save(content, score=score, is_best=is_best)
        except OSError as error:
            log.error("cannot save a checkpoint (%s); the previous one is kept and training goes on", error)
            return None

    def content(self) -> Content:
        """What a checkpoint holds: the state, the components' state dicts, and the identity of the run."""
        learning = self.learning
        return {
            **self.recording.identity,
            "run_id": self.recording.tracker.run_id,
            "state": self.state.to_dict(),
            "position": self._position(),
            "model": self.strategy.unwrap(learning.model).state_dict(),
            "ema": None if learning.ema is None else learning.ema.state_dict(),
            "optimizer": learning.optimizer.state_dict(),
            "schedule": learning.schedule.state_dict(),
            "strategy": self.strategy.state_dict(),
            "random": random_state(),
        }

    def _position(self) -> dict[str, int]:
        """What the meaning of a step depends on."""
        return {
            "trainer.batch_size": self.settings.batch_size,
            "trainer.accumulate": self.settings.accumulate,
            "steps_per_epoch": self.data.steps_per_epoch,
            "total_steps": self.total_steps,
        }

    def resume(self, content: Content) -> None:
        """Go on from a checkpoint's content. Raises UserError when it is of another model or optimizer."""
        learning = self.learning
        try:
            self.strategy.unwrap(learning.model).load_state_dict(content["model"])
            learning.optimizer.load_state_dict(content["optimizer"])
            learning.schedule.load_state_dict(content["schedule"])
            if learning.ema is not None and content["ema"] is not None:
                learning.ema.load_state_dict(content["ema"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise UserError(
                f"resume: the checkpoint is of another model or optimizer than this config: {error}"
            ) from None
        self.strategy.load_state_dict(content["strategy"])
        self.state.take(content["state"])
        for name, value in self._position().items():
            if content["position"][name] != value:
                log.warning(
                    "%s was %s and is now %s: this run will differ from one that never stopped",
                    name,
                    content["position"][name],
                    value,
                )
        if (learning.ema is None) != (content["ema"] is None):
            log.warning(
                "trainer.ema.decay: the checkpoint was saved %s an average of the weights",
                "without" if content["ema"] is None else "with",
            )
        # A longer patience, or none, lets a run go on that had stopped early.
        patience = self.settings.early_stopping.patience
        self.state.stopped_early = patience is not None and self.state.evaluations_since_best >= patience
        set_random_state(content["random"])


def total_steps(settings: TrainerSettings, steps_per_epoch: int) -> int:
    """Optimizer steps of the whole run: max_epochs or max_steps, whichever comes first."""
    limits = [settings.max_steps] if settings.max_steps is not None else []
    if settings.max_epochs is not None:
        limits.append(settings.max_epochs * steps_per_epoch)
    return min(limits)
