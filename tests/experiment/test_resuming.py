"""A run that goes on with another command line or other data: what changed takes effect, or is refused by name."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segkit.cli import evaluate, train
from segkit.engine.trainer import Trainer
from segkit.errors import RunFailure, UserError
from segkit.experiment import resume_rules
from segkit.experiment.resume_rules import changes, rule_of
from segkit.run import checkpoint
from tests.conftest import REPOSITORY, Ended, losses, records, summary
from tests.engine.in_process import SMALL_HEAD, TINY_ON_FILES, finish, trainer_of
from tests.test_old_checkpoints import write_discs

# 16 images in batches of 4: epochs of 4 steps, 12 in all.
RUN = (*SMALL_HEAD, "trainer.max_epochs=3", "trainer.log_sample_ids=true", "optimizer=sgd", "optimizer.lr=0.1")


def stopped_after(folder: Path, steps: int, *arguments: str, **keys: Any) -> Path:
    trainer = trainer_of(folder, *RUN, *arguments, f"trainer.stop_after_steps={steps}", **keys)
    assert trainer.fit() == "stopped"
    finish(trainer)
    return folder


@pytest.fixture(scope="module")
def six_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run stopped in the middle of its second epoch."""
    return stopped_after(tmp_path_factory.mktemp("stopped") / "run", 6)


Resumed = Callable[..., Trainer]


@pytest.fixture
def resumed(tmp_path: Path) -> Iterator[Resumed]:
    """Builds a trainer that goes on from a run folder, in one of its own."""
    built: list[Trainer] = []

    def go_on(run: Path, *arguments: str, **keys: Any) -> Trainer:
        built.append(trainer_of(tmp_path / f"resumed{len(built)}", *RUN, *arguments, f"resume={run}", **keys))
        return built[-1]

    yield go_on
    for trainer in built:
        finish(trainer)


def sample_ids(folder: Path) -> list[str]:
    return [name for record in records(folder, "train") for name in record["sample_ids"]]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("seed=1", "seed=1, was 0"),
        ("model.head.channels=8", "model.head.channels=8, was 16"),
        ("backbone.name=test_efficientnet", "backbone.name=test_efficientnet, was test_resnet"),
        ("optimizer=adamw", "optimizer.optimizer._target_=torch.optim.AdamW, was torch.optim.SGD"),
        ("optimizer.decay_norm_and_bias=true", "optimizer.decay_norm_and_bias=true, was false"),
        ("dataset.ignore_index=254", "dataset.ignore_index=254, was 255"),
        ("dataset.mean=[0.5,0.5,0.5]", "dataset.mean=[0.5, 0.5, 0.5], was [0.47, 0.46, 0.46]"),
        ("trainer.batch_size=2", "trainer.batch_size=2, was 4"),
        ("trainer.accumulate=2", "trainer.accumulate=2, was 1"),
        ("trainer.checkpoint.monitor=loss", "trainer.checkpoint.monitor=loss, was miou"),
    ],
)
def test_what_cannot_change_is_refused_by_name(six_steps: Path, resumed: Resumed, change: str, told: str):
    with pytest.raises(UserError) as error:
        resumed(six_steps, change)
    assert told in str(error.value)
    assert "docs/resume.md" in str(error.value)


@pytest.mark.parametrize("change", ["dataset.num_train=15", "dataset.num_val=3", "split=kfold split.folds=2"])
def test_other_data_are_refused_unless_asked_for(six_steps: Path, resumed: Resumed, change: str):
    with pytest.raises(UserError, match="resume_changed_data=true"):
        resumed(six_steps, *change.split())


def test_a_step_may_be_made_of_smaller_batches(six_steps: Path, resumed: Resumed, tmp_path: Path):
    """2 micro-batches of 2 are the 4 images of a step: none of the 16 of the epoch comes twice."""
    trainer = resumed(six_steps, "trainer.batch_size=2", "trainer.accumulate=2", "trainer.stop_after_steps=2")
    trainer.fit()
    epoch = sample_ids(six_steps)[16:] + sample_ids(tmp_path / "resumed0")
    assert sorted(epoch) == [f"train/{index:04d}" for index in range(16)]


@pytest.mark.parametrize(
    ("schedule", "rate"),
    [
        ("constant", lambda lr, step: lr),
        ("poly", lambda lr, step: lr * (1 - step / 12) ** 0.9),
        ("torch scheduler.interval=step", lambda lr, step: lr * 0.95**step),
    ],
    ids=["constant", "poly", "torch"],
)
def test_a_changed_rate_is_what_the_schedule_makes_of_it(
    resumed: Resumed, tmp_path: Path, schedule: str, rate: Callable[[float, int], float]
):
    chosen = f"scheduler={schedule}".split()
    run = stopped_after(tmp_path / "run", 6, *chosen)
    trainer = resumed(run, *chosen, "optimizer.lr=0.01", "trainer.stop_after_steps=1")
    trainer.fit()
    assert [record["lr"] for record in records(run, "train")][-1] == pytest.approx(rate(0.1, 5))
    assert [record["lr"] for record in records(tmp_path / "resumed0", "train")] == pytest.approx([rate(0.01, 6)])


def test_with_a_plateau_the_reductions_of_before_stay(resumed: Resumed, tmp_path: Path):
    """Evaluated every step and never better by 9, the rate is divided by 10 at steps 3, 5, ... of 6."""
    plateau = "scheduler=plateau scheduler.scheduler.patience=1 scheduler.scheduler.threshold=9".split()
    run = stopped_after(tmp_path / "run", 6, *plateau, "trainer.evaluate.every_steps=1")
    before = checkpoint.read(run / "checkpoints" / "last.pt")["schedule"]["rates"]
    assert before[0] == pytest.approx(0.1 * 0.1**2)
    same, faster = resumed(run, *plateau), resumed(run, *plateau, "optimizer.lr=0.2")
    assert [group["lr"] for group in same.learning.optimizer.param_groups] == before
    assert [group["lr"] for group in faster.learning.optimizer.param_groups] == [pytest.approx(2 * b) for b in before]


@pytest.mark.parametrize(
    ("schedule", "rate"),
    [("constant", 0.1), ("plateau", 0.1), ("torch", 0.1 * 0.95), ("step scheduler.every_epochs=0.5", 1e-4)],
)
def test_another_schedule_than_poly_takes_effect(six_steps: Path, resumed: Resumed, schedule: str, rate: float):
    trainer = resumed(six_steps, *f"scheduler={schedule}".split())
    assert [group["lr"] for group in trainer.learning.optimizer.param_groups] == [pytest.approx(rate)] * 4


def test_what_an_optimizer_counts_in_its_groups_goes_on(resumed: Resumed, tmp_path: Path):
    """LAMB of timm keeps its number of steps there, for the correction of its moments."""
    lamb = ["optimizer=timm", "optimizer.optimizer.opt=lamb"]
    run = stopped_after(tmp_path / "run", 3, *lamb)
    trainer = resumed(run, *lamb, "optimizer.weight_decay=0.5")
    assert {int(group["step"]) for group in trainer.learning.optimizer.param_groups} == {3}
    assert {group["weight_decay"] for group in trainer.learning.optimizer.param_groups} == {0.5, 0.0}


def test_numbers_of_the_optimizer_take_effect_and_its_moments_stay(six_steps: Path, resumed: Resumed):
    trainer = resumed(six_steps, "optimizer.weight_decay=0.3", "optimizer.optimizer.momentum=0.5")
    groups = trainer.learning.optimizer.param_groups
    assert {group["weight_decay"] for group in groups} == {0.3, 0.0}  # none on norm layers and biases
    assert {group["momentum"] for group in groups} == {0.5}
    saved = checkpoint.read(six_steps / "checkpoints" / "last.pt")
    assert checkpoint.digest(trainer.learning.optimizer.state_dict()["state"]) == checkpoint.digest(
        saved["optimizer"]["state"]
    )


def test_another_loss_takes_effect(six_steps: Path, resumed: Resumed, caplog: pytest.LogCaptureFixture):
    with caplog.at_level("WARNING"):
        trainer = resumed(six_steps, "loss.dice_weight=0.0")
    assert trainer.learning.loss.dice_weight == 0.0  # pyright: ignore[reportAttributeAccessIssue]
    assert "loss.dice_weight=0.0, was 1.0: takes effect from step 7 on" in caplog.text


def test_the_loss_that_chooses_the_best_checkpoint_cannot_change(resumed: Resumed, tmp_path: Path):
    by_loss = ["trainer.checkpoint.monitor=loss", "trainer.checkpoint.mode=min"]
    run = stopped_after(tmp_path / "run", 1, *by_loss)
    with pytest.raises(UserError, match=r"loss\.dice_weight=0\.0, was 1\.0 \(best\.pt is chosen by loss\)"):
        resumed(run, *by_loss, "loss.dice_weight=0.0")


def test_an_average_that_was_not_kept_starts_from_the_weights_as_they_are(six_steps: Path, resumed: Resumed):
    trainer = resumed(six_steps, "trainer.ema.decay=0.9")
    weights = trainer.learning.model.state_dict()
    average = trainer.learning.evaluated_model.state_dict()
    assert average.keys() == weights.keys()
    assert all(torch.equal(average[name], weights[name]) for name in weights)


def test_what_is_free_is_not_mentioned(six_steps: Path, resumed: Resumed, caplog: pytest.LogCaptureFixture):
    with caplog.at_level("WARNING"):
        resumed(six_steps, "name=again", "trainer.num_workers=1", "trainer.progress=off", "dataset.epochs=6")
    assert "trainer.num_workers" not in caplog.text


def test_a_run_in_parts_is_the_run_in_one(tmp_path: Path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    stateful = ("trainer.ema.decay=0.9", "transform=default", "scheduler=onecycle", "trainer.evaluate.every_epochs=1.5")
    trainer = trainer_of(whole, *RUN, *stateful)
    assert trainer.fit() == "completed"
    finish(trainer)
    ends = []
    for _ in range(3):
        trainer = trainer_of(parts, *RUN, *stateful, "resume=auto", "trainer.stop_after_steps=5")
        ends.append(trainer.fit())
        finish(trainer)
    assert ends == ["stopped", "stopped", "completed"]
    assert losses(parts) == losses(whole)
    ours, theirs = (checkpoint.read(folder / "checkpoints" / "last.pt") for folder in (parts, whole))
    for part in ("state", "model", "ema", "optimizer", "schedule", "random"):
        assert checkpoint.digest(ours[part]) == checkpoint.digest(theirs[part]), part


ON_FILES = "dataset=folder dataset.num_classes=2 dataset.crop_size=32 dataset.cache_dir=null".split()
MAPPING = "dataset.class_mapping={0:0,128:255,255:1}"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_discs(tmp_path / "data")
    return tmp_path / "data"


def in_folder(data: Path, *arguments: str) -> list[str]:
    return [*ON_FILES, MAPPING, f"dataset.root={data}", *arguments]


def without_first(data: Path) -> None:
    for part in ("images", "masks"):
        (data / "train" / part / "0.png").unlink()


def test_changed_files_are_told_by_name(data: Path, tmp_path: Path, resumed: Resumed):
    run = stopped_after(tmp_path / "run", 2, *in_folder(data), tiny=TINY_ON_FILES)
    moved = data.rename(tmp_path / "moved")  # the same data elsewhere
    assert resumed(run, *in_folder(moved), tiny=TINY_ON_FILES).state.step == 2
    mask = np.array(Image.open(moved / "val" / "masks" / "3.png"))
    Image.fromarray(np.ascontiguousarray(mask[::-1])).save(moved / "val" / "masks" / "3.png")
    with pytest.raises(UserError, match="val: the same names, but other files or masks"):
        resumed(run, *in_folder(moved), tiny=TINY_ON_FILES)
    without_first(moved)
    with pytest.raises(UserError, match=r"train: 11 samples, were 12; 1 gone, such as train/images/0\.png"):
        resumed(run, *in_folder(moved), tiny=TINY_ON_FILES)
    assert resumed(run, *in_folder(moved), "resume_changed_data=true", tiny=TINY_ON_FILES).state.step == 2


def test_a_mask_of_the_same_size_on_disk_is_another_one(data: Path):
    """Uncompressed masks keep their size whatever they hold."""
    from segkit.data.datasets.folder import Folder

    def digest() -> str:
        source = Folder(split="val", root=str(data), num_classes=2, class_mapping={0: 0, 128: 255, 255: 1})
        return source.identity()["digest"]

    png = data / "val" / "masks" / "0.png"
    mask = np.array(Image.open(png))
    png.unlink()
    Image.fromarray(mask).save(png.with_suffix(".bmp"))
    before, size = digest(), png.with_suffix(".bmp").stat().st_size
    Image.fromarray(np.ascontiguousarray(mask[::-1])).save(png.with_suffix(".bmp"))
    assert png.with_suffix(".bmp").stat().st_size == size
    assert digest() != before


def test_folds_made_anew_do_not_evaluate_what_was_trained_on(data: Path, tmp_path: Path, resumed: Resumed):
    folds = in_folder(data, "split=kfold", "split.folds=3", "split.cache_dir=null")
    run = stopped_after(tmp_path / "run", 2, *folds, tiny=TINY_ON_FILES)
    assert resumed(run, *folds, tiny=TINY_ON_FILES).state.step == 2
    without_first(data)
    with pytest.raises(UserError, match=r"train/images/0\.png"):
        resumed(run, *folds, tiny=TINY_ON_FILES)


def test_a_run_with_a_class_mapping_is_evaluated_and_goes_on(data: Path, tmp_path: Path, call: Callable[..., Ended]):
    """From its checkpoint, whose keys are the numbers that they were; also with weights counted from the data."""
    line = [*TINY_ON_FILES, *SMALL_HEAD, *in_folder(Path("data"))]
    line += ["loss.class_weights=median", "trainer.max_epochs=1", "hydra.run.dir=run", "resume=auto"]
    assert call(train.main, *line, "trainer.stop_after_steps=1").returncode == 0
    assert summary(tmp_path / "run")["status"] == "stopped"
    ended = call(train.main, *line)
    assert ended.returncode == 0, ended.stderr
    ended = call(evaluate.main, "run=run", "output=scores", "num_workers=0")
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert found["miou"] == summary(tmp_path / "run")["best_score"]

    # Another run in the same folder, and one that may not go on, leave everything as it was.
    before = {
        path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file() and path.stat().st_size
    }
    before = {path: content for path, content in before.items() if path.name not in (".lock", "train.log")}
    line.remove("resume=auto")
    ended = call(train.main, *line)
    assert ended.returncode == 2
    assert "holds the results of a run already" in ended.stderr
    assert "resume=auto" in ended.stderr
    assert call(train.main, *line, "resume=auto", "seed=3").returncode == 2
    assert {path: path.read_bytes() for path in before} == before


def test_a_last_state_that_found_no_room_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trainer = trainer_of(tmp_path / "run", *RUN, "trainer.evaluate.every_epochs=1")
    save = trainer.recording.keeper.save

    def full_at_the_end(content: dict[str, Any], **keys: Any) -> Path:
        if content["state"]["step"] == 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(content, **keys)

    monkeypatch.setattr(trainer.recording.keeper, "save", full_at_the_end)
    with pytest.raises(RunFailure, match=r"that of step 12, could not be saved: last\.pt is of step 8"):
        trainer.fit()
    finish(trainer)


def test_going_on_with_a_run_that_is_over_is_a_success(tmp_path: Path):
    for _ in range(2):
        trainer = trainer_of(tmp_path / "run", *RUN, "resume=auto")
        assert trainer.fit() == "completed"
        finish(trainer)
    assert max(losses(tmp_path / "run")) == 12


def test_the_page_shows_the_table():
    assert resume_rules.as_table() in (REPOSITORY / "docs" / "resume.md").read_text()


def test_no_pattern_stands_twice_in_the_table():
    patterns = [pattern for rule in resume_rules.RULES for pattern in rule.keys]
    assert len(set(patterns)) == len(patterns)


def test_the_most_specific_row_counts():
    assert rule_of("optimizer.lr") is not rule_of("optimizer.layer_decay")
    assert rule_of("optimizer.optimizer._target_") is rule_of("optimizer.layer_decay")
    assert rule_of("transform.steps[0].p") is rule_of("transform.size")
    assert rule_of("trainer.unheard_of") is None


def test_a_key_that_is_newer_than_the_checkpoint_had_its_default():
    node = {"_target_": "segkit.data.datasets.shapes.Shapes", "num_classes": 7}
    trainer = {"batch_size": 4, "accumulate": 1}
    before = {"dataset": node, "trainer": trainer}
    now = {
        "dataset": node | {"generator_seed": 0, "multilabel": False},
        "trainer": trainer | {"stop_after_steps": None},
    }
    assert changes(before, now) == []
    assert changes(now, before) == []
    now["dataset"] = now["dataset"] | {"generator_seed": 1}
    assert [str(change) for change in changes(before, now)] == ["dataset.generator_seed=1, was 0"]
