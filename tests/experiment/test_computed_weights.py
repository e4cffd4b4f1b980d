"""A method of class weights stands for numbers counted on the training split; the config keeps the method."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from segkit.config.findings import ConfigError
from segkit.data.datasets.shapes import Shapes
from segkit.data.splits import KFold
from segkit.data.statistics.class_weights import class_weights
from segkit.data.statistics.counts import count
from segkit.experiment import computed_weights
from segkit.experiment.assembly import Experiment
from tests.composed import recipe

shapes = partial(Shapes, num_classes=7, num_train=8, num_val=4, image_size=32)
SMALL = "dataset.num_train=8 dataset.num_val=4 dataset.image_size=32 dataset.crop_size=32".split()


def test_every_method_in_a_loss_is_counted_wherever_it_stands():
    composed = recipe(*SMALL, "loss=weighted", "loss.terms.pixel.loss.class_weights=enet")
    before = composed.to_dict()
    experiment = Experiment(composed)
    pixels = count(shapes(split="train"), None, processes=1).pixels
    expected = pytest.approx(class_weights(pixels, "enet"), rel=1e-5)
    assert experiment.resolved.class_weights == {"loss.terms.pixel.loss.class_weights": expected}
    weights = experiment.loss().losses["pixel"].weights
    assert weights.tolist() == expected
    assert composed.to_dict() == before, "a config is never changed"


def test_a_fold_weighs_by_its_own_training_samples(tmp_path: Path):
    found = []
    for fold in range(2):
        source = KFold(fold=fold, folds=2)(shapes, "train")
        composed = recipe("loss.class_weights=inverse", f"paths.output_dir={tmp_path}")
        [weights] = computed_weights.counted(composed, source).values()
        pixels = count(source, None, processes=1).pixels
        assert len(pixels) == 6
        assert weights == pytest.approx(class_weights(pixels, "inverse"), rel=1e-5)
        found.append(weights)
    assert found[0] != found[1]


def test_without_a_method_nothing_is_counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(computed_weights, "count", None)
    assert computed_weights.counted(recipe("loss.class_weights=null"), shapes(split="train")) == {}


def test_a_word_that_is_no_method_is_refused():
    with pytest.raises(ConfigError, match=r"loss.class_weights=medium; allowed: .*inverse_sqrt.*median"):
        recipe("loss.class_weights=medium")
