"""Which tensors a value holds: arguments nest in lists, dicts, modules, closures."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

_Tensor, _Module, _Optimizer = torch.Tensor, nn.Module, torch.optim.Optimizer
_parameters, _buffers = nn.Module.parameters, nn.Module.buffers


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor that the value holds, in containers, modules, partials and closures."""
    return _tensors(value, set())


def named_tensors_in(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested lists, tuples and dicts, with the path to it; no modules."""
    if isinstance(value, _Tensor):
        yield name, value
    elif isinstance(value, tuple | list):
        for i, item in enumerate(value):
            yield from named_tensors_in(item, f"{name}[{i}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from named_tensors_in(item, f"{name}[{key!r}]")


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The value with every tensor in nested lists, tuples and dicts changed."""
    if isinstance(value, _Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(item, change) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(mapped(item, change) for item in value)
    if isinstance(value, dict):
        return {key: mapped(item, change) for key, item in value.items()}
    return value


def _tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, _Tensor):
        yield value
        if value.grad_fn is None and value.grad is not None:
            yield value.grad
    elif isinstance(value, _Module):
        yield from chain(_parameters(value), _buffers(value))
    elif isinstance(value, _Optimizer):
        yield from _tensors(value.param_groups, seen)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item, seen)
    elif isinstance(value, tuple | list | set):
        for item in value:
            yield from _tensors(item, seen)
    elif isinstance(value, functools.partial):
        yield from _tensors((value.func, value.args, value.keywords), seen)
    elif isinstance(value, types.MethodType):
        yield from _tensors(value.__self__, seen)
    elif isinstance(value, types.FunctionType):
        for cell in value.__closure__ or ():
            try:
                held = cell.cell_contents
            except ValueError:  # a name that has no value yet
                continue
            yield from _tensors(held, seen)
