"""The command as a person or a script meets it: what it leaves, what it says, how it ends."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkit.cli.train import main
from tests.conftest import TINY, Ended, command, losses, records, run, summary, train


def test_the_run_folder_holds_what_the_run_contract_names(finished: Path):
    for name in (".hydra/config.yaml", "train.log", "metrics.jsonl", "checkpoints/last.pt", "summary.json"):
        assert (finished / name).exists(), name


def test_every_optimizer_step_is_a_line(finished: Path):
    # 24 images in batches of 4, twice.
    lines = records(finished, "train")
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["epoch"] for line in lines] == [1] * 6 + [2] * 6
    assert [line["images_seen"] for line in lines] == list(range(4, 49, 4))
    assert all(len(line["sample_ids"]) == 4 for line in lines)
    first_epoch = [sample_id for line in lines[:6] for sample_id in line["sample_ids"]]
    assert len(set(first_epoch)) == 24
    assert all(line["lr"] > 0 and np.isfinite(line["loss"]) for line in lines)


def test_every_evaluation_is_a_line_with_the_scores(finished: Path):
    lines = records(finished, "eval")
    assert [(line["split"], line["step"]) for line in lines] == [("val", 6), ("val", 12)]
    assert all(0 <= line["miou"] <= 1 for line in lines)


def test_the_summary_says_how_it_ended(finished: Path):
    found = summary(finished)
    assert found["status"] == "completed"
    assert found["best_score"] == max(line["miou"] for line in records(finished, "eval"))
    assert found["final"]["step"] == 12
    assert (finished / found["checkpoints"]["best"]).exists()
    assert found["images_per_second"] > 0
    assert found["wall_time_s"] > 0


def test_figures_are_drawn(finished: Path):
    for name in ("confusion_matrix.png", "panels.png", "curves.png"):
        with Image.open(finished / "figures" / name) as image:
            assert min(image.size) > 100, name
    assert "background" in (finished / "figures" / "per_class.csv").read_text()


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path: Path, finished: Path):
    again, other = tmp_path / "again", tmp_path / "other"
    assert train(again, "trainer.max_epochs=2", "trainer.ema.decay=0.5").returncode == 0
    assert train(other, "trainer.max_epochs=2", "trainer.max_steps=1", "seed=1").returncode == 0
    assert losses(again) == losses(finished)
    assert losses(other)[1] != losses(finished)[1]


def test_runs_that_start_together_get_folders_of_their_own(tmp_path: Path):
    started = []
    for _ in range(2):
        line, environment = command(
            "debug=fast",
            "dataset.num_train=4",
            "dataset.num_val=2",
            "dataset.image_size=32",
            "dataset.crop_size=32",
            "backbone=timm",
            "backbone.name=test_resnet",
        )
        started.append(subprocess.Popen(line, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL))
    assert [process.wait(timeout=240) for process in started] == [0, 0]
    assert len(list(tmp_path.glob("outputs/train/*/*/summary.json"))) == 2


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("trainer.max_epoch=3", ["trainer.max_epoch", "Did you mean trainer.max_epochs?"]),
        ("trainer.max_epochs=abc", ["trainer.max_epochs", "valid integer", "'abc'"]),
        ("trainer.batch_size=0", ["trainer.batch_size", "greater than 0"]),
        ("trainer.precision=fp8", ["trainer.precision", "'bf16'", "'fp8'"]),
        ("+trainer.speed=3", ["trainer.speed", "nothing reads this key"]),
        ("+loss.smoth=2", ["loss.smoth", "Did you mean loss.smooth?"]),
        ("loss.smooth=abc", ["loss.smooth", "valid number", "'abc'"]),
        ("loss=hinge", ["loss/hinge", "combined"]),
        ("nonsense=1", ["nonsense", "nothing reads this key"]),
        ("trainer.checkpoint.monitor=mIoU", ["trainer.checkpoint.monitor=mIoU", "miou"]),
        ("trainer.device=cuda:99", ["trainer.device=cuda:99", "allowed"]),
        ("resume=nowhere", ["resume=nowhere", "no such file"]),
        ("model._target_=segkit.models.nothing.Here", ["model._target_", "no such class"]),
        ("trainer.max_epochs=null", ["max_epochs and max_steps are both null"]),
        ("backbone.name=resnet_of_my_dreams", ["resnet_of_my_dreams"]),
    ],
)  # fmt: skip
def test_a_mistake_is_one_message_and_exit_code_2(
    call: Callable[..., Ended], tmp_path: Path, argument: str, says: list[str]
):
    done = call(main, *TINY, "tracker=none", f"hydra.run.dir={tmp_path / 'run'}", argument)
    assert done.returncode == 2, done.stderr
    for text in says:
        assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert "Error executing job" not in done.stderr


def test_the_traceback_is_there_for_those_who_ask(tmp_path: Path):
    done = train(tmp_path / "run", "trainer.batch_size=0", HYDRA_FULL_ERROR="1")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_bad_data_is_found_before_the_first_step(call: Callable[..., Ended], tmp_path: Path):
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / "data" / split / kind).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "data" / split / "images" / "a.png")
        Image.new("L", (40, 40)).save(tmp_path / "data" / split / "masks" / "a.png")
    Image.new("L", (40, 40), 9).save(tmp_path / "data" / "train" / "masks" / "a.png")
    done = call(
        main,
        "dataset=folder",
        f"dataset.root={tmp_path / 'data'}",
        "dataset.num_classes=2",
        "tracker=none",
    )
    assert done.returncode == 2
    assert "a.png" in done.stderr
    assert "9" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_samples(tmp_path: Path):
    folder = tmp_path / "run"
    done = train(folder, "optimizer=sgd", "optimizer.lr=1e30", "trainer.max_epochs=3", "scheduler=constant")
    assert done.returncode == 1
    assert "not finite" in done.stderr
    assert summary(folder)["status"] == "failed"


def test_help_config_and_completion_answer_without_pytorch(tmp_path: Path):
    for flags in (["--help"], ["--cfg", "job"], ["--cfg", "job", "--package", "trainer"]):
        done = run(*flags, cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1")
        assert done.returncode == 0, done.stderr
        imported = {
            line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")
        }
        assert "hydra" in imported
        packages = {name.partition(".")[0] for name in imported}
        assert not packages & {"torch", "numpy", "mlflow", "albumentations", "cv2", "pydantic", "optuna"}


def test_help_explains_itself_within_80_columns_and_lists_the_groups(tmp_path: Path):
    text = run("--help", cwd=tmp_path).stdout
    head, _, groups = text.partition("Groups and their options")
    assert max(map(len, head.splitlines())) <= 80
    for group in ("model", "model/head", "backbone", "loss", "dataset", "transform", "optimizer", "scheduler",
                  "trainer", "predictor", "tracker", "experiment", "debug", "paths"):  # fmt: skip
        assert f"\n{group}: " in groups.replace("  ", ""), group


def test_the_composed_config_is_yaml_with_every_key(tmp_path: Path):
    text = run("--cfg", "job", cwd=tmp_path).stdout
    assert "trainer:" in text
    assert "every_steps: null" in text
    assert json.dumps(text).isascii()
