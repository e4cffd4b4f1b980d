"""What the model groups of the config compose to, and that it builds and trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from segkit.contracts import UserError
from segkit.models.backbones import mix_transformer
from segkit.models.heads.fcn import FCNHead
from segkit.models.networks.smp import SmpSegmenter
from segkit.models.segmenter import Segmenter
from tests.composed import experiment

CONF = Path(__file__).parents[2] / "conf"
BACKBONES = sorted(path.stem for path in (CONF / "backbone").glob("*.yaml"))


def config(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=["dataset=shapes", *overrides])


def built(*overrides: str) -> nn.Module:
    made = experiment("dataset=shapes", *overrides)
    return made.recipe.build("model", filled=made.filled())


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("model", ["deeplabv3plus", "smp"])
def test_every_backbone_goes_with_every_model(model: str, backbone: str) -> None:
    name = ["backbone.name=resnet26"] if backbone == "timm" else []
    composed = config(f"model={model}", f"backbone={backbone}", *name)
    resolved = OmegaConf.to_container(composed.model, resolve=True)
    chosen = resolved["encoder"] if model == "smp" else resolved["backbone"]["name"]
    assert chosen == composed.backbone.name
    assert timm.is_model(chosen) or chosen in mix_transformer.NAMES


@pytest.mark.parametrize("option", BACKBONES)
def test_every_backbone_builds_and_its_stride_is_the_one_asked_for_or_refused(option: str) -> None:
    name = ["backbone.name=resnet26"] if option == "timm" else []
    make = instantiate(config("model=fcn", f"backbone={option}", *name).backbone)
    backbone = make(in_channels=3).eval()
    with torch.no_grad():
        maps = backbone(torch.rand(1, 3, 33, 47))
    for features, info in zip(maps, backbone.features, strict=True):
        assert features.shape == (1, info.channels, -(-33 // info.reduction), -(-47 // info.reduction))
    try:
        found = str(make(in_channels=3, output_stride=16).features[-1].reduction)
    except UserError as refusal:
        found = str(refusal)
    assert found == "16" or found.startswith("model.output_stride=16")


@pytest.mark.parametrize(
    ("overrides", "head", "auxiliary"),
    [
        (["model=deeplabv3plus"], "DeepLabV3PlusHead", False),
        (["model=deeplabv3plus", "model/auxiliary=fcn", "model.output_stride=16"], "DeepLabV3PlusHead", True),
        (["model=deeplabv3plus", "model/head=fcn", "model.head.channels=8"], "FCNHead", False),
        (["model=fcn", "backbone=mobilenetv3_large", "backbone.frozen=true"], "FCNHead", False),
    ],
)
def test_native_models_build_and_train(overrides: list[str], head: str, auxiliary: bool) -> None:
    composed = config(*overrides)
    model = built(*overrides)
    assert isinstance(model, Segmenter)
    assert type(model.head).__name__ == head
    assert isinstance(model.auxiliary, FCNHead) == auxiliary
    prediction = model(torch.randint(256, (1, model.input_channels, 33, 47), dtype=torch.uint8))
    assert prediction.logits.shape[:2] == (1, composed.dataset.num_classes)
    prediction.logits.sum().backward()


def test_smp_builds_with_options() -> None:
    overrides = ["model=smp", "model.decoder=fpn", "+model.options.decoder_segmentation_channels=32"]
    model = built(*overrides, "backbone.frozen=true")
    assert isinstance(model, SmpSegmenter)
    assert model.frozen
    assert model.network.segmentation_head[0].in_channels == 32
