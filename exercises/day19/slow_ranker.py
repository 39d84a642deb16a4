"""A ranker that is right and slow; `FastRanker` of day 19 is to be right and fast."""

import math

import torch
from torch import Tensor, nn


class SlowRanker(nn.Module):
    """Weigh and rank candidates for each query.

    Args:
        dim: features of a query and of a candidate.
        hidden: features they are compared in.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.query = nn.Linear(dim, hidden)
        self.item = nn.Linear(dim, hidden)
        self.fade = nn.Parameter(torch.tensor(0.1))

    def forward(self, queries: Tensor, items: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the candidates of each query, and their order.

        Args:
            queries: (batch, dim), floating point.
            items: (batch, candidates, dim), in the dtype of `queries`.
            keep: (batch, candidates), bool; True = may be chosen.

        Returns:
            Weights (batch, candidates): softmax of the scores over the candidates that are kept, 0
            for the others, and a row of 0 where none is kept. Order (batch, candidates), int64: the
            numbers of the candidates by falling weight, of equal weights the lower number first.
        """
        batch, candidates = keep.shape
        all_weights = torch.empty(0, candidates)
        all_orders = torch.empty(0, candidates, dtype=torch.int64)
        for b in range(batch):
            scores = torch.empty(0)
            for c in range(candidates):
                fades = torch.log1p(torch.arange(candidates, dtype=torch.float64))
                scale = torch.tensor(math.sqrt(self.hidden), dtype=torch.float64)
                query, item = self.query(queries[b]), self.item(items[b, c])
                score = (query * item).sum() / scale - self.fade * fades[c]
                if keep[b, c].item():
                    scores = torch.cat([scores, score[None]])
            weights = torch.zeros(candidates, dtype=scores.dtype)
            if len(scores):
                highest = max(score.item() for score in scores)
                exponentials = [torch.exp(score - highest) for score in scores]
                weights[keep[b]] = torch.stack(exponentials) / sum(exponentials)
            order = sorted(range(candidates), key=lambda c: (-weights[c].item(), c))
            all_weights = torch.cat([all_weights, weights[None]])
            all_orders = torch.cat([all_orders, torch.tensor([order])])
        return all_weights, all_orders
