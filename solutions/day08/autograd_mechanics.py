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
    ### BEGIN SOLUTION 1: the gradient of f at x
    leaf = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(f(leaf), leaf)[0]
    ### END SOLUTION


def leaf_quiz() -> list[dict]:
    """Predictions for the variable `t` at the end of each of the ten `SNIPPETS`.

    Returns:
        Ten dicts in the order of the snippets, each with four bools: `is_leaf`, `requires_grad`,
        `grad_is_none` and `raises`.
    """
    ### BEGIN SOLUTION 2: ten dicts, written down
    keys = ("is_leaf", "requires_grad", "grad_is_none", "raises")
    predictions = (
        (False, True, True, False),  # x + x saves nothing: a second backward finds all it needs
        (True, True, False, False),  # a Parameter wraps the values, not their history
        (False, True, True, False),  # a conversion is recorded like any operation
        (True, True, False, False),  # detach cuts, requires_grad_ starts anew
        (False, True, False, False),  # retain_grad asks for what only leaves get
        (True, False, True, True),  # only floating point and complex numbers have gradients
        (True, False, True, False),  # not recorded, so there is nothing behind it
        (False, True, True, False),  # a view of a leaf has a grad_fn
        (True, True, True, True),  # a leaf that requires grad can't be written in place
        (False, True, True, False),  # writing x into it made t a result
    )
    return [dict(zip(keys, row, strict=True)) for row in predictions]
    ### END SOLUTION


def ste_round(x: Tensor, bits: int) -> Tensor:
    """Round to the levels of a `bits`-bit number, with a straight-through gradient.

    Args:
        x: (*), floating point.
        bits: 1 to 8.

    Returns:
        (*), in the dtype of `x`: `x` clamped to [0, 1], then rounded to the nearest level
        k / (2**bits - 1). Its gradient is 1 where 0 < x < 1, and 0 outside.
    """
    ### BEGIN SOLUTION 3: the nearest level, with a gradient that passes
    levels = 2**bits - 1
    clamped = x.clamp(0, 1)
    rounded = (clamped * levels).round() / levels
    return clamped + (rounded - clamped).detach()
    ### END SOLUTION


class Swish(Function):
    """x * sigmoid(x), keeping nothing but x; called `Swish.apply(x)`.

    forward takes x: (*) and gives (*); backward takes g: (*) and gives (*).
    """

    ### BEGIN SOLUTION 4: static forward(ctx, x) and backward(ctx, g)
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return g * s * (1 + x * (1 - s))

    ### END SOLUTION


class LogSumExp(Function):
    """log(sum(exp(x))) over `dim`, keeping x and its output; called `LogSumExp.apply(x, dim)`.

    forward takes x: (*before, n, *after) and gives (*before, *after), without `dim`; backward
    takes g: (*before, *after) and gives one gradient for every argument of forward.
    """

    ### BEGIN SOLUTION 4: static forward(ctx, x, dim) and backward(ctx, g)
    @staticmethod
    def forward(ctx, x, dim):
        output = torch.logsumexp(x, dim)
        ctx.save_for_backward(x, output)
        ctx.dim = dim
        return output

    @staticmethod
    def backward(ctx, g):
        x, output = ctx.saved_tensors
        # -inf - -inf is nan; an empty slice is measured from 0 instead, and exp(-inf) is 0.
        output = output.masked_fill(output == -torch.inf, 0)
        return g.unsqueeze(ctx.dim) * (x - output.unsqueeze(ctx.dim)).exp(), None

    ### END SOLUTION


def vjp(f: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Tensor:
    """v^T J, where J is the Jacobian of `f` at `x`; zeros where `f` ignores `x`.

    Args:
        f: takes a tensor like `x`, returns a tensor of any shape.
        x: (*), floating point.
        v: shaped like f(x).

    Returns:
        (*), like `x`.
    """
    ### BEGIN SOLUTION 5: v from the left
    x = x.detach().requires_grad_()
    y = f(x)
    if not y.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(y, x, v, materialize_grads=True)[0]
    ### END SOLUTION


def jvp(f: Callable[[Tensor], Tensor], x: Tensor, u: Tensor) -> Tensor:
    """J u, where J is the Jacobian of `f` at `x`; zeros where `f` ignores `x`.

    Args:
        f: takes a tensor like `x`, returns a tensor of any shape.
        x: (*), floating point.
        u: (*), like `x`.

    Returns:
        Shaped like f(x).
    """
    ### BEGIN SOLUTION 5: u from the right
    x = x.detach().requires_grad_()
    y = f(x)
    if not y.requires_grad:
        return torch.zeros_like(y)
    v = torch.zeros_like(y, requires_grad=True)
    (product,) = torch.autograd.grad(y, x, v, create_graph=True, materialize_grads=True)
    if not product.requires_grad:
        return torch.zeros_like(y)
    return torch.autograd.grad(product, v, u, materialize_grads=True)[0].detach()
    ### END SOLUTION


def hvp(f: Callable[[Tensor], Tensor], x: Tensor, u: Tensor) -> Tensor:
    """H u, where H is the Hessian of the scalar `f` at `x`; zeros where `f` is linear.

    Args:
        f: takes a tensor like `x`, returns a scalar tensor.
        x: (*), floating point.
        u: (*), like `x`.

    Returns:
        (*), like `x`.
    """
    ### BEGIN SOLUTION 5: the second derivatives, in the direction u
    x = x.detach().requires_grad_()
    y = f(x)
    if not y.requires_grad:
        return torch.zeros_like(x)
    (gradient,) = torch.autograd.grad(y, x, create_graph=True, materialize_grads=True)
    if not gradient.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(gradient, x, u, materialize_grads=True)[0]
    ### END SOLUTION


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

    ### BEGIN SOLUTION 6: the constructor, the operations and backward
    def __init__(self, data, requires_grad=True):
        self.data = np.array(data, dtype=np.float64)
        self.requires_grad = requires_grad
        self.grad = None
        self._links = ()  # (parent, function from my gradient to the parent's share)

    @staticmethod
    def _result(data, *links):
        links = [(parent, pull) for parent, pull in links if parent.requires_grad]
        out = Var(data, requires_grad=bool(links))
        out._links = links
        return out

    @staticmethod
    def _wrap(other):
        return other if isinstance(other, Var) else Var(other, requires_grad=False)

    @staticmethod
    def _fit(g, shape):
        """Sum `g` over the axes that broadcasting added or stretched."""
        g = g.sum(axis=tuple(range(g.ndim - len(shape))))
        stretched = tuple(i for i, size in enumerate(shape) if size == 1 and g.shape[i] != 1)
        return g.sum(axis=stretched, keepdims=True)

    def __add__(self, other):
        other = self._wrap(other)
        a, b = self.data, other.data
        return self._result(
            a + b,
            (self, lambda g: self._fit(g, a.shape)),
            (other, lambda g: self._fit(g, b.shape)),
        )

    def __mul__(self, other):
        other = self._wrap(other)
        a, b = self.data, other.data
        return self._result(
            a * b,
            (self, lambda g: self._fit(g * b, a.shape)),
            (other, lambda g: self._fit(g * a, b.shape)),
        )

    def __pow__(self, exponent):
        a = self.data
        return self._result(a**exponent, (self, lambda g: g * exponent * a ** (exponent - 1)))

    def __matmul__(self, other):
        other = self._wrap(other)
        a, b = self.data, other.data
        return self._result(a @ b, (self, lambda g: g @ b.T), (other, lambda g: a.T @ g))

    def __neg__(self):
        return self * -1

    def __sub__(self, other):
        return self + -self._wrap(other)

    def __rsub__(self, other):
        return -self + other

    def __truediv__(self, other):
        return self * self._wrap(other) ** -1

    def __rtruediv__(self, other):
        return self**-1 * other

    __radd__, __rmul__ = __add__, __mul__

    def exp(self):
        value = np.exp(self.data)
        return self._result(value, (self, lambda g: g * value))

    def log(self):
        a = self.data
        return self._result(np.log(a), (self, lambda g: g / a))

    def sum(self, dim=None):
        shape = self.data.shape
        return self._result(
            self.data.sum(dim),
            (self, lambda g: np.broadcast_to(g if dim is None else np.expand_dims(g, dim), shape)),
        )

    def max(self, dim=None):
        best = self.data.max(dim, keepdims=True)
        chosen = self.data == best
        share = chosen / chosen.sum(dim, keepdims=True)
        return self._result(self.data.max(dim), (self, lambda g: share * np.reshape(g, best.shape)))

    def reshape(self, *shape):
        before = self.data.shape
        return self._result(self.data.reshape(*shape), (self, lambda g: g.reshape(before)))

    @property
    def T(self):  # noqa: N802 (NumPy's name)
        return self._result(self.data.T, (self, lambda g: g.T))

    def __getitem__(self, idx):
        def scatter(g):
            whole = np.zeros(shape)
            np.add.at(whole, idx, g)  # a repeated index adds up
            return whole

        shape = self.data.shape
        return self._result(self.data[idx], (self, scatter))

    def backward(self, g=None):
        order, seen, stack = [], set(), [(self, False)]
        while stack:
            node, parents_are_done = stack.pop()
            if parents_are_done:
                order.append(node)
            elif id(node) not in seen:
                seen.add(id(node))
                stack.append((node, True))
                stack.extend((parent, False) for parent, _ in node._links)
        gradients = {id(self): np.asarray(1.0 if g is None else g, dtype=np.float64)}
        for node in reversed(order):
            g = gradients.pop(id(node))
            if not node._links and node.requires_grad:
                node.grad = g.copy() if node.grad is None else node.grad + g
            for parent, pull in node._links:
                gradients[id(parent)] = gradients.get(id(parent), 0.0) + pull(g)

    ### END SOLUTION
