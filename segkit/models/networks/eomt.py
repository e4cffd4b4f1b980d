"""EoMT: a plain vision transformer that carries query tokens through its last blocks.

Shape suffixes: B batch, Q queries, C classes, D width of a token, N tokens, g p rows and columns of patches,
h w pixels of a mask.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segkit.contracts import Prediction, QueryPrediction, UserError
from segkit.models.backbones import timm_models
from segkit.models.layers.normalization import Normalize


class EoMT(nn.Module):
    """Images as in `contracts.Batch`, of any size, to a Prediction at a stride of 4 (7 for patches of 14).

    Kerssies et al., "Your ViT is Secretly an Image Segmentation Model" (CVPR 2025, arXiv 2503.19108), sections
    3.2 and 3.3. Q learnt queries join the patch tokens of a plain ViT for its last blocks; of each comes a class
    and, by its product with the upscaled patches, a mask. The logits are the logarithm of
    sum_q p_q(class) * sigmoid(mask_q), so that their softmax is a distribution whose mode is the paper's.

    In training the queries predict before each joint block too (`Prediction.queries`, all supervised by
    `SetPredictionLoss`), and attend to the patches of their own mask only; the probability of that mask falls
    from 1 to 0 as training goes on, one block after another, so that in evaluation nothing is masked.
    Images are padded at the bottom and right to whole patches, and the masks cropped.

    Args:
        name: a plain transformer of timm: ViT, DeiT III, DINOv2, DINOv3, EVA-02.
        mean: of each image channel, in the units `Normalize` states.
        std: of each image channel, in the same units.
        num_queries: Q, the most segments that an image can have.
        joint_blocks: L_2, the last blocks that queries go through.
        masked_attention: false: queries attend to everything from the start.
        pretrained: fetch timm's weights, unless they are cached.
        weights: local file of weights in timm's format.
        frozen: no parameter of the backbone trains and it stays in evaluation mode.
        options: further arguments of `timm.create_model`, such as `drop_path_rate` or `img_size`.
        gradient_checkpointing: recompute blocks in the backward pass: less memory, the same gradients.
    """

    weights_statistics = staticmethod(timm_models.weights_statistics)

    def __init__(
        self,
        name: str,
        *,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        num_queries: int = 100,
        joint_blocks: int = 3,
        masked_attention: bool = True,
        pretrained: bool = False,
        weights: str | None = None,
        frozen: bool = False,
        options: Mapping[str, Any] | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.input_channels = len(mean)
        self.normalize = Normalize(mean, std)
        extra = dict(options or {}, in_chans=self.input_channels, num_classes=0)
        make = partial(timm.create_model, name, **extra)
        self.backbone: Any = timm_models.build(name, make, pretrained=pretrained, weights=weights, options=options)
        self.prefix = _check_plain(self.backbone, name)
        self.backbone.attn_pool = None  # some models pool by attention, which nothing here does
        if not 1 <= joint_blocks <= len(self.backbone.blocks):
            raise UserError(
                f"model.joint_blocks={joint_blocks}; allowed: 1..{len(self.backbone.blocks)}, the blocks of {name}"
            )
        if num_queries < 1:
            raise UserError(f"model.num_queries={num_queries}; allowed: numbers from 1 up")
        self.first_joint = len(self.backbone.blocks) - joint_blocks
        for block in self.backbone.blocks[self.first_joint :]:
            # Rotary positions are those of patches: they begin after the queries now.
            if hasattr(block.attn, "num_prefix_tokens"):
                block.attn.num_prefix_tokens += num_queries
        width = self.backbone.embed_dim
        self.patch: tuple[int, int] = self.backbone.patch_embed.patch_size
        self.queries = nn.Parameter(torch.randn(num_queries, width))
        self.class_head = nn.Linear(width, num_classes + 1)
        self.mask_head = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )
        doublings = max(1, int(math.log2(max(self.patch))) - 2)
        self.upscale = nn.Sequential(*(_doubled(width) for _ in range(doublings)))
        self.stride = tuple(edge // 2**doublings for edge in self.patch)
        self.masked_attention = masked_attention
        self.gradient_checkpointing = gradient_checkpointing
        # A tensor, which a compiled model takes as it changes; a number would have it compiled anew at every step.
        self.mask_probabilities: Tensor
        self.register_buffer("mask_probabilities", torch.empty(joint_blocks), persistent=False)
        self.set_progress(0.0)
        self.frozen = frozen
        if frozen:
            self.backbone.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> EoMT:
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def no_weight_decay(self) -> set[str]:
        return {"queries"}

    def set_progress(self, done: float) -> None:
        probabilities = [self._mask_probability(block, done) for block in range(len(self.mask_probabilities))]
        for place, probability in zip(self.mask_probabilities, probabilities, strict=True):
            place.fill_(probability)
        # Blocks that mask nothing any more attend by a faster kernel.
        self.masked_blocks = frozenset(block for block, probability in enumerate(probabilities) if probability > 0)

    def _mask_probability(self, joint_block: int, done: float) -> float:
        """How likely a query is masked in one of the joint blocks, 0 the first, when `done` of the run is done.

        1, then (1 - t)^0.9 over a share 1 / (L_2 + 2) of the run, then 0; each block begins when the one before
        it is through, the first after one such share. These are the authors' lengths.
        """
        begun = done * (len(self.backbone.blocks) - self.first_joint + 2) - (joint_block + 1)
        return (1 - min(max(begun, 0.0), 1.0)) ** 0.9

    def forward(self, images: Tensor) -> Prediction:
        size = images.shape[-2:]
        x = self.normalize(images)
        x = F.pad(x, (0, -size[1] % self.patch[1], 0, -size[0] % self.patch[0]))
        grid = x.shape[-2] // self.patch[0], x.shape[-1] // self.patch[1]
        tokens_BND, positions = self._embed(x)
        found: list[QueryPrediction] = []
        for number, block in enumerate(self.backbone.blocks):
            mask = None
            if number == self.first_joint:
                tokens_BND = torch.cat([self.queries.expand(len(images), -1, -1), tokens_BND], dim=1)
            if number >= self.first_joint and self.training:
                found.append(self._predict(tokens_BND, grid))
                mask = self._attention_mask(found[-1].mask_logits, grid, number - self.first_joint)
            tokens_BND = self._run(block, tokens_BND, mask, None if positions is None else positions[number])
        found.append(self._predict(tokens_BND, grid))
        height, width = (-(-edge // stride) for edge, stride in zip(size, self.stride, strict=True))
        found = [QueryPrediction(f.class_logits, f.mask_logits[..., :height, :width]) for f in found]
        return Prediction(semantic_logits(found[-1]), queries=found)

    def _embed(self, x: Tensor) -> tuple[Tensor, Sequence[Tensor] | None]:
        """Tokens of the prefix and the patches, and each block's rotary positions where the model has them."""
        net = self.backbone
        embedded = net._pos_embed(net.patch_embed(x))
        tokens_BND, rope = embedded if isinstance(embedded, tuple) else (embedded, None)
        if rope is not None and not getattr(net, "rope_mixed", False):
            rope = [rope] * len(net.blocks)
        return net.norm_pre(tokens_BND), rope

    def _run(self, block: Any, tokens_BND: Tensor, mask: Tensor | None, rope: Tensor | None) -> Tensor:
        arguments: dict[str, Any] = {"attn_mask": mask} | ({} if rope is None else {"rope": rope})
        if self.gradient_checkpointing and self.training:
            recomputed: Any = checkpoint(block, tokens_BND, use_reentrant=False, **arguments)
            return recomputed
        return block(tokens_BND, **arguments)

    def _predict(self, tokens_BND: Tensor, grid: tuple[int, int]) -> QueryPrediction:
        # Models that pool have their last norm behind it.
        norm = self.backbone.norm if not isinstance(self.backbone.norm, nn.Identity) else self.backbone.fc_norm
        tokens_BND = norm(tokens_BND)
        num_queries = len(self.queries)
        queries_BQD = tokens_BND[:, :num_queries]
        patches_BDgp = tokens_BND[:, num_queries + self.prefix :].transpose(1, 2).unflatten(2, grid)
        masks_BQhw = torch.einsum("bqd,bdhw->bqhw", self.mask_head(queries_BQD), self.upscale(patches_BDgp))
        return QueryPrediction(self.class_head(queries_BQD), masks_BQhw)

    def _attention_mask(self, masks_BQhw: Tensor, grid: tuple[int, int], joint_block: int) -> Tensor | None:
        """(B, 1, N, N) bool, which token may look at which: all, but a masked query only at patches of its mask."""
        if not self.masked_attention or joint_block not in self.masked_blocks:
            return None
        masks_BQgp = F.interpolate(masks_BQhw.detach().float(), size=grid, mode="bilinear", align_corners=False)
        batch, num_queries = masks_BQhw.shape[:2]
        free_BQ1 = torch.rand(batch, num_queries, 1, device=masks_BQhw.device) >= self.mask_probabilities[joint_block]
        to_patches_BQN = (masks_BQgp > 0).flatten(2) | free_BQ1
        # Queries may always look at each other and at the prefix; the other tokens at everything.
        seen_BQN = F.pad(to_patches_BQN, (num_queries + self.prefix, 0), value=True)
        num_others = self.prefix + grid[0] * grid[1]
        return F.pad(seen_BQN, (0, 0, 0, num_others), value=True).unsqueeze(1)


def semantic_logits(queries: QueryPrediction) -> Tensor:
    """(B, C, h, w) float32: the logarithm of sum_q p_q(class) * sigmoid(mask_q), "no segment" left out."""
    with torch.autocast(queries.mask_logits.device.type, enabled=False):
        classes_BQC = queries.class_logits.float().softmax(dim=-1)[..., :-1]
        shares_BQhw = queries.mask_logits.float().sigmoid()
        # A pixel that no query claims gets even logits, and no infinite ones.
        return (torch.einsum("bqc,bqhw->bchw", classes_BQC, shares_BQhw) + 1e-6).log()


def _doubled(width: int) -> nn.Sequential:
    """(B, D, h, w) to (B, D, 2h, 2w), as in the paper's figure 2."""
    return nn.Sequential(
        nn.ConvTranspose2d(width, width, 2, stride=2),
        nn.GELU(),
        nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
        LayerNorm2d(width),
    )


def _check_plain(net: Any, name: str) -> int:
    """The number of tokens before the patches. Raises UserError unless `net` is a plain transformer."""
    needed = ("blocks", "patch_embed", "_pos_embed", "norm_pre", "norm", "embed_dim", "num_prefix_tokens")
    missing = [attribute for attribute in needed if not hasattr(net, attribute)]
    if missing or "attn_mask" not in inspect.signature(net.blocks[-1].forward).parameters:
        raise UserError(
            f"model=eomt needs a plain vision transformer, which backbone.name={name} is not; allowed: timm's "
            "vit_*, such as vit_small_patch16_224, vit_small_patch14_dinov2 and vit_small_patch16_dinov3"
        )
    return net.num_prefix_tokens
