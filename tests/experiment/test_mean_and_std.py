"""Images are normalised as those were that the pretrained weights learnt from, unless the user says otherwise."""

from __future__ import annotations

import copy
import json
import logging
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

import segkit
from segkit.cli.app import CONF
from segkit.engine import snapshot
from segkit.errors import UserError
from segkit.experiment.mean_and_std import ImageKind, Normalization, decide, stored
from segkit.models.backbones.mix_transformer import MixTransformer
from segkit.models.backbones.timm_backbone import TimmBackbone
from segkit.models.layers.normalization import IMAGENET, Statistics
from segkit.models.networks.eomt import EoMT
from segkit.models.networks.smp import SmpSegmenter
from segkit.run import checkpoint
from tests.composed import recipe
from tests.engine.in_process import SMALL_HEAD, finish, trainer_of

HALF = Statistics((0.5,) * 3, (0.5,) * 3)
OWN_UNITS = ImageKind("float32", -817, 146)


def values(*, dataset: dict[str, Any] | None = None, model: dict[str, Any] | None = None, **backbone: Any) -> Any:
    backbone = {
        "_target_": "segkit.models.backbones.timm_backbone.TimmBackbone",
        "_partial_": True,
        "name": "test_resnet",
        **backbone,
    }
    node = {"_target_": "segkit.models.segmenter.Segmenter", "backbone": backbone, **(model or {})}
    return {"model": node, "dataset": dataset or {}}


COUNTED = {"data_mean": [0.1, 0.2, 0.3], "data_std": [0.4, 0.4, 0.4]}
SET = {"mean": [0.6, 0.7, 0.8], "std": [0.9, 0.9, 0.9]}


@pytest.mark.parametrize(
    ("config", "mean", "says"),
    [
        (values(), IMAGENET.mean, "ImageNet"),
        (values(dataset=COUNTED), (0.1, 0.2, 0.3), "dataset.data_mean"),
        (values(dataset=COUNTED, pretrained=True), (0.5, 0.5, 0.5), "the pretrained weights of test_resnet"),
        (values(dataset=COUNTED, weights="a.pth"), (0.5, 0.5, 0.5), "the pretrained weights of test_resnet"),
        (
            values(weights="a.pth", name="test_efficientnet"),
            IMAGENET.mean,
            "the pretrained weights of test_efficientnet",
        ),
        (values(dataset=COUNTED | SET, pretrained=True), (0.6, 0.7, 0.8), "dataset.mean"),
        (values(dataset=SET, model={"mean": [0.0, 0.0, 0.1]}), (0.0, 0.0, 0.1), "model.mean"),
        (values(model={"mean": None, "std": None}), IMAGENET.mean, "ImageNet"),  # of a file with ${dataset.mean}
        (values(dataset={"in_channels": 1}), (0.449,), "ImageNet"),
        (values(dataset={"in_channels": 5}, pretrained=True), (0.5,) * 5, "the pretrained weights of test_resnet"),
    ],
)
def test_the_first_that_is_there_decides(config: Any, mean: tuple[float, ...], says: str):
    found = decide(config)
    assert found is not None
    assert (found.mean, found.mean_from) == (pytest.approx(mean), says)
    assert len(found.std) == len(mean)


def test_what_the_user_sets_of_the_two_wins_alone():
    found = decide(values(dataset={"std": [0.9] * 3}, pretrained=True))
    assert found == Normalization((0.5,) * 3, (0.9,) * 3, "the pretrained weights of test_resnet", "dataset.std")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tf_efficientnet_lite0", HALF),
        ("vit_small_patch16_224", HALF),
        ("vit_small_patch16_224.dino", IMAGENET),
        ("vit_tiny_patch16_224_in21k", HALF),  # an old name of vit_tiny_patch16_224.augreg_in21k
        ("resnet50", IMAGENET),
    ],
)
def test_statistics_of_timm_follow_name_and_tag(name: str, expected: Statistics):
    assert TimmBackbone.weights_statistics(name, pretrained=True) == expected
    assert EoMT.weights_statistics(name=name, weights="a.pth", num_classes=3) == expected
    assert SmpSegmenter.weights_statistics(name, pretrained=True, decoder="unet") == expected
    assert TimmBackbone.weights_statistics(name) is None


def test_mix_transformers_learnt_from_imagenets():
    assert MixTransformer.weights_statistics(name="mit_b1", pretrained=True) == IMAGENET
    assert SmpSegmenter.weights_statistics("mit_b1", weights="a.pth") == IMAGENET
    assert SmpSegmenter.weights_statistics("mit_b1") is None


def test_an_overlay_of_timms_configuration_counts(tmp_path: Path):
    """Its file is loaded, too, whatever the cache of weights holds."""
    state = timm.create_model("test_resnet").state_dict()
    torch.save(state, tmp_path / "weights.pth")
    options = {"pretrained_cfg_overlay": {"file": str(tmp_path / "weights.pth"), "mean": [0.1, 0.2, 0.3]}}
    assert TimmBackbone.weights_statistics("test_resnet", True, options=options) == ((0.1, 0.2, 0.3), (0.5,) * 3)
    net: Any = TimmBackbone("test_resnet", pretrained=True, options=options).net
    torch.testing.assert_close(net.state_dict()["conv1.0.weight"], state["conv1.0.weight"])
    smp: Any = partial(SmpSegmenter, "fpn", "test_resnet", num_classes=2, mean=[0.5] * 3, std=[0.5] * 3)
    encoder = smp(pretrained=True, encoder_options=options).backbone.state_dict()
    torch.testing.assert_close(encoder["model.conv1.0.weight"], state["conv1.0.weight"])


@pytest.mark.parametrize(("number", "expected"), [(1, (0.2,)), (2, (0.1, 0.2)), (4, (0.1, 0.2, 0.3, 0.1))])
def test_other_channels_get_those_of_the_weights_that_they_meet(
    number: int, expected: tuple[float, ...], tmp_path: Path
):
    assert Statistics((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)).of_channels(number).mean == pytest.approx(expected)
    state = timm.create_model("test_resnet").state_dict()
    torch.save(state, tmp_path / "weights.pth")
    net: Any = TimmBackbone("test_resnet", weights=str(tmp_path / "weights.pth"), in_channels=number).net
    adapted, rgb = net.state_dict()["conv1.0.weight"], state["conv1.0.weight"]
    meets = [rgb.sum(dim=1)] if number == 1 else [rgb[:, channel % 3] * 3 / number for channel in range(number)]
    torch.testing.assert_close(adapted, torch.stack(meets, dim=1))


def test_images_in_units_of_their_own_get_no_shares_of_a_full_range():
    found = decide(values(dataset=COUNTED, pretrained=True), OWN_UNITS)
    assert found is not None
    assert found.mean_from == "dataset.data_mean"
    with pytest.raises(UserError, match=r"dataset\.mean is null.*-817\.\.146.*check_data"):
        decide(values(pretrained=True), OWN_UNITS)
    with pytest.raises(UserError, match=r"in_channels=5"):
        decide(values(dataset={"in_channels": 5}))


def test_a_run_that_goes_on_keeps_what_it_had():
    earlier = stored({}, {"model": {"mean": [0.4] * 3, "std": [0.2] * 3}})  # as version 0.1 kept it
    found = decide(values(dataset=COUNTED, pretrained=True), earlier=earlier)
    assert found == Normalization((0.4,) * 3, (0.2,) * 3, "as before", "as before")
    assert decide(values(dataset={"mean": [0.4] * 3}), earlier=earlier) is not None
    with pytest.raises(UserError, match=r"dataset\.mean=\[0\.6, 0\.7, 0\.8\].*\[0\.4, 0\.4, 0\.4\]"):
        decide(values(dataset=SET), earlier=earlier)
    again = stored({"resolved": {"normalization": asdict(found)}}, {"model": {}})
    assert decide(values(dataset=COUNTED), OWN_UNITS, again) == found


def test_a_class_that_does_not_say_is_named(caplog: pytest.LogCaptureFixture):
    config = values(pretrained=True) | {"dataset": {}}
    config["model"]["backbone"]["_target_"] = "tests.experiment.test_mean_and_std.OwnBackbone"
    with caplog.at_level(logging.WARNING):
        assert decide(config) == Normalization(*IMAGENET, "ImageNet", "ImageNet")
    assert "test_resnet does not say what its pretrained weights were normalised with" in caplog.text


class OwnBackbone:
    def __init__(self, name: str, pretrained: bool):
        raise NotImplementedError


def test_weights_of_different_statistics_want_a_word():
    config = values(weights="a.pth")
    config["model"]["head"] = values(weights="b.pth", name="test_efficientnet")["model"]["backbone"]
    with pytest.raises(UserError, match=r"test_resnet .*test_efficientnet .*set dataset\.mean"):
        decide(config)


@pytest.mark.parametrize("option", sorted(path.stem for path in (CONF / "model").glob("*.yaml")))
def test_every_model_is_supplied_with_both(option: str):
    composed = recipe(f"model={option}")
    assert not {"mean", "std"} & composed.node("model").keys()
    found = decide(composed.values)
    assert found is not None
    assert found.mean_from == "dataset.data_mean"
    model: Any = composed.build("model", filled={"num_classes": 7, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]})
    assert model.normalize.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_a_run_says_it_and_keeps_it(caplog: pytest.LogCaptureFixture, tmp_path: Path):
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.pth")
    with caplog.at_level(logging.INFO):
        trainer = trainer_of(tmp_path / "run", *SMALL_HEAD, f"backbone.weights={tmp_path / 'weights.pth'}")
    assert "images: mean 0.5 0.5 0.5, std 0.5 0.5 0.5 (the pretrained weights of test_resnet)" in caplog.text
    model: Any = trainer.learning.model
    assert model.normalize.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    checkpoint.write_flushed(snapshot.taken(trainer), tmp_path / "new.pt")
    finish(trainer)
    loaded: Any = segkit.load(tmp_path / "new.pt")
    assert loaded.model.normalize.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    assert loaded.images.kind.dtype == "uint8"


def test_checkpoints_of_before_keep_what_their_config_says(finished: Path, tmp_path: Path):
    content = dict(checkpoint.read(finished / "checkpoints" / "last.pt"))
    assert content.pop("resolved")["normalization"]["mean"] == (0.47, 0.46, 0.46)
    config = copy.deepcopy(content["config"])
    config["model"] |= {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    config["backbone"]["pretrained"] = config["model"]["backbone"]["pretrained"] = True
    weights = {"normalize.mean": torch.tensor(IMAGENET.mean), "normalize.std": torch.tensor(IMAGENET.std)}
    content["ema"]["model"] |= {name: value.view(3, 1, 1) for name, value in weights.items()}
    checkpoint.write_flushed(content | {"config": json.dumps(config)}, tmp_path / "old.pt")
    old: Any = segkit.load(tmp_path / "old.pt")
    assert old.model.normalize.mean.flatten().tolist() == pytest.approx(IMAGENET.mean)
    assert old.predict(np.zeros((8, 8, 3), np.uint8)).shape == (8, 8)
