"""The terminal: what a stream can show, and text that is safe to show there.

Colour is never the only carrier of a fact, comes from the sixteen colours that every theme sets,
and is left out where it isn't wanted.
"""

from __future__ import annotations

import os
import re
import shutil
import textwrap
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

from grader.feedback import Mark

NARROWEST, WIDEST = 60, 100

GLYPHS = {
    Mark.PASS: "✓",
    Mark.FAIL: "✗",
    Mark.WAIT: "·",
    Mark.TODO: "·",
    Mark.SKIP: "-",
    Mark.TIME: "!",
    Mark.STOP: "!",
    Mark.NEAR: "~",
}
WORDS = {mark: mark.value.upper() for mark in Mark}

_STYLES = {
    "pass": "32",
    "fail": "31",
    "warn": "33",
    "accent": "36",
    "bold": "1",
    "fail bold": "1;31",
    "pass bold": "1;32",
}
MARK_STYLES = {
    Mark.PASS: "pass",
    Mark.FAIL: "fail bold",
    Mark.TIME: "fail bold",
    Mark.STOP: "fail bold",
    Mark.NEAR: "warn",
    Mark.SKIP: "",
    Mark.WAIT: "warn",
    Mark.TODO: "accent",
}

COLOUR = re.compile("\x1b\\[[0-9;:]{0,40}m")
"""Escapes that only colour a terminal."""

# Control characters; what turns the direction of text or hides in it; surrogates without a partner.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)


@dataclass(frozen=True, slots=True)
class Terminal:
    """A stream to write to, and what it can show."""

    stream: TextIO
    width: int = 80
    is_terminal: bool = False  # a person looks at it, so that bars make sense
    has_color: bool = False
    is_plain: bool = False  # sentences instead of tables, for screen readers
    has_glyphs: bool = True

    def mark(self, mark: Mark) -> str:
        """The sign of a mark, one cell wide, or a word of four where signs can't be shown."""
        return GLYPHS[mark] if self.has_glyphs else WORDS[mark]

    def bar(self, filled: int, length: int) -> str:
        """A bar of `length` cells, `filled` of them full."""
        full, empty = ("█", "░") if self.has_glyphs else ("#", ".")
        return full * filled + empty * (length - filled)

    def cut(self, text: str, width: int, *, is_code: bool = False) -> str:
        """`text` in at most `width` cells, with dots where something was left out.

        Between words; code, whose words are long, anywhere.
        """
        if cells(text) <= width:
            return text
        dots = "…" if self.has_glyphs else "..."
        room = max(width - cells(dots), 1)
        if not is_code:
            return wrap(text, room)[0] + dots
        while cells(text) > room:
            text = text[:-1]
        return text + dots

    def styled(self, text: str, style: str) -> str:
        """`text` in a style of this room, where there is colour."""
        if not self.has_color or not style or not text.strip():
            return text
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"

    def turn_page(self) -> None:
        """Begin at the top of an empty window; what it showed is in the scroll-back."""
        if self.is_terminal and not self.is_plain:
            rows = shutil.get_terminal_size().lines
            self.write("\n" * rows + "\x1b[H\x1b[J", end="")

    def write(self, text: str = "", end: str = "\n") -> None:
        """Write a line; what the stream can't encode is written as an escape."""
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        try:
            self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + end)
            self.stream.flush()
        except BrokenPipeError:
            # `grade day23 | head` has seen enough; what is graded is recorded all the same.
            discard(self.stream)


def discard(stream: TextIO) -> None:
    """Send nowhere what is still written to a stream, and what it holds back, whose reader left."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def of(stream: TextIO, color: str = "auto", variables: Mapping[str, str] = os.environ) -> Terminal:
    """What a stream can show.

    Args:
        stream: where lines will be written.
        color: "auto", "always" or "never"; "auto" asks NO_COLOR, FORCE_COLOR, CLICOLOR and TERM,
            in this order, and then whether the stream is a terminal.
        variables: of the environment.
    """
    is_terminal = bool(getattr(stream, "isatty", lambda: False)())
    is_dumb = variables.get("TERM") == "dumb"
    columns = shutil.get_terminal_size().columns if is_terminal else 80
    return Terminal(
        stream=stream,
        width=max(NARROWEST, min(columns, WIDEST)),
        is_terminal=is_terminal and not is_dumb,
        has_color=_has_color(color, variables, is_terminal=is_terminal, is_dumb=is_dumb),
        is_plain=variables.get("GRADE_PLAIN", "") not in ("", "0"),
        has_glyphs=_can_encode(stream, "✓✗·█░"),
    )


def safe(text: str) -> str:
    """`text` without characters that act on a terminal: each is shown as its escape.

    Newlines stay, tabs become spaces; escapes that only colour are left out.
    """
    text = COLOUR.sub("", text)
    return _UNSAFE.sub(_escape, text.replace("\r\n", "\n").expandtabs(4))


def cells(text: str) -> int:
    """The width of `text` in cells: 多头 takes four."""
    if text.isascii():
        return len(text)
    return sum(_cells(character) for character in text)


def left(text: str, width: int) -> str:
    """`text` padded on its right to `width` cells."""
    return text + " " * (width - cells(text))


def right(text: str, width: int) -> str:
    """`text` padded on its left to `width` cells."""
    return " " * (width - cells(text)) + text


def wrap(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` cells, broken between words, or anywhere in CJK text."""
    if text.isascii():
        return textwrap.wrap(text, width, break_on_hyphens=False) or [""]
    lines, line = [], ""
    for word in _pieces(text):
        if cells(line) + cells(word.rstrip()) > width and line.strip():
            lines.append(line.rstrip())
            line = ""
        while cells(word.rstrip()) > width:
            place = _fitting(word, width)
            lines.append(word[:place])
            word = word[place:]
        line += word if line else word.lstrip()
    return [*lines, line.rstrip()] if line.strip() or not lines else lines


def _pieces(text: str) -> list[str]:
    """Words with the space after them, wide characters one by one."""
    pieces = [""]
    for character in text:
        wide = _cells(character) == 2
        begins = wide or (pieces[-1][-1:].isspace() and not character.isspace())
        if begins or (pieces[-1] and _cells(pieces[-1][0]) == 2 and not character.isspace()):
            pieces.append("")
        pieces[-1] += " " if character.isspace() else character
    return [piece for piece in pieces if piece]


def _fitting(word: str, width: int) -> int:
    """How many characters of `word` fit into `width` cells; at least one."""
    taken = 0
    for place, character in enumerate(word):
        taken += _cells(character)
        if taken > width:
            return max(place, 1)
    return len(word)


def _cells(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _escape(found: re.Match[str]) -> str:
    number = ord(found[0])
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _has_color(
    color: str, variables: Mapping[str, str], *, is_terminal: bool, is_dumb: bool
) -> bool:
    if color != "auto":
        return color == "always"
    if variables.get("NO_COLOR"):
        return False
    if variables.get("FORCE_COLOR", "") not in ("", "0"):
        return True
    if variables.get("CLICOLOR") == "0" or is_dumb:
        return False
    # The old Windows console shows escape codes as they are; Windows Terminal names itself.
    return is_terminal and (os.name != "nt" or "WT_SESSION" in variables or "TERM" in variables)


def _can_encode(stream: TextIO, text: str) -> bool:
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
