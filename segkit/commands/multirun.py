"""Mean and spread over the runs of a multirun that differ in nothing but their fold or seed."""

from __future__ import annotations

import json
import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from rich.table import Table

from segkit.config import instantiate
from segkit.contracts import RunInfo, Tracker
from segkit.engine.progress import CONSOLE
from segkit.experiment.lifecycle import MULTIRUN_TAG
from segkit.run.record import is_number, load_record
from segkit.run.run_folder import RunFolder, write_json
from segkit.tracking.trackers import guarded

log = logging.getLogger(__name__)

REPEATS = ("split.fold", "seed")
"""Keys that make runs repeats of one another: their scores are averaged."""

FIRST = ("miou", "mean_dice", "pixel_accuracy", "mean_accuracy", "fwiou", "loss")
NOT_A_SCORE = frozenset({"split", "step", "epoch", "time", "kind"})

Scores = Mapping[str, float]
Overrides = dict[str, str]


@dataclass(frozen=True)
class Job:
    """One run of a multirun.

    Attributes:
        overrides: what it was started with beside the rest of the config.
        summary: its summary.json; None where it ended before it could write one.
    """

    folder: Path
    overrides: Overrides
    summary: Mapping[str, Any] | None

    @property
    def scores(self) -> Scores | None:
        """Those of the checkpoint it would be used by; None unless it completed."""
        if self.summary is None or self.summary.get("status") != "completed":
            return None
        return {k: v for k, v in (self.summary.get("best") or {}).items() if k not in NOT_A_SCORE and is_number(v)}

    @property
    def label(self) -> str:
        return ", ".join(
            f"{key.removeprefix('split.')} {self.overrides[key]}" for key in REPEATS if key in self.overrides
        )


def spread(scores: Sequence[Scores]) -> dict[str, dict[str, float]]:
    """Mean, std, min and max over runs of every score that all of them have; std is that of a sample (n - 1).

    The std of a single run is 0.
    """
    shared = [name for name in scores[0] if all(name in found for found in scores)] if scores else []
    result: dict[str, dict[str, float]] = {}
    for name in shared:
        values = [found[name] for found in scores]
        result[name] = {
            "mean": statistics.fmean(values),
            "std": statistics.stdev(values) if len(values) > 1 else 0.0,
            "min": min(values),
            "max": max(values),
        }
    return result


def summarise(folder: Path, depth: int = 1) -> None:
    """Tell mean and spread of the repeats among the jobs of the multirun in `folder`, if there are any.

    In the terminal, in `summary.json` there, and in MLflow, if the jobs are recorded in it, as a run of its own
    beside theirs. Jobs that failed are named and left out.
    """
    settings = [repeats for repeats in repeated(jobs(folder, depth)).values() if len(repeats) > 1]
    if not settings:
        return
    content = {"settings": [_as_json(repeats) for repeats in settings]}
    write_json(folder / "summary.json", content | {"status": _status(settings)})
    for number, repeats in enumerate(settings):
        _show(repeats)
        if any(job.scores for job in repeats):
            _record(folder / f"mean_and_spread_{number}", folder, repeats)
    log.info("mean and spread of every score: %s", folder / "summary.json")


def jobs(folder: Path, depth: int = 1) -> list[Job]:
    """The jobs of a multirun, in the order in which they were started: their folders lie `depth` below `folder`."""
    found: list[Job] = []
    for file in folder.glob("/".join(["*"] * depth) + "/.hydra/overrides.yaml"):
        job = file.parent.parent
        try:
            overrides = dict(
                line.lstrip("+").split("=", 1) for line in yaml.safe_load(file.read_text()) or [] if "=" in line
            )
        except (OSError, ValueError, yaml.YAMLError):
            continue
        found.append(Job(job, overrides, _read_summary(job / "summary.json")))
    return sorted(found, key=lambda job: (len(str(job.folder)), str(job.folder)))


def repeated(found: Sequence[Job]) -> dict[str, list[Job]]:
    """Jobs by what they have in common: all overrides but those that make repeats."""
    groups: dict[str, list[Job]] = {}
    for job in found:
        if not any(key in job.overrides for key in REPEATS):
            continue
        common = {key: value for key, value in job.overrides.items() if key not in REPEATS}
        groups.setdefault(json.dumps(common, sort_keys=True), []).append(job)
    return groups


def _status(settings: Sequence[Sequence[Job]]) -> str:
    return "completed" if all(job.scores for repeats in settings for job in repeats) else "failed"


def _kind(repeats: Sequence[Job]) -> str:
    folds = {job.overrides.get("split.fold") for job in repeats}
    return "cross-validation" if len(folds) > 1 else "repeats"


def _read_summary(file: Path) -> Mapping[str, Any] | None:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _as_json(repeats: Sequence[Job]) -> dict[str, Any]:
    return {
        "kind": _kind(repeats),
        "overrides": {key: value for key, value in repeats[0].overrides.items() if key not in REPEATS},
        "runs": [
            {
                "folder": str(job.folder),
                **{key: job.overrides[key] for key in REPEATS if key in job.overrides},
                "status": (job.summary or {}).get("status", "failed"),
                "mlflow_run_id": (job.summary or {}).get("mlflow_run_id"),
                "best_step": (job.summary or {}).get("best_step"),
                "scores": job.scores,
            }
            for job in repeats
        ],
        "spread": spread([job.scores for job in repeats if job.scores]),
    }


def _show(repeats: Sequence[Job]) -> None:
    """A row a run, then mean and std, within 80 columns; a warning for those that failed."""
    done = [job for job in repeats if job.scores]
    found = spread([job.scores for job in done if job.scores])
    names = [name for name in FIRST if name in found]
    table = Table("run", box=None, pad_edge=False, title=_kind(repeats), title_justify="left")
    for name in names:
        table.add_column(name, justify="right")
    for job in done:
        scores = job.scores or {}
        table.add_row(job.label, *[f"{scores[name]:.4f}" for name in names])
    if done:
        table.add_row("mean", *[f"{found[name]['mean']:.4f}" for name in names], style="bold")
        table.add_row("std", *[f"{found[name]['std']:.4f}" for name in names])
        CONSOLE.print(table)
    for job in repeats:
        if not job.scores:
            why = (job.summary or {}).get("error") or (job.summary or {}).get("status") or "it never started to train"
            log.warning("%s is left out: %s (%s)", job.label, why, job.folder)


def _record(record_folder: Path, sweep: Path, repeats: Sequence[Job]) -> None:
    """A run beside those of the jobs, recorded as they are, which holds mean, std, min and max of every score."""
    recorded = [(job, record) for job in repeats if (record := load_record(job.folder)) is not None]
    if not recorded:
        return
    records = [record for _, record in recorded]
    found = spread([job.scores for job in repeats if job.scores])
    record_folder.mkdir(parents=True, exist_ok=True)
    write_json(record_folder / "cross_validation.json", _as_json(repeats))
    (record_folder / "runs.md").write_text(_markdown(repeats), encoding="utf-8")
    folder = RunFolder(record_folder)
    try:
        tracker = folder.tracker = _tracker_of(recorded[0][0], record_folder)
        done = sum(job.scores is not None for job in repeats)
        ids = [str(job.summary["mlflow_run_id"]) for job in repeats if job.summary and job.summary.get("mlflow_run_id")]
        tags = {
            MULTIRUN_TAG: str(sweep.absolute()),
            "segkit.kind": _kind(repeats),
            "segkit.runs": ", ".join(ids),
            "segkit.runs_completed": f"{done} of {len(repeats)}",
            "segkit.run_folder": str(record_folder.absolute()),
        }
        info = RunInfo(
            f"{_shared_words([record.name for record in records])}: {_kind(repeats)} of {len(repeats)}",
            _shared([record.params for record in records]),
            _shared([record.tags for record in records]) | tags,
            started=min(record.started for record in records),
        )
        tracker.start(info)
        for kind in ("mean", "std", "min", "max"):
            # A later attempt in the same folder counts where more runs are done.
            folder.record(
                "eval", {"split": kind, "step": done, **{name: values[kind] for name, values in found.items()}}
            )
        for file in ("cross_validation.json", "runs.md"):
            folder.list_artifact(record_folder / file)
        tracker.finish(_status([repeats]))
    finally:
        folder.close()
    if tracker.run_id is not None:
        log.info("MLflow run of mean and spread: %s", tracker.run_id)


def _tracker_of(job: Job, record_folder: Path) -> Tracker:
    """A tracker for `record_folder` like the one of `job`."""
    config: Any = OmegaConf.load(job.folder / ".hydra" / "config.yaml")
    make = instantiate.build(instantiate.plain(config["tracker"]), "tracker", supplied=["run_folder"])
    return guarded(make(run_folder=record_folder))


def _shared(all_of_them: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is the same in all."""
    first, *others = all_of_them
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def _shared_words(names: Sequence[str]) -> str:
    """The first name without what the others have otherwise, such as its seed."""
    first, *others = [name.split() for name in names]
    return " ".join(word for word in first if all(word in other for other in others))


def _markdown(repeats: Sequence[Job]) -> str:
    done = [job for job in repeats if job.scores]
    found = spread([job.scores for job in done if job.scores])
    names = sorted(found, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
    rows = [(job.label, job.scores or {}) for job in done]
    rows += [(f"**{kind}**", {name: found[name][kind] for name in names}) for kind in ("mean", "std", "min", "max")]
    lines = [f"| run | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    lines += [f"| {label} | {' | '.join(_digits(scores[name]) for name in names)} |" for label, scores in rows]
    return "\n".join(lines) + "\n"


def _digits(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
