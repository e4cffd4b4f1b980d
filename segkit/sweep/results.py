"""What a sweep leaves in its folder: the best config ready to run, every trial as a table, and a summary."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial

from segkit.sweep import best_config
from segkit.sweep.search_space import Space
from segkit.sweep.study import FOLDER, Sweep, visible_attributes
from segkit.sweep.values import shown


def write_results(
    sweep: Sweep, space: Space, folder: Path, status: str, loader: ConfigLoader, config: DictConfig
) -> list[Path]:
    """Write the results as they stand in the study; the files, for the record.

    `config` is the composed config of the sweep, `loader` what composed it.
    """
    trials = sweep.trials()
    best = sweep.best()
    files = [folder / "trials.csv", folder / "sweep.json", folder / "optimization_results.yaml"]
    _write_table(files[0], trials, space)
    # The keys of Hydra's own Optuna plugin, and the number of the trial.
    found: dict[str, Any] = {"name": "optuna"}
    if sweep.settings.is_multi_objective:
        found["solutions"] = [
            {"params": space.values(trial.params), "values": list(trial.values), "trial": trial.number}
            for trial in sweep.study.best_trials
        ]
    elif best is not None:
        found |= {"best_params": space.values(best.params), "best_value": best.value, "trial": best.number}
    files[2].write_text(OmegaConf.to_yaml(found), encoding="utf-8")
    counts = dict.fromkeys(("COMPLETE", "PRUNED", "FAIL", "RUNNING", "WAITING"), 0)
    for trial in trials:
        counts[trial.state.name] += 1
    summary = {"study": sweep.name, "status": status, "trials": counts, "directions": list(sweep.settings.direction)}
    if best is not None:
        shown = {"number": best.number, "values": best.values, "params": space.values(best.params)}
        summary["best"] = shown | visible_attributes(best)
        files += _write_best(sweep, best, folder, loader, config)
    files[1].write_text(json.dumps(summary, indent=2, default=str) + "\n", encoding="utf-8")
    return files


def _write_best(sweep: Sweep, best: FrozenTrial, folder: Path, loader: ConfigLoader, config: DictConfig) -> list[Path]:
    """The files that make the best trial's config an experiment; none where its config is not to be had."""
    place = folder / "conf" / "experiment" / "best.yaml"
    trial = best_config.read(Path(str(best.user_attrs.get(FOLDER))))
    if trial is None:
        place.unlink(missing_ok=True)  # of an earlier best trial
        return []
    return best_config.write(
        folder / "conf",
        "best",
        best_config.without(trial, sweep.settings.retry_overrides, config),
        label=f"trial_{best.number}",
        title=f"The whole config of trial {best.number} of the sweep {sweep.name}, as it was: {best.values}.",
        loader=loader,
        master=config,
    )


def _write_table(path: Path, trials: Sequence[FrozenTrial], space: Space) -> None:
    keys = sorted({key for trial in trials for key in trial.params})
    notes = sorted({name for trial in trials for name in visible_attributes(trial)})
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["number", "state", "value", *keys, "begun", "ended", *notes])
        for trial in trials:
            values = " ".join(map(repr, trial.values or []))
            params = {key: shown(value) for key, value in space.values(trial.params).items()}
            facts = [params.get(key, "") for key in keys]
            attributes = visible_attributes(trial)
            times = [trial.datetime_start or "", trial.datetime_complete or ""]
            row = [trial.number, trial.state.name, values, *facts, *times, *(attributes.get(n, "") for n in notes)]
            table.writerow(row)
