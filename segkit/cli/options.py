"""The config groups as files: which options there are, and which options choose from which groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from segkit.config.overrides import parsed


@dataclass(frozen=True)
class Options:
    """The options in the folder `conf` and in the user's `own` folders."""

    conf: Path
    own: tuple[Path, ...] = ()

    @classmethod
    def of(cls, conf: Path, arguments: Sequence[str]) -> Options:
        """With the folder that `arguments` add by --config-dir."""
        own: list[Path] = []
        for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
            name, separator, value = argument.partition("=")
            if name in ("--config-dir", "-cd"):
                own.append(Path(value if separator else following))
        return cls(conf, tuple(path for path in own if path.is_dir()))

    def files(self) -> Iterator[Path]:
        """Every config file, the user's own first."""
        for folder in (*self.own, self.conf):
            yield from sorted(folder.rglob("*.yaml"))

    def names(self, group: str) -> list[str]:
        """The options of `group`; none if there is no such group."""
        found = {file.stem for folder in (self.conf, *self.own) for file in (folder / group).glob("*.yaml")}
        return sorted(found) if group and ".." not in group else []

    def groups(self) -> list[str]:
        """Every folder with options."""
        found = {file.parent.relative_to(folder).as_posix() for folder in (self.conf, *self.own)
                 for file in folder.glob("*/**/*.yaml")}  # fmt: skip
        return sorted(found)

    def file(self, group: str, name: str) -> Path | None:
        places = (folder / group / f"{name}.yaml" for folder in (*self.own, self.conf))
        return next((file for file in places if file.is_file()), None)

    def mixed(self, overrides: Sequence[str]) -> str | None:
        """A finding about a choice of several options that each make an object: only their keys would be merged."""
        for override in overrides:
            read = parsed(override)
            value = None if read is None or read.is_sweep_override() else read.value()
            if read is None or not isinstance(value, list) or len(value) < 2:
                continue
            group = str(read.key_or_group)
            objects = [str(name) for name in value if self._makes_object(group, str(name))]
            if len(objects) > 1:
                return (
                    f"{override}: {' and '.join(objects)} are alternatives, of which a run has one; "
                    f"choose {group}={objects[0]}, or one run each with -m {group}={','.join(objects)}"
                )
        return None

    def takers(self, group: str) -> dict[str, list[str]]:
        """The options that choose from `group` in their defaults list, by the group that they belong to."""
        found: dict[str, list[str]] = {}
        for folder in (*self.own, self.conf):
            for file in sorted(folder.glob("*/**/*.yaml")):
                taker = file.parent.relative_to(folder).as_posix()
                if group in self._groups_in(taker, file.stem):
                    found.setdefault(taker, []).append(file.stem)
        return found

    def _makes_object(self, group: str, name: str) -> bool:
        return any("_target_" in content for content in self._with_bases(group, name))

    def _groups_in(self, group: str, name: str) -> set[str]:
        groups: set[str] = set()
        for content in self._with_bases(group, name):
            for item in content.get("defaults") or []:
                if isinstance(item, dict):
                    *keywords, key = str(next(iter(item))).partition("@")[0].split(" ")
                    if "override" not in keywords:
                        groups.add(key[1:] if key.startswith("/") else f"{group}/{key}")
        return groups

    def _with_bases(self, group: str, name: str) -> list[dict[str, Any]]:
        """The content of an option, and of the options of its group that it starts from."""
        names, contents = [name], []
        for each in names:
            content = _content(self.file(group, each))
            contents.append(content)
            listed = content.get("defaults")
            for item in listed if isinstance(listed, list) else []:
                if isinstance(item, str) and item[:1] not in "_/" and item not in names:
                    names.append(item)
        return contents


def _content(file: Path | None) -> dict[str, Any]:
    """The content of a config file; nothing if it cannot be read, which Hydra says better."""
    if file is None:
        return {}
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def as_name(entry: Any) -> str:
    """What an entry of a list is called in a message: its class, if it has one."""
    target = entry.get("_target_") if hasattr(entry, "get") else None
    return str(target).rpartition(".")[2] if target else str(entry)[:30]
