"""Padam against the two optimizers it lies between."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segkit.contracts import UserError
from segkit.optim.padam import Padam


def descend(make: type[torch.optim.Optimizer], steps: int = 20, **arguments: object) -> Tensor:
    """Where `steps` of descent on a bowl, with a different slope at each step, lead from (3, -2, 0.5)."""
    at = torch.tensor([3.0, -2.0, 0.5], requires_grad=True)
    optimizer = make([at], **arguments)
    for step in range(steps):
        optimizer.zero_grad()
        ((at - step / 10) ** 2 * torch.tensor([1.0, 10.0, 0.1])).sum().backward()
        optimizer.step()
    return at.detach()


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_half_is_amsgrad(weight_decay: float) -> None:
    ours = descend(Padam, lr=0.1, partial=0.5, weight_decay=weight_decay)
    torch.testing.assert_close(ours, descend(torch.optim.Adam, lr=0.1, amsgrad=True, weight_decay=weight_decay))


def test_first_step_by_hand() -> None:
    """The corrected moments are g and g^2 at first, so the step is lr * g / (g^2)^(1/8) = lr * g^(3/4)."""
    at = torch.tensor([8.0], requires_grad=True)
    optimizer = Padam([at], lr=0.1)
    (at**2).backward()
    optimizer.step()
    assert at.item() == pytest.approx(8 - 0.1 * 16**0.75)


@pytest.mark.parametrize("partial", [0.0, 0.6])
def test_partial_out_of_range_is_named(partial: float) -> None:
    with pytest.raises(UserError, match=f"partial={partial}"):
        Padam([torch.zeros(1, requires_grad=True)], partial=partial)
