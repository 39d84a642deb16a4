"""Wrong gradients, each with the sentence that says what is wrong with it."""

import pytest
import torch

from grader.testing import (
    CheckFailed,
    _record,
    assert_gradients,
    assert_gradients_close,
    assert_independent,
)


def x64(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def cube_with(gradient):
    """x³ with a backward of its own: `gradient(grad_output, x)`."""

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, grad_output):
            return gradient(grad_output, *ctx.saved_tensors)

    return lambda x: Cube.apply(x)


RIGHT = cube_with(lambda g, x: 3 * x**2 * g)
NO_UPSTREAM = cube_with(lambda g, x: 3 * x**2)


def in_place(g, x):
    return g.mul_(3 * x**2)


def wear_out(g, x):
    gradient = 3 * x**2 * g
    x.data.mul_(2)
    return gradient


def failure_of(check, *args, **kwargs):
    _record.begin()
    with pytest.raises(CheckFailed) as caught:
        check(*args, **kwargs)
    return caught.value


@pytest.mark.parametrize(
    ("fn", "inputs", "kwargs"),
    [
        (RIGHT, (x64(3, 2),), {"order": 2}),
        (lambda x: x.sin(), (x64(),), {}),
        (lambda x, w: (x @ w, w.sum()), (x64(3, 2), x64(2, 5)), {"order": 2}),
        (lambda x, n: x * n, (x64(3), 4), {}),
        (lambda x, i: x[i], (x64(5), torch.tensor([0, 0, 3])), {}),
        (lambda x: x * 2, (x64(3),), {"order": 2}),
        (lambda x: (x, x.argmax()), (x64(3),), {}),
        (lambda x: x.exp(), (x64(20, 30),), {"fast": True}),
        (lambda x: x.abs() * x, (torch.complex(x64(3), x64(3, seed=2)),), {}),
        (lambda x: x.cumsum(0), (x64(6)[::2],), {}),
        (lambda x: x * x, (x64(0),), {}),
    ],
)
def test_right_gradients_pass(fn, inputs, kwargs):
    assert_gradients(fn, *inputs, **kwargs)


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (NO_UPSTREAM, "the gradient with respect to x is the same whatever comes from above"),
        (cube_with(lambda g, x: -3 * x**2 * g), "with respect to x has the wrong sign"),
        (cube_with(lambda g, x: 6 * x**2 * g), "with respect to x is 2 times what it should be"),
        (cube_with(lambda g, x: 0 * g), "no gradient reaches x: it is 0 everywhere"),
        (cube_with(lambda g, x: 3 * x * g), "; finite differences give "),
        (cube_with(lambda g, x: (g * 3 * x**2)[:1]), "backward raises: Function CubeBackward"),
        (cube_with(in_place), "backward changes grad_output in place"),
        (cube_with(wear_out), "when it runs again: does it change saved tensors"),
        (cube_with(lambda g, x: g / 0), "with respect to x is not finite"),
        (lambda x: x.detach() ** 3, "the result doesn't require grad: no gradient reaches x"),
        (lambda x: torch.ones_like(x), "the result doesn't require grad"),
        (lambda x: (x**3).float(), "the result is float32 though the inputs are float64"),
        (lambda x: None, "the result is None; expected a torch.Tensor"),
        (lambda x: (x, "b"), "the result[1] is the text 'b'"),
        (lambda x: x.argmax(), "only floating tensors have a gradient"),
    ],
)
def test_a_wrong_gradient_is_told_in_one_sentence(fn, says):
    x = x64(3, 2)

    assert says in failure_of(assert_gradients, lambda x: fn(x), x).text


def test_a_result_whose_shape_changes_between_calls_fails():
    lengths = iter([3, 2, 1])

    failure = failure_of(assert_gradients, lambda x: x[: next(lengths)] ** 2, x64(3))

    assert failure.text == "the result has another shape at the second call"


def test_the_worst_entry_names_its_place_in_input_and_result():
    def fn(x):
        return torch.stack([x[0] ** 2, x[1].detach() * x[0]])

    failure = failure_of(assert_gradients, fn, torch.tensor([2.0, 3.0], dtype=torch.float64))

    assert failure.text == (
        "the gradient with respect to x at [1], of the result at [1], is 0; "
        "finite differences give 2"
    )
    assert failure.details == ("1 of 4 derivatives differ",)


def test_a_swapped_vector_jacobian_product_is_called_transposed():
    matrix = x64(4, 4)

    class Times(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return matrix @ x

        @staticmethod
        def backward(ctx, grad_output):
            return matrix @ grad_output

    failure = failure_of(assert_gradients, lambda x: Times.apply(x), x64(4))

    assert "the Jacobian is applied from the wrong side" in failure.text


def test_a_failing_gradient_draws_yours_against_finite_differences():
    failure_of(assert_gradients, NO_UPSTREAM, x64(3, 2))

    (picture,) = _record.current().pictures
    assert picture["kind"] == "scatter"
    assert picture["data"]["diagonal"] is True
    assert len(picture["data"]["x"]) == len(picture["data"]["y"]) == 36


def test_along_one_direction_a_wrong_gradient_still_shows():
    failure = failure_of(assert_gradients, NO_UPSTREAM, x64(20, 30), fast=True)

    assert "along a random direction" in failure.text


@pytest.mark.parametrize(
    ("backward", "says"),
    [
        (lambda g, x: 3 * x.detach() ** 2 * g, "no second gradient reaches x"),
        (lambda g, x: (3 * x**2 * g).detach(), "cannot be differentiated again"),
    ],
)
def test_a_gradient_that_has_none_of_its_own_fails_at_the_second_order(backward, says):
    fn = cube_with(backward)
    assert_gradients(fn, x64(3))

    assert says in failure_of(assert_gradients, fn, x64(3), order=2).text


@pytest.mark.parametrize("inputs", [(x64(3).float(),), (x64(3), torch.ones(2)), (1.0,), ()])
def test_inputs_that_finite_differences_cannot_use_are_the_authors_error(inputs):
    with pytest.raises(TypeError, match="assert_gradients needs"):
        assert_gradients(lambda *inputs: inputs[0] * 2, *inputs)


def test_the_inputs_of_the_suite_are_left_alone():
    x = x64(3).requires_grad_()
    before = x.detach().clone()

    assert_gradients(lambda x: (x.data.mul_(1), x * 2)[1], x)

    assert torch.equal(x.detach(), before)
    assert x.grad is None


def test_an_error_of_the_submissions_own_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        assert_gradients(lambda x: x * (1 // 0), x64(3))
    with pytest.raises(NotImplementedError):
        assert_gradients(cube_with(lambda g, x: todo()), x64(3))


def todo():
    raise NotImplementedError("day09 T1: softplus")


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (lambda q, k: q * k.detach(), "no gradient reaches k: it is None"),
        (
            lambda q, k: (q * k).detach(),
            "the result doesn't require grad: no gradient reaches q and k",
        ),
        (lambda q, k: q * k + 1, "every element of the result is too large by 1"),
        (
            lambda q, k: q.detach() * k + 0 * q,
            "every element of the gradient with respect to q is 0",
        ),
        (lambda q, k: (q * k).sum(), "every axis was reduced"),
        (lambda q, k: None, "the result is None"),
        (lambda q, k: (q * k, q), "the result is 2 tensors; expected 1"),
    ],
)
def test_a_gradient_unlike_the_oracles_is_named(fn, says):
    failure = failure_of(
        assert_gradients_close, fn, lambda q, k: q * k, x64(3, 2), x64(3, 2, seed=2)
    )

    assert says in failure.text


def test_a_missing_grad_output_is_named():
    failure = failure_of(assert_gradients_close, NO_UPSTREAM, lambda x: x**3, x64(3, 2))

    assert "backward must multiply by grad_output" in failure.text
    assert "at [" in failure.details[0]


def test_value_and_gradients_like_the_oracles_pass():
    linear = torch.nn.functional.linear
    assert_gradients_close(lambda x, w: x @ w.T, linear, x64(3, 2), x64(5, 2))
    assert_gradients_close(RIGHT, lambda x: x**3, x64(3).float())
    assert_gradients_close(
        lambda x: (x * 2, x.argmax()), lambda x: (x + x, x.argmax()), x64(3), names=("x",)
    )


def test_no_gradient_counts_as_zeros_only_if_the_suite_says_so():
    def oracle(x, y):
        return x + 0 * y

    assert_gradients_close(lambda x, y: x * 1, oracle, x64(3), x64(3), none_is_zero=True)
    assert (
        "no gradient reaches y"
        in failure_of(assert_gradients_close, lambda x, y: x * 1, oracle, x64(3), x64(3)).text
    )


def test_a_gradient_where_the_oracle_has_none_fails():
    failure = failure_of(
        assert_gradients_close, lambda x, y: x + y - y.detach(), lambda x, y: x * 1, x64(3), x64(3)
    )

    assert failure.text == (
        "the gradient with respect to y must be 0: the result does not depend on it"
    )


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (lambda x: x.flip(0).cumsum(0).flip(0), "the result at [0] depends on the input at [1]"),
        (lambda x: x - x.mean(0), "the derivative there must be exactly 0, and is up to"),
        (lambda x: x.softmax(0), "depends on the input"),
        (lambda x: x * 0, "the result does not depend on the input at all"),
        (lambda x: x.detach(), "the result doesn't require grad"),
        (lambda x: x.sum(), "has no part there"),
        (lambda x: [x], "the result is a list of 1"),
    ],
)
def test_a_dependence_that_must_not_be_is_found(fn, says):
    assert says in failure_of(assert_independent, fn, x64(3, 2), 0, 1).text


def test_the_sentence_of_the_suite_says_what_the_dependence_means():
    failure = failure_of(
        assert_independent,
        lambda x: x.flip(0).cumsum(0).flip(0),
        x64(3, 2),
        (0, slice(None)),
        (slice(1, None), 0),
        "position 0 looks at position 1",
    )

    assert failure.text.startswith("position 0 looks at position 1: ")


def test_no_dependence_passes():
    assert_independent(lambda x: x.cumsum(0), x64(3, 2), 0, slice(1, None))
    assert_independent(lambda x: x.softmax(-1), x64(3, 2).float(), 2, 0)


def test_gradients_cannot_be_judged_by_what_the_submission_put_in_their_place(monkeypatch):
    x = x64(3)
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kwargs: (torch.zeros(()),))
    monkeypatch.setattr(torch.autograd, "gradcheck", lambda *args, **kwargs: True)
    monkeypatch.setattr(torch, "equal", lambda *args, **kwargs: True)
    monkeypatch.setattr(torch, "randn", lambda *args, **kwargs: torch.zeros(()))

    failure_of(assert_gradients, NO_UPSTREAM, x)
    failure_of(assert_gradients_close, NO_UPSTREAM, lambda x: x**3, x)


def test_gradients_can_be_judged_where_the_submission_left_gradients_switched_off():
    with torch.no_grad():
        assert_gradients(RIGHT, x64(3))
        assert_gradients_close(RIGHT, lambda x: x**3, x64(3))
