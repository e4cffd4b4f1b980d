"""What a sweep needs before its first trial: a study that is its own, a folder, a space that composes, a queue."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from optuna.distributions import CategoricalDistribution, distribution_to_json
from optuna.trial import FrozenTrial

import segkit
from segkit.config import instantiate
from segkit.config.overrides import quoted
from segkit.errors import UserError
from segkit.sweep.best_config import unresolved
from segkit.sweep.protocols import SweepRecord
from segkit.sweep.same_config import SharedConfig
from segkit.sweep.samplers import Grid, grid_points
from segkit.sweep.search_space import Space, group_options
from segkit.sweep.settings import SweepSettings
from segkit.sweep.study import FOLDER, Sweep

DRAWS = 16
"""How often a custom space is tried before the first trial."""


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
    given = unresolved(config.hydra.overrides.hydra)
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


def check_space(config: DictConfig, context: HydraContext, space: Space) -> None:
    """Draw from the space before there is a study: what does not exist is no failed trial. Raises UserError.

    A custom space may have conditions, so it is tried several times.
    """
    for key, distribution in space.distributions.items():
        options = group_options(key, context.config_loader)
        if options and isinstance(distribution, CategoricalDistribution):
            wrong = [str(choice) for choice in distribution.choices if choice not in options]
            if wrong:
                raise UserError(f"{key}={wrong[0]}: no such option; allowed: {', '.join(options)}")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    for attempt in range(1 if space.custom is None else DRAWS):
        trial = study.ask()
        space.draw(config, trial)
        if attempt == 0:
            overrides = [*space.fixed, *space.overrides(trial.params)]
            subdir_of(0, context.config_loader.load_sweep_config(config, overrides))


def prepare(opened: Sweep, space: Space, shared: SharedConfig) -> int | None:
    """Hold the sweep against its study, queue a grid; how many trials the study is to have, None: no end.

    `shared` is what the trials have in common. Raises UserError where the study was begun with something else.
    """
    study = opened.study
    with opened.claims.locked():
        shared.check(study)
    limit = opened.settings.n_trials
    target = opened.settings.sampler.get("_target_")
    if target is None or instantiate.locate(str(target), "hydra.sweeper.sampler._target_") is not Grid:
        return limit
    if space.custom is not None:
        raise UserError("hydra.sweeper.custom_search_space: a grid takes all its values from choices and ranges")
    points = grid_points(space.distributions)
    with opened.claims.locked():
        queued = len(study.get_trials(deepcopy=False))
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


def subdir_of(number: int, config: DictConfig) -> str:
    """What `hydra.sweep.subdir` is for trial `number`, whose composed config is `config`. Raises UserError."""
    before = HydraConfig.instance().cfg
    with open_dict(config):
        config.hydra.job.num = config.hydra.job.id = number
    HydraConfig.instance().set_config(config)  # `${hydra:...}` reads from there
    try:
        return os.path.normpath(str(config.hydra.sweep.subdir))
    except OmegaConfBaseException as error:
        raise UserError(f"hydra.sweep.subdir: {str(error).splitlines()[0]}") from None
    finally:
        HydraConfig.instance().cfg = before


class Folders:
    """The folder of each trial below that of the sweep: as `hydra.sweep.subdir` says, and never that of another."""

    def __init__(self, sweep: Sweep, folder: Path, config: DictConfig, loader: ConfigLoader) -> None:
        self._sweep, self._folder, self._config, self._loader = sweep, folder, config, loader
        self._given: dict[str, int] = {}
        asked: Any = OmegaConf.to_container(config.hydra.sweep, resolve=False)
        self._is_number = asked["subdir"] == "${hydra.job.num}"

    def subdir(self, number: int, overrides: Sequence[str]) -> str:
        """The folder that trial `number` has already, else one for a trial of these overrides; folds lie below it."""
        own = self._own(self._sweep.trial(number))
        if own is not None and own.is_relative_to(self._folder):
            return str(own.relative_to(self._folder))
        if self._is_number:
            return str(number)
        found = subdir_of(number, self._loader.load_sweep_config(self._config, list(overrides)))
        others = {self._own(trial) for trial in self._sweep.trials() if trial.number != number}
        if self._folder / found in others or self._given.get(found, number) != number:
            found = f"{found}_{number}"
        self._given[found] = number
        return found

    def _own(self, trial: FrozenTrial) -> Path | None:
        folder = trial.user_attrs.get(FOLDER)
        if not isinstance(folder, str):
            return None
        return Path(folder) if self._sweep.settings.folds is None else Path(folder).parent
