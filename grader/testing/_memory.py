"""How much memory a call holds: live storages at the peak, storages saved for backward."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from grader.testing import _words
from grader.testing._failure import fail
from grader.testing._operators import DispatchMode, name_of, storage_keys, tensors_of
from grader.testing._record import measured, picture
from grader.testing._trees import tensors_in

_Tensor = torch.Tensor
_storage, _detach = torch.Tensor.untyped_storage, torch.Tensor.detach
_hooks = torch.autograd.graph.saved_tensors_hooks


def peak_memory(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    """Bytes of the storages that live at once during the call, at the most.

    Arguments, parameters, what the function closes over and views of these are not counted.
    On CUDA it is what the allocator says.
    """
    return _peak(fn, args, kwargs)[0]


_MOST_POINTS = 120  # of the picture


def assert_peak_memory(most: float, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """At most that many bytes live at once, as `peak_memory` counts; returns the result."""
    __tracebackhide__ = True
    peak, result, largest, over_time = _peak(fn, args, kwargs)
    measured(_size(peak))
    _show(over_time, peak, most)
    if peak > most:
        details = []
        if largest is not None:
            name, shape, size = largest
            said = f"{_words.shape(shape)}, {_size(size)}, made by {name}"
            details.append(f"the largest tensor is of shape {said}")
        fail(
            f"the call holds {_size(peak)} at once; at most {_size(most)} are allowed, "
            "the arguments not counted",
            id="memory.peak",
            expected=int(most),
            got=peak,
            details=details,
        )
    return result


def _show(over_time: list[int], peak: int, most: float) -> None:
    """Attach the bytes that lived after each operator, with the limit."""
    if not over_time:
        return
    # Of each stretch its highest point: a peak must not fall through the grid.
    step = -(-len(over_time) // _MOST_POINTS)
    stretches = [over_time[i : i + step] for i in range(0, len(over_time), step)]
    unit, size = next(
        (pair for pair in (("MB", 1e6), ("kB", 1e3)) if max(peak, most) >= pair[1]), ("bytes", 1.0)
    )
    picture(
        "curve",
        "Memory over time",
        f"At the most {_size(peak)} live at once; {_size(most)} are allowed.",
        series=[
            {
                "label": "your call",
                "x": [float(i * step) for i in range(len(stretches))],
                "y": [max(stretch) / size for stretch in stretches],
            }
        ],
        x_label="operators so far",
        y_label=f"{unit} alive",
        log_y=False,
        limit=most / size,
    )


def saved_memory(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    """Bytes of the distinct storages that the call saves for backward, at the most at once.

    Arguments, parameters, what existed before the call and views of these are not counted.
    """
    return _saved(fn, args, kwargs)[0]


def assert_saved_memory(most: float, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """At most that many bytes are saved, as `saved_memory` counts; returns the result."""
    __tracebackhide__ = True
    saved, result, shapes = _saved(fn, args, kwargs)
    measured(_size(saved))
    if saved > most:
        said = [f"{_words.shape(shape)}, {_size(size)}" for shape, size in shapes[:4]]
        fail(
            f"{_size(saved)} are saved for backward; at most {_size(most)} are allowed, "
            "the arguments not counted",
            id="memory.saved",
            expected=int(most),
            got=saved,
            details=(f"the largest are of shape {_words.listed(said)}",) if said else (),
        )
    return result


class _Ledger:
    """Which storages were born during a call, and how many bytes of them live."""

    def __init__(self) -> None:
        self.live = 0
        self.peak = 0
        self._sizes: dict[int, int] = {}
        self._watches: dict[int, weakref.ref[Any]] = {}

    def holds(self, key: int) -> bool:
        return key in self._sizes

    def enter(self, storage: Any) -> bool:
        """Count the storage until it dies, or again if it has grown; whether it is new."""
        key, size = int(storage._cdata), int(storage.nbytes())
        known = self._sizes.get(key)
        if known is None:
            self._watches[key] = weakref.ref(storage, lambda _, key=key: self._leave(key))  # type: ignore[misc]
        self._sizes[key] = size
        self.live += size - (known or 0)
        self.peak = max(self.peak, self.live)
        return known is None

    def close(self) -> None:
        """Stop watching: what dies later is no longer of interest."""
        self._watches.clear()

    def _leave(self, key: int) -> None:
        self._watches.pop(key, None)
        self.live -= self._sizes.pop(key, 0)


class _Meter(DispatchMode):
    """Keeps the ledger of the storages that operators make."""

    def __init__(self, held: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ledger = _Ledger()
        self.largest: tuple[str, tuple[int, ...], int] | None = None
        self.over_time: list[int] = []  # bytes alive after each operator
        self._older = held  # storages that were there before the call
        self._kept: list[Any] = []  # so that no new storage gets the identity of an older one

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = name_of(func)
        if name != "lift_fresh":  # its input is as new as its output: torch.tensor(...)
            for tensor in (*tensors_of(args), *tensors_of(tuple(kwargs.values()))):
                for key in storage_keys(tensor):
                    if key not in self._older and not self.ledger.holds(key):
                        self._older.add(key)
                        self._kept.append(_storage(tensor))
        result = func(*args, **kwargs)
        for tensor in tensors_of(result):
            for key in storage_keys(tensor):
                if key in self._older:
                    continue
                storage = _storage(tensor)
                if self.ledger.enter(storage):
                    size = storage.nbytes()
                    if self.largest is None or size > self.largest[2]:
                        self.largest = (name, tuple(tensor.shape), size)
        self.over_time.append(self.ledger.live)
        return result


def _peak(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[int, Any, tuple[str, tuple[int, ...], int] | None, list[int]]:
    held = list(tensors_in((fn, args, kwargs)))
    if any(tensor.device.type == "cuda" for tensor in held):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = fn(*args, **kwargs)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before, result, None, []
    meter = _Meter({key for tensor in held for key in storage_keys(tensor)})
    with meter:
        result = fn(*args, **kwargs)
    meter.ledger.close()
    return meter.ledger.peak, result, meter.largest, meter.over_time


def _saved(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[int, Any, list[tuple[tuple[int, ...], int]]]:
    held = list(tensors_in((fn, args, kwargs)))
    meter = _Meter({key for tensor in held for key in storage_keys(tensor)})
    packed = _Ledger()
    shapes: dict[int, tuple[tuple[int, ...], int]] = {}

    def pack(tensor: Tensor) -> Tensor:
        for key in storage_keys(tensor):
            if meter.ledger.holds(key):
                storage = _storage(tensor)
                if packed.enter(storage):
                    shapes[len(shapes)] = (tuple(tensor.shape), int(storage.nbytes()))
        # A saved output that is packed as itself would hold its own graph: a cycle.
        return _detach(tensor) if tensor.grad_fn is not None else tensor

    with meter, _hooks(pack, lambda tensor: tensor):
        result = fn(*args, **kwargs)
    meter.ledger.close()
    packed.close()
    largest = sorted(shapes.values(), key=lambda pair: -pair[1])
    return packed.peak, result, largest


def _size(amount: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if amount >= 10 * size or (unit == "KiB" and amount >= size):
            return f"{amount / size:.4g} {unit}"
    return _words.count(int(amount), "byte")
