"""The trackers of a run, told as one; no failure of theirs ends the run."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkit.errors import UserError

if TYPE_CHECKING:  # it imports PyTorch, and this module is imported before that
    from segkit.contracts import RunInfo, Tracker

log = logging.getLogger(__name__)


class Trackers:
    """Tells each of `trackers`, by name, what it is told itself; what one raises is logged once and ends nothing."""

    def __init__(self, trackers: Mapping[str, Tracker]) -> None:
        self._trackers = dict(trackers)
        self._told: set[str] = set()

    @property
    def run_id(self) -> str | None:
        """That of the first which has one."""
        for name, tracker in self._trackers.items():
            with self._guarded(name):
                if tracker.run_id is not None:
                    return tracker.run_id
        return None

    def start(self, info: RunInfo) -> None:
        self._each(lambda tracker: tracker.start(info))

    def log(self, row: Mapping[str, Any]) -> None:
        self._each(lambda tracker: tracker.log(row))

    def artifact(self, path: Path, target: str) -> None:
        self._each(lambda tracker: tracker.artifact(path, target))

    def tag(self, tags: Mapping[str, str]) -> None:
        self._each(lambda tracker: tracker.tag(tags))

    def finish(self, status: str) -> None:
        self._each(lambda tracker: tracker.finish(status))

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in self._trackers.items():
            with self._guarded(name):
                call(tracker)

    @contextlib.contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            said = f"{name}: {error}"
            if said not in self._told:
                is_a_fault_of_ours = not isinstance(error, OSError | UserError)
                log.warning("the run goes on without its tracker %s", said, exc_info=is_a_fault_of_ours)
            self._told.add(said)


def guarded(tracker: Tracker) -> Trackers:
    """`tracker` such that what it raises ends nothing."""
    return tracker if isinstance(tracker, Trackers) else Trackers({type(tracker).__name__: tracker})


def several(run_folder: Path, *, trackers: Mapping[str, Callable[..., Tracker]]) -> Trackers:
    """All of `trackers`: by names of the user's own, any options of the group tracker.

    Raises UserError for none, for what is no tracker, and for several of one class, which would write the same files.
    """
    built: dict[str, Tracker] = {}
    for name, make in trackers.items():
        if not callable(make):
            raise UserError(
                f"tracker.trackers.{name}={make!r}; allowed: any other option of the group tracker, as in "
                f"+tracker@tracker.trackers.{name}=mlflow on the command line"
            )
        tracker: Tracker = make(run_folder=run_folder)
        built[name] = tracker
    classes = [type(tracker) for tracker in built.values()]
    if not classes or len(set(classes)) < len(classes):
        found = ", ".join(f"{name}: {type(tracker).__name__}" for name, tracker in built.items()) or "none"
        raise UserError(f"tracker.trackers: {found}; allowed: one or more, each of another class")
    return Trackers(built)
