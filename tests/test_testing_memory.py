"""How much a call holds at once, and how much it keeps for its backward pass."""

import pytest
import torch
from torch import nn

from grader.testing import (
    CheckFailed,
    _record,
    assert_peak_memory,
    assert_saved_memory,
    peak_memory,
    saved_memory,
)

BLOCK = 100 * 100 * 4  # bytes of `square()`


def square():
    return torch.randn(100, 100)


def chain(x):
    return x.exp().exp().exp()


def named(x):
    a = x.exp()
    b = a.exp()
    c = b.exp()
    return a + b + c


@pytest.mark.parametrize(
    ("fn", "blocks"),
    [
        (lambda x: x, 0),
        (lambda x: x.T.view(-1) if x.T.is_contiguous() else x.T, 0),
        (lambda x: x.mul_(2), 0),
        (lambda x: x.exp(), 1),
        (chain, 2),
        (named, 5),
        (lambda x: [x * i for i in range(5)], 5),
        (lambda x: (x.exp(), x.sin())[1].mul_(2), 2),
        (lambda x: torch.tensor(x.tolist()), 1),
        (lambda x: x.exp().T.reshape(-1), 2),
        (lambda x: nn.Linear(100, 100, bias=False)(x.detach()), 2),
    ],
)
def test_the_peak_counts_what_lives_at_once(fn, blocks):
    assert peak_memory(fn, square()) == blocks * BLOCK


def test_parameters_and_what_a_function_closes_over_are_not_counted():
    linear, x = nn.Linear(100, 100), square()

    assert peak_memory(linear, x) == BLOCK
    assert peak_memory(lambda: linear(x)) == BLOCK
    assert peak_memory(lambda: x.T @ x) == BLOCK


def test_gradients_that_the_call_makes_are_counted():
    x = square().requires_grad_()

    assert peak_memory(lambda: (x * x).sum().backward()) >= 2 * BLOCK


def test_a_peak_that_is_too_high_names_the_largest_tensor():
    with pytest.raises(CheckFailed) as caught:
        assert_peak_memory(BLOCK, lambda x: (x[:, None] * x[:, :, None]).sum(-1), square())

    assert str(caught.value) == (
        "the call holds 3.853 MiB at once; at most 39.06 KiB are allowed, the arguments not counted"
    ).replace("3.853 MiB", f"{caught.value.got / 1024:.4g} KiB")
    assert "of shape (100, 100, 100)" in caught.value.details[0]
    assert "made by mul" in caught.value.details[0]


def test_a_peak_within_the_bound_passes_and_is_shown():
    record = _record.begin()

    assert assert_peak_memory(BLOCK, torch.exp, square()).shape == (100, 100)
    assert record.measured == "39.06 KiB"


class Recompute(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.exp().sin()

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        return grad_output * x.exp().cos() * x.exp()


@pytest.mark.parametrize(
    ("fn", "blocks"),
    [
        (lambda x: x * 2, 0),
        (lambda x: x.sin(), 0),  # saves its input only
        (lambda x: x.exp(), 1),
        (chain, 3),
        (lambda x: x.exp() * x.exp(), 2),
        (lambda x: x.exp().sin(), 1),  # one storage, saved twice
        (Recompute.apply, 0),
        (lambda x: x.detach().exp(), 0),
        (lambda x: x.T.sin(), 0),
    ],
)
def test_what_is_saved_for_backward_is_counted_once_a_storage(fn, blocks):
    assert saved_memory(fn, square().requires_grad_()) == blocks * BLOCK


def test_parameters_are_not_counted_as_saved():
    model = nn.Sequential(nn.Linear(100, 100), nn.Sigmoid(), nn.Linear(100, 100))

    assert saved_memory(model, square()) == BLOCK
    assert saved_memory(lambda x: model(x), square()) == BLOCK


def test_saving_too_much_fails_with_the_shapes():
    with pytest.raises(CheckFailed) as caught:
        assert_saved_memory(2 * BLOCK, chain, square().requires_grad_())

    assert str(caught.value).startswith("117.2 KiB are saved for backward; at most 78.12 KiB")
    assert "(100, 100)" in caught.value.details[0]


def test_a_backward_pass_within_the_call_still_works():
    x = square().requires_grad_()

    assert_saved_memory(3 * BLOCK, lambda x: chain(x / 100).sum().backward(), x)
    assert torch.isfinite(x.grad).all()
