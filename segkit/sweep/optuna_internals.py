"""The private names of Optuna that sweeps need, in one place.

In Optuna's own words a trial begins, reports and ends in the process that asked for it. Here a trial may be taken over
by another process after the first one died, reports from the process of its run, and carries a claim that all of them
read: each of these needs the id that Optuna's storage has for a trial, which has no public name.
"""

from __future__ import annotations

from typing import Any

from optuna import Study, Trial
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial


def trial_of(study: Study, number: int) -> FrozenTrial:
    """The trial of that number as it stands in the storage. Raises KeyError if there is none.

    `Study.get_trials` would read all of them.
    """
    storage = study._storage
    return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(study._study_id, number))


def note(study: Study, trial: FrozenTrial, name: str, value: Any) -> None:
    """Set a user attribute of a running trial, whoever began it."""
    study._storage.set_trial_user_attr(trial._trial_id, name, value)


def resumed(study: Study, trial: FrozenTrial) -> Trial:
    """A running trial to draw values for, or to report to, whoever began it."""
    return Trial(study, trial._trial_id)


def suggest(trial: Trial, key: str, distribution: BaseDistribution) -> None:
    """Draw a value, as `Study.ask` does for its fixed distributions; one that is there already stays."""
    trial._suggest(key, distribution)
