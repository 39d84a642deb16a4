"""Multi-head attention with the projections of day 23, computed by PyTorch's own function."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MultiHeadAttention(nn.Module):
    """Multi-head self-attention.

    Args:
        dim: channels of x and of the output.
        heads: a divisor of dim.
        bias: whether the four projections have one.

    The projections are `q_proj`, `k_proj`, `v_proj` and `out_proj`, each an `nn.Linear`.
    """

    def __init__(self, dim: int, heads: int, bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, dim, bias=bias)
        self.k_proj = nn.Linear(dim, dim, bias=bias)
        self.v_proj = nn.Linear(dim, dim, bias=bias)
        self.out_proj = nn.Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor, *, causal: bool = False) -> Tensor:
        """Attend from every token of x to every token, or, if `causal`, to none that comes later.

        Args:
            x: (batch, seq, dim)
            causal: whether a token sees itself and earlier ones only.

        Returns:
            (batch, seq, dim)
        """
        seq, dim = x.shape[-2:]
        future = torch.ones(seq, seq, dtype=torch.bool, device=x.device).triu(1)
        inner = [self.q_proj.bias, self.k_proj.bias, self.v_proj.bias]
        tokens = x.transpose(0, 1)  # the function wants (seq, batch, dim)
        output, _ = F.multi_head_attention_forward(
            tokens,
            tokens,
            tokens,
            dim,
            self.heads,
            None,
            None if inner[0] is None else torch.cat(inner),
            None,
            None,
            False,
            0.0,
            self.out_proj.weight,
            self.out_proj.bias,
            need_weights=False,
            attn_mask=future if causal else None,
            is_causal=causal,
            use_separate_proj_weight=True,
            q_proj_weight=self.q_proj.weight,
            k_proj_weight=self.k_proj.weight,
            v_proj_weight=self.v_proj.weight,
        )
        return output.transpose(0, 1)
