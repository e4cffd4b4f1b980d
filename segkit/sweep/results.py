"""What a sweep leaves in its folder: the best config ready to run, every trial as a table, and a summary."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from optuna.trial import FrozenTrial

from segkit.sweep.space import Space, as_overrides
from segkit.sweep.study import Sweep, visible_attributes


def write_results(sweep: Sweep, space: Space, folder: Path, status: str, is_group: Callable[[str], bool]) -> list[Path]:
    """Write the results as they stand in the study; the files, for the record."""
    trials = sweep.trials()
    best = sweep.best()
    files = [folder / "trials.csv", folder / "sweep.json", folder / "optimization_results.yaml"]
    _write_table(files[0], trials)
    found: dict[str, Any] = {"name": "optuna"}
    if sweep.settings.is_multi_objective:
        found["solutions"] = [
            {"params": trial.params, "values": list(trial.values), "trial": trial.number}
            for trial in sweep.study.best_trials
        ]
    elif best is not None:
        found |= {"best_evaluated_params": best.params, "best_evaluated_value": best.value, "trial": best.number}
    files[2].write_text(yaml.safe_dump(found, sort_keys=False), encoding="utf-8")
    counts = dict.fromkeys(("COMPLETE", "PRUNED", "FAIL", "RUNNING", "WAITING"), 0)
    for trial in trials:
        counts[trial.state.name] += 1
    summary = {"study": sweep.name, "status": status, "trials": counts, "directions": list(sweep.settings.direction)}
    if best is not None:
        shown = {"number": best.number, "values": best.values, "params": best.params}
        summary["best"] = shown | visible_attributes(best)
        files.append(folder / "conf" / "experiment" / "best.yaml")
        lines = [*space.fixed, *as_overrides(best.params)]
        text = experiment_yaml([line for line in lines if not line.lstrip("+~").startswith("sweep=")], is_group)
        head = f"# @package _global_\n# Trial {best.number} of the sweep {sweep.name}: {best.values}.\n"
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        files[-1].write_text(head + text, encoding="utf-8")
    files[1].write_text(json.dumps(summary, indent=2, default=str) + "\n", encoding="utf-8")
    return files


def _write_table(path: Path, trials: Sequence[FrozenTrial]) -> None:
    keys = sorted({key for trial in trials for key in trial.params})
    notes = sorted({name for trial in trials for name in visible_attributes(trial)})
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["number", "state", "value", *keys, "begun", "ended", *notes])
        for trial in trials:
            values = " ".join(map(repr, trial.values or []))
            facts = [trial.params.get(key, "") for key in keys]
            attributes = visible_attributes(trial)
            times = [trial.datetime_start or "", trial.datetime_complete or ""]
            row = [trial.number, trial.state.name, values, *facts, *times, *(attributes.get(n, "") for n in notes)]
            table.writerow(row)


def experiment_yaml(overrides: Sequence[str], is_group: Callable[[str], bool]) -> str:
    """Overrides of the command line as the body of an experiment file.

    Groups go to its defaults list, everything else to its body. `is_group` tells them apart.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    defaults: list[Any] = []
    values: dict[str, Any] = {}
    for override in parsed:
        if is_group(override.key_or_group):
            defaults.append(_default(override))
        else:
            *parents, last = override.key_or_group.split(".")
            node = values
            for part in parents:
                node = node.setdefault(part, {})
            node[last] = override.value()
    # An experiment that this one builds on comes first, so that what follows replaces its choices.
    defaults.sort(key=lambda entry: not isinstance(entry, str))
    document = ({"defaults": [*defaults, "_self_"]} if defaults else {}) | values
    return yaml.safe_dump(_plain(document), sort_keys=False, allow_unicode=True)


def _default(override: Override) -> Any:
    group, option = override.key_or_group, override.value()
    if group == "experiment":
        return str(option)
    return {f"override /{group}": option}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    # Quoted strings keep their quotes apart from their text.
    return value.text if hasattr(value, "text") else value
