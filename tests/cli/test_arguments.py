"""What people type, as Hydra reads it."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from segkit.cli.arguments import arranged, readable
from segkit.cli.messages import as_text
from segkit.config.overrides import parsed, quoted

PATHS = [
    *("a%20b", "a?b", "a#b", "a=b", "a b", "a[1]", "a~b", "a$b", "ä/ö", "日本", "/x/a (1)", "a{b}", "a:b", "a;b"),
    *("a&b", "a!b", "a*b", "a@b", "a^b", "a\\b", "a`b", "a<b>", "sqlite:///a b?x=1#y", "http://u@h/x?a=b&c=d"),
]
"""Names that are taken as they are typed."""


@pytest.mark.parametrize("text", PATHS)
def test_a_name_with_odd_characters_is_taken_as_typed(text: str):
    override = parsed(readable(f"key={text}"))
    assert override is not None
    assert override.value() == text


@pytest.mark.parametrize(
    "text", [*PATHS, "a,b", "[a]", "{b}", "it's", 'a"b', "a'b\"c", "f(x)", "1e5", "null", "x\\", ""]
)
def test_what_a_message_says_to_type_is_read_as_that_text(text: str):
    (typed,) = shlex.split(as_text("key", text))
    override = parsed(readable(typed))
    assert override is not None
    assert override.value() == text
    assert parsed(f"key={quoted(text)}") is not None


@pytest.mark.parametrize("override", ["a=1,2", "a=[1,2", "a={b: 1", "a=choice(1,ä)", "a='ä", "a=ä,ö", "a", "=1", "~a"])
def test_what_may_mean_more_than_text_is_left_alone(override: str):
    assert readable(override) == override


def test_home_is_found_where_the_shell_leaves_it_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert readable("dataset.root=~/data") == f"dataset.root={tmp_path}/data"
    assert readable("tracker.uri=sqlite:///~/m.db") == f"tracker.uri=sqlite:///{tmp_path}/m.db"
    assert readable("dataset.root=~/a,~/b") == f"dataset.root={tmp_path}/a,{tmp_path}/b"
    assert readable("name=a~/b") == "name='a~/b'"


def test_options_come_first_with_their_values():
    typed = ["a=b", "--config-dir", "x", "c=d", "-m", "-cd=y", "--info", "e=f", "--package", "seed"]
    assert arranged(typed) == [
        *("--config-dir", "x", "-m", "-cd=y", "--info", "all", "--package", "seed"),
        *("a=b", "c=d", "e=f"),
    ]
    assert arranged(["--info", "defaults", "a=b"]) == ["--info", "defaults", "a=b"]


@pytest.mark.parametrize(
    ("override", "listed"),
    [
        ("x=choice(null,1.0)", "x=null,1.0"),
        ("+a.b= choice( 'a,b' , null )", "+a.b= 'a,b' , null "),
        ("x=choice(null)", "x=null"),
        ("x=choice(1,[null])", "x=choice(1,[null])"),  # which Hydra takes
        ("x=choice(1,'null')", "x=choice(1,'null')"),
        ("x=choice(null,", "x=choice(null,"),
        ("x=range(null,1)", "x=range(null,1)"),
    ],
)
def test_null_is_a_choice_like_any_other(override: str, listed: str):
    assert readable(override) == listed
