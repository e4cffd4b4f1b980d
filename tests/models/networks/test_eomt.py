"""EoMT: shapes, what may look at what, the logits by hand, two images learnt, ONNX."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segkit.contracts import ProgressAware, QueryPrediction, UserError
from segkit.logits import resize_logits
from segkit.losses.set_prediction import SetPredictionLoss
from segkit.models.networks.eomt import EoMT, semantic_logits


def eomt(name: str = "test_vit", **options: Any) -> EoMT:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"num_classes": 4, "mean": (0.5,) * 3, "std": (0.5,) * 3, "num_queries": 6}
    return EoMT(name, **{**settings, "joint_blocks": 2, **options})


def images(*size: int) -> Tensor:
    return torch.randint(256, size, dtype=torch.uint8)


def test_parameters_by_hand() -> None:
    """ViT-S/16 of 384: its 21,665,664, a query and 100 of them, three linear layers, two doublings, the classes."""
    with torch.device("meta"):
        model = eomt("vit_small_patch16_224", num_classes=19, num_queries=100)
    queries, linear, classes = 100 * 384, 384 * 384 + 384, 384 * 20 + 20
    doubling = (4 * 384 * 384 + 384) + 9 * 384 + 2 * 384
    expected = 21_665_664 + queries + 3 * linear + classes + 2 * doubling
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize(
    ("name", "stride"),
    [
        ("test_vit", 4),
        ("vit_tiny_patch16_224", 4),
        ("vit_small_patch14_reg4_dinov2", 7),
        ("vit_small_patch16_dinov3", 4),
        ("vit_small_patch16_rope_mixed_224", 4),
    ],
)
def test_one_image_of_any_size_trains_every_parameter(name: str, stride: int) -> None:
    model = eomt(name).train()
    for size in ((1, 1), (33, 50)):
        prediction = model(images(1, 3, *size))
        shape = tuple(-(-edge // stride) for edge in size)
        assert prediction.logits.shape == (1, 4, *shape)
        assert [q.class_logits.shape for q in prediction.queries] == [(1, 6, 5)] * 3
        assert [q.mask_logits.shape for q in prediction.queries] == [(1, 6, *shape)] * 3
    sum(q.class_logits.square().sum() + q.mask_logits.square().sum() for q in prediction.queries).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    with torch.inference_mode():
        assert len(model.eval()(images(1, 3, 33, 50)).queries) == 1


@pytest.mark.parametrize("name", ["test_vit", "vit_small_patch16_dinov3", "vit_small_patch16_rope_mixed_224"])
def test_the_blocks_are_run_as_timm_runs_them(name: str) -> None:
    """Without a joint block, what is computed of the tokens is timm's own forward_features."""
    model = eomt(name, options={"img_size": 64}).eval()
    x = torch.randn(1, 3, 64, 64)
    for block in model.backbone.blocks[model.first_joint :]:
        if hasattr(block.attn, "num_prefix_tokens"):
            block.attn.num_prefix_tokens -= 6
    with torch.inference_mode():
        tokens, positions = model._embed(x)
        for number, block in enumerate(model.backbone.blocks):
            tokens = model._run(block, tokens, None, None if positions is None else positions[number])
        torch.testing.assert_close(model.backbone.norm(tokens), model.backbone.forward_features(x))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch16_dinov3"])
def test_patches_that_do_not_look_at_queries_are_what_they_are_without_any(name: str) -> None:
    """So the queries in front of them do not shift their rotary positions."""
    model = eomt(name, options={"img_size": 64}).eval()
    block = model.backbone.blocks[-1]
    with torch.inference_mode():
        tokens, positions = model._embed(torch.randn(1, 3, 64, 64))
        rope = None if positions is None else positions[-1]
        with_queries = torch.cat([model.queries.expand(1, -1, -1), tokens], dim=1)
        mask = torch.ones(1, 1, with_queries.shape[1], with_queries.shape[1], dtype=torch.bool)
        mask[..., 6:, :6] = False
        found = model._run(block, with_queries, mask, rope)[:, 6:]
        if hasattr(block.attn, "num_prefix_tokens"):
            block.attn.num_prefix_tokens -= 6
        torch.testing.assert_close(found, model._run(block, tokens, None, rope), atol=1e-5, rtol=1e-5)


def test_a_masked_query_sees_its_own_mask_the_queries_and_the_prefix() -> None:
    model = eomt()
    masks = torch.full((1, 6, 8, 8), -1.0)
    masks[0, 0, :4, :4] = 1  # of a grid of 2 x 2, the first patch
    mask = model._attention_mask(masks, (2, 2), 0)
    assert mask is not None
    # 6 queries, 1 class token, 4 patches
    assert mask.shape == (1, 1, 11, 11)
    assert mask[0, 0, 0].tolist() == [True] * 7 + [True, False, False, False]
    assert mask[0, 0, 1].tolist() == [True] * 7 + [False] * 4
    assert mask[0, 0, 6:].all()


def test_masks_are_annealed_one_block_after_another() -> None:
    """Two joint blocks: quarters of the run. The first falls in the second quarter, the second in the third."""
    model = eomt()
    assert isinstance(model, ProgressAware)
    expected = {
        0.0: (1.0, 1.0),
        0.25: (1.0, 1.0),
        0.375: (0.5**0.9, 1.0),
        0.5: (0.0, 1.0),
        0.625: (0.0, 0.5**0.9),
        0.75: (0.0, 0.0),
        1.0: (0.0, 0.0),
    }
    for done, probabilities in expected.items():
        model.set_progress(done)
        assert model.mask_probabilities.tolist() == pytest.approx(probabilities)
    assert model._attention_mask(torch.zeros(1, 6, 8, 8), (2, 2), 0) is None


def test_half_annealed_masks_free_a_share_of_the_queries() -> None:
    model = eomt(num_queries=2000)
    model.set_progress(0.375)
    mask = model._attention_mask(torch.full((1, 2000, 8, 8), -1.0), (2, 2), 0)
    assert mask is not None
    free = mask[0, 0, :2000, -4:].all(dim=1).double().mean()
    assert float(free) == pytest.approx(1 - 0.5**0.9, abs=0.05)


def test_masking_changes_training_and_never_evaluation() -> None:
    model, batch = eomt(), images(2, 3, 64, 64)

    def logits() -> Tensor:
        with torch.no_grad():
            return model(batch).logits

    model.train()
    masked = logits()
    model.set_progress(1.0)
    free = logits()
    assert not torch.equal(masked, free)
    model.eval()
    torch.testing.assert_close(logits(), free)
    model.set_progress(0.0)
    torch.testing.assert_close(logits(), free)
    model.train()
    model.masked_attention = False
    torch.testing.assert_close(logits(), free)


def test_logits_by_hand() -> None:
    """Two queries, sure of class 0 and of class 1; the first claims the pixel wholly, the second by half."""
    classes = torch.tensor([[[50.0, 0.0, 0.0], [0.0, 50.0, 0.0]]])
    masks = torch.tensor([50.0, 0.0]).view(1, 2, 1, 1)
    logits = semantic_logits(QueryPrediction(classes, masks))
    torch.testing.assert_close(logits.flatten(), torch.tensor([0.0, math.log(0.5)]), atol=1e-5, rtol=0)
    torch.testing.assert_close(logits.softmax(dim=1).flatten(), torch.tensor([2 / 3, 1 / 3]), atol=1e-5, rtol=0)
    nothing = semantic_logits(QueryPrediction(torch.tensor([[[0.0, 0.0, 50.0]] * 2]), masks))
    assert nothing.softmax(dim=1).flatten().tolist() == pytest.approx([0.5, 0.5])


def test_checkpointed_gradients_are_the_same() -> None:
    gradients = []
    for option in (False, True):
        model = eomt(gradient_checkpointing=option).train()
        torch.manual_seed(1)
        model(torch.full((1, 3, 32, 32), 7.0)).logits.square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients)


def test_a_frozen_backbone_stays_as_it_is_while_queries_learn() -> None:
    model = eomt(frozen=True, options={"drop_path_rate": 0.5}).train()
    assert not model.backbone.training
    model(images(1, 3, 32, 32)).logits.square().sum().backward()
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    assert model.queries.grad is not None
    assert model.queries.grad.abs().sum() > 0


def test_autocast() -> None:
    model = eomt().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = model(images(2, 3, 64, 64))
    loss = SetPredictionLoss(num_classes=4, ignore_index=255)
    total = loss(prediction, torch.randint(4, (2, 64, 64))).total
    assert total.dtype == prediction.logits.dtype == torch.float32
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet18"}, "needs a plain vision transformer, which backbone.name=resnet18 is not"),
        ({"name": "swin_tiny_patch4_window7_224"}, "needs a plain vision transformer"),
        ({"joint_blocks": 7}, "model.joint_blocks=7; allowed: 1..6"),
        ({"num_queries": 0}, "model.num_queries=0"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        eomt(**options)


def two_images() -> tuple[Tensor, Tensor]:
    """(2, 3, 128, 128) images and masks of 4 classes: a disc and a square on two grounds."""
    y, x = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
    mask = torch.stack([torch.zeros_like(x), torch.ones_like(x)])
    mask[0][(y - 48) ** 2 + (x - 80) ** 2 < 30**2] = 2
    mask[1][(y - 72).abs().maximum((x - 48).abs()) < 28] = 3
    colours = torch.tensor([[60, 90, 120], [140, 60, 60], [200, 180, 40], [40, 170, 90]])
    return colours[mask].permute(0, 3, 1, 2).to(torch.uint8), mask


def test_two_images_are_learnt() -> None:
    model, (batch, mask) = eomt(), two_images()
    loss = SetPredictionLoss(num_classes=4, ignore_index=255, num_points=1000)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(60):
        model.train().set_progress(step / 60)
        loss(model(batch), mask).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.inference_mode():
        predicted = resize_logits(model.eval()(batch).logits, (128, 128)).argmax(dim=1)
    ious = [((predicted == c) & (mask == c)).sum() / ((predicted == c) | (mask == c)).sum() for c in range(4)]
    assert float(torch.stack(ious).mean()) > 0.95


class Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Tensor) -> Tensor:
        return self.model(batch).logits


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_vit", "vit_small_patch16_dinov3"])
def test_onnx_runs_to_the_same_logits(name: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, batch = Logits(eomt(name)).eval(), images(1, 3, 64, 96)
    program = torch.onnx.export(model, (batch,), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    (found,) = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
    expected = model(batch).detach().numpy()
    assert np.abs(found - expected).max() <= 1e-4
