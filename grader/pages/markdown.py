"""A statement in Markdown as safe HTML: no markup of its own, no pictures, web links only."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING

from markupsafe import Markup

from grader.pages import text

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token


@lru_cache(maxsize=64)
def html(source: str, title: str = "") -> Markup:
    """``source`` as HTML whose headings begin at the third level and skip none.

    Args:
        title: a first heading that says only this again is left out.
    """
    parser = _parser()
    tokens = parser.parse(text.clean(text.cut(source, 60_000)))
    tokens = _without_title(tokens, title)
    _level(tokens)
    for token in tokens:
        for child in token.children or ():
            _restrain(child)
    return Markup(parser.renderer.render(tokens, parser.options, {}))


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt
    from markdown_it.common.utils import escapeHtml

    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")

    def fence(tokens: list[Token], index: int, *_: object) -> str:
        # The focus lets a keyboard scroll a line that is wider than the page.
        code = escapeHtml(tokens[index].content.rstrip("\n"))
        return f'<pre tabindex="0"><code>{code}</code></pre>\n'

    parser.renderer.rules["fence"] = fence  # type: ignore[attr-defined]
    parser.renderer.rules["code_block"] = fence  # type: ignore[attr-defined]
    parser.renderer.rules["table_open"] = (  # type: ignore[attr-defined]
        lambda *_: '<div class="scroll" tabindex="0"><table>\n'
    )
    parser.renderer.rules["table_close"] = lambda *_: "</table></div>\n"  # type: ignore[attr-defined]
    return parser


def _without_title(tokens: list[Token], title: str) -> list[Token]:
    if len(tokens) > 2 and tokens[0].type == "heading_open" and tokens[0].tag == "h1":
        heading = tokens[1].content.casefold()
        if title.casefold() in heading or not title:
            return tokens[3:]
    return tokens


def _level(tokens: list[Token]) -> None:
    """Number the headings from the third level on, each at most one deeper than the one before."""
    written: list[int] = []  # the levels as written that are open now
    for token in tokens:
        if token.type == "heading_open":
            own = int(token.tag[1:])
            while written and written[-1] >= own:
                written.pop()
            written.append(own)
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(2 + len(written), 6)}"


def _restrain(token: Token) -> None:
    """Let links lead to the web only; one to a file would lead nowhere from the reports folder."""
    if token.type == "link_open":
        target = str(token.attrGet("href") or "")
        token.attrs = {}
        if target.startswith(("https://", "http://")):
            token.attrs = {"href": target, "rel": "noreferrer"}
        else:
            token.tag = "span"
    elif token.type == "link_close":
        token.tag = "a"
