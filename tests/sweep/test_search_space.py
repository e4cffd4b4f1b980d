from __future__ import annotations

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from optuna import Trial
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from segkit.config.overrides import quoted, with_null_listed
from segkit.errors import UserError
from segkit.sweep.search_space import Space, describe, read_space
from segkit.sweep.values import as_text, categories


def searched(*arguments: str, **params: object):
    return read_space(arguments, params, None, None).distributions


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("x=a,b", CategoricalDistribution(["a", "b"])),
        ("x=choice(1,2.5,true)", CategoricalDistribution(["1", "2.5", "true"])),
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


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\n\r", exclude_categories=("Cc", "Cs")), max_size=12)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(0, 1),
    st.floats(),
    st.sampled_from([0.0, -0.0, 1.0]),
    TEXT,
    st.sampled_from(
        ["null", "true", "1", "1.0", "nan", "a,b", "it's", "a=b", "{x}", "[1]", " a ", "", "~", "choice(1)"]
    ),
)


def as_argument(value: object) -> str:
    return quoted(value) if isinstance(value, str) else as_text(value)


def is_the_same(found: object, value: object) -> bool:
    return type(found) is type(value) and repr(found) == repr(value)


@given(st.lists(SCALARS, min_size=1, max_size=6, unique_by=lambda value: (type(value), repr(value))))
def test_any_choice_comes_back_through_study_and_command_line_with_type_and_text(values: list[object]):
    """Through Hydra's parser, Optuna's storage, the override of a trial and the composed config."""
    assume(values != [None])  # which is no choice
    line = with_null_listed(f"key=choice({','.join(map(as_argument, values))})")
    given_ = OverridesParser.create().parse_override(line)
    choices = categories(given_.value().list)  # type: ignore[union-attr]
    space = Space({"key": CategoricalDistribution(list(choices))}, (), choices={"key": choices})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    for value, stands_for in zip(values, choices, strict=True):
        study.enqueue_trial({"key": stands_for})
        trial = study.ask()
        space.draw(OmegaConf.create(), trial)
        params = study.trials[trial.number].params
        assert is_the_same(space.values(params)["key"], value)
        (line,) = space.overrides(params)
        found = OverridesParser.create().parse_override(line).value()
        assert is_the_same(found, value)
        config = OmegaConf.create({"key": found}) if "${" not in str(found) else None
        assert config is None or is_the_same(OmegaConf.to_container(config)["key"], value)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("override", "stored"),
    [
        ("x=choice(null,1.0)", [None, 1.0]),
        ("x=null,1.0", [None, 1.0]),
        ("x=choice('p,q',r)", ["p,q", "r"]),
        ("x='p,q',r", ["p,q", "r"]),
        ("x=choice(1,true)", ["1", "true"]),  # 1 == True: Optuna would draw 1 alone
        ("x=choice(1,true,'true')", ["1", "true", "'true'"]),
        ("x=choice(0,0.0,-0.0)", ["0", "0.0", "-0.0"]),
        ("x=choice('1',1)", ["1", 1]),
        ("x=choice([1,2],'[1,2]')", ["[1,2]", "'[1,2]'"]),
    ],
)
def test_what_stands_for_a_choice_in_the_study(override: str, stored: list[object]):
    (found,) = searched(override).values()
    assert isinstance(found, CategoricalDistribution)
    assert [(type(choice), choice) for choice in found.choices] == [(type(choice), choice) for choice in stored]


def test_a_shuffled_choice_is_the_same_at_every_start():
    assert searched("x=shuffle(a,b,c)") == searched("x=a,b,c")


def test_a_list_or_dict_is_chosen_whole():
    space = read_space(["x=choice('a b',[1,'2'],{a:null})"], {}, None, None)
    (distribution,) = space.distributions.values()
    assert isinstance(distribution, CategoricalDistribution)
    lines = [space.overrides({"x": choice})[0] for choice in distribution.choices]
    assert [OverridesParser.create().parse_override(line).value() for line in lines] == ["a b", [1, "2"], {"a": None}]


def test_values_of_a_file_keep_their_type():
    space = read_space(["y=1,2"], {"a": [1, "b c", None, "true"], "b": 1e-5, "c": True, "d": 7}, None, None)
    values = {o.key_or_group: o.value() for o in OverridesParser.create().parse_overrides(list(space.fixed))}
    assert values == {"a": [1, "b c", None, "true"], "b": 1e-5, "c": True, "d": 7}


def custom(config: object, trial: Trial) -> None:
    trial.suggest_float("y", 0, 1)


def test_a_custom_space_is_found_by_name_or_refused():
    assert read_space([], {}, "tests.sweep.test_search_space.custom", None).custom is not None
    with pytest.raises(UserError, match=r"custom_search_space=nowhere\.f"):
        read_space([], {}, "nowhere.f", None)


def test_descriptions():
    described = {
        key: describe(value)
        for key, value in searched("a=x,y", "b=tag(log,interval(1e-4,1))", "c=range(0,9,3)").items()
    }
    assert described == {"a": "x | y", "b": "0.0001 .. 1, log", "c": "0 .. 6, step 3"}
