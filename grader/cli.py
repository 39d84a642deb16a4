"""The command line: words to one command, and the one place that prints an error.

The rooms that a command needs are imported when it is called: `grade --help` imports none of them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import grader
from grader.errors import CourseError, GraderError, UsageError

if TYPE_CHECKING:
    from grader.learner import Choice, Desk
    from grader.runner import Backend

FAULT_OF_GRADE = 3
INTERRUPTED = 130

EPILOG = """\
exercises:
  day23  day01-day07  week4  lecture  all  next  exercises/day23/self_attention.py

exit codes:
  0 all checks pass   1 some don't   2 wrong use   3 the course is at fault
  4 the machine lacks something      130 interrupted
"""


def main(argv: Sequence[str] | None = None, *, backend: Backend | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: its words; those of this process if None.
        backend: starts the workers of a grading; a cold one if None.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(words, backend)
        sys.stdout.flush()
        return code
    except GraderError as error:
        _complain(str(error))
        if isinstance(error, CourseError):
            _complain("the course is at fault, not your code; nothing was recorded")
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # `grade solution day23 | head` closed its end; what is left must not be flushed at exit.
        from grader import terminal

        terminal.discard(sys.stdout)
        return 1
    except Exception:
        import traceback

        traceback.print_exc()
        _complain("this is a fault of grade itself; the lines above say where")
        return FAULT_OF_GRADE


@cache
def parser() -> argparse.ArgumentParser:
    """The parser of every command; `grade day23` is short for `grade check day23`."""
    common = _common()
    top = _Parser(
        prog="grade",
        parents=[common],
        description="Check exercises, and see how far you have come.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="grade [options] EXERCISE...\n       grade VERB [options]",
    )
    top.add_argument("--version", action="version", version=f"grade {grader.__version__}")
    verbs = top.add_subparsers(
        dest="verb", title="verbs", metavar="VERB", prog="grade", parser_class=_Parser
    )

    def verb(name: str, text: str, run: Callable[[argparse.Namespace], int]) -> _Parser:
        made: _Parser = verbs.add_parser(
            name, help=text, description=text[:1].upper() + text[1:] + ".", parents=[common]
        )
        made.set_defaults(run=run)
        return made

    _add_check(verb("check", "check exercises; the verb may be left out", _check))
    watch = verb("watch", "check an exercise at every save", _watch)
    watch.add_argument("exercise", nargs="?", help="the exercise; the next one if left out")
    watch.add_argument("--no-server", action="store_true", help="start cold every time")
    watch.add_argument(
        "--poll", action="store_true", help="look at the files; don't wait to be told of saves"
    )
    status = verb("status", "the roadmap: what is done, what is open", _status)
    status.add_argument("--week", type=int, metavar="N", help="only this week")
    status.add_argument("--track", metavar="NAME", help="only this track")
    verb("next", "what to do next", _next)
    hint = verb("hint", "the next hint for the check to mend first", _hint)
    hint.add_argument("exercise", nargs="?", help="the exercise; the next one if left out")
    hint.add_argument("--check", metavar="N.N", help="a hint for this check")
    hint.add_argument("--all", action="store_true", help="all hints at once")
    hint.add_argument("--reset", action="store_true", help="count the hints as unseen again")
    reset = verb("reset", "put the stub back; your answer is kept", _reset)
    reset.add_argument("exercise", help="the exercise")
    reset.add_argument("-y", "--yes", action="store_true", help="don't ask")
    notebook = verb("notebook", "the answer as a notebook, or back as a script", _notebook)
    notebook.add_argument("exercise", help="the exercise")
    notebook.add_argument(
        "--to-script", action="store_true", help="write the script from the notebook"
    )
    notebook.add_argument("-y", "--yes", action="store_true", help="don't ask")
    history = verb("history", "attempts: list, compare, bring one back", _history)
    history.add_argument("exercise", nargs="?", help="the exercise; all if left out")
    history.add_argument(
        "--diff",
        nargs="+",
        metavar="N",
        help="what changed between two attempts, or between one and the file",
    )
    history.add_argument("--restore", metavar="N", help="bring back attempt N, or save sN")
    history.add_argument(
        "--all", action="store_true", help="each attempt of grade watch on a line of its own; or -v"
    )
    history.add_argument("-y", "--yes", action="store_true", help="don't ask")
    solution = verb("solution", "the reference, once all checks pass", _solution)
    solution.add_argument("exercise", help="the exercise")
    solution.add_argument("--diff", action="store_true", help="beside your own answer")
    report = verb("report", "write the pages", _report)
    report.add_argument("--open", action="store_true", help="and open them in the browser")
    report.add_argument("--out", type=Path, metavar="DIR", help="write them there")
    serve = verb("serve", "the pages in a browser, each fresh after every attempt", _serve)
    serve.add_argument("--open", action="store_true", help="and open them in the browser")
    serve.add_argument("--port", type=int, default=0, metavar="N", help="default: one that is free")
    certificate = verb("certificate", "the page to keep, once every day has passed", _certificate)
    certificate.add_argument("--name", default="", help="whose it is")
    certificate.add_argument("--open", action="store_true", help="and open it in the browser")
    mark = verb("mark", "what a person gives for a free text; never part of the score", _mark)
    mark.add_argument("exercise", help="the exercise")
    mark.add_argument("given", nargs="*", metavar="ITEM=POINTS", help="none: what there is")
    mark.add_argument("--remark", default="", help="a sentence to go with it")
    init = verb("init", "begin: write the course into a folder", _init)
    init.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="default: this folder")
    update = verb("update", "newer stubs under your answers; they are kept", _update)
    update.add_argument("--dry-run", action="store_true", help="say what would happen")
    update.add_argument("--from", dest="source", type=Path, metavar="PATH", help="a newer release")
    doctor = verb("doctor", "what this machine has of what grading needs", _doctor)
    doctor.add_argument("--json", action="store_true", help="as JSON")
    server = verb("server", "the process that answers at once: status, stop", _server)
    server.add_argument(
        "action", nargs="?", choices=("status", "stop"), default="status", help="default: status"
    )
    verbs.add_parser(
        "author",
        help="write and maintain exercises: new, generate, verify, preview",
        add_help=False,
    )
    return top


class _Parser(argparse.ArgumentParser):
    """Options are written out, so that a new one never changes what an old line means."""

    def __init__(self, *args: object, **options: object) -> None:
        options["allow_abbrev"] = False
        super().__init__(*args, **options)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; {self.prog} --help lists what there is")


def _run(words: list[str], backend: Backend | None) -> int:
    top = parser()
    verbs = tuple(_verbs(top))
    known, rest = _common().parse_known_args(words)
    if not rest:
        return _overview(known)
    if rest[0] == "author":
        from grader import author

        return author.main(rest[1:], getattr(known, "directory", None), backend)
    if rest[0] not in verbs and rest[0] not in ("-h", "--help", "--version"):
        # Options may come before an exercise, but a verb comes first.
        words = ["check", *words]
    arguments = top.parse_args(words)
    arguments.verbs = verbs
    arguments.backend = backend
    run: Callable[[argparse.Namespace], int] = arguments.run
    return run(arguments)


def _verbs(top: argparse.ArgumentParser) -> list[str]:
    action = next(a for a in top._actions if isinstance(a, argparse._SubParsersAction))
    return list(action.choices)


@cache
def _common() -> _Parser:
    """Options of every command, which may stand before the verb or after it."""
    common = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument(
        "-C", "--directory", type=Path, metavar="DIR", help="the course; default: the one around"
    )
    common.add_argument("--color", choices=("auto", "always", "never"), help="default: auto")
    common.add_argument("-q", "--quiet", action="store_true", help="only the last line")
    common.add_argument("-v", "--verbose", action="store_true", help="all that is known")
    return common


def _add_check(check: argparse.ArgumentParser) -> None:
    add = check.add_argument
    add("exercises", nargs="+", metavar="EXERCISE", help="ids, ranges, weeks, tracks, paths")
    add("--task", action="append", default=[], metavar="N", help="only this task; may repeat")
    add("--check", action="append", default=[], metavar="N.N", help="only this check; may repeat")
    add("--failed", action="store_true", help="only what failed last time")
    add("--failed-first", action="store_true", help="start with the tasks that failed last time")
    add("-x", "--exitfirst", action="store_true", help="stop after an exercise that doesn't pass")
    add("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="default: auto")
    add("--no-speed", action="store_true", help="skip the speed checks")
    add("--timeout", type=_seconds, metavar="S", help="CPU seconds that a check may take")
    add("--seed", type=int, metavar="N", help="of the random generators")
    add("--no-server", action="store_true", help="start cold, and start no server")
    add("--no-record", action="store_true", help="leave no trace in the history")
    add("--no-report", action="store_true", help="write no pages")
    # `grade watch` says so itself, and what its screen is to show.
    add("--watched", choices=("save", "speed", "all"), default="", help=argparse.SUPPRESS)
    add("--json", action="store_true", help="one JSON document; short for --format json")
    add("--format", choices=("text", "json"), help="default: text")
    add("-o", "--output", type=Path, metavar="FILE", help="write the JSON there, and show the text")


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < 86_400:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds to wait for")
    return seconds


def _check(arguments: argparse.Namespace) -> int:
    from grader import learner, selection

    desk = _desk(arguments)
    if any(word.endswith(".py") for word in arguments.exercises):
        from grader import batch

        if papers := batch.papers(desk.course, arguments.exercises):
            return learner.grade_papers(desk, papers, _choice(arguments))
    words = [word if word != "next" else learner.next_id(desk) for word in arguments.exercises]
    others = [verb for verb in arguments.verbs if verb != "check"]
    selection.exercises(desk.course, words, others)
    choice = _choice(arguments)
    if choice.backend is None and not arguments.no_server and not os.environ.get("GRADE_NO_SERVER"):
        from dataclasses import replace

        from grader.server import warm

        choice = replace(choice, backend=warm.spare(str(desk.course.root)))
    return learner.grade(desk, words, choice)


def _watch(arguments: argparse.Namespace) -> int:
    from grader import catalogue, learner, selection, watch

    desk = _desk(arguments)
    word = arguments.exercise or learner.next_id(desk)
    (id,) = selection.exercises(desk.course, [word])[:1]
    options = ["--no-server"] if arguments.no_server else []
    exercise = catalogue.exercise(desk.course, id)
    return watch.watch(desk, exercise, options, polls=arguments.poll)


def _choice(arguments: argparse.Namespace) -> Choice:
    from grader.learner import Choice
    from grader.model import DEFAULT_SEED

    is_json = arguments.json or arguments.format == "json" or arguments.output is not None
    return Choice(
        tasks=tuple(arguments.task),
        checks=tuple(arguments.check),
        only_failed=arguments.failed,
        failed_first=arguments.failed_first,
        seed=DEFAULT_SEED if arguments.seed is None else arguments.seed,
        device=arguments.device,
        has_speed=not arguments.no_speed,
        seconds=arguments.timeout,
        stops_early=arguments.exitfirst,
        is_recorded=not arguments.no_record,
        watched=arguments.watched,
        has_pages=not arguments.no_report,
        is_verbose=getattr(arguments, "verbose", False),
        is_quiet=getattr(arguments, "quiet", False),
        shows_text=not is_json or arguments.output is not None,
        json_to=arguments.output,
        is_json=is_json,
        backend=getattr(arguments, "backend", None),
    )


def _overview(arguments: argparse.Namespace) -> int:
    from grader import learner

    return learner.overview(_desk(arguments))


def _status(arguments: argparse.Namespace) -> int:
    from grader import learner

    return learner.status(_desk(arguments), arguments.week, arguments.track)


def _next(arguments: argparse.Namespace) -> int:
    from grader import learner

    return learner.next_step(_desk(arguments))


def _hint(arguments: argparse.Namespace) -> int:
    from grader import learner

    return learner.hint(
        _desk(arguments),
        arguments.exercise,
        arguments.check,
        shows_all=arguments.all,
        is_reset=arguments.reset,
    )


def _reset(arguments: argparse.Namespace) -> int:
    from grader import learner

    return learner.reset(_desk(arguments), arguments.exercise, is_sure=arguments.yes)


def _notebook(arguments: argparse.Namespace) -> int:
    from grader import learner

    return learner.notebook(
        _desk(arguments), arguments.exercise, is_back=arguments.to_script, is_sure=arguments.yes
    )


def _history(arguments: argparse.Namespace) -> int:
    from grader import learner

    desk, exercise = _desk(arguments), arguments.exercise
    if arguments.diff is None and arguments.restore is None:
        shows_all = arguments.all or getattr(arguments, "verbose", False)
        return learner.history(desk, exercise, shows_all=shows_all)
    if exercise is None:
        raise UsageError("--diff and --restore need an exercise: grade history day01 --diff 1 2")
    if arguments.diff is not None:
        return learner.compare(desk, exercise, arguments.diff)
    return learner.restore(desk, exercise, arguments.restore, is_sure=arguments.yes)


def _solution(arguments: argparse.Namespace) -> int:
    from grader import learner

    return learner.solution(_desk(arguments), arguments.exercise, is_diff=arguments.diff)


def _report(arguments: argparse.Namespace) -> int:
    from grader import learner

    return learner.report(_desk(arguments), arguments.out, is_opened=arguments.open)


def _certificate(arguments: argparse.Namespace) -> int:
    from grader import learner

    return learner.certificate(_desk(arguments), arguments.name, is_opened=arguments.open)


def _mark(arguments: argparse.Namespace) -> int:
    from grader import learner

    desk = _desk(arguments)
    return learner.mark(desk, arguments.exercise, arguments.given, arguments.remark)


def _serve(arguments: argparse.Namespace) -> int:
    from grader import learner

    return learner.serve(_desk(arguments), arguments.port, is_opened=arguments.open)


def _init(arguments: argparse.Namespace) -> int:
    from grader import setup, terminal

    out = terminal.of(sys.stdout, getattr(arguments, "color", "auto"))
    base = getattr(arguments, "directory", None) or Path()
    return setup.begin(out, base / (arguments.folder or ""))


def _server(arguments: argparse.Namespace) -> int:
    from grader.server import start

    desk = _desk(arguments)
    root = str(desk.course.root)
    if arguments.action == "stop":
        was_there = start.stop(root)
        desk.out.write("The server has ended." if was_there else "There is no server to end.")
        return 0
    desk.out.write(start.describe(root))
    return 0


def _update(arguments: argparse.Namespace) -> int:
    from grader import update

    return update.run(_desk(arguments), arguments.source, is_dry=arguments.dry_run)


def _doctor(arguments: argparse.Namespace) -> int:
    from grader import course, doctor, terminal

    try:
        found = course.find(getattr(arguments, "directory", None))
    except UsageError:
        found = None
    out = terminal.of(sys.stdout, getattr(arguments, "color", "auto"))
    return doctor.run(out, found, is_json=arguments.json)


def _desk(arguments: argparse.Namespace) -> Desk:
    from grader import course, terminal
    from grader.learner import Desk

    color = getattr(arguments, "color", "auto")
    out = terminal.of(sys.stdout, color)
    return Desk(
        course=course.find(getattr(arguments, "directory", None)),
        out=out,
        err=terminal.of(sys.stderr, color),
        now=datetime.now().astimezone(),
        can_ask=sys.stdin is not None and sys.stdin.isatty() and out.is_terminal,
    )


def _complain(text: str) -> None:
    from grader import terminal

    sys.stdout.flush()
    terminal.of(sys.stderr).write(f"grade: {terminal.safe(text)}")
