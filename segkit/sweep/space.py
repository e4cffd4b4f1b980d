"""What is searched: Hydra's sweep overrides as Optuna distributions, and sampled values as overrides again."""

from __future__ import annotations

import importlib
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    RangeSweep,
    Transformer,
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

from segkit.errors import UserError

CustomSpace = Callable[[DictConfig, Trial], Any]


@dataclass(frozen=True)
class Space:
    """What a sweep varies, and what it does not.

    Attributes:
        distributions: by the key each one is the value of: a config key or a group.
        fixed: the overrides that every trial shares.
        custom: adds further values to a trial by its own conditions; None: nothing does.
    """

    distributions: Mapping[str, BaseDistribution]
    fixed: tuple[str, ...]
    custom: CustomSpace | None = None


def read_space(
    arguments: Sequence[str], params: Mapping[str, Any], custom: str | None, loader: ConfigLoader | None
) -> Space:
    """The search space of `params` and of the command line's `arguments`, which win where both name a key.

    Raises UserError when there is nothing to search, or a search that Optuna does not know.
    """
    parser = OverridesParser.create(config_loader=loader)
    distributions: dict[str, BaseDistribution] = {}
    fixed: dict[str, str] = {}
    lines = [f"{key}={value}" for key, value in flat(params).items() if value is not None]
    for override in [*_parsed(parser, lines), *_parsed(parser, arguments)]:
        key = override.get_key_element()
        distributions.pop(key, None)
        fixed.pop(key, None)
        if override.is_sweep_override():
            distributions[key] = distribution(override)
        else:
            assert override.input_line is not None
            fixed[key] = override.input_line
    if not distributions and custom is None:
        raise UserError(
            "nothing to search: give a key several values, as in loss=choice(combined,focal) or "
            "'optimizer.lr=tag(log,interval(1e-5,1e-2))', or set hydra.sweeper.params"
        )
    return Space(distributions, tuple(fixed.values()), None if custom is None else locate_custom(custom))


def _parsed(parser: OverridesParser, lines: Sequence[str]) -> list[Override]:
    parsed: list[Override] = []
    for line in lines:
        try:
            parsed.append(parser.parse_override(line))
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


def distribution(override: Override) -> BaseDistribution:
    """What Optuna samples `override` from.

    `choice` is categorical; `range` steps from its start up to, but not including, its stop, as everywhere in
    Hydra; `interval` is continuous with both ends; the tags `log` and `int` make it logarithmic or whole.
    """
    value = override.value()
    try:
        if isinstance(value, RangeSweep) and not value.shuffle:
            return _of_range(value)
        if isinstance(value, IntervalSweep):
            return _of_interval(value)
        choices: list[Any] = list(override.sweep_iterator(transformer=Transformer.encode))
        if isinstance(value, ChoiceSweep) and len(set(map(repr, choices))) < len(choices):
            raise ValueError("a value is given twice")
        return CategoricalDistribution(choices)
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


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """Sampled values as overrides that give exactly these values."""
    return [f"{key}={_text(value)}" for key, value in values.items()]


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value)
    if isinstance(value, str):
        try:  # choices read from overrides are written as there, quotes included
            OverridesParser.create().parse_override(f"key={text}")
        except HydraException:
            return quoted(text)
    return text


def quoted(text: str) -> str:
    """`text` as one quoted value of Hydra's override grammar."""
    # A run of backslashes only counts as escapes in front of a quote.
    escaped = re.sub(r"(\\*)(')", lambda match: match.group(1) * 2 + "\\'", text)
    escaped = re.sub(r"(\\+)$", lambda match: match.group(1) * 2, escaped)
    return f"'{escaped}'"


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
        return " | ".join(str(choice) for choice in space.choices)
    assert isinstance(space, IntDistribution | FloatDistribution)
    kind = ", log" if space.log else ""
    step = f", step {space.step:g}" if space.step not in (None, 1) or isinstance(space.step, float) else ""
    return f"{space.low:g} .. {space.high:g}{kind}{step}"
