"""What was called, in which order, and in which mode."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

_is_grad_enabled, _is_inference = torch.is_grad_enabled, torch.is_inference_mode_enabled
_is_autocast = torch.is_autocast_enabled
_absent = object()


@dataclass(frozen=True, slots=True)
class Event:
    """One call of a function that was watched."""

    name: str  # "step"
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    grad_enabled: bool
    inference: bool  # within torch.inference_mode
    training: bool | None  # the module's flag; None where there is none
    autocast: bool


@dataclass(slots=True)
class Log:
    """The calls in order."""

    events: list[Event] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """The names of the calls in order."""
        return [event.name for event in self.events]

    def count(self, name: str) -> int:
        """How often it was called."""
        return self.names.count(name)

    def of(self, name: str) -> list[Event]:
        """Its calls."""
        return [event for event in self.events if event.name == name]

    def note(self, name: str) -> None:
        """Add an event of the suite's own, such as a batch that was handed out."""
        self.events.append(_event(name, None, (), {}))

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)

    def __str__(self) -> str:
        shown = self.names[:12] + (["…"] if len(self.events) > 12 else [])
        return ", ".join(shown) or "nothing"


@contextmanager
def spy(obj: Any, *names: str, log: Log | None = None) -> Iterator[Log]:
    """Record the calls of these methods while the context is open; they still do their work.

    Args:
        obj: an instance (a module, an optimizer), a class or a Python module.
        names: its methods or functions; for a class, calls on every instance are seen.
        log: a log to write into, so that the calls on several objects come in one order.
    """
    record = Log() if log is None else log
    saved = [(name, vars(obj).get(name, _absent)) for name in names]
    for name in names:
        setattr(obj, name, _watched(obj, name, record))
    try:
        yield record
    finally:
        for name, original in reversed(saved):
            if original is _absent:
                delattr(obj, name)
            else:
                setattr(obj, name, original)


def _watched(obj: Any, name: str, log: Log) -> Any:
    original: Callable[..., Any] = getattr(obj, name)
    if isinstance(obj, type | types.ModuleType):
        is_method = isinstance(obj, type) and not isinstance(
            vars(obj).get(name), staticmethod | classmethod
        )

        @functools.wraps(original)
        def function(*args: Any, **kwargs: Any) -> Any:
            owner = args[0] if is_method and args else None
            log.events.append(_event(name, owner, args[1:] if is_method else args, kwargs))
            return original(*args, **kwargs)

        return function if is_method or not isinstance(obj, type) else staticmethod(function)

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        log.events.append(_event(name, self, args, kwargs))
        return original(*args, **kwargs)

    # A bound method as the original is: learning-rate schedulers ask `step` for its function.
    return types.MethodType(method, obj)


def _event(name: str, owner: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Event:
    training = getattr(owner, "training", None)
    return Event(
        name=name,
        args=args,
        kwargs=kwargs,
        grad_enabled=_is_grad_enabled(),
        inference=_is_inference(),
        training=training if isinstance(training, bool) else None,
        autocast=_is_autocast(),
    )
