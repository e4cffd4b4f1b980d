"""What a trained run is for: the same score again, predictions of other images, one line of Python."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import segkit
from segkit.cli.predict import main
from segkit.engine import checkpoint
from segkit.errors import UserError
from segkit.resizing import resize_logits
from tests.conftest import Ended, run, summary


def test_evaluate_reproduces_the_score_of_training(finished: Path, tmp_path: Path):
    done = run(f"run={finished}", f"output={tmp_path / 'scores'}", script="scripts/evaluate.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())
    best = summary(finished)["best"]
    assert scores["miou"] == pytest.approx(best["miou"], abs=1e-6)
    assert scores["loss"] == pytest.approx(best["loss"], abs=1e-6)
    assert "background" in done.stdout
    # The last line is a path, whose length is its own.
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 80
    assert (tmp_path / "scores" / "panels.png").exists()


def test_predict_writes_ids_and_overlays_at_the_size_of_each_image(finished: Path, tmp_path: Path):
    images = tmp_path / "images with spaces" / "größe"
    images.mkdir(parents=True)
    random = np.random.default_rng(0)
    sizes = {"a.PNG": (41, 67), "b.jpg": (1, 50), "b.png": (64, 64)}
    for name, (height, width) in sizes.items():
        Image.fromarray(random.integers(0, 255, (height, width, 3), np.uint8)).save(images / name)
    done = run(
        f"run={finished}",
        f"input={images.parent}",
        f"output={tmp_path / 'out'}",
        "predictor=sliding",
        "predictor.window=32",
        script="scripts/predict.py",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    # Two inputs would both become b.png; they keep their suffix.
    for name, source in {"a.png": "a.PNG", "b.jpg.png": "b.jpg", "b.png.png": "b.png"}.items():
        with Image.open(tmp_path / "out" / "ids" / "größe" / name) as ids:
            assert ids.mode == "L"
            assert ids.size == sizes[source][::-1]
            assert int(np.asarray(ids).max()) < 7
        with Image.open(tmp_path / "out" / "overlays" / "größe" / name) as overlay:
            assert (overlay.mode, overlay.size) == ("RGB", sizes[source][::-1])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run=nowhere", "input=.", "output=out"], "nowhere"),
        (["run=RUN", "input=nowhere", "output=out"], "input=nowhere"),
        (["run=RUN", "output=out"], "input: missing"),
        (["run=RUN", "input=empty", "output=out"], "no images"),
    ],
)
def test_predict_says_what_is_missing(
    call: Callable[..., Ended], finished: Path, tmp_path: Path, arguments: list[str], says: str
):
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    arguments = [argument.replace("RUN", str(finished)) for argument in arguments]
    done = call(main, *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_load_gives_a_model_that_predicts(finished: Path):
    model = segkit.load(finished)
    assert model.labels.names[0] == "background"
    image = np.random.default_rng(0).integers(0, 255, (33, 57, 3), np.uint8)
    ids = model.predict(image)
    assert (ids.shape, ids.dtype) == ((33, 57), np.uint8)
    prediction = model(torch.from_numpy(image).permute(2, 0, 1)[None])
    assert torch.equal(resize_logits(prediction.logits, (33, 57)).argmax(1)[0], torch.from_numpy(ids).long())


def test_load_takes_the_averaged_weights_of_the_best_checkpoint(finished: Path):
    content = checkpoint.read(finished / "checkpoints" / "best.pt")
    weights = segkit.load(finished).model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in content["ema"]["model"].items())
    assert not all(torch.equal(weights[name], value) for name, value in content["model"].items())


def test_load_takes_one_file_away_from_its_run(finished: Path, tmp_path: Path):
    shutil.copy(finished / "checkpoints" / "last.pt", tmp_path / "model.pt")
    assert segkit.load(tmp_path / "model.pt").predict(np.zeros((8, 8, 3), np.uint8)).shape == (8, 8)


def test_a_checkpoint_whose_config_names_other_code_is_refused(finished: Path, tmp_path: Path):
    content = dict(checkpoint.read(finished / "checkpoints" / "last.pt"))
    config = content["config"]
    config["model"]["head"] = {"_target_": "os.system", "command": f"touch {tmp_path / 'sprung'}"}
    checkpoint.write({**content, "config": config}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"os\.system.*not allowed"):
        segkit.load(tmp_path / "evil.pt")
    assert not (tmp_path / "sprung").exists()


def test_load_of_an_empty_folder_says_what_a_run_folder_holds(tmp_path: Path):
    with pytest.raises(UserError, match=r"no checkpoint in this folder"):
        segkit.load(tmp_path)
