"""Day 8: build the graph, cut it, inspect it, extend it, and predict every `.grad`."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

SNIPPETS = (
    """\
x = torch.ones(3, requires_grad=True)
t = (x + x).sum()
t.backward()
t.backward()""",
    """\
x = torch.ones(3, requires_grad=True)
t = torch.nn.Parameter(x * 1)
t.sum().backward()""",
    """\
x = torch.ones(3, requires_grad=True)
t = x.double()
t.sum().backward()""",
    """\
x = torch.ones(3, requires_grad=True)
t = (x * 2).detach().requires_grad_()
(x * t).sum().backward()""",
    """\
x = torch.ones(3, requires_grad=True)
t = x * 2
t.retain_grad()
(t * t).sum().backward()""",
    """\
t = torch.tensor([1, 2, 3], requires_grad=True)""",
    """\
x = torch.ones(3, requires_grad=True)
with torch.no_grad():
    t = x * 2
(x * t).sum().backward()""",
    """\
x = torch.ones(2, 3, requires_grad=True)
t = x[0]
x.sum().backward()""",
    """\
t = torch.ones(3, requires_grad=True)
t.add_(1)
t.sum().backward()""",
    """\
x = torch.ones(3, requires_grad=True)
t = torch.zeros(3)
t.add_(x)
t.sum().backward()""",
)
"""The ten snippets of `leaf_quiz`; each begins anew, with nothing but `torch` imported."""


def grad_of(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Gradient of the scalar `f(x)` at `x`, leaving no trace.

    Args:
        f: takes a tensor like `x` and returns a scalar tensor; may write into its argument.
        x: (*), any shape; a leaf or not, requiring grad or not.

    Returns:
        (*), in the dtype of `x`.
    """
    # TODO 1: the gradient of f at x
    raise NotImplementedError("day08 T1: grad_of")
    # END TODO


def leaf_quiz() -> list[dict]:
    """Predictions for the variable `t` at the end of each of the ten `SNIPPETS`.

    Returns:
        Ten dicts in the order of the snippets, each with four bools: `is_leaf`, `requires_grad`,
        `grad_is_none` and `raises`.
    """
    # TODO 2: ten dicts, written down
    raise NotImplementedError("day08 T2: leaf_quiz")
    # END TODO


def ste_round(x: Tensor, bits: int) -> Tensor:
    """Round to the levels of a `bits`-bit number, with a straight-through gradient.

    Args:
        x: (*), floating point.
        bits: 1 to 8.

    Returns:
        (*), in the dtype of `x`: `x` clamped to [0, 1], then rounded to the nearest level
        k / (2**bits - 1). Its gradient is 1 where 0 < x < 1, and 0 outside.
    """
    # TODO 3: the nearest level, with a gradient that passes
    raise NotImplementedError("day08 T3: ste_round")
    # END TODO


class Swish(Function):
    """x * sigmoid(x), keeping nothing but x; called `Swish.apply(x)`.

    forward takes x: (*) and gives (*); backward takes g: (*) and gives (*).
    """

    # TODO 4: static forward(ctx, x) and backward(ctx, g)
    # END TODO


class LogSumExp(Function):
    """log(sum(exp(x))) over `dim`, keeping x and its output; called `LogSumExp.apply(x, dim)`.

    forward takes x: (*before, n, *after) and gives (*before, *after), without `dim`; backward
    takes g: (*before, *after) and gives one gradient for every argument of forward.
    """

    # TODO 4: static forward(ctx, x, dim) and backward(ctx, g)
    # END TODO


def vjp(f: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Tensor:
    """v^T J, where J is the Jacobian of `f` at `x`; zeros where `f` ignores `x`.

    Args:
        f: takes a tensor like `x`, returns a tensor of any shape.
        x: (*), floating point.
        v: shaped like f(x).

    Returns:
        (*), like `x`.
    """
    # TODO 5: v from the left
    raise NotImplementedError("day08 T5: jvp_vjp_hessian")
    # END TODO


def jvp(f: Callable[[Tensor], Tensor], x: Tensor, u: Tensor) -> Tensor:
    """J u, where J is the Jacobian of `f` at `x`; zeros where `f` ignores `x`.

    Args:
        f: takes a tensor like `x`, returns a tensor of any shape.
        x: (*), floating point.
        u: (*), like `x`.

    Returns:
        Shaped like f(x).
    """
    # TODO 5: u from the right
    raise NotImplementedError("day08 T5: jvp_vjp_hessian")
    # END TODO


def hvp(f: Callable[[Tensor], Tensor], x: Tensor, u: Tensor) -> Tensor:
    """H u, where H is the Hessian of the scalar `f` at `x`; zeros where `f` is linear.

    Args:
        f: takes a tensor like `x`, returns a scalar tensor.
        x: (*), floating point.
        u: (*), like `x`.

    Returns:
        (*), like `x`.
    """
    # TODO 5: the second derivatives, in the direction u
    raise NotImplementedError("day08 T5: jvp_vjp_hessian")
    # END TODO


class Var:
    """An array that remembers how it was made, for reverse-mode differentiation.

    Var(data, requires_grad=True) holds `data` as a float64 array.

    Attributes:
        data: the array of values.
        grad: an array shaped like `data` once a backward has reached this leaf, None before;
            always None with requires_grad=False.

    With a Var, a number or (on the right) an array: + - * / and unary -. With a number: **.
    With a 2-D Var or, on the right, array: @. Methods: exp(), log(), sum(dim=None), max(dim=None),
    reshape(*shape), T, [idx], and backward(g=None), where g is shaped like `data`; None means 1.
    """

    # TODO 6: the constructor, the operations and backward
    # END TODO
