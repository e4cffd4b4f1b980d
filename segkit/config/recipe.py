"""A training config as it was composed: checked once, never changed, and the one way from its nodes to objects."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

from segkit.config import instantiate
from segkit.config.findings import ConfigError
from segkit.config.schema import RootSettings, checked, require_use_of_backbone
from segkit.config.trust import check_trusted
from segkit.contracts import ClassWeightMethod

CALLED_WITH: Mapping[str, tuple[str, ...]] = {
    "dataset": ("split",),
    "split": (),
    "transform": (),
    "model": (),
    "loss": (),
    "optimizer": ("model",),
    "scheduler": ("optimizer", "total_steps", "steps_per_epoch"),
    "predictor": ("model",),
    "tracker": ("run_folder",),
}
"""The nodes of a config, and what each of their objects is made from at run time."""

LABEL_SPACE = ("num_classes", "ignore_index", "multilabel")
"""Parameters that the data set decides, wherever a constructor has them and the config leaves them out."""

FILLED: Mapping[str, tuple[str, ...]] = {
    "transform": LABEL_SPACE,
    "model": (*LABEL_SPACE, "mean", "std"),
    "loss": LABEL_SPACE,
    "metrics": LABEL_SPACE,
}

METHODS: tuple[str, ...] = get_args(ClassWeightMethod)
CLASS_WEIGHTS = "class_weights"
"""Key of losses; a method in its place is replaced with the numbers that are counted on the training split."""


@dataclass(frozen=True)
class Trust:
    """Who wrote a config: a person (`Trust()`), or a file, whose nodes may name few classes.

    Attributes:
        of_file: whether it comes out of a checkpoint.
        modules: prefixes of modules of the user's own whose classes it may name all the same.
    """

    of_file: bool = False
    modules: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Recipe:
    """What an experiment is made of.

    Attributes:
        settings: what the engine itself reads, typed.
        values: the whole config, plain. Not to be changed; `to_dict` gives a copy.
        trust: who wrote it.
    """

    settings: RootSettings
    values: Mapping[str, Any]
    trust: Trust = Trust()

    @classmethod
    def of(cls, config: Any, trust: Trust = Trust()) -> Recipe:
        """The recipe of a composed config, or of a stored one. Raises ConfigError with all that is wrong with it.

        Of a stored config only the nodes that are built are held against their constructors, when they are.
        """
        require_use_of_backbone(config)
        values = instantiate.plain(config)
        recipe = cls(checked(RootSettings, values), values, trust)
        if not trust.of_file:
            recipe.check()
        return recipe

    def check(self) -> None:
        """Hold every node against its constructor. Raises ConfigError with all findings."""
        findings = [
            f"{key}={method}; allowed: a list of numbers, one a class, null, or {', '.join(METHODS)}"
            for key, method in self.class_weight_methods.items()
            if method not in METHODS
        ]
        keys = [*CALLED_WITH, "trainer.strategy", *(f"metrics.{name}.metric" for name in self.settings.metrics)]
        for key in keys:
            try:
                node = without_methods(self.node(key))
                instantiate.check(node, key, CALLED_WITH.get(key, ()), everywhere=self._filled(key))
            except ConfigError as error:
                findings.append(str(error))
        if findings:
            raise ConfigError("\n".join(findings))

    def node(self, key: str) -> dict[str, Any]:
        """A copy of the node `key`, such as `loss` or `metrics.f1.metric`."""
        node: Any = self.values
        for part in key.split("."):
            node = node[part]
        node = copy.deepcopy(node)
        if "mean" in self._filled(key):  # null is no mean
            node = {name: value for name, value in node.items() if name not in ("mean", "std") or value is not None}
        return node

    def build(self, key: str, *, filled: Mapping[str, Any] | None = None, **called_with: Any) -> Any:
        """The object that the node `key` describes.

        Args:
            filled: values for parameters that the node, and nodes in it, leave out; of those in `FILLED`.
            called_with: what the object is made from at run time, as in `CALLED_WITH`.

        Raises ConfigError for a node that does not fit its constructor, or names a class that a file may not name.
        """
        wanted = self._filled(key)
        values = {name: value for name, value in (filled or {}).items() if name in wanted}
        node = instantiate.with_supplied(self.node(key), key, values)
        if self.trust.of_file:
            check_trusted(node, key, self.trust.modules)
        built = instantiate.build(node, key, supplied=tuple(called_with))
        return built(**called_with) if node.get("_partial_") else built

    def replaced(self, changes: Mapping[str, Any]) -> Recipe:
        """Another recipe, with other values at the dotted keys of `changes`."""
        values = self.to_dict()
        for key, value in changes.items():
            set_at(values, key, value)
        return Recipe(checked(RootSettings, values), values, self.trust)

    def to_dict(self) -> dict[str, Any]:
        return copy.deepcopy(dict(self.values))

    @cached_property
    def class_weight_methods(self) -> dict[str, str]:
        """The methods by which losses weigh their classes, by dotted key."""
        found = _class_weights(self.values["loss"], "loss")
        return {key: method for key, method in found if isinstance(method, str)}

    @cached_property
    def class_weight_keys(self) -> list[str]:
        """The dotted keys at which losses are given class weights, as numbers or by a method."""
        return [key for key, weights in _class_weights(self.values["loss"], "loss") if weights is not None]

    @staticmethod
    def _filled(key: str) -> Sequence[str]:
        return FILLED.get(key.partition(".")[0], ())


def set_at(config: Any, key: str, value: Any) -> None:
    """Set the value at a dotted key, whose parts may be indices of lists: `loss.terms.0.weight`, `loss.terms[0]`."""

    def step(node: Any, part: str) -> Any:
        return int(part) if isinstance(node, list) else part

    *parents, last = key.replace("[", ".").replace("]", "").split(".")
    for parent in parents:
        config = config[step(config, parent)]
    config[step(config, last)] = value


def without_methods(node: Any) -> Any:
    """A copy of a config node in which null stands for methods of class weights, as constructors know only numbers."""
    if isinstance(node, Mapping):
        return {
            name: None if name == CLASS_WEIGHTS and isinstance(value, str) else without_methods(value)
            for name, value in node.items()  # pyright: ignore
        }
    return [without_methods(value) for value in node] if isinstance(node, list) else node  # pyright: ignore


def _class_weights(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for name, value in node.items():  # pyright: ignore
            if name == CLASS_WEIGHTS:
                yield f"{key}.{name}", value
            else:
                yield from _class_weights(value, f"{key}.{name}")
    elif isinstance(node, list):
        for index, value in enumerate(node):  # pyright: ignore
            yield from _class_weights(value, f"{key}[{index}]")
