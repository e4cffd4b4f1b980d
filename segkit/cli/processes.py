"""One process a run: commands started several times over by a launcher of distributed programs are refused."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping

from segkit.errors import UserError

LAUNCHERS = {
    "torchrun, accelerate launch or the like": ("WORLD_SIZE", "RANK"),
    "mpirun": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    "mpiexec": ("PMI_SIZE", "PMI_RANK"),
    "MVAPICH's mpirun": ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    "jsrun": ("JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_RANK"),
    "horovodrun": ("HOROVOD_SIZE", "HOROVOD_RANK"),
}
"""What starts several processes, and the variables in which each of them finds their number and its own."""

HEAD_START_S = 2.0
"""How long the others leave the first to speak: launchers end all processes as soon as one ends."""


def require_one_process() -> None:
    """Raise UserError in the first of several processes that run the same command; end the others without a word."""
    found = started_by(os.environ)
    if found is None:
        return
    launcher, size, rank, number = found
    if number != 0:
        time.sleep(HEAD_START_S)
        sys.exit(2)
    command = " ".join([os.path.basename(sys.argv[0]), "..."])  # noqa: PTH119
    raise UserError(
        f"{size}={os.environ[size]}: {launcher} has started this command several times, each of which would do all the "
        f"work. A run uses one process and one device. Start it once: python {command} (or unset {size} and {rank} if "
        "they are left over)"
    )


def started_by(environment: Mapping[str, str]) -> tuple[str, str, str, int] | None:
    """The launcher of several processes, its two variables, and the number of this process; None if it is alone."""
    for launcher, (size, rank) in LAUNCHERS.items():
        if _number(environment, size) > 1:
            return launcher, size, rank, _number(environment, rank)
    # A batch script runs once, however many tasks its job has; what srun starts in it is counted by step.
    step = "SLURM_STEP_NUM_TASKS"
    size = step if step in environment or environment.get("ENVIRONMENT") == "BATCH" else "SLURM_NTASKS"
    if "SLURM_PROCID" in environment and _number(environment, size) > 1:
        return "srun", size, "SLURM_PROCID", _number(environment, "SLURM_PROCID")
    return None


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name, "")
    return int(value) if value.isdecimal() else 0
