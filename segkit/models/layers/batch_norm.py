"""Batch norm on a batch of one image, where PyTorch's may refuse: the last batch of an epoch can be one."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm2d(nn.BatchNorm2d):
    """PyTorch's, but for a batch that gives one value a channel, as the whole of one image pooled does.

    Such a batch has no variance, and PyTorch refuses it in training. Here it is normalised with the running statistics,
    which evaluation uses, and leaves them as they are.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


def accept_single_values(network: nn.Module) -> None:
    """Put a `BatchNorm2d` in the place of each of PyTorch's, as `nn.SyncBatchNorm.convert_sync_batchnorm` does.

    For networks that are built elsewhere and pool whole images. Their parameters keep names and values.
    """
    for name, layer in list(network.named_modules()):
        if type(layer) is nn.BatchNorm2d and layer.track_running_stats:
            replacement = BatchNorm2d(layer.num_features, layer.eps, layer.momentum, layer.affine)
            replacement.load_state_dict(layer.state_dict())
            network.set_submodule(name, replacement)


def beside_padding(images: Tensor, edge: int) -> Tensor:
    """One image that gives networks a map of one pixel, as one of at most `edge` x `edge` does, padded to give two.

    For the batch norms of networks that are built elsewhere, in training; batches of more are returned as they are.
    """
    height, width = images.shape[-2:]
    if len(images) > 1 or max(height, width) > edge:
        return images
    return F.pad(images, (0, 2 * edge - width))
