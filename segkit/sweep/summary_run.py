"""The MLflow run of a sweep: how it went, what mattered, and the best config, beside the runs of its trials.

It is a flat run like theirs, told apart by a tag: MLflow's UI folds nested runs away and then compares nothing.
The sweep's folder is its run folder, so what MLflow could not take is sent later, as for any run.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from segkit.config import instantiate
from segkit.contracts import RunInfo, Tracker
from segkit.errors import UserError
from segkit.run import provenance
from segkit.run.record import records_from
from segkit.run.run_folder import RunFolder
from segkit.sweep.display import parameters_line
from segkit.sweep.search_space import describe
from segkit.sweep.study import FOLDER
from segkit.tracking.mlflow import delivery
from segkit.tracking.trackers import guarded

log = logging.getLogger(__name__)

KIND = "sweep"


class RunOfSweep:
    """A `trials.SweepRecord` through the tracker that the trials use.

    Args:
        tracker: the config node of the tracker; None: the task has none, and no record is kept.
        folder: of the sweep.
        name: of the sweep.
        directions: maximize or minimize, for each objective.
    """

    def __init__(self, tracker: Mapping[str, Any] | None, folder: Path, name: str, directions: Sequence[str]) -> None:
        self._node = tracker
        self._folder = folder
        self._name = name
        self._directions = directions
        self._open: RunFolder | None = None
        self._tracker: Tracker | None = None
        self._recorded: set[int] = set()

    def start(self, study: optuna.Study, space: Mapping[str, Any], fixed: Sequence[str]) -> None:
        if self._node is None:
            return
        try:
            self._open = RunFolder(self._folder)
            with contextlib.suppress(OSError):
                self._open.checkpoints.rmdir()  # a sweep has none
        except UserError:
            log.info("another process keeps the record of this sweep")
            return
        self._recorded = {
            int(row["step"]) for row, _ in records_from(self._folder / "metrics.jsonl", 0) if "step" in row
        }
        make = instantiate.build(dict(self._node), "tracker", supplied=["run_folder"])
        tracker = guarded(make(run_folder=self._folder))
        params = {f"search.{key}": describe(distribution) for key, distribution in space.items()}
        params |= {"fixed": " ".join(fixed), "directions": " ".join(self._directions)}
        tags = {"sweep": self._name, "sweep.role": "summary", "sweep.study": self._name}
        tags |= provenance.versions() | provenance.machine()
        tags["segkit.run_folder"] = str(self._folder)
        tracker.start(RunInfo(f"sweep {self._name}", params, tags))
        self._tracker = self._open.tracker = tracker
        self.update(study)

    def update(self, study: optuna.Study) -> None:
        if self._open is None:
            return
        for trial in study.get_trials(deepcopy=False):
            if trial.state.is_finished() and trial.number not in self._recorded:
                self._recorded.add(trial.number)
                self._open.record(KIND, {"step": trial.number, **_numbers(study, trial)})

    def finish(self, study: optuna.Study, status: str, files: Sequence[Path]) -> None:
        if self._open is None or self._tracker is None:
            return
        try:
            self.update(study)
            for path in draw(study, self._folder / "figures"):
                self._open.list_artifact(path, "figures")
            for path in files:
                self._open.list_artifact(path, str("sweep" / path.parent.relative_to(self._folder)))
            self._open.write_summary({"status": status, "study": self._name})
            self._tracker.tag({"segkit.status": status, "mlflow.note.content": note(study, self._name)})
        except Exception:  # a figure is not worth a sweep
            log.warning("the record of the sweep is not complete", exc_info=True)
        self._tracker.finish(status)
        self._open.close()


def _numbers(study: optuna.Study, trial: FrozenTrial) -> dict[str, float]:
    """What the summary's charts show at the number of a trial."""
    states = [other.state for other in study.get_trials(deepcopy=False)]
    numbers: dict[str, float] = {
        "completed": states.count(TrialState.COMPLETE),
        "pruned": states.count(TrialState.PRUNED),
        "failed": states.count(TrialState.FAIL),
    }
    if trial.datetime_start is not None and trial.datetime_complete is not None:
        numbers["seconds"] = (trial.datetime_complete - trial.datetime_start).total_seconds()
    if len(study.directions) > 1:
        return numbers | {f"value_{index}": value for index, value in enumerate(trial.values or [])}
    if trial.value is not None:
        numbers["value"] = trial.value
    done = [t.value for t in study.get_trials(deepcopy=False) if t.state is TrialState.COMPLETE and t.value is not None]
    if done:
        best = max(done) if study.direction.name == "MAXIMIZE" else min(done)
        numbers["best"] = best
    return numbers


def draw(study: optuna.Study, folder: Path) -> list[Path]:
    """The figures of a study as PNG files: history, importances, parallel coordinates, slices, or a Pareto front."""
    if not any(trial.state is TrialState.COMPLETE for trial in study.get_trials(deepcopy=False)):
        return []
    import matplotlib

    matplotlib.use("Agg")
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it explains how it plots choices that look like numbers
    from optuna.visualization import matplotlib as figures

    drawers: dict[str, Callable[[], Any]] = {
        "history": lambda: figures.plot_optimization_history(study),
        "importances": lambda: figures.plot_param_importances(study),
        "parallel_coordinates": lambda: figures.plot_parallel_coordinate(study),
        "slices": lambda: figures.plot_slice(study),
    }
    if any(trial.intermediate_values for trial in study.get_trials(deepcopy=False)):
        drawers["intermediate_values"] = lambda: figures.plot_intermediate_values(study)
    if len(study.directions) > 1:
        drawers = {"pareto_front": lambda: figures.plot_pareto_front(study)}
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [_drawn(folder / f"{name}.png", make) for name, make in drawers.items()]
    return [path for path in drawn if path is not None]


def _drawn(path: Path, make: Callable[[], Any]) -> Path | None:
    import matplotlib.pyplot as plt
    import numpy as np

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            axes = make()
            figure = np.ravel(np.asarray(axes, dtype=object))[0].figure
            figure.savefig(path, dpi=120, bbox_inches="tight")
    except Exception as error:  # too few trials for this figure, or values all alike
        log.debug("no %s: %s", path.name, error)
        return None
    finally:
        plt.close("all")
    return path


def note(study: optuna.Study, name: str) -> str:
    """The description of the run in MLflow's UI, as Markdown, with links to the runs of the best trials."""
    trials = study.get_trials(deepcopy=False)
    words = {TrialState.COMPLETE: "completed", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    counts = ", ".join(f"{sum(t.state is state for t in trials)} {word}" for state, word in words.items())
    lines = [f"Sweep `{name}`: {counts}.", "", "| trial | value | run |", "|---|---|---|"]
    done = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    if len(study.directions) > 1:
        best = study.best_trials
    else:
        sign = -1 if study.direction.name == "MAXIMIZE" else 1
        best = sorted(done, key=lambda trial: sign * trial.values[0])[:5]
    for trial in best[:20]:
        values = ", ".join(f"{value:.4f}" for value in trial.values)
        lines.append(f"| {trial.number} | {values} | {_link(trial)} |")
    lines += ["", "All trials: search for `tags.sweep = '" + name + "'` and select them to compare."]
    return "\n".join(lines)


def _link(trial: FrozenTrial) -> str:
    folder = trial.user_attrs.get(FOLDER)
    page = delivery.page(Path(folder)) if isinstance(folder, str) else None
    text = parameters_line(trial)
    return f"[{text}]({page})" if page else text
