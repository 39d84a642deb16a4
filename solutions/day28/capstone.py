"""A network that adds: `python capstone.py train --budget-s 30 --seed 0 --out DIR` trains one.

`additions.py` beside this file has the pairs to train on.
"""

import argparse
import time
from pathlib import Path

import torch
from additions import train_pairs
from torch import Tensor, nn
from torch.nn import functional as F

torch.set_num_threads(1)

### BEGIN SOLUTION 2: how a question becomes tokens, and the network
WIDTH, HEADS, LAYERS, STEPS, BATCH, RATE = 48, 4, 2, 500, 128, 5e-3


def digits(pairs: list[tuple[int, int]]) -> Tensor:
    """(pairs, 7): two digits of either number, three of the sum with the last one first."""
    rows = []
    for a, b in pairs:
        left, right, total = f"{a:02}", f"{b:02}", f"{a + b:03}"
        rows.append([int(digit) for digit in left + right + total[::-1]])
    return torch.tensor(rows)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, stream: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(stream)).unflatten(-1, (3, HEADS, -1)).unbind(2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        stream = stream + self.out(mixed.transpose(1, 2).flatten(2))
        return stream + self.down(F.gelu(self.up(self.norm2(stream))))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tok, self.pos = nn.Embedding(10, WIDTH), nn.Embedding(6, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.08)

    def forward(self, tokens: Tensor) -> Tensor:
        """The logits (batch, seq, 10) of the digit after each one."""
        stream = self.tok(tokens) + self.pos.weight[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(stream)))


### END SOLUTION


class Solver:
    """A trained network that answers questions."""

    ### BEGIN SOLUTION 2: what a solver holds
    def __init__(self, network: Network) -> None:
        self.network = network.eval()

    ### END SOLUTION

    @classmethod
    def load(cls, folder: str | Path) -> "Solver":
        """The solver whose weights lie in `folder/model.pt`; nothing else is read."""
        ### BEGIN SOLUTION 2: weights from the file
        network = Network()
        network.load_state_dict(torch.load(Path(folder) / "model.pt", weights_only=True))
        return cls(network)
        ### END SOLUTION

    def answer(self, questions: list[str]) -> list[str]:
        """Answer questions such as `"37+58="` with texts such as `"95"`, in their order."""
        ### BEGIN SOLUTION 2: from questions to answers
        rows = []
        for question in questions:
            left, right = question.rstrip("=").split("+")
            rows.append([int(digit) for digit in left.zfill(2) + right.zfill(2)])
        ids = torch.tensor(rows)
        with torch.inference_mode():
            for _ in range(3):
                best = self.network(ids)[:, -1:].argmax(-1)
                ids = torch.cat([ids, best], dim=1)
        texts = ["".join(map(str, row)) for row in ids[:, 4:].flip(1).tolist()]
        return [text.lstrip("0") or "0" for text in texts]
        ### END SOLUTION


def train(seed: int, folder: str | Path, budget_s: float = 30.0, steps: int | None = None) -> None:
    """Train a network and write its weights to `folder/model.pt`.

    Args:
        seed: decides everything that is drawn; the pairs are `train_pairs(seed)`.
        folder: to write into; it is made if it is not there.
        budget_s: CPU seconds, by `time.process_time()`, after which this function must be done.
        steps: how many optimizer steps to make; None: as many as you think fit.
    """
    ### BEGIN SOLUTION 2: train until the steps or the seconds are spent, and write
    end = time.process_time() + 0.9 * budget_s - 0.2
    torch.manual_seed(seed)
    network, rows = Network(), digits(train_pairs(seed))
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, betas=(0.9, 0.98))
    for step in range(STEPS if steps is None else steps):
        if time.process_time() > end:
            break
        for group in optimizer.param_groups:
            group["lr"] = RATE * min((step + 1) / 30, max(0.01, (STEPS - step) / 350), 1.0)
        batch = rows[torch.randint(len(rows), (BATCH,))]
        logits = network(batch[:, :-1])[:, 3:]
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 4:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    Path(folder).mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), Path(folder) / "model.pt")
    ### END SOLUTION


def main(arguments: list[str] | None = None) -> None:
    """What the command line asks for."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("train", help="train a network and write DIR/model.pt")
    command.add_argument("--budget-s", type=float, default=30.0, help="CPU seconds")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--out", required=True, metavar="DIR")
    command.add_argument("--steps", type=int, help="optimizer steps")
    given = parser.parse_args(arguments)
    train(given.seed, given.out, given.budget_s, given.steps)


if __name__ == "__main__":
    main()
