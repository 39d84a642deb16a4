"""Operators are counted and forbidden by what is called, not by how it is written."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from grader.testing import (
    CheckFailed,
    _record,
    assert_close,
    assert_gradients,
    assert_no_python_loop,
    assert_no_tensor_of,
    assert_ops_at_most,
    assert_peak_memory,
    assert_unchanged,
    count_ops,
    forbid,
    forbid_torch,
    names_used,
)


def double_rows(x):
    rows = []
    for row in x:
        rows.append(row * 2)
    return torch.stack(rows)


def windows_by_slices(x):
    return torch.stack([x[i : i + 3] for i in range(len(x) - 2)])


def attention(q, k, v):
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


@pytest.mark.parametrize(
    ("fn", "names"),
    [
        (lambda x: x @ x.T, ("mm",)),
        (lambda x: x.view(-1).unsqueeze(0).expand(4, -1).detach()[1:].T, ()),
        (lambda x: x.reshape(12), ()),
        (lambda x: x.T.reshape(12), ("clone",)),
        (lambda x: x.softmax(-1), ("_softmax",)),
        (lambda x: x.add_(1), ("add_",)),
        (lambda x: [*x.unbind(), *x.split(2), x.alias() if hasattr(x, "alias") else x], ()),
    ],
)
def test_views_are_not_counted(fn, names):
    assert count_ops(fn, torch.randn(3, 4)).names == names


def test_the_log_knows_the_result_the_backward_pass_and_the_largest_tensor():
    x = torch.randn(3, 4, requires_grad=True)

    log = count_ops(lambda x: torch.autograd.grad((x @ x.T).sum(), x)[0], x)

    assert log.result.shape == (3, 4)
    assert log.names.count("mm") == 3
    assert log.largest == 12
    assert log.total > log.count == len(log.names)


def test_too_many_operators_are_told_by_name():
    with pytest.raises(CheckFailed) as caught:
        assert_ops_at_most(2, double_rows, torch.ones(3, 2))

    assert str(caught.value) == "you call 4 operators; at most 2 are allowed"
    assert caught.value.details == ("called were 3 × mul and stack",)


def test_enough_operators_pass_and_the_result_comes_back():
    assert assert_ops_at_most(4, double_rows, torch.ones(3, 2)).sum() == 12


@pytest.mark.parametrize("fn", [double_rows, windows_by_slices])
def test_a_python_loop_is_told_by_both_counts(fn):
    with pytest.raises(CheckFailed) as caught:
        assert_no_python_loop(fn, lambda n: torch.randn(n, 3))

    small, large = caught.value.args_["counts"]
    assert str(caught.value).startswith(
        f"you call {small} operators at size 8 and {large} at size 16"
    )
    assert large > small


def test_the_line_that_loops_is_named(tmp_path):
    file = tmp_path / "attention.py"
    file.write_text(
        "def fn(x):\n    y = x * 1\n    for row in x:\n        y = y + row * 2\n    return y\n"
    )
    space = {}
    exec(compile(file.read_text(), str(file), "exec"), space)

    with pytest.raises(CheckFailed) as caught:
        assert_no_python_loop(lambda x: space["fn"](x), lambda n: (torch.randn(n, 3),))

    assert caught.value.details == ("attention.py:4", "    y = y + row * 2")


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x.cumsum(0),
        lambda x: x.unfold(0, 3, 1).mean(-1),
        lambda x: (x[:, None] - x[None]).square().sum(-1),
        lambda x: torch.cdist(x, x),
        lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None], is_causal=True),
        lambda x: torch.einsum("id,jd->ij", x, x).tril(),
        lambda x: nn.GRU(3, 2)(x[:, None])[0],
        lambda x: x.sort(0).values.unique(),
        lambda x: torch.stack([x[:, 0], x[:, 1]]),
        lambda x: x.repeat_interleave(2, 0),
        lambda x: F.one_hot(x.argmax(-1), 3),
    ],
)
def test_no_loop_passes_whatever_the_idiom(fn):
    assert_no_python_loop(fn, lambda n: torch.randn(n, 3))


def test_an_intermediate_that_is_too_large_is_named():
    q = torch.randn(1, 1, 7, 2)

    with pytest.raises(CheckFailed) as caught:
        assert_no_tensor_of(49, attention, q, q, q)

    assert str(caught.value) == (
        "bmm makes a tensor of shape (1, 7, 7), 49 elements; fewer than 49 elements are allowed"
    )
    assert_no_tensor_of(50, attention, q, q, q)
    assert_no_tensor_of(49, F.scaled_dot_product_attention, q, q, q)


def test_a_view_or_a_write_into_an_argument_makes_no_tensor():
    x = torch.randn(3, 4)

    assert_no_tensor_of(100, lambda x: x.expand(9, 3, 4).sum(-1), x)
    assert_no_tensor_of(12, lambda x: x.mul_(2).t(), x)
    assert_no_tensor_of(12, lambda: x.mul_(2))


def use(name, fn, **kwargs):
    """What `forbid(name)` says about a call of `fn` on a (3, 4) tensor; None if nothing."""
    x = torch.randn(3, 4, requires_grad=True)
    y = x * 1
    try:
        with forbid(name, **kwargs):
            fn(y)
    except CheckFailed as failure:
        return f"{failure}" if failure.id == "forbidden" else failure.id
    return None


EXP = torch.exp


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * 2


class MyLinear(nn.Linear):
    def forward(self, x):
        return x.sum(-1)


@pytest.mark.parametrize(
    ("name", "fn", "call"),
    [
        ("softmax", lambda x: x.softmax(-1), "x.softmax(-1)"),
        ("softmax", lambda x: F.softmax(x, -1), "F.softmax(x, -1)"),
        ("softmax", lambda x: torch.softmax(x, -1), "torch.softmax(x, -1)"),
        ("softmax", lambda x: torch.special.softmax(x, -1), "torch.special.softmax(x, -1)"),
        ("softmax", lambda x: nn.Softmax(-1)(x), "nn.Softmax(-1)(x)"),
        ("softmax", lambda x: torch.ops.aten.softmax(x, -1), "torch.ops.aten.softmax(x, -1)"),
        (
            "softmax",
            lambda x: torch.ops.aten._softmax.default(x, -1, False),
            "torch.ops.aten._softmax.default(x, -1, False)",
        ),
        ("torch.softmax", lambda x: x.softmax(-1), "x.softmax(-1)"),
        ("F.softmax", lambda x: x.softmax(-1), "x.softmax(-1)"),
        ("matmul", lambda x: x @ x.T, "x @ x.T"),
        ("@", lambda x: x.matmul(x.T), "x.matmul(x.T)"),
        ("matmul", lambda x: torch.linalg.matmul(x, x.T), "torch.linalg.matmul(x, x.T)"),
        ("outer", lambda x: torch.ger(x[0], x[0]), "torch.ger(x[0], x[0])"),
        ("cat", lambda x: torch.concat([x, x]), "torch.concat([x, x])"),
        ("exp", lambda x: EXP(x), "EXP(x)"),
        ("exp", lambda x: x.exp_(), "x.exp_()"),
        ("exp", lambda x: torch.exp(x, out=torch.empty(0)), "torch.exp(x, out=torch.empty(0))"),
        ("einsum", lambda x: torch.einsum("ij->i", x), 'torch.einsum("ij->i", x)'),
        ("linalg.norm", lambda x: torch.linalg.norm(x), "torch.linalg.norm(x)"),
        ("linalg", lambda x: torch.linalg.norm(x), "torch.linalg.norm(x)"),
        ("normalize", lambda x: F.normalize(x), "F.normalize(x)"),
        ("nn.functional", lambda x: F.gelu(x), "F.gelu(x)"),
        ("T", lambda x: x.T, "x.T"),
        ("tensor", lambda x: torch.tensor([1]), "torch.tensor([1])"),
        ("item", lambda x: float(x.detach()[0, 0]), "float(x.detach()[0, 0])"),
        ("numpy", lambda x: x.detach().numpy(), "x.detach().numpy()"),
        ("autograd", lambda x: x.sum().backward(), "x.sum().backward()"),
        (
            "autograd.grad",
            lambda x: torch.autograd.grad(x.sum(), x),
            "torch.autograd.grad(x.sum(), x)",
        ),
        ("backward", lambda x: x.sum().backward(), "x.sum().backward()"),
        ("autograd.Function", lambda x: Double.apply(x), "Double.apply(x)"),
        ("torch.func", lambda x: torch.func.vjp(torch.sin, x), "torch.func.vjp(torch.sin, x)"),
        (
            "autograd.functional",
            lambda x: torch.autograd.functional.jacobian(torch.sin, x),
            "torch.autograd.functional.jacobian(torch.sin, x)",
        ),
        (
            "promote_types",
            lambda x: torch.promote_types(torch.int8, torch.uint8),
            "torch.promote_types(torch.int8, torch.uint8)",
        ),
        (
            "broadcast_shapes",
            lambda x: torch.broadcast_shapes((2, 1), (3,)),
            "torch.broadcast_shapes((2, 1), (3,))",
        ),
        ("nn.Linear", lambda x: nn.Linear(4, 2)(x), "nn.Linear(4, 2)(x)"),
        ("scaled_dot_product_attention", lambda x: F.scaled_dot_product_attention(x, x, x), None),
        ("cross_entropy", lambda x: nn.CrossEntropyLoss()(x, torch.tensor([0, 1, 2])), None),
    ],
)
def test_a_forbidden_function_is_seen_under_all_of_its_names(name, fn, call):
    said = use(name, fn, why="write it out")

    assert said is not None
    assert said.endswith(f"calls {name}, which is forbidden here: write it out")
    if call is not None:
        assert said.startswith(f"`{call}`")


@pytest.mark.parametrize(
    ("name", "fn"),
    [
        ("mm", lambda x: x @ x.T),
        ("matmul", lambda x: torch.mm(x, x.T)),
        ("matmul", lambda x: torch.einsum("ij,kj->ik", x, x)),
        ("normalize", lambda x: torch.linalg.norm(x)),
        ("norm", lambda x: torch.linalg.norm(x)),
        ("softmax", lambda x: x.log_softmax(-1)),
        ("softmax", lambda x: x.exp() / x.exp().sum(-1, keepdim=True)),
        ("log_softmax", lambda x: x.softmax(-1)),
        ("sum", lambda x: x.cumsum(0)),
        ("exp", lambda x: x.expand(2, 3, 4)),
        ("linalg", lambda x: x @ x.T),
        ("nn.functional", lambda x: x.softmax(-1)),
        ("nn.Linear", lambda x: MyLinear(4, 2)(x)),
        ("nn.Linear", lambda x: F.linear(x, x)),
        ("autograd", lambda x: x * 2),
        ("torch.func", lambda x: x.sin()),
        ("numpy", lambda x: x.detach().tolist()),
    ],
)
def test_a_function_whose_name_is_only_similar_stays_allowed(name, fn):
    assert use(name, fn) is None


def test_a_forbidden_function_that_a_check_is_given_to_call_is_seen():
    with pytest.raises(CheckFailed, match="softmax, which is forbidden"):
        with forbid("softmax"):
            assert_unchanged(partial(torch.softmax, dim=-1), torch.ones(2, 2))


def test_names_that_stay_are_exempt():
    def operator(x):
        return x @ x.T

    assert use("matmul", operator, allow=("matmul",)) is None
    assert use("exp", lambda x: x.exp_(), allow=("exp_",)) is None
    assert "exp" in use("exp", lambda x: x.exp(), allow=("exp_",))


def test_a_use_that_the_submission_swallows_fails_at_the_end():
    def sly(x):
        try:
            return x.softmax(-1)
        except Exception:
            return x.exp() / x.exp().sum(-1, keepdim=True)

    assert "`x.softmax(-1)` calls softmax" in use("softmax", sly)


def test_a_use_that_ends_in_another_error_is_what_is_told():
    def confused(x):
        try:
            x.softmax(-1)
        except Exception:
            raise KeyError("softmax") from None

    assert "`x.softmax(-1)` calls softmax" in use("softmax", confused)


def test_an_error_without_a_use_is_the_submissions_own():
    with pytest.raises(ZeroDivisionError), forbid("softmax"):
        divmod(1, 0)


def test_outside_of_the_context_everything_is_allowed():
    x = torch.randn(3, 4)
    with forbid("softmax", "nn.Softmax", "torch.func"):
        pass
    x.softmax(-1)
    nn.Softmax(-1)(x)
    torch.func.vjp(torch.sin, x)


def test_the_checks_of_this_package_may_be_used_within():
    x = torch.randn(3, dtype=torch.float64)
    with forbid("abs", "sum", "eq", "sub", "mul", "div", "autograd"):
        assert_close(x, x.clone())
        assert_gradients(lambda x: x.exp(), x)


@pytest.mark.parametrize("name", ["softmaks", "torch.nothing", "nn.Nothing", "finfo"])
def test_a_name_that_cannot_be_forbidden_is_the_authors_error(name):
    with pytest.raises(ValueError, match="torch has no function"), forbid(name):
        pass


@pytest.mark.parametrize(
    "fn",
    [
        lambda: torch.ones(2),
        lambda: torch.empty(2, 3).stride(),
        lambda: torch.broadcast_shapes((2,), (1,)),
        lambda: torch.promote_types(torch.int8, torch.int16),
        lambda: nn.Linear(1, 1),
    ],
)
def test_pure_python_may_not_call_torch(fn):
    with pytest.raises(CheckFailed, match="forbidden here: pure Python is asked for"):
        with forbid_torch():
            fn()


def test_pure_python_that_calls_no_torch_passes():
    with forbid_torch():
        assert sum(sorted({3: 1}, key=str)) == 3


SOURCE = '''
import torch
from torch.nn import functional as F

def attention(q, k):
    """Never softmax in a docstring."""
    scores = q @ k.mT  # nor cat in a comment
    return F.softmax(scores, dim=-1)

class Block:
    def forward(self, x):
        return [torch.exp(row) ** 2 for row in x]

    def other(self):
        while True:
            pass
'''


@pytest.mark.parametrize(
    ("function", "used", "unused"),
    [
        ("attention", {"F.softmax", "softmax", "@", "q"}, {"exp", "cat", "for", "dim"}),
        ("Block.forward", {"torch.exp", "exp", "for", "**"}, {"while", "softmax"}),
        ("Block", {"while", "for"}, {"softmax"}),
        ("", {"softmax", "while", "torch.nn", "functional"}, {"cat"}),
        ("nowhere", set(), {"softmax"}),
    ],
)
def test_the_names_that_a_text_uses_are_read_off_its_tree(function, used, unused):
    names = names_used(SOURCE, function)

    assert used <= names
    assert not unused & names


def test_what_torch_uses_inside_itself_is_no_use():
    def hessian(x):
        return torch.autograd.functional.hessian(lambda x: x.sin().sum(), x)

    assert use("autograd.functional.jacobian", hessian) is None
    assert use("autograd.functional.hessian", hessian) is not None
    assert use("softmax", lambda x: F.gumbel_softmax(x)) is None


def test_memory_over_time_is_drawn_with_its_limit():
    record = _record.begin()

    def three_steps(x):
        return (x + 1).mul(2).sum()

    with pytest.raises(CheckFailed):
        assert_peak_memory(100, three_steps, torch.zeros(1000))
    (drawn,) = record.pictures
    (series,) = drawn["data"]["series"]

    assert drawn["kind"] == "curve"
    assert drawn["data"]["limit"] == pytest.approx(0.1)
    assert max(series["y"]) == pytest.approx(8.0)
    assert drawn["caption"].endswith("100 bytes are allowed.")
