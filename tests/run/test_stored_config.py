"""What a checkpoint keeps of the config comes back with its types, and what version 0.1 kept has them back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from segkit.run import checkpoint
from segkit.run.stored_config import stored_config

OF_EVERY_TYPE = {
    "keys": {0: "a", -3: "b", True: "c", None: "d", 0.5: "e", "0": "f", "": "g"},
    "floats": [1.0, -0.0, 1e-05, 5e-324, float("inf"), float("-inf"), float("nan")],
    "integers": [0, 2**31, -(2**63), 10**40],
    "texts": ["", "null", "1e-3", "0123", "yes", "\u5730\u56f3", "\U0001f600", "a\nb\0", "caf\udce9", "${x}"],
    "empty": [{}, [], ()],
    "nested": ([(1, [2, {3: (4,)}])],),
    "bytes": b"\x00\xff",
    "truth": [True, False, None],
}


def test_every_type_comes_back(tmp_path: Path):
    checkpoint.write_flushed({"config": OF_EVERY_TYPE}, tmp_path / "last.pt")
    found = stored_config(checkpoint.read(tmp_path / "last.pt"))
    assert repr(found) == repr(OF_EVERY_TYPE)  # tells 1 from 1.0 and from True, -0.0 from 0.0, tuples from lists


@pytest.mark.parametrize(
    "config",
    [
        {"dataset": {"class_mapping": {0: 0, 128: 255, 255: 1}}},
        {"dataset": {"class_mapping": {-1: 255, 7: 0}}},  # Cityscapes'
        {"steps": [{"table": {1: 2}}], "nothing": {}},
        {"optimizer": {"lr": float("inf")}, "size": [1, 2]},
    ],
)
def test_what_version_0_1_kept_as_json_has_its_keys_back(config: dict[str, Any]):
    assert stored_config({"config": json.dumps(config)}) == config


def test_keys_that_are_not_all_numbers_stay_text():
    config = {"metrics": {"1": {}, "f1": {}}, "names": {"007": 1, "1.5": 2, "\u0661": 3}}
    assert stored_config({"config": json.dumps(config)}) == config
