"""Layout arithmetic: from numbers to shapes with coordinates, for the templates to write as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from grader.pages import text
from grader.roadmap import ActiveDay, CurvePoint

LARGEST = 1e150
"""Numbers beyond are not drawn: the difference of two of them would no longer be a number."""


@dataclass(frozen=True, slots=True)
class Rect:
    """A rectangle; ``look`` is its class in the style sheet."""

    x: float
    y: float
    width: float
    height: float
    look: str
    radius: float = 0

    tag = "rect"


@dataclass(frozen=True, slots=True)
class Path:
    """Any line or area, as the commands of an SVG path."""

    d: str
    look: str

    tag = "path"


@dataclass(frozen=True, slots=True)
class Dot:
    """A filled circle."""

    x: float
    y: float
    radius: float
    look: str

    tag = "dot"


@dataclass(frozen=True, slots=True)
class Label:
    """A word or number; ``anchor`` is start, middle or end."""

    x: float
    y: float
    text: str
    look: str
    anchor: str = "start"

    tag = "label"


Shape = Rect | Path | Dot | Label


@dataclass(frozen=True, slots=True)
class Drawing:
    """One SVG picture: shapes in the order they are painted, and the same fact in words."""

    width: float
    height: float
    shapes: tuple[Shape, ...]
    title: str
    sentence: str
    label: str = ""  # written above it, where several stand side by side


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps numbers from ``low`` to ``high`` onto coordinates from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The coordinate of ``value``, kept inside the range."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = (math.log10(max(v, 5e-324)) for v in (low, high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + (self.end - self.start) * min(max(share, 0.0), 1.0)


def nice_ticks(low: float, high: float, count: int = 4) -> tuple[float, ...]:
    """About ``count`` round numbers that enclose ``low`` to ``high``: steps of 1, 2, 2.5 or 5."""
    if not (math.isfinite(low) and math.isfinite(high)) or high < low:
        return (0.0, 1.0)
    if high == low:
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if low else (0.0, 1.0)
    rough = (high - low) / max(count, 1)
    if not max(1e-300, 1e-9 * max(abs(low), abs(high))) < rough < math.inf:
        # So small a range beside so large an offset that labels could not tell its ticks apart.
        return (low, high)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * f for f in (1, 2, 2.5, 5, 10) if power * f >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(float(f"{k * step:.15g}") for k in range(first, last + 1))


def log_ticks(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """Powers of ten that enclose ``low`` to ``high``, thinned to about ``count``."""
    if not (0 < low <= high < math.inf):
        return (0.1, 1.0)
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    if first == last:
        first -= 1
    stride = max(1, math.ceil((last - first) / max(count - 1, 1)))
    last = first + math.ceil((last - first) / stride) * stride
    return tuple(10.0**k for k in range(max(first, -307), min(last, 307) + 1, stride))


def number(value: float) -> str:
    """A coordinate, to a tenth of a pixel."""
    shown = f"{value:.1f}"
    return shown[:-2] if shown.endswith(".0") and shown != "-0.0" else shown.replace("-0.0", "0")


def line(points: Iterable[tuple[float, float]]) -> str:
    """The path through ``points``."""
    return "".join(f"{'L' if i else 'M'}{number(x)} {number(y)}" for i, (x, y) in enumerate(points))


def level(a: float, y: float, b: float) -> str:
    """The path from ``a`` to ``b`` at the height ``y``."""
    return f"M{number(a)} {number(y)}H{number(b)}"


def plumb(x: float, a: float, b: float) -> str:
    """The path from ``a`` down to ``b`` at ``x``."""
    return f"M{number(x)} {number(a)}V{number(b)}"


def steps(points: Sequence[tuple[float, float]]) -> str:
    """The path that keeps each height until the next point: a staircase."""
    head = f"M{number(points[0][0])} {number(points[0][1])}"
    return head + "".join(f"H{number(x)}V{number(y)}" for x, y in points[1:])


def cells(places: Iterable[tuple[float, float]], side: float) -> str:
    """One path of squares; a round-joined stroke of the same colour rounds their corners."""
    s = number(side)
    return "".join(f"M{number(x)} {number(y)}h{s}v{s}h-{s}z" for x, y in places)


def loss_curve(points: Sequence[CurvePoint]) -> Drawing | None:
    """Checks left against the date, with the plan as a dotted line; None without points."""
    known = [(point.day, point.left) for point in points if point.left is not None]
    if not known:
        return None
    width, height, foot, head, gutter = 520.0, 236.0, 208.0, 16.0, 40.0
    first, today, last = points[0].day, known[-1][0], points[-1].day
    most = max(1.0, *(left for _, left in known), *(point.plan for point in points))
    ticks = nice_ticks(0, most, 3)
    x = Scale(0, (last - first).days, gutter, width - 14)
    y = Scale(0, max(ticks[-1] if ticks[-1] < 1.15 * most else most * 1.05, 1), foot, head)

    def place(day: date, count: float) -> tuple[float, float]:
        return x.at((day - first).days), y.at(count)

    shapes: list[Shape] = []
    for tick in ticks:
        if tick <= y.high:
            shapes.append(Path(level(gutter, y.at(tick), x.end), "grid"))
            shapes.append(Label(gutter - 8, y.at(tick) + 4, text.figure(tick), "tick", "end"))
    shapes += _dates(first, last, x)
    stairs = [place(day, left) for day, left in known]
    end_x, end_y = stairs[-1]
    area = f"{steps(stairs)}V{number(foot)}H{number(stairs[0][0])}z"
    planned = next((p for p in points if p.plan <= 0), points[-1])
    plan = [place(first, points[0].plan), place(planned.day, planned.plan)]
    shapes += [Path(line(plan), "plan"), Path(area, "area"), Path(steps(stairs), "step")]
    shapes.append(Dot(end_x, end_y, 5, "here"))
    # The word stands on the side of the dotted line where the staircase is not.
    at_x = plan[0][0] + (plan[1][0] - plan[0][0]) * 0.4
    at_y = plan[0][1] + (plan[1][1] - plan[0][1]) * 0.4
    shapes.append(Label(at_x - 8, at_y + 20, "plan", "tick halo", "end"))
    is_low = end_y + 24 > foot
    at = (x.end, "end") if end_x > width - 110 else (end_x + 10, "start")
    below = end_y - 12 if is_low else end_y + 22
    words = f"{known[-1][1]:,} left"
    shapes.append(Label(at[0], below, words, "strong halo", at[1]))
    sentence = f"From {text.count(known[0][1], 'check')} on {_day(first)} "
    sentence += f"to {known[-1][1]:,} on {_day(today)}. "
    plan_today = next(point.plan for point in points if point.day == today)
    sentence += f"The plan leaves {round(plan_today):,} on that day."
    return Drawing(width, height, tuple(shapes), "Checks left over time", sentence)


def _dates(first: date, last: date, x: Scale) -> list[Shape]:
    span = (last - first).days
    stride = next((s for s in (1, 2, 7, 14, 28, 56, 91, 182) if span / s <= 5), span // 4 or 1)
    shapes: list[Shape] = []
    for offset in range(0, span + 1, stride):
        edge = offset == 0
        if not edge and span - offset < stride / 2:
            break
        look = "tick" if edge else "tick inner"
        shapes.append(
            Label(
                x.at(offset),
                228,
                _day(first + timedelta(days=offset)),
                look,
                "start" if edge else "middle",
            )
        )
    shapes.append(Label(x.at(span), 228, _day(last), "tick", "end"))
    return shapes


def _day(day: date) -> str:
    return f"{day.day} {text.month(day.month)}"


def activity(weeks: Sequence[Sequence[ActiveDay]]) -> Drawing:
    """Attempts per day: a column per week, a row per day from Monday, five steps of colour."""
    levels: dict[int, list[tuple[float, float]]] = {}
    shapes: list[Shape] = []
    months = [week[0].day.month for week in weeks]
    for column, month in enumerate(months):
        # A month stands over its first column, unless the next column begins another one.
        is_new = column == 0 or months[column - 1] != month
        if is_new and (column > 0 or months[1:2] == [month]):
            shapes.append(Label(44 + 23 * column, 12, text.month(month), "tick"))
    for row, name in ((0, "Mon"), (2, "Wed"), (4, "Fri"), (6, "Sun")):
        shapes.append(Label(36, 34 + 23 * row, name, "tick", "end"))
    for column, week in enumerate(weeks):
        for row, day in enumerate(week):
            if not day.is_future:
                levels.setdefault(day.step, []).append((46 + 23 * column, 22 + 23 * row))
    for level in sorted(levels):
        shapes.append(Path(cells(levels[level], 15), f"cell h{level}"))
    counts = [day.attempts for week in weeks for day in week]
    sentence = f"{text.count(sum(counts), 'attempt')} in {text.count(len(weeks), 'week')}"
    sentence += f", at most {max(counts)} in one day." if any(counts) else "."
    return Drawing(44 + 23 * len(weeks), 184, tuple(shapes), "Attempts per day", sentence)


def attempt_curve(passed: Sequence[int], counted: int, below: Sequence[str]) -> Drawing:
    """Checks passed in each of the latest attempts, against how many count.

    Args:
        below: what stands under each point, such as its time.
    """
    top = max(counted, *passed, 1)
    y = Scale(0, top, 78, 18)
    n = len(passed)
    x = Scale(0, max(n - 1, 1), 22, 224) if n > 1 else Scale(0, 1, 123, 123)
    places = [(x.at(i), y.at(count)) for i, count in enumerate(passed)]
    shapes: list[Shape] = [
        Path("M4 16H256", "dashes"),
        Label(256, 11, f"of {counted}", "tick", "end"),
        Path(line(places), "step"),
    ]
    # Every number would overlap its neighbour once there are many attempts.
    stride = math.ceil(n / 6)
    for i, (px, py) in enumerate(places):
        is_last = i == n - 1
        shapes.append(Dot(px, py, 5.5 if is_last else 4, "here" if is_last else "point"))
        if is_last or (i % stride == 0 and n - 1 - i >= stride):
            above = py - 10 if py > 40 else py + 20  # not into the words of the dashed line
            shapes.append(Label(px, above, str(passed[i]), "v strong", "middle"))
            shapes.append(Label(px, 98, below[i], "tick", "middle"))
    sentence = f"Checks passed per attempt: {', '.join(str(p) for p in passed)}; {counted} count."
    return Drawing(260, 102, tuple(shapes), "Checks passed per attempt", sentence)
