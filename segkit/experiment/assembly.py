"""One experiment: the parts that its recipe names, for whoever trains, evaluates, predicts or measures."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Any

from torch import nn

from segkit.config.recipe import Recipe
from segkit.config.schema import TrainerSettings
from segkit.contracts import LabelSpace, Loss, Predictor, ReadingTransform, SampleSource, Strategy, Task, Transform
from segkit.data.datasets.decoded_cache import with_decoded_cache
from segkit.data.datasets.source import Split
from segkit.data.loader import EvaluationLoader, TrainLoader, default_workers
from segkit.data.splits import Splitting
from segkit.data.transforms.mask_probe import check_masks
from segkit.engine.cadence import total_steps
from segkit.engine.components import CompiledForward, Learning
from segkit.engine.ema import Ema
from segkit.engine.evaluator import Evaluator
from segkit.engine.strategy.single_device import Precision
from segkit.errors import DataError
from segkit.experiment import autobatch, computed_weights, mean_and_std, preflight
from segkit.experiment.resolved import Kept, Resolved
from segkit.metrics.torchmetric import ListedMetric
from segkit.tasks.kinds import task_of

log = logging.getLogger(__name__)


class Experiment:
    """What a recipe describes, with what data and machine decide; each part is built when it is first asked for.

    Args:
        recipe: the config.
        resolved: what was decided when training began; None: it is decided here, from the training split.
        labels: the label space; None: that of the training split.
        device: another than the recipe's.
        precision: another than the recipe's.
        kept: what is decided already.
    """

    def __init__(
        self,
        recipe: Recipe,
        resolved: Resolved | None = None,
        labels: LabelSpace | None = None,
        *,
        device: str | None = None,
        precision: Precision | None = None,
        kept: Kept | None = None,
    ) -> None:
        self.recipe = recipe
        self._device = device or recipe.settings.trainer.device
        self._precision: Precision = precision or recipe.settings.trainer.precision
        self._kept = kept or Kept()
        self._sources: dict[str, SampleSource] = {}
        self._split_digest = None if resolved is None else resolved.split_digest
        if resolved is not None:
            self.resolved = resolved
        if labels is not None:
            self.labels = labels

    @cached_property
    def options(self) -> TrainerSettings:
        """The trainer's settings, with the batch size that was decided."""
        batch_size = self.resolved.batch_size
        options = self.recipe.settings.trainer
        return options if batch_size is None else options.model_copy(update={"batch_size": batch_size})

    @cached_property
    def strategy(self) -> Strategy:
        return self.recipe.replaced(
            {"trainer.strategy.device": self._device, "trainer.strategy.precision": self._precision}
        ).build("trainer.strategy")

    @cached_property
    def labels(self) -> LabelSpace:
        return self.source("train").labels

    @cached_property
    def task(self) -> Task:
        return task_of(self.labels)

    @property
    def in_channels(self) -> int:
        return int(self.recipe.values["dataset"].get("in_channels", 3))

    @cached_property
    def splitting(self) -> Splitting:
        """The splits; those of a training that is over only as long as they are the same lists of samples."""
        recipe, digest = self.recipe, self._split_digest
        return (recipe if digest is None else recipe.replaced({"split.digest": digest})).build("split")

    def source(self, split: Split) -> SampleSource:
        """The samples of a split. Raises DataError listing files that cannot be used, or warns of them only."""
        if split not in self._sources:
            source = self.splitting(lambda *, split: self.recipe.build("dataset", split=split), split)
            _check_files(source)
            self._sources[split] = source
        return self._sources[split]

    @cached_property
    def transform(self) -> Transform | ReadingTransform:
        transform = self.recipe.build("transform", filled=self.labels.parameters)
        check_masks(transform, self.labels, self.in_channels)
        return transform

    @cached_property
    def resolved(self) -> Resolved:
        """Counted, looked up and measured, now."""
        source = self.source("train")
        images = mean_and_std.image_kind(source)
        decided = Resolved(
            class_weights=computed_weights.counted(self.recipe, source),
            images=images,
            normalization=mean_and_std.decide(self.recipe.values, images, self._kept.normalization),
            batch_size=self._kept.batch_size or self.recipe.settings.trainer.batch_size,
            split_digest=self.splitting.digest,
        )
        if self.recipe.settings.trainer.autobatch and self._kept.batch_size is None:
            return autobatch.settled(self.recipe, decided, source, self.transform)
        return decided

    def filled(self) -> dict[str, Any]:
        """What the data decide for parameters that the config leaves out."""
        normalization = self.resolved.normalization
        decided = {} if normalization is None else {"mean": list(normalization.mean), "std": list(normalization.std)}
        return self.labels.parameters | decided

    def model(self) -> nn.Module:
        """The model, untrained but for pretrained weights, on its device."""
        model = preflight.as_module(self.recipe.build("model", filled=self.filled()), "model")
        return self.strategy.prepare(model, channels_last=self.recipe.settings.trainer.channels_last)

    def loss(self) -> nn.Module:
        weighted = self.recipe.replaced(self.resolved.class_weights)
        loss = preflight.as_module(weighted.build("loss", filled=self.labels.parameters), "loss")
        return loss.to(self.strategy.device)

    def _require_use_of_class_weights(self) -> None:
        """Raises UserError for class weights that their loss does not read."""
        weighted = self.recipe.replaced(self.resolved.class_weights)
        for key in self.recipe.class_weight_keys:
            tries = [weighted.replaced({key: weights}) for weights in (None, self._unlike_weights)]
            losses = [each.build("loss", filled=self.labels.parameters) for each in tries]
            preflight.check_class_weights(key, losses, self.task)

    @property
    def _unlike_weights(self) -> list[float]:
        return [float(number) for number in range(1, self.labels.num_classes + 1)]

    def components(self, steps_per_epoch: int) -> Learning:
        """What learns, and by what rule."""
        options, model = self.options, self.model()
        loss = self.loss()
        self._require_use_of_class_weights()
        optimizer = self.recipe.build("optimizer", model=model)
        steps = total_steps(options, steps_per_epoch)
        schedule = self.recipe.build(
            "scheduler", optimizer=optimizer, total_steps=steps, steps_per_epoch=steps_per_epoch
        )
        ema = None if options.ema.decay is None else Ema(model, options.ema.decay)
        forward = CompiledForward(model, options.batch_size) if options.compile else model
        return Learning(model, loss, optimizer, schedule, ema, forward)

    def predictor(self, model: nn.Module) -> Predictor:
        return self.recipe.build("predictor", model=model)

    def train_loader(self) -> TrainLoader:
        options, source = self.options, self.source("train")
        return TrainLoader(
            with_decoded_cache(source),
            self.transform,
            batch_size=options.batch_size,
            accumulate=options.accumulate,
            seed=self.recipe.settings.seed,
            num_workers=self._num_workers,
            on_error=source.on_error,
            pin_memory=self.strategy.device.type == "cuda",
            timeout_s=options.data_timeout_s,
        )

    def evaluator(self, split: Split, *, loss: Loss | None, make_predictor: Any = None) -> Evaluator:
        """The evaluator of one split; training and `scripts/evaluate.py` both use this one.

        `make_predictor` makes a predictor of a model; None: the recipe's.
        """
        source, options, device = self.source(split), self.options, self.strategy.device
        metrics = self.metrics()
        preflight.check_metrics(metrics.values())
        listed = self.recipe.settings.metrics
        return Evaluator(
            EvaluationLoader(
                source,
                split=split,
                batch_size=options.evaluate.batch_size,
                num_workers=self._num_workers,
                on_error=source.on_error,
                pin_memory=device.type == "cuda",
                timeout_s=options.data_timeout_s,
            ),
            make_predictor or self.predictor,
            self.task,
            {name: metric for name, metric in metrics.items() if split in listed[name].splits},
            loss,
            options.evaluate.panel_samples,
        )

    def metrics(self) -> dict[str, ListedMetric]:
        """The metrics that the config lists, of all splits."""
        return {
            name: ListedMetric(
                self.recipe.build(f"metrics.{name}.metric", filled=self.labels.parameters),
                name=name,
                task=self.task,
                input=metric.input,
            )
            for name, metric in self.recipe.settings.metrics.items()
        }

    @property
    def _num_workers(self) -> int:
        asked = self.options.num_workers
        return default_workers(self.strategy.device.type) if asked is None else asked


def _check_files(source: SampleSource) -> None:
    try:
        source.check()
    except DataError as error:
        if source.on_error == "raise":
            raise
        log.warning("%s\ndataset.on_error=skip: samples with files that cannot be used will be skipped", error)
