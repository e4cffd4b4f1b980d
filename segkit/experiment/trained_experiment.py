"""The experiment of a checkpoint: what was decided when it was trained is read back instead of decided anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from segkit.config.recipe import Recipe, Trust
from segkit.contracts import LabelSpace, Strategy
from segkit.engine import memory
from segkit.engine.strategy.single_device import Precision, SingleDevice
from segkit.errors import UserError
from segkit.experiment.assembly import Experiment
from segkit.experiment.resolved import Resolved
from segkit.run import checkpoint
from segkit.run.stored_config import stored_config


class TrainedExperiment(Experiment):
    """The experiment whose checkpoint lies at `path`, as it was when that was saved.

    Attributes:
        path: the checkpoint file.
        content: what is in it.
    """

    def __init__(self, path: Path, content: Mapping[str, Any], *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.path = path
        self.content = content

    @cached_property
    def strategy(self) -> Strategy:
        """One device, whatever the training ran on."""
        return SingleDevice(self._device, self._precision)

    @property
    def step(self) -> int:
        return int(self.content["state"]["step"])

    def changed(
        self,
        changes: Mapping[str, Any],
        *,
        device: str | None = None,
        precision: Precision | None = None,
    ) -> TrainedExperiment:
        """The same with other values at dotted keys of its config, such as where the data lie on this machine."""
        return TrainedExperiment(
            self.path,
            self.content,
            self.recipe.replaced(changes),
            self.resolved,
            self.labels,
            device=device or self._device,
            precision=precision or self._precision,
        )

    def trained_model(self) -> nn.Module:
        """The model with the weights of this checkpoint, the averaged ones if the run averaged them, on its device.

        Raises UserError for weights that do not fit the config, and RunFailure if memory runs out.
        """
        with memory.shortage_told("loading the model", ["device=cpu"], self.strategy.device):
            model = self.model()
            ema = self.content.get("ema")
            try:
                model.load_state_dict(self.content["model"] if ema is None else ema["model"])
            except (RuntimeError, TypeError, AttributeError) as error:
                raise UserError(
                    f"{self.path}: the weights do not fit the model of the stored config: {error}"
                ) from None
            return model.eval()


def of_checkpoint(
    path: str | Path, *, device: str = "auto", precision: Precision | None = None, trust: Sequence[str] = ()
) -> TrainedExperiment:
    """The experiment of a run folder (its best checkpoint, else its newest whole one), or of a checkpoint file.

    Args:
        device: where it is to run; what the training ran on does not count.
        precision: None: that of the training.
        trust: prefixes of modules whose classes the stored config may name beside those of segkit.

    Raises UserError when there is none, when it is damaged, or when its stored config is not a config.
    """
    file, content = checkpoint.resolve(Path(path), prefer="best.pt")
    try:
        config = stored_config(content)
        _forget_pretrained_weights(config["model"])
        labels, resolved = LabelSpace.from_dict(content["labels"]), _resolved(content, config)
        if missing := {"model", "precision", "state"} - content.keys():
            raise KeyError(*sorted(missing))
        recipe = Recipe.of(config, Trust(of_file=True, modules=tuple(trust)))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{file}: the checkpoint carries no usable config and label space ({error})") from None
    return TrainedExperiment(
        file, content, recipe, resolved, labels, device=device, precision=precision or content["precision"]
    )


def _resolved(content: Mapping[str, Any], config: dict[str, Any]) -> Resolved:
    """What was decided; version 0.1 wrote it into the config."""
    if "resolved" in content:
        return Resolved.from_dict(content["resolved"])
    config.pop("computed", None)
    config.setdefault("split", {"_target_": "segkit.data.splits.Official"})
    return Resolved()


WEIGHT_FILES = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay")
"""Arguments of timm that name files and addresses to load."""


def _forget_pretrained_weights(node: Any) -> None:
    """The checkpoint brings all weights: nothing is to be fetched, and no file of the training machine is needed."""
    for value in node.values() if isinstance(node, dict) else node:
        if isinstance(value, dict | list):
            _forget_pretrained_weights(value)
    if isinstance(node, dict):
        if node.get("pretrained"):
            node["pretrained"] = False
        if "weights" in node:
            node["weights"] = None
        for name in WEIGHT_FILES:
            node.pop(name, None)
