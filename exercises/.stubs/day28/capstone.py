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

# TODO 2: how a question becomes tokens, and the network
# END TODO


class Solver:
    """A trained network that answers questions."""

    # TODO 2: what a solver holds
    # END TODO

    @classmethod
    def load(cls, folder: str | Path) -> "Solver":
        """The solver whose weights lie in `folder/model.pt`; nothing else is read."""
        # TODO 2: weights from the file
        raise NotImplementedError("day28 T2: Solver")
        # END TODO

    def answer(self, questions: list[str]) -> list[str]:
        """Answer questions such as `"37+58="` with texts such as `"95"`, in their order."""
        # TODO 2: from questions to answers
        raise NotImplementedError("day28 T2: Solver")
        # END TODO


def train(seed: int, folder: str | Path, budget_s: float = 30.0, steps: int | None = None) -> None:
    """Train a network and write its weights to `folder/model.pt`.

    Args:
        seed: decides everything that is drawn; the pairs are `train_pairs(seed)`.
        folder: to write into; it is made if it is not there.
        budget_s: CPU seconds, by `time.process_time()`, after which this function must be done.
        steps: how many optimizer steps to make; None: as many as you think fit.
    """
    # TODO 2: train until the steps or the seconds are spent, and write
    raise NotImplementedError("day28 T2: Solver")
    # END TODO


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
