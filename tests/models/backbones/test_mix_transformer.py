"""Mix Transformers: sizes, weights, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from segkit.contracts import UserError
from segkit.models.backbones.mix_transformer import MixTransformer
from segkit.models.networks.smp import SmpSegmenter


def test_maps_lie_over_images_of_any_size() -> None:
    backbone = MixTransformer().eval()
    assert [(info.channels, info.reduction, info.level) for info in backbone.features] == [
        (32, 4, 4),
        (64, 8, 8),
        (160, 16, 16),
        (256, 32, 32),
    ]
    for size, expected in [((1, 1), [(1, 1)] * 4), ((33, 47), [(9, 12), (5, 6), (3, 3), (2, 2)])]:
        with torch.no_grad():
            maps = backbone(torch.rand(1, 3, *size))
        assert [tuple(features.shape[-2:]) for features in maps] == expected


@pytest.mark.parametrize("in_channels", [3, 1])
def test_weights_of_a_local_file(tmp_path: Path, in_channels: int) -> None:
    saved = MixTransformer().net.encoder
    save_file(saved.state_dict(), tmp_path / "weights.safetensors")
    loaded = MixTransformer(weights=str(tmp_path / "weights.safetensors"), in_channels=in_channels)
    first, expected = loaded.net.encoder.patch_embed1.proj.weight, saved.patch_embed1.proj.weight
    torch.testing.assert_close(first, expected if in_channels == 3 else expected.sum(dim=1, keepdim=True))
    assert torch.equal(loaded.net.encoder.block4[1].mlp.fc2.weight, saved.block4[1].mlp.fc2.weight)

    decoder = {"num_classes": 2, "mean": (0.5,) * in_channels, "std": (0.5,) * in_channels}
    unet = SmpSegmenter("unet", "mit_b0", weights=str(tmp_path / "weights.safetensors"), **decoder)
    assert torch.equal(unet.network.encoder.patch_embed1.proj.weight, first)


def test_weights_that_cannot_be_fetched_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("segkit.models.backbones.mix_transformer.try_to_load_from_cache", lambda **_: None)
    monkeypatch.setattr("segkit.models.backbones.mix_transformer.get_hf_file_metadata", unreachable)
    with pytest.raises(UserError, match=r"the weights of mit_b0 cannot be fetched \(ConnectionError: no network\)"):
        MixTransformer(pretrained=True)


def test_wrong_weights_are_named(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    for file, message in [("other.pth", "does not fit backbone.name=mit_b0"), ("none.pth", "no such file")]:
        with pytest.raises(UserError, match=message):
            MixTransformer(weights=str(tmp_path / file))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "mit_b9"}, "'mit_b9' is not a Mix Transformer; allowed: mit_b0"),
        ({"output_stride": 8}, "model.output_stride=8: mit_b0 cannot be dilated"),
        ({"gradient_checkpointing": True}, "backbone.gradient_checkpointing=true, but mit_b0"),
        ({"options": {"depth": 5, "width": 3}}, "backbone.options does not go with backbone.name=mit_b0.*width"),
    ],
)
def test_what_it_refuses(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MixTransformer(**options)


def test_options_reach_it_and_frozen_means_no_stochastic_depth() -> None:
    backbone = MixTransformer(options={"drop_path_rate": 0.5}, frozen=True).train()
    images = torch.rand(1, 3, 32, 32)
    assert backbone.net.encoder.block4[1].drop_path.drop_prob == 0.5
    assert torch.equal(backbone(images)[3], backbone(images)[3])
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_a_decoder_that_does_not_take_it_is_named() -> None:
    with pytest.raises(UserError, match=r"model\.decoder=linknet with .*mit_b0 cannot be built"):
        SmpSegmenter("linknet", "mit_b0", num_classes=2, mean=(0.5,) * 3, std=(0.5,) * 3)
