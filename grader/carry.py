"""Carrying an answer over to a newer stub: what the learner wrote stays, the course's text is new.

Three texts are merged: the stub that the answer began with, the answer, and the new stub. The
regions between `# TODO 1` and `# END TODO` are matched by the definition they lie in, so that a
task may move or get another number; everything else is merged line by line. Where both sides have
changed the same lines, the learner's stay and the stub's follow as a comment. A merge that lost a
line of the learner's, or was no Python, is given up: the answer stays, with the new stub below it.
"""

from __future__ import annotations

import ast
import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from grader import exercise_file

_THEIRS = "the new stub has here:"
_MINE = "your text here was:"
_GONE = "no longer asked for; your answer was:"
_WHOLE = "the new stub, which could not be joined with your answer:"


@dataclass(frozen=True, slots=True)
class Carried:
    """An answer on a newer stub."""

    text: str
    kept: tuple[str, ...] = ()  # definitions whose written regions were carried over
    signatures: tuple[str, ...] = ()  # those among them that take other arguments now
    statements: tuple[str, ...] = ()  # those whose docstring or words are others now
    added: tuple[str, ...] = ()  # definitions with regions that the old stub did not have
    removed: tuple[str, ...] = ()  # written ones that are no longer asked for
    conflicts: int = 0  # places where both sides changed the same lines


@dataclass(frozen=True, slots=True)
class _Key:
    """Which region: the definition it lies in ("" for the module itself), and its place there."""

    name: str  # "KVCache.append"
    place: int


@dataclass(frozen=True, slots=True)
class _Region:
    heading: str  # the line of its TODO
    body: tuple[str, ...]
    ending: str  # the line of its END TODO

    @property
    def lines(self) -> tuple[str, ...]:
        return (self.heading, *self.body, self.ending)


_Token = str | _Key
"""A line, or a region in the place of its lines."""


@dataclass(slots=True)
class _Form:
    """A text with its regions taken out."""

    tokens: list[_Token] = field(default_factory=list)
    regions: dict[_Key, _Region] = field(default_factory=dict)
    numbers: dict[tuple[int, int], _Key] = field(default_factory=dict)  # (task, place) -> which


def carry(base: str, mine: str, theirs: str) -> Carried:
    """Merge an answer with a newer stub.

    Args:
        base: the stub that the answer began with.
        mine: the answer.
        theirs: the new stub.
    """
    if base in (mine, theirs):
        return Carried(theirs if mine == base else mine)
    old, new = _stub(base), _stub(theirs)
    own = _answer(mine, base, old)
    tokens, conflicts = _merged(old.tokens, own, new)
    lines = [line for token in tokens for line in _lines(token, old, own, new)]
    written = [key for key in own.regions if _is_written(key, old, own)]
    gone = [key for key in written if key not in tokens]
    text = "\n".join(lines)
    if gone:
        aside = [line for key in gone for line in ("", *_aside(key, own, mine))]
        text = "\n".join([text.rstrip("\n"), "", *aside]) + "\n"
    if _loses(base, mine, text) or (_tree(mine) and not _tree(text)):
        whole = [f"# {_WHOLE}", *(_comment(line) for line in theirs.rstrip("\n").split("\n"))]
        return Carried("\n".join([mine.rstrip("\n"), "", "", *whole]) + "\n", conflicts=1)
    kept = [key for key in written if key in new.regions and key in tokens]
    before, after = _definitions(base), _definitions(theirs)
    both = [key.name for key in kept if key.name in before and key.name in after]
    return Carried(
        text=text,
        kept=_names(key.name for key in kept),
        signatures=_names(n for n in both if _arguments(before[n]) != _arguments(after[n])),
        statements=_names(
            key.name
            for key in kept
            if _said(before.get(key.name)) != _said(after.get(key.name))
            or (key in old.regions and old.regions[key].heading != new.regions[key].heading)
        ),
        added=_names(key.name for key in new.regions if key not in old.regions),
        removed=_names(key.name for key in gone),
        conflicts=conflicts,
    )


def merge(base: str, mine: str, theirs: str) -> Carried:
    """The same for a text without regions, such as a Markdown file that a learner fills in."""
    own, new = _Form(list(mine.split("\n"))), _Form(list(theirs.split("\n")))
    tokens, conflicts = _merged(list(base.split("\n")), own, new, quote="> ")
    return Carried("\n".join(map(str, tokens)), conflicts=conflicts)


# --- reading ----------------------------------------------------------------------------------


def _stub(text: str) -> _Form:
    """A stub's form; its markers pair up, since they were generated."""
    form = _Form()
    lines = text.split("\n")
    spans = _spans(text)
    counts: Counter[str] = Counter()
    numbers: Counter[int] = Counter()
    at = 0
    for first, last, task in _marked(lines):
        form.tokens += lines[at:first]
        around = [(end - start, name) for start, end, name in spans if start <= first < end]
        name = min(around)[1] if around else ""
        key = _Key(name, counts[name])
        counts[name] += 1
        form.tokens.append(key)
        form.regions[key] = _Region(lines[first], tuple(lines[first + 1 : last]), lines[last])
        form.numbers[task, numbers[task]] = key
        numbers[task] += 1
        at = last + 1
    form.tokens += lines[at:]
    return form


def _answer(mine: str, base: str, old: _Form) -> _Form:
    """An answer's form: regions by their markers, or, where these are gone, by the definition."""
    lines = mine.split("\n")
    found: dict[int, tuple[int, _Key]] = {}  # first line -> the line behind the region, which
    numbers: Counter[int] = Counter()
    form = _Form()
    for first, last, task in _marked(lines):
        key = old.numbers.get((task, numbers[task]))
        numbers[task] += 1
        if key is not None:
            found[first] = (last + 1, key)
            form.regions[key] = _Region(lines[first], tuple(lines[first + 1 : last]), lines[last])
    for key in old.regions:
        if key not in form.regions and (span := _body_of(key, mine, old)) is not None:
            first, last = span
            if any(first < end and start < last for start, (end, _) in found.items()):
                continue
            region = old.regions[key]
            marks = (region.heading.strip(), region.ending.strip())
            body = tuple(line for line in lines[first:last] if line.strip() not in marks)
            found[first] = (last, key)
            form.regions[key] = _Region(region.heading, body, region.ending)
    at = 0
    for first in sorted(found):
        end, key = found[first]
        form.tokens += [*lines[at:first], key]
        at = end
    form.tokens += lines[at:]
    return form


def _marked(lines: Sequence[str]) -> Iterator[tuple[int, int, int]]:
    """Regions whose two markers are there: the lines of both, the task's number."""
    opened: tuple[int, int] | None = None
    for index, line in enumerate(lines):
        if match := exercise_file.TODO.match(line):
            opened = (index, int(match[1]))
        elif exercise_file.END_TODO.match(line):
            if opened is not None:
                yield opened[0], index, opened[1]
            opened = None


def _body_of(key: _Key, mine: str, old: _Form) -> tuple[int, int] | None:
    """The lines that a definition's only region must have become, in an answer without markers."""
    if sum(other.name == key.name for other in old.regions) != 1:
        return None
    node = _definitions(mine).get(key.name)
    if node is None:
        return None
    is_stated = ast.get_docstring(node) is not None
    rest = node.body[1:] if is_stated else node.body
    if is_stated:
        first = node.body[0].end_lineno or 0
    elif rest[0].lineno > node.lineno:
        first = rest[0].lineno - 1
    else:
        return None  # all on one line
    return first, next(end for _, end, name in _spans(mine) if name == key.name)


_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _definitions(text: str) -> dict[str, _Definition]:
    """Every function and class of a text by its dotted name; the last one of a name."""
    found: dict[str, _Definition] = {}

    def collect(parent: ast.AST, prefix: str) -> None:
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, _Definition):
                found[f"{prefix}{node.name}"] = node
                collect(node, f"{prefix}{node.name}.")
            else:
                collect(node, prefix)

    tree = _tree(text)
    if tree is not None:
        collect(tree, "")
    return found


def _spans(text: str) -> list[tuple[int, int, str]]:
    """The lines of every definition: the index of the first, of the one behind, its name."""
    # The markers of a region stand at its definition's end, where Python sees no more code.
    lines = text.split("\n")
    found = []
    for name, node in _definitions(text).items():
        end = node.end_lineno or node.lineno
        while end < len(lines) and lines[end].strip().startswith("#"):
            if len(lines[end]) - len(lines[end].lstrip()) <= node.col_offset:
                break
            end += 1
        found.append((node.lineno - 1, end, name))
    return found


def _tree(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


# --- merging ----------------------------------------------------------------------------------


def _merged(
    base: Sequence[_Token], own: _Form, new: _Form, quote: str = "# "
) -> tuple[list[_Token], int]:
    """The tokens of all three, and how many places both sides have changed."""
    found: list[_Token] = []
    conflicts = 0
    for old, mine, theirs in _hunks(base, own.tokens, new.tokens):
        if mine in (old, theirs):
            found += theirs
        elif theirs == old:
            found += mine
        elif not old:
            # Both have put something in: imports, say.
            found += [*theirs, *(t for t in mine if not (_is_import(t) and t in theirs))]
        else:
            conflicts += 1
            elsewhere = {t for t in mine if isinstance(t, _Key) and t not in theirs}
            if any(token in new.tokens for token in elsewhere):
                # The region lives on in another place of the new stub.
                lines = [t for t in mine if isinstance(t, str)]
                found += [*theirs, *_quoted(_MINE, lines, quote)]
            else:
                lines = [
                    line
                    for token in theirs
                    if token not in mine
                    for line in ([token] if isinstance(token, str) else new.regions[token].lines)
                ]
                found += [*mine, *_quoted(_THEIRS, lines, quote)]
    return found, conflicts


def _hunks(
    base: Sequence[_Token], mine: Sequence[_Token], theirs: Sequence[_Token]
) -> Iterator[tuple[list[_Token], list[_Token], list[_Token]]]:
    """The three texts in pieces: between those that are the same in all of them, and these."""
    one = difflib.SequenceMatcher(None, base, mine, autojunk=False).get_matching_blocks()
    two = difflib.SequenceMatcher(None, base, theirs, autojunk=False).get_matching_blocks()
    at = [0, 0, 0]
    i = j = 0
    while i < len(one) and j < len(two):
        first = max(one[i].a, two[j].a)
        last = min(one[i].a + one[i].size, two[j].a + two[j].size)
        if first < last:
            in_mine, in_theirs = one[i].b + first - one[i].a, two[j].b + first - two[j].a
            yield (
                list(base[at[0] : first]),
                list(mine[at[1] : in_mine]),
                list(theirs[at[2] : in_theirs]),
            )
            size = last - first
            same = list(base[first:last])
            yield same, same, same
            at = [last, in_mine + size, in_theirs + size]
        if one[i].a + one[i].size < two[j].a + two[j].size:
            i += 1
        else:
            j += 1
    yield list(base[at[0] :]), list(mine[at[1] :]), list(theirs[at[2] :])


def _lines(token: _Token, old: _Form, own: _Form, new: _Form) -> tuple[str, ...]:
    """What stands in the merged text for a line or a region."""
    if isinstance(token, str):
        return (token,)
    if token not in new.regions:
        return own.regions[token].lines
    if not _is_written(token, old, own):
        return new.regions[token].lines
    mine, theirs = own.regions[token], new.regions[token]
    if _indent(mine.heading) != _indent(theirs.heading):
        return mine.lines
    return (theirs.heading, *mine.body, theirs.ending)


def _is_written(key: _Key, old: _Form, own: _Form) -> bool:
    """Whether the learner has changed what a region held."""
    if key not in own.regions:
        return False
    return key not in old.regions or own.regions[key].body != old.regions[key].body


def _aside(key: _Key, own: _Form, mine: str) -> list[str]:
    """What is kept of a region that the new stub has no place for."""
    node = _definitions(mine).get(key.name)
    if node is not None and "." not in key.name:
        # It stays in use: other code of the learner's may call it.
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
        end = next(e for s, e, n in _spans(mine) if n == key.name)
        return ["", f"# {_GONE}", *mine.split("\n")[first:end]]
    where = f" ({key.name})" if key.name else ""
    return [f"# {_GONE}{where}", *(_comment(line) for line in own.regions[key].body)]


def _quoted(what: str, lines: Sequence[str], quote: str) -> list[str]:
    if not any(line.strip() for line in lines):
        return []
    return [f"{quote}{what}", *(f"{quote}{line}".rstrip() for line in lines)]


def _comment(line: str) -> str:
    return f"# {line}".rstrip()


def _is_import(token: _Token) -> bool:
    return isinstance(token, str) and token.startswith(("import ", "from "))


def _loses(base: str, mine: str, text: str) -> bool:
    """Whether a line that the learner has written is missing."""

    def counted(lines: str) -> Counter[str]:
        bare = (line.strip().removeprefix("#").strip() for line in lines.split("\n"))
        return Counter(line for line in bare if line)

    written = counted(mine) - counted(base)
    return bool(written - counted(text))


# --- saying -----------------------------------------------------------------------------------


def _arguments(node: _Definition) -> str:
    if isinstance(node, ast.ClassDef):
        return ", ".join(map(ast.unparse, node.bases))
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({ast.unparse(node.args)}){returns}"


def _said(node: _Definition | None) -> str | None:
    return ast.get_docstring(node) if node is not None else None


def _names(names: Iterator[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name or "the module" for name in names))


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]
