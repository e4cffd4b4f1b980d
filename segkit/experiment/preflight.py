"""One checked call of model, predictor and loss before the first step, so that what a user has written is told at once.

Nothing is left behind: no gradient, no statistics of batch norm, no random number drawn.
"""

from __future__ import annotations

import random
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segkit.contracts import (
    Batch,
    DataError,
    LabelSpace,
    Loss,
    LossTerms,
    Prediction,
    Predictor,
    QueryPrediction,
    Sample,
    Strategy,
    Targets,
    Task,
)
from segkit.engine import memory
from segkit.errors import RunFailure, UserError
from segkit.metrics import probing
from segkit.metrics.torchmetric import ListedMetric

MODEL = "model(images: Tensor) -> segkit.contracts.Prediction"
PREDICTOR = "predictor(images: Tensor) -> segkit.contracts.Prediction"
LOSS = "loss(prediction: segkit.contracts.Prediction, batch: segkit.contracts.Batch) -> segkit.contracts.LossTerms"

EDGE = 64
"""Of the images that are tried first; models that take images of some sizes only are tried with those of training."""


def check(
    model: nn.Module,
    loss: Loss,
    make_predictor: Callable[[nn.Module], Predictor],
    *,
    task: Task,
    in_channels: int,
    strategy: Strategy,
    sample: Callable[[], Sample],
    evaluates_loss: bool = True,
) -> None:
    """Call all three as training and evaluation will. Raises UserError for one that cannot be called, or gives other
    things than it should.

    Args:
        sample: reads a sample as it is trained on; asked for only when images of `EDGE` pixels do not do.
        evaluates_loss: whether the loss is computed in evaluation too.
    """
    with undisturbed(strategy.device, model, *([loss] if isinstance(loss, nn.Module) else [])):
        images = torch.randint(256, (2, in_channels, EDGE, EDGE), dtype=torch.uint8, device=strategy.device)
        model.train()
        try:
            prediction = _called(model, MODEL, "model", strategy, images)
        except UserError:
            images = _like(sample, images)
            prediction = _called(model, MODEL, "model", strategy, images)
        _check_prediction(prediction, "model", model, MODEL, images, task.labels)
        batch = Batch(images, Targets(_mask(task, images)), tuple(map(str, range(len(images)))))
        with torch.enable_grad():
            leaves = _leaves(prediction)
            terms = _called(loss, LOSS, "loss", None, prediction, batch)
            _check_terms(terms, loss)
            _check_gradient(terms.total, leaves, loss)
        model.eval()
        predictor = _called(make_predictor, "predictor(model)", "predictor", None, model)
        with torch.inference_mode():
            prediction = _called(predictor, PREDICTOR, "predictor", strategy, images[:1])
            _check_prediction(prediction, "predictor", predictor, PREDICTOR, images[:1], task.labels)
            if evaluates_loss:
                _check_terms(_called(loss, LOSS, "loss", None, prediction, batch[:1]), loss)


def check_metrics(metrics: Iterable[ListedMetric]) -> None:
    """Raise UserError for a listed metric that cannot score what an evaluation gives it."""
    with undisturbed(torch.device("cpu")):
        for metric in metrics:
            probing.check(metric)


def check_class_weights(key: str, losses: Sequence[Loss], task: Task) -> None:
    """Raise UserError if `losses`, which differ in the class weights at `key` alone, give the same of random logits."""
    classes = task.labels.num_classes
    with undisturbed(torch.device("cpu")):
        mask = task.example(2, (16, 16))
        mask = torch.randint(2 if mask.ndim == 4 else classes, mask.shape)
        logits = torch.randn(2, classes, 16, 16)
        queries = [QueryPrediction(torch.randn(2, classes, classes + 1), logits)]
        batch = Batch(torch.zeros(2, 3, 16, 16, dtype=torch.uint8), Targets(mask), ("0", "1"))
        try:
            totals = [loss(Prediction(logits, {}, queries), batch).total for loss in losses]
        except Exception:  # whoever calls it with a prediction of the model says so
            return
    if all(torch.equal(total, totals[0]) for total in totals):
        raise UserError(f"{key}: {kind(losses[0])} gives the same with any class weights; allowed: null")


def as_module(built: Any, key: str) -> nn.Module:
    """What a node has built, if it is a module. Raises UserError else."""
    if not isinstance(built, nn.Module):
        raise UserError(
            f"{key}._target_ gives {described(built)}; expected is a torch.nn.Module, called as\n"
            f"  {MODEL if key == 'model' else LOSS}"
        )
    return built


@contextmanager
def undisturbed(device: torch.device, *modules: nn.Module) -> Generator[None]:
    """Puts random generators, buffers and modes back to what they were, and computes without gradients or warnings."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    buffers = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
    modes = [(part, part.training) for module in modules for part in module.modules()]
    searches = torch.backends.cudnn.benchmark
    try:
        torch.backends.cudnn.benchmark = False  # nothing is worth a search for the fastest algorithm
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            torch.no_grad(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.cudnn.benchmark = searches
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        for part, mode in modes:
            part.training = mode
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def _like(sample: Callable[[], Sample], images: Tensor) -> Tensor:
    """Images of the size and the type of a sample; those given if there is none to be had."""
    try:
        image = torch.from_numpy(np.ascontiguousarray(sample().image)).movedim(-1, 0)
    except DataError:  # whoever reads it in training says so
        return images
    return torch.stack([image, image.flip(-1)]).to(images.device)


def _mask(task: Task, images: Tensor) -> Tensor:
    """An example with a row of ignored pixels."""
    labels, mask = task.labels, task.example(len(images), images.shape[-2:])
    mask[..., 0, :] = labels.ignore_index
    return mask.to(torch.uint8 if labels.mask_dtype is np.uint8 else torch.int32).to(images.device)


def _leaves(prediction: Prediction) -> list[Tensor]:
    """The tensors of a prediction, which are replaced in it by copies that gradients are asked of."""

    def leaf(tensor: Tensor) -> Tensor:
        leaves.append(tensor.detach().clone().requires_grad_())
        return leaves[-1]

    leaves: list[Tensor] = []
    prediction.logits = leaf(prediction.logits)
    prediction.auxiliary = {name: leaf(logits) for name, logits in prediction.auxiliary.items()}
    prediction.queries = [QueryPrediction(leaf(q.class_logits), leaf(q.mask_logits)) for q in prediction.queries]
    return leaves


def _called(part: Any, signature: str, key: str, strategy: Strategy | None, *arguments: Any) -> Any:
    """What the call gives. Raises UserError, with the place in the code, for whatever it raises."""
    try:
        if strategy is None:
            return part(*arguments)
        with strategy.autocast():
            return part(*arguments)
    except (UserError, RunFailure):
        raise
    except Exception as error:
        if memory.is_shortage(error):
            raise
        given = " and ".join(described(argument) for argument in arguments)
        raise UserError(
            f"{key} ({kind(part)}) cannot be called as\n  {signature}\nwith {given}:\n"
            f"{type(error).__name__}: {str(error).strip()}{_place(error)}\n"
            "HYDRA_FULL_ERROR=1 before the command shows the traceback."
        ) from error


def _place(error: Exception) -> str:
    """The innermost line of code that is neither of an installed package nor of this file, if there is any."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    frames = [f for f in frames if "site-packages" not in Path(f.filename).parts]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


def _check_prediction(prediction: Any, key: str, part: Any, signature: str, images: Tensor, labels: LabelSpace) -> None:
    given = f"{key} ({kind(part)}) gave"
    if not isinstance(prediction, Prediction):
        raise UserError(
            f"{given} {described(prediction)}; expected of\n  {signature}\nis Prediction(logits) with logits (B, "
            f"{labels.num_classes}, h, w) at any stride"
        )
    batch, classes = len(images), labels.num_classes
    auxiliary: Any = prediction.auxiliary
    if not isinstance(auxiliary, Mapping):
        raise UserError(f"{given} Prediction.auxiliary that is {described(auxiliary)}; expected is a dict of logits")
    for name, logits in {"logits": prediction.logits, **{f"auxiliary[{n!r}]": v for n, v in auxiliary.items()}}.items():
        found = f"{given} Prediction.{name} that is {described(logits)} for images {tuple(images.shape)}"
        if not isinstance(logits, Tensor) or not logits.is_floating_point() or logits.ndim != 4:
            raise UserError(f"{found}; expected are floating-point logits ({batch}, {classes}, h, w)")
        if logits.shape[:2] != (batch, classes):
            raise UserError(
                f"{found}; expected is ({batch}, {classes}, h, w): one channel for each of the "
                f"{classes} classes of the data set (dataset.num_classes)"
            )


def _check_terms(terms: Any, loss: Any) -> None:
    given = f"loss ({kind(loss)}) gave"
    expected = f"expected of\n  {LOSS}\nis LossTerms(total, parts) with a scalar total, and parts scalars by name"
    if not isinstance(terms, LossTerms):
        raise UserError(f"{given} {described(terms)}; {expected}")
    parts: Any = terms.parts
    if not isinstance(parts, Mapping):
        raise UserError(f"{given} LossTerms.parts that is {described(parts)}; {expected}")
    for name, value in {"total": terms.total, **{f"parts[{name!r}]": value for name, value in parts.items()}}.items():
        if not isinstance(value, Tensor) or value.ndim or not value.is_floating_point():
            raise UserError(f"{given} LossTerms.{name} that is {described(value)}; {expected}")


def _check_gradient(total: Tensor, leaves: Sequence[Tensor], loss: Any) -> None:
    found = [None]
    if total.requires_grad:
        found = _called(lambda: torch.autograd.grad(total, leaves, allow_unused=True), LOSS, "loss", None)
    if all(gradient is None for gradient in found):
        raise UserError(
            f"loss ({kind(loss)}) gave LossTerms.total without a gradient for any logits: nothing could be learnt "
            "from it; expected is a function of Prediction.logits that is not detached"
        )


def kind(part: Any) -> str:
    """The class of `part`, and of the head or model in it, as a user names them."""
    named = getattr(part, "func", type(part))  # what a partial is of
    name = f"{named.__module__}.{named.__qualname__}"
    inner = {key: getattr(part, key, None) for key in ("head", "model")}
    return name + "".join(f" with {key} {kind(value)}" for key, value in inner.items() if isinstance(value, nn.Module))


def described(value: Any) -> str:
    """What `value` is, for people to read: its type, and the shape of tensors in it."""
    if isinstance(value, Batch):
        return f"a Batch of images, {described(value.images)}, with targets.mask, {described(value.mask)}"
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor {tuple(value.shape)}"
    if isinstance(value, (list, tuple)) and value:
        return f"a {type(value).__name__} of {described(value[0])}" + (" and more" if len(value) > 1 else "")
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with keys {', '.join(map(str, value))}"
    return "None" if value is None else f"a {type(value).__name__}"
