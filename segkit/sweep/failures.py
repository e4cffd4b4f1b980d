"""When a sweep has failed, and what it says of that."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from segkit.errors import RunFailure, UserError
from segkit.sweep.search_space import Space
from segkit.sweep.study import ERROR, FAULT, FOLDER, Sweep

ALIKE = 3
"""So many first trials that end with the same message about the user's input end the sweep."""


def are_all_alike(trials: Sequence[FrozenTrial], space: Space) -> bool:
    """Whether nothing but one and the same mistake has come of a sweep, whatever was drawn.

    All trials that ended failed by the user's input with the same message, and every searched choice has been
    another one in some of them.
    """
    ended = [trial for trial in trials if trial.state.is_finished()]
    errors = {trial.user_attrs.get(ERROR) if FAULT in trial.user_attrs else None for trial in ended}
    if len(ended) < ALIKE or len(errors) > 1 or None in errors:
        return False
    choices = [key for key, value in space.distributions.items() if isinstance(value, CategoricalDistribution)]
    return all(
        space.distributions[key].single() or len({repr(trial.params.get(key)) for trial in ended}) > 1
        for key in choices
    )


def of_sweep(sweep: Sweep, folder: Path) -> Exception:
    """What a failed sweep ends with: a UserError if the user's input is at fault for all its failures."""
    failed = [trial for trial in sweep.trials() if trial.state is TrialState.FAIL]
    if not failed:
        return RunFailure(f"sweep {sweep.name} failed; trials and logs: {folder}")
    first = failed[0]
    error = str(first.user_attrs.get(ERROR, "no reason was left")).strip()
    where = Path(str(first.user_attrs.get(FOLDER, folder)))
    log = next((path for path in (where / "error.txt", *sorted(where.glob("*.log"))) if path.exists()), where)
    head = f"{len(failed)} of {len(sweep.trials())} trials failed, trial {first.number} first; its log: {log}"
    if all(FAULT in trial.user_attrs for trial in failed):
        return UserError(f"{error}\nsweep {sweep.name}: {head}")
    return RunFailure(f"sweep {sweep.name}: {head}\n{error}")
