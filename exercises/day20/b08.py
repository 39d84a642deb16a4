"""b08: do two of six switches stand the same way?

Target: accuracy of the predictions at least 0.85, for any seed. Edits: at most 4 statements.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TRAIN, TEST = 600, 500
WIDTH, EPOCHS, BATCH, LR = 32, 12, 30, 0.01


def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Switches (count, 6) and 1 where the first two stand the same way (count,)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=generator)
    product = x[:, 0] * x[:, 1] + 0.05 * torch.randn(count, generator=generator)
    return x, (product > 0).long()


class Deep(nn.Module):
    """Three hidden layers and a head."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [6, WIDTH, WIDTH, WIDTH]
        self.layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (count, 2) of switches (count, 6)."""
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.head(x)


def main(seed: int) -> dict[str, Any]:
    """Train, and return the metrics and the predictions (TEST,) for the test set."""
    torch.manual_seed(seed)
    x, y = draw(TRAIN, 2 * seed)
    x_test, y_test = draw(TEST, 2 * seed + 1)

    model = Deep()
    opt = torch.optim.Adam(model.parameters(), lr=LR)
    schedule = torch.optim.lr_scheduler.ExponentialLR(opt, gamma=0.8)
    for _ in range(EPOCHS):
        for rows in torch.randperm(TRAIN).split(BATCH):
            loss = F.cross_entropy(model(x[rows]), y[rows])
            opt.zero_grad()
            loss.backward()
            opt.step()
            schedule.step()

    with torch.no_grad():
        predictions = model(x_test).argmax(1)
    accuracy = (predictions == y_test).float().mean().item()
    return {"metrics": {"accuracy": accuracy}, "predictions": predictions}


if __name__ == "__main__":
    print(main(0)["metrics"])
