"""Mistakes on the command line and in config files: exit code 2, and one message that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from segkit.cli import browse, check_data, evaluate, init_dataset, make_splits, predict, train
from tests.conftest import REPOSITORY, Ended

Call = Callable[..., Ended]


def refused(done: Ended, *says: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == 1
    for text in says:
        assert text in done.stderr


GROUPS = sorted(
    {
        file.parent.relative_to(REPOSITORY / "conf").as_posix()
        for file in (REPOSITORY / "conf").glob("*/**/*.yaml")
        if not file.is_relative_to(REPOSITORY / "conf" / "hydra")
    }
)


@pytest.mark.parametrize("multirun", [False, True])
@pytest.mark.parametrize("group", [*GROUPS, "hydra/sweeper", "hydra/launcher", "hydra/help", "hydra/job_logging"])
def test_an_option_that_does_not_exist_is_refused_with_those_that_do(call: Call, group: str, multirun: bool):
    done = call(train.main, *(["-m", "seed=0,1"] if multirun else []), f"{group}=tyop")
    options = sorted(file.stem for file in (REPOSITORY / "conf" / group).glob("*.yaml"))
    refused(done, f"{group}=tyop: there is no {group}/tyop.yaml", "--config-dir", *options)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (train, ["-m", "sweep=tpe", "hydra/sweeper/sampler=tyop"]),
        (train, ["-m", "debug=fast,tyop"]),
        (train, ["experiment=[camvid,tyop]"]),
        (train, ["experiment=tyop", "experiment=camvid", "experiment=tyop"]),
        (evaluate, ["run=a", "predictor=tyop"]),
        (evaluate, ["run=a", "split=tyop"]),
        (predict, ["run=a", "input=b", "output=c", "predictor=tyop"]),
        (browse, ["split=tyop"]),
        (check_data, ["dataset=tyop"]),
        (make_splits, ["dataset=tyop", "output=a"]),
        (init_dataset, ["a", "paths=tyop"]),
    ],
)  # fmt: skip
def test_every_command_refuses_an_option_that_does_not_exist(call: Call, command: object, arguments: list[str]):
    refused(call(command.main, *arguments), "there is no", "/tyop.yaml")  # pyright: ignore


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["experiment="], ["experiment=: there is no"]),
        (["experiment=null"], ["experiment=null: not the name of an option", "camvid", "~experiment"]),
        (["loss=5"], ["loss=5: not the name of an option", "combined"]),
        (["+experiment=camvid"], ["+experiment", "without the plus"]),
        (["loss=ce,dice"], ["loss=ce,dice", "-m"]),
        (["loss=[ce,dice]"], ["ce and dice are alternatives", "-m loss=ce,dice"]),
        (["model=[unet,fcn]"], ["unet and fcn are alternatives"]),
        (["sweep=tpe"], ["sweep=tpe: read with -m only", "-m sweep=tpe"]),
        (["hydra/launcher=joblib"], ["hydra/launcher=joblib: read with -m only"]),
        (["model/heads=fcn"], ["no group model/heads", "Did you mean model/head?"]),
        (["hydra.nonsense=1"], ["hydra.nonsense: nothing reads this key"]),
        (["hydra/sweeper/sampler=tpe"], ["hydra/sweeper=basic has no hydra/sweeper/sampler", "hydra/sweeper=segkit"]),
        (["model=unet", "backbone=resnet18"], ["model=unet has no backbone to choose", "deeplabv3plus", "smp"]),
        (["-m", "model=unet,fcn", "backbone=resnet18"], ["has no backbone to choose", "deeplabv3plus"]),
        (["model=unet", "+backbone=resnet18"], ["backbone", "takes no backbone"]),
        (["transform.steps.brightness=0.3"], ["transform.steps is a list", "transform.steps.0 (ColorJitter)"]),
        (["transform.steps.7.p=0.3"], ["transform.steps is a list", "transform.steps.0 (ColorJitter)"]),
        (["model.head.rates.first=3"], ["model.head.rates is a list", "model.head.rates.2 (18)"]),
        (["optimizer.lr.x=1"], ["optimizer.lr is a single value"]),
        (["+seed=3"], ["seed: is there already", "seed=VALUE"]),
        (["seed"], ["seed: give a value, as in seed=VALUE"]),
        (["=3"], ["=3: there is no key before the ="]),
        (["name=a,b"], ["""'name="a,b"'"""]),
        (["resume=2024"], ["resume: should be a valid string (found 2024)", """'resume="2024"'"""]),
        (["resume=[a]"], ["""'resume="[a]"'"""]),
        (["name=a${b}"], ["name=a${b}", "'b' not found", r"""'name="a\${b}"'"""]),
        (["trainer.batch_size=[1"], ["trainer.batch_size=[1: the value cannot be read"]),
        (["--cfg", "job", "-m"], ["Only one of"]),
        (["--resolve"], ["--resolve"]),
        (["--config-dir", "nowhere"], ["nowhere"]),
        (["seed=1", "--config-dir", "nowhere", "seed=2"], ["nowhere"]),
        (["dataset.num_classes=0"], ["dataset.num_classes: should be greater than 0 (found 0)"]),
        (["optimizer.lr=inf"], ["optimizer.lr: should be a finite number (found inf)"]),
        (["transform.window=5"], ["transform.window: should be an object"]),
        (["model=unet", "model.channels=[8,-3]"], ["model.channels.1: should be greater than 0 (found -3)"]),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_what_to_type(call: Call, arguments: list[str], says: list[str]):
    refused(call(train.main, *arguments), *says)


OWN = {
    "tab": ("trainer:\n\tbatch_size: 3\n", ["tab.yaml, line 3", "indent with spaces"]),
    "twice": ("seed: 1\nseed: 2\n", ["twice.yaml, line 3", "duplicate key seed"]),
    "latin": ("name: Müller\n".encode("latin-1"), ["latin.yaml, line 2", "0xfc is not UTF-8"]),
    "tag": ("name: !!python/object/apply:os.system ['x']\n", ["tag.yaml, line 2", "python/object/apply", "refused"]),
    "colon": ("name: a: b\n", ["colon.yaml, line 2", "mapping values are not allowed"]),
    "open": ("name: [a\n", ["open.yaml, line 3"]),
    "binary": (b"name: a\x00b\n", ["binary.yaml", "not valid YAML"]),
    "bytes": ("name: !!binary aGk=\n", ["name: should be text", "found b'hi'"]),
    "mapping": ("defaults: {a: b}\n", ["mapping", "must be a list"]),
    "list": ("- a\n- b\n", ["experiment/list"]),
    "misspelt": ("defaults:\n  - override /loss: hinge\n", ["loss=hinge (asked for by a config file)", "combined"]),
    "nogroup": ("defaults:\n  - override /los: dice\n", ["no group los", "Did you mean loss?"]),
    "circle": ("defaults: [circle]\n", ["circle"]),
    "late": ("defaults:\n  - override /debug: fast\n", ["experiment/late.yaml", "no debug chosen before it"]),
    "inner": ("defaults:\n  - override /tracker: nnoe\n", ["tracker=nnoe", "mlflow, none, several"]),
    "key": ("trainer: {batchsize: 3}\n", ["trainer.batchsize", "Did you mean trainer.batch_size?"]),
    "infinite": ("optimizer: {lr: .inf}\n", ["optimizer.lr: should be a finite number"]),
}


@pytest.mark.parametrize("name", OWN)
def test_a_mistake_in_a_file_of_the_users_own_names_the_file(call: Call, tmp_path: Path, name: str):
    content, says = OWN[name]
    folder = tmp_path / "own" / "experiment"
    folder.mkdir(parents=True)
    written = content if isinstance(content, bytes) else content.encode()
    (folder / f"{name}.yaml").write_bytes(b"# @package _global_\n" + written)
    refused(call(train.main, f"experiment={name}", "--config-dir", str(folder.parent)), *says)


@pytest.mark.parametrize("content", [b"name: a\n", b"\xef\xbb\xbf# @package _global_\nname: a\n"])
def test_an_experiment_whose_keys_go_astray_is_told_how_to_begin(call: Call, tmp_path: Path, content: bytes):
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_bytes(content)
    refused(call(train.main, "experiment=mine", "--config-dir", "own"), "'# @package _global_'")


@pytest.mark.parametrize("place", ["file", "file/below", "a" * 300, "/proc/nowhere"])
@pytest.mark.parametrize("key", ["hydra.run.dir", "hydra.sweep.dir", "paths.output_dir"])
def test_a_run_folder_that_cannot_be_made_is_one_message(call: Call, tmp_path: Path, key: str, place: str):
    (tmp_path / "file").touch()
    many = ["-m", "seed=0,1"] if key == "hydra.sweep.dir" else []
    refused(call(train.main, *many, f"{key}={place}"), f"{key}={place}", "cannot be written", "=FOLDER")


@pytest.mark.parametrize("name", ["checkpoints", "metrics.jsonl/", ".lock/", ".hydra", "train.log/"])
def test_a_run_folder_that_holds_something_else_is_one_message(call: Call, tmp_path: Path, name: str):
    in_the_way = tmp_path / "run" / name
    in_the_way.parent.mkdir()
    in_the_way.mkdir() if name.endswith("/") else in_the_way.touch()
    refused(call(train.main, "hydra.run.dir=run", "debug=fast"), str(in_the_way), "cannot be written")


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (evaluate, ["run=nowhere"]),
        (predict, ["run=nowhere", "input=file"]),
        (check_data, ["dataset=shapes"]),
        (make_splits, ["dataset=shapes"]),
        (init_dataset, ["."]),
    ],
)  # fmt: skip
def test_an_output_that_cannot_be_written_is_told_before_the_work(
    call: Call, tmp_path: Path, command: object, arguments: list[str]
):
    (tmp_path / "file.png").touch()
    (tmp_path / "file").write_bytes(b"")
    arguments = [argument.replace("input=file", "input=file.png") for argument in arguments]
    for place in ("file", "file/below", "a" * 300):
        refused(call(command.main, *arguments, f"output={place}"), f"output={place}: cannot be written")  # pyright: ignore


def test_a_picture_goes_to_a_file(call: Call, tmp_path: Path):
    refused(call(browse.main, f"output={tmp_path}"), f"output={tmp_path}: is a folder", "samples.png")
    refused(call(browse.main, "output=/proc/nowhere/a.png"), "cannot be written")
