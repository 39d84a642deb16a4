"""b02: how much power does a house need, from four measurements?

Target: R2 of the predictions at least 0.90, for any seed. Edits: at most 2 statements.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TRAIN, TEST = 400, 500
WIDTH, EPOCHS, BATCH, LR = 24, 15, 20, 0.01


def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Measurements (count, 4) and the power (count,)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=generator)
    power = 2 * x[:, 0] - x[:, 1] + x[:, 2].abs() + 0.5 * x[:, 3]
    return x, power + 0.3 * torch.randn(count, generator=generator)


def r2(predictions: Tensor, y: Tensor) -> float:
    """The share of the variance that (count,) predictions explain."""
    return 1 - ((predictions - y) ** 2).mean().item() / y.var().item()


def main(seed: int) -> dict[str, Any]:
    """Train, and return the metrics and the predicted power (TEST,) of the test set."""
    torch.manual_seed(seed)
    x, y = draw(TRAIN, 2 * seed)
    x_test, y_test = draw(TEST, 2 * seed + 1)

    model = nn.Sequential(nn.Linear(4, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))
    opt = torch.optim.Adam(model.parameters(), lr=LR)
    for _ in range(EPOCHS):
        for rows in torch.randperm(TRAIN).split(BATCH):
            opt.zero_grad()
            power = model(x[rows])
            loss = F.mse_loss(power, y[rows])
            loss.backward()
            opt.step()

    with torch.no_grad():
        predictions = model(x_test).squeeze(1)
    return {"metrics": {"r2": r2(predictions, y_test)}, "predictions": predictions}


if __name__ == "__main__":
    print(main(0)["metrics"])
