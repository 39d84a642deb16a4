"""Day 24: the transformer block, from its norms to the start of a deep stack.

Axes are (batch, seq, dim). `attention.py` beside this file holds the attention of day 23; your own
class may stand in its place.
"""

import math

import torch
from attention import MultiHeadAttention
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F


class LayerNorm(nn.Module):
    """Every row to mean 0 and variance 1, then times `weight`, plus `bias`.

    Args:
        dim: size of the last axis, the one that is normalised.
        eps: added to the variance, inside the root.
        bias: whether there is a parameter `bias`.

    `weight` starts at one and `bias` at zero, both (dim,).
    """

    def __init__(self, dim: int, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        ### BEGIN SOLUTION 1: the parameters of LayerNorm
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None
        ### END SOLUTION

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (*, dim); same shape, dtype of x, computed in float32 if that is wider."""
        ### BEGIN SOLUTION 1: LayerNorm of x
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        centred = wide - wide.mean(dim=-1, keepdim=True)
        variance = centred.square().mean(dim=-1, keepdim=True)
        out = centred * torch.rsqrt(variance + self.eps) * self.weight
        if self.bias is not None:
            out = out + self.bias
        return out.to(x.dtype)
        ### END SOLUTION


class RMSNorm(nn.Module):
    """Every row divided by its root mean square, then times `weight`.

    Args:
        dim: size of the last axis, the one that is normalised.
        eps: added to the mean square, inside the root.

    `weight` starts at one, (dim,).
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        ### BEGIN SOLUTION 1: the parameter of RMSNorm
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        ### END SOLUTION

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (*, dim); same shape, dtype of x, computed in float32 if that is wider."""
        ### BEGIN SOLUTION 1: RMSNorm of x
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        power = wide.square().mean(dim=-1, keepdim=True)
        return (wide * torch.rsqrt(power + self.eps) * self.weight).to(x.dtype)
        ### END SOLUTION


class LayerNormFn(torch.autograd.Function):
    """LayerNorm with a backward of its own: `LayerNormFn.apply(x, weight, bias, eps)`."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """Normalise x (*, dim) with weight and bias (dim,); returns (*, dim)."""
        ### BEGIN SOLUTION 2: the value, and what the way back needs
        mean = x.mean(dim=-1, keepdim=True)
        centred = x - mean
        rstd = torch.rsqrt(centred.square().mean(dim=-1, keepdim=True) + eps)
        ctx.save_for_backward(x, mean, rstd, weight)
        return centred * rstd * weight + bias
        ### END SOLUTION

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients for x, weight, bias and eps from that of the output, (*, dim)."""
        ### BEGIN SOLUTION 2: the gradients
        x, mean, rstd, weight = ctx.saved_tensors
        normed = (x - mean) * rstd
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            g = grad * weight
            along = (g * normed).mean(dim=-1, keepdim=True)
            grad_x = rstd * (g - g.mean(dim=-1, keepdim=True) - normed * along)
        if ctx.needs_input_grad[1]:
            grad_weight = (grad * normed).sum_to_size(weight.shape)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum_to_size(weight.shape)
        return grad_x, grad_weight, grad_bias, None
        ### END SOLUTION


class FeedForward(nn.Module):
    """The MLP of a block, the same for every position.

    Args:
        dim: channels of x and of the output.
        hidden: channels inside; None means 4 * dim, and for "swiglu" 8/3 * dim rounded up to a
            multiple of 8.
        kind: "gelu" (exact), "gelu_tanh", "relu2" (the square of relu) or "swiglu".
        p: rate of dropout on the output, in training.

    The layers are `up`, `down` and, for "swiglu" only, `gate`: each an `nn.Linear` without bias.
    """

    def __init__(
        self, dim: int, hidden: int | None = None, kind: str = "gelu", p: float = 0.0
    ) -> None:
        super().__init__()
        ### BEGIN SOLUTION 3: the size inside, and the layers
        if hidden is None:
            hidden = 8 * math.ceil(dim / 3) if kind == "swiglu" else 4 * dim
        self.kind = kind
        self.up = nn.Linear(dim, hidden, bias=False)
        if kind == "swiglu":
            self.gate = nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)
        self.drop = nn.Dropout(p)
        ### END SOLUTION

    def forward(self, x: Tensor) -> Tensor:
        """Apply to x (*, dim); returns (*, dim)."""
        ### BEGIN SOLUTION 3: the MLP of x
        inner = self.up(x)
        if self.kind == "gelu":
            inner = F.gelu(inner)
        elif self.kind == "gelu_tanh":
            inner = F.gelu(inner, approximate="tanh")
        elif self.kind == "relu2":
            inner = inner.relu().square()
        else:
            inner = F.silu(self.gate(x)) * inner
        return self.drop(self.down(inner))
        ### END SOLUTION


class Block(nn.Module):
    """A causal transformer block: attention, then an MLP, each beside a residual stream.

    Args:
        dim: channels of the stream.
        heads: of the attention.
        ffn_kind: as in `FeedForward`.
        norm: "pre", "post" or "sandwich".
        p_resid: rate of dropout on each branch before it joins the stream, in training.

    Submodules `norm1`, `attn`, `norm2`, `ffn`, and for "sandwich" `norm1_out`, `norm2_out`.
    """

    def __init__(self, dim: int, heads: int, ffn_kind: str, norm: str, p_resid: float) -> None:
        super().__init__()
        ### BEGIN SOLUTION 4: the submodules
        self.norm = norm
        self.norm1 = LayerNorm(dim)
        self.attn = MultiHeadAttention(dim, heads, bias=False)
        self.norm2 = LayerNorm(dim)
        self.ffn = FeedForward(dim, kind=ffn_kind)
        if norm == "sandwich":
            self.norm1_out = LayerNorm(dim)
            self.norm2_out = LayerNorm(dim)
        self.drop = nn.Dropout(p_resid)
        ### END SOLUTION

    def forward(self, x: Tensor) -> Tensor:
        """Run x (batch, seq, dim) through the block; returns (batch, seq, dim)."""
        ### BEGIN SOLUTION 4: the stream and its two branches
        if self.norm == "pre":
            x = x + self.drop(self.attn(self.norm1(x), causal=True))
            return x + self.drop(self.ffn(self.norm2(x)))
        if self.norm == "post":
            x = self.norm1(x + self.drop(self.attn(x, causal=True)))
            return self.norm2(x + self.drop(self.ffn(x)))
        x = x + self.drop(self.norm1_out(self.attn(self.norm1(x), causal=True)))
        return x + self.drop(self.norm2_out(self.ffn(self.norm2(x))))
        ### END SOLUTION


@torch.no_grad()
def init_gpt(model: nn.Module, n_layers: int) -> None:
    """Draw the weights of a GPT of `n_layers` blocks anew, in place.

    Args:
        model: any module with `nn.Linear`, `nn.Embedding`, `LayerNorm` and `RMSNorm` inside.
        n_layers: blocks on the residual stream.
    """
    ### BEGIN SOLUTION 5: weights, biases and norms
    drawn: set[nn.Parameter] = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding) and module.weight not in drawn:
            drawn.add(module.weight)
            is_residual = name.rpartition(".")[2] in ("out_proj", "down")
            std = 0.02 / math.sqrt(2 * n_layers) if is_residual else 0.02
            module.weight.normal_(0.0, std)
        elif isinstance(module, LayerNorm | RMSNorm | nn.LayerNorm):
            module.weight.fill_(1.0)
        bias = getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter):
            bias.zero_()
    ### END SOLUTION


def stream_stats(model: nn.Module, x: Tensor) -> dict[str, list[float]]:
    """How large stream, branches and gradients are, block by block.

    Args:
        model: `model.blocks` is an `nn.ModuleList` of `Block`s with norm "pre".
        x: (batch, seq, dim)

    Returns:
        "stream", "branch" and "grad", each with one number per block.
    """
    ### BEGIN SOLUTION 5: one forward that is listened to, one backward
    outputs: dict[nn.Module, Tensor] = {}

    def listen(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        outputs[module] = output.detach()

    listened = [m for block in model.blocks for m in (block, block.attn, block.ffn)]
    handles = [m.register_forward_hook(listen) for m in listened]
    try:
        loss = (model(x) ** 2).mean()
    finally:
        for handle in handles:
            handle.remove()
    parameters = [list(block.parameters()) for block in model.blocks]
    gradients = iter(torch.autograd.grad(loss, [p for group in parameters for p in group]))
    norms = [[next(gradients).norm() for _ in group] for group in parameters]

    def rms(t: Tensor) -> float:
        return t.square().mean().sqrt().item()

    return {
        "stream": [rms(outputs[block]) for block in model.blocks],
        "branch": [rms(outputs[block.attn] + outputs[block.ffn]) for block in model.blocks],
        "grad": [torch.stack(group).norm().item() for group in norms],
    }
    ### END SOLUTION
