"""A trial's composed config, written so that Hydra composes it again whatever has become of the files it was made of.

Every group that was chosen from becomes an option file that holds what the trial had there, and an experiment file
chooses all of them. So further overrides, of keys and of groups, work as with any experiment.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.default_element import DefaultsTreeNode, GroupDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

NOT_OF_THE_CONFIG = ("hydra", "experiment")
"""Groups that are no part of a trial's config, or are replaced by the experiment that is written."""

Container = dict[Any, Any]


@dataclass(frozen=True)
class TrialConfig:
    """What Hydra left in the folder of a trial.

    Attributes:
        values: the composed config, interpolations as they are written.
        choices: the option that was chosen of each group, by the key that overrides it; None: none.
        overrides: of the task.
    """

    values: Container
    choices: Mapping[str, Any]
    overrides: Sequence[str]


def read(folder: Path) -> TrialConfig | None:
    """What was left of the composed config of the run in `folder`; None where that is not to be had."""
    try:
        values = OmegaConf.load(folder / ".hydra" / "config.yaml")
        hydra: Any = OmegaConf.load(folder / ".hydra" / "hydra.yaml")
        choices = dict(hydra.hydra.runtime.choices)
        overrides = unresolved(hydra.hydra.overrides.task)
    except (OSError, OmegaConfBaseException, ValueError):
        return None
    return TrialConfig(_container(values), choices, overrides)


def without(config: TrialConfig, overrides: Sequence[str], base: DictConfig) -> TrialConfig:
    """The config with what `overrides` set put back to what it is in `base`, as if they had not been given."""
    values, before = copy.deepcopy(config.values), _container(base)
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        *parents, name = override.key_or_group.split(".")
        node, was = _at(values, parents), _at(before, parents)
        if isinstance(node, dict):
            node.pop(name, None)
            if isinstance(was, dict) and name in was:
                node[name] = was[name]
    return TrialConfig(values, config.choices, [line for line in config.overrides if line not in overrides])


def write(
    conf: Path, name: str, config: TrialConfig, *, label: str, title: str, loader: ConfigLoader, master: DictConfig
) -> list[Path]:
    """Write `conf`/experiment/`name`.yaml and the options it chooses, which are called `label`/...; all files.

    `title` is for people; `master` is the composed config of the sweep.
    """
    config_name = master.hydra.job.config_name
    given = unresolved(master.hydra.overrides.hydra)
    plain = _groups(loader, config_name, given)
    try:
        full = {group.key: group for group in _groups(loader, config_name, [*given, *config.overrides])}
    except (HydraException, OmegaConfBaseException, ValueError):
        full = {}  # files of then are gone; each group is written whole, with no groups inside
    files = _Options(conf, label, copy.deepcopy(config.values))
    chosen: list[Any] = []
    for group in plain:
        if group.group.split("/")[0] in NOT_OF_THE_CONFIG:
            continue
        option = config.choices.get(group.key)
        found = full.get(group.key, group)
        if found.option != option:
            found = Group(group.group, group.package, group.key, option)
        written = files.write(found)
        if written is not None or group.option is not None:
            chosen.append({f"override /{group.key}": written})
    rest = files.rest
    blank = {key: None for key, value in rest.items() if isinstance(value, dict)}
    defaults: list[Any] = ["_self_", *chosen]
    if blank:
        # Dicts are merged key by key: without this, keys that are new in today's primary config would join in.
        files.add(conf / "experiment" / label / "blank.yaml", "# @package _global_\n" + OmegaConf.to_yaml(blank))
        defaults.insert(0, f"{label}/blank")
    head = f"# @package _global_\n# {' '.join(title.split())}\n"
    files.add(conf / "experiment" / f"{name}.yaml", head + OmegaConf.to_yaml({"defaults": defaults, **rest}))
    return files.written


@dataclass(frozen=True)
class Group:
    """A group in a defaults list.

    Attributes:
        group: `loss`, `model/head`.
        package: where its option goes in the config, with dots.
        key: what overrides it on the command line.
        option: the one that is chosen; None: none.
        members: the groups in the defaults list of that option.
    """

    group: str
    package: str
    key: str
    option: Any
    members: tuple[Group, ...] = ()


@dataclass
class _Options:
    """Writes options and takes what they hold out of `rest`."""

    conf: Path
    label: str
    rest: Container
    written: list[Path] = field(default_factory=list)

    def add(self, path: Path, text: str) -> None:
        """Write a file in one piece: another process of the same sweep may be reading it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
        self.written.append(path)

    def write(self, group: Group) -> str | None:
        """Write the option of a group, and those within; its name, None where the config holds nothing there."""
        *parents, name = group.package.split(".")
        if group.option is None or not isinstance(_at(self.rest, [*parents, name]), dict):
            return None
        inside = [{f"/{each.group}@_global_.{each.package}": self.write(each)} for each in group.members]
        node = _at(self.rest, parents).pop(name)
        path = self._path(group)
        # `_self_` first: it says `null` where a group has no option, which must not undo one chosen later.
        content = {"defaults": ["_self_", *inside], **node} if inside else node
        self.add(path, OmegaConf.to_yaml(content))
        return f"{self.label}/{path.stem}"

    def _path(self, group: Group) -> Path:
        option = re.sub(r"[^\w.-]+", "_", str(group.option).rpartition("/")[2])
        folder = self.conf / group.group / self.label
        names = (option, *(f"{option}_{number}" for number in range(2, 1000)))
        return next(path for name in names if (path := folder / f"{name}.yaml") not in self.written)


def _groups(loader: ConfigLoader, config_name: str | None, overrides: Sequence[str]) -> list[Group]:
    """The groups in the primary config's defaults list, with those inside them."""
    tree = loader.compute_defaults_list(config_name, list(overrides), RunMode.RUN).defaults_tree
    primary = next(child for child in tree.children or [] if isinstance(child, DefaultsTreeNode) and child.node.primary)
    return list(_inside(primary))


def _inside(node: DefaultsTreeNode) -> Iterator[Group]:
    for child in node.children or []:
        is_tree = isinstance(child, DefaultsTreeNode)
        default = child.node if is_tree else child
        inside = _inside(child) if is_tree else iter(())
        if not isinstance(default, GroupDefault):  # a file of the same group that this one builds on
            yield from inside
        elif not default.is_external_append() and not default.is_deleted():
            package, key = default.get_final_package(), default.get_override_key()
            yield Group(default.get_group_path(), package, key, default.get_name(), tuple(inside))


def unresolved(overrides: Any) -> list[str]:
    """A list of overrides in a `hydra` node as they were given, interpolations and all."""
    found = OmegaConf.to_container(overrides, resolve=False)
    assert isinstance(found, list)
    return [str(line) for line in found]


def _at(values: Any, path: Sequence[str]) -> Any:
    for name in path:
        if not isinstance(values, dict) or name not in values:
            return None
        values = values[name]
    return values


def _container(config: Any) -> Container:
    values = OmegaConf.to_container(config, resolve=False)
    assert isinstance(values, dict)
    return {key: value for key, value in values.items() if key != "hydra"}
