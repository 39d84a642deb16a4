"""The curves of the model solutions that pages show beside a learner's, as the suites have them.

`python benchmarks/curves.py day25` trains the reference from five seeds and prints the table that
stands in the suite: the median of the five, and the least and the largest. A few CPU minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import torch

ROOT = Path(__file__).parent.parent
SEEDS = range(5)
Points = dict[str, list[float]]
FIRST = {"day25": "language_model", "day27": "day27_final_lm", "day28": "capstone"}


def module(day: str, name: str) -> ModuleType:
    """A file of a day, imported; the files beside it can be imported by it."""
    folder = ROOT / "solutions" / day
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location(f"{day}_{name}", folder / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        sys.modules[made.__name__] = made  # dataclasses look it up
        spec.loader.exec_module(made)
        return made
    finally:
        sys.path.remove(str(folder))


def curve(day: str, seed: int, steps: int | None = None) -> tuple[Points, float]:
    """The curve of one training of the reference, and what it came to.

    Args:
        steps: after how many it ends; None: after all of them.
    """
    reference, suite = module(day, FIRST[day]), module(day, f"test_{FIRST[day]}")
    if day == "day25":
        model, _, reached = suite.learned(reference, seed, steps or 300)
        return suite.tens(model.noted), reached
    if day == "day27":
        torch.manual_seed(seed)
        run = suite.Run(reference, suite.Text(), seed)
        for _ in range(steps or 300):
            run.step()
        return {"x": list(run.curve), "y": list(run.curve.values())}, run.last
    # The suite makes folders of its own where it runs.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        trained = suite.train_once(reference, seed, Path(folder), steps)
    return suite.twenties(trained.losses), trained.share


def table(day: str) -> Points:
    """The table that stands in the suite."""
    return dict(module(day, f"test_{FIRST[day]}").REFERENCE)


def beginning(day: str, seed: int) -> Points:
    """The first points of a training: one, ten or twenty steps of it."""
    return curve(day, seed, 20 if day == "day28" else 10)[0]


def main() -> None:
    """Print the table of one day."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("day", choices=FIRST)
    day = parser.parse_args().day
    torch.set_num_threads(1)
    found = [curve(day, seed) for seed in SEEDS]
    print("# came to", ", ".join(f"{reached:.3f}" for _, reached in found))
    columns = list(zip(*(points["y"] for points, _ in found), strict=True))
    print("x", found[0][0]["x"])
    for name, pick in (("y", len(SEEDS) // 2), ("low", 0), ("high", -1)):
        print(name, [round(sorted(column)[pick], 2) for column in columns])


if __name__ == "__main__":
    main()
