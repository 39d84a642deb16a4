"""How a check fails: with one sentence for the learner, and what a view needs to draw it.

A failure is an `AssertionError`, so that plain pytest understands it too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from grader.testing import _record


class CheckFailed(AssertionError):
    """The submission's answer is wrong; `str()` of it is the sentence for the learner."""

    def __init__(
        self,
        text: str,
        *,
        id: str = "",
        args: Mapping[str, Any] | None = None,
        details: Iterable[str] = (),
        expected: Any = None,
        got: Any = None,
        minimal: str | None = None,
        pictures: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        """Take what was found and attach the pictures to the running check.

        Args:
            text: one sentence: what was observed, what was expected.
            id: a name for this kind of finding that stays, such as "shape.permuted".
            args: the numbers and names that the sentence is made of.
            details: further lines, laid out for 80 columns.
            expected: what was asked for, in JSON's types.
            got: what came instead, in JSON's types.
            minimal: the smallest failing input, as code.
            pictures: values of `_record.drawn`, or mappings with kind, title, caption, data.
        """
        super().__init__(text)
        self.text = text
        self.id = id
        self.args_: dict[str, Any] = _record.plain(dict(args or {}))
        self.details = tuple(details)
        self.expected = _record.plain(expected)
        self.got = _record.plain(got)
        self.minimal = minimal
        for picture in pictures:
            _record.picture(
                picture["kind"], picture["title"], picture["caption"], **picture["data"]
            )

    def __str__(self) -> str:
        return self.text


def fail(
    text: str,
    *,
    id: str = "",
    expected: Any = None,
    got: Any = None,
    minimal: str | None = None,
    details: Iterable[str] = (),
    pictures: Iterable[Mapping[str, Any]] = (),
    args: Mapping[str, Any] | None = None,
) -> NoReturn:
    """Fail the running check with a sentence for the learner.

    Raises:
        CheckFailed: always.
    """
    __tracebackhide__ = True
    raise CheckFailed(
        text,
        id=id,
        args=args,
        details=details,
        expected=expected,
        got=got,
        minimal=minimal,
        pictures=pictures,
    )


def expect(condition: object, text: str, **found: Any) -> None:
    """Fail with the sentence unless the condition holds; `found` is as for `fail`.

    Raises:
        CheckFailed: the condition is false, or cannot be told (a tensor of many elements).
    """
    __tracebackhide__ = True
    try:
        holds = bool(condition)
    except Exception:
        holds = False
    if not holds:
        fail(text, **found)


_NAMELESS = ("value.close", "value.equal")
"""Failures that say which element is off, and not by which mistake."""


def smallest(run: Callable[[Any], object], cases: Iterable[Any]) -> None:
    """Run the cases in order, smallest first; a failure carries its case.

    Where all that can be said of the first failure is which element is off, the first later case
    whose mistake has a name is told instead: on tiny inputs two mistakes may give the same.

    Args:
        run: called with one case; raises where the case fails.
        cases: code as text, or any values; shown as the smallest failing input.
    """
    __tracebackhide__ = True
    left = iter(cases)
    for case in left:
        try:
            run(case)
        except CheckFailed as failure:
            if failure.minimal is None:
                failure.minimal = code(case)
            named = _named(run, left) if failure.id in _NAMELESS else None
            if named is not None:
                raise named from None
            raise
        except Exception:
            _record.current().minimal = code(case)
            raise


def _named(run: Callable[[Any], object], cases: Iterable[Any]) -> CheckFailed | None:
    """The failure of the first case whose mistake is known by name; its pictures are kept."""
    pictures = _record.current().pictures
    before = pictures.copy()
    for case in cases:
        pictures.clear()
        try:
            run(case)
        except CheckFailed as failure:
            if failure.id == "value.explained":
                failure.minimal = failure.minimal or code(case)
                return failure
        except KeyboardInterrupt:
            raise
        except BaseException:  # out of time, or the submission raises here
            break
    pictures[:] = before
    return None


def code(value: Any) -> str:
    """The value as a learner could type it; a large tensor by its shape alone."""
    try:
        return _code(value)
    except Exception:  # a value with a `__repr__` of the learner's own
        return f"<{type(value).__name__}>"


def _code(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return ", ".join(f"{key}={_argument(item)}" for key, item in value.items())
    if isinstance(value, tuple):
        return ", ".join(_argument(item) for item in value)
    return _argument(value)


def _argument(value: Any) -> str:
    if hasattr(value, "numel") and hasattr(value, "tolist"):
        kind = str(value.dtype)
        dtype = "" if kind == "torch.float32" else f", dtype={kind}"
        if value.numel() <= 12 and value.device.type != "meta":
            return f"torch.tensor({_rounded(value.detach().tolist())}{dtype})"
        maker = "randn" if value.dtype.is_floating_point else "zeros"
        return f"torch.{maker}({', '.join(map(str, value.shape))}{dtype})"
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | range):
        inner = ", ".join(_argument(item) for item in value)
        if isinstance(value, tuple):
            return f"({inner},)" if len(value) == 1 else f"({inner})"
        return f"[{inner}]"
    return repr(value)


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
