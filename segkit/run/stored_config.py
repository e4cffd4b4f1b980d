"""The config in a checkpoint. It is data: nothing is built of it here."""

from __future__ import annotations

import json
import re
from typing import Any

from segkit.config.renamed import with_current_names
from segkit.run.checkpoint import Content

WHOLE_NUMBER = re.compile(r"0|-?[1-9][0-9]*")


def stored_config(content: Content) -> dict[str, Any]:
    """The config that the run of a checkpoint's content was composed of, every type as it was.

    Version 0.1 kept it as JSON, whose keys are all text: `class_mapping: {255: 1}` came back as `{"255": 1}`. There, a
    mapping whose keys are all whole numbers has them back as numbers. Version 0.1 had no option with such keys as text.
    Classes have their current names.

    Raises KeyError, TypeError, ValueError or RecursionError where there is none.
    """
    config: Any = content["config"]
    if isinstance(config, str):
        config = _with_number_keys(json.loads(config))
    if not isinstance(config, dict):
        raise TypeError(f"its config is a {type(config).__name__}")
    return with_current_names(config)


def _with_number_keys(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_number_keys(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(value, dict):
        return value
    are_numbers = all(WHOLE_NUMBER.fullmatch(key) for key in value)  # pyright: ignore
    return {int(key) if are_numbers else key: _with_number_keys(item) for key, item in value.items()}  # pyright: ignore
