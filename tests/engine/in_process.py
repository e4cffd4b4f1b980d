"""Runs in the test's own process: PyTorch is imported once, and what a run is made of can be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import hydra
from omegaconf import OmegaConf

from segkit.config.recipe import Recipe
from segkit.engine.trainer import Trainer
from segkit.experiment import resuming
from segkit.experiment.assembly import Experiment
from segkit.experiment.training import make_trainer
from segkit.run.run_folder import RunFolder
from tests.conftest import REPOSITORY

TINY = (
    "backbone=timm dataset.image_size=32 dataset.crop_size=32 dataset.num_train=16 dataset.num_val=2 tracker=none "
    "trainer.batch_size=4 trainer.evaluate.panel_samples=0 "
    "trainer.precision=fp32 trainer.device=cpu trainer.progress=off"
).split()
# The same on a data set of files.
TINY_ON_FILES = [setting for setting in TINY if not setting.startswith("dataset.")]
SMALL_HEAD = "backbone.name=test_resnet model/head=fcn model.head.channels=16".split()


def trainer_of(folder: Path, *arguments: str, tiny: Sequence[str] = TINY) -> Trainer:
    """A trainer of a tiny run into `folder`, ready to fit; give it to `finish` in the end."""
    OmegaConf.register_new_resolver("pid", lambda: 0, replace=True)
    with hydra.initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        recipe = Recipe.of(hydra.compose("train", [*tiny, *arguments]))
    run_folder = RunFolder(folder)
    earlier = resuming.find(recipe.settings.resume, run_folder)
    experiment = Experiment(recipe, kept=resuming.kept(earlier, recipe))
    trainer = make_trainer(experiment, run_folder, earlier=earlier)
    if earlier is not None:
        resuming.go_on(trainer, earlier, resuming.check_config(earlier, recipe))
    return trainer


def finish(trainer: Trainer) -> None:
    trainer.data.close()
    trainer.evaluator.data.close()
    trainer.recording.folder.close()
