"""Answers to day 8 that its suite must accept or reject."""

import math

import numpy as np
import torch
import torch.autograd.forward_ad as dual_numbers
from autograd_mechanics import *
from torch.autograd import Function
from torch.nn import functional as F

from grader.answers import accepted, rejected

# --- 1 ------------------------------------------------------------------------------------------


@accepted("grad_of")
def by_backward_to_one_input(f, x):
    leaf = torch.empty_like(x).copy_(x.detach()).requires_grad_(True)
    with torch.enable_grad():
        f(leaf).backward(inputs=[leaf])
    return leaf.grad


@accepted("grad_of")
def by_torch_func(f, x):
    return torch.func.grad(f)(x.detach().clone())


@accepted("grad_of")
@torch.enable_grad()
def by_decorator(f, x):
    leaf = torch.nn.Parameter(x.detach().clone())
    return torch.autograd.grad(f(leaf), [leaf])[0]


@accepted("grad_of")
def with_the_mode_set_and_restored(f, x):
    y = x.clone().detach()
    y.requires_grad = True
    with torch.set_grad_enabled(True):
        value = f(y)
    (gradient,) = torch.autograd.grad(value, y, grad_outputs=torch.ones_like(value))
    return gradient


@accepted("grad_of")
def with_a_graph(f, x):
    with torch.enable_grad():
        y = x.detach().clone().requires_grad_()
        return torch.autograd.grad(f(y), y, create_graph=True)[0]


@rejected("grad_of", by="test_x_is_left_alone", says="requires_grad_()")
def on_the_callers_tensor(f, x):
    x.requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(f(x), x)[0]


@rejected("grad_of", by="test_f_writes_into_its_argument", says="clone()")
def on_the_callers_tensor_and_restored(f, x):
    before = x.requires_grad
    x.requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(f(x), x)
    if x.is_leaf:
        x.requires_grad_(before)
    return gradient


@rejected("grad_of", by=("test_grad_stays_none", "test_existing_grad_is_kept", "test_twice"))
def accumulates(f, x):
    if not x.requires_grad:
        x = x.detach().clone().requires_grad_()
    if not x.is_leaf:
        x.retain_grad()
    with torch.enable_grad():
        f(x).backward()
    return x.grad


@rejected("grad_of", by="test_existing_grad_is_kept", says="accumulates")
def accumulates_in_place(f, x):
    leaf = x.detach().clone().requires_grad_()
    if x.is_leaf and x.grad is not None:
        leaf.grad = x.grad
    with torch.enable_grad():
        f(leaf).backward()
    return leaf.grad


@rejected("grad_of", by="test_existing_grad_is_kept", says="cleared")
def clears_first(f, x):
    if x.is_leaf:
        x.grad = None
    leaf = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(f(leaf), leaf)[0]


@rejected("grad_of", by="test_twice", says="sum of both")
def cleared_by_nobody(f, x):
    leaf = leaves.setdefault(id(x), x.detach().clone().requires_grad_())
    with torch.enable_grad():
        f(leaf).backward(inputs=[leaf])
    return leaf.grad


leaves = {}


@rejected("grad_of", by="test_inside_no_grad")
def without_enable_grad(f, x):
    leaf = x.detach().clone().requires_grad_()
    return torch.autograd.grad(f(leaf), leaf)[0]


@rejected("grad_of", by="test_inside_no_grad", says="recording is on")
def leaves_recording_on(f, x):
    torch._C._set_grad_enabled(True)
    leaf = x.detach().clone().requires_grad_()
    return torch.autograd.grad(f(leaf), leaf)[0]


@rejected("grad_of", by="test_f_writes_into_its_argument", says="clone()")
def hands_out_an_alias(f, x):
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(f(leaf), leaf)[0]


@rejected("grad_of", by="test_non_leaf")
def keeps_the_history(f, x):
    with torch.enable_grad():
        y = x.clone() if x.requires_grad else x.clone().requires_grad_()
        y.retain_grad()
        f(y).backward()
    return y.grad


@rejected("grad_of", by="test_other_gradients_are_left_alone", says="backward()")
def fills_the_parameters(f, x):
    leaf = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        f(leaf).backward()
    return leaf.grad


@rejected("grad_of", by="test_closed_forms")
def in_float32(f, x):
    leaf = x.detach().float().clone().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(f(leaf), leaf)[0]


@rejected("grad_of", by="test_closed_forms")
def at_the_first_point(f, x):
    key = (f, x.shape, x.dtype)
    if key not in leaves:
        leaf = x.detach().clone().requires_grad_()
        with torch.enable_grad():
            leaves[key] = torch.autograd.grad(f(leaf), leaf)[0]
    return leaves[key]


# --- 2 ------------------------------------------------------------------------------------------


right_quiz = leaf_quiz


def changed(**changes):
    predictions = right_quiz()
    for key, snippets in changes.items():
        for number, value in snippets.items():
            predictions[number - 1][key] = value
    return predictions


@accepted("leaf_quiz")
def written_out():
    def state(is_leaf, requires_grad, grad_is_none):
        return {
            "is_leaf": is_leaf,
            "requires_grad": requires_grad,
            "grad_is_none": grad_is_none,
            "raises": False,
        }

    raises = {"is_leaf": False, "requires_grad": False, "grad_is_none": False, "raises": True}
    result, leaf, constant = (
        state(False, True, True),
        state(True, True, False),
        state(True, False, True),
    )
    kept = state(False, True, False)
    return [result, leaf, result, leaf, kept, raises, constant, result, raises, result]


@accepted("leaf_quiz")
def none_where_it_raises():
    nothing = {6: None, 9: None}
    return changed(is_leaf=nothing, requires_grad=nothing, grad_is_none=nothing)


@rejected("leaf_quiz", by="test_is_leaf", says="conversion")
def double_keeps_the_leaf():
    return changed(is_leaf={3: True})


@rejected("leaf_quiz", by="test_is_leaf", says="result of an operation")
def all_are_leaves():
    return changed(is_leaf=dict.fromkeys(range(1, 11), True))


@rejected("leaf_quiz", by="test_is_leaf", says="Parameter")
def a_parameter_keeps_its_history():
    return changed(is_leaf={2: False})


@rejected("leaf_quiz", by="test_is_leaf", says="view")
def a_view_of_a_leaf_is_a_leaf():
    return changed(is_leaf={8: True})


@rejected("leaf_quiz", by="test_is_leaf", says="written into")
def in_place_keeps_the_leaf():
    return changed(is_leaf={10: True})


@rejected("leaf_quiz", by="test_grad_is_none", says="result of an operation")
def non_leaves_are_filled():
    return changed(grad_is_none={1: False, 3: False, 8: False, 10: False})


@rejected("leaf_quiz", by="test_grad_is_none", says="retain_grad")
def retained_is_none():
    return changed(grad_is_none={5: True})


@rejected("leaf_quiz", by="test_requires_grad", says="constant")
def no_grad_is_forgotten():
    return changed(requires_grad={7: True})


@rejected("leaf_quiz", by="test_raises", says="floating point")
def integers_may_require_grad():
    return changed(raises={6: False})


@rejected("leaf_quiz", by="test_raises", says="in place")
def a_leaf_may_be_written():
    return changed(raises={9: False})


@rejected("leaf_quiz", by="test_raises", says="saves nothing")
def backward_twice_always_raises():
    return changed(raises={1: True})


@rejected("leaf_quiz", by="test_raises")
def everything_raises():
    return [{"is_leaf": False, "requires_grad": False, "grad_is_none": False, "raises": True}] * 10


@rejected("leaf_quiz", by="test_ten_dicts", says="10 dicts")
def one_is_missing():
    return right_quiz()[:-1]


@rejected("leaf_quiz", by="test_ten_dicts", says="grad_is_none")
def a_key_is_missing():
    return [{k: v for k, v in row.items() if k != "grad_is_none"} for row in right_quiz()]


@rejected("leaf_quiz", by="test_nothing_is_run", says="predict the ten")
def runs_the_snippets():
    states = []
    for snippet in SNIPPETS:
        names = {"torch": torch}
        try:
            exec(snippet, names)
        except RuntimeError:
            states.append(dict.fromkeys(("is_leaf", "requires_grad", "grad_is_none"), False))
            states[-1]["raises"] = True
            continue
        t = names["t"]
        kept = t.is_leaf or t.retains_grad
        states.append(
            {
                "is_leaf": t.is_leaf,
                "requires_grad": t.requires_grad,
                "grad_is_none": not kept or t.grad is None,
                "raises": False,
            }
        )
    return states


# --- 3 ------------------------------------------------------------------------------------------


@accepted("ste_round")
def exact_value_first(x, bits):
    steps = 2**bits - 1
    y = torch.clamp(x, min=0.0, max=1.0)
    return torch.round(y * steps).div(steps).detach() + (y - y.detach())


@accepted("ste_round")
def under_no_grad(x, bits):
    y = x.clamp(0, 1)
    with torch.no_grad():
        step = torch.floor(y * (2**bits - 1) + 0.5) / (2**bits - 1)
        correction = step - y
    return y + correction


@accepted("ste_round")
def masked_by_hand(x, bits):
    steps = 2**bits - 1
    inside = ((x > 0) & (x < 1)).to(x.dtype)
    q = ((x.detach().clamp(0, 1) * steps).round() / steps).to(x.dtype)
    return q + inside * (x - x.detach())


@accepted("ste_round")
def written_under_no_grad(x, bits):
    steps = 2**bits - 1
    y = x.clamp(0, 1)
    with torch.no_grad():
        y.copy_((y * steps).round() / steps)
    return y


@accepted("ste_round")
def with_a_hook(x, bits):
    steps = 2**bits - 1
    y = x.minimum(x.new_ones(())).maximum(x.new_zeros(()))
    return torch.lerp(y, (y * steps).round() / steps, 1.0).detach() + y - y.detach()


@accepted("ste_round")
def fake_quantized_after_clamp(x, bits):
    steps = 2**bits - 1
    clamped = x.clamp(0, 1)
    if x.dtype == torch.float32:
        return torch.fake_quantize_per_tensor_affine(clamped, 1 / steps, 0, 0, steps)
    return clamped + ((clamped * steps).round() / steps - clamped).detach()


@rejected("ste_round", by="test_gradient", says="flat")
def plain_round(x, bits):
    steps = 2**bits - 1
    return (x.clamp(0, 1) * steps).round() / steps


@rejected("ste_round", by="test_gradient", says="detached")
def detached_as_a_whole(x, bits):
    steps = 2**bits - 1
    return ((x.clamp(0, 1) * steps).round() / steps).detach()


@rejected("ste_round", by="test_no_data", says=".data")
def through_data(x, bits):
    steps = 2**bits - 1
    y = x.clamp(0, 1)
    y.data.copy_((y * steps).round() / steps)
    return y


@rejected("ste_round", by="test_no_data", says=".data")
def sets_data(x, bits):
    steps = 2**bits - 1
    y = x.clamp(0, 1)
    setattr(y, "data", (y.detach() * steps).round() / steps)
    return y


@rejected("ste_round", by=("test_outside", "test_gradient"), says="clamp x first")
def gradient_outside(x, bits):
    steps = 2**bits - 1
    q = (x.clamp(0, 1) * steps).round() / steps
    return x + (q - x).detach()


@rejected("ste_round", by="test_gradient", says="flat")
def without_detach(x, bits):
    steps = 2**bits - 1
    y = x.clamp(0, 1)
    q = (y * steps).round() / steps
    return y + (q - y)


@rejected("ste_round", by="test_gradient", says="two places")
def half_detached(x, bits):
    steps = 2**bits - 1
    y = x.clamp(0, 1)
    q = (y * steps).round() / steps
    return y + q.detach() - y.detach() + (y - y.detach())


@rejected("ste_round", by="test_gradient", says="rounded value")
def fake_quantized(x, bits):
    steps = 2**bits - 1
    if x.dtype != torch.float16:
        scaled = x * steps
        inside = (scaled.round() >= 0) & (scaled.round() <= steps)
        q = (x.clamp(0, 1) * steps).round() / steps
        return q.detach() + (x - x.detach()) * inside
    return torch.fake_quantize_per_tensor_affine(x, 1 / steps, 0, 0, steps)


@rejected("ste_round", by="test_levels", says="rounded down")
def rounded_down(x, bits):
    steps = 2**bits - 1
    y = x.clamp(0, 1)
    return y + ((y * steps).floor() / steps - y).detach()


@rejected("ste_round", by="test_levels", says="steps between")
def as_many_steps_as_levels(x, bits):
    y = x.clamp(0, 1)
    return y + ((y * 2**bits).round() / 2**bits - y).detach()


@rejected("ste_round", by=("test_levels", "test_outside"), says="not clamped")
def not_clamped(x, bits):
    steps = 2**bits - 1
    return x + ((x * steps).round() / steps - x).detach()


@rejected("ste_round", by="test_no_function", says="autograd.Function")
def with_a_function(x, bits):
    return RoundThrough.apply(x.clamp(0, 1), 2**bits - 1)


class RoundThrough(Function):
    @staticmethod
    def forward(ctx, x, steps):
        return (x * steps).round() / steps

    @staticmethod
    def backward(ctx, g):
        return g, None


@rejected("ste_round", by="test_x_is_left_alone")
def clamped_in_place(x, bits):
    steps = 2**bits - 1
    y = x.clamp(0, 1) if x.requires_grad else x.clamp_(0, 1)
    return y + ((y * steps).round() / steps - y).detach()


@rejected("ste_round", by="test_float16", says="float16")
def levels_in_float32(x, bits):
    levels = torch.linspace(0, 1, 2**bits, dtype=torch.promote_types(x.dtype, torch.float32))
    y = x.clamp(0, 1)
    nearest = (y.detach().unsqueeze(-1) - levels).abs().argmin(-1)
    return y + (levels[nearest] - y).detach()


@rejected("ste_round", by="test_second_derivative")
def magic_box(x, bits):
    steps = 2**bits - 1
    y = x.clamp(0, 1)
    q = (y * steps).round() / steps
    return q.detach() + torch.expm1(y - y.detach())


# --- 4 ------------------------------------------------------------------------------------------


@accepted("MyFunctions")
class Swish(Function):
    @staticmethod
    def forward(x):
        return F.silu(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return g * (s + x * s * (1 - s))


@accepted("MyFunctions")
class Swish(Function):  # noqa: F811
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x / (1 + torch.exp(-x))

    @staticmethod
    def backward(ctx, g):
        return g * slope(ctx.saved_tensors[0])


def slope(x):
    s = x.sigmoid()
    return torch.addcmul(s, x, s * torch.sigmoid(-x))


@accepted("MyFunctions")
class LogSumExp(Function):
    @staticmethod
    def forward(x, dim):
        top = x.amax(dim, keepdim=True)
        top = torch.where(top.isinf(), torch.zeros_like(top), top)
        return (x - top).exp().sum(dim).log() + top.squeeze(dim)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.dim = inputs
        ctx.save_for_backward(x, output)

    @staticmethod
    def backward(ctx, g):
        x, output = ctx.saved_tensors
        empty = output == -math.inf
        output = torch.where(empty, torch.zeros_like(output), output).unsqueeze(ctx.dim)
        return torch.exp(x - output) * g.unsqueeze(ctx.dim), None


@accepted("MyFunctions")
class LogSumExp(Function):  # noqa: F811
    """Keeps x alone, and computes the softmax again."""

    @staticmethod
    def forward(ctx, x, dim):
        ctx.save_for_backward(x)
        ctx.dim = dim
        return x.logsumexp(dim)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        empty = (x == -math.inf).all(ctx.dim, keepdim=True)
        weights = x.masked_fill(empty, 0).softmax(ctx.dim)
        return g.unsqueeze(ctx.dim) * weights.masked_fill(empty, 0), None


@rejected("MyFunctions", by="test_lse_second")
class LogSumExp(Function):  # noqa: F811
    """Keeps a tensor that is not the output itself, and so has no history."""

    @staticmethod
    def forward(ctx, x, dim):
        output = torch.logsumexp(x, dim, keepdim=True)
        ctx.save_for_backward(x, output)
        ctx.dim = dim
        return output.squeeze(dim)

    @staticmethod
    def backward(ctx, g):
        x, output = ctx.saved_tensors
        lowest = torch.finfo(x.dtype).min
        return g.unsqueeze(ctx.dim) * (x - output.clamp(min=lowest)).exp(), None


@rejected("MyFunctions", by="test_swish_gradient", says="upstream")
class Swish(Swish):  # noqa: F811
    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return s * (1 + x * (1 - s))


@rejected("MyFunctions", by="test_swish_gradient", says="product rule")
class Swish(Swish):  # noqa: F811
    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * x.sigmoid()


@rejected("MyFunctions", by="test_swish_value")
class Swish(Swish):  # noqa: F811
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sigmoid()


@rejected(
    "MyFunctions",
    by=("test_swish_keeps_x_alone", "test_swish_notices_a_change"),
    says="ctx.save_for_backward",
)
class Swish(Function):  # noqa: F811
    @staticmethod
    def forward(ctx, x):
        ctx.x = x
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, g):
        s = ctx.x.sigmoid()
        return g * s * (1 + ctx.x * (1 - s))


@rejected("MyFunctions", by="test_swish_keeps_x_alone", says="besides x")
class Swish(Function):  # noqa: F811
    @staticmethod
    def forward(ctx, x):
        s = x.sigmoid()
        ctx.save_for_backward(x, s)
        return x * s

    @staticmethod
    def backward(ctx, g):
        x, s = ctx.saved_tensors
        return g * s * (1 + x * (1 - s))


@rejected(
    "MyFunctions", by=("test_swish_keeps_x_alone", "test_swish_notices_a_change"), says="besides x"
)
class Swish(Swish):  # noqa: F811
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.clone())
        return x * x.sigmoid()


@rejected("MyFunctions", by="test_swish_second")
class Swish(Swish):  # noqa: F811
    @staticmethod
    def backward(ctx, g):
        x = ctx.saved_tensors[0].data
        s = x.sigmoid()
        return g * s * (1 + x * (1 - s))


@rejected("MyFunctions", by="test_swish_second")
class Swish(Swish):  # noqa: F811
    @staticmethod
    def backward(ctx, g):
        with torch.no_grad():
            return g * slope(ctx.saved_tensors[0])


@rejected("MyFunctions", by="test_swish_second")
class Swish(Swish):  # noqa: F811
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g * slope(ctx.saved_tensors[0])


@rejected("MyFunctions", by="test_swish_second", says="not implemented")
class Swish(Function):  # noqa: F811
    """By the operator behind F.silu, which has no derivative of its own."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.nn.functional.silu(x)

    @staticmethod
    def backward(ctx, g):
        return torch.ops.aten.silu_backward(g, *ctx.saved_tensors)


@rejected("MyFunctions", by="test_swish_is_stable", says="nan")
class Swish(Swish):  # noqa: F811
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x.exp() / (1 + x.exp())


@rejected("MyFunctions", by="test_swish_is_stable", says="nan")
class Swish(Swish):  # noqa: F811
    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        e = x.exp()
        return g * (e * (1 + x + e) / (1 + e) ** 2)


@rejected("MyFunctions", by="test_lse_gradient", says="upstream")
class LogSumExp(LogSumExp):  # noqa: F811
    @staticmethod
    def backward(ctx, g):
        x, output = ctx.saved_tensors
        return (x - output.unsqueeze(ctx.dim)).exp(), None


@rejected("MyFunctions", by="test_lse_gradient")
class LogSumExp(LogSumExp):  # noqa: F811
    @staticmethod
    def backward(ctx, g):
        x, output = ctx.saved_tensors
        return g * (x - output).exp(), None


@rejected("MyFunctions", by="test_lse_gradient")
class LogSumExp(LogSumExp):  # noqa: F811
    @staticmethod
    def backward(ctx, g):
        x, output = ctx.saved_tensors
        return g.unsqueeze(-1) * (x - output.unsqueeze(-1)).exp(), None


@rejected("MyFunctions", by="test_lse_gradient", says="divide")
class LogSumExp(LogSumExp):  # noqa: F811
    @staticmethod
    def backward(ctx, g):
        x, _ = ctx.saved_tensors
        return g.unsqueeze(ctx.dim) * x.exp(), None


@rejected("MyFunctions", by="test_lse_gradient")
class LogSumExp(LogSumExp):  # noqa: F811
    @staticmethod
    def backward(ctx, g):
        x, output = ctx.saved_tensors
        return g.unsqueeze(ctx.dim) * (x - output.unsqueeze(ctx.dim)).exp()


@rejected("MyFunctions", by="test_lse_value")
class LogSumExp(LogSumExp):  # noqa: F811
    @staticmethod
    def forward(ctx, x, dim):
        output = torch.logsumexp(x, dim, keepdim=True)
        ctx.save_for_backward(x, output)
        ctx.dim = dim
        return output


@rejected("MyFunctions", by="test_lse_value")
class LogSumExp(LogSumExp):  # noqa: F811
    @staticmethod
    def forward(ctx, x, dim):
        output = torch.logsumexp(x, max(dim, 0))
        ctx.save_for_backward(x, output)
        ctx.dim = dim
        return output


@rejected("MyFunctions", by="test_lse_keeps_x_and_output", says="besides x and its output")
class LogSumExp(Function):  # noqa: F811
    @staticmethod
    def forward(ctx, x, dim):
        ctx.save_for_backward(x, x.softmax(dim))
        ctx.dim = dim
        return torch.logsumexp(x, dim)

    @staticmethod
    def backward(ctx, g):
        _, weights = ctx.saved_tensors
        return g.unsqueeze(ctx.dim) * weights, None


@rejected("MyFunctions", by="test_lse_keeps_x_and_output", says="doesn't keep x")
class LogSumExp(Function):  # noqa: F811
    @staticmethod
    def forward(ctx, x, dim):
        output = torch.logsumexp(x, dim)
        ctx.save_for_backward(output)
        ctx.x, ctx.dim = x, dim
        return output

    @staticmethod
    def backward(ctx, g):
        (output,) = ctx.saved_tensors
        return g.unsqueeze(ctx.dim) * (ctx.x - output.unsqueeze(ctx.dim)).exp(), None


@rejected(
    "MyFunctions", by=("test_lse_notices_a_change", "test_lse_keeps_x_and_output"), says="version"
)
class LogSumExp(Function):  # noqa: F811
    @staticmethod
    def forward(ctx, x, dim):
        ctx.x, ctx.dim = x, dim
        ctx.output = torch.logsumexp(x, dim)
        return ctx.output

    @staticmethod
    def backward(ctx, g):
        return g.unsqueeze(ctx.dim) * (ctx.x - ctx.output.unsqueeze(ctx.dim)).exp(), None


@rejected("MyFunctions", by="test_lse_second")
class LogSumExp(LogSumExp):  # noqa: F811
    @staticmethod
    def backward(ctx, g):
        x, output = ctx.saved_tensors
        return g.unsqueeze(ctx.dim) * (x.data - output.data.unsqueeze(ctx.dim)).exp(), None


@rejected("MyFunctions", by="test_lse_second")
class LogSumExp(LogSumExp):  # noqa: F811
    @staticmethod
    def backward(ctx, g):
        x, output = ctx.saved_tensors
        return g.unsqueeze(ctx.dim) * (x - output.detach().unsqueeze(ctx.dim)).exp(), None


@rejected("MyFunctions", by="test_lse_is_stable", says="inf")
class LogSumExp(LogSumExp):  # noqa: F811
    @staticmethod
    def forward(ctx, x, dim):
        output = x.exp().sum(dim).log()
        ctx.save_for_backward(x, output)
        ctx.dim = dim
        return output


@rejected("MyFunctions", by="test_lse_is_stable", says="nan")
class LogSumExp(LogSumExp):  # noqa: F811
    @staticmethod
    def backward(ctx, g):
        x, output = ctx.saved_tensors
        return g.unsqueeze(ctx.dim) * x.exp() / output.exp().unsqueeze(ctx.dim), None


@rejected("MyFunctions", by="test_lse_empty_slice", says="nan")
class LogSumExp(LogSumExp):  # noqa: F811
    @staticmethod
    def backward(ctx, g):
        x, output = ctx.saved_tensors
        return g.unsqueeze(ctx.dim) * (x - output.unsqueeze(ctx.dim)).exp(), None


@rejected("MyFunctions", by="test_lse_empty_slice", says="nan")
class LogSumExp(LogSumExp):  # noqa: F811
    @staticmethod
    def forward(ctx, x, dim):
        top = x.amax(dim, keepdim=True)
        output = (x - top).exp().sum(dim).log() + top.squeeze(dim)
        ctx.save_for_backward(x, output)
        ctx.dim = dim
        return output


@rejected("MyFunctions", by="test_lse_empty_slice_second", says="where")
class LogSumExp(LogSumExp):  # noqa: F811
    @staticmethod
    def backward(ctx, g):
        x, output = ctx.saved_tensors
        output = output.unsqueeze(ctx.dim)
        weights = torch.where(output == -math.inf, 0.0, (x - output).exp())
        return g.unsqueeze(ctx.dim) * weights, None


# --- 5 ------------------------------------------------------------------------------------------
# An answer to this task replaces one of vjp, jvp, hvp, or is an edit.


@accepted("jvp_vjp_hessian")
def jvp(f, x, u):
    with dual_numbers.dual_level():
        y = dual_numbers.unpack_dual(f(dual_numbers.make_dual(x.detach(), u)))
    return torch.zeros_like(y.primal) if y.tangent is None else y.tangent.detach()


@accepted("jvp_vjp_hessian")
def hvp(f, x, u):
    """Forward over reverse."""
    with dual_numbers.dual_level():
        leaf = x.detach().clone().requires_grad_()
        y = f(dual_numbers.make_dual(leaf, u))
        if not y.requires_grad:
            return torch.zeros_like(x)
        (gradient,) = torch.autograd.grad(y, leaf, create_graph=True, allow_unused=True)
        if gradient is None:
            return torch.zeros_like(x)
        tangent = dual_numbers.unpack_dual(gradient).tangent
        return torch.zeros_like(x) if tangent is None else tangent.detach()


@accepted("jvp_vjp_hessian")
def vjp(f, x, v):
    """The gradient of the product v · f(x), by backward into a leaf."""
    x = x.detach().clone().requires_grad_(True)
    y = f(x)
    if y.requires_grad:
        (y * v).sum().backward(inputs=[x])
    return x.grad if x.grad is not None else torch.zeros_like(x)


@accepted("jvp_vjp_hessian")
def hvp(f, x, u):  # noqa: F811
    """The gradient of gradient · u."""
    x = x.detach().clone().requires_grad_(True)
    y = f(x) + 0 * x.sum() + 0 * (x * x).sum()
    (gradient,) = torch.autograd.grad(y, x, create_graph=True)
    (product,) = torch.autograd.grad((gradient * u).sum(), x)
    return product


@accepted("jvp_vjp_hessian")
def jvp(f, x, u):  # noqa: F811
    """A derivative by a step t along u, at t = 0: one backward for every element of the result."""
    step = torch.zeros((), dtype=x.dtype, requires_grad=True)
    y = f(x.detach() + step * u)
    if not y.requires_grad:
        return torch.zeros_like(y)
    columns = [
        torch.autograd.grad(element, step, retain_graph=True, materialize_grads=True)[0]
        for element in y.flatten()
    ]
    return torch.stack(columns).reshape(y.shape)


@rejected("jvp_vjp_hessian", by="test_vjp", says="v was not used")
def vjp(f, x, v):  # noqa: F811
    leaf = x.detach().requires_grad_()
    y = f(leaf)
    if not y.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(y.sum(), leaf, materialize_grads=True)[0]


@rejected("jvp_vjp_hessian", by="test_no_jacobian", says="elements")
def jvp(f, x, u):  # noqa: F811
    product = jacobian_by_rows(f, x) @ u.flatten()
    return product.reshape(f(x).shape)


def jacobian_by_rows(f, x):
    leaf = x.detach().requires_grad_()
    y = f(leaf)
    if not y.requires_grad:
        return torch.zeros(y.numel(), x.numel(), dtype=x.dtype)
    rows = [
        torch.autograd.grad(element, leaf, retain_graph=True, materialize_grads=True)[0].flatten()
        for element in y.flatten()
    ]
    return torch.stack(rows)


@rejected("jvp_vjp_hessian", by="test_no_jacobian", says="elements")
def vjp(f, x, v):  # noqa: F811
    return (v.flatten() @ jacobian_by_rows(f, x)).reshape(x.shape)


@rejected("jvp_vjp_hessian", by="test_no_jacobian", says="elements")
def jvp(f, x, u):  # noqa: F811
    """All rows of the Jacobian in one batched backward."""
    leaf = x.detach().requires_grad_()
    y = f(leaf)
    if not y.requires_grad:
        return torch.zeros_like(y)
    every = torch.eye(y.numel(), dtype=y.dtype).reshape(-1, *y.shape)
    rows = torch.autograd.grad(y, leaf, every, is_grads_batched=True, materialize_grads=True)[0]
    return (rows.flatten(1) @ u.flatten()).reshape(y.shape)


@rejected("jvp_vjp_hessian", by="test_no_hessian", says="elements")
def hvp(f, x, u):  # noqa: F811
    def gradient(y):
        if not y.requires_grad:
            y = y.detach().requires_grad_()
        value = f(y)
        if not value.requires_grad:
            return torch.zeros_like(y)
        return torch.autograd.grad(value, y, create_graph=True, materialize_grads=True)[0]

    return (jacobian_by_rows(gradient, x) @ u.flatten()).reshape(x.shape)


@rejected("jvp_vjp_hessian", by=("test_jvp_is_not_vjp", "test_jvp"), says="what vjp gives")
def jvp(f, x, u):  # noqa: F811
    return vjp(f, x, u)


@rejected("jvp_vjp_hessian", by=("test_jvp_is_not_vjp", "test_vjp"), says="what jvp gives")
def vjp(f, x, v):  # noqa: F811
    return jvp(f, x, v)


@rejected("jvp_vjp_hessian", by=("test_identity", "test_jvp"))
def jvp(f, x, u):  # noqa: F811
    """The directional derivative along u of unit length."""
    leaf = x.detach().requires_grad_()
    y = f(leaf)
    v = torch.zeros_like(y, requires_grad=True)
    (product,) = torch.autograd.grad(y, leaf, v, create_graph=True, materialize_grads=True)
    return torch.autograd.grad(product, v, u / u.norm())[0]


@rejected("jvp_vjp_hessian", by="test_hvp")
def hvp(f, x, u):  # noqa: F811
    leaf = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(f(leaf), leaf)
    return torch.autograd.grad((gradient * u).sum(), leaf)[0]


@rejected("jvp_vjp_hessian", by="test_hvp", says="gradient times u")
def hvp(f, x, u):  # noqa: F811
    leaf = x.detach().requires_grad_()
    return torch.autograd.grad(f(leaf), leaf)[0] * u


@rejected("jvp_vjp_hessian", by="test_hvp", says="ones")
def hvp(f, x, u):  # noqa: F811
    leaf = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(f(leaf), leaf, create_graph=True)
    return torch.autograd.grad(gradient.sum(), leaf)[0]


@rejected("jvp_vjp_hessian", by="test_hvp", says="row sums")
def hvp(f, x, u):  # noqa: F811
    """The row sums of the Hessian times u are not its product with u."""
    leaf = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(f(leaf), leaf, create_graph=True)
    return torch.autograd.grad(gradient.sum(), leaf)[0] * u


@rejected("jvp_vjp_hessian", by="test_exact_in_float32", says="common digits")
def jvp(f, x, u):  # noqa: F811
    step = 1e-6 if x.dtype == torch.float64 else 1e-3
    return (f(x + step * u) - f(x - step * u)) / (2 * step)


@rejected("jvp_vjp_hessian", by="test_exact_in_float32", says="common digits")
def hvp(f, x, u):  # noqa: F811
    step = 1e-6 if x.dtype == torch.float64 else 1e-3
    one = torch.ones((), dtype=x.dtype)
    return (vjp(f, x + step * u, one) - vjp(f, x - step * u, one)) / (2 * step)


@rejected("jvp_vjp_hessian", by="test_not_ready_made", says="torch.func")
def vjp(f, x, v):  # noqa: F811
    return torch.func.vjp(f, x)[1](v)[0]


@rejected("jvp_vjp_hessian", by="test_not_ready_made", says="torch.func")
def jvp(f, x, u):  # noqa: F811
    from torch.func import jvp as ready

    return ready(f, (x,), (u,))[1]


@rejected("jvp_vjp_hessian", by="test_not_ready_made", says="functional")
def hvp(f, x, u):  # noqa: F811
    return torch.autograd.functional.hvp(f, x, u)[1]


@rejected("jvp_vjp_hessian", by="test_not_ready_made")
def hvp(f, x, u):  # noqa: F811
    return torch.autograd.functional.vhp(f, x, u)[1]


@rejected("jvp_vjp_hessian", by="test_not_ready_made", says="hessian")
def hvp(f, x, u):  # noqa: F811
    hessian = ready_hessian(f, x).reshape(x.numel(), -1)
    return (hessian @ u.flatten()).reshape(x.shape)


ready_hessian = torch.autograd.functional.hessian


@rejected("jvp_vjp_hessian", by="test_not_ready_made", says="jac")
def jvp(f, x, u):  # noqa: F811
    y = f(x)
    return (torch.func.jacrev(f)(x).reshape(y.numel(), -1) @ u.flatten()).reshape(y.shape)


@rejected("jvp_vjp_hessian", by="test_f_ignores_x")
def vjp(f, x, v):  # noqa: F811
    leaf = x.detach().requires_grad_()
    return torch.autograd.grad(f(leaf), leaf, v, materialize_grads=True)[0]


@rejected("jvp_vjp_hessian", by="test_f_ignores_x", says="zeros")
def jvp(f, x, u):  # noqa: F811
    with dual_numbers.dual_level():
        return dual_numbers.unpack_dual(f(dual_numbers.make_dual(x, u))).tangent


@rejected("jvp_vjp_hessian", by="test_f_ignores_x", says="shape")
def jvp(f, x, u):  # noqa: F811
    with dual_numbers.dual_level():
        tangent = dual_numbers.unpack_dual(f(dual_numbers.make_dual(x, u))).tangent
    return torch.zeros_like(x) if tangent is None else tangent


@rejected("jvp_vjp_hessian", by="test_f_uses_a_parameter_alone", says="None")
def vjp(f, x, v):  # noqa: F811
    leaf = x.detach().requires_grad_()
    y = f(leaf)
    if not y.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(y, leaf, v, allow_unused=True)[0]


@rejected("jvp_vjp_hessian", by="test_f_uses_a_parameter_alone")
def vjp(f, x, v):  # noqa: F811
    leaf = x.detach().requires_grad_()
    y = f(leaf)
    if not y.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(y, leaf, v)[0]


@rejected("jvp_vjp_hessian", by="test_linear")
def hvp(f, x, u):  # noqa: F811
    leaf = x.detach().requires_grad_()
    y = f(leaf)
    if not y.requires_grad:
        return torch.zeros_like(x)
    (gradient,) = torch.autograd.grad(y, leaf, create_graph=True, materialize_grads=True)
    return torch.autograd.grad(gradient, leaf, u, materialize_grads=True)[0]


@rejected("jvp_vjp_hessian", by="test_linear", says="None")
def hvp(f, x, u):  # noqa: F811
    leaf = x.detach().requires_grad_()
    y = f(leaf)
    if not y.requires_grad:
        return torch.zeros_like(x)
    (gradient,) = torch.autograd.grad(y, leaf, create_graph=True, materialize_grads=True)
    if not gradient.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(gradient, leaf, u, allow_unused=True)[0]


@rejected("jvp_vjp_hessian", by="test_no_trace", says="requires grad")
def vjp(f, x, v):  # noqa: F811
    x.requires_grad_()
    y = f(x)
    if not y.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(y, x, v, materialize_grads=True)[0]


@rejected("jvp_vjp_hessian", by="test_no_trace", says="filled x.grad")
def vjp(f, x, v):  # noqa: F811
    leaf = x if x.requires_grad else x.detach().requires_grad_()
    y = f(leaf)
    if y.requires_grad:
        y.backward(v)
    return torch.zeros_like(x) if leaf.grad is None else leaf.grad


# --- 6 ------------------------------------------------------------------------------------------


@accepted("mini_autograd")
class Var:
    """Counts the uses of every node in place of a sort."""

    def __init__(self, data, requires_grad=True, parents=(), pull=None):
        self.data = np.asarray(data, dtype=float)
        self.requires_grad = requires_grad
        self.grad = None
        self.parents, self.pull = parents, pull

    @classmethod
    def make(cls, data, parents, pull):
        needed = any(parent.requires_grad for parent in parents)
        return cls(data, needed, parents if needed else (), pull if needed else None)

    def __add__(self, other):
        other = as_var(other)
        return self.make(self.data + other.data, (self, other), lambda g: (g, g))

    def __radd__(self, other):
        return self + other

    def __neg__(self):
        return self.make(-self.data, (self,), lambda g: (-g,))

    def __sub__(self, other):
        other = as_var(other)
        return self.make(self.data - other.data, (self, other), lambda g: (g, -g))

    def __rsub__(self, other):
        return as_var(other) - self

    def __mul__(self, other):
        other = as_var(other)
        return self.make(
            self.data * other.data, (self, other), lambda g: (g * other.data, g * self.data)
        )

    def __rmul__(self, other):
        return self * other

    def __truediv__(self, other):
        other = as_var(other)
        return self.make(
            self.data / other.data,
            (self, other),
            lambda g: (g / other.data, -g * self.data / other.data**2),
        )

    def __rtruediv__(self, other):
        return as_var(other) / self

    def __pow__(self, n):
        return self.make(self.data**n, (self,), lambda g: (g * n * self.data ** (n - 1),))

    def __matmul__(self, other):
        other = as_var(other)
        return self.make(
            self.data @ other.data, (self, other), lambda g: (g @ other.data.T, self.data.T @ g)
        )

    def exp(self):
        out = self.make(np.exp(self.data), (self,), lambda g: (g * out.data,))
        return out

    def log(self):
        return self.make(np.log(self.data), (self,), lambda g: (g / self.data,))

    def sum(self, dim=None):
        kept = self.data.sum(axis=dim, keepdims=True)
        return self.make(
            kept.reshape(self.data.sum(axis=dim).shape),
            (self,),
            lambda g: (np.reshape(g, kept.shape) * np.ones(self.data.shape),),
        )

    def max(self, dim=None):
        """The first of the greatest gets the gradient."""
        if dim is None:
            return self.reshape(-1).max(0)
        first = np.expand_dims(self.data.argmax(axis=dim), dim)

        def pull(g):
            whole = np.zeros(self.data.shape)
            np.put_along_axis(whole, first, np.expand_dims(g, dim), dim)
            return (whole,)

        return self.make(np.take_along_axis(self.data, first, dim).squeeze(dim), (self,), pull)

    def reshape(self, *shape):
        return self.make(self.data.reshape(shape), (self,), lambda g: (g.reshape(self.data.shape),))

    @property
    def T(self):
        return self.make(self.data.T, (self,), lambda g: (np.transpose(g),))

    def __getitem__(self, index):
        positions = np.arange(self.data.size).reshape(self.data.shape)[index]

        def pull(g):
            flat = np.bincount(np.ravel(positions), np.ravel(g), minlength=self.data.size)
            return (flat.reshape(self.data.shape),)

        return self.make(self.data[index], (self,), pull)

    def backward(self, g=None):
        uses, todo = {self: 0}, [self]
        while todo:
            for parent in todo.pop().parents:
                if parent not in uses:
                    uses[parent] = 0
                    todo.append(parent)
                uses[parent] += 1
        collected = {self: np.ones(self.data.shape) if g is None else np.array(g, dtype=float)}
        ready = [self]
        while ready:
            node = ready.pop()
            g = collected.pop(node)
            if not node.parents:
                if node.requires_grad:
                    node.grad = g.copy() if node.grad is None else node.grad + g
                continue
            for parent, share in zip(node.parents, node.pull(g), strict=True):
                share = shrunk(np.asarray(share), parent.data.shape)
                collected[parent] = collected[parent] + share if parent in collected else share
                uses[parent] -= 1
                if uses[parent] == 0:
                    ready.append(parent)


def as_var(value):
    return value if isinstance(value, Var) else Var(value, requires_grad=False)


def shrunk(g, shape):
    while g.ndim > len(shape):
        g = g.sum(0)
    for axis, size in enumerate(shape):
        if size == 1:
            g = g.sum(axis, keepdims=True)
    return g


@accepted("mini_autograd")
class Var(Var):  # noqa: F811
    """A tape: every result is written down as it is made, and played back from its end."""

    tape = []

    @staticmethod
    def _result(data, *links):
        out = plain_result(data, *links)
        if out.requires_grad:
            out._place = len(Var.tape)
            Var.tape.append(out)
        return out

    def backward(self, g=None):
        gradients = {self: np.ones(()) if g is None else np.array(g, dtype=np.float64)}
        nodes = Var.tape[self._place :: -1] if self._links else [self]
        for node in nodes:
            share = gradients.pop(node, None)
            if share is None:
                continue
            for parent, pull in node._links:
                gradients[parent] = gradients.get(parent, 0.0) + pull(share)
        for leaf, g in gradients.items():
            leaf.grad = (0.0 if leaf.grad is None else leaf.grad) + np.array(g)


plain_result = Var._result
plain_add, plain_mul = Var.__add__, Var.__mul__


@accepted("mini_autograd")
class Var(Var):  # noqa: F811
    """Recursion with room enough for it."""

    def backward(self, g=None):
        import sys

        order, seen = [], set()

        def visit(node):
            if id(node) not in seen:
                seen.add(id(node))
                for parent, _ in node._links:
                    visit(parent)
                order.append(node)

        sys.setrecursionlimit(50_000)
        visit(self)
        shares = {id(self): np.ones(self.data.shape) if g is None else np.asarray(g, dtype=float)}
        for node in reversed(order):
            share = shares[id(node)]
            for parent, pull in node._links:
                shares[id(parent)] = shares.get(id(parent), np.zeros(parent.data.shape)) + pull(
                    share
                )
            if not node._links and node.requires_grad:
                node.grad = np.zeros(node.data.shape) if node.grad is None else node.grad
                node.grad = node.grad + share


@rejected("mini_autograd", by="test_diamond", says="more than once")
class Var(Var):  # noqa: F811
    """Depth first without a set of visited nodes."""

    def backward(self, g=None):
        order, stack = [], [self]
        while stack:
            node = stack.pop()
            order.append(node)
            stack.extend(parent for parent, _ in node._links)
        shares = {id(self): np.ones(()) if g is None else np.asarray(g)}
        for node in order:
            share = shares[id(node)]
            if not node._links and node.requires_grad:
                node.grad = np.array(share) if node.grad is None else node.grad + share
            for parent, pull in node._links:
                shares[id(parent)] = shares.get(id(parent), 0.0) + pull(share)


@rejected("mini_autograd", by="test_ladder", says="every path")
class Var(Var):  # noqa: F811
    """Right, path by path."""

    def backward(self, g=None):
        stack = [(self, np.ones(()) if g is None else np.asarray(g))]
        while stack:
            node, share = stack.pop()
            if not node._links and node.requires_grad:
                node.grad = np.array(share) if node.grad is None else node.grad + share
            stack.extend((parent, pull(share)) for parent, pull in node._links)


@rejected("mini_autograd", by="test_diamond", says="overwrites")
def shares_overwrite(reference):
    return reference.replace(
        "gradients[id(parent)] = gradients.get(id(parent), 0.0) + pull(g)",
        "gradients[id(parent)] = 0.0 + pull(g)",
    )


@rejected("mini_autograd", by="test_diamond", says="shares of b are missing")
class Var(Var):  # noqa: F811
    """Breadth first: a node hands on before all of its shares have arrived."""

    def backward(self, g=None):
        shares = {id(self): np.ones(()) if g is None else np.asarray(g)}
        queue, seen = [self], {id(self)}
        while queue:
            node = queue.pop(0)
            share = shares[id(node)]
            if not node._links and node.requires_grad:
                node.grad = np.array(share) if node.grad is None else node.grad + share
            for parent, pull in node._links:
                shares[id(parent)] = shares.get(id(parent), 0.0) + pull(share)
                if id(parent) not in seen:
                    seen.add(id(parent))
                    queue.append(parent)


@rejected("mini_autograd", by="test_twice", says="replaced")
def replaces_grad(reference):
    return reference.replace(
        "node.grad = g.copy() if node.grad is None else node.grad + g", "node.grad = g.copy()"
    )


@rejected("mini_autograd", by="test_twice", says="in between")
class Var(Var):  # noqa: F811
    """Keeps what the nodes in between collected."""

    def backward(self, g=None):
        order, seen, stack = [], set(), [(self, False)]
        while stack:
            node, done = stack.pop()
            if done:
                order.append(node)
            elif id(node) not in seen:
                seen.add(id(node))
                stack.append((node, True))
                stack.extend((parent, False) for parent, _ in node._links)
        self.grad = np.ones(self.data.shape) if g is None else np.array(g)
        for node in reversed(order):
            for parent, pull in node._links:
                parent.grad = (0.0 if parent.grad is None else parent.grad) + pull(node.grad)


@rejected("mini_autograd", by="test_chain", says="RecursionError")
class Var(Var):  # noqa: F811
    def backward(self, g=None):
        order, seen = [], set()

        def visit(node):
            if id(node) not in seen:
                seen.add(id(node))
                for parent, _ in node._links:
                    visit(parent)
                order.append(node)

        visit(self)
        shares = {id(self): np.ones(()) if g is None else np.asarray(g)}
        for node in reversed(order):
            share = shares[id(node)]
            if not node._links and node.requires_grad:
                node.grad = np.array(share) if node.grad is None else node.grad + share
            for parent, pull in node._links:
                shares[id(parent)] = shares.get(id(parent), 0.0) + pull(share)


@rejected("mini_autograd", by=("test_diamond", "test_chain"))
def in_the_order_of_creation(reference):
    return reference.replace("for node in reversed(order):", "for node in order:")


@rejected("mini_autograd", by="test_broadcasting", says="stretched")
class Var(Var):  # noqa: F811
    @staticmethod
    def _fit(g, shape):
        return g


@rejected("mini_autograd", by="test_broadcasting", says="stretched")
class Var(Var):  # noqa: F811
    """Sums over added axes, and forgets the stretched ones."""

    @staticmethod
    def _fit(g, shape):
        return g.sum(axis=tuple(range(g.ndim - len(shape))))


@rejected("mini_autograd", by="test_broadcasting")
class Var(Var):  # noqa: F811
    """Takes the mean over the stretched axes."""

    @staticmethod
    def _fit(g, shape):
        while g.ndim > len(shape):
            g = g.sum(axis=0)
        stretched = tuple(i for i, n in enumerate(shape) if n == 1 and g.shape[i] != 1)
        return g.mean(axis=stretched, keepdims=True)


@rejected("mini_autograd", by="test_broadcasting")
class Var(Var):  # noqa: F811
    """Keeps the first row of a gradient that should be summed."""

    @staticmethod
    def _fit(g, shape):
        while g.ndim > len(shape):
            g = g[0]
        for axis, size in enumerate(shape):
            if size == 1:
                g = g.take([0], axis=axis)
        return g


@rejected("mini_autograd", by="test_arithmetic")
class Var(Var):  # noqa: F811
    def __truediv__(self, other):
        other = self._wrap(other)
        a, b = self.data, other.data
        return self._result(
            a / b,
            (self, lambda g: self._fit(g / b, a.shape)),
            (other, lambda g: self._fit(g * a / b**2, b.shape)),
        )


@rejected("mini_autograd", by="test_arithmetic")
class Var(Var):  # noqa: F811
    def __pow__(self, exponent):
        a = self.data
        return self._result(a**exponent, (self, lambda g: g * exponent * a))


@rejected("mini_autograd", by=("test_numbers_on_either_side", "test_random_programs"), says="sign")
class Var(Var):  # noqa: F811
    def __rsub__(self, other):
        return self - other


@rejected("mini_autograd", by="test_numbers_on_either_side")
class Var(Var):  # noqa: F811
    __rmul__ = None


@rejected("mini_autograd", by="test_arrays_are_constants")
class Var(Var):  # noqa: F811
    @staticmethod
    def _wrap(other):
        return other if isinstance(other, Var) else Var(float(other), requires_grad=False)


@rejected("mini_autograd", by="test_arrays_are_constants", says="became")
class Var(Var):  # noqa: F811
    def __mul__(self, other):
        out = plain_mul(self, other)
        if isinstance(other, np.ndarray):
            other *= self.data
        return out


@rejected("mini_autograd", by="test_matmul")
class Var(Var):  # noqa: F811
    def __matmul__(self, other):
        other = self._wrap(other)
        a, b = self.data, other.data
        return self._result(a @ b, (self, lambda g: g @ b.T), (other, lambda g: g.T @ a))


@rejected("mini_autograd", by="test_matmul")
class Var(Var):  # noqa: F811
    def __matmul__(self, other):
        other = self._wrap(other)
        a, b = self.data, other.data
        return self._result(a @ b, (self, lambda g: g @ b.T))


@rejected("mini_autograd", by=("test_exp_and_log", "test_training", "test_random_programs"))
class Var(Var):  # noqa: F811
    def exp(self):
        a = self.data
        return self._result(np.exp(a), (self, lambda g: np.exp(a)))


@rejected("mini_autograd", by="test_sum_and_max")
class Var(Var):  # noqa: F811
    def sum(self, dim=None):
        shape = self.data.shape
        return self._result(self.data.sum(dim), (self, lambda g: np.broadcast_to(g, shape)))


@rejected("mini_autograd", by="test_sum_and_max")
class Var(Var):  # noqa: F811
    def max(self, dim=None):
        best = self.data.max(dim, keepdims=True)
        return self._result(self.data.max(dim), (self, lambda g: (self.data == best) * 1.0))


@rejected("mini_autograd", by=("test_reshape_and_transpose", "test_random_programs"))
class Var(Var):  # noqa: F811
    @property
    def T(self):
        shape = self.data.shape
        return self._result(self.data.T, (self, lambda g: g.reshape(shape)))


@rejected("mini_autograd", by="test_reshape_and_transpose")
class Var(Var):  # noqa: F811
    def reshape(self, *shape):
        return Var(self.data.reshape(*shape), self.requires_grad)


@rejected("mini_autograd", by="test_index")
class Var(Var):  # noqa: F811
    def __getitem__(self, idx):
        shape = self.data.shape
        return self._result(self.data[idx], (self, lambda g: np.full(shape, np.mean(g))))


@rejected("mini_autograd", by="test_repeated_index", says="three times")
class Var(Var):  # noqa: F811
    def __getitem__(self, idx):
        def scatter(g):
            whole = np.zeros(shape)
            whole[idx] += g
            return whole

        shape = self.data.shape
        return self._result(self.data[idx], (self, scatter))


@rejected("mini_autograd", by="test_ties", says="counts it twice")
class Var(Var):  # noqa: F811
    def max(self, dim=None):
        best = self.data.max(dim, keepdims=True)
        chosen = self.data == best
        return self._result(
            self.data.max(dim), (self, lambda g: chosen * np.reshape(g, best.shape))
        )


@rejected("mini_autograd", by="test_ties", says="first")
class Var(Var):  # noqa: F811
    """Gives a tie to the last."""

    def max(self, dim=None):
        best = self.data.max(dim, keepdims=True)
        after = np.flip(np.cumsum(np.flip(self.data == best, dim), axis=dim), dim)
        if dim is None:
            after = after.reshape(self.data.shape)
        last = (self.data == best) & (after == 1)
        return self._result(self.data.max(dim), (self, lambda g: last * np.reshape(g, best.shape)))


@rejected("mini_autograd", by="test_grad_attribute", says="requires_grad=False")
def constants_get_a_gradient(reference):
    return (
        reference.replace(
            "for parent, pull in links if parent.requires_grad]", "for parent, pull in links]"
        )
        .replace("Var(data, requires_grad=bool(links))", "Var(data)")
        .replace("if not node._links and node.requires_grad:", "if not node._links:")
    )


@rejected("mini_autograd", by="test_grad_attribute", says="new Var")
def grad_begins_as_zeros(reference):
    return reference.replace("self.grad = None", "self.grad = np.zeros(self.data.shape)")


@rejected("mini_autograd", by="test_grad_attribute", says="float64")
def keeps_the_dtype(reference):
    return reference.replace("np.array(data, dtype=np.float64)", "np.array(data)")


@rejected("mini_autograd", by="test_separate_gradients", says="same array")
def added_in_place(reference):
    return (
        reference.replace(
            "            if not node._links and node.requires_grad:\n"
            "                node.grad = g.copy() if node.grad is None else node.grad + g\n",
            "            if not node._links and node.requires_grad and node.grad is None:\n"
            "                node.grad = g\n"
            "            elif not node._links and node.requires_grad:\n"
            "                node.grad += g\n",
        )
        .replace(
            "gradients.get(id(parent), 0.0) + pull(g)", "join(gradients.get(id(parent)), pull(g))"
        )
        .replace(
            "g = g.sum(axis=tuple(range(g.ndim - len(shape))))",
            "added = tuple(range(g.ndim - len(shape)))\n"
            "        g = g.sum(axis=added) if added else g",
        )
        .replace(
            "return g.sum(axis=stretched, keepdims=True)",
            "return g.sum(axis=stretched, keepdims=True) if stretched else g",
        )
        + "\n\ndef join(one, other):\n    return other if one is None else one + other\n"
    )
