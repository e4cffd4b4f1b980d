"""What a trained run is for: the same score again, predictions of other images, one line of Python."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image

import segkit
from segkit.cli.evaluate import main as evaluate
from segkit.cli.predict import main
from segkit.commands.prediction import find_images, is_georeferenced
from segkit.contracts import Prediction
from segkit.errors import UserError
from segkit.logits import resize_logits
from segkit.predictors.whole_image import Whole
from segkit.run import checkpoint
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


def picture(path: Path, height: int = 20, width: int = 30) -> NDArray[Any]:
    """Writes an image of random 8-bit pixels, which are drawn from its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(list(path.name.encode()))
    pixels = random.integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def ids_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))


def test_predict_takes_images_and_nothing_else_in_a_folder(call: Callable[..., Ended], finished: Path, tmp_path: Path):
    images = tmp_path / "in"
    for name in ("a.jpg", "a.png", "A.jpg.png", "sub/b.png", "../elsewhere/c.png"):
        picture(images / name)
    for name in ("._a.jpg", ".ipynb_checkpoints/d.png", "@eaDir/e.jpg", "__MACOSX/f.png"):
        picture(images / name)
    for name in (".DS_Store", "Thumbs.db", "notes.txt"):
        (images / name).write_bytes(b"x")
    (images / "linked").symlink_to(tmp_path / "elsewhere")
    (images / "sub" / "circle").symlink_to(images)
    expected = ["A.jpg.png.png", "a.jpg.png", "a.png.png", "linked/c.png", "sub/b.png"]
    # Twice into a folder inside the input, and once beside that.
    for output in ("out", "out", "other"):
        done = call(main, f"run={finished}", f"input={images}", f"output={images / output}")
        assert done.returncode == 0, done.stderr
        assert ids_below(images / output / "ids") == expected
        assert ids_below(images / output / "overlays") == expected


def test_predict_goes_on_past_images_that_cannot_be_predicted(
    call: Callable[..., Ended], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    images = tmp_path / "in"
    pixels = picture(images / "whole.png")
    (images / "broken.jpg").write_bytes(b"no image")
    (images / "cut.png").write_bytes((images / "whole.png").read_bytes()[:500])
    (images / "gone.png").symlink_to(tmp_path / "nowhere")
    tifffile.imwrite(images / "five.tif", np.dstack([pixels, pixels])[..., :5], photometric="minisblack")
    np.save(images / "scale.npy", pixels.astype(np.float32))
    picture(images / "large.png", 64, 64)
    whole = Whole.__call__

    def limited(self: Whole, images: torch.Tensor) -> Prediction:
        return whole(self, images if images.shape[-1] < 64 else torch.empty(2**48))

    monkeypatch.setattr(Whole, "__call__", limited)
    done = call(main, f"run={finished}", f"input={images}", "output=out")
    assert done.returncode == 1
    assert "6 of 7 images could not be predicted" in done.stderr
    for name in (
        "broken.jpg: not an image",
        "cut.png: not an image",
        "gone.png: cannot be read",
        "five.tif: images of",
    ):
        assert f"{images}/{name}" in done.stderr
    assert f"{images}/scale.npy: float32 values in 0..254" in done.stderr
    assert f"{images}/large.png: out of memory" in done.stderr
    assert "predictor=sliding" in done.stderr
    assert "Traceback" not in done.stderr
    assert ids_below(tmp_path / "out" / "ids") == ["whole.png"]


def test_predict_of_nothing_but_broken_images_is_the_users_mistake(
    call: Callable[..., Ended], finished: Path, tmp_path: Path
):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    done = call(main, f"run={finished}", "input=broken.jpg", "output=out")
    assert done.returncode == 2
    assert "broken.jpg: not an image" in done.stderr


def test_predict_takes_several_inputs(call: Callable[..., Ended], finished: Path, tmp_path: Path):
    for name in ("x/a.png", "y/a.png", "y/deep/b.png"):
        picture(tmp_path / name)
    done = call(main, f"run={finished}", "input=[x/a.png,y]", "output=out")
    assert done.returncode == 0, done.stderr
    assert ids_below(tmp_path / "out" / "ids") == ["x/a.png", "y/a.png", "y/deep/b.png"]
    outside = {str(name) for name in find_images(["x", f"../{tmp_path.name}/y/a.png", "y/../x/a.png"])}
    assert outside == {"x/a.png", "y/a.png"}


@pytest.mark.parametrize("script", [main, evaluate])
def test_an_output_that_cannot_be_written_is_named(
    call: Callable[..., Ended], finished: Path, tmp_path: Path, script: Callable[[], None]
):
    picture(tmp_path / "a.png")
    (tmp_path / "file").write_text("not a folder")
    arguments = ["input=a.png"] if script is main else []
    done = call(script, f"run={finished}", *arguments, "output=file/out")
    assert done.returncode == 2
    assert "output=file/out: cannot be written (Not a directory" in done.stderr


def test_predictions_are_not_written_over_the_images(call: Callable[..., Ended], finished: Path, tmp_path: Path):
    picture(tmp_path / "out" / "ids" / "a.png")
    done = call(main, f"run={finished}", "input=out/ids", "output=out")
    assert done.returncode == 2
    assert "give another folder" in done.stderr


def test_a_lost_georeference_is_told_once(call: Callable[..., Ended], finished: Path, tmp_path: Path):
    pixels = picture(tmp_path / "in" / "plain.png")
    for name in ("a.tif", "b.tif"):
        tifffile.imwrite(tmp_path / "in" / name, pixels, extratags=[(33550, "d", 3, (1.0, 1.0, 0.0), True)])
    assert call(main, f"run={finished}", "input=in", "output=out", "hydra.run.dir=log").returncode == 0
    told = (tmp_path / "log" / "predict.log").read_text()
    assert told.count("georeferenced") == 1
    assert "in/a.tif is georeferenced; predictions are written without their place on earth" in told
    assert not is_georeferenced(tmp_path / "in" / "plain.png")
    (tmp_path / "in" / "plain.pgw").write_text("1\n0\n0\n-1\n0\n0\n")
    assert is_georeferenced(tmp_path / "in" / "plain.png")


def test_python_and_the_script_predict_the_same_bits(call: Callable[..., Ended], finished: Path, tmp_path: Path):
    """Of every kind of file that has one meaning, from its path and, where that says it all, from its array."""
    images = tmp_path / "in"
    pixels = picture(images / "rgb.png")
    picture(images / "photo.jpg")
    Image.fromarray(pixels[..., 0]).save(images / "grey.png")
    Image.fromarray(np.dstack([pixels, pixels[..., :1]])).save(images / "alpha.png")
    Image.fromarray(pixels).convert("P").save(images / "palette.png")
    tifffile.imwrite(images / "sixteen.tif", pixels.astype(np.uint16) * 257, photometric="rgb")
    np.save(images / "share.npy", pixels / np.float32(255))
    assert call(main, f"run={finished}", "input=in", "output=out").returncode == 0
    model = segkit.load(finished)
    for path in images.iterdir():
        ids = np.asarray(Image.open(tmp_path / "out" / "ids" / path.with_suffix(".png").name))
        np.testing.assert_array_equal(model.predict(path), ids)
        if path.suffix == ".png":
            np.testing.assert_array_equal(model.predict(Image.open(path)), ids)
        if path.name in ("rgb.png", "grey.png", "alpha.png"):
            np.testing.assert_array_equal(model.predict(np.asarray(Image.open(path))), ids)
    sixteen, share = tifffile.imread(images / "sixteen.tif"), np.load(images / "share.npy")
    reference = model.predict(pixels)
    np.testing.assert_array_equal(model.predict(sixteen, value_range=(0, 65535)), model.predict(images / "sixteen.tif"))
    np.testing.assert_array_equal(model.predict(share), reference)
    np.testing.assert_array_equal(model.predict(pixels.astype(np.float64), value_range=(0, 255)), reference)


def test_evaluation_out_of_memory_says_what_to_set(
    call: Callable[..., Ended], finished: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Whole, "__call__", lambda *_: torch.empty(2**48))
    done = call(evaluate, f"run={finished}", "output=scores")
    assert done.returncode == 1
    assert "out of memory on cpu during evaluation" in done.stderr
    assert "batch_size=4" in done.stderr
    assert "predictor=sliding" in done.stderr
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
    checkpoint.write_flushed({**content, "config": config}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"os\.system.*not allowed"):
        segkit.load(tmp_path / "evil.pt")
    assert not (tmp_path / "sprung").exists()


def test_load_of_an_empty_folder_says_what_a_run_folder_holds(tmp_path: Path):
    with pytest.raises(UserError, match=r"no checkpoint in this folder"):
        segkit.load(tmp_path)
