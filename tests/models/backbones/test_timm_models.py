"""Where weights come from, and what is said when they cannot."""

from __future__ import annotations

import os
import pickle
import re
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from segkit.contracts import UserError
from segkit.models.backbones import timm_models
from segkit.models.backbones.timm_backbone import TimmBackbone


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "convnext_atto", "vit_tiny_patch16_224"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_local_weights_of_the_whole_classifier(name: str, suffix: str, tmp_path: Path) -> None:
    trained = timm.create_model(name)
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(trained.state_dict(), file)
    else:
        save_file(trained.state_dict(), file)
    backbone = TimmBackbone(name, weights=str(file))
    configs = [getattr(module, "pretrained_cfg", {}) for module in backbone.modules()]
    assert not any("state_dict" in config for config in configs)
    loaded = {key.replace(".", "_"): value for key, value in backbone.net.state_dict().items()}
    assert loaded
    for key, value in trained.state_dict().items():
        if (short := key.replace(".", "_")) in loaded:
            assert torch.equal(loaded.pop(short), value)
        elif f"model_{short}" in loaded:
            assert torch.equal(loaded.pop(f"model_{short}"), value)
    assert not loaded


def test_local_weights_adapt_to_other_channels(tmp_path: Path) -> None:
    trained = timm.create_model("resnet18").state_dict()
    torch.save(trained, tmp_path / "weights.pth")
    backbone = TimmBackbone("resnet18", weights=str(tmp_path / "weights.pth"), in_channels=1)
    torch.testing.assert_close(backbone.net.conv1.weight, trained["conv1.weight"].sum(1, keepdim=True))


def test_weights_that_do_not_fit_are_told_by_key(tmp_path: Path) -> None:
    state = timm.create_model("resnet18").state_dict()
    state["stem.weight"] = state.pop("conv1.weight")
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"(?s)backbone.weights=.*conv1\.weight.*stem\.weight"):
        TimmBackbone("resnet18", weights=str(tmp_path / "weights.pth"))


def test_a_weights_file_cannot_run_code(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    (tmp_path / "weights.pth").write_bytes(pickle.dumps({"conv1.weight": Bomb()}, protocol=2))
    torch.save({"conv1.weight": Bomb()}, tmp_path / "zipped.pth")
    for name in ("weights.pth", "zipped.pth"):
        with pytest.raises(UserError, match="cannot be read as tensors"):
            TimmBackbone("resnet18", weights=str(tmp_path / name))
    assert not (tmp_path / "exploded").exists()


def test_pretrained_without_a_network_fails_within_seconds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(timm_models, "try_to_load_from_cache", lambda *_: None)
    # Nothing listens on the discard port of this machine.
    monkeypatch.setattr(timm_models, "hf_hub_url", lambda *_: "http://127.0.0.1:9/model.safetensors")
    start = time.monotonic()
    with pytest.raises(UserError, match=r"backbone.pretrained=false; .*backbone.weights=<file>; .*HF_HOME"):
        TimmBackbone("resnet18", pretrained=True)
    assert time.monotonic() - start < 10


def test_cached_weights_need_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trained = timm.create_model("resnet18")
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(timm_models, "try_to_load_from_cache", lambda *_: str(tmp_path / "model.safetensors"))
    backbone = TimmBackbone("resnet18", pretrained=True)
    assert torch.equal(backbone.net.conv1.weight, trained.conv1.weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet81"}, r"'resnet81' is not a model of timm; close names: resnet18"),
        ({"name": "resnet18.no_such"}, r"no weights 'no_such'; allowed: .*a1_in1k"),
        ({"name": "resnet18", "weights": "/no/such/file"}, r"backbone.weights=/no/such/file: no such file"),
        (
            {"name": "swin_tiny_patch4_window7_224", "output_stride": 8},
            r"model.output_stride.*'output_stride'",
        ),
        ({"name": "resnet18", "options": {"depht": 3}}, r"backbone.options.*'depht'"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=re.compile(message, re.DOTALL)):
        TimmBackbone(**arguments)
