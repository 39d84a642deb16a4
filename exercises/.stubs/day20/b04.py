"""b04: how likely is each of five species, from three lengths?

Target: nll of the predictions at most 0.40, for any seed. Edits: at most 2 statements.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TRAIN, TEST = 400, 500
WIDTH, EPOCHS, BATCH, LR = 32, 15, 20, 0.01


def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Lengths (count, 3) and the species (count,)."""
    generator = torch.Generator().manual_seed(seed)
    species = torch.randint(5, (count,), generator=generator)
    typical = 2.5 * torch.eye(5)[:, :3] - 2.5 * torch.eye(5).flip(1)[:, :3]
    return typical[species] + 0.7 * torch.randn(count, 3, generator=generator), species


class Classifier(nn.Module):
    """Two layers over the five species."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(3, WIDTH)
        self.out = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (count, 5) of lengths (count, 3)."""
        hidden = F.relu(self.hidden(x))
        return self.out(hidden).softmax(dim=1)


def main(seed: int) -> dict[str, Any]:
    """Train, and return the metrics and the log-probabilities (TEST, 5) of the test set."""
    torch.manual_seed(seed)
    x, y = draw(TRAIN, 2 * seed)
    x_test, y_test = draw(TEST, 2 * seed + 1)

    model = Classifier()
    opt = torch.optim.Adam(model.parameters(), lr=LR)
    for _ in range(EPOCHS):
        for rows in torch.randperm(TRAIN).split(BATCH):
            loss = F.cross_entropy(model(x[rows]), y[rows])
            opt.zero_grad()
            loss.backward()
            opt.step()

    with torch.no_grad():
        predictions = F.log_softmax(model(x_test), dim=1)
    nll = F.nll_loss(predictions, y_test).item()
    return {"metrics": {"nll": nll}, "predictions": predictions}


if __name__ == "__main__":
    print(main(0)["metrics"])
