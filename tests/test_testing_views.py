"""Whose memory a result lives in, and what is said when an argument was changed."""

import pytest
import torch

from grader.testing import CheckFailed, assert_copy, assert_unchanged, assert_view


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x,
        lambda x: x.T,
        lambda x: x[1:, ::2],
        lambda x: x.view(-1),
        lambda x: x[0].expand(5, 4),
        lambda x: x.detach(),
        lambda x: x[:0],
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool, torch.complex64])
def test_a_view_passes_and_its_base_comes_back_as_it_was(view, dtype):
    base = torch.arange(12).reshape(3, 4).to(dtype)
    before = base.clone()

    assert_view(view(base), base)

    assert torch.equal(base, before)


def test_a_view_of_a_leaf_that_requires_grad_passes():
    base = torch.zeros(3, 4, requires_grad=True)

    assert_view(base.T, base)


@pytest.mark.parametrize(
    "copy", [lambda x: x.clone(), lambda x: x + 0, lambda x: x[[0, 1]], lambda x: x[:0]]
)
def test_a_copy_passes_and_is_left_as_it_was(copy):
    base = torch.arange(12.0).reshape(3, 4)
    result = copy(base)
    before = result.clone()

    assert_copy(result, base)

    assert torch.equal(result, before)


@pytest.mark.parametrize(
    ("check", "result", "says"),
    [
        (assert_view, lambda x: x.clone(), "the result is a copy; expected a view"),
        (assert_copy, lambda x: x, "the result is the input itself"),
        (assert_copy, lambda x: x.T, "a view of the input: writing to it changes the input"),
        (assert_copy, lambda x: torch.from_numpy(x.numpy()[1:]), "a view of the input"),
        (assert_view, lambda x: None, "the result is None"),
        (assert_copy, lambda x: (x,), "the result is a tuple of 1"),
    ],
)
def test_a_copy_is_no_view_and_a_view_is_no_copy(check, result, says):
    base = torch.arange(12.0).reshape(3, 4)

    with pytest.raises(CheckFailed) as caught:
        check(result(base), base)

    assert says in str(caught.value)


def scale_in_place(x):
    return x.mul_(2)


def write_past_the_version(x):
    x.data.add_(1)


def add_nothing(x):
    x += 0
    return x.sum()


def transpose_in_place(x):
    x.t_()


def take_one_away(xs):
    xs.pop()


def reorder(xs):
    xs.reverse()


def swap_an_item(xs):
    xs[0] = xs[0] + 1


@pytest.mark.parametrize(
    ("fn", "argument", "says"),
    [
        (
            scale_in_place,
            torch.ones(2, 3),
            "x was changed in place at [0, 0]: it is 2 now and was 1",
        ),
        (write_past_the_version, torch.ones(2), "x was changed in place at [0]"),
        (add_nothing, torch.ones(2), "x was written to in place, though its values"),
        (transpose_in_place, torch.ones(2, 3), "x was given another shape in place: (3, 2)"),
        (take_one_away, [1, 2], "xs was changed: it is a list of 1 now"),
        (reorder, [1, 2], "xs was changed"),
        (swap_an_item, [torch.ones(2)], "xs was changed"),
        (lambda xs: xs[1].zero_(), [torch.ones(1), torch.ones(2)], "xs[1] was changed in place"),
        (lambda d: d["a"].zero_(), {"a": torch.ones(2)}, "d['a'] was changed in place at [0]"),
        (lambda d: d.update(b=1), {"a": 1}, "d was changed"),
    ],
)
def test_an_argument_that_was_changed_is_named(fn, argument, says):
    with pytest.raises(CheckFailed) as caught:
        assert_unchanged(fn, argument)

    assert says in str(caught.value)


def test_keyword_arguments_are_watched_too():
    with pytest.raises(CheckFailed, match="mask was changed in place"):
        assert_unchanged(lambda x, mask: mask.fill_(0), torch.ones(1), mask=torch.ones(2))


def test_the_result_is_handed_back_when_nothing_was_changed():
    nan = torch.tensor([float("nan"), 1.0])

    assert assert_unchanged(lambda x, n, *rest: (x * 2, n), nan, 3, [nan], None)[1] == 3


def test_what_a_module_learns_about_itself_is_no_change_of_an_argument():
    norm = torch.nn.BatchNorm1d(3)

    assert_unchanged(lambda module, x: module(x), norm, torch.randn(5, 3))
