"""Overrides as Hydra's grammar reads them."""

from __future__ import annotations

import re

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException

CHOICE = re.compile(r"([^=]+=)\s*choice\s*\((.*)\)\s*", re.DOTALL)


def parsed(override: str) -> Override | None:
    """What Hydra reads in `override`; None if it is against the grammar."""
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def with_null_listed(override: str) -> str:
    """`key=choice(null,1.0)` as `key=null,1.0`, which is the same choice; any other override as it is.

    Of all values, null alone is one that Hydra refuses in choice(...), and takes in a list.
    """
    choice = CHOICE.fullmatch(override)
    if choice is None or parsed(override) is not None:
        return override
    listed = choice[1] + choice[2]
    read = parsed(listed)
    if read is None:
        return override
    value = read.value()
    holds_null = value is None or (isinstance(value, ChoiceSweep) and any(each is None for each in value.list))
    return listed if holds_null else override


def quoted(text: str) -> str:
    """`text` as one quoted value of Hydra's override grammar."""
    # A run of backslashes only counts as escapes in front of a quote.
    escaped = re.sub(r"(\\*)(')", lambda match: match.group(1) * 2 + "\\'", text)
    escaped = re.sub(r"(\\+)$", lambda match: match.group(1) * 2, escaped)
    return f"'{escaped}'"
