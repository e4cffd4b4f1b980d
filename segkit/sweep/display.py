"""What a sweep shows: a live table in a terminal, a line a trial elsewhere, and a summary at its end."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from segkit.sweep.claims import claim_of
from segkit.sweep.search_space import Space, describe
from segkit.sweep.study import ERROR, FOLDER, Sweep
from segkit.sweep.values import shown

STYLES = {"completed": "green", "pruned": "yellow", "failed": "red", "running": "cyan", "waiting": "dim"}
NAMES = {
    TrialState.COMPLETE: "completed",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
CONSOLE = Console(highlight=False)
SHOWN_RUNNING = 8
REFRESH_S = 1.0


class SweepDisplay:
    """Lines for pipes and logs: what begins, one for each trial that ends, a summary."""

    def __init__(self, sweep: Sweep, limit: int | None, space: Space, console: Console) -> None:
        self.sweep = sweep
        self.limit = limit
        self.space = space
        self.console = console
        self.started = datetime.now()
        self.ended_here = 0

    def __enter__(self) -> SweepDisplay:
        counts = self._counts()
        finished = sum(counts[name] for name in ("completed", "pruned", "failed"))
        print_ = self.console.print
        print_(Text(f"sweep {self.sweep.name}: {'no end' if self.limit is None else f'{self.limit} trials'}"))
        for key, distribution in self.space.distributions.items():
            print_(Text(f"  {key}: {describe(distribution)}"), soft_wrap=not self.console.is_terminal)
        if finished:
            left = f", {counts['running']} not finished" * bool(counts["running"])
            print_(Text(f"goes on: {finished} of its trials are finished{left}"))
        return self

    def __exit__(self, *exception: Any) -> None: ...

    def sent(self, number: int) -> None:
        """A trial has been sent to a slot."""

    def ended(self, number: int, status: str) -> None:
        """A trial has ended, or is to be run again."""
        self.ended_here += status in ("completed", "pruned", "failed")
        trial = self.sweep.trial(number)
        line = Text(f"trial {number} {status}")
        if trial.values:
            line.append(f": {_numbers(trial.values)}")
        if trial.state is TrialState.FAIL:
            line.append(f": {_first_line(str(trial.user_attrs.get(ERROR, '')))}", "red")
        line.append(f"  {parameters_line(trial)}", "dim")
        line.append(f"  [{self._progress()}]")
        self.console.print(line, soft_wrap=not self.console.is_terminal)

    def stopping(self) -> None:
        self.console.print("stopping: running trials save and end (once more to end them at once)")

    def summary(self, folder: Path, status: str) -> None:
        """What came of the sweep, as it stands in the study."""
        counts = self._counts()
        told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        self.console.print(Text(f"\nsweep {self.sweep.name} {status}: {told or 'no trials'}"))
        for error, numbers in self._failures().items():
            which = f"trial {numbers[0]}" if len(numbers) == 1 else f"trials {', '.join(map(str, numbers))}"
            self.console.print(Text(f"  {which} failed: {error}", "red"), soft_wrap=True)
        table = self.best_table()
        if table is not None:
            self.console.print(table)
        self.console.print(Text(f"trials and results: {folder}"), soft_wrap=True)
        if (folder / "conf" / "experiment" / "best.yaml").exists():
            line = f"best config: python train.py --config-dir {shlex.quote(str(folder / 'conf'))} experiment=best"
            self.console.print(Text(line), soft_wrap=True)
        elif (best := self.sweep.best()) is not None:
            line = f"no best config: the config of trial {best.number} is not in {best.user_attrs.get(FOLDER)}"
            self.console.print(Text(line, "yellow"), soft_wrap=True)

    def _failures(self) -> dict[str, list[int]]:
        """The trials that failed, by why."""
        found: dict[str, list[int]] = {}
        for trial in self.sweep.trials():
            if trial.state is TrialState.FAIL:
                error = _first_line(str(trial.user_attrs.get(ERROR, "no reason was left")))
                found.setdefault(error, []).append(trial.number)
        return found

    def best_table(self) -> RenderableType | None:
        """The best trial with its values, or the Pareto front of several objectives; None before there is one."""
        if self.sweep.settings.is_multi_objective:
            return self._front()
        best = self.sweep.best()
        if best is None:
            return None
        table = Table.grid(padding=(0, 2))
        table.add_row(Text("best", "bold green"), Text(f"{_numbers(best.values)}  trial {best.number}", "bold"))
        for key, value in best.params.items():
            table.add_row(key, _value(value))
        return table

    def _front(self) -> RenderableType | None:
        front = self.sweep.study.best_trials
        if not front:
            return None
        objectives = self.sweep.settings.objectives or ()
        table = Table(box=None, pad_edge=False, title="Pareto front", title_justify="left")
        for title in ("trial", *objectives):
            table.add_column(title, justify="right")
        table.add_column("searched values")
        for trial in sorted(front, key=lambda trial: trial.values)[:12]:
            table.add_row(str(trial.number), *(f"{value:.4g}" for value in trial.values), parameters_line(trial))
        return table

    def _counts(self) -> Counter[str]:
        counts = Counter(NAMES[trial.state] for trial in self.sweep.trials())
        return Counter({name: counts[name] for name in STYLES})

    def _progress(self) -> str:
        counts = self._counts()
        finished = counts["completed"] + counts["pruned"] + counts["failed"]
        best = self.sweep.best()
        parts = [f"{finished}{'' if self.limit is None else f'/{self.limit}'} done"]
        if best is not None and not self.sweep.settings.is_multi_objective:
            parts.append(f"best {best.value:.4f}")
        parts.append(f"{self.left()} left" if self.left() else "")
        return ", ".join(part for part in parts if part)

    def left(self) -> str:
        """The time left, from the pace of the trials that ended in this process; "" before one has."""
        if self.limit is None or not self.ended_here:
            return ""
        finished = sum(trial.state.is_finished() for trial in self.sweep.trials())
        pace = (datetime.now() - self.started) / self.ended_here
        return str(timedelta(seconds=round((pace * max(self.limit - finished, 0)).total_seconds())))


class LiveSweepDisplay(SweepDisplay):
    """A table that is kept up to date: counts, the best so far with its values, what runs, the time left."""

    def __enter__(self) -> LiveSweepDisplay:
        super().__enter__()
        self._drawn = (0.0, Text(""))
        self._live = Live(get_renderable=self._table, console=self.console, refresh_per_second=2, transient=True)
        self._live.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._live.stop()

    def _table(self) -> RenderableType:
        # The storage is asked once a second at most, by the thread that draws.
        if time.monotonic() - self._drawn[0] > REFRESH_S:
            try:
                self._drawn = (time.monotonic(), self._drawing())
            except Exception as error:  # a storage that is away for a moment
                self._drawn = (time.monotonic(), Text(f"the study cannot be read: {_first_line(str(error))}"))
        return self._drawn[1]

    def _drawing(self) -> Any:
        head = Text()
        for name, count in self._counts().items():
            if count or name in ("completed", "running"):
                head.append(f"{name} {count}   ", STYLES[name])
        head.append(f"of {self.limit}   " if self.limit is not None else "", "dim")
        head.append(f"{self.left()} left" if self.left() else "", "dim")
        best = self.best_table()
        return Group(Text(""), head, *([best] if best is not None else []), self._running())

    def _running(self) -> RenderableType:
        table = Table(box=None, pad_edge=False, show_header=False)
        running = [trial for trial in self.sweep.trials() if trial.state is TrialState.RUNNING]
        for trial in running[:SHOWN_RUNNING]:
            claim = claim_of(trial)
            steps = trial.intermediate_values
            score = f"{steps[max(steps)]:.4f} ({len(steps)})" if steps else (claim.phase if claim else "")
            table.add_row(Text(f"trial {trial.number}", "cyan"), score, Text(parameters_line(trial), "dim"))
        if len(running) > SHOWN_RUNNING:
            table.add_row(f"and {len(running) - SHOWN_RUNNING} more")
        return table


def make_display(sweep: Sweep, limit: int | None, space: Space) -> SweepDisplay:
    """The display that suits the terminal."""
    kind = LiveSweepDisplay if CONSOLE.is_terminal else SweepDisplay
    return kind(sweep, limit, space, CONSOLE)


def parameters_line(trial: FrozenTrial) -> str:
    return " ".join(f"{key}={_value(value)}" for key, value in trial.params.items())


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else shown(value)


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0][:200] if lines else ""
