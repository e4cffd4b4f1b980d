"""The best config is composed back, whatever the trial was made of and whatever has become of that since."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from segkit.cli.app import CONF
from segkit.sweep import best_config

Composed = tuple[dict[str, Any], DictConfig]


@pytest.fixture(autouse=True)
def _composer() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def composed(overrides: Sequence[str], folder: Path | None = None) -> Composed:
    """The config of the training command without the `hydra` node, and that node."""
    where = [] if folder is None else [f"hydra.searchpath=['file://{folder}']"]
    config = compose("train", [*where, *overrides], return_hydra_config=True)
    values = OmegaConf.to_container(config, resolve=False)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items() if key != "hydra"}, config


def leave(folder: Path, values: dict[str, Any], config: DictConfig) -> None:
    """What Hydra leaves in the folder of a run."""
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(values), folder / ".hydra" / "config.yaml")
    node = OmegaConf.to_container(config.hydra, resolve=False)
    OmegaConf.save(OmegaConf.create({"hydra": node}), folder / ".hydra" / "hydra.yaml")


def write(tmp_path: Path, overrides: Sequence[str], own: Path | None = None) -> tuple[dict[str, Any], Path]:
    """The config of a trial with these overrides, and the folder of its best config."""
    values, config = composed(overrides, own)
    leave(tmp_path / "trial", values, config)
    trial = best_config.read(tmp_path / "trial")
    assert trial is not None
    loader = GlobalHydra.instance().config_loader()
    conf = tmp_path / "conf"
    best_config.write(conf, "best", trial, label="trial_7", title="two\nlines", loader=loader, master=config)
    return values, conf


KINDS = {
    "nested groups": ["model/head=fcn", "model/auxiliary=fcn", "backbone=resnet50", "model.auxiliary.channels=7"],
    "added keys, a deleted group": ["model=smp", "+model.options.x=scse", "+metrics.f1={a: {b: null}}", "~predictor"],
    "an added group, a group inside an option, deleted keys": [
        "loss=weighted",
        "loss@loss.terms.pixel.loss=focal",
        "+loss@loss.terms.edge.loss=boundary",
        "~loss.terms.region",
        "~dataset.colors",
        "~trainer.ema",
    ],
    "an experiment with a debug mode": ["experiment=camvid", "debug=overfit", "dataset.root=x", "~model/auxiliary"],
    "a sweep, strings that look like others": ["sweep=tpe", "name='null'", "dataset.class_names=['on','1e-3','','~']"],
    "ids as keys, interpolations": [
        "dataset=folder",
        "dataset.root=${paths.data_dir}/x",
        "dataset.num_classes=2",
        "dataset.class_mapping={7:0,8:1}",
        "name=${seed}-${dataset.epochs}",
    ],
}


@pytest.mark.parametrize("overrides", KINDS.values(), ids=list(KINDS))
def test_it_is_composed_back_as_it_was(tmp_path: Path, overrides: list[str]):
    values, conf = write(tmp_path, overrides)
    assert composed(["experiment=best"], conf)[0] == values
    # `metrics` of train.yaml is where users add theirs; a dict in two files would have the keys of both.
    assert yaml.safe_load((conf / "experiment" / "trial_7" / "blank.yaml").read_text()) == {"metrics": None}


def test_it_is_what_it_was_when_the_files_have_changed_or_gone(tmp_path: Path):
    own = tmp_path / "own"
    (own / "experiment").mkdir(parents=True)
    (own / "loss").mkdir()
    experiment, loss = own / "experiment" / "mine.yaml", own / "loss" / "mine.yaml"
    loss.write_text("_target_: my.Loss\nalpha: 1\n")
    experiment.write_text("# @package _global_\ndefaults: [override /loss: mine]\ntrainer: {max_epochs: 3}\n")
    values, conf = write(tmp_path, ["experiment=mine", "loss.alpha=2"], own)
    assert values["loss"] == {"_target_": "my.Loss", "alpha": 2}
    loss.write_text("_target_: my.OtherLoss\nbeta: 1\n")
    experiment.unlink()
    assert composed(["experiment=best"], conf)[0] == values


def test_further_overrides_work_as_with_any_experiment(tmp_path: Path):
    values, conf = write(tmp_path, ["model=fcn", "loss.dice_weight=2", "trainer.batch_size=5"])
    more = ["loss=dice", "backbone=resnet50", "model/auxiliary=fcn", "debug=fast", "optimizer.lr=0.5"]
    changed, _ = composed(["experiment=best", *more], conf)
    plain, _ = composed(["model=fcn", *more])
    assert changed == plain
    network, _ = composed(["experiment=best", "model=unet"], conf)
    assert network == {
        **{k: v for k, v in values.items() if k != "backbone"},
        "model": composed(["model=unet"])[0]["model"],
    }


def test_two_options_of_one_group_and_name_stay_apart(tmp_path: Path):
    overrides = ["loss=weighted", "loss@loss.terms.region.loss=ce", "loss.terms.region.loss.label_smoothing=0.5"]
    values, conf = write(tmp_path, overrides)
    loaded = composed(["experiment=best"], conf)[0]
    assert [term["loss"]["label_smoothing"] for term in loaded["loss"]["terms"].values()] == [0.0, 0.5]
    assert loaded == values


def test_a_best_config_of_a_sweep_over_a_best_config(tmp_path: Path):
    _, conf = write(tmp_path / "first", ["model=fcn", "loss=weighted", "trainer.max_steps=5"])
    values, further = write(tmp_path / "second", ["experiment=best", "optimizer.lr=0.5"], conf)
    assert composed(["experiment=best"], further)[0] == values


def test_how_a_killed_trial_was_told_to_go_on_is_no_part_of_its_config(tmp_path: Path):
    base, config = composed(["seed=3"])
    values, hydra = composed(["seed=3", "optimizer.lr=0.5", "resume=auto", "+extra=1"])
    leave(tmp_path / "trial", values, hydra)
    trial = best_config.read(tmp_path / "trial")
    assert trial is not None
    clean = best_config.without(trial, ["resume=auto", "+extra=1"], config)
    assert clean.values == {**base, "optimizer": {**base["optimizer"], "lr": 0.5}}
    assert clean.overrides == ["seed=3", "optimizer.lr=0.5"]


def test_a_trial_without_files_of_hydra_has_none(tmp_path: Path):
    assert best_config.read(tmp_path) is None
