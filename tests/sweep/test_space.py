from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from optuna import Trial
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from segkit.errors import UserError
from segkit.sweep.space import as_overrides, describe, quoted, read_space


def searched(*arguments: str, **params: object):
    return read_space(arguments, params, None, None).distributions


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("x=a,b", CategoricalDistribution(["a", "b"])),
        ("x=choice(1,2.5,true)", CategoricalDistribution([1, 2.5, True])),
        ("x=choice([64,64],[128,128])", CategoricalDistribution(["[64,64]", "[128,128]"])),
        ("x=range(1,5)", IntDistribution(1, 4)),
        ("x=range(0,10,step=4)", IntDistribution(0, 8, step=4)),
        ("x=range(10,0,step=-4)", IntDistribution(2, 10, step=4)),
        ("x=range(0,1,0.25)", FloatDistribution(0, 0.75, step=0.25)),
        ("x=interval(0,1)", FloatDistribution(0, 1)),
        ("x=tag(log,interval(1e-5,1e-2))", FloatDistribution(1e-5, 1e-2, log=True)),
        ("x=int(interval(1,8))", IntDistribution(1, 8)),
        ("x=tag(int,log,interval(1,64))", IntDistribution(1, 64, log=True)),
    ],
)
def test_what_hydra_sweeps_over_is_what_optuna_samples_from(override: str, expected: object):
    assert searched(override) == {"x": expected}


def test_the_command_line_wins_over_the_file_and_null_takes_a_key_out():
    space = read_space(
        ["loss=focal", "optimizer.lr=choice(1,2)"],
        {"loss": "choice(ce,dice)", "optimizer.lr": "interval(0,1)", "seed": None, "model": {"head": "choice(a,b)"}},
        None,
        None,
    )
    assert space.fixed == ("loss=focal",)
    assert space.distributions == {
        "optimizer.lr": CategoricalDistribution([1, 2]),
        "model.head": CategoricalDistribution(["a", "b"]),
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("x=1", "nothing to search"),
        ("x=choice(1,1)", "given twice"),
        ("x=range(3,1)", "empty"),
        ("x=tag(log,interval(0,1))", "x=tag"),
        ("x=choice(", "x=choice"),
    ],
)
def test_what_cannot_be_searched_is_named(override: str, message: str):
    with pytest.raises(UserError, match=message):
        searched(override)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\n\r", exclude_categories=("Cc", "Cs")), max_size=20))
def test_quoted_text_comes_back_as_it_was(text: str):
    override = OverridesParser.create().parse_override(f"key={quoted(text)}")
    value = override.value()
    assert (value if isinstance(value, str) else value.text) == text  # type: ignore[union-attr]


@given(st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.none()))
def test_sampled_numbers_come_back_to_the_last_bit(value: object):
    (line,) = as_overrides({"key": value})
    found = OverridesParser.create().parse_override(line).value()
    assert found == value
    assert type(found) is type(value)


def test_a_choice_comes_back_as_it_was_written():
    (distribution,) = searched("x=choice('a b',[1,2],'it\\'s',true)").values()
    assert isinstance(distribution, CategoricalDistribution)
    values = [OverridesParser.create().parse_override(as_overrides({"x": c})[0]) for c in distribution.choices]
    assert [str(v.value()) for v in values[:2]] == ["a b", "[1, 2]"]
    assert values[3].value() is True


def custom(config: object, trial: Trial) -> None:
    trial.suggest_float("y", 0, 1)


def test_a_custom_space_is_found_by_name_or_refused():
    assert read_space([], {}, "tests.sweep.test_space.custom", None).custom is not None
    with pytest.raises(UserError, match=r"custom_search_space=nowhere\.f"):
        read_space([], {}, "nowhere.f", None)


def test_descriptions():
    described = {
        key: describe(value)
        for key, value in searched("a=x,y", "b=tag(log,interval(1e-4,1))", "c=range(0,9,3)").items()
    }
    assert described == {"a": "x | y", "b": "0.0001 .. 1, log", "c": "0 .. 6, step 3"}
