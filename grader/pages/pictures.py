"""The pictures of a check: from the arrays it hands over to figures the templates can draw.

A check runs beside the learner's code, so nothing here trusts its data: what is not a number is
drawn as hatched, what is too large is cut, and what makes no picture becomes a sentence.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grader.model import Picture
from grader.pages import charts, text
from grader.pages.charts import Dot, Drawing, Label, Path, Rect, Scale, Shape

MOST_CELLS = 24
"""Rows and columns of a map that are drawn."""

_WIDE = 10.3
"""The width of a letter of a label on a phone, where the style sheet writes them larger."""

_NARROW = 9.7
"""The same for the letters beside a map, which are smaller."""

_MOST = {
    "maps": 8,
    "series": 6,
    "levels": 6,
    "groups": 8,
    "bars": 24,
    "points": 600,
    "axes": 10,
    "nodes": 40,
}


@dataclass(frozen=True, slots=True)
class Table:
    """The numbers of a figure, for who would rather read than look."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines of text side by side with others; marked ones stand out."""

    label: str
    lines: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True)
class Key:
    """What the steps of colour of a map mean: the numbers at both ends."""

    low: str
    high: str
    looks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture laid out: drawings or panels, a caption, the numbers; or why there is none."""

    title: str
    caption: str
    kind: str
    drawings: tuple[Drawing, ...] = ()
    panels: tuple[Panel, ...] = ()
    tables: tuple[Table, ...] = ()
    keys: tuple[Key, ...] = ()
    is_wide: bool = False  # its maps stand below each other, each as wide as the page
    absent: str = ""


class Undrawable(Exception):
    """The data of a picture doesn't have the parts that its kind needs."""


def figure(picture: Picture) -> Figure:
    """Lay out ``picture``; data that makes no picture gives a sentence instead."""
    title = text.shorten(str(picture.title), 120)
    caption = text.cut(str(picture.caption), 600)
    blank = Figure(title, caption, str(picture.kind))
    draw = _KINDS.get(str(picture.kind))
    if draw is None:
        kind = text.shorten(str(picture.kind), 40)
        return replace(blank, kind="absent", absent=f"No picture of kind “{kind}” is known.")
    try:
        return draw(blank, _Data(picture.data))
    except Undrawable as reason:
        return replace(blank, kind="absent", absent=f"This picture could not be drawn: {reason}.")


class _Data:
    """Reads the parts of a picture's data in the types that the layout needs."""

    def __init__(self, raw: object) -> None:
        self._raw = raw if isinstance(raw, dict) else {}

    def items(self, key: str, most: int, required: bool = True) -> list[Any]:
        found = self._raw.get(key)
        if isinstance(found, tuple):
            found = list(found)
        if not isinstance(found, list) or (required and not found):
            if required:
                raise Undrawable(f"its {key} are missing")
            return []
        return found[:most]

    def parts(self, key: str, most: int) -> list[_Data]:
        found = [_Data(item) for item in self.items(key, most) if isinstance(item, dict)]
        if not found:
            raise Undrawable(f"its {key} are missing")
        return found

    def part(self, key: str) -> _Data:
        return _Data(self._raw.get(key))

    def numbers(self, key: str, most: int) -> list[float]:
        return [_number(item) for item in self.items(key, most, required=False)]

    def number(self, key: str) -> float | None:
        found = _number(self._raw.get(key))
        return found if math.isfinite(found) else None

    def text(self, key: str, most: int = 60) -> str:
        found = self._raw.get(key)
        return "" if found is None else text.shorten(str(found)[:2000], most)

    def texts(self, key: str, most: int, length: int = 60) -> list[str]:
        found = self.items(key, most, required=False)
        return [text.shorten(_words(item), length) for item in found]

    def flag(self, key: str) -> bool:
        return self._raw.get(key) is True

    def pairs(self, key: str, most: int) -> list[tuple[int, int]]:
        found = []
        for item in self.items(key, most, required=False):
            if isinstance(item, list | tuple) and len(item) == 2:
                first, second = item
                if isinstance(first, int) and isinstance(second, int):
                    found.append((first, second))
        return found


def _words(item: object) -> str:
    return item[:2000] if isinstance(item, str) else str(item)[:2000] if _is_plain(item) else "…"


def _is_plain(item: object) -> bool:
    return isinstance(item, bool | float) or (isinstance(item, int) and abs(item) < 10**18)


def _number(item: object) -> float:
    """``item`` as a float; nan where it is no number, inf where it is too large to draw."""
    if type(item) is float:
        value = item
    elif isinstance(item, bool | int):
        value = float(item) if abs(item) < 10**160 else math.copysign(math.inf, item > 0 or -1)
    elif isinstance(item, str):
        # A report writes what JSON has no word for as text.
        words = {"inf": math.inf, "+inf": math.inf, "-inf": -math.inf}
        value = words.get(item.strip().lower(), math.nan)
    else:
        return math.nan
    return math.copysign(math.inf, value) if abs(value) > charts.LARGEST else value


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _thin(values: Sequence[Any], most: int) -> list[Any]:
    """At most ``most`` of ``values``, evenly spaced, the last one included."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


# axes: expected above got, lines between the same axis


def _axes(blank: Figure, data: _Data) -> Figure:
    most = _MOST["axes"]
    names = data.part("expected").texts("names", most, 24)
    want = data.part("expected").texts("sizes", most, 14)
    have = data.part("got").texts("sizes", most, 14)
    if not want and not have:
        raise Undrawable("it has no sizes")
    moves = dict(_moves(data, want, have))
    n = max(len(want), len(have), 1)
    gap = 14 if n <= 5 else 8
    side = min(112.0, (474 - gap * (n - 1)) / n)
    left = [102 + k * (side + gap) for k in range(n)]
    size_look = "size" if n <= 5 else "size narrow"
    shapes: list[Shape] = []
    for i, j in sorted(moves.items(), key=lambda move: move[0] != move[1]):
        a, b = left[i] + side / 2, left[j] + side / 2
        look = "wire" if i == j and want[i] == have[j] else "wire no"
        bend = f"C{charts.number(a)} 122 {charts.number(b)} 116 {charts.number(b)} 152"
        shapes.append(Path(f"M{charts.number(a)} 86{bend}", look))
    shapes.append(Label(0, 63, "expected", "side"))
    shapes.append(Label(0, 187, "got", "side"))
    for i, size in enumerate(want):
        name = names[i] if i < len(names) else ""
        title = text.shorten(f"{i} {name}".strip(), max(3, int((side + gap) / _WIDE)))
        shapes.append(Label(left[i] + side / 2, 16, title, "axis", "middle"))
        look = "box lost" if i not in moves else "box"
        shapes.append(Rect(left[i], 28, side, 58, look, 9))
        shapes.append(Label(left[i] + side / 2, 66, size, size_look, "middle"))
    came_from = {j: i for i, j in moves.items()}
    for j, size in enumerate(have):
        origin = came_from.get(j)
        is_wrong = origin is None or origin != j or want[origin] != size
        shapes.append(Rect(left[j], 152, side, 58, "box no" if is_wrong else "box", 9))
        look = f"{size_look} no" if is_wrong else size_look
        shapes.append(Label(left[j] + side / 2, 190, size, look, "middle"))
    for y, sizes in ((66, want), (190, have)):
        if not sizes:
            shapes.append(Label(102, y - 3, "no axes: a single number", "side faint"))
    named = [f"{names[i]} {s}" if i < len(names) else s for i, s in enumerate(want)]
    sentence = f"Expected {', '.join(named) or 'a single number'}. "
    sentence += f"Got {', '.join(have) or 'a single number'}."
    drawing = Drawing(580, 218, tuple(shapes), blank.title, sentence)
    return replace(blank, drawings=(drawing,))


def _moves(data: _Data, want: Sequence[str], have: Sequence[str]) -> Iterable[tuple[int, int]]:
    """Which expected axis is which axis of the result: as told, else where size and place agree."""
    told = [(i, j) for i, j in data.pairs("moves", 64) if 0 <= i < len(want) and 0 <= j < len(have)]
    yield from told
    taken, given = {i for i, _ in told}, {j for _, j in told}
    for k in range(min(len(want), len(have))):
        if k not in taken and k not in given and want[k] == have[k]:
            yield k, k


# heatmap: maps side by side, five steps of colour, the wrong cells framed


def _heatmap(blank: Figure, data: _Data) -> Figure:
    maps = data.parts("maps", _MOST["maps"])
    tables = [_matrix(part) for part in maps]
    peaks = {
        is_diverging: max(
            (abs(v) for part, rows in zip(maps, tables, strict=True) for row in rows
             for v in _finite(row) if _is_diverging(part) == is_diverging),
            default=0.0,
        )
        for is_diverging in (False, True)
    }  # fmt: skip
    cap, is_over = data.number("peak"), False
    if cap is not None and cap > 0:
        peaks[False], is_over = cap, peaks[False] > cap
    origin = [int(v) for v in _finite(data.numbers("origin", 2))]
    top, left = (origin[0], origin[1]) if len(origin) == 2 else (0, 0)
    columns = max(len(row) for rows in tables for row in rows)
    names = _Names(
        _labels(data, "row_labels", max(len(rows) for rows in tables), top),
        _labels(data, "column_labels", columns, left),
    )
    is_named = bool(data.items("column_labels", 1, required=False))
    # A line of text is read from left to right: it gets the width of the page.
    is_wide = is_named and columns > 2 * max(len(rows) for rows in tables)
    letter = _WIDE if is_wide else _NARROW
    gutter = max(26.0, 8 + letter * max(len(name) for name in names.rows))
    room = 556 - gutter if is_wide else 216
    pitch = min(36.0, max(9.0, room / columns))
    if is_named:
        pitch = max(pitch, letter)  # or the letters over the columns would touch
    drawings, numbers, keys = [], [], []
    for i, (part, rows) in enumerate(zip(maps, tables, strict=True)):
        label = part.text("label") or (f"map {i + 1}" if len(maps) > 1 else "")
        is_diverging = _is_diverging(part)
        look = _Look(is_diverging, peaks[is_diverging], is_over, pitch, gutter, names)
        marked = set(part.pairs("marked", MOST_CELLS**2))
        drawings.append(_map(rows, marked, look, label, blank.title))
        head = ("", *names.columns[: max(len(row) for row in rows)])
        body = tuple((names.rows[r], *map(text.figure, row)) for r, row in enumerate(rows))
        numbers.append(Table(label, head, body))
        if look.key not in keys:
            keys.append(look.key)
    caption = blank.caption
    row_axis, column_axis = data.text("row_axis", 30), data.text("column_axis", 30)
    if row_axis and column_axis:
        said = f"{caption.rstrip('.')}. " if caption else ""
        caption = f"{said}Rows: {row_axis}. Columns: {column_axis}."
    if top or left:
        caption += f" The window begins at row {top}, column {left}."
    return replace(
        blank,
        caption=caption,
        drawings=tuple(drawings),
        tables=tuple(numbers),
        keys=tuple(keys),
        is_wide=is_wide,
    )


@dataclass(frozen=True, slots=True)
class _Names:
    """What stands beside the rows and over the columns of a map: names, or else their numbers."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]


def _labels(data: _Data, key: str, count: int, start: int) -> tuple[str, ...]:
    told = data.texts(key, MOST_CELLS, 12)[:count]
    return (*told, *(str(start + i) for i in range(len(told), count)))


def _is_diverging(part: _Data) -> bool:
    return part.text("scale") == "diverging"


def _matrix(part: _Data) -> list[list[float]]:
    """The values of one map: a vector is one row, and short rows are filled with nan."""
    raw = part.items("values", MOST_CELLS)
    if not any(isinstance(row, list | tuple) for row in raw):
        raw = [raw]
    rows = [list(row)[:MOST_CELLS] if isinstance(row, list | tuple) else [row] for row in raw]
    width = max(len(row) for row in rows)
    if not width:
        raise Undrawable("a map has no cells")
    return [[_number(v) for v in row] + [math.nan] * (width - len(row)) for row in rows]


@dataclass(frozen=True, slots=True)
class _Look:
    """How the cells of one map are drawn."""

    is_diverging: bool
    peak: float
    is_over: bool  # some values lie above the peak that was asked for
    pitch: float
    gutter: float
    names: _Names

    def step(self, value: float) -> str:
        """The class of a cell: h0 to h4 up to the largest value, p1 to p4 above zero."""
        share = abs(value) / self.peak if self.peak else 0.0
        level = 0 if share < 1e-9 else min(4, 1 + int(share * 4 - 1e-9))
        return f"{'p' if self.is_diverging and value > 0 else 'h'}{level}" if level else "h0"

    @property
    def key(self) -> Key:
        high = text.figure(self.peak)
        if self.is_diverging:
            return Key(f"-{high}", high, ("h4", "h2", "h0", "p2", "p4"))
        high += " and more" if self.is_over else ""
        return Key("0", high, ("h0", "h1", "h2", "h3", "h4"))


def _map(
    rows: list[list[float]], marked: set[tuple[int, int]], look: _Look, label: str, title: str
) -> Drawing:
    pitch, edge, head = look.pitch, look.gutter, 22.0
    height, width = len(rows), len(rows[0])
    places: dict[str, list[tuple[float, float]]] = {}
    figures: list[Shape] = []
    unknown = 0
    shows_figures = pitch >= 27
    for r, row in enumerate(rows):
        for c, value in enumerate(row):
            x, y = edge + c * pitch, head + r * pitch
            is_known = math.isfinite(value)
            unknown += not is_known
            step = look.step(value) if is_known else "absent"
            places.setdefault(step, []).append((x + 3, y + 3))
            wanted = look.is_diverging and step != "h0"
            if shows_figures and (wanted or not is_known):
                shown = _short(value)
                figures.append(
                    Label(x + pitch / 2 - 1, y + pitch / 2 + 3, shown, f"on-{step}", "middle")
                )
    shapes: list[Shape] = []
    rows_named, columns_named = look.names.rows[:height], look.names.columns[:width]
    cells, across = max(width, height), edge + width * pitch
    stride = _stride(columns_named, cells, pitch)
    if columns_named[-1].isdigit():
        # On a phone the whole map is about 170 wide, and a digit of a tick some 10.
        digits = 10 * len(columns_named[-1]) + 6
        stride = max(stride, math.ceil(digits * across / 170 / pitch))
    for c in range(0, width, stride):
        x, anchor = edge + c * pitch + pitch / 2 - 1, "middle"
        if c == width - 1 and stride > 1:
            x, anchor = across, "end"
        shapes.append(Label(x, 16, columns_named[c], "tick", anchor))
    for r in range(0, height, _stride(rows_named, cells, pitch, is_row=True)):
        y = head + r * pitch + pitch / 2 + 4
        shapes.append(Label(edge - 6, y, rows_named[r], "tick", "end"))
    side = pitch - 8
    for step in sorted(places):
        if step == "absent":
            for x, y in places[step]:
                shapes.append(Rect(x - 2, y - 2, side + 4, side + 4, "absent", 4))
        else:
            shapes.append(Path(charts.cells(places[step], side), f"cell {step}"))
    for r, c in sorted(marked):
        if 0 <= r < height and 0 <= c < width:
            x, y = edge + c * pitch, head + r * pitch
            shapes.append(Rect(x, y, pitch - 2, pitch - 2, "mark", 4))
    shapes += figures
    known = _finite(v for row in rows for v in row)
    sentence = f"{label}: {height} by {width} values".removeprefix(": ")
    if known:
        sentence += f" from {text.figure(min(known))} to {text.figure(max(known))}"
    if unknown:
        sentence += f"; {unknown} of them {'is' if unknown == 1 else 'are'} no number"
    inside = sorted((r, c) for r, c in marked if 0 <= r < height and 0 <= c < width)
    if inside:
        framed = [f"row {rows_named[r]} column {columns_named[c]}" for r, c in inside]
        sentence += f"; framed: {text.listed(framed, 6)}"
    drawn = Drawing(
        edge + width * pitch, head + 4 + height * pitch, tuple(shapes), title, f"{sentence}.", label
    )
    return drawn


def _stride(names: Sequence[str], cells: int, pitch: float, is_row: bool = False) -> int:
    """Of how many names in a row or column one is written, for none to touch the next."""
    if all(name.isdigit() for name in names) and not (is_row and pitch >= 16):
        return math.ceil(cells / 12)
    across = 1 if is_row else max(len(name) for name in names)
    return math.ceil(_NARROW * across / pitch)


def _short(value: float) -> str:
    """A value in a cell: two decimals without the leading zero, as in ``.24``."""
    if not math.isfinite(value):
        return text.figure(value)
    if 0.005 <= abs(value) < 1:
        return f"{value:.2f}".replace("0.", ".", 1)
    return f"{value:.1f}".removesuffix(".0") if 1 <= abs(value) < 100 else f"{value:.0e}"


# bars: a value per label, such as the norm of each parameter's gradient


def _bars(blank: Figure, data: _Data) -> Figure:
    labels = data.texts("labels", _MOST["bars"], 40)
    series = data.parts("series", _MOST["series"])
    rows = [part.numbers("values", _MOST["bars"]) for part in series]
    names = [part.text("label") or f"series {i + 1}" for i, part in enumerate(series)]
    n = max(len(labels), *(len(row) for row in rows))
    if not n:
        raise Undrawable("it has no values")
    labels += [str(i) for i in range(len(labels), n)]
    rows = [row + [math.nan] * (n - len(row)) for row in rows]
    unit, limit, is_log = data.text("unit", 12), data.number("limit"), data.flag("log")
    known = _finite(v for row in rows for v in row) + ([limit] if limit is not None else [])
    labels = [text.shorten(label, 22) for label in labels]
    gutter = 14 + _WIDE * max(len(label) for label in labels)
    longest = max(len(_bar_words(v, unit)) for row in rows for v in row)
    scale = _bar_scale(known, is_log, gutter, max(540.0 - 10 - _WIDE * longest, gutter + 120))
    # As thick as the words beside them on a phone, or those of two series overlap.
    thick, gap = (16.0, 11.0) if len(rows) == 1 else (17.0, 14.0)
    shapes: list[Shape] = []
    words: list[Shape] = []
    y = 24.0 if limit is not None else 8.0
    zero = scale.at(0) if not is_log else gutter
    for k, label in enumerate(labels):
        middle = y + (thick + 2) * len(rows) / 2
        shapes.append(Label(0, middle + 3, label, "axis"))
        for s, row in enumerate(rows):
            bar, beside = _bar(row[k], scale, zero, y, thick, f"bar s{s}", unit)
            shapes.append(bar)
            words.append(beside)
            y += thick + 2
        y += gap - 2
    if limit is not None and not (is_log and limit <= 0):
        x = scale.at(limit)
        shapes.append(Path(charts.plumb(x, 18, y - gap + 4), "limit"))
        near = "end" if x > 380 else "start"
        shapes.append(Label(x, 12, f"limit {_bar_words(limit, unit)}", "limit-word", near))
    shapes += words
    shapes, y = _legend(shapes, names, "bar", gutter, y) if len(rows) > 1 else (shapes, y)
    table = Table(
        blank.title,
        ("", *(f"{name}, {unit}" if unit else name for name in names)),
        tuple((label, *(text.figure(row[k]) for row in rows)) for k, label in enumerate(labels)),
    )
    sentence = _extent(names, rows, unit) + (" The scale is logarithmic." if is_log else "")
    drawing = Drawing(540, y, tuple(shapes), blank.title, sentence)
    return replace(blank, drawings=(drawing,), tables=(table,))


def _bar_scale(known: list[float], is_log: bool, start: float, end: float) -> Scale:
    if is_log:
        above = [v for v in known if v > 0]
        low, high = (min(above), max(above)) if above else (0.1, 1.0)
        # A decade below the smallest, or its bar would have no length.
        return Scale(max(low / 10, 1e-300), high if high > low / 10 else low * 10, start, end, True)
    return Scale(min([0.0, *known]), max([0.0, *known]) or 1.0, start, end)


def _bar_words(value: float, unit: str) -> str:
    return f"{text.figure(value)} {unit}".strip()


def _bar(
    value: float, scale: Scale, zero: float, y: float, thick: float, look: str, unit: str
) -> tuple[Shape, Shape]:
    """A bar, and the words beside it, which stand before whatever line crosses them."""
    drawable = math.isfinite(value) and not (scale.log and value <= 0)
    base = y + thick / 2 + 4
    if not drawable:
        shown = text.figure(value)
        return Rect(zero, y, 26, thick, "absent", 3), Label(zero + 34, base, shown, "v no")
    a, b = sorted((zero, scale.at(value)))
    return (
        Rect(a, y, max(b - a, 1.5), thick, look, 4 if b - a > 8 else 0),
        Label(b + 8, base, _bar_words(value, unit), "v halo"),
    )


def _legend(
    shapes: list[Shape], names: Sequence[str], look: str, x: float, y: float
) -> tuple[list[Shape], float]:
    """``shapes`` with a line of swatches and names below ``y``; and where that ends."""
    y, start = y + 14, x
    for s, name in enumerate(names):
        shown = text.shorten(name, 24)
        width = 34 + _WIDE * len(shown)
        if x + width > 540 and s:
            x, y = start, y + 20
        shapes.append(Rect(x, y - 9, 12, 10, f"{look} s{s}", 3))
        shapes.append(Label(x + 18, y, shown, "v"))
        x += width
    return shapes, y + 8


def _extent(names: Sequence[str], rows: Sequence[Sequence[float]], unit: str) -> str:
    parts = []
    for name, row in zip(names, rows, strict=True):
        known = _finite(row)
        missing = len(row) - len(known)
        if known:
            low, high = text.figure(min(known)), text.figure(max(known))
            between = low if low == high else f"from {low} to {high}"
            part = f"{name}: {between} {unit}".rstrip()
        else:
            part = f"{name}: no numbers"
        parts.append(part + (f", {missing} no number" if missing and known else ""))
    return "; ".join(parts) + "."


# dots: every timed pair, the limit as a zone


def _dots(blank: Figure, data: _Data) -> Figure:
    groups = data.parts("groups", _MOST["groups"])
    rows = [_thin(part.numbers("values", 100_000), 400) for part in groups]
    names = [part.text("label", 18) or f"group {i + 1}" for i, part in enumerate(groups)]
    unit, limit = data.text("unit", 12), data.number("limit")
    known = _finite(v for row in rows for v in row)
    if not known:
        raise Undrawable("none of its values is a number")
    bounds = [*known, limit] if limit is not None else known
    ticks = charts.nice_ticks(min(0.0, *bounds), max(0.0, *bounds) * 1.02, 4)
    gutter = 18 + _WIDE * max(len(name) for name in names)
    scale = Scale(ticks[0], ticks[-1], gutter, 540)
    foot = 14 + 44.0 * len(rows)
    shapes: list[Shape] = []
    if limit is not None:
        x = scale.at(limit)
        shapes.append(Rect(x, 8, 540 - x, foot - 8, "zone"))
        shapes.append(Path(charts.plumb(x, 8, foot), "limit"))
        words = f"limit {text.figure(limit)} {unit}".strip()
        near = ("end", x - 8) if x > 420 else ("start", x + 8)
        shapes.append(Label(near[1], 24, words, "limit-word", near[0]))
    table_rows = []
    for i, (name, row) in enumerate(zip(names, rows, strict=True)):
        middle = 31 + 44.0 * i
        is_last = i == len(rows) - 1
        look = "strong side" if is_last else "side faint"
        shapes.append(Label(0, middle + 4, name, look))
        values = _finite(row)
        # The golden ratio spreads neighbours apart the same way on every run.
        for k, v in enumerate(values):
            spread = ((k * 0.618034) % 1 - 0.5) * 16
            shapes.append(Dot(scale.at(v), middle + spread, 4, "run last" if is_last else "run"))
        if values:
            median = _median(values)
            stroke = charts.plumb(scale.at(median), middle - 15, middle + 15)
            shapes.append(Path(stroke, "median"))
            table_rows.append(
                (
                    name,
                    str(len(values)),
                    text.figure(min(values)),
                    text.figure(median),
                    text.figure(max(values)),
                )
            )
    shapes.append(Path(charts.level(gutter, foot, 540), "grid"))
    for tick in ticks:
        is_end = tick == ticks[-1]
        words = f"{text.figure(tick)} {unit}".strip() if is_end else text.figure(tick)
        at, anchor = (560.0, "end") if is_end else (scale.at(tick), "middle")
        shapes.append(Label(at, foot + 20, words, "tick", anchor))
    told = [f"{row[0]}: median {row[3]} {unit} of {row[1]}" for row in table_rows]
    sentence = "; ".join(told)
    sentence += f"; the limit is {text.figure(limit)} {unit}".rstrip() if limit is not None else ""
    columns = ("", "timed", "least", "median", "most")
    table = Table(f"{blank.title}{', ' + unit if unit else ''}", columns, tuple(table_rows))
    drawing = Drawing(560, foot + 28, tuple(shapes), blank.title, f"{sentence}.")
    return replace(blank, drawings=(drawing,), tables=(table,))


def _median(values: Sequence[float]) -> float:
    ranked = sorted(values)
    half = len(ranked) // 2
    return ranked[half] if len(ranked) % 2 else (ranked[half - 1] + ranked[half]) / 2


# curve: series over x, such as a loss over steps


def _curve(blank: Figure, data: _Data) -> Figure:
    parts = data.parts("series", _MOST["series"])
    series: list[tuple[str, list[tuple[float, float]]]] = []
    bands: list[tuple[list[tuple[float, float]], list[tuple[float, float]]]] = []
    for i, part in enumerate(parts):
        ys, *edges = (part.numbers(key, 100_000) for key in ("y", "low", "high"))
        xs = part.numbers("x", 100_000) or [float(k) for k in range(len(ys))]
        points = _thin(list(zip(xs, ys, strict=False)), _MOST["points"])
        series.append((part.text("label", 30) or f"series {i + 1}", points))
        low, high = (_thin(list(zip(xs, e, strict=False)), _MOST["points"]) for e in edges)
        bands.append((low, high))
    is_log, limit = data.flag("log_y"), data.number("limit")
    levels = [
        (part.text("label", 24), height)
        for part in (_Data(item) for item in data.items("levels", _MOST["levels"], required=False))
        if (height := part.number("y")) is not None and not (is_log and height <= 0)
    ]

    def is_drawn(point: tuple[float, float]) -> bool:
        x, y = point
        return math.isfinite(x) and math.isfinite(y) and not (is_log and y <= 0)

    drawn = [point for _, points in series for point in points if is_drawn(point)]
    if not drawn:
        raise Undrawable("none of its points can be drawn")
    ys = [y for _, y in drawn] + [height for _, height in levels]
    ys += [y for edges in bands for edge in edges for _, y in filter(is_drawn, edge)]
    if limit is not None and not (is_log and limit <= 0):
        ys.append(limit)
    else:
        limit = None
    y_ticks = charts.log_ticks(min(ys), max(ys)) if is_log else charts.nice_ticks(min(ys), max(ys))
    xs = [x for x, _ in drawn]
    x_ticks = charts.nice_ticks(min(xs), max(xs), 4)
    x_ticks = tuple(t for t in x_ticks if min(xs) <= t <= max(xs)) or (min(xs),)
    gutter = 10 + _WIDE * max(len(text.figure(tick)) for tick in y_ticks)
    x = Scale(min(xs), max(xs), gutter, 540)
    y = Scale(y_ticks[0], y_ticks[-1], 226, 30, is_log)
    shapes = _frame(x_ticks, y_ticks, x, y, data.text("x_label", 40), data.text("y_label", 40))
    for s, (low, high) in enumerate(bands):
        both = [pair for pair in zip(low, high, strict=False) if all(map(is_drawn, pair))]
        if len(both) > 1:
            there = [(x.at(a), y.at(b)) for (a, b), _ in both]
            back = [(x.at(a), y.at(b)) for _, (a, b) in reversed(both)]
            shapes.append(Path(f"{charts.line(there + back)}z", f"band s{s}"))
    words_at: list[Shape] = []
    for word, height in levels:
        shapes.append(Path(charts.level(gutter, y.at(height), 540), "plan"))
        words_at.append(Label(536, y.at(height) - 5, word, "tick halo", "end"))
    if limit is not None:
        shapes.append(Path(charts.level(gutter, y.at(limit), 540), "limit"))
        words = f"limit {text.figure(limit)}"
        words_at.append(Label(536, y.at(limit) - 6, words, "limit-word", "end"))
    rows: list[tuple[str, ...]] = []
    for s, (name, points) in reversed(list(enumerate(series))):  # the first lies on top
        for run in _runs(points, is_drawn):
            places = [(x.at(a), y.at(b)) for a, b in run]
            if len(places) == 1:
                shapes.append(Dot(*places[0], 3.5, f"point s{s}"))
            else:
                shapes.append(Path(charts.line(places), f"trace s{s}"))
        known = [point for point in points if is_drawn(point)]
        if known:
            shapes.append(Dot(x.at(known[-1][0]), y.at(known[-1][1]), 4, f"point s{s}"))
            least = min(b for _, b in known)
            rows.insert(
                0,
                (
                    name,
                    str(len(points)),
                    text.figure(known[0][1]),
                    text.figure(least),
                    text.figure(known[-1][1]),
                    str(len(points) - len(known)),
                ),
            )
        else:
            rows.insert(0, (name, str(len(points)), "–", "–", "–", str(len(points))))
    shapes += words_at  # above the lines, or one through a word would strike it out
    names = [name for name, _ in series]
    shapes, height = (
        _legend(shapes, names, "bar", gutter, 262.0) if len(names) > 1 else (shapes, 262.0)
    )
    sentence = "; ".join(f"{row[0]} goes from {row[2]} to {row[4]}" for row in rows)
    sentence += "".join(f"; {word} is at {text.figure(height)}" for word, height in levels if word)
    if limit is not None:
        sentence += f"; the limit is {text.figure(limit)}"
    columns = ("", "points", "first", "least", "last", "not drawn")
    table = Table(blank.title, columns, tuple(rows))
    drawing = Drawing(560, height, tuple(shapes), blank.title, f"{sentence}.")
    return replace(blank, drawings=(drawing,), tables=(table,))


def _runs(
    points: Sequence[tuple[float, float]], is_drawn: Callable[[tuple[float, float]], bool]
) -> Iterable[list[tuple[float, float]]]:
    run: list[tuple[float, float]] = []
    for point in points:
        if is_drawn(point):
            run.append(point)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _frame(
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    x: Scale,
    y: Scale,
    x_label: str,
    y_label: str,
) -> list[Shape]:
    """Grid lines, ticks and the names of both axes."""
    shapes: list[Shape] = []
    for tick in y_ticks:
        shapes.append(Path(charts.level(x.start, y.at(tick), x.end), "grid"))
        shapes.append(Label(x.start - 8, y.at(tick) + 4, text.figure(tick), "tick", "end"))
    for i, tick in enumerate(x_ticks):
        inner = 0 < i < len(x_ticks) - 1
        anchor = "end" if i and i == len(x_ticks) - 1 else "middle" if i else "start"
        look = "tick inner" if inner else "tick"
        shapes.append(Label(x.at(tick), y.start + 18, text.figure(tick), look, anchor))
    shapes.append(Label(x.start, y.end - 14, y_label, "axis"))
    shapes.append(Label(_between(x_ticks, x), y.start + 20, x_label, "axis halo", "middle"))
    return shapes


def _between(ticks: Sequence[float], x: Scale) -> float:
    """Where the name of the axis fits: the middle of a wide gap of its ticks near the centre."""
    centre = (x.start + x.end) / 2
    stops = [x.start, *(x.at(tick) for tick in ticks), x.end]
    gaps = [(a, b) for a, b in itertools.pairwise(stops) if b - a > 60]
    middles = [(a + b) / 2 for a, b in gaps] or [centre]
    return min(middles, key=lambda middle: abs(middle - centre))


# scatter: one figure against another, such as the analytic gradient against the numeric one


def _scatter(blank: Figure, data: _Data) -> Figure:
    xs, ys = data.numbers("x", 100_000), data.numbers("y", 100_000)
    pairs = list(zip(xs, ys, strict=False))
    drawn = _thin([p for p in pairs if all(map(math.isfinite, p))], _MOST["points"])
    if not drawn:
        raise Undrawable("none of its points can be drawn")
    is_diagonal = data.flag("diagonal")
    across, up = [a for a, _ in drawn], [b for _, b in drawn]
    if is_diagonal:
        across = up = across + up
    x_ticks, y_ticks = (charts.nice_ticks(min(v), max(v), 4) for v in (across, up))
    gutter = 10 + _WIDE * max(len(text.figure(tick)) for tick in y_ticks)
    side = 320.0
    x = Scale(x_ticks[0], x_ticks[-1], gutter, gutter + side)
    y = Scale(y_ticks[0], y_ticks[-1], 30 + side * 0.8, 30)
    x_label, y_label = data.text("x_label", 40), data.text("y_label", 40)
    shapes = _frame(x_ticks, y_ticks, x, y, "", y_label)
    if is_diagonal:
        low, high = x_ticks[0], x_ticks[-1]
        shapes.append(Path(charts.line([(x.at(low), y.at(low)), (x.at(high), y.at(high))]), "plan"))
    shapes += [Dot(x.at(a), y.at(b), 4, "run last") for a, b in drawn]
    height = y.start + 44
    shapes.append(Label((x.start + x.end) / 2, height - 6, x_label, "axis", "middle"))
    missing = len(pairs) - sum(all(map(math.isfinite, p)) for p in pairs)
    sentence = f"{text.count(len(pairs) - missing, 'point')}"
    if is_diagonal:
        far = max(abs(a - b) for a, b in drawn)
        sentence += f"; the farthest from the diagonal is off by {text.figure(far)}"
    if missing:
        sentence += f"; {text.count(missing, 'point')} with no number left out"
    rows = tuple((text.figure(a), text.figure(b)) for a, b in drawn[:50])
    table = Table(blank.title, (x_label or "x", y_label or "y"), rows)
    drawing = Drawing(gutter + side + 24, height, tuple(shapes), blank.title, f"{sentence}.")
    return replace(blank, drawings=(drawing,), tables=(table,))


# graph: boxes and arrows, such as a graph of operators


def _graph(blank: Figure, data: _Data) -> Figure:
    nodes = {}
    for part in data.parts("nodes", _MOST["nodes"]):
        name = part.text("id", 40)
        nodes[name] = (part.text("label", 22) or name, part.text("note", 26))
    edges = []
    for raw in data.items("edges", 200, required=False):
        part = _Data(raw)
        source, target = part.text("from", 40), part.text("to", 40)
        if source in nodes and target in nodes:
            edges.append((source, target, part.text("label", 18)))
    layers, routes = _layers(list(nodes), [(a, b) for a, b, _ in edges])
    width, row_height, box_height = 560.0, 92.0, 48.0
    pitch = min(180.0, width / max(len(layer) for layer in layers))
    box_width = pitch - 14
    places = {}
    for row, layer in enumerate(layers):
        start = width / 2 - pitch * len(layer) / 2
        for column, name in enumerate(layer):
            places[name] = (start + column * pitch + pitch / 2, 6 + row * row_height)
    shapes: list[Shape] = []
    for source, target, label in edges:
        if source == target:
            continue
        (ax, ay), (bx, by) = places[source], places[target]
        is_down = by > ay
        start_y, end_y = (ay + box_height, by - 7) if is_down else (ay, by + box_height + 7)
        passed = [places[name] for name in routes[source, target]]
        bends = [(x, y + box_height / 2) for x, y in passed]
        shapes.append(Path(_route([(ax, start_y), *bends, (bx, end_y)]), "arrow"))
        tip = 5 if is_down else -5
        head = f"M{charts.number(bx - 5)} {charts.number(end_y - tip)}h10l-5 {tip * 2}z"
        shapes.append(Path(head, "tip"))
        if label:
            at = bends[0] if bends else ((ax + bx) / 2, (start_y + end_y) / 2)
            shapes.append(Label(at[0], at[1] + 4, label, "tick halo", "middle"))
    for name, (label, note) in nodes.items():
        x, y = places[name]
        shapes.append(Rect(x - box_width / 2, y, box_width, box_height, "box", 8))
        room = max(3, int(box_width / _WIDE))
        named = Label(x, y + (21 if note else 28), text.shorten(label, room), "axis", "middle")
        shapes.append(named)
        if note:
            shapes.append(Label(x, y + 38, text.shorten(note, room), "tick", "middle"))
    rows = tuple((nodes[a][0], nodes[b][0], label) for a, b, label in edges)
    sentence = f"{text.count(len(nodes), 'node')}, {text.count(len(edges), 'edge')}"
    if edges:
        arrows = [f"{nodes[a][0]} to {nodes[b][0]}" for a, b, _ in edges]
        sentence += f": {text.listed(arrows, 8)}"
    height = 6 + row_height * (len(layers) - 1) + box_height + 6
    drawing = Drawing(width, height, tuple(shapes), blank.title, f"{sentence}.")
    tables = (Table(blank.title, ("from", "to", ""), rows),) if rows else ()
    return replace(blank, drawings=(drawing,), tables=tables)


def _route(points: Sequence[tuple[float, float]]) -> str:
    """A curve through ``points`` that leaves and reaches each of them vertically."""
    path = f"M{charts.number(points[0][0])} {charts.number(points[0][1])}"
    for (ax, ay), (bx, by) in itertools.pairwise(points):
        middle = charts.number((ay + by) / 2)
        path += f"C{charts.number(ax)} {middle} {charts.number(bx)} {middle} "
        path += f"{charts.number(bx)} {charts.number(by)}"
    return path


def _layers(
    names: list[str], edges: list[tuple[str, str]]
) -> tuple[list[list[str]], dict[tuple[str, str], list[str]]]:
    """Each node below all that point to it, and free places where an edge passes a layer by.

    Edges that would close a circle don't count.

    Returns:
        The names by layer, and for each edge the names of the places that it passes.
    """
    depth = dict.fromkeys(names, 0)
    for _ in names:
        moved = False
        for source, target in edges:
            if source != target and depth[target] <= depth[source] < len(names) - 1:
                depth[target] = depth[source] + 1
                moved = True
        if not moved:
            break
    filled = {level: row for row, level in enumerate(sorted(set(depth.values())))}
    layers: list[list[str]] = [[] for _ in filled]
    for name in names:
        layers[filled[depth[name]]].append(name)
    routes: dict[tuple[str, str], list[str]] = {}
    for source, target in edges:
        passed = routes.setdefault((source, target), [])
        if passed:
            continue
        for row in range(filled[depth[source]] + 1, filled[depth[target]]):
            # No node has such a name: ids were shortened to one line.
            passed.append(f"{source}\n{target}\n{row}")
            layers[row].append(passed[-1])
    return layers, routes


# text: panels of lines side by side


def _text(blank: Figure, data: _Data) -> Figure:
    panels = []
    for part in data.parts("panels", 4):
        marked = {int(v) for v in _finite(part.numbers("marked", 400))}
        raw = part.items("lines", 10_000, required=False)
        lines = [str(line)[:400] if isinstance(line, str) else _words(line) for line in raw]
        kept = [(line, i in marked) for i, line in enumerate(lines[:120])]
        if len(lines) > 120:
            kept.append((f"… {text.count(len(lines) - 120, 'more line')}", False))
        panels.append(Panel(part.text("label"), tuple(kept)))
    if len(panels) == 1 and panels[0].label in blank.title:
        panels = [replace(panels[0], label="")]  # the title says it already
    return replace(blank, panels=tuple(panels))


# alignment: shapes under each other from the right, as broadcasting reads them


def _alignment(blank: Figure, data: _Data) -> Figure:
    parts = data.parts("rows", 8)
    rows = [(p.text("label", 16), p.texts("sizes", _MOST["axes"], 14)) for p in parts]
    result = data.texts("result", _MOST["axes"], 14)
    n = max(len(result), *(len(sizes) for _, sizes in rows))
    if not n:
        raise Undrawable("it has no sizes")
    gutter = 18 + _WIDE * max(6, *(len(label) for label, _ in rows))
    gap = 12
    side = min(104.0, (560 - gutter - gap * (n - 1)) / n)
    shapes: list[Shape] = []
    lines = [*rows, ("result", result)] if result else rows
    for k, (label, sizes) in enumerate(lines):
        is_result = bool(result) and k == len(rows)
        y = 4 + 54 * k + (14 if is_result else 0)
        shapes.append(Label(0, y + 28, label, "side"))
        for c in range(n):
            own = c - (n - len(sizes))
            size = sizes[own] if own >= 0 else ""
            across = result[c - (n - len(result))] if c - (n - len(result)) >= 0 else ""
            is_stretched = not is_result and size in ("", "1") and across not in ("", "1")
            clashes = not is_result and size not in ("", "1", across) and bool(result)
            look = "box lost" if not size and not is_stretched else "box"
            x = gutter + c * (side + gap)
            if is_stretched:
                shapes.append(Rect(x, y, side, 42, "absent", 8))
            elif size or is_result:
                shapes.append(Rect(x, y, side, 42, f"{look} no" if clashes else look, 8))
            if size:
                shapes.append(Label(x + side / 2, y + 29, size, "size narrow halo", "middle"))
    if result:
        end = gutter + n * (side + gap) - gap
        shapes.append(Path(charts.level(gutter, 4 + 54 * len(rows), end), "grid"))
    height = 4 + 54 * len(lines) + (14 if result else 0)
    told = [f"{label or 'shape'} ({', '.join(sizes)})" for label, sizes in lines]
    note = data.text("note", 300)
    caption = f"{blank.caption} {note}".strip() if note else blank.caption
    drawing = Drawing(560, height, tuple(shapes), blank.title, "; ".join(told) + ".")
    return replace(blank, drawings=(drawing,), caption=caption)


_KINDS: dict[str, Callable[[Figure, _Data], Figure]] = {
    "axes": _axes,
    "heatmap": _heatmap,
    "bars": _bars,
    "dots": _dots,
    "curve": _curve,
    "scatter": _scatter,
    "graph": _graph,
    "text": _text,
    "alignment": _alignment,
}
