"""What a sweep promises, tried with real processes and real signals."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from tests.sweep.conftest import Sweeps

COMPLETE, PRUNED, FAIL, RUNNING = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING
SEARCH = "x=interval(0,1)"


def test_a_sweep_runs_its_trials_and_leaves_the_best_config(sweeps: Sweeps):
    ended = sweeps.run(SEARCH, "y=3", "hydra.sweeper.n_trials=4")
    assert ended.returncode == 0, ended.stderr
    trials = sweeps.trials()
    assert [trial.state for trial in trials] == [COMPLETE] * 4
    best = max(trials, key=lambda trial: trial.value or 0)
    left = sweeps.folder / "trials"
    summary = json.loads((left / "sweep.json").read_text())
    assert summary["best"]["number"] == best.number
    assert summary["trials"]["COMPLETE"] == 4
    config = yaml.safe_load((left / str(best.number) / ".hydra/config.yaml").read_text())
    body = yaml.safe_load((left / "conf/experiment/best.yaml").read_text())
    assert {key: value for key, value in body.items() if key != "defaults"} == config
    results = yaml.safe_load((left / "optimization_results.yaml").read_text())
    assert results == {
        "name": "optuna",
        "best_params": best.params,
        "best_value": best.value,
        "trial": best.number,
    }
    assert "4 completed" in ended.stdout
    assert len((left / "trials.csv").read_text().splitlines()) == 5


def test_the_same_command_goes_on_with_its_study_and_repeats_nothing(sweeps: Sweeps):
    sweeps.run(SEARCH, "hydra.sweeper.n_trials=2")
    before = {path: path.stat().st_mtime_ns for path in (sweeps.folder / "trials").glob("[01]/**/*")}
    again = sweeps.run(SEARCH, "hydra.sweeper.n_trials=2")
    assert again.returncode == 0
    assert len(sweeps.notes("begins")) == 2
    more = sweeps.run(SEARCH, "hydra.sweeper.n_trials=5")
    assert "2 of its trials are finished" in more.stdout
    assert Counter(note["folder"] for note in sweeps.notes("begins")) == {str(number): 1 for number in range(5)}
    assert len({note["x"] for note in sweeps.notes()}) == 5, "a fixed seed does not draw the same values again"
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_killed_sweep_goes_on_as_if_nothing_had_been(sweeps: Sweeps, tmp_path_factory: pytest.TempPathFactory):
    command = [SEARCH, "hydra.sweeper.n_trials=4", "seconds=0.3", "hydra/sweeper/sampler=tpe"]
    process = sweeps.start(*command)
    sweeps.wait_for(lambda: len(sweeps.notes("begins")) == 2, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert sweeps.states()[RUNNING] == 1
    ended = sweeps.run(*command)
    assert ended.returncode == 0, ended.stderr
    assert sweeps.states() == {COMPLETE: 4}
    unbroken = Sweeps(tmp_path_factory.mktemp("unbroken"))
    unbroken.run(*command)
    assert [t.params for t in sweeps.trials()] == [t.params for t in unbroken.trials()]


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(delays=st.lists(st.floats(0.0, 3.0), min_size=1, max_size=3), parallel=st.booleans())
def test_after_any_kills_and_reruns_every_trial_is_finished_once(
    tmp_path_factory: pytest.TempPathFactory, delays: list[float], parallel: bool
):
    sweeps = Sweeps(tmp_path_factory.mktemp("kills"))
    command = [SEARCH, "hydra.sweeper.n_trials=4", "seconds=0.2", f"hydra.sweeper.n_jobs={1 + parallel}"]
    for delay in delays:
        process = sweeps.start(*command)
        time.sleep(1.5 + delay)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    ended = sweeps.run(*command)
    assert ended.returncode == 0, ended.stderr
    assert [(trial.number, trial.state) for trial in sweeps.trials()] == [(n, COMPLETE) for n in range(4)]
    ends = Counter(note["folder"] for note in sweeps.notes("ends"))
    assert set(ends) == {"0", "1", "2", "3"}
    # A kill between the run's last line and its word to the study has the run give its word again.
    assert sum(ends.values()) <= 4 + len(delays) * (1 + parallel)


def test_ctrl_c_ends_with_130_and_leaves_the_trial_for_the_next_start(sweeps: Sweeps):
    command = [SEARCH, "hydra.sweeper.n_trials=2", "seconds=30"]
    process = sweeps.start(*command)
    sweeps.wait_for(lambda: bool(sweeps.notes("begins")), process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "interrupted" in out
    assert sweeps.run(SEARCH, "hydra.sweeper.n_trials=2").returncode == 0
    assert sweeps.states() == {COMPLETE: 2}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_parallel_sweep_that_is_stopped_leaves_no_process(sweeps: Sweeps, number: signal.Signals):
    process = sweeps.start(SEARCH, "hydra.sweeper.n_trials=9", "seconds=60", "hydra.sweeper.n_jobs=2")
    sweeps.wait_for(lambda: len(sweeps.notes("begins")) == 2, process)
    children = psutil.Process(process.pid).children(recursive=True)
    # Ctrl-C reaches all processes of a terminal, a scheduler's SIGTERM the one it knows.
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, err = process.communicate(timeout=90)
    assert "Traceback" not in err
    assert process.returncode == (130 if number == signal.SIGINT else 143), err
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
    assert sweeps.run(SEARCH, "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2").returncode == 0
    assert sweeps.states() == {COMPLETE: 3}


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [("raise", "RuntimeError: this went wrong"), ("memory", "MemoryError"), ("not_a_number", "not finite: nan")],
)
def test_a_trial_that_fails_is_recorded_with_its_error_and_the_sweep_goes_on(
    sweeps: Sweeps, behaviour: str, error: str
):
    ended = sweeps.run(
        "hydra/sweeper/sampler=grid", f"behaviour=value,{behaviour}", "x=0.1,0.2", "hydra.sweeper.n_trials=null"
    )
    assert ended.returncode == 0, ended.stderr
    assert sweeps.states() == {COMPLETE: 2, FAIL: 2}
    failed = [trial for trial in sweeps.trials() if trial.state is FAIL]
    assert all(error in trial.user_attrs["error"] for trial in failed)
    assert error in ended.stdout
    if behaviour == "raise":
        folder = Path(failed[0].user_attrs["folder"])
        assert "this went wrong" in (folder / "error.txt").read_text()


def test_too_many_failures_end_the_sweep_with_1(sweeps: Sweeps):
    ended = sweeps.run(SEARCH, "behaviour=raise", "hydra.sweeper.max_failures=2", "hydra.sweeper.n_trials=20")
    assert ended.returncode == 1
    assert sweeps.states() == {FAIL: 3}
    assert ended.stderr.startswith("error: sweep s: 3 of 3 trials failed, trial 0 first; its log: ")
    log = Path(ended.stderr.splitlines()[0].rpartition(": ")[2])
    assert "this went wrong" in log.read_text()
    assert ended.stderr.splitlines()[1:] == ["RuntimeError: this went wrong"]


def test_the_same_mistake_of_the_users_ends_the_sweep_early_and_can_be_mended_in_the_same_study(sweeps: Sweeps):
    ended = sweeps.run(SEARCH, "behaviour=mistake", "hydra.sweeper.n_trials=20")
    assert ended.returncode == 2
    assert sweeps.states() == {FAIL: 3}
    assert ended.stderr.splitlines()[0] == "error: data.root: no such folder"
    assert "Traceback" not in ended.stdout + ended.stderr
    assert sweeps.run(SEARCH, "hydra.sweeper.n_trials=4").returncode == 0
    assert sweeps.states() == {FAIL: 3, COMPLETE: 1}


def test_choices_of_any_kind_reach_the_trials_and_the_records(sweeps: Sweeps):
    choices = "any=choice(null,1,true,1.0,'true','p,q','it\\'s',' =ü{} ',[1,'a b'])"
    arguments = ["hydra/sweeper/sampler=grid", choices, "hydra.sweeper.n_trials=null"]
    assert sweeps.run(*arguments).returncode == 0
    again = sweeps.run(*arguments)
    assert again.returncode == 0, again.stderr
    values = [None, 1, True, 1.0, "true", "p,q", "it's", " =ü{} ", [1, "a b"]]
    found = [note["any"] for note in sweeps.notes("begins")]
    assert [(type(value), value) for value in found] == [(type(value), value) for value in values]
    with (sweeps.folder / "trials" / "trials.csv").open(encoding="utf-8") as file:
        cells = [row["any"] for row in csv.DictReader(file)]
    assert cells == ["null", "1", "true", "1.0", "'true'", "p,q", "it's", " =ü{} ", "'[1,'a b']'"]


def test_folders_are_named_as_asked_for_and_never_shared(sweeps: Sweeps):
    name = "hydra.sweep.subdir=y${y}/${hydra.job.override_dirname}"
    grid = ["hydra/sweeper/sampler=grid", "y=1,2", "hydra.sweeper.n_trials=null"]
    assert sweeps.run(*grid, name).returncode == 0
    folders = [Path(trial.user_attrs["folder"]).relative_to(sweeps.folder / "trials") for trial in sweeps.trials()]
    assert folders == [Path("y1/y=1"), Path("y2/y=2")]
    assert sweeps.run(*grid, "hydra.sweep.subdir=one", "hydra.sweeper.study_name=t").returncode == 0
    assert [Path(trial.user_attrs["folder"]).name for trial in sweeps.trials("t")] == ["one", "one_1"]


def test_a_config_that_has_changed_asks_for_another_study(sweeps: Sweeps):
    own = sweeps.folder / "own" / "experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# @package _global_\ny: 1\n")
    command = ["--config-dir", str(own.parent), SEARCH, "experiment=mine"]
    assert sweeps.run(*command, "hydra.sweeper.n_trials=1").returncode == 0
    more = sweeps.run(
        *command, "hydra.sweeper.n_trials=2", "hydra.sweeper.may_change=[seconds,waits_for]", "seconds=0.1"
    )
    assert more.returncode == 0, more.stderr
    (own / "mine.yaml").write_text("# @package _global_\ny: 2\n")
    refused = sweeps.run(*command, "x=interval(0,2)", "fold=1", "any=1,2", "hydra.sweeper.n_trials=3")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[1:] == [
        "  any: not searched then, 1 | 2 now",
        "  x: 0 .. 1 then, 0 .. 2 now",
        "  fold: 0 then, 1 now",
        "  y: 1 then, 2 now",
        "Give this sweep a study of its own: hydra.sweeper.study_name=s-2",
    ]
    assert len(sweeps.trials()) == 2


def test_a_file_that_is_edited_while_the_sweep_runs_ends_it(sweeps: Sweeps):
    own = sweeps.folder / "own" / "experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# @package _global_\ny: 1\n")
    command = ["--config-dir", str(own.parent), SEARCH, "experiment=mine", "seconds=2", "hydra.sweeper.n_trials=3"]
    process = sweeps.start(*command)
    sweeps.wait_for(lambda: len(sweeps.notes("begins")) == 1, process)
    (own / "mine.yaml").write_text("# @package _global_\ny: 2  # another\n")
    _, err = process.communicate(timeout=240)
    assert process.returncode == 2
    assert "  y: 1 then, 2 now" in err
    assert sweeps.states() == {COMPLETE: 1}
    (own / "mine.yaml").write_text("# @package _global_\ny: 1  # put back\n")
    assert sweeps.run(*command, "hydra.sweeper.n_trials=2").returncode == 0


def test_a_process_that_is_killed_has_its_trial_run_again(sweeps: Sweeps):
    ended = sweeps.run(SEARCH, "behaviour=die_once", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2")
    assert ended.returncode == 0, ended.stderr
    assert sweeps.states() == {COMPLETE: 3}
    assert "run again" in ended.stdout


def test_a_trial_that_kills_every_process_fails_in_the_end(sweeps: Sweeps):
    command = [
        "hydra/sweeper/sampler=grid",
        "behaviour=value,die",
        "hydra.sweeper.n_jobs=2",
        "hydra.sweeper.max_retries=1",
    ]
    ended = sweeps.run(*command)
    assert ended.returncode == 0, ended.stderr
    assert sweeps.states() == {COMPLETE: 1, FAIL: 1}
    (failed,) = [trial for trial in sweeps.trials() if trial.state is FAIL]
    assert "the process of the trial died" in failed.user_attrs["error"]


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_new_trial_begins_when_any_ends(sweeps: Sweeps, launcher: str):
    """The first trial waits for the last of five: in batches of two, the third would wait for the first."""
    ended = sweeps.run(
        "hydra/sweeper/sampler=grid",
        "waits_for=4,a,b,c,d",
        f"hydra/launcher={launcher}",
        "hydra.sweeper.n_jobs=2",
    )
    assert ended.returncode == 0, ended.stderr
    assert sweeps.states() == {COMPLETE: 5}
    assert [note["folder"] for note in sweeps.notes("ends")] == ["1", "2", "3", "4", "0"]
    assert len({note["pid"] for note in sweeps.notes()}) == 2, "processes are kept for the next trial"


def test_two_commands_share_one_study(sweeps: Sweeps):
    command = [SEARCH, "hydra.sweeper.n_trials=8", "seconds=0.3"]
    processes = [sweeps.start(*command) for _ in range(2)]
    for process in processes:
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
    assert sweeps.states() == {COMPLETE: 8}
    assert Counter(note["folder"] for note in sweeps.notes("ends")) == {str(number): 1 for number in range(8)}
    assert len({note["pid"] for note in sweeps.notes()}) == 2
    assert len({note["x"] for note in sweeps.notes()}) == 8, "the same seed draws apart in two processes"


def test_a_poor_trial_is_pruned_at_once(sweeps: Sweeps):
    pruner = "hydra/sweeper/pruner=median hydra.sweeper.pruner.n_startup_trials=1".split()
    ended = sweeps.run("hydra/sweeper/sampler=grid", "x=0.9,0.1,0.95", "evaluations=5", "seconds=0.5", *pruner)
    assert ended.returncode == 0, ended.stderr
    assert [trial.state for trial in sweeps.trials()] == [COMPLETE, PRUNED, COMPLETE]
    # One evaluation is not judged; the second one was worse than the median.
    assert list(sweeps.trials()[1].intermediate_values) == [0, 1]
    assert "1 pruned" in ended.stdout


PRUNERS = ["median", "percentile", "successive_halving", "hyperband", "patient", "threshold", "wilcoxon", "none"]
SAMPLERS = ["tpe", "cmaes", "gp", "nsgaii", "nsgaiii", "qmc", "random", "grid"]


def test_every_sampler_and_pruner_draws_and_judges(sweeps: Sweeps):
    """In one process each: what is tried is that they are built, draw within bounds, and judge."""
    from hydra import compose, initialize_config_dir

    from segkit.sweep.settings import read
    from segkit.sweep.study import open_sweep
    from tests.conftest import REPOSITORY

    for sampler, pruner in zip(SAMPLERS, PRUNERS, strict=True):
        with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
            config = compose(
                "train",
                [
                    "hydra/sweeper=segkit",
                    f"hydra/sweeper/sampler={sampler}",
                    f"hydra/sweeper/pruner={pruner}",
                    f"hydra.sweeper.study_name={sampler}",
                    f"hydra.sweeper.storage={sweeps.storage}",
                    f"hydra.runtime.cwd={sweeps.folder}",
                ],
                return_hydra_config=True,
            )
        sweep = open_sweep(read(config.hydra), for_jobs=False)
        for _ in range(14):
            trial = sweep.study.ask()
            x, kind = trial.suggest_float("x", 1e-3, 1, log=True), trial.suggest_categorical("kind", ["a", "b"])
            assert 1e-3 <= x <= 1
            assert kind in "ab"
            for step in (1, 2, 3):
                sweep.report(trial.number, x * step, step)
            sweep.finish(trial.number, COMPLETE, [x])
        assert sweep.best() is not None


def test_a_grid_visits_every_point_once_also_from_two_processes(sweeps: Sweeps):
    command = ["hydra/sweeper/sampler=grid", "x=0.1,0.2,0.3", "y=range(0,2)", "hydra.sweeper.n_trials=null"]
    processes = [sweeps.start(*command) for _ in range(2)]
    assert all(process.wait(timeout=240) == 0 for process in processes)
    points = [(trial.params["x"], trial.params["y"]) for trial in sweeps.trials()]
    assert sorted(points) == [(x, y) for x in (0.1, 0.2, 0.3) for y in (0, 1)]
    refused = sweeps.run("hydra/sweeper/sampler=grid", SEARCH, "hydra.sweeper.study_name=t")
    assert refused.returncode == 2
    assert "a grid needs single values" in refused.stderr


def test_several_objectives_give_a_pareto_front(sweeps: Sweeps):
    two = ["behaviour=two", "hydra.sweeper.direction=[max,max]", "hydra.sweeper.objectives=[a,b]"]
    ended = sweeps.run("hydra/sweeper/sampler=grid", "x=0.1,0.5,0.9", *two)
    assert ended.returncode == 0, ended.stderr
    assert len(sweeps.study().best_trials) == 3
    assert "Pareto front" in ended.stdout


def test_cross_validation_is_the_mean_over_folds_and_prunes_between_them(sweeps: Sweeps):
    pruner = [
        "hydra/sweeper/pruner=median",
        "hydra.sweeper.pruner.n_startup_trials=1",
        "hydra.sweeper.pruner.n_warmup_steps=0",
    ]
    ended = sweeps.run(
        "hydra/sweeper/sampler=grid", "x=0.5,0.1", "hydra.sweeper.folds=3", "hydra.sweeper.fold_key=fold", *pruner
    )
    assert ended.returncode == 0, ended.stderr
    good, poor = sweeps.trials()
    assert good.value == pytest.approx(0.5 + (0 + 0.01 + 0.02) / 3)
    assert good.intermediate_values == {0: 0.5, 1: 0.51, 2: 0.52}
    assert poor.state is PRUNED
    assert poor.intermediate_values == {0: 0.1}
    folders = [note["folder"] for note in sweeps.notes("ends")]
    assert folders == ["fold_0", "fold_1", "fold_2", "fold_0"]


def test_a_killed_cross_validation_keeps_the_folds_it_has(sweeps: Sweeps):
    command = [
        "x=0.5,0.6",
        "hydra.sweeper.folds=3",
        "hydra.sweeper.fold_key=fold",
        "hydra.sweeper.n_trials=1",
        "seconds=0.5",
    ]
    process = sweeps.start(*command)
    sweeps.wait_for(lambda: len(sweeps.notes("begins")) == 2, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert sweeps.run(*command).returncode == 0
    assert sweeps.states() == {COMPLETE: 1}
    assert Counter(note["folder"] for note in sweeps.notes("ends")) == {"fold_0": 1, "fold_1": 1, "fold_2": 1}


def test_a_custom_space_has_conditions(sweeps: Sweeps):
    (sweeps.folder / "space.py").write_text(
        "def configure(config, trial):\n"
        "    if trial.suggest_categorical('behaviour', ['value', 'other']) == 'other':\n"
        "        trial.suggest_float('y', 0, 1)\n"
    )
    ended = sweeps.run("hydra.sweeper.custom_search_space=space.configure", "hydra.sweeper.n_trials=6")
    assert ended.returncode == 0, ended.stderr
    for trial in sweeps.trials():
        assert set(trial.params) == ({"behaviour", "y"} if trial.params["behaviour"] == "other" else {"behaviour"})


def test_a_custom_space_that_sets_a_fixed_key_or_fails_is_refused(sweeps: Sweeps):
    (sweeps.folder / "space.py").write_text(
        "def configure(config, trial):\n"
        "    if trial.suggest_categorical('behaviour', ['value', 'other']) == 'other':\n"
        "        trial.suggest_float('y', 0, 1)\n"
        "def broken(config, trial):\n"
        "    trial.suggest_flot('y', 0, 1)\n"
    )
    ended = sweeps.run("hydra.sweeper.custom_search_space=space.configure", "y=3")
    assert ended.returncode == 2
    assert "y: fixed by y=3, and searched by hydra.sweeper.custom_search_space=space.configure" in ended.stderr
    ended = sweeps.run("hydra.sweeper.custom_search_space=space.broken")
    assert ended.returncode == 2
    assert "space.broken: AttributeError" in ended.stderr
    assert "space.py, line 5" in ended.stderr
    assert not sweeps.notes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["z=interval(0,1)"], "z: nothing reads this key"),
        (["x=1"], "nothing to search"),
        ([SEARCH, "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials"),
        ([SEARCH, "hydra.sweeper.direction=up"], "hydra.sweeper.direction"),
        ([SEARCH, "hydra.sweeper.storage=nonsense://x"], "hydra.sweeper.storage=nonsense://x"),
        ([SEARCH, "hydra.sweeper.sampler.seed=-1"], "hydra.sweeper.sampler.seed=-1"),
        ([SEARCH, "+hydra.sweeper.sampler.n_candidates=3"], "hydra.sweeper.sampler.n_candidates"),
    ],
)
def test_mistakes_are_told_in_one_message_before_there_is_a_study(sweeps: Sweeps, arguments: list[str], message: str):
    ended = sweeps.run(*arguments)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not sweeps.notes()


def test_other_choices_need_a_study_of_their_own(sweeps: Sweeps):
    assert sweeps.run("y=1,2", "hydra.sweeper.n_trials=1").returncode == 0
    ended = sweeps.run("y=1,3", "hydra.sweeper.n_trials=2")
    assert ended.returncode == 2
    assert "hydra.sweeper.study_name" in ended.stderr
