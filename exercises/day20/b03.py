"""b03: does a point lie inside the ring or outside it?

Target: accuracy of the predictions at least 0.82, for any seed. Edits: at most 2 statements.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TRAIN, TEST = 400, 500
WIDTH, EPOCHS, BATCH, LR = 24, 20, 20, 0.2


def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points (count, 2) and 1.0 for those outside the ring (count,)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 2, generator=generator)
    radius = x.norm(dim=1) + 0.1 * torch.randn(count, generator=generator)
    return x, (radius > 1.2).float()


class Net(nn.Module):
    """Two layers, one logit a point."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(2, WIDTH)
        self.out = nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (count,) of points (count, 2)."""
        return self.out(F.relu(self.hidden(x))).squeeze(1)


def main(seed: int) -> dict[str, Any]:
    """Train, and return the metrics and the predicted side (TEST,), 0.0 or 1.0."""
    torch.manual_seed(seed)
    x, y = draw(TRAIN, 2 * seed)
    x_test, y_test = draw(TEST, 2 * seed + 1)

    model = Net()
    opt = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.5)
    for _ in range(EPOCHS):
        for rows in torch.randperm(TRAIN).split(BATCH):
            loss = F.binary_cross_entropy_with_logits(model(x[rows]), y[rows])
            loss.backward()
            opt.step()

    with torch.no_grad():
        predictions = (model(x_test) > 0).float()
    accuracy = (predictions == y_test).float().mean().item()
    return {"metrics": {"accuracy": accuracy}, "predictions": predictions}


if __name__ == "__main__":
    print(main(0)["metrics"])
