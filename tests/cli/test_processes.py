"""Commands that a launcher of distributed programs starts several times."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from segkit.cli import browse, check_data, evaluate, init_dataset, make_splits, predict, processes, sync_mlflow, train
from tests.conftest import Ended

SEVERAL = [
    {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"},
    {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"},
    {"PMI_SIZE": "2", "PMI_RANK": "0"},
    {"SLURM_NTASKS": "2", "SLURM_PROCID": "0"},
    {"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "ENVIRONMENT": "BATCH"},
]
ONE = [
    {},
    {"WORLD_SIZE": "1", "RANK": "0"},
    {"WORLD_SIZE": "all of them"},
    {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
    # srun with one task, a batch script that asked for four tasks and runs once, salloc's shell.
    {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"},
    {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
    {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "ENVIRONMENT": "BATCH"},
    {"SLURM_NTASKS": "4"},
]


@pytest.mark.parametrize("environment", SEVERAL, ids=str)
def test_the_first_of_several_processes_is_refused(
    call: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = call(train.main, "debug=fast", "hydra.run.dir=run")
    assert done.returncode == 2
    assert "Start it once: python command" in done.stderr


@pytest.mark.parametrize("command", [browse, check_data, evaluate, init_dataset, make_splits, predict, train])
def test_every_command_is_for_one_process_and_says_so_once(
    call: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, command: object
):
    monkeypatch.setattr(processes, "HEAD_START_S", 0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, says in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        done = call(command.main)  # pyright: ignore
        assert done.returncode == 2
        assert done.stderr.count("WORLD_SIZE=2") == says


def test_a_delivery_is_for_one_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert sync_mlflow.main([]) == 2
    assert "WORLD_SIZE=2" in capsys.readouterr().err


@pytest.mark.parametrize("environment", ONE, ids=str)
def test_one_process_runs_wherever_it_was_started(environment: dict[str, str]):
    assert processes.started_by(environment) is None
