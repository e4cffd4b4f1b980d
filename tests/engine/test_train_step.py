"""What a step does not do: wait for the device, or break the compiled graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from segkit.engine.components import CompiledForward
from segkit.errors import UserError
from tests.conftest import REPOSITORY
from tests.engine.in_process import SMALL_HEAD, finish, trainer_of

# Operators whose result the host needs to go on, so that it waits for the device.
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal.", "bincount")


class Waits(TorchDispatchMode):
    """Notes every operator that waits for its result; `.item()`, `float(tensor)` and `if tensor` are among them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.")
        selects = name.startswith("index") and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for index in (args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ())
        )
        if name.startswith(WAITS) or selects:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def test_the_counter_counts():
    with Waits() as waits:
        value = torch.tensor([1.0, 2.0])
        value.sum().item()
        value[value > 1]
        bool(value.sum() > 0)
    assert waits.seen == ["_local_scalar_dense.default", "index.Tensor", "_local_scalar_dense.default"]


@pytest.mark.parametrize(
    "options",
    [
        ["loss=combined"],
        ["loss=focal", "optimizer=sgd", "scheduler=onecycle"],
        ["trainer.ema.decay=0.9", "trainer.accumulate=2", "trainer.clip_norm=1.0"],
        ["model/auxiliary=fcn", "loss=dice_bce", "optimizer=padam"],
        ["loss=ce", "optimizer=lion", "scheduler=plateau"],
    ],
    ids=" ".join,
)
def test_no_step_waits_for_the_device(tmp_path: Path, options: list[str]):
    trainer = trainer_of(tmp_path, *SMALL_HEAD, *options)
    batches = trainer.data.batches(0)
    steps = [next(batches) for _ in range(3)]
    with Waits() as waits:
        for micro_batches in steps:
            trainer.train_step(micro_batches)
    finish(trainer)
    assert waits.seen == []


class Operators(TorchDispatchMode):
    """Counts operators by name."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[str(func)] += 1
        return func(*args, **(kwargs or {}))


OPTIMIZERS = sorted(path.stem for path in (REPOSITORY / "conf" / "optimizer").glob("*.yaml") if path.stem != "timm")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers_take_all_parameters_at_once(tmp_path: Path, optimizer: str):
    """A step of one operator after the other for each parameter has six or more for each; timm's Lion has its sign."""
    trainer = trainer_of(tmp_path, *SMALL_HEAD, f"optimizer={optimizer}")
    batches = trainer.data.batches(0)
    trainer.train_step(next(batches))  # makes the state, parameter by parameter
    learning = trainer.learning
    for parameter in learning.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    with Operators() as operators:
        learning.optimizer.step()
    finish(trainer)
    num_parameters = sum(len(group["params"]) for group in learning.optimizer.param_groups)
    assert num_parameters > 20
    assert any(name.startswith(("aten._fused_", "aten._foreach_")) for name in operators.seen)
    assert operators.seen.total() < 2 * num_parameters


def test_skipping_what_is_not_finite_waits_once_a_step(tmp_path: Path):
    trainer = trainer_of(tmp_path, *SMALL_HEAD, "trainer.non_finite.policy=skip")
    step = next(trainer.data.batches(0))
    with Waits() as waits:
        trainer.train_step(step)
    finish(trainer)
    assert waits.seen == ["_local_scalar_dense.default"]


def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace and guard as usual, but run the graph as it is: the C++ compiler takes minutes and is not in question."""
    compiled: Callable[..., Any] = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compiled(model, backend="aot_eager", fullgraph=True))


MASKED_BLOCKS = 3  # of EoMT on test_vit, which end their masking one by one: each end is another graph
MODELS = {
    "default": ["backbone=timm", "backbone.name=test_resnet"],
    "auxiliary": ["backbone=timm", "backbone.name=test_resnet", "model/head=fcn", "model/auxiliary=fcn"],
    "checkpointing": ["backbone=resnet18", "model/head=fcn", "backbone.gradient_checkpointing=true"],
    "eomt": ["model=eomt", "backbone.name=test_vit", "model.num_queries=8", "loss=set_prediction"],
}


@pytest.mark.parametrize("model", MODELS)
def test_the_compiled_model_is_one_graph_and_is_compiled_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
):
    """18 images in batches of 4: two epochs, each with a last and smaller batch, and evaluations in between."""
    _eager(monkeypatch)
    torch._dynamo.reset()
    counts = torch._dynamo.utils.counters
    counts.clear()
    size = ["dataset.num_train=18", "trainer.max_epochs=2", "trainer.compile=true"]
    trainer = trainer_of(tmp_path, *MODELS[model], *size)
    names = list(trainer.learning.model.state_dict())
    trainer.fit()
    finish(trainer)
    assert counts["stats"]["unique_graphs"] <= (1 if model != "eomt" else 1 + MASKED_BLOCKS)
    assert not counts["graph_break"]
    assert not any("_orig_mod" in name for name in names)


def test_shapes_that_were_not_compiled_for_go_through_the_model_itself(monkeypatch: pytest.MonkeyPatch):
    calls: list[tuple[str, int]] = []

    class Model(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            calls.append(("model", len(images)))
            return images

    def noted(model: nn.Module) -> Any:
        return lambda images: calls.append(("compiled", len(images)))

    monkeypatch.setattr(torch, "compile", noted)
    forward = CompiledForward(Model(), batch_size=4)
    for shape in [(2, 3, 8, 8), (4, 3, 8, 8), (4, 3, 8, 8), (4, 3, 9, 9), (3, 3, 8, 8)]:
        forward(torch.zeros(shape))
    assert calls == [("model", 2), ("compiled", 4), ("compiled", 4), ("model", 4), ("model", 3)]


def test_without_a_compiler_the_user_is_told_which(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"trainer\.compile=true.*C\+\+ compiler.*g\+\+"):
        CompiledForward(nn.Identity(), batch_size=4)


def test_gradient_checkpointing_counts_a_batch_once_in_the_statistics(tmp_path: Path):
    """The backward pass runs a checkpointed stage again, batch norms included."""
    states: list[dict[str, torch.Tensor]] = []
    for checkpointing in ("false", "true"):
        options = ["backbone=resnet18", "model/head=fcn", f"backbone.gradient_checkpointing={checkpointing}"]
        trainer = trainer_of(tmp_path / checkpointing, *options, "trainer.accumulate=2", "trainer.deterministic=true")
        trainer.train_step(next(trainer.data.batches(0)))
        finish(trainer)
        states.append(trainer.learning.model.state_dict())
    plain, recomputed = states
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)
    assert plain["backbone.net.layer1.0.bn1.num_batches_tracked"] == 2
