"""The sweep: claims trials, sends them to slots, and leaves a study that the same command goes on with."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from optuna.trial import FrozenTrial, TrialState

from segkit.config.credentials import hidden_in_override
from segkit.config.masking import mask_in_place
from segkit.config.overrides import quoted
from segkit.errors import Interrupted, UserError
from segkit.sweep import optuna_internals
from segkit.sweep.claims import Claim, claim_of
from segkit.sweep.display import SweepDisplay, make_display
from segkit.sweep.executors import Slots, make_slots, quiet_launchers
from segkit.sweep.failures import are_all_alike, of_sweep
from segkit.sweep.preparation import (
    Folders,
    check_space,
    make_record,
    named,
    prepare,
    reach_from_workers,
    take_folder,
)
from segkit.sweep.protocols import SweepRecord
from segkit.sweep.results import write_results
from segkit.sweep.same_config import SharedConfig
from segkit.sweep.search_space import Space, read_space
from segkit.sweep.settings import read, stored
from segkit.sweep.study import FOLDER, PARTS, Sweep, open_sweep, quieten
from segkit.sweep.trial_job import Outcome, TrialTask

log = logging.getLogger(__name__)

POLL_S = 0.5
UNDECIDED_POLL_S = 5.0
STOP_S = 60.0
"""Longest wait, after an interruption, for running trials to save."""


def sweep(config: DictConfig, context: HydraContext, task: TaskFunction, arguments: Sequence[str]) -> Any:
    """Run the sweep that `config` and the command line's `arguments` describe; its best value or values.

    Raises UserError for what the user can mend, Interrupted after a signal, and RunFailure when too many trials
    failed, or all of them.
    """
    quieten()
    mask_in_place(config)  # where a command has no callback that has done it
    arguments = [hidden_in_override(argument) for argument in arguments]
    settings = read(config.hydra)
    space = read_space(arguments, settings.params, settings.custom_search_space, context.config_loader)
    settings = named(settings, config, space)
    folder = take_folder(config, settings)
    settings = stored(settings, folder)
    loader = context.config_loader
    check_space(config, context, space)
    shared = SharedConfig(settings, config, loader, space)
    reach_from_workers()
    opened = open_sweep(settings, for_jobs=False)
    limit = prepare(opened, space, shared)
    record = make_record(settings, config, folder)
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=context, task_function=TrialTask(task), config=config
    )
    slots = make_slots(launcher, settings.n_jobs)
    running = _Running(
        opened,
        space,
        slots,
        config,
        limit,
        make_display(opened, limit, space),
        record,
        loader,
        Folders(opened, folder, config, loader),
        shared,
    )
    return running.to_the_end(folder)


@dataclass
class _Running:
    sweep: Sweep
    space: Space
    slots: Slots
    config: DictConfig
    limit: int | None
    display: SweepDisplay
    record: SweepRecord | None
    loader: ConfigLoader
    folders: Folders
    shared: SharedConfig
    jobs: dict[Future[Outcome], tuple[int, Claim]] = field(default_factory=dict)
    failures: list[Outcome] = field(default_factory=list)
    interruption: Outcome | None = None
    refusal: UserError | None = None
    is_hopeless: bool = False
    started: float = field(default_factory=time.monotonic)
    beaten: float = 0.0

    def to_the_end(self, folder: Path) -> Any:
        status = "failed"
        if self.record is not None:
            self.record.start(self.sweep.study, self.space.distributions, self.space.fixed)
        try:
            with quiet_launchers(), self.display:
                self._run()
            status = self._status()
        except (KeyboardInterrupt, SystemExit) as error:
            code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 130
            self.interruption = Outcome("interrupted", exit_code=code)
            status = "terminated" if code == 143 else "interrupted"
        finally:
            self.slots.close()
            files = write_results(self.sweep, self.space, folder, status, self.loader, self.config)
            self.display.summary(folder, status)
            if self.record is not None:
                self.record.finish(self.sweep.study, status, files)
        return self._give_back(status, folder)

    def _run(self) -> None:
        try:
            while self._fill() or self.jobs:
                self._collect()
        except (KeyboardInterrupt, SystemExit) as error:
            self._stop(signal.SIGTERM, STOP_S)
            raise error

    def _fill(self) -> bool:
        """Send trials to all free slots; whether there is more to come."""
        while not self._is_over() and len(self.jobs) < self.slots.count:
            try:
                self.shared.check_edits(self.sweep.study)
                taken = self.sweep.claims.take(limit=self.limit, draw=self._draw)
            except UserError as error:
                self.refusal = error  # told when the trials that run have ended
                break
            if taken is None:
                if self.jobs or not self.sweep.claims.undecided():
                    return bool(self.jobs)
                time.sleep(UNDECIDED_POLL_S)
                continue
            self._send(*taken)
            if self.slots.is_here:
                break
        return not self._is_over() or bool(self.jobs)

    def _is_over(self) -> bool:
        settings = self.sweep.settings
        late = settings.timeout_s is not None and time.monotonic() - self.started > settings.timeout_s
        refused = self.interruption is not None or self.refusal is not None
        return late or refused or self._has_failed_too_often()

    def _has_failed_too_often(self) -> bool:
        most = self.sweep.settings.max_failures
        return self.is_hopeless or (most is not None and len(self.failures) > most)

    def _draw(self, left_behind: FrozenTrial | None) -> optuna.Trial:
        study = self.sweep.study
        if left_behind is None:
            trial = study.ask()
        else:
            study.sampler.before_trial(study, left_behind)
            trial = optuna_internals.resumed(study, left_behind)
        try:
            self.space.draw(self.config, trial)
        except UserError as error:
            self.sweep.fail(trial.number, str(error), is_users=True)
            raise
        return trial

    def _send(self, trial: FrozenTrial, claim: Claim) -> None:
        settings, number = self.sweep.settings, trial.number
        again = FOLDER in trial.user_attrs
        overrides = [*self.space.fixed, *self.space.overrides(trial.params)]
        subdir = self.folders.subdir(number, overrides)
        overrides.append(f"hydra.sweeper.ticket={claim.ticket}")
        if settings.folds is not None:
            fold = len(trial.user_attrs.get(PARTS, []))
            overrides.append(f"{settings.fold_key}={fold}")
            subdir = f"{subdir}/fold_{fold}"
        if again:
            overrides += settings.retry_overrides
        overrides.append(f"hydra.sweep.subdir={quoted(subdir)}")
        self.display.sent(number)
        self.jobs[self.slots.run(overrides, number)] = (number, claim)

    def _collect(self) -> None:
        """Wait a moment for jobs to end, and take note of those that have."""
        done, _ = wait(self.jobs, timeout=POLL_S, return_when="FIRST_COMPLETED")
        self._beat()
        for job in done:
            number, claim = self.jobs.pop(job)
            error = job.exception()
            outcome = job.result() if error is None else self._died(number, claim, error)
            self._ended(number, claim, outcome)

    def _ended(self, number: int, claim: Claim, outcome: Outcome | None) -> None:
        if outcome is not None and outcome.status == "part":
            renewed = self.sweep.claims.renew(number, claim)
            if renewed is not None:
                self._send(self.sweep.trial(number), renewed)
            return
        if outcome is not None and outcome.status == "failed":
            self.failures.append(outcome)
            self.is_hopeless = are_all_alike(self.sweep.trials(), self.space)
        # A job of another machine that was stopped is claimed again; one of this terminal ends the sweep.
        if outcome is not None and outcome.status == "interrupted" and (self.slots.is_here or outcome.exit_code == 130):
            self.interruption = outcome
        self.display.ended(number, outcome.status if outcome is not None else "again")
        if self.record is not None:
            self.record.update(self.sweep.study)

    def _died(self, number: int, claim: Claim, error: BaseException) -> Outcome | None:
        """What a job that gave no outcome comes to: None if the trial is to be run again."""
        trial = self.sweep.trial(number)
        if trial.state.is_finished():
            return None
        is_users = isinstance(error, HydraException | OmegaConfBaseException)
        if is_users:
            text = str(error).strip()
        else:
            current = claim_of(trial)
            deaths = current.deaths if current is not None else 0
            reason = str(error).strip().splitlines()
            text = f"the process of the trial died ({reason[0] if reason else type(error).__name__})"
            if deaths < self.sweep.settings.max_retries:
                log.warning("trial %d: %s; it is run again from its newest checkpoint", number, text)
                self.sweep.claims.release(number, claim.ticket, died=True)
                return None
        self.sweep.fail(number, text[:2000], is_users=is_users)
        return Outcome("failed", text)

    def _beat(self) -> None:
        """Speak for the jobs that wait at a launcher; those that run speak for themselves."""
        if time.monotonic() - self.beaten < self.sweep.settings.heartbeat_s:
            return
        self.beaten = time.monotonic()
        for number, claim in self.jobs.values():
            try:
                self.sweep.claims.beat(number, claim)
            except Exception:
                log.debug("no sign of life could be given for trial %d", number, exc_info=True)

    def _stop(self, number: signal.Signals, patience_s: float) -> None:
        """Ask the processes of this sweep's trials on this machine to save and end, and wait for them."""
        self.display.stopping()
        for trial, _ in self.jobs.values():
            claim = claim_of(self.sweep.trial(trial))
            if claim is not None and claim.phase == "running" and claim.is_here and claim.pid != os.getpid():
                try:
                    os.kill(claim.pid, number)
                except ProcessLookupError:
                    continue
        try:
            wait([job for job in self.jobs if not job.cancel()], timeout=patience_s)
        except KeyboardInterrupt:
            if number == signal.SIGTERM:
                self._stop(signal.SIGKILL, 5.0)
        for job, (trial, claim) in self.jobs.items():
            if job.done():
                self.sweep.claims.release(trial, claim.ticket)

    def _status(self) -> str:
        if self.interruption is not None:
            return "terminated" if self.interruption.exit_code == 143 else "interrupted"
        states = {trial.state for trial in self.sweep.trials()}
        nothing = not states & {TrialState.COMPLETE, TrialState.PRUNED} and TrialState.FAIL in states
        failed = nothing or self.refusal is not None or self._has_failed_too_often()
        return "failed" if failed else "completed"

    def _give_back(self, status: str, folder: Path) -> Any:
        if self.interruption is not None:
            code = self.interruption.exit_code
            raise Interrupted(status, code, f"{status}; the same command goes on with this sweep")
        if self.refusal is not None:
            raise self.refusal
        if status == "failed":
            raise of_sweep(self.sweep, folder)
        best = self.sweep.best()
        if best is None or self.sweep.settings.is_multi_objective:
            return None
        return best.value
