"""Whether gradients are right: against finite differences, an oracle, and where they must be 0.

`torch.autograd.gradcheck` has the last word. Before it is asked, a comparison of our own with the
same steps and tolerances names the mistake, since gradcheck's error is a wall of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError as _GradcheckError

from grader.testing import _words
from grader.testing._failure import CheckFailed, fail
from grader.testing._record import drawn
from grader.testing._shapes import assert_tensor
from grader.testing._trees import mapped
from grader.testing._values import Explain, assert_close

_Tensor = torch.Tensor
_gradcheck, _gradgradcheck = torch.autograd.gradcheck, torch.autograd.gradgradcheck
_grad, _enable_grad, _no_grad = torch.autograd.grad, torch.enable_grad, torch.no_grad
_randn, _zeros, _zeros_like, _empty_strided = (
    torch.randn,
    torch.zeros,
    torch.zeros_like,
    torch.empty_strided,
)
_Generator, _sum, _stack, _clone, _detach = (
    torch.Generator,
    torch.sum,
    torch.stack,
    torch.clone,
    torch.Tensor.detach,
)
_abs, _isfinite, _all, _any = torch.abs, torch.isfinite, torch.all, torch.any
_equal, _nonzero, _argmax, _isnan, _ones = (
    torch.equal,
    torch.nonzero,
    torch.argmax,
    torch.isnan,
    torch.ones,
)
_randint, _requires_grad, _copy = torch.randint, torch.Tensor.requires_grad_, torch.Tensor.copy_

_STEP = 1e-6
_RTOL, _ATOL = 1e-3, 1e-5  # of gradcheck
_MOST_POINTS = 400  # of the picture


def assert_gradients(
    fn: Callable[..., Any],
    *inputs: Any,
    order: int = 1,
    fast: bool = False,
    names: Sequence[str] | None = None,
) -> None:
    """The gradients of `fn` agree with finite differences, in float64.

    Args:
        fn: called with the inputs; returns a tensor or a tuple of tensors, float64.
        inputs: float64 tensors of any shape, and other arguments. The gradient is taken with
            respect to those that require it, or to all of them where none does. The function
            gets copies.
        order: 2 also compares the gradient's own gradient.
        fast: compare along one random direction, for more than some 200 elements.
        names: of the inputs, for the message; those of the signature where not given.

    Raises:
        CheckFailed: a gradient is wrong, or the result doesn't require grad.
        TypeError: an input is float32 or narrower; finite differences need float64.
    """
    __tracebackhide__ = True
    tensors = [value for value in inputs if isinstance(value, _Tensor)]
    chosen = _chosen(inputs)
    for value in tensors:
        if (value.is_floating_point() or value.is_complex()) and value.dtype not in (
            torch.float64,
            torch.complex128,
        ):
            raise TypeError(
                f"assert_gradients needs float64 inputs, got {_words.dtype(value.dtype)}: "
                "finite differences in a narrower dtype are noise"
            )
    if not chosen:
        raise TypeError("assert_gradients needs an input with a gradient: a float64 tensor")
    called = list(names) if names is not None else _names(fn, inputs)
    with _enable_grad():  # whatever mode the submission left behind
        _compare(fn, inputs, chosen, called, fast, "")
        if order >= 2:
            _compare_second(fn, inputs, chosen, called, fast)
        _agree_with_torch(fn, _copies(inputs, chosen), order, fast)


def _agree_with_torch(fn: Callable[..., Any], inputs: list[Any], order: int, fast: bool) -> None:
    """Fail unless `torch.autograd.gradcheck`, and `gradgradcheck` for order 2, agrees."""
    __tracebackhide__ = True
    # An undefined upstream gradient is a matter of several results, and no task asks for it.
    options: dict[str, Any] = {"check_undefined_grad": False, "fast_mode": fast}
    options |= {"atol": _ATOL, "rtol": _RTOL}
    try:
        _gradcheck(fn, tuple(inputs), eps=_STEP, **options)
        if order >= 2:
            _gradgradcheck(fn, tuple(inputs), eps=_STEP, **options)
    except _GradcheckError as error:
        said = " ".join(str(error).split())
        fail(
            "torch.autograd.gradcheck does not agree with the backward pass: "
            + said.partition(". ")[0][:200],
            id="gradient.gradcheck",
        )


def assert_gradients_close(
    fn: Callable[..., Any],
    oracle: Callable[..., Any],
    *inputs: Any,
    names: Sequence[str] | None = None,
    none_is_zero: bool = False,
    rtol: float | None = None,
    atol: float | None = None,
    explain: Explain | None = None,
) -> None:
    """Value and gradients agree with the oracle's, under one random upstream gradient.

    Args:
        fn: called with copies of the inputs; returns a tensor or a tuple of tensors.
        oracle: the same by other means; called after `fn`, with copies of its own.
        inputs: tensors and other arguments. Gradients are taken with respect to those that
            require them, or to all floating ones where none does.
        names: of the inputs, for the message; those of the signature where not given.
        none_is_zero: whether no gradient at all counts as zeros.
        rtol: as for `assert_close`.
        atol: as for `assert_close`.
        explain: as for `assert_close`, for the value.
    """
    __tracebackhide__ = True
    chosen = _chosen(inputs)
    called = list(names) if names is not None else _names(fn, inputs)
    seed = int(_randint(2**62, ()))
    mine = _copies(inputs, chosen)
    with _enable_grad():
        results = _results(fn(*mine))
    theirs = _copies(inputs, chosen)
    with _enable_grad():
        expected = _outputs(oracle(*theirs))
    if len(results) != len(expected):
        fail(
            f"the result is {_words.count(len(results), 'tensor')}; expected {len(expected)}",
            id="value.length",
        )
    for i, (result, value) in enumerate(zip(results, expected, strict=True)):
        what = "the result" if len(expected) == 1 else f"the result[{i}]"
        assert_close(result, value, rtol=rtol, atol=atol, what=what, explain=explain)
    wanted = _pulled(expected, [theirs[i] for i in chosen], seed)
    _requires(results, [called[i] for i in chosen], any(g is not None for g in wanted))
    leaves = [mine[i] for i in chosen]
    with _blamed("backward raises"):
        found = _pulled(results, leaves, seed, keep=True)
        doubled = _pulled(results, leaves, seed, scale=2.0)
    for i, gradient, asked, again in zip(chosen, found, wanted, doubled, strict=True):
        what = f"the gradient with respect to {called[i]}"
        if gradient is None and asked is not None:
            if none_is_zero:
                gradient = _zeros_like(asked)
            else:
                fail(f"no gradient reaches {called[i]}: it is None", id="gradient.none")
        if gradient is None:
            continue
        if asked is None:
            if bool(_any(gradient != 0)):
                fail(f"{what} must be 0: the result does not depend on it", id="gradient.extra")
            continue
        try:
            assert_close(gradient, asked, rtol=rtol, atol=atol, what=what)
        except CheckFailed as failure:
            if again is not None and bool(_any(gradient != 0)) and _equal(gradient, again):
                fail(
                    _ignores_upstream(called[i]),
                    id="gradient.upstream",
                    expected=failure.expected,
                    got=failure.got,
                    details=(failure.text,),
                )
            raise


def assert_independent(
    fn: Callable[[Tensor], Any],
    x: Tensor,
    out_index: Any,
    in_index: Any,
    what: str = "",
) -> None:
    """The result at `out_index` does not depend on `x` at `in_index`: the gradient is exactly 0.

    Args:
        fn: called with a copy of `x` that requires grad; returns a tensor.
        x: floating, any shape.
        out_index: an index into the result: an int, a slice, a mask, or a tuple of these.
        in_index: an index into `x`.
        what: what it would mean, as a sentence: "position 2 looks at position 3".
    """
    __tracebackhide__ = True
    (copied,) = _copies((x,), [0])
    with _enable_grad():
        result = assert_tensor(fn(copied))
        _requires([result], ["the input"], True)
        with _blamed(f"the result of shape {_words.shape(tuple(result.shape))} has no part there"):
            part = result[out_index]
        with _blamed("backward raises"):
            (gradient,) = _pulled([part], [copied], 1, keep=True)
            (whole,) = _pulled([result], [copied], 2)
    block = _zeros_like(x)[in_index] if gradient is None else gradient[in_index]
    if bool(_any(block != 0)) or bool(_any(_isnan(block))):
        said = (
            what
            or f"the result at {_spoken(out_index)} depends on the input at {_spoken(in_index)}"
        )
        worst = float(_abs(block).max())
        fail(
            f"{said}: the derivative there must be exactly 0, "
            f"and is up to {_words.number(worst, 4)}",
            id="gradient.dependent",
            expected=0,
            got=worst,
        )
    if all(g is None or not bool(_any(g != 0)) for g in (gradient, whole)):
        fail("the result does not depend on the input at all", id="gradient.constant")


def _chosen(inputs: Sequence[Any]) -> list[int]:
    """The places of the inputs that gradients are taken with respect to."""
    floating = [
        i
        for i, value in enumerate(inputs)
        if isinstance(value, _Tensor) and (value.is_floating_point() or value.is_complex())
    ]
    return [i for i in floating if inputs[i].requires_grad] or floating


def _names(fn: Callable[..., Any], inputs: Sequence[Any]) -> list[str]:
    from grader.testing._views import _named_arguments

    return [name for name, _ in _named_arguments(fn, tuple(inputs), {})]


def _copies(inputs: Sequence[Any], chosen: Sequence[int]) -> list[Any]:
    """Fresh copies with the strides of the originals; the chosen ones require grad."""
    copies = [mapped(value, _copied) for value in inputs]
    for i in chosen:
        _requires_grad(copies[i])
    return copies


def _copied(tensor: Tensor) -> Tensor:
    with _no_grad():
        try:
            copy = _empty_strided(
                tuple(tensor.shape), tensor.stride(), dtype=tensor.dtype, device=tensor.device
            )
            return _copy(copy, _detach(tensor))
        except RuntimeError:  # expanded: several elements in one place
            return _clone(_detach(tensor))


def _outputs(value: Any) -> list[Tensor]:
    """The floating tensors among the results."""
    items = value if isinstance(value, tuple | list) else (value,)
    return [
        item
        for item in items
        if isinstance(item, _Tensor) and (item.is_floating_point() or item.is_complex())
    ]


def _results(value: Any) -> list[Tensor]:
    __tracebackhide__ = True
    if isinstance(value, tuple | list) and value:
        for i, item in enumerate(value):
            if item is not None:
                assert_tensor(item, f"the result[{i}]")
    else:
        assert_tensor(value)
    outputs = _outputs(value)
    if not outputs:
        fail(
            f"the result is {_words.dtype(value.dtype) if isinstance(value, _Tensor) else 'whole'}"
            ": only floating tensors have a gradient",
            id="dtype",
        )
    return outputs


def _requires(results: Sequence[Tensor], names: Sequence[str], needed: bool) -> None:
    __tracebackhide__ = True
    if needed and not any(result.requires_grad for result in results):
        fail(
            f"the result doesn't require grad: no gradient reaches {_words.listed(names)} "
            "(.detach(), .data, .item(), torch.tensor(...) and no_grad cut the graph)",
            id="gradient.cut",
            expected="requires_grad=True",
            got="requires_grad=False",
        )


def _pulled(
    results: Sequence[Tensor],
    inputs: Sequence[Tensor],
    seed: int,
    *,
    keep: bool = False,
    scale: float = 1.0,
) -> list[Tensor | None]:
    """The gradients under a random upstream gradient, the same for the same seed.

    The product with the upstream gradient is summed, so that autograd starts from a number:
    to start from a tensor makes torch import sympy.
    """
    generator = _Generator().manual_seed(seed)
    with _enable_grad():
        total: Any = None
        for result in results:
            upstream = _randn(tuple(result.shape), dtype=torch.float64, generator=generator)
            if result.requires_grad:
                part = _sum(scale * result * upstream.to(result.device, result.dtype))
                total = part if total is None else total + part
        if total is None:
            return [None for _ in inputs]
        if total.is_complex():
            total = total.real
        return list(_grad(total, inputs, allow_unused=True, retain_graph=keep))


@contextmanager
def _blamed(what: str) -> Iterator[None]:
    """An error that autograd raises because of the submission becomes a failure."""
    __tracebackhide__ = True
    try:
        yield
    except (CheckFailed, NotImplementedError):
        raise
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        if _raised_by_torch(error):
            lines = str(error).strip().splitlines()
            fail(
                f"{what}: {lines[0][:300] if lines else type(error).__name__}", id="gradient.error"
            )
        raise


def _raised_by_torch(error: BaseException) -> bool:
    """Whether no frame but torch's and this package's took part."""
    trace = error.__traceback__
    while trace is not None:
        home = trace.tb_frame.f_globals.get("__name__", "").partition(".")[0]
        if home not in ("torch", "grader", "contextlib"):
            return False
        trace = trace.tb_next
    return True


def _compare(
    fn: Callable[..., Any],
    inputs: Sequence[Any],
    chosen: Sequence[int],
    names: Sequence[str],
    fast: bool,
    order: str,
) -> None:
    __tracebackhide__ = True
    mine = _copies(inputs, chosen)
    with _enable_grad():
        results = _results(fn(*mine))
    _requires(results, [names[i] for i in chosen], True)
    for result in results:
        if result.dtype not in (torch.float64, torch.complex128):
            fail(
                f"the result is {_words.dtype(result.dtype)} though the inputs are float64",
                id="dtype",
                expected="float64",
                got=_words.dtype(result.dtype),
            )
    leaves = [mine[i] for i in chosen]
    with _blamed("backward raises"), _untouched_upstream(results):
        once = _pulled(results, leaves, 3, keep=True)
        once = [None if g is None else _clone(g) for g in once]
        twice = _pulled(results, leaves, 3, keep=True)
    _same_again(once, twice, [names[i] for i in chosen])
    for output, result in enumerate(results):
        if result.numel() == 0:
            continue
        for i, leaf in zip(chosen, leaves, strict=True):
            if leaf.numel() == 0:
                continue
            analytic: Tensor
            numeric: Tensor
            if fast or leaf.is_complex() or result.is_complex():
                with _blamed("backward raises"):
                    analytic = _along(result, leaf)
                numeric = _slope(fn, inputs, chosen, i, output, result)
            else:
                with _blamed("backward raises"):
                    analytic = _jacobian(result, leaf)
                numeric = _differences(fn, inputs, chosen, i, output, result)
            wrong = ~(_abs(analytic - numeric) <= _ATOL + _RTOL * _abs(numeric))
            if bool(_any(wrong)):
                _fail_gradient(analytic, numeric, wrong, result, leaf, names[i], order)


def _same_again(
    once: Sequence[Tensor | None], twice: Sequence[Tensor | None], names: Sequence[str]
) -> None:
    __tracebackhide__ = True
    for name, first, second in zip(names, once, twice, strict=True):
        if first is None or second is None:
            continue
        if not bool(_all((first == second) | (_isnan(first) & _isnan(second)))):
            fail(
                f"backward gives another gradient with respect to {name} when it runs again: "
                "does it change saved tensors in place?",
                id="gradient.again",
            )


@contextmanager
def _untouched_upstream(results: Sequence[Tensor]) -> Iterator[None]:
    """Fail where backward writes to the gradient that it is handed."""
    __tracebackhide__ = True
    seen: list[tuple[Tensor, Tensor]] = []
    handles = [
        result.register_hook(lambda gradient: seen.append((gradient, _clone(gradient))))  # type: ignore[no-untyped-call]
        for result in results
        if result.requires_grad
    ]
    yield
    for handle in handles:
        handle.remove()
    for given, kept in seen:
        if not bool(_all((given == kept) | _isnan(kept))):
            fail(
                "backward changes grad_output in place; others may still need it",
                id="gradient.in_place",
            )


def _jacobian(result: Tensor, leaf: Tensor) -> Tensor:
    """(elements of the result, elements of the input), by one backward pass a row."""
    flat = result.reshape(-1)
    rows = []
    for k in range(flat.numel()):
        if not result.requires_grad:
            gradient = None
        else:
            (gradient,) = _grad(flat[k], leaf, allow_unused=True, retain_graph=True)
        rows.append(_zeros_like(leaf) if gradient is None else gradient)
    return _stack([_detach(row).reshape(-1) for row in rows])


def _differences(
    fn: Callable[..., Any],
    inputs: Sequence[Any],
    chosen: Sequence[int],
    which: int,
    output: int,
    result: Tensor,
) -> Tensor:
    """(elements of the result, elements of the input), by central differences."""
    size = inputs[which].numel()
    columns = []
    for j in range(size):
        ends = []
        for sign in (1, -1):
            nudged = _copies(inputs, chosen)
            _nudge(nudged[which], j, sign * _STEP)
            ends.append(_called(fn, nudged, output, result))
        columns.append((ends[0] - ends[1]).reshape(-1) / (2 * _STEP))
    return _stack(columns, 1)


def _nudge(tensor: Tensor, position: int, step: float) -> None:
    index: list[int] = []
    for length in reversed(tensor.shape):
        index.insert(0, position % length)
        position //= length
    with _no_grad():
        # Through `detach`, and not in place on the leaf itself, whose version would rise.
        _detach(tensor)[tuple(index)] += step


def _called(fn: Callable[..., Any], inputs: Sequence[Any], output: int, like: Tensor) -> Tensor:
    __tracebackhide__ = True
    with _enable_grad():
        results = _results(fn(*inputs))
    if output >= len(results) or results[output].shape != like.shape:
        fail("the result has another shape at the second call", id="value.again")
    return _detach(results[output])


def _along(result: Tensor, leaf: Tensor) -> Tensor:
    """(1,): the derivative of a random mix of the results along a random direction."""
    upstream, direction = _directions(result, leaf)
    (gradient,) = (
        _grad((result * upstream).sum().real, leaf, allow_unused=True, retain_graph=True)
        if result.requires_grad
        else (None,)
    )
    if gradient is None:
        return _zeros(1, dtype=torch.float64)
    # For a complex input autograd gives the conjugate derivative.
    return (gradient.conj() * direction).sum().real.reshape(1)


def _slope(
    fn: Callable[..., Any],
    inputs: Sequence[Any],
    chosen: Sequence[int],
    which: int,
    output: int,
    result: Tensor,
) -> Tensor:
    upstream, direction = _directions(result, inputs[which])
    ends = []
    for sign in (1, -1):
        nudged = _copies(inputs, chosen)
        with _no_grad():
            _detach(nudged[which]).add_(direction, alpha=sign * _STEP)
        value = _called(fn, nudged, output, result)
        ends.append((value * upstream).sum().real)
    return ((ends[0] - ends[1]) / (2 * _STEP)).reshape(1)


def _directions(result: Tensor, leaf: Tensor) -> tuple[Tensor, Tensor]:
    generator = _Generator().manual_seed(result.numel() * 7919 + leaf.numel())
    upstream = _randn(tuple(result.shape), dtype=result.dtype, generator=generator)
    direction = _randn(tuple(leaf.shape), dtype=leaf.dtype, generator=generator)
    direction /= max(float(_abs(direction).square().sum().sqrt()), 1e-12)
    return upstream.to(result.device), direction.to(leaf.device)


def _fail_gradient(
    analytic: Tensor,
    numeric: Tensor,
    wrong: Tensor,
    result: Tensor,
    leaf: Tensor,
    name: str,
    order: str,
) -> None:
    __tracebackhide__ = True
    gap = _abs(analytic - numeric)
    gap = gap.masked_fill(_isnan(gap), math.inf).masked_fill(~wrong, -1.0)
    flat = int(_argmax(gap))
    came, asked = float(analytic.reshape(-1)[flat]), float(numeric.reshape(-1)[flat])
    said = _words.two_numbers(came, asked)
    what = f"the {order}gradient with respect to {name}"
    if wrong.ndim == 2:
        row, column = divmod(flat, wrong.shape[1])
        spots = _place_of(column, leaf), _place_of(row, result)
        where = (f" at {spots[0]}" if spots[0] else "") + (
            f", of the result at {spots[1]}" if spots[1] else ""
        )
        sentence = f"{what}{where}, is {said[0]}; finite differences give {said[1]}"
    else:
        sentence = (
            f"{what} along a random direction is {said[0]}; finite differences give {said[1]}"
        )
    sentence = sentence.replace(", is", " is") if ", of the" not in sentence else sentence
    known = _mistake(analytic, numeric, name, order)
    amount = int(_sum(wrong))
    details = [sentence] if known else []
    if wrong.numel() > 1:
        details.append(f"{amount} of {wrong.numel()} derivatives differ")
    fail(
        known or sentence,
        id="gradient.analytic",
        args={"input": name, "order": 2 if order else 1},
        expected=asked,
        got=came,
        details=details,
        pictures=_scatter(analytic, numeric, name) if wrong.numel() > 1 else (),
    )


def _ignores_upstream(name: str) -> str:
    return (
        f"the gradient with respect to {name} is the same whatever comes from above: "
        "backward must multiply by grad_output"
    )


def _place_of(position: int, tensor: Tensor) -> str:
    index: list[int] = []
    for length in reversed(tensor.shape):
        index.insert(0, position % length)
        position //= length
    return _words.place(index)


def _mistake(analytic: Tensor, numeric: Tensor, name: str, order: str) -> str | None:
    what = f"the {order}gradient with respect to {name}"
    if not bool(_any(analytic != 0)):
        return f"no {order}gradient reaches {name}: it is 0 everywhere"
    if not bool(_all(_isfinite(analytic))):
        return f"{what} is not finite"

    def agree(first: Tensor, second: Tensor) -> bool:
        return bool(_all(_abs(first - second) <= _ATOL + _RTOL * _abs(second)))

    if analytic.ndim == 2 and analytic.shape[0] > 1:
        first = analytic[:1].expand_as(analytic)
        if bool(_all(analytic == first)) and not agree(numeric[:1].expand_as(numeric), numeric):
            return _ignores_upstream(name)
    if agree(analytic, -numeric):
        return f"{what} has the wrong sign"
    large = _abs(numeric) > 1e-2 * _abs(numeric).max()
    if int(_sum(large)) >= 2 and bool(_any(numeric[large] != numeric[large][0])):
        factor = float((analytic[large] / numeric[large]).median())
        if math.isfinite(factor) and agree(analytic, factor * numeric):
            return f"{what} is {_words.number(factor, 4)} times what it should be"
    square = analytic.ndim == 2 and analytic.shape[0] == analytic.shape[1] > 1
    if square and agree(analytic, numeric.T):
        return f"{what} is transposed: the Jacobian is applied from the wrong side"
    return None


def _scatter(analytic: Tensor, numeric: Tensor, name: str) -> list[dict[str, Any]]:
    step = max(1, analytic.numel() // _MOST_POINTS)
    x, y = numeric.reshape(-1)[::step], analytic.reshape(-1)[::step]
    return [
        drawn(
            "scatter",
            f"Derivatives with respect to {name}",
            "on the diagonal, yours is what finite differences give",
            x=[float(f"{v:.5g}") for v in x.tolist()],
            y=[float(f"{v:.5g}") for v in y.tolist()],
            x_label="finite differences",
            y_label="yours",
            diagonal=True,
        )
    ]


def _compare_second(
    fn: Callable[..., Any],
    inputs: Sequence[Any],
    chosen: Sequence[int],
    names: Sequence[str],
    fast: bool,
) -> None:
    """The gradient, as a function of the inputs and of the upstream gradient, has its own."""
    __tracebackhide__ = True
    with _enable_grad():
        shapes = [
            (tuple(r.shape), r.dtype, r.device) for r in _results(fn(*_copies(inputs, chosen)))
        ]
    generator = _Generator().manual_seed(5)
    upstream = [_randn(s, dtype=d, generator=generator).to(v) for s, d, v in shapes]

    def gradient(*values: Any) -> tuple[Tensor, ...]:
        count = len(values) - len(upstream)
        results = _results(fn(*values[:count]))
        total: Any = sum(
            ((r * u).sum() for r, u in zip(results, values[count:], strict=True) if r.requires_grad)
        )
        leaves = [values[i] for i in chosen]
        with _blamed("the gradient cannot be differentiated again"):
            found = _grad(total, leaves, allow_unused=True, create_graph=True)
        parts = [_zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True)]
        if not any(part.requires_grad for part in parts):
            fail(
                "the gradient doesn't require grad, so it cannot be differentiated again: "
                "backward must itself be made of differentiable operations on saved tensors",
                id="gradient.once",
            )
        return tuple(parts)

    everything = [*inputs, *upstream]
    places = [*chosen, *range(len(inputs), len(everything))]
    labels = [*names, *(["grad_output"] * len(upstream))]
    _compare(gradient, everything, places, labels, fast, "second ")


def _spoken(index: Any) -> str:
    items = index if isinstance(index, tuple) else (index,)
    said = []
    for item in items:
        if isinstance(item, slice):
            ends = ["" if end is None else str(end) for end in (item.start, item.stop)]
            said.append(":".join(ends) + ("" if item.step is None else f":{item.step}"))
        elif isinstance(item, _Tensor):
            said.append("…" if item.numel() > 4 else str(item.tolist()))
        else:
            said.append("..." if item is Ellipsis else str(item))
    return "[" + ", ".join(said) + "]"
