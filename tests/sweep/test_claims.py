"""Who may run a trial, told without processes: two `Claims` stand for two of them."""

from __future__ import annotations

import os
import pickle
from dataclasses import asdict, replace
from pathlib import Path

import optuna
import pytest

from segkit.errors import UserError
from segkit.sweep import claims as claims_module
from segkit.sweep.claims import CLAIM, Claim, Claims, claim_of
from segkit.sweep.storage import open_storage, refuse_code_in_studies, study_lock


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    open_storage.cache_clear()
    return optuna.create_study(storage=open_storage(f"sqlite:///{tmp_path / 'sweeps.db'}"), study_name="s")


def claims_on(study: optuna.Study, tmp_path: Path, grace_s: float = 100) -> Claims:
    url = f"sqlite:///{tmp_path / 'sweeps.db'}"
    return Claims(study, lambda: study_lock(study._storage, url, "s"), grace_s=grace_s)


def take(claims: Claims, limit: int | None = None):
    return claims.take(limit=limit, draw=lambda left: claims.study.ask() if left is None else None)


def put(study: optuna.Study, number: int, claim: Claim) -> None:
    study._storage.set_trial_user_attr(study.trials[number]._trial_id, CLAIM, asdict(claim))


def test_trials_are_drawn_up_to_the_limit_and_none_twice(study: optuna.Study, tmp_path: Path):
    one, other = claims_on(study, tmp_path), claims_on(study, tmp_path)
    taken = [take(claims, 3) for claims in (one, other, one, other)]
    assert [trial[0].number for trial in taken if trial] == [0, 1, 2]
    assert taken[3] is None


def test_a_trial_whose_process_is_gone_is_taken_again_under_a_new_ticket(study: optuna.Study, tmp_path: Path):
    claims = claims_on(study, tmp_path)
    trial, claim = take(claims, 1)
    put(study, 0, replace(claim, pid=2**22 - 3))  # no process has this id
    again, renewed = take(claims, 1)
    assert again.number == trial.number == 0
    assert renewed.ticket != claim.ticket
    # The job that was sent first comes too late.
    assert claims.take_over(0, claim.ticket) is None
    assert claims.take_over(0, renewed.ticket) is not None


def test_a_process_id_that_was_given_to_another_process_is_not_the_one_that_died(study: optuna.Study, tmp_path: Path):
    claims = claims_on(study, tmp_path)
    _, claim = take(claims, 1)
    assert take(claims, 1) is None
    put(study, 0, replace(claim, started=claim.started - 100))
    assert take(claims, 1) is not None


def test_a_released_trial_is_taken_at_once_and_a_finished_one_never(study: optuna.Study, tmp_path: Path):
    claims = claims_on(study, tmp_path)
    _, claim = take(claims, 1)
    claims.release(0, claim.ticket, died=True)
    _, again = take(claims, 1)
    assert again.deaths == 1
    study.tell(0, 1.0)
    assert take(claims, 1) is None
    assert claims.take_over(0, again.ticket) is None


def test_another_machine_counts_as_gone_after_a_silence(
    study: optuna.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    clock = [1000.0]
    monkeypatch.setattr(claims_module.time, "monotonic", lambda: clock[0])
    claims = claims_on(study, tmp_path, grace_s=60)
    _, claim = take(claims, 1)
    far = replace(claim, machine="another", beat=-5.0)  # its clock may say anything
    put(study, 0, far)
    assert take(claims, 1) is None
    assert claims.undecided()
    clock[0] += 59
    assert take(claims, 1) is None
    put(study, 0, replace(far, beat=10.0))
    clock[0] += 59
    assert take(claims, 1) is None
    assert not claims.undecided(), "its beat changed: it lives"
    clock[0] += 61
    taken = take(claims, 1)
    assert taken is not None
    assert taken[0].number == 0


def test_a_beat_of_a_process_that_lost_its_trial_changes_nothing(study: optuna.Study, tmp_path: Path):
    claims = claims_on(study, tmp_path)
    _, claim = take(claims, 1)
    running = claims.take_over(0, claim.ticket)
    assert running is not None
    assert running.phase == "running"
    put(study, 0, Claim("another"))
    claims.beat(0, running)
    found = claim_of(study.trials[0])
    assert found is not None
    assert found.ticket == "another"


def test_an_unreadable_claim_is_no_claim(study: optuna.Study, tmp_path: Path):
    claims = claims_on(study, tmp_path)
    take(claims, 1)
    study._storage.set_trial_user_attr(study.trials[0]._trial_id, CLAIM, {"ticket": 3, "os": "system"})
    assert take(claims, 1) is not None


class Code:
    def __reduce__(self):
        return os.system, ("touch should-not-exist",)


def test_a_pickle_in_a_study_runs_nothing(study: optuna.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Optuna's CMA-ES keeps its state in the study as a pickle, where anybody who can write may put another."""
    monkeypatch.chdir(tmp_path)
    refuse_code_in_studies()
    sampler = optuna.samplers.CmaEsSampler(seed=0)
    ours = optuna.create_study(storage=study._storage, study_name="cmaes", sampler=sampler)

    def objective(trial: optuna.Trial) -> float:
        return trial.suggest_float("x", -1, 1) ** 2 + trial.suggest_float("y", -1, 1) ** 2

    ours.optimize(objective, n_trials=20)  # its own state is read back
    trial = ours.ask()
    ours._storage.set_trial_system_attr(trial._trial_id, "cma:optimizer:0", pickle.dumps(Code()).hex())
    assert -1 <= trial.suggest_float("x", -1, 1) <= 1
    assert -1 <= trial.suggest_float("y", -1, 1) <= 1
    ours.tell(trial, 0.0)
    with pytest.raises(UserError, match="refused"):
        ours.optimize(objective, n_trials=1)
    assert not (tmp_path / "should-not-exist").exists()
