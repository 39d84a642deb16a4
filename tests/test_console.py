"""What a learner sees, whole: each state of an attempt against a text in `tests/gold/`.

`GOLD=write pytest tests/test_console.py` writes the texts anew; read the difference.
"""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path

import pytest

from grader import console, terminal
from grader.console import Closing, Report
from grader.model import Attempt, Environment, Fault, Line, Message, Outcome, Status, Verdict
from grader.terminal import Terminal
from tests import samples
from tests.samples import CHECKS, EXERCISE, FILE, attempt, outcome, outcomes

GOLD = Path(__file__).parent / "gold"
PAGE = "reports/day23.html"
TODOS = (
    ("split", Line(FILE, 38, "split into heads")),
    ("attend", Line(FILE, 52, "attend")),
    ("learn", Line(FILE, 71, "learn")),
    ("fast", Line(FILE, 90, "go fast")),
)
DONE = Closing(
    page=PAGE,
    is_first_pass=True,
    days_done=21,
    days=28,
    streak=9,
    next_exercise=samples.another("day24", title="RoPE"),
    has_solution=True,
)
BEFORE = {c.name: Status.PASSED for c in CHECKS} | dict.fromkeys(
    ("TestSplit::test_1_1", "TestLearn::test_3_1"), Status.FAILED
)

TIMEOUT = outcome(
    "2.2",
    Status.TIMEOUT,
    seconds=10.2,
    message=Message("time.limit", "still running after 10 s"),
    details=("It took 0.4 s at T = 64 and 3.1 s at T = 128.",),
    minimal="attention(q, k, v) with T = 512",
    lines=(Line(FILE, 61, "    for j in range(T):", "attention"),),
)
KILLED = outcome(
    "3.1",
    Status.KILLED,
    message=Message("process.ended", "Python crashed: signal 11 (SIGSEGV)"),
)
RAISED = outcome(
    "1.1",
    Status.ERROR,
    message=Message("raised", "RuntimeError: shape '[2, 3, 4]' is invalid for input of size 20"),
    lines=(Line(FILE, 43, "    return x.view(B, T, heads, d)", "split_heads"),),
    traceback=f"{FILE}, line 43, in split_heads\n    return x.view(B, T, heads, d)\nRuntimeError",
)
FLOOD = replace(
    samples.SHAPE_FAILED,
    output="".join(f"step {i}\n" for i in range(432)),
    output_truncated=True,
)
HOSTILE = replace(
    samples.SHAPE_FAILED,
    message=Message("x", "\x1b[2Jwiped \u202etxet\u202c \udc80"),
    output="\x1b]0;title\x07\r\x00bell\n",
    details=(),
)
TODO = tuple(
    outcome(c.number, Status.TODO, seconds=0.0) if c.task == "attend" else o
    for c, o in zip(CHECKS, outcomes(), strict=True)
)
WAITS_FOR_MANY = outcome(
    "2.3", Status.WAITING, seconds=0.0, blocked_by=tuple(c.name for c in CHECKS[:4])
)

STATES: dict[str, tuple[Attempt, Closing]] = {
    "all_pass": (attempt(number=6), DONE),
    "partly_pass": (attempt(samples.PARTLY, number=4), Closing(page=PAGE, hints_left=3)),
    "not_started": (attempt((), verdict=Verdict.NOT_STARTED), Closing(todos=TODOS)),
    "some_open": (attempt(TODO, number=2), Closing(page=PAGE, todos=TODOS[1:2])),
    "syntax_error": (
        attempt(
            (),
            verdict=Verdict.ERROR,
            fault=Fault(
                "SyntaxError",
                "'(' was never closed",
                FILE,
                43,
                15,
                (
                    Line(FILE, 42, "    B, T, D = x.shape"),
                    Line(FILE, 43, "    x = x.view(B, T, heads, d"),
                    Line(FILE, 44, "    return x.transpose(1, 2)"),
                ),
                "opened on line 43",
            ),
        ),
        Closing(),
    ),
    "import_error": (
        attempt(
            (),
            verdict=Verdict.ERROR,
            fault=Fault(
                "ModuleNotFoundError",
                "No module named 'numpyy'",
                FILE,
                3,
                source=(Line(FILE, 2, ""), Line(FILE, 3, "import numpyy as np")),
            ),
        ),
        Closing(),
    ),
    "missing": (
        attempt((), verdict=Verdict.ERROR, fault=Fault("missing", f"{FILE} does not exist", FILE)),
        Closing(),
    ),
    "killed_at_import": (
        attempt(
            (),
            verdict=Verdict.ERROR,
            fault=Fault("killed", "stopped after 40 s while the file was imported", FILE),
        ),
        Closing(),
    ),
    "exception": (attempt(outcomes(c1_1=RAISED), number=1), Closing(page=PAGE)),
    "time_and_crash": (
        attempt(outcomes(c2_2=TIMEOUT, c3_1=KILLED, c2_3=WAITS_FOR_MANY), number=1),
        Closing(page=PAGE, hints_left=1),
    ),
    "flood": (attempt(outcomes(c1_1=FLOOD), number=1), Closing(page=PAGE)),
    "hostile": (attempt(outcomes(c1_1=HOSTILE), number=1), Closing()),
    "three_failures": (
        attempt(
            outcomes(
                c1_1=samples.SHAPE_FAILED,
                c2_2=samples.FUTURE_FAILED,
                c3_1=outcome("3.1", Status.FAILED, message=Message("x", "no gradient")),
                c2_3=replace(samples.WAITING),
            ),
            number=1,
        ),
        Closing(),
    ),
    "unsure_speed": (
        attempt(
            outcomes(
                c4_1=outcome("4.1", Status.UNSURE, measured="2.0x"),
                c4_2=outcome("4.2"),
            ),
            number=1,
        ),
        Closing(),
    ),
    "selection": (attempt((outcome("1.1"),), number=5, selected=True), Closing(page=PAGE)),
}


def on(stream: io.TextIOBase, **changed: object) -> Terminal:
    return replace(terminal.of(stream, "never", {}), **changed)


def shown(
    state: Attempt,
    closing: Closing,
    previous: dict[str, Status] | None = None,
    *,
    verbose: bool = False,
    quiet: bool = False,
    **changed: object,
) -> str:
    stream = io.StringIO()
    report = Report(on(stream, **changed), EXERCISE, previous or {}, verbose, quiet, closing.page)
    report.begin()
    if state.outcomes:
        report.start(state.environment)
    for one in state.outcomes:
        report.outcome(one)
    report.finish(state, closing)
    return stream.getvalue()


def assert_gold(name: str, text: str) -> None:
    path = GOLD / f"console_{name}.txt"
    if os.environ.get("GOLD") == "write":
        GOLD.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("name", STATES)
def test_a_state_is_shown_as_in_its_gold_text(name):
    previous = BEFORE if name == "partly_pass" else None

    assert_gold(name, shown(*STATES[name], previous))


@pytest.mark.parametrize("name", STATES)
def test_eighty_columns_are_enough(name):
    lines = shown(*STATES[name], BEFORE).splitlines()

    assert max(terminal.cells(line) for line in lines) <= 80


@pytest.mark.parametrize("name", ["all_pass", "partly_pass", "not_started", "exception"])
def test_sentences_take_the_place_of_tables_for_those_who_listen(name):
    assert_gold(f"plain_{name}", shown(*STATES[name], is_plain=True))


def test_words_take_the_place_of_signs_that_cannot_be_encoded():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="gbk")
    here = terminal.of(stream, "never", {})
    report = Report(here, replace(EXERCISE, title="多头注意力 ✓"))
    for one in samples.PARTLY:
        report.outcome(one)
    report.finish(attempt(samples.PARTLY, number=4), Closing())
    stream.seek(0)

    text = stream.read()
    assert not here.has_glyphs
    assert "多头注意力 \\u2713" in text
    assert "    FAIL 1.1  split_heads has the right shape" in text
    assert "    WAIT 2.3" in text
    assert "    SKIP 4.2" in text


def test_verbose_unfolds_all_and_shows_tracebacks():
    state, closing = STATES["three_failures"]
    text = shown(state, closing, verbose=True)

    assert "no gradient" in text
    assert "traceback" in text
    assert "in one line" not in text


def test_without_it_only_the_first_two_failures_are_unfolded():
    text = shown(*STATES["three_failures"])

    assert "axes 1 and 2 are swapped" in text
    assert "position 2 puts weight" in text
    assert "no gradient" not in text
    assert "1 failing check in one line; -v says all of each" in text


@pytest.mark.parametrize("name", STATES)
def test_no_state_has_two_empty_lines(name):
    assert "\n\n\n" not in shown(*STATES[name])


def test_a_failure_in_the_last_line_leaves_one_empty_line():
    last = replace(samples.SHAPE_FAILED, check=CHECKS[7])
    text = shown(attempt((samples.SHAPE_FAILED, last)), Closing())

    assert "\n\n\n" not in text


def test_quiet_is_one_line():
    state, closing = STATES["partly_pass"]

    assert shown(state, closing, BEFORE, quiet=True) == (
        "day23  4 of 7 checks pass (-1)   50/100 points   attempt 4   2.4 s\n"
    )


def test_a_check_that_used_to_pass_says_so():
    text = shown(attempt(samples.PARTLY), Closing(), {"TestSplit::test_1_1": Status.PASSED})

    assert "0/10  was passing" in text


def test_the_change_counts_only_what_was_run_both_times():
    part = attempt((outcome("1.1"),), selected=True)
    text = shown(part, Closing(), BEFORE | {"TestSplit::test_1_1": Status.FAILED})

    assert "1 of 1 checks pass (+1)" in text


def test_a_line_appears_as_soon_as_its_check_ends():
    stream = io.StringIO()
    report = Report(on(stream), EXERCISE)
    report.begin()
    assert stream.getvalue() == "day23  Multi-head attention"

    report.start(Environment(torch="2.13.0", device="cuda"))
    assert stream.getvalue().splitlines()[0].endswith("torch 2.13.0, CUDA")

    report.outcome(outcome("1.1"))
    assert "✓ 1.1" in stream.getvalue()


def test_checks_that_were_never_told_are_shown_at_the_end():
    stream = io.StringIO()
    report = Report(on(stream), EXERCISE)
    report.finish(attempt(samples.PARTLY), Closing())

    assert [c.number in stream.getvalue() for c in CHECKS] == [True] * len(CHECKS)


def test_nothing_of_the_learner_reaches_the_terminal_as_a_control_character():
    text = shown(*STATES["hostile"], verbose=True)

    assert not set(text) & {"\x1b", "\x07", "\r", "\x00", "\u202e", "\u202c", "\udc80"}
    assert "\\x1b[2Jwiped \\u202etxet" in text


def test_colour_changes_no_text():
    state, closing = STATES["partly_pass"]
    import re

    colored = shown(state, closing, BEFORE, has_color=True)

    assert "\x1b[1;31m✗\x1b[0m" in colored
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored) == shown(state, closing, BEFORE)


LONG = replace(CHECKS[0], title="The weights have one row per query and one column per key.")


def row_of(one: Outcome, *, verbose: bool = False, **changed: object) -> list[str]:
    stream = io.StringIO()
    Report(on(stream, **changed), EXERCISE, is_verbose=verbose).outcome(one)
    return stream.getvalue().splitlines()[3:]


@pytest.mark.parametrize(("status", "verbose"), [(Status.FAILED, False), (Status.PASSED, True)])
def test_a_long_title_wraps_where_it_matters(status, verbose):
    rows = row_of(Outcome(LONG, status, seconds=0.004), verbose=verbose)

    assert "The weights have one row per query and one  " in rows[0]
    assert rows[1] == "           column per key"


def test_elsewhere_it_is_cut_to_one_line():
    assert row_of(Outcome(LONG, Status.PASSED, seconds=0.004)) == [
        "    ✓ 1.1  The weights have one row per query and…       10     4 ms"
    ]


def test_a_wider_terminal_shows_more_of_it():
    (row,) = row_of(Outcome(LONG, Status.PASSED, seconds=0.004), width=100)

    assert "one column per key  " in row


def test_a_long_figure_gives_way_to_the_title_and_a_long_title_to_a_short_figure():
    (long_figure,) = row_of(Outcome(LONG, Status.PASSED, measured="0.204 after 21 steps"))
    (short_figure,) = row_of(Outcome(LONG, Status.PASSED, measured="1.4x"))

    assert "0.204" not in long_figure
    assert short_figure == ("    ✓ 1.1  The weights have one row per query…   1.4x    10     0 ms")


def test_why_a_speed_could_not_be_told_is_said_when_asked():
    unsure = outcome("4.1", Status.UNSURE, message=Message("x", "a noisy machine"))

    assert "a noisy machine" not in "".join(row_of(unsure))
    assert "a noisy machine" in "".join(row_of(unsure, verbose=True))


def test_wide_characters_keep_the_columns():
    stream = io.StringIO()
    report = Report(on(stream), EXERCISE)
    report.outcome(Outcome(replace(CHECKS[0], title="权重的每一行之和为一"), Status.PASSED))
    report.outcome(Outcome(CHECKS[1], Status.PASSED))
    one, two = stream.getvalue().splitlines()[-2:]

    assert terminal.cells(one) == terminal.cells(two)


def test_several_exercises_end_in_one_line_each():
    stream = io.StringIO()
    console.several(
        on(stream),
        [
            (samples.another("day01"), attempt()),
            (samples.another("day02"), attempt(samples.PARTLY)),
            (samples.another("day03"), STATES["not_started"][0]),
            (samples.another("day04"), STATES["syntax_error"][0]),
        ],
    )

    assert_gold("several", stream.getvalue())


def test_a_glance_has_a_mark_for_each_check_and_says_all_of_the_one_to_mend_first():
    said = io.StringIO()
    glance = console.Glance(terminal.Terminal(said), samples.EXERCISE)
    for ended in samples.PARTLY:
        glance.outcome(ended)
    glance.finish(samples.attempt(samples.PARTLY), console.Closing())
    shown = said.getvalue()

    assert shown.startswith(" ✗ 1.1 ")
    assert "   ✗ 2.2 " in shown
    assert "   · 2.3" in shown
    assert "axes 1 and 2 are swapped" in shown
    assert "weight 0.22" not in shown
    assert "checks pass" in shown.splitlines()[-1]
    assert max(map(len, shown.splitlines())) <= 80


def test_a_glance_at_the_speed_shows_only_what_is_new():
    said = io.StringIO()
    before = {o.check.name: o.status for o in samples.outcomes() if o.check.number != "4.1"}
    glance = console.Glance(terminal.Terminal(said), samples.EXERCISE, before)
    glance.has_only_news = True
    for ended in samples.outcomes():
        glance.outcome(ended)

    assert said.getvalue().strip() == "✓ 4.1"


@pytest.mark.parametrize(("is_plain", "is_whole"), [(False, False), (True, True)])
def test_a_long_line_of_code_is_cut_where_it_would_wrap(is_plain, is_whole):
    code = "return " + " + ".join(f"summand_{number}" for number in range(12))
    failed = replace(RAISED, lines=(Line(FILE, 61, code, "attention"),))
    text = shown(attempt(outcomes(c1_1=failed), number=1), Closing(), width=80, is_plain=is_plain)

    assert "return summand_0 + summand_1 + summand_2 + summand" in text
    assert (code in text) is is_whole
    assert is_plain or all(terminal.cells(line) <= 80 for line in text.splitlines())
