"""What a running check attaches to its outcome besides pass or fail: pictures and a figure.

A record is what one case of one check attaches. The plugin begins a new one before each case;
under plain pytest the first one serves them all and nobody reads it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Record:
    """What one case of a check has attached so far."""

    pictures: list[dict[str, Any]] = field(default_factory=list)  # kind, title, caption, data
    measured: str = ""  # a figure worth showing on the check's line: "1.4x"
    minimal: str | None = None  # smallest failing input, where the learner's code itself raised
    unsure: str = ""  # why a speed check could not be decided: it counts as passed


_current: ContextVar[Record] = ContextVar("grader.testing record")


def begin() -> Record:
    """Start a new record and make it the current one."""
    record = Record()
    _current.set(record)
    return record


def current() -> Record:
    """The record of the running check."""
    try:
        return _current.get()
    except LookupError:
        return begin()


def picture(kind: str, title: str, caption: str, **data: Any) -> None:
    """Attach a picture to the running check, whether it passes or fails.

    Args:
        kind: one of the kinds in docs/authoring.md, "Pictures".
        title: what is drawn, in a few words.
        caption: a sentence that states the same fact without the picture.
        data: arrays, numbers and text; tensors become nested lists, and numbers that are not
            finite become the text `"nan"`, `"inf"` or `"-inf"`.
    """
    current().pictures.append(drawn(kind, title, caption, **data))


def measured(text: str) -> None:
    """Show a figure on the check's line, such as `1.4x`; the last one stays."""
    current().measured = str(text)


def drawn(kind: str, title: str, caption: str, **data: Any) -> dict[str, Any]:
    """A picture as a value, to hand to `fail(..., pictures=[...])`."""
    return {"kind": kind, "title": title, "caption": caption, "data": plain(data)}


def plain(value: Any) -> Any:
    """The value in JSON's types; what JSON has no word for becomes text."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset | range):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)
