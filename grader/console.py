"""The console: an attempt as lines of text, written while its checks end.

    report = Report(terminal, exercise, previous)
    report.begin()                  # the title, at once
    report.start(environment)       # the worker is ready
    report.outcome(outcome)         # for each check as it ends
    report.finish(attempt, closing)

Every text that may come from the learner's code goes through `terminal.safe`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from grader import feedback
from grader.feedback import Finding, Mark
from grader.model import (
    Attempt,
    Environment,
    Exercise,
    Fault,
    Line,
    Outcome,
    Status,
    Verdict,
)
from grader.terminal import MARK_STYLES, Terminal, cells, left, right, safe, wrap

UNFOLDED = 2
"""How many failing checks say everything; the others are one line each."""

OUTPUT_LINES = 20
NOTE_WIDTH = 19
POINTS_WIDTH = 6
SHORT_FIGURE = 8
LABEL_WIDTH = 17

_UNREAD = ("missing", "unreadable", "too large", "encoding")
"""Faults of the file itself, whose text names it."""


@dataclass(frozen=True, slots=True)
class Closing:
    """What the last lines say besides the attempt itself."""

    page: str = ""  # "reports/day23.html"; "" when no page is written
    hints_left: int = 0  # for the check to mend first
    todos: tuple[tuple[str, Line], ...] = ()  # task and place of each TODO that is open
    is_first_pass: bool = False
    days_done: int = 0
    days: int = 0
    streak: int = 0
    next_exercise: Exercise | None = None
    has_solution: bool = False


@dataclass(slots=True)
class Report:
    """One grading of one exercise on a terminal."""

    terminal: Terminal
    exercise: Exercise
    previous: Mapping[str, Status] = field(default_factory=dict)  # before, by name of the check
    is_verbose: bool = False
    is_quiet: bool = False
    page: str = ""
    _is_titled: bool = False
    _is_started: bool = False
    _task: str = ""
    _unfolded: int = 0
    _folded: int = 0
    _is_after_gap: bool = False
    _open: list[Finding] = field(default_factory=list)  # checks of a task that is to be written
    _shown: set[str] = field(default_factory=set)

    def begin(self) -> None:
        """Write the title, so that something stands there while torch is imported."""
        if not self._is_titled and not self.is_quiet:
            self._is_titled = True
            title = safe(self.exercise.title)
            if self.terminal.is_plain:
                self.terminal.write(f"{self.exercise.id}, {title}.", end="")
            else:
                name = self.terminal.styled(self.exercise.id, "bold")
                self.terminal.write(f"{name}  {title}", end="")

    def start(self, environment: Environment | None) -> None:
        """End the title's line with where the checks run."""
        self.begin()
        if self._is_started or self.is_quiet:
            return
        self._is_started = True
        place = ""
        if environment is not None and environment.torch:
            place = f"torch {environment.torch}, {_device(environment.device)}"
        if self.terminal.is_plain:
            self.terminal.write(f" {place}." if place else "")
            return
        taken = cells(f"{self.exercise.id}  {safe(self.exercise.title)}")
        width = self.terminal.width - NOTE_WIDTH + 7
        gap = max(2, width - taken - cells(place))
        self.terminal.write(" " * gap + place if place else "")

    def outcome(self, outcome: Outcome) -> None:
        """Write how a check ended."""
        self._shown.add(outcome.check.name)
        if self.is_quiet:
            return
        self.start(None)
        before = self.previous.get(outcome.check.name)
        finding = feedback.of(outcome, self.exercise, previous=before)
        if self._open and self._open[0].outcome.check.task != outcome.check.task:
            self._write_open()
        if outcome.check.task != self._task:
            if not self._task:
                self.terminal.write()
            self._task = outcome.check.task
            title = safe(self.exercise.task(self._task).title)
            text = f"Task {title}." if self.terminal.is_plain else f"  {title}"
            self.terminal.write(self.terminal.styled(text, "bold"))
        if outcome.status is Status.TODO and not self.is_verbose and not self.terminal.is_plain:
            self._open.append(finding)
            return
        self._write_open()
        for line in self._row(finding):
            self.terminal.write(line)
        self._is_after_gap = False
        if outcome.status.is_mistake:
            if self._unfolded < UNFOLDED or self.is_verbose:
                self._unfolded += 1
                self._unfold(finding)
            else:
                self._folded += 1
        elif self.is_verbose:
            fields = [("reason", safe(finding.sentence).splitlines())] if finding.sentence else []
            if outcome.output:
                fields.append(("you printed", self._output(outcome)))
            self._write_fields(fields)

    def finish(self, attempt: Attempt, closing: Closing) -> None:
        """Write what is left: checks that were not run, the verdict, and the one next command."""
        self.page = closing.page or self.page
        if self.is_quiet:
            self.terminal.write(f"{self.exercise.id}  {self._verdict_line(attempt)}")
            return
        self.start(None)
        if self._has_results(attempt, closing):
            self._write_open()
            self._summary(attempt, closing)

    def _has_results(self, attempt: Attempt, closing: Closing) -> bool:
        """Show what no check has shown yet; whether there are checks to sum up."""
        if attempt.fault is not None and not attempt.outcomes:
            self._fault(attempt.fault)
            return False
        if attempt.verdict is Verdict.NOT_STARTED:
            self._not_started(closing)
            return False
        for outcome in attempt.outcomes:
            if outcome.check.name not in self._shown:
                self.outcome(outcome)
        return True

    # One check

    def _write_open(self) -> None:
        """One line for all checks of a task that is still to be written."""
        found, self._open = self._open, []
        if len(found) < 3:
            rows = [line for finding in found for line in self._row(finding)]
        else:
            mark = self.terminal.styled(
                self.terminal.mark(found[0].mark), MARK_STYLES[found[0].mark]
            )
            note = safe(found[0].note) or "still to be written"
            points = sum(finding.outcome.check.points for finding in found)
            text = f"{found[0].number} to {found[-1].number}  {note}: {len(found)} checks"
            rows = [f"    {mark} {text}, {points} points"]
        for row in rows:
            self.terminal.write(row)
            self._is_after_gap = False

    def _row(self, finding: Finding) -> list[str]:
        if self.terminal.is_plain:
            return [_sentence_of(finding)]
        mark = self.terminal.mark(finding.mark)
        number_width = max(cells(check.number) for check in self.exercise.checks)
        start = 4 + cells(mark) + 1 + number_width + 2
        width = self.terminal.width - start - POINTS_WIDTH - 2 - NOTE_WIDTH
        measured = safe(finding.outcome.measured)
        title = safe(finding.title)
        # A long figure gives way to the title, a long title to a short figure.
        if cells(measured) > SHORT_FIGURE and cells(title) + 2 + cells(measured) > width:
            measured = ""
        room = width - (cells(measured) + 2 if measured else 0)
        if finding.outcome.status.is_mistake or self.is_verbose:
            first, *rest = wrap(title, room)
        else:
            first, rest = self.terminal.cut(title, room), []
        note = safe(finding.note)
        is_note_long = cells(note) > NOTE_WIDTH
        seconds = feedback.seconds_text(finding.outcome.seconds)
        end = right(seconds, 7) if not note else "" if is_note_long else note
        row = (
            f"    {self.terminal.styled(mark, MARK_STYLES[finding.mark])}"
            f" {left(finding.number, number_width)}"
            f"  {left(first, width - cells(measured))}{measured}"
            f"{right(finding.points, POINTS_WIDTH)}  {end}"
        )
        lines = [row.rstrip()] + [" " * start + line for line in rest]
        if is_note_long:
            room = self.terminal.width - start
            lines += [" " * start + line for line in wrap(note, room)]
        return lines

    def _unfold(self, finding: Finding) -> None:
        outcome = finding.outcome
        fields: list[tuple[str, list[str]]] = []
        if finding.smallest:
            room = self.terminal.width - 11 - LABEL_WIDTH
            smallest = safe(finding.smallest).splitlines()
            fields.append(
                ("smallest input", [part for line in smallest for part in wrap(line, room)])
            )
        if finding.line is not None:
            room = self.terminal.width - 11 - LABEL_WIDTH
            place, *code = _place(finding.line, room)
            if not self.terminal.is_plain:
                code = [self.terminal.cut(line, room, is_code=True) for line in code]
            fields.append((finding.verb, [place, *code]))
        if outcome.output:
            fields.append(("you printed", self._output(outcome)))
        if self.is_verbose and outcome.traceback:
            fields.append(("traceback", safe(outcome.traceback).splitlines()))
        if self.terminal.is_plain:
            self.terminal.write(f"Found: {safe(finding.sentence)}")
            for line in () if outcome.expected is not None else finding.details:
                self.terminal.write(safe(line).strip())
            if outcome.expected is not None:
                self.terminal.write(f"Expected: {safe(_value(outcome.expected))}.")
                self.terminal.write(f"Got: {safe(_value(outcome.got))}.")
            self._write_fields(fields)
            return
        self.terminal.write()
        indent = " " * 11
        for paragraph in safe(finding.sentence).splitlines():
            for line in wrap(paragraph, self.terminal.width - len(indent)):
                self.terminal.write(indent + self.terminal.styled(line, "bold"))
        self._details(finding.details)
        if fields:
            self.terminal.write()
        self._write_fields(fields)
        self.terminal.write()
        self._is_after_gap = True

    def _details(self, details: Sequence[str]) -> None:
        lines = []
        for text in details:
            for line in safe(text).splitlines() or [""]:
                # Two blanks align what belongs together; a sentence has none and may be broken.
                is_sentence = "  " not in line.strip()
                lines += wrap(line, self.terminal.width - 11) if is_sentence else [line]
        longest = max((cells(line) for line in lines), default=0)
        # A picture that is broken over two lines says nothing, so its indent gives way first.
        indent = " " * max(2, min(11, self.terminal.width - longest))
        for line in lines:
            self.terminal.write((indent + line).rstrip())

    def _write_fields(self, fields: Sequence[tuple[str, list[str]]]) -> None:
        for label, lines in fields:
            if self.terminal.is_plain:
                self.terminal.write(f"{label.capitalize()}: {': '.join(lines)}")
                continue
            for place, line in enumerate(lines):
                name = label if place == 0 else ""
                self.terminal.write(" " * 11 + left(name, LABEL_WIDTH) + line)

    def _output(self, outcome: Outcome) -> list[str]:
        lines = safe(outcome.output).splitlines()
        limit = len(lines) if self.is_verbose else OUTPUT_LINES
        shown = [_shortened(line, 400) for line in lines[:limit]]
        place = f" in {self.page}" if self.page else "; -v shows them"
        if len(lines) > limit:
            more = len(lines) - limit
            shown.append(f"({more} more line{'s' if more > 1 else ''}{place})")
        if outcome.output_truncated:
            shown.append("(cut here: more was printed than is kept)")
        return shown

    # The last lines

    def _summary(self, attempt: Attempt, closing: Closing) -> None:
        write = self.terminal.write
        if not self._is_after_gap:
            write()
        style = "pass bold" if attempt.is_solved else "bold"
        write("  " + self.terminal.styled(self._verdict_line(attempt), style))
        if self._folded:
            plural = "s" if self._folded > 1 else ""
            write(f"  {self._folded} failing check{plural} in one line; -v says all of each")
        printed = [o for o in attempt.outcomes if o.output and not o.status.is_mistake]
        if printed and not self.is_verbose:
            numbers = ", ".join(o.check.number for o in printed[:6])
            more = ", …" if len(printed) > 6 else ""
            write(f"  Printed in {numbers}{more}: -v shows it")
        if attempt.verdict is Verdict.PASSED and not attempt.selected:
            self._passed(attempt, closing)
            return
        if closing.page:
            write(f"  Pictures: {closing.page}")
        write()
        if attempt.is_solved:
            self._commands("Next:", [(f"grade {self.exercise.id}", "runs all checks")])
            return
        self._what_next(attempt, closing)

    def _passed(self, attempt: Attempt, closing: Closing) -> None:
        write = self.terminal.write
        if closing.days:
            first = "First time all pass. " if closing.is_first_pass else ""
            row = f", {closing.streak} days in a row" if closing.streak > 1 else ""
            write(f"  {first}{closing.days_done} of {closing.days} days done{row}.")
        skipped = sum(o.status is Status.SKIPPED for o in attempt.outcomes)
        if skipped:
            points = attempt.score.skipped
            worth = f", {points} points," if points else ""
            plural, verb = ("s", "were") if skipped > 1 else ("", "was")
            write(f"  {skipped} check{plural}{worth} {verb} skipped and left out of the total.")
        if closing.page:
            write(f"  Pictures: {closing.page}")
        write()
        commands = []
        if closing.next_exercise is not None:
            following = closing.next_exercise
            title = f"{following.id}  {safe(following.title)}"
            commands.append((f"grade {following.id}", title))
        if closing.has_solution:
            commands.append((f"grade solution {self.exercise.id} --diff", ""))
        self._commands("Next:", commands or [("grade status", "")])

    def _what_next(self, attempt: Attempt, closing: Closing) -> None:
        statuses = {o.check.name: o.status for o in attempt.outcomes}
        chosen = [c for c in self.exercise.checks if c.name in statuses]
        first = feedback.fix_first(chosen, statuses)
        id = self.exercise.id
        if first is None:
            self._commands("Next:", [(f"grade {id}", "")])
            return
        if not statuses[first.name].is_mistake:
            line = next((line for task, line in closing.todos if task == first.task), None)
            place = f"{line.file}:{line.number}" if line else first.task
            number = self.exercise.task(first.task).number
            self._commands(f"Next: TODO {number}", [(place, ""), (f"grade {id}", "")])
            return
        count = closing.hints_left
        hints = f"{count} hint{'s' if count > 1 else ''}" if count else ""
        commands = [(f"grade hint {id}", hints)] if count else []
        commands.append((f"grade {id} --failed", ""))
        self._commands(f"Fix first: {first.number}", commands)

    def _commands(self, label: str, commands: Sequence[tuple[str, str]]) -> None:
        for place, (command, note) in enumerate(commands):
            name = label if place == 0 else ""
            shown = self.terminal.styled(command, "accent")
            pad = " " * max(2, 26 - cells(command)) if note else ""
            gap = " " if label.endswith(":") else "  "
            self.terminal.write(f"  {left(name, cells(label))}{gap}{shown}{pad}{note}".rstrip())

    def _verdict_line(self, attempt: Attempt) -> str:
        if attempt.fault is not None and not attempt.outcomes:
            return f"does not run yet: {safe(attempt.fault.text)}"
        if attempt.verdict is Verdict.NOT_STARTED:
            return "not started"
        score = attempt.score
        parts = [
            f"{attempt.passed} of {attempt.counted} checks pass{self._change(attempt)}",
            f"{score.earned}/{score.possible} points",
        ]
        if attempt.number:
            parts.append(f"attempt {attempt.number}")
        parts.append(feedback.seconds_text(attempt.seconds))
        return ", ".join(parts) + "." if self.terminal.is_plain else "   ".join(parts)

    def _change(self, attempt: Attempt) -> str:
        """How many more checks pass than before, of those that were run both times."""
        both = [
            o
            for o in attempt.outcomes
            if o.check.name in self.previous and o.status is not Status.SKIPPED
        ]
        before = sum(self.previous[o.check.name].earns for o in both)
        change = sum(o.status.earns for o in both) - before
        return f" ({change:+d})" if change else ""

    def _not_started(self, closing: Closing) -> None:
        write, exercise = self.terminal.write, self.exercise
        total = len(exercise.tasks)
        first: dict[str, Line] = {}
        for task, line in closing.todos:
            first.setdefault(task, line)
        write()
        write(f"  Not started: {total} of {total} TODOs are open.")
        write()
        width = max((cells(task) for task in first), default=0)
        for task, line in first.items():
            number = exercise.task(task).number
            write(f"    TODO {number:<2} {left(task, width)}    {line.file}:{line.number}")
        write()
        about = f"About {exercise.minutes} minutes. {safe(exercise.goal)}"
        for text in wrap(about, self.terminal.width - 2):
            write(f"  {text}")
        write(f"  The statement: {_statement(exercise)}")
        if closing.page:
            write(f"  The page, to open in a browser: {closing.page}")
        write()
        place = next((f"{line.file}:{line.number}" for line in first.values()), "the file")
        write(f"  Next: open {place}, then {self._again()}")

    def _again(self) -> str:
        """What the learner does to have the file graded once more."""
        return f"grade {self.exercise.id}"

    def _fault(self, fault: Fault) -> None:
        write, id = self.terminal.write, self.exercise.id
        mark = self.terminal.styled("!", "fail bold")
        text = safe(fault.text)
        write()
        if fault.kind in _UNREAD:
            first, *rest = wrap(text, self.terminal.width - 4)
            write(f"  {mark} {first}")
            for line in rest:
                write(f"    {line}")
            write()
            write("  No check was run. Not counted as an attempt.")
            restore = f"grade reset {id} puts the stub there"
            write(f"  Next: {restore if fault.kind == 'missing' else self._again()}")
            return
        where = f" on line {fault.line}" if fault.line else ""
        file = safe(fault.file) or self.exercise.files[0]
        has_kind = fault.kind[:1].isupper()
        kind = fault.kind if has_kind else text
        first, *rest = wrap(f"{file} does not run yet: {kind}{where}", self.terminal.width - 4)
        write(f"  {mark} {first}")
        for line in rest:
            write(f"    {line}")
        note = f" ({safe(fault.note)})" if fault.note else ""
        said = f"{text}{note}" if has_kind else ""
        self._source(fault, said)
        write()
        write("  No check was run. Not counted as an attempt.")
        again = self._again()
        write(f"  Next: {f'fix line {fault.line}, then {again}' if fault.line else again}")

    def _source(self, fault: Fault, said: str) -> None:
        """The lines around a fault, with a caret below the place."""
        write = self.terminal.write
        width = max((len(str(line.number)) for line in fault.source), default=0)
        if not any(line.number == fault.line for line in fault.source):
            if said:
                write()
                write(f"      {said}")
            return
        write()
        for line in fault.source:
            write(f"      {line.number:>{width}} | {_shortened(safe(line.text), 200)}".rstrip())
            if line.number == fault.line and said:
                column = (fault.column or 0) - 1
                before = safe(line.text[: max(column, 0)])
                indent = " " * cells(before) + "^ " if column >= 0 else ""
                room = max(20, self.terminal.width - 9 - width - cells(indent))
                first, *rest = wrap(said, room)
                write(f"      {'':{width}} | {indent}{self.terminal.styled(first, 'fail')}")
                for more in rest:
                    write(f"      {'':{width}} | {' ' * cells(indent)}{more}")


@dataclass(slots=True)
class Glance(Report):
    """One grading as `grade watch` shows it: a mark for each check, and what to mend first.

    The title and the time stand above it already.
    """

    has_only_news: bool = False  # no mark for a check that ended as it did before
    _column: int = 0
    _ended: list[Finding] = field(default_factory=list)

    def begin(self) -> None:
        """Write nothing: the title stands there."""

    def start(self, environment: Environment | None) -> None:
        """Write nothing: where the checks run is the same at every save."""

    def outcome(self, outcome: Outcome) -> None:
        """Write the mark and the number of a check."""
        self._shown.add(outcome.check.name)
        before = self.previous.get(outcome.check.name)
        finding = feedback.of(outcome, self.exercise, previous=before)
        self._ended.append(finding)
        if self.has_only_news and before is outcome.status:
            return
        if outcome.status is Status.TODO:
            if outcome.check.task != self._task:
                number = self.exercise.task(outcome.check.task).number
                self._write_mark(finding, f"{number} still to be written")
            self._task = outcome.check.task
            return
        about = f" {outcome.check.kind}" if outcome.status.is_mistake else ""
        width = max(cells(check.number) for check in self.exercise.checks)
        self._write_mark(finding, left(finding.number, width) + about)

    def finish(self, attempt: Attempt, closing: Closing) -> None:
        """Write the check to mend first with all that is known of it, and the sum."""
        if not self._has_results(attempt, closing):
            return
        if self._column:
            self.terminal.write()
        statuses = {o.check.name: o.status for o in attempt.outcomes}
        chosen = [c for c in self.exercise.checks if c.name in statuses]
        first = feedback.fix_first(chosen, statuses)
        for finding in self._ended:
            if finding.outcome.check == first and finding.outcome.status.is_mistake:
                self._mend(finding)
        style = "pass bold" if attempt.is_solved else "bold"
        self.terminal.write(" " + self.terminal.styled(self._verdict_line(attempt), style))
        if attempt.is_solved and closing.has_solution:
            self.terminal.write(f" beside the reference: grade solution {self.exercise.id} --diff")

    def _mend(self, finding: Finding) -> None:
        number = finding.number
        self.terminal.write(" " + self._rule())
        for place, line in enumerate(wrap(safe(finding.title), self.terminal.width - 12)):
            before = f" {self._sign(finding)} {left(number, 7)}" if not place else " " * 10
            self.terminal.write(f"{before} {line}")
        self._unfold(finding)

    def _write_mark(self, finding: Finding, text: str) -> None:
        width = cells(self.terminal.mark(finding.mark)) + 1 + cells(text)
        if self._column and self._column + 3 + width > self.terminal.width:
            self.terminal.write()
            self._column = 0
        gap = "   " if self._column else " "
        self.terminal.write(f"{gap}{self._sign(finding)} {text}", end="")
        self._column += cells(gap) + width

    def _sign(self, finding: Finding) -> str:
        mark = finding.mark
        return self.terminal.styled(self.terminal.mark(mark), MARK_STYLES[mark])

    def _rule(self) -> str:
        return "-" * (self.terminal.width - 2)

    def _again(self) -> str:
        return "save it"


def paper(terminal: Terminal, name: str, attempt: Attempt) -> None:
    """One line for a file that somebody handed in."""
    mark = Mark.PASS if attempt.is_solved else Mark.FAIL
    sign = terminal.styled(terminal.mark(mark), MARK_STYLES[mark])
    score = attempt.score
    said = f"{attempt.passed:3} of {attempt.counted} checks  {score.earned:3}/{score.possible}"
    if attempt.verdict is Verdict.NOT_STARTED:
        said = "not started"
    elif attempt.fault is not None and not attempt.outcomes:
        said = "does not load"
    terminal.write(f"  {sign} {left(said, 27)}  {safe(name)}")


def several(terminal: Terminal, graded: Sequence[tuple[Exercise, Attempt]]) -> None:
    """The last lines after more than one exercise: one line each, and the sum."""
    terminal.write()
    for exercise, attempt in graded:
        mark = Mark.PASS if attempt.is_solved else Mark.FAIL
        if attempt.verdict is Verdict.NOT_STARTED:
            mark = Mark.TODO
        sign = terminal.styled(terminal.mark(mark), MARK_STYLES[mark])
        said = f"{attempt.passed} of {attempt.counted} checks"
        if attempt.fault is not None and not attempt.outcomes:
            said = "does not run yet"
        elif attempt.verdict is Verdict.NOT_STARTED:
            said = "not started"
        title = wrap(safe(exercise.title), 44)[0]
        terminal.write(f"  {sign} {left(exercise.id, 9)}  {left(title, 44)}  {said}")
    solved = sum(attempt.is_solved for _, attempt in graded)
    terminal.write(f"  {solved} of {len(graded)} exercises pass")


def _sentence_of(finding: Finding) -> str:
    """A row in words, for those who hear it."""
    words = {
        Mark.PASS: "passed",
        Mark.FAIL: "failed",
        Mark.WAIT: "waits",
        Mark.TODO: "to be written",
        Mark.SKIP: "skipped",
        Mark.TIME: "ran too long",
        Mark.STOP: "was stopped",
        Mark.NEAR: "too close to tell, which counts as passed",
    }
    outcome = finding.outcome
    parts = [f"{outcome.points} of {outcome.check.points} points"]
    if finding.mark is Mark.SKIP:
        parts = [f"{outcome.check.points} points left out"]
    if finding.note:
        parts.append(safe(finding.note))
    if outcome.measured:
        parts.append(safe(outcome.measured))
    if outcome.seconds:
        parts.append(feedback.seconds_text(outcome.seconds))
    word = words[finding.mark]
    return f"Check {finding.number}, {safe(finding.title)}: {word}, {', '.join(parts)}."


def _place(line: Line, room: int) -> list[str]:
    """Where a line is, with its function where there is room, and what it says."""
    place = f"{safe(line.file)}:{line.number}"
    inside = f"{place}   in {safe(line.function)}"
    if line.function.replace(".", "").isidentifier() and cells(inside) <= room:
        place = inside
    text = _shortened(safe(line.text).strip(), 200)
    return [place, text] if text else [place]


def _value(value: object) -> str:
    """Plain JSON as words."""
    if isinstance(value, Mapping):
        if "shape" in value:
            sizes, axes = value["shape"], value.get("axes")
            if axes and len(axes) == len(sizes):
                return ", ".join(f"{axis} {size}" for axis, size in zip(axes, sizes, strict=True))
            return "shape " + _value(sizes)
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_value(item) for item in value) or "nothing"
    return str(value)


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text)} characters)"


def _device(device: str) -> str:
    return "CPU" if device == "cpu" else device.replace("cuda", "CUDA").replace("mps", "MPS")


def _statement(exercise: Exercise) -> str:
    return f"{exercise.folder.parent.name}/{exercise.folder.name}/README.md"
