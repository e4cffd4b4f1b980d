from __future__ import annotations

import torch
from torch import nn

from segkit.engine.ema import Ema


def test_the_average_follows_by_the_stated_rule():
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
    ema = Ema(model, decay=0.15)
    with torch.no_grad():
        model.weight.fill_(1.0)
    ema.update(model)  # decay is min(0.15, 1/10) = 0.1: 0.1 * 0 + 0.9 * 1
    assert ema.model.weight.item() == torch.tensor(0.9).item()
    ema.update(model)  # decay is min(0.15, 2/11) = 0.15: 0.15 * 0.9 + 0.85 * 1
    torch.testing.assert_close(ema.model.weight.item(), 0.985)


def test_batch_norm_counts_are_copied_and_statistics_averaged():
    model = nn.BatchNorm1d(2)
    ema = Ema(model, decay=0.5)
    model.train()(torch.randn(8, 2) + 10)
    ema.update(model)
    assert ema.model.num_batches_tracked.item() == 1
    torch.testing.assert_close(ema.model.running_mean, 0.9 * model.running_mean)


def test_it_goes_on_from_a_state_dict():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    first = Ema(model, decay=0.9)
    for _ in range(3):
        with torch.no_grad():
            model.weight.add_(0.1)
        first.update(model)
    second = Ema(nn.Linear(3, 2), decay=0.9)
    second.load_state_dict(first.state_dict())
    first.update(model)
    second.update(model)
    assert torch.equal(first.model.weight, second.model.weight)
