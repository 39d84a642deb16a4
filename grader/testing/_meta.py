"""Whether a function stays on the device of its inputs, shown without a second device."""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from grader.testing import _words
from grader.testing._failure import CheckFailed, fail
from grader.testing._operators import DispatchMode, name_of, tensors_of
from grader.testing._trees import mapped, named_tensors_in

_to, _deepcopy = torch.Tensor.to, copy.deepcopy
_Module = nn.Module

# How torch says that a tensor is on another device than its partner.
_STRAYS = (
    "same device",
    "two devices",
    "expected device meta",
    "but found at least",
    "device type of",
    "is on cpu",
    "on cpu device",
    "is not on the expected device",
    "not on the same",
    "got cpu",
    "mixing",
    "different device",
)
# How torch says that a meta tensor has no values to look at.
_NO_VALUES = ("meta", "Meta", "data-independent", "data dependent")
# What may well mix devices: an index or a source on the CPU.
_MIXING = frozenset({"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"})
_MIXING |= {"copy_", "_to_copy", "_copy_from", "set_"}


def assert_runs_on_meta(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The function makes no tensor on another device than that of its inputs.

    Tensors and modules (also `fn`, or what it is a method of) are moved to the meta device,
    which has shapes and no values; a tensor made without `device=` then meets one on another
    device, and torch refuses. A function that must look at values can't be run so and passes.
    """
    __tracebackhide__ = True
    moved = _moved(fn)
    given = [_on_meta(value) for value in args]
    named = {key: _on_meta(value) for key, value in kwargs.items()}
    try:
        with _Devices():  # type: ignore[no-untyped-call]
            result = moved(*given, **named)
    except CheckFailed:
        raise
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        text = str(error)
        if any(stray in text for stray in _STRAYS):
            _fail_stray(text.strip().splitlines()[0][:150])
        if any(said in text for said in _NO_VALUES):
            return None
        raise
    for name, tensor in named_tensors_in(result, "the result"):
        if tensor.device.type != "meta":
            fail(
                f"{name} is on {tensor.device} though the inputs are on another device; "
                "results live on the device of the inputs",
                id="device.result",
                expected="meta",
                got=str(tensor.device),
            )
    return result


class _Devices(DispatchMode):  # type: ignore[no-untyped-call]
    """Refuses what a second device would refuse; some meta kernels don't look."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        __tracebackhide__ = True
        kwargs = kwargs or {}
        name = name_of(func)
        inputs = list(tensors_of((*args, *kwargs.values())))
        if name not in _MIXING and any(tensor.is_meta for tensor in inputs):
            for tensor in inputs:
                # A single number may come from the CPU.
                if not tensor.is_meta and tensor.ndim:
                    shape = _words.shape(tuple(tensor.shape))
                    _fail_stray(f"{name} is given a tensor of shape {shape} on {tensor.device}")
        return func(*args, **kwargs)


def _fail_stray(detail: str) -> NoReturn:
    __tracebackhide__ = True
    fail(
        "you created a tensor without device=: it is on the CPU though the inputs are not "
        "(x.new_zeros, torch.zeros_like(x) and device=x.device follow the input)",
        id="device.stray",
        details=(detail,),
    )


def _on_meta(value: Any) -> Any:
    if isinstance(value, _Module):
        return _deepcopy(value).to("meta")
    return mapped(value, _moved_tensor)


def _moved_tensor(tensor: Tensor) -> Tensor:
    moved = _to(tensor.detach(), "meta")
    return moved.requires_grad_(tensor.requires_grad)


def _moved(fn: Any) -> Any:
    if isinstance(fn, _Module):
        return _on_meta(fn)
    if isinstance(fn, types.MethodType) and isinstance(fn.__self__, _Module):
        return types.MethodType(fn.__func__, _on_meta(fn.__self__))
    if isinstance(fn, functools.partial):
        keywords = {key: _on_meta(value) for key, value in fn.keywords.items()}
        return functools.partial(_moved(fn.func), *map(_on_meta, fn.args), **keywords)
    return fn
