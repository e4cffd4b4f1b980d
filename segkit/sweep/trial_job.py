"""One trial in the process that runs it: the task, told what it is a trial of, and its end told to the study.

Nothing here is handed back through the launcher but how it ended: the study has the rest, so a sweep that is
killed meanwhile misses nothing.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import logging
import math
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hydra.core.hydra_config import HydraConfig
from hydra.types import TaskFunction
from omegaconf import DictConfig
from optuna.trial import TrialState

from segkit.config.credentials import masked
from segkit.errors import Interrupted, Pruned, RunFailure, UserError
from segkit.sweep.claims import Heartbeat
from segkit.sweep.settings import SweepSettings, read, stored
from segkit.sweep.study import FOLDER, PARTS, Sweep, open_sweep

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    `part` is a fold that is done while others are not; `superseded`: the trial was another process's by then.
    `exit_code` is that of an interruption.
    """

    status: Literal["completed", "pruned", "failed", "interrupted", "part", "superseded"]
    error: str = ""
    exit_code: int = 0


class RunningTrial:
    """The `trials.Trial` of a run."""

    def __init__(self, sweep: Sweep, number: int, fold: int | None) -> None:
        settings = sweep.settings
        self._sweep, self._number, self._fold = sweep, number, fold
        self.name = f"trial {number}" if fold is None else f"trial {number} fold {fold}"
        self.tags: Mapping[str, str] = {
            "sweep": sweep.name,
            "sweep.study": sweep.name,
            "sweep.trial": str(number),
            **({} if fold is None else {"sweep.fold": str(fold)}),
        }
        self.params: Mapping[str, Any] = dict(sweep.trial(number).params)
        self.objectives: Sequence[str] = settings.objectives or ()
        self.keeps_checkpoints_when_pruned = settings.pruned_checkpoints == "keep"

    def report(self, score: float, evaluation: int) -> None:
        # With folds, the steps of a trial are its folds; with several objectives, Optuna prunes nothing.
        if self._fold is not None or self._sweep.settings.is_multi_objective:
            return
        # Optuna counts steps from 0.
        if self._sweep.report(self._number, score, evaluation - 1):
            raise Pruned(f"pruned after evaluation {evaluation}: {score:.4g}")

    def record(self, name: str, value: str) -> None:
        self._sweep.note(self._number, name if self._fold is None else f"{name}.fold{self._fold}", value)


class TrialTask:
    """A task function that runs as a trial of the study named in `hydra.sweeper`, and gives an `Outcome`."""

    def __init__(self, task: TaskFunction) -> None:
        self.task = task

    def __call__(self, config: DictConfig) -> Outcome:
        hydra_config = HydraConfig.get()
        settings = stored(read(hydra_config), Path(str(hydra_config.sweep.dir)))
        number, ticket = int(hydra_config.job.num), settings.ticket
        assert ticket is not None, "the sweep sends every job a ticket"
        # Of 200 trials, the terminal shows what goes wrong; everything is in each one's own log.
        for handler in logging.getLogger().handlers:
            if handler.get_name() == "console":
                handler.setLevel(logging.WARNING)
        sweep = open_sweep(settings, for_jobs=True)
        claim = sweep.claims.take_over(number, ticket)
        if claim is None:
            return Outcome("superseded")
        fold = _fold(settings, sweep, number)
        if fold is None or fold == 0:
            sweep.note(number, FOLDER, str(hydra_config.runtime.output_dir))
        with Heartbeat(sweep.claims, number, claim, settings.heartbeat_s):
            outcome = self._run(config, sweep, RunningTrial(sweep, number, fold), number, fold)
        if outcome.status == "interrupted":
            sweep.claims.release(number, ticket)
        return outcome

    def _run(self, config: DictConfig, sweep: Sweep, trial: RunningTrial, number: int, fold: int | None) -> Outcome:
        try:
            # Of tasks that know nothing of trials, such as those of a test, the value alone is told.
            takes_trial = "trial" in inspect.signature(self.task).parameters
            value = self.task(config, trial=trial) if takes_trial else self.task(config)  # type: ignore[call-arg]
        except Pruned:
            sweep.finish(number, TrialState.PRUNED)
            return Outcome("pruned")
        except Interrupted as error:
            return Outcome("interrupted", str(error), error.exit_code)
        except KeyboardInterrupt:
            return Outcome("interrupted", "interrupted", 130)
        except SystemExit as error:
            return Outcome("interrupted", "terminated", error.code if isinstance(error.code, int) else 1)
        except Exception as error:
            return self._failed(sweep, number, error)
        finally:
            _free_memory()
        try:
            return _conclude(sweep, number, fold, values_of(value, sweep.settings))
        except UserError as error:
            sweep.fail(number, str(error))
            return Outcome("failed", str(error))

    def _failed(self, sweep: Sweep, number: int, error: Exception) -> Outcome:
        is_users = isinstance(error, UserError)
        if is_users or isinstance(error, RunFailure):
            # The sweep tells it in one message; this is for the trial's own log.
            text = masked(str(error).strip())
            log.info("trial %d failed: %s", number, text)
        else:
            log.error("trial %d failed", number, exc_info=error)
            text = masked(f"{type(error).__name__}: {error}".strip())
        with contextlib.suppress(OSError):
            folder = HydraConfig.get().runtime.output_dir
            with open(f"{folder}/error.txt", "w", encoding="utf-8") as file:  # noqa: PTH123
                file.write(masked("".join(traceback.format_exception(error))))
        sweep.fail(number, text[:2000], is_users=is_users)
        return Outcome("failed", text)


def _fold(settings: SweepSettings, sweep: Sweep, number: int) -> int | None:
    """The fold that this job is to run: the first that has no score yet."""
    return None if settings.folds is None else len(sweep.trial(number).user_attrs.get(PARTS, []))


def values_of(value: Any, settings: SweepSettings) -> list[float]:
    """What a task gave back, as one finite number for each direction. Raises UserError."""
    listed = list(value) if isinstance(value, tuple | list) else [value]
    if len(listed) != len(settings.direction):
        raise UserError(
            f"the run gave {len(listed)} values for {len(settings.direction)} directions; "
            "hydra.sweeper.objectives names them"
        )
    numbers: list[float] = []
    for one in listed:
        if one is None or not math.isfinite(float(one)):
            raise UserError(f"the objective is not finite: {'none' if one is None else float(one)}")
        numbers.append(float(one))
    return numbers


def _conclude(sweep: Sweep, number: int, fold: int | None, values: list[float]) -> Outcome:
    """Tell the study the values; of a fold, what the folds so far say."""
    if fold is None:
        sweep.finish(number, TrialState.COMPLETE, values)
        return Outcome("completed")
    assert sweep.settings.folds is not None
    scores = [*sweep.trial(number).user_attrs.get(PARTS, []), values[0]]
    should_end = sweep.report(number, values[0], fold)
    sweep.note(number, PARTS, scores)
    if len(scores) == sweep.settings.folds:
        sweep.finish(number, TrialState.COMPLETE, [sum(scores) / len(scores)])
        return Outcome("completed")
    if should_end:
        sweep.finish(number, TrialState.PRUNED)
        return Outcome("pruned")
    return Outcome("part")


def _free_memory() -> None:
    """A trial that ran out of memory must not take it from the next one."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
