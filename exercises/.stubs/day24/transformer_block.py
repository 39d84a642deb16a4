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
        # TODO 1: the parameters of LayerNorm
        raise NotImplementedError("day24 T1: LayerNorm")
        # END TODO

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (*, dim); same shape, dtype of x, computed in float32 if that is wider."""
        # TODO 1: LayerNorm of x
        raise NotImplementedError("day24 T1: LayerNorm")
        # END TODO


class RMSNorm(nn.Module):
    """Every row divided by its root mean square, then times `weight`.

    Args:
        dim: size of the last axis, the one that is normalised.
        eps: added to the mean square, inside the root.

    `weight` starts at one, (dim,).
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        # TODO 1: the parameter of RMSNorm
        raise NotImplementedError("day24 T1: LayerNorm")
        # END TODO

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (*, dim); same shape, dtype of x, computed in float32 if that is wider."""
        # TODO 1: RMSNorm of x
        raise NotImplementedError("day24 T1: LayerNorm")
        # END TODO


class LayerNormFn(torch.autograd.Function):
    """LayerNorm with a backward of its own: `LayerNormFn.apply(x, weight, bias, eps)`."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """Normalise x (*, dim) with weight and bias (dim,); returns (*, dim)."""
        # TODO 2: the value, and what the way back needs
        raise NotImplementedError("day24 T2: LayerNormFn")
        # END TODO

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients for x, weight, bias and eps from that of the output, (*, dim)."""
        # TODO 2: the gradients
        raise NotImplementedError("day24 T2: LayerNormFn")
        # END TODO


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
        # TODO 3: the size inside, and the layers
        raise NotImplementedError("day24 T3: FeedForward")
        # END TODO

    def forward(self, x: Tensor) -> Tensor:
        """Apply to x (*, dim); returns (*, dim)."""
        # TODO 3: the MLP of x
        raise NotImplementedError("day24 T3: FeedForward")
        # END TODO


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
        # TODO 4: the submodules
        raise NotImplementedError("day24 T4: Block")
        # END TODO

    def forward(self, x: Tensor) -> Tensor:
        """Run x (batch, seq, dim) through the block; returns (batch, seq, dim)."""
        # TODO 4: the stream and its two branches
        raise NotImplementedError("day24 T4: Block")
        # END TODO


@torch.no_grad()
def init_gpt(model: nn.Module, n_layers: int) -> None:
    """Draw the weights of a GPT of `n_layers` blocks anew, in place.

    Args:
        model: any module with `nn.Linear`, `nn.Embedding`, `LayerNorm` and `RMSNorm` inside.
        n_layers: blocks on the residual stream.
    """
    # TODO 5: weights, biases and norms
    raise NotImplementedError("day24 T5: init_and_depth")
    # END TODO


def stream_stats(model: nn.Module, x: Tensor) -> dict[str, list[float]]:
    """How large stream, branches and gradients are, block by block.

    Args:
        model: `model.blocks` is an `nn.ModuleList` of `Block`s with norm "pre".
        x: (batch, seq, dim)

    Returns:
        "stream", "branch" and "grad", each with one number per block.
    """
    # TODO 5: one forward that is listened to, one backward
    raise NotImplementedError("day24 T5: init_and_depth")
    # END TODO
