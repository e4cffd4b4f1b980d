"""Keys and values are held against constructors before anything is built; stored configs cannot name code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pytest

from segkit.config import instantiate
from segkit.config.findings import ConfigError
from segkit.config.schema import RootSettings, checked
from segkit.config.trust import check_trusted
from segkit.contracts import UserError

HERE = __name__


class Part:
    def __init__(self, size: int, *, kind: Literal["a", "b"] = "a", rates: Sequence[float] | None = None):
        if size > 100:
            raise UserError(f"part.size={size}; allowed: up to 100")
        self.size, self.kind, self.rates = size, kind, rates


class Whole:
    def __init__(self, part: Part, *, name: str = "x"):
        self.part, self.name = part, name


def node(target: str, **keys: Any) -> dict[str, Any]:
    return {"_target_": f"{HERE}.{target}", **keys}


def findings(config: Any, key: str = "whole") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        instantiate.check(config, key)
    return str(caught.value).splitlines()


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, HERE, sys.modules[__name__])


def test_a_nested_config_becomes_objects():
    built = instantiate.build(node("Whole", part=node("Part", size=3, rates=[1, 2.5])), "whole")
    assert isinstance(built, Whole)
    assert (built.part.size, built.part.rates) == (3, [1, 2.5])


def test_an_unknown_key_names_its_neighbour_and_all_that_are_allowed():
    (line,) = findings(node("Whole", part=node("Part", sise=3, size=3)))
    assert line.startswith("whole.part.sise: nothing reads this key. Did you mean whole.part.size?")
    assert "Allowed here: kind, rates, size" in line


def test_every_finding_is_told_at_once():
    lines = findings(node("Whole", part=node("Part", size="many", kind="c", rates=[1, "x"]), nam="y"))
    assert any(line.startswith("whole.part.size: ") and "'many'" in line for line in lines)
    assert any(line.startswith("whole.part.kind: ") and "'a' or 'b'" in line for line in lines)
    assert any(line.startswith("whole.part.rates") and "'x'" in line for line in lines)
    assert any(line.startswith("whole.nam: ") for line in lines)


def test_a_missing_key_is_told_unless_it_is_supplied_later():
    assert findings(node("Part"), "part") == ["part.size: missing; give it a value"]
    instantiate.check(node("Part"), "part", supplied=["size"])
    make = instantiate.build(node("Part", _partial_=True, kind="b"), "part")
    assert make(size=1).kind == "b"


def test_a_constructors_own_complaint_comes_out_as_it_is():
    with pytest.raises(UserError, match=r"^part\.size=101; allowed: up to 100$"):
        instantiate.build(node("Whole", part=node("Part", size=101)), "whole")


@pytest.mark.parametrize(
    "target", ["segkit.nothing.Here", "no_such_package.Thing", "segkit.data.datasets.shapes.Shape"]
)
def test_a_target_that_does_not_exist_is_named(target: str):
    assert findings({"_target_": target}, "dataset") == [f"dataset._target_={target}: no such class or function"]


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "torch.load",
        "torch.hub.load",
        "segkit.experiment.inference.load_trained_model",
        "segkit.data.datasets.folder.os.system",
        "segkit.data.loader.signal.signal",
        "segkit.models.backbones.timm_backbone.timm.create_model",
        "albumentations.load",
        "torchmetrics.utilities.imports.importlib.import_module",
    ],
)
def test_a_stored_config_may_only_name_classes_of_allowed_modules(target: str):
    with pytest.raises(ConfigError, match=r"not allowed|no such class"):
        check_trusted({"steps": [{"_target_": target}]}, "transform")


def test_a_stored_config_may_name_segkits_own_classes_and_those_that_are_trusted():
    check_trusted({"_target_": "segkit.losses.dice.DiceLoss"}, "loss")
    with pytest.raises(ConfigError, match="trust="):
        check_trusted(node("Part", size=1), "part")
    check_trusted(node("Part", size=1), "part", trust=[HERE.split(".")[0] + "."])


def test_a_stored_config_may_hold_no_interpolation():
    with pytest.raises(ConfigError, match=r"dataset\.root.*interpolation"):
        check_trusted({"root": "${oc.env:HOME}"}, "dataset")


def test_the_root_names_every_key_at_fault():
    with pytest.raises(ConfigError) as caught:
        checked(RootSettings, {"seed": -1, "sed": 3})
    text = str(caught.value)
    assert "seed: should be greater than or equal to 0 (found -1)" in text
    assert "sed: nothing reads this key. Did you mean seed?" in text
    assert "trainer: missing" in text
