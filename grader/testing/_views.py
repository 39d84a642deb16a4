"""Whose memory a result lives in, and whether the arguments came back as they were."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from grader.testing import _words
from grader.testing._failure import fail
from grader.testing._shapes import assert_tensor
from grader.testing._trees import named_tensors_in

_clone, _detach, _no_grad = torch.clone, torch.Tensor.detach, torch.no_grad
_eq, _isnan, _all, _logical_and, _logical_or = (
    torch.eq,
    torch.isnan,
    torch.all,
    torch.logical_and,
    torch.logical_or,
)
_storage, _copy, _nonzero, _logical_not = (
    torch.Tensor.untyped_storage,
    torch.Tensor.copy_,
    torch.nonzero,
    torch.logical_not,
)


def assert_view(result: Any, base: Tensor, what: str = "the result") -> None:
    """The result shares the memory of `base`; a write through it shows there.

    Tensors without elements pass. `base` comes back as it was, but for its version.
    """
    __tracebackhide__ = True
    view = assert_tensor(result, what)
    if view.numel() == 0 or base.numel() == 0:
        return
    if _pointer(view) != _pointer(base) or not _writes_through(view, base):
        fail(
            f"{what} is a copy; expected a view, which shares the memory of the input",
            id="memory.copy",
            expected="view",
            got="copy",
        )


def assert_copy(result: Any, base: Tensor, what: str = "the result") -> None:
    """The result has memory of its own; a write to it does not show in `base`.

    Tensors without elements pass. Both come back as they were, but for their version.
    """
    __tracebackhide__ = True
    copy = assert_tensor(result, what)
    if copy.numel() == 0 or base.numel() == 0:
        return
    if _pointer(copy) == _pointer(base) or _writes_through(copy, base):
        same = "the input itself" if result is base else "a view of the input"
        fail(
            f"{what} is {same}: writing to it changes the input; expected a copy",
            id="memory.view",
            expected="copy",
            got="view",
        )


def assert_unchanged(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call `fn` and hold it to leaving its arguments alone; returns the result.

    Compared are the values and the version of every tensor in the arguments (also within
    lists, tuples and dicts: `.data` writes keep the version, adding 0 keeps the values), its
    shape and strides, and the items of the containers. Modules are not looked into.
    """
    __tracebackhide__ = True
    named = list(_named_arguments(fn, args, kwargs))
    tensors = [pair for name, value in named for pair in named_tensors_in(value, name)]
    before = [(_values(t), _version(t), tuple(t.shape), tuple(t.stride())) for _, t in tensors]
    outlines = [(name, value, _outline(value)) for name, value in named]
    result = fn(*args, **kwargs)
    for name, value, outline in outlines:
        if _outline(value) != outline:
            fail(
                f"{name} was changed: it is {_words.kind(value)} now, with other items in it; "
                "arguments must come back as they were",
                id="argument.changed",
                args={"argument": name},
            )
    for (name, tensor), (values, version, shape, strides) in zip(tensors, before, strict=True):
        if tuple(tensor.shape) != shape or tuple(tensor.stride()) != strides:
            fail(
                f"{name} was given another shape in place: {_words.shape(tuple(tensor.shape))} "
                f"with strides {_words.shape(tuple(tensor.stride()))}; "
                f"it was {_words.shape(shape)} with strides {_words.shape(strides)}",
                id="argument.changed",
                args={"argument": name},
            )
        place = None if values is None else _first_difference(tensor, values)
        if place is not None and values is not None:
            now, then = _detach(tensor)[place].item(), values[place].item()
            said = _words.two_numbers(now, then)
            spot = f" at {_words.place(place)}" if place else ""
            fail(
                f"{name} was changed in place{spot}: it is {said[0]} now and was {said[1]}; "
                "arguments must come back as they were",
                id="argument.changed",
                args={"argument": name, "index": list(place)},
                expected=then,
                got=now,
            )
        if _version(tensor) != version:
            fail(
                f"{name} was written to in place, though its values came out the same; "
                "work on a copy",
                id="argument.written",
                args={"argument": name},
            )
    return result


def _pointer(tensor: Tensor) -> int:
    return _storage(tensor).data_ptr()


def _writes_through(tensor: Tensor, base: Tensor) -> bool:
    """Whether a write to every element of the tensor can be seen in `base`."""
    with _no_grad():
        inner, outer = _detach(tensor), _detach(base)
        if inner.device.type == "meta" or outer.device.type == "meta":
            return _pointer(inner) == _pointer(outer)
        first = (0,) * inner.ndim
        saved = _clone(outer)
        target = inner
        try:
            _write(target, _clone(inner))
        except RuntimeError:  # expanded: several elements in one place
            target = inner[first]
        kept = _clone(target)
        changed = _logical_not(kept).to(kept.dtype)
        _write(target, changed)
        seen = not _same(outer, saved)
        _write(target, kept)
    return seen


def _write(target: Tensor, values: Tensor) -> None:
    _copy(target, values)


def _same(first: Tensor, second: Tensor) -> bool:
    return bool(_all(_equal_or_nan(first, second)))


def _equal_or_nan(first: Tensor, second: Tensor) -> Tensor:
    return _logical_or(_eq(first, second), _logical_and(_isnan(first), _isnan(second)))


def _first_difference(tensor: Tensor, values: Tensor) -> tuple[int, ...] | None:
    with _no_grad():
        if tensor.dtype is not values.dtype:
            return None
        same = _equal_or_nan(_detach(tensor), values)
        if bool(_all(same)):
            return None
        return tuple(_nonzero(_logical_not(same))[0].tolist())


def _values(tensor: Tensor) -> Tensor | None:
    if tensor.device.type == "meta" or tensor.layout is not torch.strided:
        return None
    with _no_grad():
        return _clone(_detach(tensor))


def _version(tensor: Tensor) -> int:
    try:
        return int(tensor._version)
    except RuntimeError:  # inference tensors keep no count
        return 0


def _named_arguments(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[tuple[str, Any]]:
    try:
        names = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        names = []
    positional = [p.name for p in names if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    named = []
    for i, value in enumerate(args):
        named.append((positional[i] if i < len(positional) else f"argument {i}", value))
    return [*named, *kwargs.items()]


def _outline(value: Any) -> Any:
    """The containers of an argument with the identity of what they hold."""
    if isinstance(value, list | tuple):
        return (type(value), [_outline(item) for item in value])
    if isinstance(value, dict):
        return (dict, [(key, _outline(item)) for key, item in value.items()])
    if isinstance(value, set):
        return (set, set(value))
    if isinstance(value, bool | int | float | str):
        return (type(value), repr(value))
    return id(value)
