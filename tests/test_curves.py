"""The model solutions' curves in the suites of days 25, 27 and 28 are those that they still give.

The beginning of a training is made again, from one of the seeds of `benchmarks/curves.py`.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def curves() -> ModuleType:
    spec = importlib.util.spec_from_file_location("curves", ROOT / "benchmarks" / "curves.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("day", ["day25", "day27", "day28"])
def test_the_model_solution_still_begins_as_its_curve_does(curves, day):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        beginning = curves.beginning(day, seed=0)
    finally:
        torch.set_num_threads(threads)
    table = curves.table(day)
    for x, y in zip(beginning["x"], beginning["y"], strict=True):
        at = table["x"].index(x)
        # The seed is one of the band's; what is left is rounding and another machine's sums.
        assert table["low"][at] - 0.03 <= y <= table["high"][at] + 0.03


@pytest.mark.parametrize("day", ["day25", "day27", "day28"])
def test_a_curve_has_as_many_points_everywhere_and_its_median_within_the_band(curves, day):
    table = curves.table(day)

    assert len({len(values) for values in table.values()}) == 1
    for low, y, high in zip(table["low"], table["y"], table["high"], strict=True):
        assert 0 <= low <= y <= high < 1.1 * math.log(25)
