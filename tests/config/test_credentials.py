"""What is taken for a password or token, and that it comes back where it is used and nowhere else."""

from __future__ import annotations

import json
import os
import pickle

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from segkit.cli.callbacks import WrittenConfig
from segkit.config import credentials, instantiate
from segkit.config.credentials import connectable, hidden, hidden_in_override, masked, revealed
from segkit.errors import UserError


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(credentials.VARIABLE, "{}")
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:secret@host:5000/a", "http://me:***@host:5000/a"),
        ("http://me:p@ss:w@host/x@y", "http://me:***@host/x@y"),
        ("http://me:a b@host", "http://me:***@host"),
        ("postgresql+psycopg2://me:a/b#c@host/db", "postgresql+psycopg2://me:***@host/db"),
        ("mysql://root:root@127.0.0.1/x", "mysql://root:***@127.0.0.1/x"),
        ("redis://:secret@host:1", "redis://:***@host:1"),
        ("https://token@host", "https://***@host"),
        ("https://token:x-oauth-basic@host", "https://***@host"),
        ("choice(http://u:a@h,http://v:b@i)", "choice(http://u:***@h,http://v:***@i)"),
        ("http://proxy:1/?to=http://u:a@h", "http://proxy:1/?to=http://u:***@h"),
        ("http://host/x?token=abc&y=1", "http://host/x?token=***&y=1"),
        ("https://host/c?sv=1&sig=abc%3D", "https://host/c?sv=1&sig=***"),
        ("postgresql://host/d?user=a&password=b", "postgresql://host/d?user=a&password=***"),
        ("host=h user=u password='a b' dbname=d", "host=h user=u password=*** dbname=d"),
        ("Server=h;Uid=u;Pwd=secret;", "Server=h;Uid=u;Pwd=***;"),
        ("AccountName=a;AccountKey=abc==;E=1", "AccountName=a;AccountKey=***;E=1"),
        ("mssql://?odbc_connect=UID%3Du%3BPWD%3Da%21b%3BX", "mssql://?odbc_connect=UID%3Du%3BPWD%3D***%3BX"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("+dataset.password=a,b", "+dataset.password=***"),
        ("tracker.uri='http://me:a,b@host'", "tracker.uri='http://me:***@host'"),
    ],
)
def test_a_secret_in_text_is_masked_once_and_for_all(text: str, shown: str):
    assert masked(text) == shown
    assert masked(shown) == shown
    assert masked({"a": [{"b": text}]}) == {"a": [{"b": shown}]}


@pytest.mark.parametrize(
    "text",
    [
        "http://host:5000/path@version",
        "see http://host:5000, or write to me@host",
        "postgresql://me@host/db",
        "sqlite:////data/a:b@c.db",
        "s3://bucket/a:b@c",
        "http://me:${oc.env:PASSWORD}@host",
        "C:\\data@home",
        "loss.class_token=mean",
        "optimizer.lr=0.1",
    ],
)
def test_everything_else_stays(text: str):
    assert masked(text) == text


def test_keys_with_such_a_name_hold_secrets():
    config = {
        "password": "a", "db_password": 7, "apiKey": "a", "api-key": "a", "token": "a", "hf_token": "a",
        "PGPASSWORD": "a",
        "aws": {"secret_access_key": "a", "access_key_id": "a"},
        "class_token": "a", "num_token": 3, "token_size": 4, "tokens": ["a"], "password_file": "a", "keep_secret": True,
        "client_secret": None, "auth_token": "${oc.env:A}",
    }  # fmt: skip
    headers = {"Authorization": "Bearer abc", "Accept": "text/json"}
    assert masked({"headers": headers})["headers"] == {"Authorization": "***", "Accept": "text/json"}
    assert masked({"password": ["a", "b"], "secrets": {"mine": "a"}}) == {
        "password": ["***", "***"],
        "secrets": {"mine": "***"},
    }
    shown = masked(config)
    hidden_keys = {key for key, value in shown.items() if value == "***"}
    assert hidden_keys == {"password", "db_password", "apiKey", "api-key", "token", "hf_token", "PGPASSWORD"}
    assert shown["aws"] == {"secret_access_key": "***", "access_key_id": "a"}


def test_what_was_hidden_comes_back_also_in_a_process_started_later():
    config = {
        "tracker": {"uri": "http://me:secret@host", "other": "http://me:another@host", "port": 5},
        "dataset": {"password": "first", "nested": [{"token": "second"}], "mapping": {0: 1}},
    }
    shown = hidden(config)
    assert shown["tracker"]["uri"] == shown["tracker"]["other"] == "http://me:***@host"
    assert shown["dataset"]["mapping"] == {0: 1}
    assert "secret" not in json.dumps(shown)
    assert "secret" in os.environ[credentials.VARIABLE]  # which is all that a child process has
    assert revealed(shown) == config
    assert revealed(shown["dataset"], "dataset") == config["dataset"]
    assert revealed("http://me:***@host") in ("http://me:secret@host", "http://me:another@host")


def test_a_secret_that_is_known_is_found_wherever_it_stands():
    hidden({"dataset": {"root": "s3://me:pa%40ss@bucket", "token": "abcdef"}})
    assert masked("no such folder: s3:/me:pa%40ss@bucket (pa@ss)") == "no such folder: s3:/me:***@bucket (***)"
    assert masked("abcdef, but not xabcdefx") == "***, but not xabcdefx"


def test_a_password_from_the_environment_is_masked_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "from outside")
    monkeypatch.setenv("https_proxy", "http://me:at-the-proxy@proxy:3128")
    monkeypatch.setenv(credentials.VARIABLE, "{ }")  # what is known is looked up once for each content
    assert masked("refused: from outside, at-the-proxy") == "refused: ***, ***"


def test_a_config_is_masked_where_it_is_resolved_and_an_object_gets_what_was_typed():
    node = {"_target_": "builtins.dict", "uri": "http://me:secret@host", "password": "hunter2"}
    config = OmegaConf.create({"node": node, "again": "${node.uri}"})
    values = instantiate.plain(config)
    assert values["node"]["uri"] == values["again"] == "http://me:***@host"
    assert instantiate.build(values["node"], "node") == {"uri": "http://me:secret@host", "password": "hunter2"}


def test_a_key_whose_secret_was_not_kept_is_named():
    with pytest.raises(UserError, match=r"dataset\.password=\*\*\*: passwords and tokens are not kept; give it again"):
        revealed({"password": "***"}, "dataset")


def test_overrides_compose_to_what_the_config_says():
    hidden({"tracker": {"uri": 'http://me:it\'s, "odd" @host'}})
    override = hidden_in_override("tracker.uri='http://me:it\\'s, \"odd\" @host'")
    assert OverridesParser.create().parse_override(override).value() == "http://me:***@host"
    assert hidden_in_override("tracker.uri=http://other") == "tracker.uri=http://other"
    assert hidden_in_override("loss=choice(ce,dice)") == "loss=choice(ce,dice)"


def test_a_server_takes_its_password_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    address = "http://me:***@host:5000/mlflow"
    with pytest.raises(UserError, match=r"tracker\.uri=.*MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"):
        connectable(address, "tracker.uri")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "")
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    assert connectable(address, "tracker.uri") == "http://host:5000/mlflow"
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "me"


def test_a_database_takes_its_password_from_the_environment():
    assert connectable("postgresql://me:***@host/db", "hydra.sweeper.storage") == "postgresql://me@host/db"
    with pytest.raises(UserError, match=r"hydra\.sweeper\.storage=mysql.*give the address again with its password"):
        connectable("mysql://me:***@host/db", "hydra.sweeper.storage")


def test_sweepers_and_launchers_are_given_a_masked_config():
    config = OmegaConf.create({
        "tracker": {"uri": "http://me:secret@host"},
        "dataset": {"root": "${oc.env:HOME}"},
        "hydra": {
            "sweeper": {"storage": "postgresql://me:another@host/db"},
            "job": {"override_dirname": "tracker.uri=http://me:secret@host", "env_set": {"MY_TOKEN": "third"}},
            "overrides": {
                "task": ["tracker.uri=http://me:secret@host", "loss=ce"],
                "hydra": ["hydra.sweeper.storage=postgresql://me:another@host/db", "hydra.job.env_set.MY_TOKEN=third"],
            },
        },
    })  # fmt: skip
    OmegaConf.set_readonly(config.hydra, True)
    WrittenConfig().on_multirun_start(config)
    for text in (OmegaConf.to_yaml(config), str(pickle.dumps(config))):
        assert not any(secret in text for secret in ("secret", "another", "third"))
    assert config.hydra.overrides.task == ["tracker.uri='http://me:***@host'", "loss=ce"]
    assert revealed(config.hydra.sweeper.storage) == "postgresql://me:another@host/db"
    assert revealed(config.hydra.job.env_set.MY_TOKEN, "hydra.job.env_set.MY_TOKEN") == "third"
