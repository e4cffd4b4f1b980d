"""THE loop. The life of a batch, from the loader to the log, reads from top to bottom; everything is handed in."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from segkit.config.schema import TrainerSettings
from segkit.contracts import Batch, ProgressAware, Strategy, TrainingData
from segkit.engine import memory, snapshot
from segkit.engine.cadence import Cadence, total_steps
from segkit.engine.components import Learning, recomputed_buffers, unchanged
from segkit.engine.evaluator import Evaluation, Evaluator
from segkit.engine.non_finite import NonFiniteGuard, check_weights
from segkit.engine.outputs import Clock, Recording
from segkit.engine.profiling import Profile, StepProfile
from segkit.engine.scalars import PendingStep, ScalarQueue, add_share
from segkit.engine.signals import AskedToStop, Interrupts
from segkit.engine.state import TrainState
from segkit.errors import RunFailure, UserError

log = logging.getLogger(__name__)


class Trainer:
    """Trains from wherever the state stands to the end that the settings name."""

    def __init__(
        self,
        learning: Learning,
        data: TrainingData,
        evaluator: Evaluator,
        recording: Recording,
        *,
        strategy: Strategy,
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
        steps = data.steps_per_epoch
        self.total_steps = total_steps(settings, steps)
        self._saved_step: int | None = None
        self._evaluate_when = Cadence(settings.evaluate.every_steps, settings.evaluate.every_epochs, steps)
        self._save_when = Cadence(settings.checkpoint.every_steps, settings.checkpoint.every_epochs, steps)
        parts = [part for part in (learning.model, learning.loss) if isinstance(part, nn.Module)]
        self._progress_aware = [m for part in parts for m in part.modules() if isinstance(m, ProgressAware)]
        self._recomputed_buffers = recomputed_buffers(learning.model)
        self._guard = NonFiniteGuard(settings.non_finite, learning.model, strategy)
        self._profile = StepProfile(recording.folder, strategy.device) if settings.profile else Profile()
        self._scalars = ScalarQueue()
        self._interrupts = Interrupts()

    def fit(self, until: int | None = None) -> Literal["completed", "stopped"]:
        """Train, evaluate and save until the end, or until step `until`; called again, it goes on from there.

        Without `until`, `trainer.stop_after_steps` says how many steps are trained here.

        Raises Interrupted after a signal, with a checkpoint saved, and RunFailure when memory runs out, numbers
        diverge, or the last state finds no room, with the last good checkpoint kept.
        """
        if until is None and self.settings.stop_after_steps is not None:
            until = self.state.step + self.settings.stop_after_steps
        end = self.total_steps if until is None else min(until, self.total_steps)
        self.recording.display.start(
            total_steps=self.total_steps, steps_per_epoch=self.data.steps_per_epoch, done_steps=self.state.step
        )
        try:
            with self._interrupts, memory.shortage_explained(self.settings, self.strategy.device):
                self._evaluate_if_due()
                batches = self.data.batches(self.state.step)
                while self.state.step < end and not self.state.stopped_early:
                    self._next_step(batches)
                    self._stop_if_asked()
                    if not self._evaluate_if_due() and self._save_when.is_due(self.state.step):
                        self.save()
                self._finish_log()
                self._stop_if_asked()  # by a signal during the last evaluation
                self._require_saved()
        except AskedToStop:
            self._stop_if_asked()
        finally:
            self._profile.close()
            self.recording.display.stop()
        if self._is_over:
            return "completed"
        log.info(
            "stopped at step %d of %d, as asked for. Go on with resume=%s",
            self.state.step,
            self.total_steps,
            self.recording.folder.path,
        )
        return "stopped"

    @property
    def _is_over(self) -> bool:
        return self.state.step >= self.total_steps or self.state.stopped_early

    def _require_saved(self) -> None:
        """Raise RunFailure unless the state that the process ends with is in a checkpoint, or can be saved now."""
        step = self.state.step
        if self._saved_step == step or (not self._is_over and self.save() is not None):
            return
        kept = "there is no checkpoint" if self._saved_step is None else f"last.pt is of step {self._saved_step}"
        best = f", best.pt of step {self.state.best_step}" if "best" in self.recording.keeper.paths() else ""
        raise RunFailure(
            f"the last state of the run, that of step {step}, could not be saved: {kept}{best}. "
            f"Make room, and train what is missing again with resume={self.recording.folder.path}"
        )

    def _next_step(self, batches: Iterator[list[Batch]]) -> None:
        """Wait for the micro-batches of a step, learn from them, and put the step's numbers on their way to the log."""
        started = time.perf_counter()
        skipped_before = self.data.samples_skipped
        with self._profile.region("data wait"), self._interrupts.waiting():
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
            "epoch": self._epoch(),
            "loss": math.nan,
            "lr": lr,
            "images_seen": self.state.images_seen,
            "images_per_second": len(ids) / seconds,
            "data_wait_s": waited,
            "samples_skipped": self.state.samples_skipped,
            "steps_skipped": self.state.steps_skipped,
            "memory_gib": memory.used(self.strategy.device) / memory.GIB,
        }
        self._scalars.put(record, scalars, ids)
        for step in self._scalars.ready():
            self._log_step(step)
        self._profile.step_done(len(ids))

    def train_step(self, micro_batches: list[Batch]) -> dict[str, Tensor]:
        """One optimizer step on the mean loss over what counts in all micro-batches; the step's scalars."""
        learning, region = self.learning, self._profile.region
        learning.model.train()
        for module in self._progress_aware:
            module.set_progress(self.state.step / self.total_steps)
        self._guard.before_step()
        scalars: dict[str, Tensor] = {}
        batches = [batch.to(self.strategy.device) for batch in micro_batches]
        for number, (batch, share) in enumerate(zip(batches, self._shares(batches), strict=True), start=1):
            with self.strategy.accumulating(learning.model, is_last=number == len(batches)):
                with region("forward"), self.strategy.autocast():
                    prediction = learning.forward(batch.images)
                with region("loss"):
                    terms = learning.loss(prediction, batch)
                    add_share(scalars, terms, share)
                with region("backward"), unchanged(self._recomputed_buffers):
                    self.strategy.backward(terms.total * share)
        scalars = {name: self.strategy.reduce(value) for name, value in scalars.items()}
        self.state.step += 1
        self.state.images_seen += sum(len(batch) for batch in micro_batches) * self.strategy.world_size
        with region("optimizer"):
            if self._guard.refuses(scalars["loss"], learning.optimizer):
                self._guard.count_skipped(self.state, micro_batches)
            else:
                norm = self.strategy.step(learning.optimizer, self.settings.clip_norm)
                scalars |= {} if norm is None else {"grad_norm": norm}
                if learning.ema is not None:
                    learning.ema.update(learning.model)
            learning.schedule.step()
        return scalars

    def _shares(self, batches: list[Batch]) -> Sequence[Tensor | float]:
        """The weight of each micro-batch in the step's loss: its share of the targets of all, in all processes.

        So the loss of a step is that of one large batch, however it is divided, where a loss is a mean over targets.
        """
        if len(batches) == self.strategy.world_size == 1:
            return [1.0]
        numbers = torch.stack([self.evaluator.task.num_targets(batch) for batch in batches])
        return (numbers / self.strategy.reduce(numbers.sum()).clamp_min(1)).unbind()

    def _log_step(self, step: PendingStep) -> None:
        record = step.record | step.read()
        if self.settings.log_sample_ids:
            record["sample_ids"] = list(step.sample_ids)
        self.recording.folder.record("train", record)
        self._guard.check_logged(step, record)
        self.recording.display.step(record)

    def _finish_log(self) -> None:
        for step in self._scalars.drain():
            self._log_step(step)

    def _evaluate_if_due(self) -> bool:
        """Evaluate and save if this step asks for it and it has not been done; also after a resume in between."""
        step, settings = self.state.step, self.settings
        is_last = step >= self.total_steps
        if step == self.state.evaluated_step or not (is_last or self._evaluate_when.is_due(step)):
            return False
        self._finish_log()
        evaluation = self._evaluate()
        score = self._monitored(evaluation.scores)
        kept = self.state.best_score, self.state.best_step
        is_best = self.state.note_score(
            score, mode=settings.checkpoint.mode, min_delta=settings.early_stopping.min_delta
        )
        self.learning.schedule.evaluated(score)
        patience = settings.early_stopping.patience
        if patience is not None and self.state.evaluations_since_best >= patience and not is_last:
            self.state.stopped_early = True
            log.info("stopping early: no better %s in %d evaluations", settings.checkpoint.monitor, patience)
        record = {"split": evaluation.split, "step": step, "epoch": self._epoch(), **evaluation.scores}
        self.recording.folder.record("eval", record)
        self.recording.display.evaluated(record, is_best=is_best)
        if is_best:
            self.recording.on_best(evaluation)
        if not self.save(score=score if math.isfinite(score) else None, is_best=is_best):
            self.state.best_score, self.state.best_step = kept  # the best is the best of what is there to be used
        if not is_last:
            self.recording.on_score(score, self.state.evaluations)
        return True

    def _evaluate(self) -> Evaluation:
        started = time.perf_counter()

        def on_batch(done: int) -> None:
            self.recording.display.evaluating(done, len(self.evaluator.data))
            self._stop_if_asked()

        with self._interrupts.waiting(), memory.given_back(on_batch) as counted:
            evaluation = self.evaluator(self.learning.evaluated_model, self.strategy, on_batch=counted)
        self.clock.evaluation += time.perf_counter() - started
        return evaluation

    def _monitored(self, scores: Mapping[str, float]) -> float:
        name = self.settings.checkpoint.monitor
        if name not in scores:
            raise UserError(f"trainer.checkpoint.monitor={name}: not evaluated. Allowed: {', '.join(sorted(scores))}")
        return float(scores[name])  # a NumPy number could not be read back

    def save(self, *, score: float | None = None, is_best: bool = False) -> Path | None:
        """Save last.pt, and the best ones if it is one. None when the disk refuses and training is to go on.

        Raises NonFiniteLoss rather than save weights that are not finite, and RunFailure when the disk refuses and
        `trainer.checkpoint.on_error` is stop.
        """
        self._finish_log()
        content = snapshot.taken(self)
        check_weights(content, self.state.step)
        try:
            path = self.recording.keeper.save(content, score=score, is_best=is_best)
            self._saved_step = self.state.step
            return path
        except OSError as error:
            said = f"cannot save a checkpoint of step {self.state.step} ({error}); the previous one is kept"
            if self.settings.checkpoint.on_error == "stop":
                raise RunFailure(f"{said}. Make room and go on with resume={self.recording.folder.path}") from error
            log.error("%s and training goes on (trainer.checkpoint.on_error=continue)", said)
            return None

    def resume(self, content: dict[str, Any], changed: Collection[str] = ()) -> None:
        """Go on from a checkpoint's content; see `snapshot.restore`."""
        snapshot.restore(self, content, changed)
        self._saved_step = self.state.step

    def _stop_if_asked(self) -> None:
        if not self.strategy.any(self._interrupts.received is not None):
            return
        self._finish_log()
        path = self.save()
        where = f"saved step {self.state.step} to {path}" if path else f"step {self.state.step} could NOT be saved"
        raise self._interrupts.as_exception(f"{where}. Go on with resume={self.recording.folder.path}")

    def _epoch(self) -> int:
        return -(-self.state.step // self.data.steps_per_epoch)
