"""Every option of every group, found by glob: it composes, its keys bind, and what it builds works.

This is what makes it safe to have no registry: a YAML that names a class that moved, or a key that the
constructor does not take, fails here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from segkit.config import instantiate
from segkit.config.recipe import Recipe
from segkit.config.schema import EvaluateScriptSettings, PredictScriptSettings, checked
from segkit.contracts import LabelSpace, Prediction, QueryPrediction, Sample
from segkit.data.transforms.apply import augmented as apply_transform
from segkit.experiment.resume_rules import changes, leaves, rule_of
from segkit.run import checkpoint
from segkit.run.stored_config import stored_config
from tests.composed import experiment
from tests.conftest import REPOSITORY

CONF = REPOSITORY / "conf"
# Groups whose options need a value that no default can give.
NEEDED = {
    ("dataset", "folder"): ["dataset.root=data", "dataset.num_classes=3"],
    ("dataset", "split_lists"): ["dataset.root=data", "dataset.num_classes=3"],
    ("dataset", "csv"): ["dataset.root=data", "dataset.num_classes=3"],
    ("split", "lists"): ["split.folder=lists"],
    ("optimizer", "timm"): ["optimizer.optimizer.opt=lamb"],
}


@pytest.fixture(autouse=True, scope="module")
def _resolvers() -> None:
    OmegaConf.register_new_resolver("pid", lambda: 0, replace=True)


def options(group: str) -> list[str]:
    names = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    assert names, f"no options in conf/{group}"
    return names


def groups() -> list[str]:
    """Every folder with options, but for Hydra's own settings."""
    found = {path.parent.relative_to(CONF).as_posix() for path in CONF.rglob("*.yaml")}
    return sorted(group for group in found if group != "." and not group.startswith("hydra"))


def compose(*overrides: str, root: str = "train") -> dict[str, Any]:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate.plain(hydra.compose(root, list(overrides)))


EVERY_OPTION = [(group, option) for group in groups() for option in options(group)]


@pytest.mark.parametrize(("group", "option"), EVERY_OPTION, ids=lambda value: value)
def test_it_composes_and_every_key_binds_and_comes_back_from_a_checkpoint(group: str, option: str, tmp_path: Path):
    values = compose(f"{group}={option}", *NEEDED.get((group, option), []))
    Recipe.of(values)
    checkpoint.write_flushed({"config": values}, tmp_path / "last.pt")
    # As text, True is not 1 and a key 255 is not "255".
    assert repr(stored_config(checkpoint.read(tmp_path / "last.pt"))) == repr(values)
    assert [key for key, _ in leaves(values) if rule_of(key) is None] == []
    assert changes(values, values) == []


@pytest.mark.parametrize("option", options("loss"))
def test_a_loss_learns_from_logits_at_their_own_stride_and_skips_ignored_pixels(option: str):
    loss = experiment(f"loss={option}").loss()
    logits = torch.randn(2, 7, 8, 8, requires_grad=True)
    mask = torch.randint(0, 7, (2, 32, 32), dtype=torch.uint8)
    # As the masks of seven queries they serve losses of queries too.
    queries = [QueryPrediction(torch.randn(2, 7, 8), logits)]
    terms = loss(Prediction(logits, {"auxiliary": torch.randn(2, 7, 4, 4)}, queries), mask)
    terms.total.backward()
    assert terms.total.isfinite()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0
    assert terms.parts
    assert not any(part.requires_grad for part in terms.parts.values())

    ignored = loss(Prediction(logits.detach(), queries=queries), torch.full_like(mask, 255))
    assert float(ignored.total.detach()) == 0.0


@pytest.mark.parametrize("option", options("optimizer"))
def test_an_optimizer_lowers_a_loss(option: str):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = instantiate.build(
        compose(f"optimizer={option}", *NEEDED.get(("optimizer", option), []))["optimizer"],
        "optimizer",
        supplied=["model"],
    )(model)
    inputs, targets = torch.randn(64, 4), torch.randn(64, 1)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (model(inputs) - targets).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("option", options("scheduler"))
def test_a_schedule_gives_rates_and_goes_on_from_its_state(option: str):
    node = compose(f"scheduler={option}")["scheduler"]

    def built() -> tuple[torch.optim.Optimizer, Any]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
        make = instantiate.build(node, "scheduler", supplied=["optimizer", "total_steps", "steps_per_epoch"])
        return optimizer, make(optimizer, total_steps=20, steps_per_epoch=5)

    optimizer, schedule = built()
    rates = []
    for step in range(20):
        if step == 7:
            saved = (optimizer.state_dict(), schedule.state_dict())
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert all(0 <= rate <= 0.1 + 1e-12 for rate in rates)
    assert max(rates) > 0

    other, resumed = built()
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    for step in range(7, 20):
        assert other.param_groups[0]["lr"] == rates[step]
        other.step()
        resumed.step()


@pytest.mark.parametrize("option", options("transform"))
def test_a_transform_keeps_the_contract_of_samples(option: str):
    transform = experiment(f"transform={option}", "dataset.crop_size=48").transform
    random = np.random.default_rng(0)
    image, mask = random.integers(0, 255, (2, 48, 48, 3), np.uint8), random.integers(0, 7, (2, 48, 48), np.uint8)

    class TwoSamples:
        labels = LabelSpace(tuple("abcdefg"), ((0, 0, 0),) * 7)

        def __len__(self) -> int:
            return 2

        def read(self, index: int) -> Sample:
            return Sample(image[index].copy(), mask[index].copy(), str(index))

    made = [apply_transform(transform, TwoSamples(), 1, seed=5) for _ in range(2)]
    augmented = made[0]
    assert augmented.id == "1"
    assert augmented.image.dtype == np.uint8
    assert augmented.image.shape == (48, 48, 3)
    assert augmented.mask.dtype == np.uint8
    assert set(np.unique(augmented.mask)) <= {*range(7), 255}
    assert np.array_equal(made[1].image, augmented.image)


@pytest.mark.parametrize("option", options("predictor"))
def test_a_predictor_predicts_what_its_model_predicts(option: str):
    def model(images: torch.Tensor) -> Prediction:
        # Logits that depend on each pixel alone, at full size: every predictor must find them again.
        return Prediction(images.float() / 255)

    values = compose(f"predictor={option}")
    predictor = instantiate.build(values["predictor"], "predictor", supplied=["model"])(model=model)
    images = torch.randint(0, 256, (2, 3, 70, 90), dtype=torch.uint8)
    torch.testing.assert_close(predictor(images).logits, images / 255.0)


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


def test_the_label_space_is_written_once_and_supplied_everywhere():
    made = experiment(
        "dataset.num_classes=5", "dataset.ignore_index=77", "dataset.class_names=null", "dataset.colors=null"
    )
    assert not {"num_classes", "ignore_index"} & (made.recipe.node("model") | made.recipe.node("loss")).keys()
    loss: Any = made.loss()
    assert (loss.num_classes, loss.ignore_index) == (5, 77)
    assert made.model()(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).logits.shape[1] == 5
    assert made.transform.ignore_index == 77


def test_no_two_options_of_a_group_are_the_same_file(tmp_path: Path):
    for group in groups():
        texts = [(CONF / group / f"{option}.yaml").read_text() for option in options(group)]
        assert len(set(texts)) == len(texts), group
