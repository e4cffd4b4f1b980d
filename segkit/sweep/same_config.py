"""Whether the trials of a study are all of one experiment: what their configs share, kept in the study.

A study that is gone on with after a file was edited, or with other overrides under its name, would compare scores
that do not belong together.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.trial import TrialState
from yaml import YAMLError

from segkit.config.credentials import masked
from segkit.errors import UserError
from segkit.sweep.search_space import Space, bare_key, describe, flat, group_options
from segkit.sweep.settings import SweepSettings
from segkit.sweep.values import as_text

SPACE, CONFIG, OPTIONS = "space", "config", "options"
"""User attributes of a study: what is searched, the config that trials share, and what each searched option adds."""

MAY_CHANGE = "hydra.sweeper.may_change"
COUNTING = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
SHOWN = 4
SETTLE_S = 1.0
ABSENT = "(absent)"
GROUP = "group "
"""Before the name of a group, among flat keys, stands for the option that was chosen of it."""

Values = dict[str, Any]


class SharedConfig:
    """What the trials of a sweep share, as it is when this is made, held against a study.

    Raises what Hydra raises where the config does not compose.
    """

    def __init__(self, settings: SweepSettings, config: DictConfig, loader: ConfigLoader, space: Space) -> None:
        self._settings, self._config, self._loader, self._space = settings, config, loader, space
        self._stamp = stamp(loader, config)
        self._values = shared_config(settings, config, loader, space)

    def check(self, study: optuna.Study) -> None:
        """Keep it in the study, or raise UserError where that was begun with another config."""
        check(study, self._space, *self._values)

    def check_edits(self, study: optuna.Study) -> None:
        """Raises UserError if files were edited that trials are composed of, as they are when they begin."""
        for is_last in (False, True):
            now = stamp(self._loader, self._config)
            if now == self._stamp:
                return
            try:
                check(study, self._space, *shared_config(self._settings, self._config, self._loader, self._space))
                self._stamp = now
                return
            except UserError:
                if is_last:
                    raise
            except (HydraException, OmegaConfBaseException, YAMLError, OSError) as error:
                if is_last:
                    raise UserError(f"a config file was edited, and the config composes no more: {error}") from None
            time.sleep(SETTLE_S)  # an editor may be in the middle of saving


def shared_config(
    settings: SweepSettings, config: DictConfig, loader: ConfigLoader, space: Space
) -> tuple[Values, dict[str, Values]]:
    """What trials have in common: the config by flat keys, and for every option of a searched group what it changes.

    Searched keys and those of `hydra.sweeper.may_change` are left out. Composes the config once, and once more for
    each further option; raises what Hydra raises where the first does not compose.
    """
    groups = [key for key in space.distributions if group_options(key, loader)]
    left_out = {*settings.may_change, *(bare_key(key) for key in space.distributions if key not in groups)}

    def composed(point: Mapping[str, Any]) -> Values:
        overrides = [*space.fixed, *space.overrides(point)]
        whole = loader.load_sweep_config(config, overrides)
        chosen = {f"{GROUP}{group}": option for group, option in whole.hydra.runtime.choices.items()}
        content = OmegaConf.to_container(whole, resolve=False)
        assert isinstance(content, dict)
        values = flat({str(key): value for key, value in content.items() if key != "hydra"})
        return chosen | {key: _kept(value) for key, value in values.items() if not _is_below(key, left_out)}

    first = {key: _some_value(distribution) for key, distribution in space.distributions.items()}
    base = composed(first)
    options: dict[str, Values] = {}
    for group in groups:
        distribution = space.distributions[group]
        assert isinstance(distribution, CategoricalDistribution)
        for option in distribution.choices[1:]:
            try:
                found = composed({**first, group: option})
            except (HydraException, OmegaConfBaseException):
                continue  # not with the first options of the other groups; a trial that draws it may fail
            options[f"{group}={option}"] = _difference(base, found)
    base |= {f"hydra.sweeper.{name}": _kept(getattr(settings, name)) for name in ("objectives", "folds", "fold_key")}
    base[MAY_CHANGE] = list(settings.may_change)
    base["hydra.sweeper.custom_search_space"] = settings.custom_search_space
    return base, options


def check(study: optuna.Study, space: Space, base: Values, options: Mapping[str, Values]) -> None:
    """Keep in the study what its trials share, or hold it against what is kept there. Raises UserError.

    Trials that failed have no scores that others could be compared with: what they shared may change.
    """
    states = {trial.state for trial in study.get_trials(deepcopy=False)}
    now = {key: distribution_to_json(value) for key, value in space.distributions.items()}
    kept: Mapping[str, Any] = study.user_attrs
    before = kept.get(SPACE, now)
    changes = _space_changes(before, now) if states else []
    if states & set(COUNTING) and CONFIG in kept:
        free = {*base[MAY_CHANGE], *kept[CONFIG][MAY_CHANGE], MAY_CHANGE}
        changes += _changes(kept[CONFIG], base, free | {bare_key(key) for key in {*before, *now}})
        for option, values in kept.get(OPTIONS, {}).items():
            changes += [f"with {option}, {change}" for change in _changes(values, options.get(option, values), free)]
    if changes:
        more = [f"and {len(changes) - SHOWN} more"] if len(changes) > SHOWN else []
        raise UserError(
            f"the study {study.study_name} was begun with another config, so its trials would not compare:\n  "
            + "\n  ".join([*changes[:SHOWN], *more])
            + f"\nGive this sweep a study of its own: hydra.sweeper.study_name={as_text(study.study_name + '-2')}"
        )
    for name, value in ((SPACE, now), (CONFIG, base), (OPTIONS, {**kept.get(OPTIONS, {}), **options})):
        if kept.get(name) != value:
            study.set_user_attr(name, value)


def stamp(loader: ConfigLoader, config: DictConfig) -> dict[str, tuple[int, int]]:
    """Time and size of the config files that a composition may read, by path: equal while nobody has edited one."""
    groups = {str(key).split("@")[0].split("/")[0] for key in config.hydra.runtime.choices}
    found: dict[str, tuple[int, int]] = {}
    for source in loader.get_sources():
        if source.scheme() != "file":
            continue
        folder = Path(source.path)
        for file in [*folder.glob("*.yaml"), *(file for group in groups for file in (folder / group).rglob("*.yaml"))]:
            try:
                status = file.stat()
            except OSError:  # gone in this moment
                continue
            found[str(file)] = (status.st_mtime_ns, status.st_size)
    return found


def _some_value(distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return distribution.low


def _is_below(key: str, keys: set[str]) -> bool:
    parts = key.split(".")
    return any(".".join(parts[: end + 1]) in keys for end in range(len(parts)))


def _kept(value: Any) -> Any:
    """A value as it comes back from the study: as JSON, and without passwords."""
    return json.loads(json.dumps(masked(value) if isinstance(value, str) else value, default=str))


def _difference(base: Values, values: Values) -> Values:
    return {
        key: values.get(key, ABSENT)
        for key in sorted({*base, *values})
        if base.get(key, ABSENT) != values.get(key, ABSENT)
    }


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], free: set[str]) -> list[str]:
    """What differs, but for `free` keys: a group where another option of it was chosen, else the keys one by one."""
    names = [key for key in sorted({*before, *now}) if before.get(key, ABSENT) != now.get(key, ABSENT)]
    groups = [name.removeprefix(GROUP) for name in names if name.startswith(GROUP)]
    packages = {group: group.partition("@")[2] or group.replace("/", ".") for group in groups}
    found: dict[str, str] = {}
    for key in names:
        if key.startswith(GROUP) or _is_below(key, free):
            continue
        # The longest package is that of the innermost group.
        within = [group for group in groups if _is_below(key, {packages[group]})]
        group = max(within, key=lambda name: len(packages[name]), default=None)
        name, stored = (key, key) if group is None else (group, f"{GROUP}{group}")
        found[name] = f"{name}: {_shown(before.get(stored, ABSENT))} then, {_shown(now.get(stored, ABSENT))} now"
    return list(found.values())


def _space_changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    def searched(space: Mapping[str, str], key: str) -> str:
        return describe(optuna.distributions.json_to_distribution(space[key])) if key in space else "not searched"

    return [
        f"{key}: {searched(before, key)} then, {searched(now, key)} now"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]


def _shown(value: Any) -> str:
    text = value if value == ABSENT else as_text(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
