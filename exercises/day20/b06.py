"""b06: which of four machines made this noise? The test set comes machine by machine.

Target: accuracy of the predictions at least 0.88, for any seed. Edits: at most 5 statements.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TRAIN, TEST = 600, 400
WIDTH, EPOCHS, BATCH, LR = 32, 8, 30, 0.01


def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noises (count, 8) and the machine (count,), in the order of the machines."""
    generator = torch.Generator().manual_seed(seed)
    machine = torch.arange(4).repeat_interleave(count // 4)
    sounds = torch.eye(4).repeat(1, 2) * torch.tensor([2.2] * 4 + [-2.2] * 4)
    return sounds[machine] + torch.randn(count, 8, generator=generator), machine


class Ear(nn.Module):
    """Two layers with batch norm and dropout between them."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(8, WIDTH)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.dropout = nn.Dropout(0.3)
        self.out = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (count, 4) of noises (count, 8)."""
        return self.out(self.dropout(F.relu(self.norm(self.hidden(x)))))


def main(seed: int) -> dict[str, Any]:
    """Train, and return the metrics and the predicted machines (TEST,) of the test set."""
    torch.manual_seed(seed)
    x, y = draw(TRAIN, 2 * seed)
    x_test, y_test = draw(TEST, 2 * seed + 1)

    model = Ear()
    opt = torch.optim.Adam(model.parameters(), lr=LR)
    for _ in range(EPOCHS):
        noises = x[torch.randperm(TRAIN)].split(BATCH)
        machines = y[torch.randperm(TRAIN)].split(BATCH)
        for noise, machine in zip(noises, machines, strict=True):
            loss = F.cross_entropy(model(noise), machine)
            opt.zero_grad()
            loss.backward()
            opt.step()

    with torch.no_grad():
        predictions = torch.cat([model(part).argmax(1) for part in x_test.split(20)])
    accuracy = (predictions == y_test).float().mean().item()
    return {"metrics": {"accuracy": accuracy}, "predictions": predictions}


if __name__ == "__main__":
    print(main(0)["metrics"])
