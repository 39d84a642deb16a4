"""Which operators a function dispatches: how many, how large, from which line.

A dispatch mode sees every operator that reaches the dispatcher, forward and backward (on the
CPU both run in the caller's thread), under whatever name it was called.
"""

from __future__ import annotations

import linecache
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from grader.testing import _words
from grader.testing._failure import fail
from grader.testing._trees import tensors_in

_Tensor = torch.Tensor
_storage = torch.Tensor.untyped_storage
_getframe = sys._getframe

# Aliases by what they do, though their schema doesn't say so.
_UNMARKED_VIEWS = frozenset({"_unsafe_view", "_reshape_alias", "lift_fresh", "detach_", "lift"})
_TORCH = str(Path(torch.__file__).parent)
_HERE = str(Path(__file__).parent)


@dataclass(frozen=True, slots=True)
class Op:
    """One dispatched operator."""

    name: str  # "mm"; "other::name" outside of aten
    shapes: tuple[tuple[int, ...], ...]  # of the tensors it returned
    is_view: bool  # it moves no data: view, transpose, expand, detach and the like
    numel: int  # of the largest tensor it made; 0 for views and writes into the arguments
    line: tuple[str, int] | None = None  # file and number, where lines were asked for


@dataclass(frozen=True, slots=True)
class OpLog:
    """What a call dispatched, and what it returned."""

    result: Any
    ops: tuple[Op, ...]
    calls: int = 0  # of torch's functions from Python, where they were counted

    @property
    def names(self) -> tuple[str, ...]:
        """The operators in order, views excluded."""
        return tuple(op.name for op in self.ops if not op.is_view)

    @property
    def count(self) -> int:
        """How many operators, views excluded."""
        return len(self.names)

    @property
    def total(self) -> int:
        """How many operators, views included."""
        return len(self.ops)

    @property
    def largest(self) -> int:
        """Elements of the largest tensor that was made."""
        return max((op.numel for op in self.ops), default=0)


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode that is cheap to enter.

    Keeping dynamo out of it would import dynamo: a second, at the first operator.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


def count_ops(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> OpLog:
    """Call `fn` and log the operators that it dispatches, forward and backward."""
    return _logged(fn, args, kwargs)


def assert_ops_at_most(most: int, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """At most that many operators are dispatched, views not counted; returns the result."""
    __tracebackhide__ = True
    log = _logged(fn, args, kwargs)
    if log.count > most:
        common = Counter(log.names).most_common(5)
        said = _words.listed(f"{n} × {name}" if n > 1 else name for name, n in common)
        more = "" if len(Counter(log.names)) <= 5 else " and others"
        fail(
            f"you call {_words.count(log.count, 'operator')}; at most {most} are allowed",
            id="operators.count",
            expected=most,
            got=log.count,
            details=(f"called were {said}{more}",),
        )
    return log.result


def assert_no_python_loop(
    fn: Callable[..., Any], make: Callable[[int], Any], sizes: tuple[int, int] = (8, 16)
) -> None:
    """The number of operators does not grow with the size, views counted too.

    Args:
        fn: called with what `make` returns.
        make: `make(n)` returns the arguments of size n: a tuple, or the only one.
        sizes: a small and a larger size.
    """
    __tracebackhide__ = True
    logs = []
    for size in sizes:
        made = make(size)
        args = made if isinstance(made, tuple) else (made,)
        logs.append(_logged(fn, args, {}, lines=True))
    small, large = (log.total for log in logs)
    # One call may be many operators inside C++, as nn.GRU is: only Python's loops count.
    if large > small and logs[1].calls > logs[0].calls:
        line = _growing_line(*logs)
        fail(
            f"you call {small} operators at size {sizes[0]} and {large} at size {sizes[1]}: "
            "a Python loop over the size",
            id="operators.loop",
            args={"sizes": sizes, "counts": [small, large]},
            expected=small,
            got=large,
            details=_line_of(line) if line else (),
        )


def assert_no_tensor_of(numel: int, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """No operator makes a tensor of that many elements or more; returns the result.

    Views are not counted, nor are writes into the arguments. The backward pass is, if `fn`
    runs it.
    """
    __tracebackhide__ = True
    log = _logged(fn, args, kwargs, lines=True)
    for op in log.ops:
        if op.numel >= numel:
            shape = max(op.shapes, key=_product)
            fail(
                f"{op.name} makes a tensor of shape {_words.shape(shape)}, "
                f"{_words.count(op.numel, 'element')}; "
                f"fewer than {_words.count(numel, 'element')} are allowed",
                id="operators.size",
                expected=numel,
                got=op.numel,
                details=_line_of(op.line) if op.line else (),
            )
    return log.result


class _Logger(DispatchMode):
    """Logs operators; keeps no tensor alive."""

    def __init__(self, known: set[int], lines: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ops: list[Op] = []
        self._known = known  # storages of the arguments, which the caller keeps alive
        self._lines = lines

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        view = is_view(func)
        outputs = list(tensors_of(result))
        sizes = [t.numel() for t in outputs if not view and _storage(t)._cdata not in self._known]
        self.ops.append(
            Op(
                name=name_of(func),
                shapes=tuple(tuple(tensor.shape) for tensor in outputs),
                is_view=view,
                numel=max(sizes, default=0),
                line=user_line() if self._lines else None,
            )
        )
        return result


class _Counter(TorchFunctionMode):
    """Counts calls of torch's functions from Python."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def _logged(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], lines: bool = False
) -> OpLog:
    held = list(tensors_in((fn, args, kwargs)))
    mode = _Logger({cdata for tensor in held for cdata in storage_keys(tensor)}, lines)
    counter = _Counter()
    with mode, counter if lines else nullcontext():
        result = fn(*args, **kwargs)
    return OpLog(result, tuple(mode.ops), counter.calls)


def storage_keys(tensor: Tensor) -> Iterator[int]:
    """The identity of the tensor's storage, if it has one."""
    try:
        yield _storage(tensor)._cdata
    except (RuntimeError, NotImplementedError):  # sparse, functional wrappers
        return


def tensors_of(result: Any) -> Iterator[Tensor]:
    """The tensors that an operator returned: one, several, or a list of them."""
    if isinstance(result, _Tensor):
        yield result
    elif isinstance(result, tuple | list):
        for item in result:
            yield from tensors_of(item)


def name_of(func: Any) -> str:
    """`mm` for `aten.mm.default`."""
    space, _, name = str(func._schema.name).partition("::")
    return name if space == "aten" else f"{space}::{name}"


def is_view(func: Any) -> bool:
    """Whether the operator only makes another view of the memory of its input."""
    schema = func._schema
    if schema.name.partition("::")[2] in _UNMARKED_VIEWS:
        return True
    aliases = [value.alias_info for value in schema.returns if value.alias_info is not None]
    return bool(aliases) and not any(info.is_write for info in aliases)


def user_line() -> tuple[str, int] | None:
    """File and number of the innermost line outside of torch and this package."""
    frame = _getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((_TORCH, _HERE, "<frozen")):
            return (file, frame.f_lineno)
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _growing_line(small: OpLog, large: OpLog) -> tuple[str, int] | None:
    growth = Counter(op.line for op in large.ops)
    growth.subtract(op.line for op in small.ops)
    line, more = growth.most_common(1)[0]
    return line if more > 0 else None


def _line_of(line: tuple[str, int]) -> tuple[str, ...]:
    """The line as the learner may find it; nothing if it is a line of the suite."""
    file, number = line
    name = Path(file).name
    if name.startswith(("test_", "conftest")) or name.endswith("_test.py"):
        return ()
    text = linecache.getline(file, number).strip()
    return (f"{name}:{number}", f"    {text}") if text else (f"{name}:{number}",)


def _product(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size
