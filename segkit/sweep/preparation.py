"""What a sweep needs before its first trial: a study that is its own, a folder, a space that composes, a queue."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict
from optuna.distributions import CategoricalDistribution, distribution_to_json

import segkit
from segkit.config import instantiate
from segkit.errors import UserError
from segkit.sweep.samplers import Grid, grid_points
from segkit.sweep.settings import SweepSettings
from segkit.sweep.space import Space, as_overrides, quoted
from segkit.sweep.study import Sweep
from segkit.trials import SweepRecord

log = logging.getLogger(__name__)


def named(settings: SweepSettings, config: DictConfig, space: Space) -> SweepSettings:
    """The settings with a study name, which follows from what is swept: the same command finds its study again."""
    if settings.study_name is not None:
        return settings
    identity = {
        "config": str(config.hydra.job.config_name),
        "fixed": sorted(space.fixed),
        "space": {key: distribution_to_json(value) for key, value in sorted(space.distributions.items())},
        "custom": settings.custom_search_space,
        "direction": settings.direction,
        "objectives": settings.objectives,
        "folds": settings.folds,
    }
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:8]
    option = str(config.hydra.runtime.choices.get("sweep") or config.hydra.runtime.choices["hydra/sweeper/sampler"])
    return settings.model_copy(update={"study_name": f"{config.hydra.job.name}-{option}-{digest}"})


def take_folder(config: DictConfig, settings: SweepSettings) -> Path:
    """The folder of the trials; every job is told of it, and of the study, in its overrides."""
    assert settings.study_name is not None
    given = [str(override) for override in config.hydra.overrides.hydra]
    with open_dict(config.hydra):
        config.hydra.sweeper.study_name = settings.study_name
        if not any(override.startswith("hydra.sweep.dir=") for override in given):
            config.hydra.sweep.dir = str(config.hydra.sweeper.folder)
        folder = Path(str(config.hydra.sweep.dir)).absolute()
        config.hydra.overrides.hydra = [
            *given,
            f"hydra.sweeper.study_name={quoted(settings.study_name)}",
            f"hydra.sweep.dir={quoted(str(folder))}",
        ]
        config.hydra.sweep.dir = str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_composes(config: DictConfig, context: HydraContext, space: Space) -> None:
    """Compose one point of the space before there is a study: what does not exist is no failed trial."""
    for key, distribution in space.distributions.items():
        options = context.config_loader.get_group_options(key)
        if options and isinstance(distribution, CategoricalDistribution):
            wrong = [str(choice) for choice in distribution.choices if choice not in options]
            if wrong:
                raise UserError(f"{key}={wrong[0]}: no such option; allowed: {', '.join(options)}")
    some = optuna.create_study(sampler=optuna.samplers.RandomSampler(0)).ask(dict(space.distributions))
    overrides = [*space.fixed, *as_overrides(some.params)]
    context.config_loader.load_sweep_config(config, overrides)


def prepare(opened: Sweep, space: Space) -> int | None:
    """Queue a grid, refuse a space that is not the study's; how many trials the study is to have, None: no end."""
    storage, study = opened.storage, opened.study
    now = {key: distribution_to_json(value) for key, value in space.distributions.items()}
    before: Mapping[str, str] = study.user_attrs.get("space", {})
    changed = [
        key
        for key, value in space.distributions.items()
        if isinstance(value, CategoricalDistribution) and before.get(key, now[key]) != now[key]
    ]
    if changed:
        raise UserError(
            f"{changed[0]}: the study {opened.name} was begun with other choices, {before[changed[0]]}; "
            "give this sweep a study of its own with hydra.sweeper.study_name=..."
        )
    fixed: Sequence[str] = study.user_attrs.get("fixed", list(space.fixed))
    if sorted(fixed) != sorted(space.fixed):
        log.warning("the study %s was begun with other settings: %s", opened.name, " ".join(fixed))
    study.set_user_attr("space", now)
    study.set_user_attr("fixed", list(space.fixed))
    limit = opened.settings.n_trials
    if str(opened.settings.sampler.get("_target_", "")).rpartition(".")[2] != Grid.__name__:
        return limit
    if space.custom is not None:
        raise UserError("hydra.sweeper.custom_search_space: a grid takes all its values from choices and ranges")
    points = grid_points(space.distributions)
    with opened.claims.locked():
        queued = len(storage.get_all_trials(study._study_id, deepcopy=False))
        for point in points[queued:]:
            study.enqueue_trial(point)
    return len(points) if limit is None else min(limit, len(points))


def make_record(settings: SweepSettings, config: DictConfig, folder: Path) -> SweepRecord | None:
    if settings.record is None:
        return None
    supplied = ["tracker", "folder", "name", "directions"]
    make = instantiate.build(settings.record, "hydra.sweeper.record", supplied=supplied)
    tracker = config.get("tracker")
    node = instantiate.plain(tracker) if isinstance(tracker, DictConfig) else None
    return make(tracker=node, folder=folder, name=settings.study_name, directions=settings.direction)


def reach_from_workers() -> None:
    """Let processes that launchers start find segkit and its plugin, whatever they are started as."""
    package = Path(segkit.__file__).resolve().parent
    wanted = [str(package.parent), str(package / "sweep" / "plugin")]
    present = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    os.environ["PYTHONPATH"] = os.pathsep.join([*present, *(part for part in wanted if part not in present)])
