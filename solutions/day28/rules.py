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


### BEGIN SOLUTION 3: five rules; each takes a function and a sample of arguments
def careful(rule: Rule) -> Rule:
    """The rule on a copy of the sample; False if the function raises."""

    def judge(fn: Callable[..., Any], sample: tuple[Any, ...]) -> bool:
        try:
            return bool(rule(fn, copy.deepcopy(sample)))
        except Exception:
            return False

    return judge


@careful
def dependency(fn: Callable[..., Any], sample: tuple[Any, ...]) -> bool:
    (x,) = sample
    before = fn(x.clone())
    for place in range(1, len(x)):
        other = x.clone()
        other[place:] += torch.randn_like(other[place:])
        if not torch.allclose(fn(other)[:place], before[:place], atol=1e-5):
            return False
    return True


@careful
def mode(fn: Callable[..., Any], sample: tuple[Any, ...]) -> bool:
    model, x = sample
    expected = copy.deepcopy(model).eval()(x)
    for start in (model, copy.deepcopy(model).train(), copy.deepcopy(model).eval()):
        modes = [module.training for module in start.modules()]
        if not torch.allclose(fn(start, x), expected, atol=1e-5):
            return False
        if modes != [module.training for module in start.modules()]:
            return False
    return True


@careful
def mask(fn: Callable[..., Any], sample: tuple[Any, ...]) -> bool:
    x, keep = sample
    before = fn(x.clone(), keep.clone())
    other = torch.where(keep[..., None], x, 10 * torch.randn_like(x))
    longer = torch.cat([x, torch.randn_like(x)], 1)
    unused = torch.cat([keep, torch.zeros_like(keep)], 1)
    return torch.allclose(fn(other, keep.clone()), before, atol=1e-4) and torch.allclose(
        fn(longer, unused), before, atol=1e-4
    )


@careful
def shift(fn: Callable[..., Any], sample: tuple[Any, ...]) -> bool:
    ids, ctx = sample
    x, y = fn(ids.clone(), ctx)
    following = dict(zip(ids[:-1].tolist(), ids[1:].tolist(), strict=True))
    rows = zip(x.tolist(), y.tolist(), strict=True)
    return x.shape == y.shape and all(
        following.get(one) == other for row in rows for one, other in zip(*row, strict=True)
    )


@careful
def alias(fn: Callable[..., Any], sample: tuple[Any, ...]) -> bool:
    (x,) = sample
    given, kept = x.clone(), x.clone()
    first = fn(given)
    if not torch.equal(given, kept):
        return False
    values = first.clone()
    fn(torch.randn_like(x))
    if not torch.equal(first, values):
        return False
    first.zero_()
    return torch.equal(given, kept)


RULES: list[tuple[str, Rule]] = [
    ("dependency", dependency),
    ("mode", mode),
    ("mask", mask),
    ("shift", shift),
    ("alias", alias),
]
### END SOLUTION


def main() -> None:
    """Say what each rule finds in the public subjects."""
    from mutants import HEALTHY, SICK, sample

    for kind, rule in RULES:
        for seed, fn in enumerate(HEALTHY[kind] + SICK[kind]):
            verdict = "healthy" if rule(fn, sample(kind, seed)) else "sick"
            sys.stdout.write(f"{kind:<11} {fn.__name__:<24} {verdict}\n")


if __name__ == "__main__":
    main()
