"""Names of runs, and MLflow's rules for keys and values, so that no config and no class name can make a call fail."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from segkit.errors import printable

MAX_KEY = 250
MAX_PARAM_VALUE = 6000
MAX_TAG_VALUE = 5000
"""Characters. MLflow 3 takes longer tags, servers before it do not."""


MAX_NAME = 100
MAX_SHOWN_VALUE = 24
SHOWN_GROUPS = ("model", "backbone", "loss", "dataset")
VARIED = ("seed", "split", "optimizer", "scheduler", "loss", "model", "backbone", "transform")
"""What runs of one project differ in most often."""

NOT_SHOWN = re.compile(
    r"(name|resume|sweep|tracker|paths|trainer\.(progress|num_workers|num_threads|data_timeout_s))\b"
)
"""Overrides that change nothing of what a run computes."""


def run_name(choices: Mapping[str, str], overrides: Iterable[str], keys: Iterable[str]) -> str:
    """What was set on the command line, then model, backbone, loss and data set: `seed=1 lr=0.01 fcn resnet18 ...`.

    What runs differ in stands first, as lists of runs cut names off. The same overrides in another order give the
    same name. Of at most MAX_NAME characters: of a longer one, a digest stands for the rest.

    Args:
        choices: the option of each config group.
        overrides: of the command line, without Hydra's own.
        keys: all dotted keys of the config, to tell how much of a key has to be shown.
    """
    known = list(keys)
    shown = [_shown(override, known) for override in sorted(overrides, key=_place)]
    # A sweep's best config chooses options of its own: trial_14/ce.
    options = [str(choices[group]).rpartition("/")[2] for group in SHOWN_GROUPS if choices.get(group)]
    name = " ".join([*(text for text in shown if text), *options])
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"{name[: MAX_NAME - 8]}… {digest}"


def _place(override: str) -> tuple[int, str]:
    text = override.lstrip("+~")
    group = re.split(r"[./@=]", text)[0]
    return VARIED.index(group) if group in VARIED else len(VARIED), text


def _shown(override: str, keys: Sequence[str]) -> str:
    key, _, value = override.lstrip("+").partition("=")
    key = key.rpartition("@")[2]  # of group@package=option the place counts
    if key in SHOWN_GROUPS or NOT_SHOWN.match(key):
        return ""
    parts = key.split(".")
    for length in range(1, len(parts)):
        tail = ".".join(parts[-length:])
        if sum(other == tail or other.endswith(f".{tail}") for other in keys) == 1:
            key = tail
            break
    return f"{key}={_shown_value(value)}" if value else key


def _shown_value(value: str) -> str:
    text = value.strip("'\"")
    try:
        if "." in text or "e" in text.lower():
            text = f"{float(text):.4g}"
    except ValueError:
        pass
    text = re.sub(r"\s+", "", text)
    # Of paths, the end tells them apart.
    return text if len(text) <= MAX_SHOWN_VALUE else f"…{text[1 - MAX_SHOWN_VALUE :]}"


def sanitised(keys: Iterable[str]) -> dict[str, str]:
    """Each key with the name MLflow accepts for it: `a[0]=b` becomes `a_0__b`; names stay distinct."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for key in keys:
        name = base = _sanitised(key)
        number = 2
        while name in taken:
            suffix = f"_{number}"
            name = base[: MAX_KEY - len(suffix)] + suffix
            number += 1
        taken.add(name)
        names[key] = name
    return names


def _sanitised(key: str) -> str:
    name = re.sub(r"[^\w.\- /]", "_", key)[:MAX_KEY]
    # MLflow reads names as paths and refuses those that are not in their shortest form.
    return "/".join("_" if part in ("", ".", "..") else part for part in name.split("/"))[:MAX_KEY]


def shortened(value: Any, limit: int) -> str:
    """`value` as text of at most `limit` characters, marked where it was cut."""
    text = str(value)
    mark = " ... (cut; whole in config/params.json)"
    return text if len(text) <= limit else text[: limit - len(mark)] + mark


def as_params(params: Mapping[str, Any]) -> dict[str, str]:
    """A flattened config as MLflow params."""
    names = sanitised(params)
    return {names[key]: shortened(value, MAX_PARAM_VALUE) for key, value in params.items()}


def as_tags(tags: Mapping[str, str]) -> dict[str, str]:
    names = sanitised(tags)
    return {names[key]: shortened(value, MAX_TAG_VALUE) for key, value in tags.items()}


def as_drawn(text: str) -> str:
    """A name from data as matplotlib has to be given it: between two dollars it would read a formula."""
    return printable(text).replace("$", r"\$")
