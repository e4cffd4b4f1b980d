"""The study of a sweep, opened alike by the process that sweeps and by those that run its trials."""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from segkit.config import instantiate
from segkit.config.credentials import masked
from segkit.errors import UserError
from segkit.sweep import optuna_internals
from segkit.sweep.claims import CLAIM, Claims
from segkit.sweep.samplers import seeded
from segkit.sweep.settings import SweepSettings
from segkit.sweep.storage import open_storage, study_lock

ERROR, FAULT, FOLDER, PARTS = "error", "fault", "folder", "folds"
"""User attributes of a trial: why it failed, that the user's input is at fault, its run folder, and the score of each
fold that is done."""


@dataclass(frozen=True)
class Sweep:
    """An open study with its claims."""

    settings: SweepSettings
    name: str
    study: optuna.Study
    claims: Claims

    @property
    def is_maximized(self) -> bool:
        return self.settings.direction[0] == "maximize"

    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def trial(self, number: int) -> FrozenTrial:
        return optuna_internals.trial_of(self.study, number)

    def note(self, number: int, name: str, value: object) -> None:
        """Keep a fact with a trial that is running."""
        optuna_internals.note(self.study, self.trial(number), name, value)

    def finish(self, number: int, state: TrialState, values: Sequence[float] | None = None) -> None:
        """End a trial. A second end of the same trial changes nothing."""
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self.study.tell(number, list(values) if values is not None else None, state, skip_if_finished=True)

    def fail(self, number: int, error: str, *, is_users: bool = False) -> None:
        """End a trial as failed; `is_users`: the user's input is at fault."""
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self.note(number, ERROR, masked(error))
            if is_users:
                self.note(number, FAULT, "input")
        self.finish(number, TrialState.FAIL)

    def report(self, number: int, score: float, step: int) -> bool:
        """Tell an intermediate score; whether the trial should end. A score told before stays as it was."""
        trial = optuna_internals.resumed(self.study, self.trial(number))
        if step not in self.trial(number).intermediate_values and math.isfinite(score):
            trial.report(score, step)
        return trial.should_prune()

    def best(self) -> FrozenTrial | None:
        """The completed trial with the best (first) objective; None if there is none."""
        done = [trial for trial in self.trials() if trial.state is TrialState.COMPLETE]
        sign = 1 if self.is_maximized else -1
        return max(done, key=lambda trial: (sign * trial.values[0], -trial.number), default=None)


def open_sweep(settings: SweepSettings, *, for_jobs: bool) -> Sweep:
    """The study that `settings` name, made if it does not exist. Raises UserError.

    `for_jobs` opens it for the process that runs a trial: nothing is sampled there, so the sampler is a cheap one.
    """
    name, url = settings.study_name, settings.storage
    assert name is not None
    assert url is not None
    quieten()
    storage = open_storage(url)
    sampler: BaseSampler = RandomSampler() if for_jobs else make_sampler(settings)

    def lock() -> contextlib.AbstractContextManager[None]:
        return study_lock(storage, url, name)

    with lock():  # PostgreSQL and MySQL would let two processes make the same study, and one of them fail
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            sampler=sampler,
            pruner=make_pruner(settings),
            directions=list(settings.direction),
            load_if_exists=True,
        )
    found = tuple(direction.name.lower() for direction in study.directions)
    if found != settings.direction:
        raise UserError(
            f"hydra.sweeper.direction={list(settings.direction)}: the study {name} has "
            f"{list(found)}; give this sweep a study of its own with hydra.sweeper.study_name=..."
        )
    claims = Claims(study, lock, grace_s=settings.grace_s)
    return Sweep(settings, name, study, claims)


def make_sampler(settings: SweepSettings) -> BaseSampler:
    node = dict(settings.sampler)
    seed = node.pop("seed", None)
    if seed is not None and not (isinstance(seed, int) and seed >= 0):
        raise UserError(f"hydra.sweeper.sampler.seed={seed}; allowed: whole numbers from 0 up, or null")
    make = instantiate.build({**node, "_partial_": True}, "hydra.sweeper.sampler", supplied=["seed"])
    try:
        return seeded(make, seed)
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"hydra.sweeper.sampler: {error}") from None


def make_pruner(settings: SweepSettings) -> BasePruner:
    return instantiate.build(settings.pruner, "hydra.sweeper.pruner")


def quieten() -> None:
    """Optuna's messages, one a trial: the sweep shows its own."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("optuna").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=ExperimentalWarning)


def visible_attributes(trial: FrozenTrial) -> dict[str, object]:
    """What the user attributes of a trial say to people."""
    return {name: value for name, value in trial.user_attrs.items() if name != CLAIM}
