"""b09: does the first sensor hum, or the second?

Target: accuracy of the predictions at least 0.85, for any seed. Edits: at most 3 statements.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TRAIN, TEST, TIME, SENSORS = 400, 500, 20, 3
WIDTH, EPOCHS, BATCH, LR = 12, 10, 20, 0.02


def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Signals (count, TIME, SENSORS) and which sensor hums (count,)."""
    generator = torch.Generator().manual_seed(seed)
    sensor = torch.randint(2, (count,), generator=generator)
    x = torch.randn(count, TIME, SENSORS, generator=generator)
    phase = torch.randint(2, (count, 1), generator=generator)
    hum = 1.0 - 2.0 * ((torch.arange(TIME) + phase) % 2)  # (count, TIME)
    x[torch.arange(count), :, sensor] += hum
    return x, sensor


class Listener(nn.Module):
    """A convolution over time, the mean over time, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(SENSORS, WIDTH, 4)
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (count, 2) of signals (count, TIME, SENSORS)."""
        x = x.reshape(len(x), SENSORS, TIME)
        features = self.conv(x).mean(dim=2)
        return self.head(features)


def main(seed: int) -> dict[str, Any]:
    """Train, and return the metrics and the predicted sensors (TEST,) of the test set."""
    torch.manual_seed(seed)
    x, y = draw(TRAIN, 2 * seed)
    x_test, y_test = draw(TEST, 2 * seed + 1)

    model = Listener()
    opt = torch.optim.Adam(model.parameters(), lr=LR)
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
