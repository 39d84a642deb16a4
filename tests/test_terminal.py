"""The terminal shows what it can, and what is shown does nothing to it."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grader import terminal
from grader.feedback import Mark


class Screen(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("color", "variables", "on_screen", "has_color"),
    [
        ("auto", {}, True, True),
        ("auto", {}, False, False),
        ("always", {"NO_COLOR": "1"}, False, True),
        ("never", {"FORCE_COLOR": "1"}, True, False),
        ("auto", {"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
        ("auto", {"NO_COLOR": ""}, True, True),
        ("auto", {"FORCE_COLOR": "1"}, False, True),
        ("auto", {"FORCE_COLOR": "0"}, False, False),
        ("auto", {"CLICOLOR": "0"}, True, False),
        ("auto", {"TERM": "dumb"}, True, False),
    ],
)
def test_colour_is_chosen_by_option_then_variables_then_the_stream(
    color, variables, on_screen, has_color
):
    stream = Screen() if on_screen else io.StringIO()
    variables = {"TERM": "xterm"} | variables

    assert terminal.of(stream, color, variables).has_color is has_color


def test_a_dumb_terminal_is_treated_as_a_file():
    assert not terminal.of(Screen(), variables={"TERM": "dumb"}).is_terminal


def test_plain_is_asked_for_by_a_variable():
    assert terminal.of(Screen(), variables={"GRADE_PLAIN": "1"}).is_plain
    assert not terminal.of(Screen(), variables={"GRADE_PLAIN": "0"}).is_plain


@pytest.mark.parametrize("encoding", ["gbk", "ascii", "cp1252"])
def test_bars_and_marks_fall_back_together(encoding):
    here = terminal.of(io.TextIOWrapper(io.BytesIO(), encoding=encoding))

    assert here.mark(Mark.PASS) == "PASS"
    assert here.bar(3, 5) == "###.."


@pytest.mark.parametrize(
    ("text", "width"), [("", 0), ("abc", 3), ("多头注意力", 10), ("é", 1), ("e\u0301", 1)]
)
def test_width_is_counted_in_cells(text, width):
    assert terminal.cells(text) == width


def test_padding_counts_cells():
    assert terminal.left("多头", 6) == "多头  "
    assert terminal.right("多头", 6) == "  多头"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\tb", "a   b"),
        ("a\r\nb", "a\nb"),
        ("over\rwritten", "over\\x0dwritten"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\x9b31m", "\\x9b31m"),
        ("\ud800", "\\ud800"),
        ("plain, 多头 ✓", "plain, 多头 ✓"),
    ],
)
def test_what_acts_on_a_terminal_is_shown_as_its_escape(text, shown):
    assert terminal.safe(text) == shown


@given(st.text())
def test_safe_text_has_no_control_character_but_newlines(text):
    shown = terminal.safe(text)

    shown.encode("utf-8")
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs") and c != "\n"]


@given(st.text(alphabet="ab 多头\u0301✓-", max_size=80), st.integers(4, 30))
def test_wrapped_lines_fit_and_lose_no_word(text, width):
    lines = terminal.wrap(text, width)

    assert all(terminal.cells(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


@given(st.text())
def test_anything_can_be_written_to_a_narrow_encoding(text):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="")
    terminal.of(stream).write(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("return x.view(1)", "return x.view(1)"),
        ("return " + "x" * 30, "return " + "x" * 12 + "…"),
        ("return 多头注意力多头注意力 + 1", "return 多头注意力多…"),
    ],
)
def test_code_is_cut_anywhere_and_by_cells(text, shown):
    made = terminal.of(io.StringIO(), "never", {})

    assert made.cut(text, 20, is_code=True) == shown
    assert terminal.cells(shown) <= 20
