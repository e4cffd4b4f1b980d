"""How the groups of the config fit together."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from segkit.config.findings import ConfigError
from segkit.config.schema import EvaluateScriptSettings, PredictScriptSettings, checked
from tests.composed import compose, experiment, recipe
from tests.harness.options import options


@pytest.mark.parametrize("root", ["evaluate", "predict"])
def test_the_other_roots_compose_with_either_predictor(root: str):
    settings = {"evaluate": EvaluateScriptSettings, "predict": PredictScriptSettings}[root]
    given = ["run=a"] if root == "evaluate" else ["run=a", "input=b", "output=c"]
    for choice in ([], *([f"predictor={option}"] for option in options("predictor"))):
        values = compose(*given, *choice, root=root)
        checked(settings, values)


def test_the_backbone_group_is_at_the_top_and_reaches_the_model():
    values = compose("backbone=convnext_tiny", "backbone.pretrained=true")
    assert values["model"]["backbone"] == values["backbone"]
    assert values["backbone"]["name"] == "convnext_tiny"


def test_the_label_space_is_written_once_and_reaches_every_part():
    made = experiment(
        "dataset.num_classes=5", "dataset.ignore_index=77", "dataset.class_names=null", "dataset.colors=null"
    )
    values = made.recipe.values
    assert "num_classes" not in values["model"].keys() | values["loss"].keys()
    loss: Any = made.loss()
    assert (loss.num_classes, loss.ignore_index) == (5, 77)
    assert made.model()(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).logits.shape[1] == 5


@pytest.mark.parametrize("choice", ["model=unet", "model=bisenetv2"])
def test_a_backbone_that_no_key_of_the_model_reads_is_refused(choice: str):
    with pytest.raises(ConfigError, match="backbone: nothing reads it"):
        recipe(choice, "+backbone=resnet18")
