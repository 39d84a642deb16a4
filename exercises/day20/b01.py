"""b01: which of three clouds does a point belong to?

Target: accuracy of the predictions at least 0.88, for any seed. Edits: at most 2 statements.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TRAIN, TEST = 300, 500
WIDTH, EPOCHS, BATCH, LR = 16, 10, 25, 0.1


def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points (count, 2) and the cloud that each belongs to (count,)."""
    generator = torch.Generator().manual_seed(seed)
    cloud = torch.randint(3, (count,), generator=generator)
    centres = torch.tensor([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])
    return centres[cloud] + torch.randn(count, 2, generator=generator), cloud


def main(seed: int) -> dict[str, Any]:
    """Train, and return the metrics and the predicted clouds (TEST,) of the test set."""
    torch.manual_seed(seed)
    x, y = draw(TRAIN, 2 * seed)
    x_test, y_test = draw(TEST, 2 * seed + 1)
    centre, spread = x.mean(0), x.std(0)
    x, x_test = (x - centre) / spread, (x_test - centre) / spread
    y = y.to(x.dtype)

    model = nn.Sequential(nn.Linear(2, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 3))
    opt = torch.optim.SGD(model.parameters(), lr=LR)
    for _ in range(EPOCHS):
        for rows in torch.randperm(TRAIN).split(BATCH):
            loss = F.cross_entropy(model(x[rows]), y[rows])
            opt.zero_grad()
            loss.backward()
            opt.step()

    with torch.no_grad():
        predictions = model(x_test).argmax(1)
    accuracy = (predictions == y_test).float().mean().item()
    return {"metrics": {"accuracy": accuracy}, "predictions": predictions}


if __name__ == "__main__":
    print(main(0)["metrics"])
