"""Whether values are the expected ones: close, equal, finite.

The comparison is our own, out of functions bound at import: a submission that replaces
`torch.allclose` later changes nothing, and `torch.testing.assert_close` takes half a second at
its first call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from grader.testing import _maps, _mistakes, _words
from grader.testing._failure import fail
from grader.testing._record import drawn
from grader.testing._shapes import assert_tensor, fail_shape

_Tensor = torch.Tensor
_eq, _ne, _isnan, _isfinite, _isinf = torch.eq, torch.ne, torch.isnan, torch.isfinite, torch.isinf
_abs, _where, _argmax, _nonzero, _tensor = (
    torch.abs,
    torch.where,
    torch.argmax,
    torch.nonzero,
    torch.tensor,
)
_logical_not, _logical_and, _logical_or = torch.logical_not, torch.logical_and, torch.logical_or
_any, _sum, _zeros_like, _full_like = torch.any, torch.sum, torch.zeros_like, torch.full_like
_to, _clone, _detach = torch.Tensor.to, torch.clone, torch.Tensor.detach
_resolve_conj, _resolve_neg = torch.resolve_conj, torch.resolve_neg
_no_grad = torch.no_grad
_no_torch_function = torch._C.DisableTorchFunction

Explain = Mapping[str, "Tensor | Callable[[], Tensor]"]

_TOLERANCES = {
    torch.float64: (1e-7, 1e-7),
    torch.complex128: (1e-7, 1e-7),
    torch.float32: (1e-5, 1e-5),
    torch.complex64: (1e-5, 1e-5),
}
_HALF = (1e-2, 1e-2)  # float16, bfloat16 and what is narrower


def assert_close(
    got: Any,
    expected: Any,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    axes: Sequence[str] | None = None,
    what: str = "the result",
    explain: Explain | None = None,
) -> None:
    """The values agree within the tolerance; shape and dtype exactly.

    An element agrees when `|got - expected| <= atol + rtol * |expected|`, and where both are
    nan or the same infinity. Integers and bools agree when they are equal.

    Args:
        got: a tensor; a NumPy array where `expected` is one; a number where `expected` is one (a
            0-d tensor will do); a tuple, list or dict of such where `expected` is one.
        expected: the same, computed without the submission. On whichever device.
        rtol: relative tolerance; by dtype where not given: 1e-7 for float64, 1e-5 for float32
            and for Python's numbers, 1e-2 for half precision.
        atol: absolute tolerance, 1e-7, 1e-5, 1e-2: as for PyTorch, sums of float32 cancel.
        axes: the names of the axes, for the message and the picture.
        what: what is compared, as the subject of the message.
        explain: sentence -> what a known mistake gives (a tensor, or a function that returns
            one). If exactly one gives the result, the message is its sentence.
    """
    __tracebackhide__ = True
    got, expected = _from_numpy(got, expected, what)
    if isinstance(expected, Mapping):
        _same_keys(got, expected, what)
        for key in expected:
            part = f"{what}[{key!r}]"
            item = dict.__getitem__(got, key)
            assert_close(item, expected[key], rtol=rtol, atol=atol, what=part)
    elif isinstance(expected, tuple | list):
        items = _same_length(got, expected, what)
        for i, item in enumerate(expected):
            assert_close(items[i], item, rtol=rtol, atol=atol, axes=axes, what=f"{what}[{i}]")
    elif isinstance(expected, _Tensor):
        _tensors_close(assert_tensor(got, what), expected, rtol, atol, axes, what, explain)
    else:
        _numbers_close(got, expected, rtol, atol, what, explain)


def assert_equal(
    got: Any, expected: Any, what: str = "the result", explain: Mapping[str, Any] | None = None
) -> None:
    """Exactly equal, in type too: tensors, lists, tuples, dicts, numbers, text.

    Args:
        got: the result; a `torch.Size` counts as a tuple.
        expected: what it must be.
        what: what is compared, as the subject of the message.
        explain: sentence -> what a known mistake gives; if exactly one is the result, the
            message is its sentence.
    """
    __tracebackhide__ = True
    got, expected = _from_numpy(got, expected, what)
    if isinstance(expected, _Tensor):
        tensor = assert_tensor(got, what)
        _tensors_close(tensor, expected, 0.0, 0.0, None, what, explain)
        return
    finding = _difference(got, expected, what)
    if finding is None:
        return
    sentences = [said for said, value in (explain or {}).items() if _is(got, value)]
    told = (finding,) if len(sentences) == 1 else ()
    fail(
        sentences[0] if len(sentences) == 1 else finding,
        id="value.explained" if len(sentences) == 1 else "value.equal",
        expected=_shown(expected),
        got=_shown(got),
        details=told,
        pictures=_text_panels(got, expected),
    )


def assert_finite(**tensors: Any) -> None:
    """No nan and no infinity in any of the tensors, given under the names for the message."""
    __tracebackhide__ = True
    for name, value in tensors.items():
        what = name.replace("_", " ")
        if isinstance(value, float | int):
            value = _tensor(float(value))
        tensor = assert_tensor(value, what)
        _has_values(tensor, what)
        with _plainly():
            bad = _logical_not(_isfinite(_detach(tensor)))
            if not bool(_any(bad)):
                continue
            index = _nonzero(bad)[0].tolist()
            number = _number_at(_detach(tensor), index)
            amount = int(_sum(bad))
        place = f" at {_words.place(index)}" if index else ""
        others = f", and {amount - 1} more of {tensor.numel()} elements" if amount > 1 else ""
        fail(
            f"{what} is {number}{place}{others}; every element must be finite",
            id="value.finite",
            args={"name": name, "index": index},
            expected="finite",
            got=str(number),
        )


@contextmanager
def _plainly() -> Iterator[None]:
    """No gradient, and no `__torch_function__`, of a mode or a subclass, takes part."""
    with _no_grad(), _no_torch_function():
        yield


def matches(got: Tensor, expected: Tensor, rtol: float, atol: float) -> bool:
    """Whether two tensors of one shape agree within the tolerance."""
    return not bool(_any(_wrong(got, expected, rtol, atol)))


def tolerance(
    dtype: torch.dtype, rtol: float | None = None, atol: float | None = None
) -> tuple[float, float]:
    """`rtol` and `atol`, by dtype where they are not given."""
    default = _TOLERANCES.get(dtype, _HALF)
    return default[0] if rtol is None else rtol, default[1] if atol is None else atol


def _wrong(got: Tensor, expected: Tensor, rtol: float, atol: float) -> Tensor:
    """(*) bool: where the two differ by more than the tolerance."""
    if not (expected.is_floating_point() or expected.is_complex()):
        return _ne(got, expected)
    near = _abs(got - expected) <= atol + rtol * _abs(expected)
    near = _logical_and(near, _isfinite(expected))  # inf <= inf says nothing
    both_nan = _logical_and(_isnan(got), _isnan(expected))
    return _logical_not(_logical_or(_logical_or(near, _eq(got, expected)), both_nan))


def _tensors_close(
    got: Tensor,
    expected: Tensor,
    rtol: float | None,
    atol: float | None,
    axes: Sequence[str] | None,
    what: str,
    explain: Mapping[str, Any] | None,
) -> None:
    __tracebackhide__ = True
    names = tuple(axes or ())
    names = names if len(names) == expected.ndim else ()
    _has_values(got, what)
    bounds = tolerance(expected.dtype, rtol, atol)
    shape, asked = tuple(got.shape), tuple(expected.shape)
    with _plainly():
        if shape == asked and got.dtype is expected.dtype:
            theirs, ours = _wide(got), _wide(expected)
            wrong = _wrong(theirs, ours, *bounds)
            if not bool(_any(wrong)):
                return
        known = _explained(got, explain or {}, bounds)
    if shape != asked:
        if known:
            fail(known, id="value.explained", expected={"shape": asked}, got={"shape": shape})
        fail_shape(shape, asked, names, "" if what == "the result" else what)
    if got.dtype is not expected.dtype:
        fail(
            known
            or f"{what} is {_words.dtype(got.dtype)}; expected {_words.dtype(expected.dtype)}",
            id="value.explained" if known else "dtype",
            expected=_words.dtype(expected.dtype),
            got=_words.dtype(got.dtype),
        )
    with _plainly():
        found = _Difference(theirs, ours, wrong, bounds, names, expected.dtype)
    sentence = found.sentence(what)
    generic = None if known else found.explanation(what)
    told = known or generic
    fail(
        told or sentence,
        id="value.explained" if known else "value.known" if generic else "value.close",
        args={"index": found.worst, "wrong": found.amount, "elements": expected.numel()},
        expected=found.asked,
        got=found.came,
        details=(sentence, *found.further()) if told else found.further(),
        pictures=found.pictures(),
    )


class _Difference:
    """What there is to say about two tensors of one shape that differ."""

    def __init__(
        self,
        got: Tensor,
        expected: Tensor,
        wrong: Tensor,
        bounds: tuple[float, float],
        names: tuple[str, ...],
        dtype: torch.dtype,
    ) -> None:
        self._got, self._expected, self._wrong = got, expected, wrong
        self._bounds, self._names, self._dtype = bounds, names, dtype
        self.amount = int(_sum(wrong))
        self.worst = self._find_worst()
        self.asked = _number_at(expected, self.worst)
        self.came = _number_at(got, self.worst)

    def _find_worst(self) -> list[int]:
        """Where the difference is greatest; the first nan or infinity where there is one."""
        if self._wrong.ndim == 0:
            return []
        if self._real:
            gap = _abs(self._got - self._expected)
            gap = _where(_isnan(gap), _full_like(gap, float("inf")), gap)
        else:
            gap = _to(self._wrong, torch.float64)
        flat = int(_argmax(_where(self._wrong, gap, _full_like(gap, -1))))
        index: list[int] = []
        for length in reversed(self._wrong.shape):
            index.insert(0, flat % length)
            flat //= length
        return index

    @property
    def _real(self) -> bool:
        return self._expected.is_floating_point() or self._expected.is_complex()

    def sentence(self, what: str) -> str:
        came, asked = _words.two_numbers(self.came, self.asked)
        total = self._wrong.numel()
        place = _words.place(self.worst)
        subject = f"{what} at {place}" if place else what
        text = f"{subject} is {came}; expected {asked}"
        if total > 1:
            worst = "the worst of " if self.amount > 1 else ""
            text += f" ({worst}{self.amount} of {_words.count(total, 'element')}"
            text += " that differ)" if self.amount > 1 else " differs)"
        return text

    def explanation(self, what: str) -> str | None:
        """The one generic mistake that explains every element, if there is one."""
        if not self._real:
            return self._explanation_of_exact(what)
        with _plainly():
            nan = _logical_and(_isnan(self._got), _logical_not(_isnan(self._expected)))
            if bool(_any(nan)):
                return None
            rtol, atol = self._bounds
            # A factor or a root is only as exact as the result that shows it.
            rtol, atol = max(rtol, 1e-9), max(atol, 1e-12)
            found = self._precision() or _mistakes.explanations(
                self._got,
                self._expected,
                lambda first, second: matches(first, second, rtol, atol),
                self._names,
            )
        if len(found) != 1:
            return None
        return found[0].replace("{what}", what)

    def _explanation_of_exact(self, what: str) -> str | None:
        if self._dtype is not torch.bool or self._wrong.numel() < 2:
            return None
        if self.amount == self._wrong.numel():
            return f"{what} is inverted: True where False belongs, and the reverse"
        return None

    def _precision(self) -> list[str]:
        if self._dtype is torch.float64 and matches(self._got, self._expected, 1e-5, 1e-6):
            return ["{what} is right to float32 precision only: on the way it left float64"]
        if self._dtype is torch.float32:
            for narrow in (torch.bfloat16, torch.float16):
                rounded = _to(_to(self._got, narrow), torch.float64)
                if matches(self._got, rounded, 0.0, 0.0) and matches(
                    self._got, self._expected, 2e-2, 2e-2
                ):
                    name = _words.dtype(narrow)
                    return [
                        f"{{what}} is right to {name} precision only: on the way it left float32"
                    ]
        return []

    def further(self) -> tuple[str, ...]:
        with _plainly():
            where = _mistakes.where(self._wrong, self._names)
        return (where,) if where and where != "all elements are wrong" else ()

    def pictures(self) -> list[dict[str, Any]]:
        if not self._expected.is_floating_point():
            return []
        with _plainly():
            return _maps.compared(self._got, self._expected, self._wrong, self.worst, self._names)


def _explained(got: Tensor, explain: Mapping[str, Any], bounds: tuple[float, float]) -> str | None:
    """The sentence of the one known mistake that gives exactly this result."""
    found = []
    for sentence, mistake in explain.items():
        value = mistake() if callable(mistake) else mistake
        tensor = value if isinstance(value, _Tensor) else _tensor(value)
        if tuple(tensor.shape) != tuple(got.shape):  # before a copy is made: it may be huge
            continue
        theirs, ours = _wide(got), _wide(tensor)
        if ours.is_complex() and not theirs.is_complex():
            continue
        if matches(theirs, _to(ours, theirs.dtype), *bounds):
            found.append(sentence)
    return found[0] if len(found) == 1 else None


def _wide(tensor: Tensor) -> Tensor:
    """A clone on the CPU, in the widest dtype of its kind."""
    tensor = _resolve_neg(_resolve_conj(_detach(tensor)))
    dtype = tensor.dtype
    if tensor.is_floating_point():
        dtype = torch.float64
    elif tensor.is_complex():
        dtype = torch.complex128
    return _clone(_to(_to(tensor, "cpu"), dtype))


def _from_numpy(got: Any, expected: Any, what: str) -> tuple[Any, Any]:
    """Both as tensors where an array is expected; an expected NumPy number as a plain one."""
    __tracebackhide__ = True
    if type(expected).__module__ != "numpy" or not hasattr(expected, "dtype"):
        return got, expected
    if type(expected).__name__ != "ndarray":
        return got, expected.item()
    if type(got) is not type(expected):
        fail(f"{what} is {_words.kind(got)}; expected a numpy.ndarray", id="type.array")
    if got.dtype != expected.dtype:
        fail(
            f"{what} is {got.dtype}; expected {expected.dtype}",
            id="dtype",
            expected=str(expected.dtype),
            got=str(got.dtype),
        )
    return _tensor(got), _tensor(expected)


def _has_values(tensor: Tensor, what: str) -> None:
    __tracebackhide__ = True
    if tensor.device.type == "meta":
        fail(f"{what} is on the meta device and has no values", id="device")


def _number_at(tensor: Tensor, index: Sequence[int]) -> Any:
    """The element as a Python number."""
    return tensor[tuple(index)].item()


def _numbers_close(
    got: Any,
    expected: Any,
    rtol: float | None,
    atol: float | None,
    what: str,
    explain: Mapping[str, Any] | None,
) -> None:
    __tracebackhide__ = True
    if isinstance(got, _Tensor):
        tensor = assert_tensor(got, what)
        if tensor.ndim:
            fail_shape(tuple(tensor.shape), (), (), what)
        _has_values(tensor, what)
        dtype = tensor.dtype
        number: Any = _number_at(_detach(tensor), ())
    else:
        dtype = torch.float32
        number = _as_number(got)
        if number is None:
            fail(
                f"{what} is {_words.kind(got)}; expected a number, {_words.number(expected)}",
                id="type.number",
                expected=expected,
                got=type(got).__name__,
            )
    exact = isinstance(number, int) and isinstance(expected, int)
    bounds = (0.0, 0.0) if exact else tolerance(dtype, rtol, atol)
    if _near(number, expected, bounds):
        return
    came, asked = _words.two_numbers(number, expected)
    sentence = f"{what} is {came}; expected {asked}"
    said = []
    for text, mistake in (explain or {}).items():
        value = mistake() if callable(mistake) else mistake
        value = value.item() if isinstance(value, _Tensor) and value.numel() == 1 else value
        if isinstance(value, int | float | complex) and _near(number, value, bounds):
            said.append(text)
    known = said[0] if len(said) == 1 else None
    fail(
        known or sentence,
        id="value.explained" if known else "value.close",
        expected=expected,
        got=number,
        details=(sentence,) if known else (),
    )


def _near(got: Any, expected: Any, bounds: tuple[float, float]) -> bool:
    rtol, atol = bounds
    if got == expected or (got != got and expected != expected):  # nan is not itself
        return True
    try:
        gap, size = abs(got - expected), abs(expected)
        return bool(gap <= atol + rtol * size and size != float("inf"))
    except OverflowError:
        return False


def _as_number(value: Any) -> Any:
    """A plain bool, int, float or complex of the same value; None for anything else."""
    kind = type(value)
    if kind in (bool, int, float, complex):
        return value
    # NumPy's float64 is a float; a subclass of the learner's own may lie about `==`.
    bases: tuple[Any, ...] = (int, float, complex)
    for base in bases:
        if isinstance(value, base):
            return base.__add__(value, base())
    if kind.__module__ == "numpy" and getattr(value, "shape", None) == ():
        return value.item()
    return None


def _same_keys(got: Any, expected: Mapping[Any, Any], what: str) -> None:
    __tracebackhide__ = True
    if not isinstance(got, dict):
        fail(f"{what} is {_words.kind(got)}; expected a dict", id="type.dict")
    missing = [key for key in expected if key not in got]
    extra = [key for key in got if key not in expected]
    if missing or extra:
        said = [f"{_listed(missing)} missing"] if missing else []
        said += [f"{_listed(extra)} too many"] if extra else []
        fail(
            f"the keys of {what} differ: {_words.listed(said)}",
            id="value.keys",
            expected=[str(key) for key in expected],
            got=[str(key) for key in got],
        )


def _listed(keys: Sequence[Any]) -> str:
    return _words.listed([repr(key) for key in keys[:6]] + (["…"] if len(keys) > 6 else []))


def _same_length(got: Any, expected: Sequence[Any], what: str) -> list[Any]:
    __tracebackhide__ = True
    if not isinstance(got, tuple | list):
        fail(f"{what} is {_words.kind(got)}; expected {_words.kind(expected)}", id="type.sequence")
    items = list(tuple.__iter__(got) if isinstance(got, tuple) else list.__iter__(got))
    if len(items) != len(expected):
        fail(
            f"{what} has {_words.count(len(items), 'item')}; expected {len(expected)}",
            id="value.length",
            expected=len(expected),
            got=len(items),
        )
    return items


def _is(got: Any, value: Any) -> bool:
    return _difference(got, value, "") is None


def _difference(got: Any, expected: Any, what: str) -> str | None:
    """Where the two first differ, as a sentence; None where they are equal."""
    if isinstance(expected, _Tensor):
        if type(got) is not type(expected) or got.shape != expected.shape:
            return f"{what} is {_words.kind(got)}; expected {_words.kind(expected)}"
        with _plainly():
            same = got.dtype is expected.dtype and matches(_wide(got), _wide(expected), 0, 0)
        return None if same else f"{what} differs from what was expected"
    if isinstance(expected, tuple | list):
        return _difference_of_items(got, expected, what)
    if isinstance(expected, Mapping):
        return _difference_of_dicts(got, expected, what)
    if isinstance(expected, str):
        return _difference_of_text(got, expected, what)
    if isinstance(expected, bool | int | float | complex):
        number = _as_number(got)
        if number is None or (type(number) is not type(_as_number(expected))):
            return f"{what} is {_words.kind(got)}; expected {_words.kind(expected)}"
        if _near(number, expected, (0.0, 0.0)):
            return None
        return "{what} is {}; expected {}".format(*_words.two_numbers(number, expected), what=what)
    # The expected value's own `==`, so that a result cannot say that it equals everything.
    try:
        same = got is expected or (type(got) is type(expected) and bool(expected == got))
    except Exception:  # an `==` of the learner's own, or one that gives an array
        same = False
    if same:
        return None
    return f"{what} is {_safe_repr(got)}; expected {_safe_repr(expected)}"


def _difference_of_items(got: Any, expected: Sequence[Any], what: str) -> str | None:
    wanted: Any = tuple if isinstance(expected, tuple) else list
    if not isinstance(got, wanted):
        return f"{what} is {_words.kind(got)}; expected {_words.kind(expected)}"
    items = list(wanted.__iter__(got))
    for i, (mine, theirs) in enumerate(zip(items, expected, strict=False)):
        finding = _difference(mine, theirs, f"{what}[{i}]")
        if finding:
            return finding
    if len(items) != len(expected):
        came, asked = _safe_repr(got), _safe_repr(expected)
        if len(came) + len(asked) < 120:
            return f"{what} is {came}; expected {asked}"
        return f"{what} has {_words.count(len(items), 'item')}; expected {len(expected)}"
    return None


def _difference_of_dicts(got: Any, expected: Mapping[Any, Any], what: str) -> str | None:
    if not isinstance(got, dict):
        return f"{what} is {_words.kind(got)}; expected a dict"
    items = dict(dict.items(got))
    missing = [key for key in expected if key not in items]
    extra = [key for key in items if key not in expected]
    if missing:
        return f"{what} lacks {_listed(missing)}"
    if extra:
        return f"{what} has {_listed(extra)}, which does not belong there"
    for key, value in expected.items():
        finding = _difference(items[key], value, f"{what}[{key!r}]")
        if finding:
            return finding
    return None


def _difference_of_text(got: Any, expected: str, what: str) -> str | None:
    if not isinstance(got, str):
        return f"{what} is {_words.kind(got)}; expected the text {expected[:60]!r}"
    text = str.__str__(got) if type(got) is str else "".join(str.__iter__(got))
    if str.__eq__(expected, text):
        return None
    mine, theirs = text.split("\n"), expected.split("\n")
    if len(theirs) == 1 and len(mine) == 1:
        return f"{what} is {text[:120]!r}; expected {expected[:120]!r}"
    for i, (left, right) in enumerate(zip(mine, theirs, strict=False), start=1):
        if left != right:
            return f"{what} differs in line {i}: {left[:100]!r}; expected {right[:100]!r}"
    return f"{what} has {_words.count(len(mine), 'line')}; expected {len(theirs)}"


def _text_panels(got: Any, expected: Any) -> list[dict[str, Any]]:
    if type(got) is not str or not isinstance(expected, str) or "\n" not in expected + got:
        return []
    mine, theirs = got.split("\n")[:40], expected.split("\n")[:40]
    marked = [i for i in range(max(len(mine), len(theirs))) if mine[i : i + 1] != theirs[i : i + 1]]
    return [
        drawn(
            "text",
            "Expected and yours",
            f"{_words.count(len(marked), 'line')} differ" + ("s" if len(marked) == 1 else ""),
            panels=[
                {"label": "expected", "lines": theirs, "marked": []},
                {"label": "yours", "lines": mine, "marked": [i for i in marked if i < len(mine)]},
            ],
        )
    ]


def _shown(value: Any) -> Any:
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    return _safe_repr(value)


def _safe_repr(value: Any) -> str:
    try:
        said = repr(value)
    except Exception:  # a `__repr__` of the learner's own
        return _words.kind(value)
    return said if len(said) <= 200 else said[:199] + "…"
