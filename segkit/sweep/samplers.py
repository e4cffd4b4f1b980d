"""Samplers whose draws follow from (seed, trial number, what the study holds), so that a resume changes nothing."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, QMCSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from segkit.errors import UserError


class SeededByTrial(BaseSampler):
    """Any sampler, made anew for each trial with a seed of (seed, trial number).

    A sampler with one fixed seed would draw its first values again after a resume, and two processes on one
    study would draw the same ones. What samplers know of the past they read from the study.

    Args:
        make: builds the sampler, given its `seed`.
        seed: 0 or more.
    """

    def __init__(self, make: Callable[..., BaseSampler], seed: int) -> None:
        self._make = make
        self._seed = seed
        self._sampler = make(seed=seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        state = np.random.SeedSequence([self._seed, trial.number]).generate_state(1)
        self._sampler = self._make(seed=int(state[0]))
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._sampler.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self._sampler.reseed_rng()


class Grid(RandomSampler):
    """Every combination once, in order. The sweep queues them in the study before its first trial."""


def grid_points(distributions: Mapping[str, BaseDistribution]) -> list[dict[str, Any]]:
    """All combinations of the values, the last key changing fastest. Raises UserError for continuous ones."""
    values = {key: _values(key, distribution) for key, distribution in distributions.items()}
    return [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]


def _values(key: str, distribution: BaseDistribution) -> Sequence[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution):
        return range(distribution.low, distribution.high + 1, distribution.step)
    assert isinstance(distribution, FloatDistribution)
    if distribution.step is None:
        raise UserError(f"{key}: a grid needs single values; give choice(...) or range(start,stop,step)")
    count = round((distribution.high - distribution.low) / distribution.step)
    return [distribution.low + index * distribution.step for index in range(count + 1)]


def seeded(make: functools.partial[BaseSampler], seed: int | None) -> BaseSampler:
    """The sampler that `make` builds, drawing anew for each trial where a seed is given."""
    if seed is None:
        return make()
    # One quasi-random sequence has one seed; which of its points is next, the study says.
    return make(seed=seed) if make.func is QMCSampler else SeededByTrial(make, seed)
