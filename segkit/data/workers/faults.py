"""What ended or holds up a data worker, in words that name cause and remedy."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

from segkit.errors import RunFailure

SHARED_MEMORY = "/dev/shm"
LESS = "lower trainer.num_workers or trainer.batch_size"
CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE})


def death(worker: int, process: int, status: int, sample: str | None) -> RunFailure:
    """Of a worker that ended with `status`: minus a signal, or an exit code; `sample` is what it was reading."""
    who = f"data worker {worker} (process {process})"
    at = "" if sample is None else f" while reading {sample}"
    if status > 0:
        return RunFailure(f"{who} ended with exit code {status}{at}")
    number = signal.Signals(-status)
    if number is signal.SIGBUS:
        return RunFailure(f"{who} was ended by SIGBUS{at}: {_shared_memory()}")
    if number in CRASHES:
        return RunFailure(
            f"{who} crashed ({number.name}){at}. A library that reads or augments images is at fault; does it crash "
            "with trainer.num_workers=0 too, then leave that file out"
        )
    return RunFailure(
        f"{who} was killed ({number.name}){at}. If nobody did so, the system ran out of memory (dmesg and the "
        f"scheduler's log tell): {LESS}, or ask for more memory"
    )


def hang(worker: int, process: int, sample: str | None, seconds: float, timeout_s: float) -> RunFailure:
    """Of a worker that has been at `sample`, or has not taken up work, for that many seconds."""
    who = f"data worker {worker} (process {process})"
    at = "has not taken up work" if sample is None else f"has been reading {sample}"
    slow = f"for storage that is slow, but not stuck, raise trainer.data_timeout_s={timeout_s:g}"
    match state(process):
        case "T" | "t":
            return RunFailure(
                f"{who} was stopped by a signal (SIGSTOP, SIGTSTP or a debugger) and {at} for {seconds:.0f} s; "
                "let whoever stopped it continue or end the whole run"
            )
        case "D":
            return RunFailure(
                f"{who} {at} for {seconds:.0f} s and waits for the disk: does its storage hang? Or {slow}"
            )
        case _:
            return RunFailure(f"{who} {at} for {seconds:.0f} s: does the file system that holds it hang? Or {slow}")


def no_batch(seconds: float, timeout_s: float) -> RunFailure:
    """Of workers none of which is at anything while a batch is waited for."""
    return RunFailure(
        f"no data worker has taken up work for {seconds:.0f} s. Is the machine out of processor time, or were they "
        f"stopped? Raise trainer.data_timeout_s={timeout_s:g}, or set trainer.num_workers=0"
    )


def shortage(error: BaseException, place: str = "") -> RunFailure | None:
    """Of an error that says that a resource ran out; None of any other."""
    text, number = str(error), getattr(error, "errno", None)
    at = f" {place}" if place else ""
    if number == errno.ENOSPC or "shared memory" in text or "No space left" in text or "unable to mmap" in text:
        return RunFailure(f"{_shared_memory()} ({text})")
    if isinstance(error, MemoryError) or number == errno.ENOMEM or "allocate memory" in text:
        return RunFailure(f"memory ran out{at} ({text or 'no more to be had'}): {LESS}, or ask for more memory")
    if number == errno.EAGAIN:
        return RunFailure(f"no more processes may be started ({text}): lower trainer.num_workers, or raise ulimit -u")
    if number == errno.EMFILE or "Too many open files" in text or "ancdata" in text:
        return RunFailure(f"too many files are open for batches to be handed over: {LESS}, or raise ulimit -n")
    return None


def _shared_memory() -> str:
    try:
        memory = os.statvfs(SHARED_MEMORY)
        room = f"{SHARED_MEMORY} has {_mebibytes(memory.f_bavail * memory.f_frsize)} of "
        room += f"{_mebibytes(memory.f_blocks * memory.f_frsize)} free"
    except OSError as error:
        room = f"{SHARED_MEMORY}: {error.strerror}"
    return (
        f"shared memory, through which data workers hand batches over, ran out; {room}. "
        "Give a container more (docker run --shm-size=8g, or --ipc=host), lower trainer.batch_size, or set "
        "trainer.num_workers=0, which needs none"
    )


def _mebibytes(number: int) -> str:
    return f"{number / 2**20:.0f} MiB"


def exit_status(process: Any) -> int | None:
    """How a child ended, minus a signal or an exit code; None while it runs. It may be asked in a signal handler."""
    try:
        # Without reaping it, which whoever was interrupted may be about to do.
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return process.exitcode
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def state(process: int) -> str:
    """The letter that ps shows for the state of a process: T where it is stopped, D where it waits for a disk."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
