"""The command line as Hydra reads it, made of what people type."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from segkit.config.overrides import parsed, quoted, with_null_listed

WITH_VALUE = frozenset(
    "--config-path -cp --config-name -cn --config-dir -cd --package -p --cfg -c --experimental-rerun".split()
)
"""Options of Hydra that are followed by a value of theirs."""

INFO = ("--info", "-i")
"""The option whose value may be left out: anything but an override."""

HOME = re.compile(r"""(?:(?<=[=,\[("'])|(?<=///))~(?=/)""")
"""Where a path begins that the shell leaves alone, as it expands ~ at the start of a word only."""


def arranged(arguments: Sequence[str]) -> list[str]:
    """`arguments` with the options first, then the overrides, each of them as `readable` makes it.

    Hydra itself refuses an override after an option after an override.
    """
    options: list[str] = []
    overrides: list[str] = []
    previous = ""
    for argument in arguments:
        is_value = previous in WITH_VALUE or (previous in INFO and "=" not in argument)
        if is_value or argument.startswith("-"):
            options.append(argument)
        else:
            if previous in INFO:
                options.append("all")
            overrides.append(readable(argument))
        previous = argument
    return [*options, *overrides]


def readable(override: str) -> str:
    """`override` with ~/ expanded, no null in choice(...), and plain text quoted that the grammar has no reading of.

    Names of folders may hold =, #, umlauts and much else. What looks like a list, a function or several values is
    left as it is: quoted, it would lose its meaning without a word.
    """
    key, separator, value = override.partition("=")
    if not separator:
        return override
    value = HOME.sub(lambda _: str(Path.home()), f"={value}")[1:]
    if parsed(f"{key}={value}") is None and parsed(f"{key}=x") is not None and not re.search(r"[,'\"\\]|\$\{", value):
        looks_meant = re.match(r"\s*[\[{]|\s*\w+\(", value)
        if not looks_meant:
            value = quoted(value)
    return with_null_listed(f"{key}={value}")
