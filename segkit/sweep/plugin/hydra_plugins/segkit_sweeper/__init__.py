"""Where Hydra 1.3 finds segkit's sweeper: it only takes plugins from a `hydra_plugins` namespace package.

Hydra executes this file at every start, also for `--help`, so everything else is imported when a sweep begins.
"""

from __future__ import annotations

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SegkitSweeper(Sweeper):
    """`hydra/sweeper=segkit`; its keys are those of `segkit.sweep.settings.SweepSettings`."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._given = (config, hydra_context, task_function)

    def sweep(self, arguments: list[str]) -> Any:
        from segkit.sweep.sweeper import sweep

        return sweep(*self._given, arguments)
