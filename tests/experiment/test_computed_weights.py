"""Methods in the place of class weights become numbers, and what became of them is written down."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from segkit.contracts import UserError
from segkit.data.datasets.shapes import Shapes
from segkit.data.splits import KFold
from segkit.data.statistics.class_weights import class_weights
from segkit.data.statistics.counts import count
from segkit.experiment import computed_weights

shapes = partial(Shapes, num_classes=7, num_train=8, num_val=4, image_size=32)


def config(tmp_path: Path, loss: dict[str, Any]) -> dict[str, Any]:
    return {"loss": loss, "dataset": {"cache_dir": None}, "paths": {"output_dir": str(tmp_path)}}


def test_every_method_in_a_loss_is_replaced_wherever_it_stands(tmp_path: Path):
    train = shapes(split="train")
    parts = [{"class_weights": "enet"}, {"class_weights": None}, {"class_weights": [1.0] * 7}]
    values = config(tmp_path, {"class_weights": "median", "losses": parts})
    computed_weights.fill_in(values, train)
    pixels = count(train, None, processes=1).pixels
    assert values["loss"]["class_weights"] == pytest.approx(class_weights(pixels, "median"), rel=1e-5)
    assert parts[0]["class_weights"] == pytest.approx(class_weights(pixels, "enet"), rel=1e-5)
    assert parts[1:] == [{"class_weights": None}, {"class_weights": [1.0] * 7}]
    assert values["computed"] == {"loss.class_weights": "median", "loss.losses.0.class_weights": "enet"}


def test_a_fold_weighs_by_its_own_training_samples(tmp_path: Path):
    found = []
    for fold in range(2):
        values = config(tmp_path, {"class_weights": "inverse"})
        source = KFold(fold=fold, folds=2)(shapes, "train")
        computed_weights.fill_in(values, source)
        pixels = count(source, None, processes=1).pixels
        assert len(pixels) == 6
        assert values["loss"]["class_weights"] == pytest.approx(class_weights(pixels, "inverse"), rel=1e-5)
        found.append(values["loss"]["class_weights"])
    assert found[0] != found[1]


def test_without_a_method_nothing_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(computed_weights, "count", None)
    values = config(tmp_path, {"class_weights": None})
    computed_weights.fill_in(values, shapes(split="train"))
    assert "computed" not in values


def test_a_word_that_is_no_method_is_refused(tmp_path: Path):
    loss = {"terms": [{"class_weights": "medium"}]}
    with pytest.raises(UserError, match=r"loss.terms.0.class_weights=medium; allowed: .*inverse_sqrt.*median"):
        computed_weights.check(loss)
    assert computed_weights.left_out({"a": [{"class_weights": "median"}]}) == {"a": [{"class_weights": None}]}
