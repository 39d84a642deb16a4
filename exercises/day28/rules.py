"""Your own lint: five rules for five classes of bugs. `python rules.py` tries them.

The classes are dependency, mode, mask, shift, alias, order, dtype and reduction; `mutants.py` says
above its functions what healthy means in each.
"""

import copy
import sys
from collections.abc import Callable
from typing import Any

import torch

Rule = Callable[[Callable[..., Any], tuple[Any, ...]], bool]


# TODO 3: five rules; each takes a function and a sample of arguments
# END TODO


def main() -> None:
    """Say what each rule finds in the public subjects."""
    from mutants import HEALTHY, SICK, sample

    for kind, rule in RULES:
        for seed, fn in enumerate(HEALTHY[kind] + SICK[kind]):
            verdict = "healthy" if rule(fn, sample(kind, seed)) else "sick"
            sys.stdout.write(f"{kind:<11} {fn.__name__:<24} {verdict}\n")


if __name__ == "__main__":
    main()
