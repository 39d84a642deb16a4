"""b05: is the part on a photo broken? Three photos were taken of every part.

Target: accuracy of the predictions at least 0.60, for any seed, and an honest "val": on parts that
the training has not seen. Edits: at most 6 statements.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PARTS, PHOTOS, TEST = 1200, 3, 1200
PIXELS, EPOCHS, BATCH, LR = 400, 12, 100, 0.02


def draw(parts: int, photos: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Photos (parts * photos, PIXELS), 1 for broken (parts * photos,), and the part's number."""
    generator = torch.Generator().manual_seed(seed)
    looks = torch.randn(parts, PIXELS, generator=generator)
    broken = looks[:, :20].sum(1) + torch.randn(parts, generator=generator) > 0
    part = torch.arange(parts).repeat_interleave(photos)
    light = 0.2 * torch.randn(parts * photos, PIXELS, generator=generator)
    return looks[part] + light, broken.long()[part], part


def main(seed: int) -> dict[str, Any]:
    """Train on half of the photos, validate on the others, predict (TEST,) of new parts."""
    torch.manual_seed(seed)
    x, y, part = draw(PARTS, PHOTOS, 2 * seed)
    x_test, y_test, _ = draw(TEST, 1, 2 * seed + 1)
    is_train = torch.isin(part, torch.randperm(PARTS)[: PARTS // 2])
    train, val = is_train.nonzero().flatten(), (~is_train).nonzero().flatten()

    model = nn.Sequential(nn.LayerNorm(PIXELS, elementwise_affine=False), nn.Linear(PIXELS, 2))
    model[1] = nn.Linear(PIXELS, 2, bias=False)  # no prior: both answers cost the same
    opt = torch.optim.Adam(model.parameters(), lr=LR)
    for _ in range(EPOCHS):
        for rows in train[torch.randperm(len(train))].split(BATCH):
            loss = F.cross_entropy(model(x[rows]), y[rows])
            opt.zero_grad()
            loss.backward()
            opt.step()

    with torch.no_grad():
        valid = (model(x[val]).argmax(1) == y[val]).float().mean().item()
        predictions = model(x_test).argmax(1)
    accuracy = (predictions == y_test).float().mean().item()
    return {"metrics": {"val": valid, "accuracy": accuracy}, "predictions": predictions}


if __name__ == "__main__":
    print(main(0)["metrics"])
