"""What is written of a run: who and what it is at its start, how it ended at its end."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from segkit.config.credentials import masked
from segkit.contracts import LabelSpace, RunInfo
from segkit.engine import memory
from segkit.engine.outputs import Recording
from segkit.engine.progress import duration
from segkit.engine.trainer import Trainer
from segkit.experiment.assembly import Experiment
from segkit.reporting import best_evaluation
from segkit.run import provenance
from segkit.run.run_folder import RunFolder
from segkit.sweep.protocols import Trial
from segkit.tracking.mlflow.keys import run_name

log = logging.getLogger(__name__)

MULTIRUN_TAG = "segkit.multirun"
"""Tag that the runs of one multirun share: its folder."""


def run_info(
    experiment: Experiment, choices: Mapping[str, str], trainer: Trainer, trial: Trial | None, continued: str | None
) -> RunInfo:
    """What the tracker is told of a run: name, flat parameters, and tags of all that a result depends on."""
    folder = trainer.recording.folder
    chosen = {
        group: option for group, option in choices.items() if option and group.split("/")[0] not in ("hydra", "paths")
    }
    tags = {f"group.{group}": str(option) for group, option in chosen.items()}
    for split in ("train", "val"):
        identity = experiment.source(split).identity()
        tags |= {f"data.{split}.{name}": str(value) for name, value in identity.items()}
    tags |= provenance.git_state(Path(__file__).parent, folder.path / "git.diff")
    tags |= provenance.versions() | provenance.machine()
    tags |= {"segkit.run_folder": str(folder.path.absolute()), "segkit.precision": trainer.strategy.precision}
    if HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN:
        tags[MULTIRUN_TAG] = str(Path(HydraConfig.get().sweep.dir).absolute())
    for file in (".hydra/config.yaml", ".hydra/overrides.yaml", "git.diff"):
        if (folder.path / file).exists():
            folder.list_artifact(folder.path / file, "config")
    params = _flat(_recorded(experiment))
    overrides = list(map(str, HydraConfig.get().overrides.task)) if HydraConfig.initialized() else []
    name = experiment.recipe.settings.name or run_name(choices, masked(overrides), params)
    if trial is not None:
        name = f"{trial.name} {name}"  # first, as lists of runs cut names off
        tags |= trial.tags
        # Groups are no key of the config; searched, they are what runs are compared by.
        params |= {key: value for key, value in trial.params.items() if key not in params}
    return RunInfo(name, params, tags, continued)


def _recorded(experiment: Experiment) -> dict[str, Any]:
    """The config with the numbers that were decided in the places of methods, and what else was decided."""
    recipe, resolved = experiment.recipe, experiment.resolved
    decided = {"trainer.batch_size": experiment.options.batch_size, **resolved.class_weights}
    values = recipe.replaced(decided).to_dict()
    if recipe.class_weight_methods:
        values["computed"] = dict(recipe.class_weight_methods)
    if resolved.normalization is not None:
        values["normalization"] = asdict(resolved.normalization)
    if resolved.split_digest is not None:
        values["split"]["digest"] = resolved.split_digest
    return values


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as dotted keys; the backbone, which the model's node repeats, stands once."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if key == "model.backbone":
            continue
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{key}.")
        else:
            flat[key] = value
    return flat


def announce(experiment: Experiment, choices: Mapping[str, str], trainer: Trainer) -> None:
    """Tell the person at the terminal what is about to run."""
    parameters = sum(p.numel() for p in trainer.learning.model.parameters())
    learns = sum(p.numel() for p in trainer.learning.model.parameters() if p.requires_grad)
    frozen = "" if learns == parameters else f" ({learns / 1e6:.2f} M of them learn)"
    log.info("%s: %.2f M parameters%s", run_name(choices, (), ()), parameters / 1e6, frozen)
    log.info(
        "data: %d train, %d val, %d classes; %s in %s",
        len(experiment.source("train")),
        len(experiment.source("val")),
        experiment.labels.num_classes,
        f"{trainer.total_steps} steps of {trainer.settings.batch_size * trainer.settings.accumulate} images",
        f"{trainer.strategy.precision} on {trainer.strategy.device}",
    )
    log.info("run folder: %s", trainer.recording.folder.path)


def close(
    trainer: Trainer, labels: LabelSpace, trial: Trial | None, status: str, error: str | None, started: float
) -> None:
    """Leave the record of how the run ended: summary.json, figures, the last delivery. Raises nothing of its own.

    Ctrl-C ends it and the process, once summary.json is written. A run that was terminated gets no figures: whoever
    sends a SIGTERM kills what has not gone soon after. They are drawn when the run is resumed, from what is kept.
    """
    recording = trainer.recording
    folder = recording.folder
    trainer.data.close()
    trainer.evaluator.data.close()
    if status == "pruned" and trial is not None and not trial.keeps_checkpoints_when_pruned:
        recording.keeper.delete_all()
    summary = _summary(trainer, status, error, time.monotonic() - started)
    folder.write_summary(summary)
    try:
        if status != "terminated":
            _draw(folder, labels)
        if trainer.state.best_score is not None:
            log.info(
                "%s in %s: best %s %.4f at step %d",
                status,
                duration(time.monotonic() - started),
                trainer.settings.checkpoint.monitor,
                trainer.state.best_score,
                trainer.state.best_step,
            )
        _deliver(recording, status)
    except KeyboardInterrupt:
        log.warning("left before the record was complete, after Ctrl-C; python scripts/sync_mlflow.py sends it")
        raise
    # The run may have been created as late as in the last delivery.
    run_id = recording.tracker.run_id
    folder.write_summary(summary | {"mlflow_run_id": run_id})
    if trial is not None and run_id is not None:
        trial.record("mlflow_run_id", run_id)


def _draw(folder: RunFolder, labels: LabelSpace) -> None:
    try:
        for file in best_evaluation.draw_kept(folder.path, labels):
            folder.list_artifact(file, "figures")
    except OSError as refused:
        log.warning("the figures could not be drawn (%s)", refused)
    except Exception:  # a figure is not worth a run
        log.warning("the figures could not be drawn", exc_info=True)


def _deliver(recording: Recording, status: str) -> None:
    folder = recording.folder
    recording.tracker.tag({"segkit.status": status})
    best = folder.checkpoints / "best.pt"
    if best.exists():
        folder.list_artifact(best, "checkpoints")
    for file in ("summary.json", "metrics.jsonl", "train.log"):
        if (folder.path / file).exists():
            folder.list_artifact(folder.path / file, "run")
    recording.tracker.finish(status)


def best_scores(trainer: Trainer) -> dict[str, Any]:
    """The scores of the best evaluation by name; empty if there was none."""
    return _evaluations(trainer.recording.folder.path / "metrics.jsonl").get(trainer.state.best_step, {})


def _summary(trainer: Trainer, status: str, error: str | None, seconds: float) -> dict[str, Any]:
    clock, state, device = trainer.clock, trainer.state, trainer.strategy.device
    evaluations = _evaluations(trainer.recording.folder.path / "metrics.jsonl")
    return {
        "status": status,
        "error": error,
        "step": state.step,
        "parameters": sum(p.numel() for p in trainer.learning.model.parameters()),
        "images_seen": state.images_seen,
        "samples_skipped": state.samples_skipped,
        "steps_skipped": state.steps_skipped,
        "stopped_early": state.stopped_early,
        "monitor": trainer.settings.checkpoint.monitor,
        "best_score": state.best_score,
        "best_step": state.best_step,
        "best": evaluations.get(state.best_step),
        "final": evaluations.get(state.evaluated_step),
        "mlflow_run_id": trainer.recording.tracker.run_id,
        "checkpoints": trainer.recording.keeper.paths(),
        "images_per_second": clock.images / clock.steps if clock.steps else None,
        "data_wait_share": clock.waiting / clock.steps if clock.steps else None,
        "evaluation_s": clock.evaluation,
        "memory_gib": memory.used(device) / memory.GIB,
        "memory_peak_gib": memory.peak(device) / memory.GIB,
        "wall_time_s": seconds,
    }


def _evaluations(metrics_jsonl: Path) -> dict[int, dict[str, Any]]:
    """The scores of every evaluation by step, also of those before a resume; of a repeated step the last."""
    found: dict[int, dict[str, Any]] = {}
    with metrics_jsonl.open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith('{"kind": "eval"'):
                record = json.loads(line)
                found[record["step"]] = {k: v for k, v in record.items() if k not in ("kind", "time")}
    return found
