"""Who is running which trial: every number is run by one process at a time and finished once.

A trial that is RUNNING in the study carries a claim: the process that has it, and when that last gave a sign of
life. A trial whose process is gone is claimed again under the same number, and goes on where it stopped. All
claims are made under the lock of the study, so any number of processes and machines may work on one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import optuna
import psutil
from optuna.trial import FrozenTrial, TrialState

from segkit.sweep import optuna_internals

CLAIM = "segkit"
"""User attribute of a trial that holds its claim."""

Phase = Literal["queued", "running", "released"]


@cache
def machine() -> str:
    """This machine as process ids mean something on it: host name, boot and process-id namespace."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # systems without /proc
        parts += [
            Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            str(Path("/proc/self/ns/pid").readlink()),
        ]
    return " ".join(parts)


@dataclass(frozen=True)
class Claim:
    """A process's hold on a trial.

    Attributes:
        ticket: names this hold; a job may only run a trial that still carries the ticket it was sent with.
        phase: queued at a launcher, running, or released: stopped on purpose, to be taken up again.
        machine, pid, started: the process, with the time it was started, in seconds since the epoch.
        beat: when it last gave a sign of life, by its own clock.
        deaths: how many processes died with this trial while its sweep lived.
    """

    ticket: str
    phase: Phase = "queued"
    machine: str = field(default_factory=machine)
    pid: int = field(default_factory=os.getpid)
    started: float = field(default_factory=lambda: psutil.Process().create_time())
    beat: float = field(default_factory=time.time)
    deaths: int = 0

    @property
    def is_here(self) -> bool:
        return self.machine == machine()

    def process_lives(self) -> bool:
        """Whether the process is there; only for claims of this machine."""
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.started) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def claim_of(trial: FrozenTrial) -> Claim | None:
    """The claim that a trial carries; None if there is none that can be read."""
    stored = trial.user_attrs.get(CLAIM)
    try:
        return Claim(**stored) if isinstance(stored, Mapping) else None
    except TypeError:
        return None


class Claims:
    """Claims on the trials of one study.

    Args:
        study: with the sampler that draws new trials.
        lock: makes a context in which no other process claims.
        grace_s: how long a process of another machine may be silent before it counts as gone.
    """

    def __init__(
        self, study: optuna.Study, lock: Callable[[], AbstractContextManager[None]], *, grace_s: float
    ) -> None:
        self.study = study
        self._lock = lock
        self._grace_s = grace_s
        self._last_beats: dict[str, tuple[float, float]] = {}
        self._seen_alive: set[str] = set()

    def locked(self) -> AbstractContextManager[None]:
        """A context in which no other process claims or draws."""
        return self._lock()

    def take(
        self, *, limit: int | None, draw: Callable[[FrozenTrial | None], optuna.Trial]
    ) -> tuple[FrozenTrial, Claim] | None:
        """A trial to run, claimed: one that was left behind, else a new one; None when there is none to be had.

        New trials are drawn until the study has `limit` of them. One that is queued in the study counts as new.
        `draw` makes one, or gives the one that was left behind the values that a kill kept it from.
        """
        with self._lock():
            trials = self.study.get_trials(deepcopy=False)
            for trial in trials:
                if trial.state is TrialState.RUNNING and self._is_left_behind(trial):
                    old = claim_of(trial)
                    claim = self._store(trial, Claim(uuid.uuid4().hex, deaths=old.deaths if old else 0))
                    draw(trial)
                    return self._frozen(trial.number), claim
            begun = sum(trial.state is not TrialState.WAITING for trial in trials)
            if limit is not None and begun >= limit:
                return None
            drawn = draw(None)
            claim = Claim(uuid.uuid4().hex)
            drawn.set_user_attr(CLAIM, asdict(claim))
            return self._frozen(drawn.number), claim

    def take_over(self, number: int, ticket: str) -> Claim | None:
        """This process's claim on a trial that it was sent to run; None if the trial is another's by now."""
        with self._lock():
            trial = self._frozen(number)
            claim = claim_of(trial)
            if trial.state is not TrialState.RUNNING or claim is None or claim.ticket != ticket:
                return None
            if claim.phase == "running" and claim.pid != os.getpid() and claim.is_here and claim.process_lives():
                return None
            return self._store(trial, Claim(ticket, "running", deaths=claim.deaths))

    def renew(self, number: int, claim: Claim) -> Claim | None:
        """The claim as it was before a job ran with it, for the next job; None if the trial is another's by now."""
        with self._lock():
            trial = self._frozen(number)
            current = claim_of(trial)
            if trial.state is not TrialState.RUNNING or current is None or current.ticket != claim.ticket:
                return None
            return self._store(trial, Claim(claim.ticket, deaths=current.deaths))

    def release(self, number: int, ticket: str, *, died: bool = False) -> None:
        """Leave a trial to whoever claims next, at once."""
        with self._lock():
            trial = self._frozen(number)
            claim = claim_of(trial)
            if trial.state is TrialState.RUNNING and claim is not None and claim.ticket == ticket:
                self._store(trial, replace(claim, phase="released", deaths=claim.deaths + died))

    def beat(self, number: int, claim: Claim) -> None:
        """Give a sign of life. Once the trial is another's, or finished, it is not touched."""
        trial = self._frozen(number)
        current = claim_of(trial)
        if trial.state is not TrialState.RUNNING or current is None:
            return
        if (current.ticket, current.phase, current.pid) == (claim.ticket, claim.phase, claim.pid):
            self._store(trial, replace(current, beat=time.time()))

    def undecided(self) -> bool:
        """Whether a process of another machine holds a trial and has not shown yet that it lives."""
        running = [trial for trial in self.study.get_trials(deepcopy=False) if trial.state is TrialState.RUNNING]
        claims = [claim_of(trial) for trial in running]
        return any(claim and not claim.is_here and claim.ticket not in self._seen_alive for claim in claims)

    def _is_left_behind(self, trial: FrozenTrial) -> bool:
        claim = claim_of(trial)
        if claim is None or claim.phase == "released":
            return True
        if claim.is_here:
            return not claim.process_lives()
        # Clocks of machines differ: what counts is whether the beat changes while this process watches.
        beat, since = self._last_beats.get(claim.ticket, (None, 0.0))
        if beat != claim.beat:
            if beat is not None:
                self._seen_alive.add(claim.ticket)
            self._last_beats[claim.ticket] = (claim.beat, time.monotonic())
            return False
        return time.monotonic() - since > self._grace_s

    def _frozen(self, number: int) -> FrozenTrial:
        return optuna_internals.trial_of(self.study, number)

    def _store(self, trial: FrozenTrial, claim: Claim) -> Claim:
        optuna_internals.note(self.study, trial, CLAIM, asdict(claim))
        return claim


class Heartbeat:
    """Beats for a claim from a thread of its own, while open."""

    def __init__(self, claims: Claims, number: int, claim: Claim, every_s: float) -> None:
        self._beat = lambda: claims.beat(number, claim)
        self._every_s = every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"heartbeat of trial {number}", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exception: Any) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            try:
                self._beat()
            except Exception:  # a storage that is away for a while must not end the trial
                continue
