"""What is searched: Hydra's sweep overrides as Optuna distributions, and sampled values as overrides again."""

from __future__ import annotations

import importlib
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    RangeSweep,
)
from hydra.errors import HydraException
from omegaconf import DictConfig
from optuna import Trial
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from segkit.config.overrides import with_null_listed
from segkit.errors import UserError
from segkit.sweep import optuna_internals
from segkit.sweep.values import Choice, as_text, categories

CustomSpace = Callable[[DictConfig, Trial], Any]


@dataclass(frozen=True)
class Space:
    """What a sweep varies, and what it does not.

    Attributes:
        distributions: by the key each one is the value of: a config key or a group.
        fixed: the overrides that every trial shares.
        custom: adds further values to a trial by its own conditions; None: nothing does.
        choices: for categorical keys, what stands for each choice in the study, with the choice itself.
    """

    distributions: Mapping[str, BaseDistribution]
    fixed: tuple[str, ...]
    custom: CustomSpace | None = None
    choices: Mapping[str, Mapping[Any, Choice]] = field(default_factory=dict)

    def overrides(self, params: Mapping[str, Any]) -> list[str]:
        """Sampled values as overrides that give exactly these values."""
        return [f"{key}={self._text(key, value)}" for key, value in params.items()]

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Sampled values as the config has them, lists and dicts as the text they are given by."""
        found = {key: self.choices.get(key, {}).get(value) for key, value in params.items()}
        return {key: params[key] if choice is None else choice.value for key, choice in found.items()}

    def draw(self, config: DictConfig, trial: Trial) -> None:
        """Have `trial` draw all values. Raises UserError where the custom space fails, or sets a fixed key."""
        for key, distribution in self.distributions.items():
            optuna_internals.suggest(trial, key, distribution)
        if self.custom is None:
            return
        fixed = {bare_key(override.get_key_element()): override.input_line for override in _parsed_lines(self.fixed)}
        try:
            self.custom(config, trial)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            raise UserError(
                f"hydra.sweeper.custom_search_space={config.hydra.sweeper.custom_search_space}: "
                f"{type(error).__name__}: {error} ({place.filename}, line {place.lineno})"
            ) from error
        for key in trial.params:
            if bare_key(key) in fixed:
                raise UserError(
                    f"{bare_key(key)}: fixed by {fixed[bare_key(key)]}, and searched by hydra.sweeper."
                    f"custom_search_space={config.hydra.sweeper.custom_search_space}; leave one of the two out"
                )

    def _text(self, key: str, value: Any) -> str:
        choice = self.choices.get(key, {}).get(value)
        return as_text(value) if choice is None else choice.text


def bare_key(key: str) -> str:
    """A key or group without the signs that say it is added or deleted."""
    return key.lstrip("+~")


def group_options(key: str, loader: ConfigLoader) -> list[str]:
    """The options of the config group that `key` chooses from; none if it is no group."""
    return loader.get_group_options(bare_key(key).partition("@")[0])


def read_space(
    arguments: Sequence[str], params: Mapping[str, Any], custom: str | None, loader: ConfigLoader | None
) -> Space:
    """The search space of `params` and of the command line's `arguments`, which win where both name a key.

    Raises UserError when there is nothing to search, or a search that Optuna does not know.
    """
    parser = OverridesParser.create(config_loader=loader)
    distributions: dict[str, BaseDistribution] = {}
    choices: dict[str, dict[Any, Choice]] = {}
    fixed: dict[str, str] = {}
    lines = [
        f"{key}={value if isinstance(value, str) else as_text(value)}"
        for key, value in flat(params).items()
        if value is not None
    ]
    for override in [*_parsed(parser, lines), *_parsed(parser, arguments)]:
        key = override.get_key_element()
        distributions.pop(key, None)
        choices.pop(key, None)
        fixed.pop(key, None)
        if override.is_sweep_override():
            distributions[key], choices[key] = distribution(override)
        else:
            assert override.input_line is not None
            fixed[key] = override.input_line
    if not distributions and custom is None:
        raise UserError(
            "nothing to search: give a key several values, as in loss=choice(combined,focal) or "
            "'optimizer.lr=tag(log,interval(1e-5,1e-2))', or set hydra.sweeper.params"
        )
    return Space(distributions, tuple(fixed.values()), None if custom is None else locate_custom(custom), choices)


def _parsed_lines(lines: Sequence[str]) -> list[Override]:
    return _parsed(OverridesParser.create(), lines)


def _parsed(parser: OverridesParser, lines: Sequence[str]) -> list[Override]:
    parsed: list[Override] = []
    for line in lines:
        try:
            parsed.append(parser.parse_override(with_null_listed(line)))
        except HydraException as error:
            raise UserError(f"{line}: {str(error).strip().splitlines()[0]}") from None
    return parsed


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones: the command line nests what a file writes with dots."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def distribution(override: Override) -> tuple[BaseDistribution, dict[Any, Choice]]:
    """What Optuna samples `override` from, and of a categorical key the choices by what stands for them in the study.

    `choice` is categorical; `range` steps from its start up to, but not including, its stop, as everywhere in
    Hydra; `interval` is continuous with both ends; the tags `log` and `int` make it logarithmic or whole.
    """
    value = override.value()
    try:
        if isinstance(value, RangeSweep) and not value.shuffle:
            return _of_range(value), {}
        if isinstance(value, IntervalSweep):
            return _of_interval(value), {}
        # Not `sweep_iterator` for these: a shuffled order would be another one at the next start.
        if isinstance(value, RangeSweep):
            listed: Iterable[Any] = value.range()
        else:
            listed = value.list if isinstance(value, ChoiceSweep) else override.sweep_iterator()
        choices = categories(listed)
        return CategoricalDistribution(list(choices)), choices
    except (ValueError, TypeError) as error:
        raise UserError(f"{override.input_line}: {error}") from None


def _of_range(sweep: RangeSweep) -> BaseDistribution:
    assert sweep.start is not None
    assert sweep.stop is not None
    count = math.ceil((sweep.stop - sweep.start) / sweep.step - 1e-9)
    if count < 1:
        raise ValueError("the range is empty")
    ends = sorted((sweep.start, sweep.start + (count - 1) * sweep.step))
    step, log = abs(sweep.step), "log" in sweep.tags
    if all(isinstance(number, int) for number in (sweep.start, sweep.stop, sweep.step)):
        return IntDistribution(int(ends[0]), int(ends[1]), log=log, step=int(step))
    return FloatDistribution(float(ends[0]), float(ends[1]), step=float(step), log=log)


def _of_interval(sweep: IntervalSweep) -> BaseDistribution:
    low, high, log = sweep.start, sweep.end, "log" in sweep.tags
    assert low is not None
    assert high is not None
    if "int" in sweep.tags or (isinstance(low, int) and isinstance(high, int)):
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(float(low), float(high), log=log)


def locate_custom(name: str) -> CustomSpace:
    """The function `package.module.function`, looked for in the working directory too. Raises UserError."""
    if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path holds text
        sys.path.append(os.getcwd())  # noqa: PTH109
    module, _, function = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"hydra.sweeper.custom_search_space={name}: {error}; allowed: package.module.function, which takes "
            "(config, trial) and calls trial.suggest_float(key, ...) and its kin"
        ) from None
    return found


def describe(space: BaseDistribution) -> str:
    """A distribution in a few characters, for people."""
    if isinstance(space, CategoricalDistribution):
        return " | ".join(as_text(choice) for choice in space.choices)
    assert isinstance(space, IntDistribution | FloatDistribution)
    kind = ", log" if space.log else ""
    step = f", step {space.step:g}" if space.step not in (None, 1) or isinstance(space.step, float) else ""
    return f"{space.low:g} .. {space.high:g}{kind}{step}"
