"""Words and figures of a page: what a check or a learner wrote, made safe and short to read."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from grader.terminal import COLOUR

PAGE_CHARACTERS = 20_000
"""How much of one text, such as the output of a check, a page shows."""

# What a reader cannot see but a browser, an editor or a terminal obeys: controls other than tab and
# newline, marks that turn the direction of reading, invisible spaces, halves of surrogate pairs.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff]"
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def clean(value: str) -> str:
    """``value`` with every unseen character written out, such as ``\\u202e`` or ``\\x00``.

    Escapes that only colour a terminal are left out, and of a line that was overwritten after a
    carriage return, as progress bars do, the last state is kept.
    """
    if not _UNSEEN.search(value):
        return value
    value = COLOUR.sub("", value).replace("\r\n", "\n")
    if "\r" in value:
        value = "\n".join(_last_state(line) for line in value.split("\n"))
    return _UNSEEN.sub(_written_out, value)


def _last_state(line: str) -> str:
    return next((state for state in reversed(line.split("\r")) if state), "")


def _written_out(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def cut(value: str, limit: int = PAGE_CHARACTERS) -> str:
    """``value`` in about ``limit`` characters: its beginning, its end, how much is missing."""
    if len(value) <= limit:
        return value
    tail = limit // 4
    missing = len(value) - limit
    return f"{value[: limit - tail]}\n… {missing:,} characters left out …\n{value[-tail:]}"


def shorten(value: str, limit: int) -> str:
    """``value`` on one line of at most ``limit`` characters, with an ellipsis in its middle."""
    line = " ".join(value[: 4 * limit + 80].split())
    if len(line) <= limit:
        return line
    head = (limit - 1) // 2
    return f"{line[:head]}…{line[len(line) - (limit - 1 - head) :]}"


def shorten_line(value: str, limit: int = 400) -> str:
    """One line of code, cut at its end; its indent stays."""
    return value if len(value) <= limit else f"{value[:limit]}…"


def figure(value: float) -> str:
    """A number for a reader: at most four digits that count, no needless zeros."""
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}" if abs(value) >= 10_000 else str(int(value))
    if 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def seconds(value: float) -> str:
    """A duration: ``9 ms``, ``2.4 s``, ``1 min 5 s``, ``31 h 20 min``."""
    if not math.isfinite(value) or value < 0:
        return "–"
    if value < 0.0995:
        return f"{max(round(value * 1000), 1 if value else 0)} ms"
    if value < 59.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    hours, minutes = divmod(round(value / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def minutes(value: float) -> str:
    """A time spent, to the minute."""
    return seconds(60 * round(value / 60)) if value >= 60 else "0 min"


def day(when: datetime) -> str:
    """``21 Nov``; months are spelled here, since strftime would follow the machine's locale."""
    return f"{when.day} {_MONTHS[when.month - 1]}"


def date(when: datetime) -> str:
    """``21 Nov 2026``."""
    return f"{day(when)} {when.year}"


def clock(when: datetime) -> str:
    """``20:11``."""
    return f"{when.hour:02}:{when.minute:02}"


def month(number: int) -> str:
    """``Nov`` for 11."""
    return _MONTHS[number - 1]


def count(number: int, noun: str, plural: str = "") -> str:
    """``1 check``, ``2 checks``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listed(words: Sequence[str], limit: int = 4) -> str:
    """``1.1``, ``1.1 and 2.2``, ``1.1, 1.2, 2.1 and 5 more``."""
    if len(words) > limit:
        return f"{', '.join(words[: limit - 1])} and {len(words) - limit + 1} more"
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def value(raw: Any) -> str:
    """What a check expected or got, as text: shapes as tuples, tables row by row."""
    if isinstance(raw, str):
        return cut(raw, 2000)
    if isinstance(raw, dict) and isinstance(raw.get("shape"), list | tuple):
        return _shape(raw)
    if isinstance(raw, float):
        return figure(raw)
    if isinstance(raw, list | tuple):
        return cut(_rows(raw), 2000)
    if isinstance(raw, dict):
        lines = (f"{key}: {value(item)}" for key, item in list(raw.items())[:40])
        return cut("\n".join(lines), 2000)
    return cut(repr(raw), 2000)  # as Python writes it: True, None


def _shape(raw: dict[str, Any]) -> str:
    sizes = "".join(f"{size}, " for size in raw["shape"])
    text = f"({sizes.rstrip() if len(raw['shape']) == 1 else sizes[:-2]})"
    names = raw.get("axes")
    if isinstance(names, list | tuple) and names:
        text += f"  {' '.join(str(name) for name in names)}"
    rest = [f"{key} {item}" for key, item in raw.items() if key not in ("shape", "axes")]
    return cut("  ".join([text, *rest]), 2000)


def _rows(raw: Sequence[Any]) -> str:
    if raw and all(isinstance(item, list | tuple) for item in raw):
        rows = [_rows(item).replace("\n", "\n ") for item in raw[:24]]
        if len(raw) > 24:
            rows.append("…")
        return "[" + ",\n ".join(rows) + "]"
    items = [value(item) if not isinstance(item, str) else repr(item) for item in raw[:200]]
    if len(raw) > 200:
        items.append("…")
    return "[" + ", ".join(items) + "]"
