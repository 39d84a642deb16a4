"""Answers to day 24 that its suite must accept or reject."""

import math
import re

import torch
from attention import MultiHeadAttention
from torch import nn
from torch.nn import functional as F
from transformer_block import *

from grader.answers import accepted, rejected


def written(reference, first_line, body):
    """The reference with another body of the region that begins with this comment."""
    start = reference.index(f"### BEGIN SOLUTION {first_line}")
    start = reference.index("\n", start) + 1
    end = reference.rindex("\n", 0, reference.index("### END SOLUTION", start)) + 1
    return reference[:start] + body.strip("\n") + "\n" + reference[end:]


# Task 1: LayerNorm and RMSNorm


@accepted("LayerNorm")
class WithVarMean(nn.Module):
    def __init__(self, dim, eps=1e-5, bias=True):
        super().__init__()
        self.dim, self.eps = dim, eps
        self.weight = nn.Parameter(torch.ones(dim))
        if bias:
            self.bias = nn.Parameter(torch.zeros(dim))
        else:
            self.register_parameter("bias", None)

    def forward(self, x):
        half = x.dtype in (torch.float16, torch.bfloat16)
        wide = x.float() if half else x
        var, mean = torch.var_mean(wide, dim=-1, correction=0, keepdim=True)
        normed = ((wide - mean) / torch.sqrt(var + self.eps)).to(x.dtype)
        out = normed * self.weight
        return (out if self.bias is None else out + self.bias).to(x.dtype)


@accepted("LayerNorm")
class WithEinsum(nn.Module):
    def __init__(self, dim, eps=1e-5, bias=True):
        super().__init__()
        self.eps, self.has_bias = eps, bias
        self.weight = nn.Parameter(torch.ones(dim))
        if bias:
            self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x):
        dtype = x.dtype
        if not dtype == torch.float64:
            x = x.to(torch.float32)
        x = x - x.mean(-1).unsqueeze(-1)
        var = torch.einsum("...d,...d->...", x, x)[..., None] / x.size(-1)
        x = x * (var + self.eps) ** -0.5
        x = torch.mul(x, self.weight)
        if self.has_bias:
            x = torch.add(x, self.bias)
        return x.type(dtype)


@accepted("LayerNorm")
class ByItsOwnFunction(nn.Module):
    def __init__(self, dim, eps=1e-5, bias=True):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def forward(self, x):
        wide = torch.promote_types(x.dtype, torch.float32)
        bias = torch.zeros_like(self.weight) if self.bias is None else self.bias
        out = LayerNormFn.apply(x.to(wide), self.weight.to(wide), bias.to(wide), self.eps)
        return out.to(x.dtype)


@accepted("LayerNorm")
def rms_with_pow_and_sqrt(reference: str) -> str:
    return written(
        reference,
        "1: RMSNorm of x",
        """
        y = x if x.dtype == torch.float64 else x.float()
        rms = torch.sqrt(torch.mean(y.pow(2), -1, True) + self.eps)
        return self.weight.to(x.dtype) * (y / rms).to(x.dtype)
""",
    )


@accepted("LayerNorm")
def rms_by_the_norm_of_the_row(reference: str) -> str:
    return written(
        reference,
        "1: RMSNorm of x",
        """
        y = x if x.dtype == torch.float64 else x.float()
        power = torch.linalg.vector_norm(y, dim=-1, keepdim=True) ** 2 / x.shape[-1]
        return (y * (power + self.eps).rsqrt() * self.weight).to(x.dtype)
""",
    )


@rejected(
    "LayerNorm",
    by="test_layer_norm",
    says="divided by n - 1; LayerNorm takes the biased one",
)
def unbiased(reference: str) -> str:
    return reference.replace(
        "variance = centred.square().mean(dim=-1, keepdim=True)\n        out",
        "variance = x.to(torch.promote_types(x.dtype, torch.float32)).var(-1, keepdim=True)\n"
        "        out",
    )


@rejected("LayerNorm", by=("test_layer_norm", "test_dependence"), says="over the sequence too")
class OverTheSequenceToo(LayerNorm):
    def forward(self, x):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        axes = (-2, -1) if x.dim() > 1 else (-1,)
        centred = wide - wide.mean(axes, keepdim=True)
        out = centred / (centred.square().mean(axes, keepdim=True) + self.eps).sqrt() * self.weight
        return (out if self.bias is None else out + self.bias).to(x.dtype)


@rejected("LayerNorm", by="test_layer_norm", says="eps stands outside the root")
def eps_outside_the_root(reference: str) -> str:
    return reference.replace(
        "centred * torch.rsqrt(variance + self.eps) * self.weight",
        "centred / (variance.sqrt() + self.eps) * self.weight",
    )


@rejected("LayerNorm", by="test_layer_norm")
def another_default_eps(reference: str) -> str:
    return reference.replace("eps: float = 1e-5, bias", "eps: float = 1e-6, bias")


@rejected("LayerNorm", by="test_half", says="compute in float32")
def layer_norm_in_half(reference: str) -> str:
    return reference.replace(
        "wide = x.to(torch.promote_types(x.dtype, torch.float32))\n        centred",
        "wide = x\n        centred",
    )


@rejected("LayerNorm", by="test_half", says="compute in float32")
def rms_norm_in_half(reference: str) -> str:
    return reference.replace(
        "wide = x.to(torch.promote_types(x.dtype, torch.float32))\n        power",
        "wide = x\n        power",
    )


@rejected("LayerNorm", by="test_half", says="expected float16")
def comes_back_in_float32(reference: str) -> str:
    return reference.replace("return out.to(x.dtype)", "return out")


@rejected("LayerNorm", by=("test_layer_norm", "test_parameters"), says="1 + weight")
class OnePlusWeight(LayerNorm):
    def __init__(self, dim, eps=1e-5, bias=True):
        super().__init__(dim, eps, bias)
        self.weight = nn.Parameter(torch.zeros(dim))

    def forward(self, x):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        centred = wide - wide.mean(-1, keepdim=True)
        normed = centred / (centred.square().mean(-1, keepdim=True) + self.eps).sqrt()
        out = normed * (1 + self.weight)
        return (out if self.bias is None else out + self.bias).to(x.dtype)


@rejected("LayerNorm", by="test_layer_norm", says="`weight` and `bias` are left out")
class WithoutAffine(LayerNorm):
    def forward(self, x):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        centred = wide - wide.mean(-1, keepdim=True)
        return (centred / (centred.square().mean(-1, keepdim=True) + self.eps).sqrt()).to(x.dtype)


@rejected("LayerNorm", by="test_offset", says="subtract the mean first")
def difference_of_means(reference: str) -> str:
    return reference.replace(
        "variance = centred.square().mean(dim=-1, keepdim=True)\n        out",
        "variance = wide.square().mean(-1, keepdim=True) - wide.mean(-1, keepdim=True).square()\n"
        "        out",
    )


@rejected("LayerNorm", by="test_offset", says="subtract the mean first")
def difference_of_means_clamped(reference: str) -> str:
    return reference.replace(
        "variance = centred.square().mean(dim=-1, keepdim=True)\n        out",
        "variance = wide.square().mean(-1, keepdim=True) - wide.mean(-1, keepdim=True).square()\n"
        "        variance = variance.clamp(min=0)\n        out",
    )


@rejected("LayerNorm", by="test_constant_rows", says="nan")
def without_eps(reference: str) -> str:
    return reference.replace("torch.rsqrt(variance + self.eps)", "torch.rsqrt(variance)")


@rejected("LayerNorm", by="test_rms_norm", says="the mean is subtracted")
def rms_norm_with_the_mean_out(reference: str) -> str:
    return reference.replace(
        "        power = wide",
        "        wide = wide - wide.mean(-1, keepdim=True)\n        power = wide",
    )


@rejected("LayerNorm", by="test_rms_norm", says="eps stands outside the root")
def rms_norm_with_eps_outside(reference: str) -> str:
    return reference.replace(
        "wide * torch.rsqrt(power + self.eps)", "wide / (power.sqrt() + self.eps)"
    )


@rejected("LayerNorm", by="test_rms_norm", says="added up; their mean is wanted")
def rms_norm_by_the_sum(reference: str) -> str:
    return reference.replace(
        "power = wide.square().mean(dim=-1, keepdim=True)", "power = wide.square().sum(-1, True)"
    )


@rejected("LayerNorm", by="test_rms_norm")
def rms_norm_with_the_eps_of_layer_norm(reference: str) -> str:
    return reference.replace("eps: float = 1e-6", "eps: float = 1e-5")


@rejected("LayerNorm", by="test_parameters", says="bias")
def bias_whatever_is_asked(reference: str) -> str:
    return reference.replace(
        "nn.Parameter(torch.zeros(dim)) if bias else None", "nn.Parameter(torch.zeros(dim))"
    )


@rejected("LayerNorm", by="test_parameters", says="parameters")
def weight_is_a_buffer(reference: str) -> str:
    return reference.replace(
        "        self.weight = nn.Parameter(torch.ones(dim))\n        ### END SOLUTION",
        '        self.register_buffer("weight", torch.ones(dim))\n        ### END SOLUTION',
    )


@rejected("LayerNorm", by="test_layer_norm", says="task 1 asks for your own")
class PytorchNorm(LayerNorm):
    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)


@rejected("LayerNorm", by="test_layer_norm", says="task 1 asks for your own")
class PytorchClass(nn.LayerNorm):
    def __init__(self, dim, eps=1e-5, bias=True):
        super().__init__(dim, eps=eps, bias=bias)


@rejected("LayerNorm", by="test_layer_norm", says="task 1 asks for your own")
class GroupNormOfOneGroup(LayerNorm):
    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        return F.group_norm(flat, 1, self.weight, self.bias, self.eps).reshape(x.shape)


@rejected("LayerNorm", by="test_gradients")
def statistics_without_a_graph(reference: str) -> str:
    return reference.replace(
        "torch.rsqrt(variance + self.eps) * self.weight",
        "torch.rsqrt(variance.detach() + self.eps) * self.weight",
    )


@rejected("LayerNorm", by="test_house_rules", says="eval mode")
class RunningStatistics(LayerNorm):
    def __init__(self, dim, eps=1e-5, bias=True):
        super().__init__(dim, eps, bias)
        self.mean, self.var = 0.0, 1.0

    def forward(self, x):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.training:
            self.mean = wide.mean(-1, keepdim=True)
            self.var = (wide - self.mean).square().mean(-1, keepdim=True)
            mean, var = self.mean, self.var
        else:
            mean, var = self.mean.mean(), self.var.mean()
        out = (wide - mean) / (var + self.eps).sqrt() * self.weight
        return (out if self.bias is None else out + self.bias).to(x.dtype)


@rejected("LayerNorm", by="test_house_rules", says="changed")
def centres_in_place(reference: str) -> str:
    return reference.replace(
        "centred = wide - wide.mean(dim=-1, keepdim=True)\n        variance",
        "centred = wide.sub_(wide.mean(dim=-1, keepdim=True).detach())\n        variance",
    )


# Task 2: LayerNormFn


@accepted("LayerNormFn")
class KeepsTheNormedRow(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        var, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
        rstd = 1 / torch.sqrt(var + eps)
        normed = (x - mean) * rstd
        ctx.save_for_backward(normed, weight, rstd)
        return torch.addcmul(bias, normed, weight)

    @staticmethod
    def backward(ctx, grad):
        normed, weight, rstd = ctx.saved_tensors
        dim = normed.shape[-1]
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            g = grad * weight
            inner = dim * g - g.sum(-1, keepdim=True)
            dx = rstd / dim * (inner - normed * (g * normed).sum(-1, keepdim=True))
        if ctx.needs_input_grad[1]:
            dw = torch.einsum("...d,...d->d", grad, normed)
        if ctx.needs_input_grad[2]:
            db = grad.reshape(-1, dim).sum(0)
        return dx, dw, db, None


@accepted("LayerNormFn")
class WithSetupContext(torch.autograd.Function):
    @staticmethod
    def forward(x, weight, bias, eps):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight + bias

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, bias, eps = inputs
        ctx.eps = eps
        ctx.save_for_backward(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, weight, _ = ctx.saved_tensors
        centred = x - x.mean(-1, keepdim=True)
        rstd = (centred.pow(2).mean(-1, keepdim=True) + ctx.eps).rsqrt()
        normed = centred * rstd
        axes = tuple(range(x.dim() - 1))
        g = grad * weight
        dx = rstd * (g - g.mean(-1, True) - normed * (g * normed).mean(-1, True))
        rows = grad * normed
        return (
            dx if ctx.needs_input_grad[0] else None,
            (rows.sum(axes) if axes else rows) if ctx.needs_input_grad[1] else None,
            (grad.sum(axes) if axes else grad.clone()) if ctx.needs_input_grad[2] else None,
            None,
        )


@accepted("LayerNormFn")
class ByTheJacobian(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        mean = x.mean(-1, keepdim=True)
        var = x.var(-1, unbiased=False, keepdim=True)
        ctx.save_for_backward(x, weight)
        ctx.mean, ctx.rstd = mean, (var + eps) ** -0.5
        return (x - mean) * ctx.rstd * weight + bias

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        normed, dim = (x - ctx.mean) * ctx.rstd, x.shape[-1]
        needs = ctx.needs_input_grad
        dx = None
        if needs[0]:
            eye = torch.eye(dim, dtype=x.dtype, device=x.device)
            jacobian = eye - 1 / dim - normed[..., :, None] * normed[..., None, :] / dim
            dx = ((grad * weight)[..., None, :] @ (ctx.rstd[..., None] * jacobian)).squeeze(-2)
        dw = (grad * normed).view(-1, dim).sum(0) if needs[1] else None
        db = grad.contiguous().view(-1, dim).sum(0) if needs[2] else None
        return dx, dw, db, None


def backward_with(reference, expression):
    return reference.replace(
        "grad_x = rstd * (g - g.mean(dim=-1, keepdim=True) - normed * along)",
        f"grad_x = {expression}",
    )


@rejected("LayerNormFn", by=("test_input_gradient", "test_gradients"), says="only the direct term")
def without_the_mean_terms(reference: str) -> str:
    return backward_with(reference, "rstd * g")


@rejected("LayerNormFn", by=("test_input_gradient", "test_gradients"), says="way through the mean")
def without_the_mean(reference: str) -> str:
    return backward_with(reference, "rstd * (g - normed * along)")


@rejected(
    "LayerNormFn", by=("test_input_gradient", "test_gradients"), says="way through the variance"
)
def without_the_variance(reference: str) -> str:
    return backward_with(reference, "rstd * (g - g.mean(dim=-1, keepdim=True))")


@rejected("LayerNormFn", by="test_input_gradient", says="weight is left out")
def without_the_weight(reference: str) -> str:
    return reference.replace("g = grad * weight", "g = grad")


@rejected("LayerNormFn", by="test_input_gradient", says="the factor 1 / std")
def without_the_factor(reference: str) -> str:
    return backward_with(reference, "g - g.mean(dim=-1, keepdim=True) - normed * along")


@rejected("LayerNormFn", by="test_input_gradient", says="sums over the row")
def sums_for_means(reference: str) -> str:
    return backward_with(
        reference, "rstd * (g - g.sum(-1, keepdim=True) - normed * along * x.shape[-1])"
    )


@rejected("LayerNormFn", by="test_input_gradient", says="as if it were all ones")
def ignores_what_arrives(reference: str) -> str:
    return reference.replace("g = grad * weight", "g = torch.ones_like(grad) * weight")


@rejected("LayerNormFn", by="test_input_gradient", says="eps is missing")
def eps_missing_on_the_way_back(reference: str) -> str:
    return reference.replace(
        "        normed = (x - mean) * rstd\n",
        "        rstd = (x - mean).square().mean(-1, keepdim=True).rsqrt()\n"
        "        normed = (x - mean) * rstd\n",
    )


@rejected("LayerNormFn", by="test_value", says="eps stands outside the root")
def eps_outside(reference: str) -> str:
    return reference.replace(
        "rstd = torch.rsqrt(centred.square().mean(dim=-1, keepdim=True) + eps)",
        "rstd = 1 / (centred.square().mean(dim=-1, keepdim=True).sqrt() + eps)",
    )


@rejected("LayerNormFn", by="test_value", says="divided by n - 1")
def unbiased_in_the_function(reference: str) -> str:
    return reference.replace(
        "rstd = torch.rsqrt(centred.square().mean(dim=-1, keepdim=True) + eps)",
        "rstd = torch.rsqrt(x.var(-1, keepdim=True) + eps)",
    )


@rejected("LayerNormFn", by="test_value", says="task 2 asks for your own")
def native_forward(reference: str) -> str:
    return reference.replace(
        "return centred * rstd * weight + bias",
        "return F.layer_norm(x, weight.shape, weight, bias, eps)",
    )


@rejected("LayerNormFn", by="test_parameter_gradients", says="dim")
def summed_over_the_last_axis(reference: str) -> str:
    return reference.replace(
        "grad_weight = (grad * normed).sum_to_size(weight.shape)",
        "grad_weight = (grad * normed).sum(-1)",
    )


@rejected("LayerNormFn", by="test_parameter_gradients", says="expected shape")
def summed_over_the_first_axis_only(reference: str) -> str:
    return reference.replace(
        "grad_weight = (grad * normed).sum_to_size(weight.shape)",
        "grad_weight = (grad * normed).sum(0) if grad.dim() > 1 else grad * normed",
    )


@rejected("LayerNormFn", by="test_parameter_gradients", says="it is made of x")
def weight_times_x(reference: str) -> str:
    return reference.replace("grad_weight = (grad * normed)", "grad_weight = (grad * x)")


@rejected("LayerNormFn", by="test_parameter_gradients", says="mean over the rows")
def means_over_the_rows(reference: str) -> str:
    return reference.replace(
        "grad_weight = (grad * normed).sum_to_size(weight.shape)",
        "grad_weight = (grad * normed).reshape(-1, x.shape[-1]).mean(0)",
    )


@rejected("LayerNormFn", by="test_parameter_gradients", says="bias is multiplied by weight")
def bias_times_weight(reference: str) -> str:
    return reference.replace(
        "grad_bias = grad.sum_to_size(weight.shape)",
        "grad_bias = (grad * weight).sum_to_size(weight.shape)",
    )


@rejected("LayerNormFn", by="test_skipped_gradients", says="return None in its place")
def computes_all_gradients(reference: str) -> str:
    return re.sub(r"if ctx\.needs_input_grad\[\d\]:", "if True:", reference)


@rejected("LayerNormFn", by="test_skipped_gradients", says="return None in its place")
def all_or_nothing(reference: str) -> str:
    return re.sub(r"if ctx\.needs_input_grad\[\d\]:", "if ctx.needs_input_grad[0]:", reference)


@rejected("LayerNormFn", by="test_saves_little", says="not both")
def keeps_x_and_the_normed_row(reference: str) -> str:
    return (
        reference.replace(
            "ctx.save_for_backward(x, mean, rstd, weight)",
            "ctx.save_for_backward(x, centred * rstd, rstd, weight)",
        )
        .replace("x, mean, rstd, weight = ctx.saved", "x, normed, rstd, weight = ctx.saved")
        .replace("        normed = (x - mean) * rstd\n", "")
    )


@rejected("LayerNormFn", by="test_saves_little", says="not both")
def hides_the_normed_row_in_the_context(reference: str) -> str:
    return reference.replace(
        "        return centred * rstd * weight + bias",
        "        ctx.normed = centred * rstd\n        return ctx.normed * weight + bias",
    )


@rejected("LayerNormFn", by="test_input_gradient", says="a backward by hand")
class AutogradInBackward(LayerNormFn):
    @staticmethod
    def backward(ctx, grad):
        x, mean, rstd, weight = ctx.saved_tensors
        eps = rstd.square().reciprocal() - (x - mean).square().mean(-1, keepdim=True)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            centred = x - x.mean(-1, keepdim=True)
            out = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
            (dx,) = torch.autograd.grad(out, x, grad * weight)
        normed = (x.detach() - mean) * rstd
        shape = weight.shape
        return dx, (grad * normed).sum_to_size(shape), grad.sum_to_size(shape), None


# Task 3: FeedForward


@accepted("FeedForward")
class WithATable(nn.Module):
    def __init__(self, dim, hidden=None, kind="gelu", p=0.0):
        super().__init__()
        hidden = hidden or (-(-8 * dim // 24) * 8 if kind == "swiglu" else 4 * dim)
        acts = {
            "gelu": nn.GELU(),
            "gelu_tanh": nn.GELU("tanh"),
            "relu2": lambda t: F.relu(t) ** 2,
            "swiglu": nn.SiLU(),
        }
        self.act = acts[kind]
        self.p = p
        self.gate = nn.Linear(dim, hidden, bias=False) if kind == "swiglu" else None
        self.up = nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x):
        if self.gate is None:
            inner = self.act(self.up(x))
        else:
            inner = self.up(x) * self.act(self.gate(x))
        return F.dropout(self.down(inner), self.p, self.training)


@accepted("FeedForward")
class WithFormulas(nn.Module):
    def __init__(self, dim, hidden=None, kind="gelu", p=0.0):
        super().__init__()
        if hidden is None:
            hidden = (8 * dim + 23) // 24 * 8 if kind == "swiglu" else dim * 4
        self.kind, self.dropout = kind, nn.Dropout(p)
        names = ["up", "gate"] if kind == "swiglu" else ["up"]
        for name in names:
            setattr(self, name, nn.Linear(dim, hidden, bias=False))
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x):
        up = self.up(x)
        match self.kind:
            case "gelu":
                inner = 0.5 * up * (1 + torch.erf(up / 2**0.5))
            case "gelu_tanh":
                inner = 0.5 * up * (1 + torch.tanh((2 / math.pi) ** 0.5 * (up + 0.044715 * up**3)))
            case "relu2":
                inner = torch.clamp(up, min=0).pow(2)
            case _:
                gate = self.gate(x)
                inner = gate * torch.sigmoid(gate) * up
        return self.dropout(self.down(inner))


@rejected("FeedForward", by="test_value", says="gate and up have changed places")
def gate_and_up_swapped(reference: str) -> str:
    return reference.replace("F.silu(self.gate(x)) * inner", "F.silu(inner) * self.gate(x)")


@rejected("FeedForward", by="test_value", says="the activation comes after down")
class ActivationAfterDown(FeedForward):
    def forward(self, x):
        if self.kind == "swiglu":
            return super().forward(x)
        out = self.down(self.up(x))
        if self.kind == "relu2":
            return self.drop(out.relu().square())
        return self.drop(F.gelu(out, approximate="tanh" if self.kind == "gelu_tanh" else "none"))


@rejected("FeedForward", by="test_value", says="the tanh form")
def tanh_for_exact(reference: str) -> str:
    return reference.replace("F.gelu(inner)", 'F.gelu(inner, approximate="tanh")')


@rejected("FeedForward", by="test_value", says="the activation is the exact GELU")
def exact_for_tanh(reference: str) -> str:
    return reference.replace('F.gelu(inner, approximate="tanh")', "F.gelu(inner)")


@rejected("FeedForward", by="test_value", says="the activation is relu")
def relu_without_the_square(reference: str) -> str:
    return reference.replace("inner.relu().square()", "inner.relu()")


@rejected("FeedForward", by="test_value", says="a plain sigmoid")
def sigmoid_gate(reference: str) -> str:
    return reference.replace("F.silu(self.gate(x)) * inner", "self.gate(x).sigmoid() * inner")


@rejected("FeedForward", by="test_value", says="gate(x) is left out")
def gate_never_used(reference: str) -> str:
    return reference.replace("F.silu(self.gate(x)) * inner", "F.silu(inner)")


@rejected("FeedForward", by="test_layers", says="hidden")
def hidden_rounded_down(reference: str) -> str:
    return reference.replace("8 * math.ceil(dim / 3)", "8 * (dim // 3)")


@rejected("FeedForward", by="test_layers", says="hidden")
def hidden_not_rounded(reference: str) -> str:
    return reference.replace("8 * math.ceil(dim / 3)", "math.ceil(8 * dim / 3)")


@rejected("FeedForward", by="test_layers", says="hidden")
def four_times_for_all(reference: str) -> str:
    return reference.replace('8 * math.ceil(dim / 3) if kind == "swiglu" else 4 * dim', "4 * dim")


@rejected("FeedForward", by="test_layers", says="has a bias")
def with_bias(reference: str) -> str:
    return reference.replace("nn.Linear(hidden, dim, bias=False)", "nn.Linear(hidden, dim)")


@rejected("FeedForward", by="test_layers", says="more parameters")
def a_gate_for_every_kind(reference: str) -> str:
    return reference.replace(
        '        if kind == "swiglu":\n            self.gate = nn.Linear(dim, hidden, bias=False)',
        "        self.gate = nn.Linear(dim, hidden, bias=False)",
    )


@rejected("FeedForward", by="test_dropout", says="dropout acts somewhere else")
def dropout_inside(reference: str) -> str:
    return reference.replace("self.drop(self.down(inner))", "self.down(self.drop(inner))")


@rejected("FeedForward", by="test_dropout", says="eval mode")
def dropout_always(reference: str) -> str:
    return reference.replace(
        "self.drop(self.down(inner))", "F.dropout(self.down(inner), self.drop.p)"
    )


@rejected("FeedForward", by="test_dropout", says="nothing")
def no_dropout(reference: str) -> str:
    return reference.replace("self.drop(self.down(inner))", "self.down(inner)")


@rejected("FeedForward", by="test_position_wise")
class MixesPositions(FeedForward):
    def forward(self, x):
        return super().forward(x) + 0.01 * x.mean(-2, keepdim=True)


@rejected("FeedForward", by="test_gradients")
def up_without_a_graph(reference: str) -> str:
    return reference.replace("inner = self.up(x)", "inner = F.linear(x, self.up.weight.detach())")


@rejected("FeedForward", by="test_house_rules", says="device")
class RoundsOnTheCpu(FeedForward):
    def forward(self, x):
        return super().forward(x) + torch.zeros(x.shape, dtype=x.dtype)


# Task 4: Block


@accepted("Block")
class WithBranchesInALoop(nn.Module):
    def __init__(self, dim, heads, ffn_kind, norm, p_resid):
        super().__init__()
        self.placement, self.p = norm, p_resid
        self.attn = MultiHeadAttention(dim, heads)
        self.ffn = FeedForward(dim, None, ffn_kind, 0.0)
        for name in ("norm1", "norm2", "norm1_out", "norm2_out")[: 4 if norm == "sandwich" else 2]:
            self.add_module(name, LayerNorm(dim))

    def forward(self, x):
        for i, branch in ((1, lambda t: self.attn(t, causal=True)), (2, self.ffn)):
            norm = getattr(self, f"norm{i}")
            y = branch(x if self.placement == "post" else norm(x))
            if self.placement == "sandwich":
                y = getattr(self, f"norm{i}_out")(y)
            x = x + F.dropout(y, self.p, self.training)
            if self.placement == "post":
                x = norm(x)
        return x


@accepted("Block")
class WithTwoDropoutsAndIdentities(nn.Module):
    def __init__(self, dim, heads, ffn_kind, norm, p_resid):
        super().__init__()
        self.kind = norm
        self.norm1, self.norm2 = LayerNorm(dim), LayerNorm(dim)
        self.attn = MultiHeadAttention(dim, heads, bias=False)
        self.ffn = FeedForward(dim, kind=ffn_kind, p=0.0)
        sandwich = norm == "sandwich"
        self.norm1_out = LayerNorm(dim) if sandwich else nn.Identity()
        self.norm2_out = LayerNorm(dim) if sandwich else nn.Identity()
        self.drop1, self.drop2 = nn.Dropout(p_resid), nn.Dropout(p_resid)

    def forward(self, x):
        if self.kind == "post":
            x = self.norm1(x + self.drop1(self.attn(x, causal=True)))
            return self.norm2(x + self.drop2(self.ffn(x)))
        h = torch.add(x, self.drop1(self.norm1_out(self.attn(self.norm1(x), causal=True))))
        return torch.add(h, self.drop2(self.norm2_out(self.ffn(self.norm2(h)))))


@accepted("Block")
def with_attention_of_its_own(reference: str) -> str:
    return reference.replace("from attention import MultiHeadAttention\n", "").replace(
        "class Block(nn.Module):",
        """class MultiHeadAttention(nn.Module):
    def __init__(self, dim, heads, kv_heads=None, bias=False, p=0.0):
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, dim, bias=bias)
        self.k_proj = nn.Linear(dim, dim, bias=bias)
        self.v_proj = nn.Linear(dim, dim, bias=bias)
        self.out_proj = nn.Linear(dim, dim, bias=bias)

    def forward(self, x, context=None, mask=None, causal=False, cache=None):
        layers = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in layers)
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        if causal:
            future = torch.ones_like(scores, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(future, -math.inf)
        return self.out_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(-2))


class Block(nn.Module):""",
    )


PRE = "x = x + self.drop(self.attn(self.norm1(x), causal=True))"
FFN = "return x + self.drop(self.ffn(self.norm2(x)))"


@rejected("Block", by="test_pre", says="the residual starts from the normed input")
def residual_from_the_normed_input(reference: str) -> str:
    return reference.replace(
        f'if self.norm == "pre":\n            {PRE}\n            {FFN}',
        'if self.norm == "pre":\n'
        "            x = self.norm1(x)\n"
        "            x = x + self.drop(self.attn(x, causal=True))\n"
        "            x = self.norm2(x)\n"
        "            return x + self.drop(self.ffn(x))",
    )


@rejected("Block", by=("test_pre", "test_silent_branches"), says="the attention has no residual")
def attention_without_a_residual(reference: str) -> str:
    return reference.replace(PRE, PRE.replace("x + ", ""))


@rejected("Block", by="test_pre", says="one residual around both")
def one_residual(reference: str) -> str:
    return reference.replace(
        f"{PRE}\n            {FFN}",
        f"stream, x = x, {PRE[8:]}\n            return stream + self.drop(self.ffn(self.norm2(x)))",
    )


@rejected("Block", by=("test_pre", "test_silent_branches"), says="the MLP has no residual")
def mlp_without_a_residual(reference: str) -> str:
    return reference.replace(FFN, FFN.replace("x + ", ""))


@rejected("Block", by=("test_post", "test_silent_branches"), says="as in pre-norm")
def post_is_pre(reference: str) -> str:
    return reference.replace('if self.norm == "pre":', 'if self.norm in ("pre", "post"):')


@rejected("Block", by=("test_pre", "test_silent_branches"), says="as in post-norm")
def pre_is_post(reference: str) -> str:
    return reference.replace('if self.norm == "pre":', "if False:").replace(
        'if self.norm == "post":', 'if self.norm in ("pre", "post"):'
    )


@rejected("Block", by="test_submodules", says="a layer of its own")
def one_norm_for_both(reference: str) -> str:
    return reference.replace("self.norm2 = LayerNorm(dim)", "self.norm2 = self.norm1")


@rejected("Block", by="test_pre", says="norm1; it has norm2")
def norm1_twice(reference: str) -> str:
    return reference.replace("self.ffn(self.norm2(x))", "self.ffn(self.norm1(x))")


@rejected("Block", by="test_pre", says="both branches read x")
def parallel_branches(reference: str) -> str:
    return reference.replace(
        f"{PRE}\n            {FFN}",
        "return x + self.drop(self.attn(self.norm1(x), causal=True)) + self.drop("
        "self.ffn(self.norm2(x)))",
    )


@rejected("Block", by="test_pre", says="without a norm")
def second_norm_forgotten(reference: str) -> str:
    return reference.replace("self.ffn(self.norm2(x))", "self.ffn(x)")


@rejected("Block", by=("test_pre", "test_causal"), says="not causal")
def not_causal(reference: str) -> str:
    return reference.replace(", causal=True)", ")")


@rejected("Block", by=("test_post", "test_silent_branches"), says="on the branches alone")
class PostNormOnTheBranches(Block):
    def forward(self, x):
        if self.norm != "post":
            return super().forward(x)
        x = x + self.drop(self.norm1(self.attn(x, causal=True)))
        return x + self.drop(self.norm2(self.ffn(x)))


@rejected("Block", by="test_post", says="the MLP has no residual")
def post_without_the_second_residual(reference: str) -> str:
    return reference.replace(
        "self.norm2(x + self.drop(self.ffn(x)))", "self.norm2(self.drop(self.ffn(x)))"
    )


@rejected("Block", by=("test_sandwich", "test_silent_branches"), says="they act on the branch")
class SandwichOnTheStream(Block):
    def forward(self, x):
        if self.norm != "sandwich":
            return super().forward(x)
        x = self.norm1_out(x + self.drop(self.attn(self.norm1(x), causal=True)))
        return self.norm2_out(x + self.drop(self.ffn(self.norm2(x))))


@rejected("Block", by="test_sandwich", says="as in pre-norm")
def sandwich_without_the_outer_norms(reference: str) -> str:
    return reference.replace(
        "self.norm1_out(self.attn(self.norm1(x), causal=True))",
        "self.attn(self.norm1(x), causal=True)",
    ).replace("self.norm2_out(self.ffn(self.norm2(x)))", "self.ffn(self.norm2(x))")


@rejected("Block", by="test_submodules", says="more parameters")
def outer_norms_always(reference: str) -> str:
    return reference.replace('        if norm == "sandwich":\n', "        if True:\n")


@rejected("Block", by="test_submodules", says="more parameters")
def attention_with_bias(reference: str) -> str:
    return reference.replace(
        "MultiHeadAttention(dim, heads, bias=False)", "MultiHeadAttention(dim, heads, bias=True)"
    )


@rejected("Block", by="test_house_rules", says="changed")
def in_place(reference: str) -> str:
    return reference.replace(PRE, "x += self.drop(self.attn(self.norm1(x), causal=True))")


@rejected("Block", by="test_house_rules", says="changed")
def post_in_place(reference: str) -> str:
    return reference.replace(
        "x = self.norm1(x + self.drop(self.attn(x, causal=True)))",
        "x = self.norm1(x.add_(self.drop(self.attn(x, causal=True))))",
    )


@rejected("Block", by="test_dropout", says="acts on the branches only")
def dropout_on_the_stream(reference: str) -> str:
    return reference.replace(FFN, "return self.drop(x + self.ffn(self.norm2(x)))")


@rejected("Block", by="test_dropout", says="the MLP branch")
def no_dropout_on_the_mlp(reference: str) -> str:
    return reference.replace(FFN, "return x + self.ffn(self.norm2(x))")


@rejected("Block", by="test_dropout", says="the attention branch")
def no_dropout_on_the_attention(reference: str) -> str:
    return reference.replace(PRE, "x = x + self.attn(self.norm1(x), causal=True)")


@rejected("Block", by="test_dropout", says="in training nothing is dropped")
def no_dropout_at_all(reference: str) -> str:
    return reference.replace("self.drop = nn.Dropout(p_resid)", "self.drop = nn.Identity()")


@rejected("Block", by="test_dropout", says="somewhere else")
def dropout_on_what_the_branch_reads(reference: str) -> str:
    return reference.replace(FFN, "return x + self.ffn(self.drop(self.norm2(x)))")


@rejected("Block", by="test_dropout", says="eval mode")
def dropout_in_eval_too(reference: str) -> str:
    return reference.replace(FFN, "return x + F.dropout(self.ffn(self.norm2(x)), self.drop.p)")


@rejected("Block", by="test_dropout", says="somewhere else")
def sandwich_drops_before_the_norm(reference: str) -> str:
    return reference.replace(
        "self.drop(self.norm2_out(self.ffn(self.norm2(x))))",
        "self.norm2_out(self.drop(self.ffn(self.norm2(x))))",
    )


@rejected("Block", by="test_gradients")
def residual_without_a_graph(reference: str) -> str:
    return reference.replace(FFN, "return x.detach() + self.drop(self.ffn(self.norm2(x)))")


# Task 5: init_gpt, stream_stats


@accepted("init_and_depth")
def by_parameter_names(reference: str) -> str:
    return written(
        reference,
        "5: weights, biases and norms",
        """
    kinds = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            kinds.setdefault(parameter, module)
    for name, parameter in model.named_parameters():
        module = kinds[parameter]
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif isinstance(module, LayerNorm | RMSNorm):
            nn.init.ones_(parameter)
        elif name.endswith(("out_proj.weight", "down.weight")):
            nn.init.normal_(parameter, mean=0.0, std=0.02 / (2 * n_layers) ** 0.5)
        elif isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(parameter, mean=0.0, std=0.02)
""",
    )


@accepted("init_and_depth")
def with_randn_and_copy(reference: str) -> str:
    return written(
        reference,
        "5: weights, biases and norms",
        """
    done = []
    for name, module in model.named_modules():
        last = name.split(".")[-1]
        match module:
            case LayerNorm():
                module.weight.data[:] = 1
                if module.bias is not None:
                    module.bias.data[:] = 0
            case RMSNorm():
                module.weight.copy_(torch.ones_like(module.weight))
            case nn.Linear() | nn.Embedding():
                if not any(module.weight is other for other in done):
                    done.append(module.weight)
                    scale = (2 * n_layers) ** -0.5 if last in {"out_proj", "down"} else 1
                    module.weight.copy_(torch.randn_like(module.weight) * 0.02 * scale)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.constant_(module.bias, 0)
""",
    )


@accepted("init_and_depth")
def in_two_passes(reference: str) -> str:
    return written(
        reference,
        "5: weights, biases and norms",
        """
    seen = set()

    def start(module):
        if isinstance(module, (nn.Linear, nn.Embedding)) and id(module.weight) not in seen:
            seen.add(id(module.weight))
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, (LayerNorm, RMSNorm)):
            nn.init.ones_(module.weight)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)

    model.apply(start)
    for name, parameter in model.named_parameters():
        if name.split(".")[-2:-1] in (["out_proj"], ["down"]) and parameter.dim() == 2:
            parameter.mul_((2 * n_layers) ** -0.5)
""",
    )


@accepted("init_and_depth")
def stats_with_backward(reference: str) -> str:
    return written(
        reference,
        "5: one forward that is listened to, one backward",
        """
    kept = {name: p.grad for name, p in model.named_parameters()}
    stream, branch, handles = [], [], []
    parts = {}
    for block in model.blocks:
        handles.append(block.attn.register_forward_hook(lambda m, a, y: parts.update(attn=y)))
        handles.append(block.ffn.register_forward_hook(lambda m, a, y: parts.update(ffn=y)))

        def after(m, a, y):
            stream.append(y.detach().pow(2).mean().item() ** 0.5)
            branch.append((parts["attn"] + parts["ffn"]).detach().pow(2).mean().item() ** 0.5)

        handles.append(block.register_forward_hook(after))
    for p in model.parameters():
        p.grad = None
    try:
        model(x).pow(2).mean().backward()
    finally:
        for h in handles:
            h.remove()
    grad = [
        math.sqrt(sum(float(p.grad.pow(2).sum()) for p in block.parameters()))
        for block in model.blocks
    ]
    for name, p in model.named_parameters():
        p.grad = kept[name]
    return {"stream": stream, "branch": branch, "grad": grad}
""",
    )


@accepted("init_and_depth")
def stats_by_the_stream_alone(reference: str) -> str:
    return written(
        reference,
        "5: one forward that is listened to, one backward",
        """
    into, out = [], []
    hooks = [
        b.register_forward_hook(lambda m, args, y: (into.append(args[0]), out.append(y)) and None)
        for b in model.blocks
    ]
    loss = (model(x) ** 2).mean()
    for hook in hooks:
        hook.remove()
    grads = []
    for i, b in enumerate(model.blocks):
        g = torch.autograd.grad(loss, list(b.parameters()), retain_graph=True)
        grads.append(torch.cat([t.flatten() for t in g]).norm().item())
    return {
        "stream": [(y.norm() / y.numel() ** 0.5).item() for y in out],
        "branch": [((y - t).norm() / y.numel() ** 0.5).item() for t, y in zip(into, out)],
        "grad": grads,
    }
""",
    )


SCALED = "0.02 / math.sqrt(2 * n_layers)"
IS_RESIDUAL = 'name.rpartition(".")[2] in ("out_proj", "down")'


@rejected("init_and_depth", by="test_linear_weights", says="for the residual projections only")
def all_layers_scaled(reference: str) -> str:
    return reference.replace(IS_RESIDUAL, "isinstance(module, nn.Linear)")


@rejected("init_and_depth", by=("test_residual_projections", "test_depth"), says="not scaled")
def nothing_scaled(reference: str) -> str:
    return reference.replace(SCALED, "0.02")


@rejected("init_and_depth", by="test_residual_projections", says="two branches")
def root_of_n_layers(reference: str) -> str:
    return reference.replace(SCALED, "0.02 / math.sqrt(n_layers)")


@rejected("init_and_depth", by="test_residual_projections", says="the root of that")
def without_the_root(reference: str) -> str:
    return reference.replace(SCALED, "0.02 / (2 * n_layers)")


@rejected("init_and_depth", by="test_residual_projections", says="belongs under the root")
def two_outside_the_root(reference: str) -> str:
    return reference.replace(SCALED, "0.02 / (2 * math.sqrt(n_layers))")


@rejected("init_and_depth", by="test_residual_projections", says="counts the blocks")
def counts_the_blocks_itself(reference: str) -> str:
    return reference.replace(SCALED, "0.02 / math.sqrt(2 * len(model.blocks))").replace(
        "    drawn: set[nn.Parameter] = set()\n",
        "    drawn: set[nn.Parameter] = set()\n    count = len(getattr(model, 'blocks', ()))\n",
    )


@rejected("init_and_depth", by=("test_residual_projections", "test_depth"), says="down layers")
def misses_down(reference: str) -> str:
    return reference.replace('in ("out_proj", "down")', 'in ("out_proj", "c_proj")')


@rejected("init_and_depth", by="test_residual_projections", says="out_proj layers")
def misses_out_proj(reference: str) -> str:
    return reference.replace('in ("out_proj", "down")', 'in ("o_proj", "down")')


@rejected("init_and_depth", by="test_biases_and_norms", says="expected 1")
def norms_drawn_too(reference: str) -> str:
    return reference.replace("module.weight.fill_(1.0)", "module.weight.normal_(0.0, 0.02)")


@rejected("init_and_depth", by="test_biases_and_norms", says="expected 1")
def norms_left_alone(reference: str) -> str:
    return reference.replace("module.weight.fill_(1.0)", "pass")


@rejected("init_and_depth", by="test_biases_and_norms", says="expected 1")
def rms_norm_left_alone(reference: str) -> str:
    return reference.replace("LayerNorm | RMSNorm | nn.LayerNorm", "LayerNorm | nn.LayerNorm")


@rejected("init_and_depth", by="test_biases_and_norms", says="expected 0")
def biases_left_alone(reference: str) -> str:
    return reference.replace("            bias.zero_()\n", "            pass\n")


@rejected("init_and_depth", by=("test_embeddings", "test_first_loss"), says="not drawn")
def embeddings_left_alone(reference: str) -> str:
    return reference.replace(
        "isinstance(module, nn.Linear | nn.Embedding) and", "isinstance(module, nn.Linear) and"
    ).replace(
        "drawn: set[nn.Parameter] = set()",
        "drawn = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)}",
    )


@rejected("init_and_depth", by="test_linear_weights", says="not the variance")
def std_and_variance_mixed_up(reference: str) -> str:
    return reference.replace(
        "module.weight.normal_(0.0, std)", "module.weight.normal_(0.0, std**2)"
    )


@rejected("init_and_depth", by="test_linear_weights", says="normally distributed")
def uniform(reference: str) -> str:
    return reference.replace(
        "module.weight.normal_(0.0, std)", "module.weight.uniform_(-std * 3**0.5, std * 3**0.5)"
    )


@rejected("init_and_depth", by="test_tied", says="drawn twice")
def tied_drawn_twice(reference: str) -> str:
    return reference.replace(" and module.weight not in drawn", "")


@rejected("init_and_depth", by=("test_tied", "test_in_place"), says="no longer do")
def new_parameters(reference: str) -> str:
    return reference.replace(
        "module.weight.normal_(0.0, std)",
        "module.weight = nn.Parameter(torch.randn_like(module.weight) * std)",
    )


@rejected("init_and_depth", by="test_in_place", says="leaf")
def freezes_what_it_draws(reference: str) -> str:
    return reference.replace(
        "module.weight.normal_(0.0, std)", "module.weight.requires_grad_(False).normal_(0.0, std)"
    )


@rejected("init_and_depth", by=("test_linear_weights", "test_learns"), says="standard deviation 0")
def all_zero(reference: str) -> str:
    return reference.replace("module.weight.normal_(0.0, std)", "module.weight.zero_()")


@rejected("init_and_depth", by=("test_linear_weights", "test_first_loss", "test_depth"))
def unscaled_randn(reference: str) -> str:
    return reference.replace("module.weight.normal_(0.0, std)", "module.weight.normal_()")


RMS = "return t.square().mean().sqrt().item()"


@rejected("init_and_depth", by=("test_stream", "test_branch"), says="it is the norm")
def norms_for_rms(reference: str) -> str:
    return reference.replace(RMS, "return t.norm().item()")


@rejected("init_and_depth", by=("test_stream", "test_branch"), says="the root is missing")
def mean_squares(reference: str) -> str:
    return reference.replace(RMS, "return t.square().mean().item()")


@rejected("init_and_depth", by="test_stream", says="standard deviation")
def deviation_for_rms(reference: str) -> str:
    return reference.replace(RMS, "return t.std(correction=0).item()")


@rejected("init_and_depth", by="test_stream", says="input")
def inputs_of_the_blocks(reference: str) -> str:
    return reference.replace(
        "outputs[module] = output.detach()",
        "outputs[module] = args[0] if isinstance(module, Block) else output.detach()",
    )


@rejected("init_and_depth", by="test_stream", says="floats")
def tensors_in_the_lists(reference: str) -> str:
    return reference.replace(RMS, "return t.square().mean().sqrt()")


@rejected("init_and_depth", by="test_branch", says="only the MLP")
def mlp_only(reference: str) -> str:
    return reference.replace(
        "rms(outputs[block.attn] + outputs[block.ffn])", "rms(outputs[block.ffn])"
    )


@rejected("init_and_depth", by="test_branch", says="only the attention")
def attention_only(reference: str) -> str:
    return reference.replace(
        "rms(outputs[block.attn] + outputs[block.ffn])", "rms(outputs[block.attn])"
    )


@rejected("init_and_depth", by="test_branch", says="the two rms are added")
def sum_of_the_two(reference: str) -> str:
    return reference.replace(
        "rms(outputs[block.attn] + outputs[block.ffn])",
        "rms(outputs[block.attn]) + rms(outputs[block.ffn])",
    )


@rejected("init_and_depth", by="test_grad", says="are added")
def sum_of_the_norms(reference: str) -> str:
    return reference.replace("torch.stack(group).norm()", "torch.stack(group).sum()")


@rejected("init_and_depth", by="test_grad", says="the loss is the sum")
def loss_is_the_sum(reference: str) -> str:
    return reference.replace("(model(x) ** 2).mean()", "(model(x) ** 2).sum()")


@rejected("init_and_depth", by="test_hooks", says="remove your own")
def hooks_stay(reference: str) -> str:
    return reference.replace("            handle.remove()", "            pass")


@rejected("init_and_depth", by="test_hooks", says="leave the others")
def removes_all_hooks(reference: str) -> str:
    return reference.replace(
        "        for handle in handles:\n            handle.remove()",
        "        for module in listened:\n            module._forward_hooks.clear()",
    )


@rejected("init_and_depth", by="test_hooks", says="with one forward")
def three_forwards(reference: str) -> str:
    return reference.replace(
        "loss = (model(x) ** 2).mean()", "model(x)\n        loss = (model(x) ** 2).mean()"
    )


BACKWARD = """    parameters = [list(block.parameters()) for block in model.blocks]
    gradients = iter(torch.autograd.grad(loss, [p for group in parameters for p in group]))
    norms = [[next(gradients).norm() for _ in group] for group in parameters]
"""


@rejected("init_and_depth", by="test_gradients_stay", says="holds a gradient")
def adds_to_the_gradients(reference: str) -> str:
    return reference.replace(
        BACKWARD,
        "    loss.backward()\n"
        "    norms = [[p.grad.norm() for p in block.parameters()] for block in model.blocks]\n",
    )


@rejected("init_and_depth", by="test_gradients_stay", says="changed")
def empties_the_gradients(reference: str) -> str:
    return reference.replace(
        BACKWARD,
        "    model.zero_grad()\n"
        "    loss.backward()\n"
        "    norms = [[p.grad.norm() for p in block.parameters()] for block in model.blocks]\n"
        "    model.zero_grad()\n",
    )


@rejected("init_and_depth", by="test_modes", says="training mode")
def leaves_it_in_training(reference: str) -> str:
    return reference.replace("    outputs: dict[", "    model.train()\n    outputs: dict[")
