"""Answers read from `answers.py`, and suites held to them."""

from __future__ import annotations

import json
import signal
import threading
import time
from dataclasses import replace

import pytest

from grader import answers, author, grading, verify
from grader.errors import CourseError, UsageError
from grader.model import Status


def edit(exercise, file, old, new):
    path = exercise.source / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def problems(course):
    return [str(problem) for r in verify.verify(course.exercises()) for problem in r.problems]


def test_an_answer_lies_over_the_reference_under_its_tasks_name(exercise):
    first = answers.read(exercise)[0]
    space: dict = {}
    exec(first.files["scaling.py"], space)

    assert (first.name, first.task, first.is_right) == ("by_addition", "double", True)
    assert space["double"](4) == 8
    assert space["triple"](4) == 12
    assert "def double(x):\n    return x + x" in first.files["scaling.py"]


def test_an_edit_is_given_the_references_text(exercise):
    last = answers.read(exercise)[-1]

    assert "double(x) - x" in last.files["scaling.py"]
    assert last.by == ("TestTriple::test_triples",)


def test_a_class_may_inherit_from_what_it_replaces_and_helpers_come_along(exercise):
    edit(exercise, "scaling.py", "def triple", "class Box:\n    side = 3\n\n\ndef triple")
    edit(
        exercise,
        "answers.py",
        "@accepted",
        "import math\nfrom scaling import *\nEDGE = math.floor(5.5)\n\n\n"
        "def edge():\n    return EDGE\n\n\n"
        '@accepted("double")\nclass Box(Box):\n'
        "    def area(self):\n        return self.side * edge()\n\n\n@accepted",
    )
    first = answers.read(exercise)[0]
    text = first.files["scaling.py"].replace("class double(Box)", "class Box(Box)")
    space: dict = {}
    exec(text, space)

    assert space["Box"]().area() == 15


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('"double", by="test_doubles"', '"dubble", by="test_doubles"', "has no task dubble"),
        ('by="test_doubles"', 'by="test_nothing"', "test_nothing is no check of double"),
        ('by="test_doubles", says="expected 2"', "by=()", "by= names the check"),
        ('says="expected 2"', "says=str(2)", "must be literals"),
        ('says="expected 2"', "word=2", "takes a task, by, says and file"),
        ('"double(x) - x"', '"double(x) + x"', "the edit changes nothing"),
        ("return reference.replace", "return reference.replica", "the edit raises AttributeError"),
        ("def minus", "def def minus", "answers.py, line"),
    ],
)
def test_answers_in_disorder_name_the_place(exercise, old, new, complaint):
    edit(exercise, "answers.py", old, new)

    with pytest.raises(CourseError, match=complaint):
        answers.read(exercise)


def test_a_sound_exercise_has_no_problems(exercise):
    (report,) = verify.verify([exercise])

    assert report.problems == []
    assert (report.tasks, report.checks, report.accepted, report.rejected) == (2, 4, 1, 3)
    assert 0 < report.cpu_seconds < 5


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("answers.py", 'by="test_any_length"', 'by="test_doubles"', "test_any_length: rejects no"),
        ("exercise.toml", "points = 50", "points = 60", "the tasks' points sum to 120"),
        ("exercise.toml", '"`2 * x`"', '""', "needs three hints"),
        ("exercise.toml", "difficulty = 2", "difficulty = 5", "difficulty is 5"),
        ("README.md", "House rules", "Rules", "house rules"),
        ("README.md", "triple", "thrice", "does not mention triple"),
        (
            "test_scaling.py",
            "import torch",
            "import torch\nimport scaling",
            "imports the reference",
        ),
        ("test_scaling.py", '(50, "value")', '(50, "speed")', "a tenth is the most"),
        ("notes.txt", "", "", "notes.txt: is not part of an exercise"),
    ],
)
def test_a_flaw_that_can_be_read_is_found(course, exercise, file, old, new, says):
    (exercise.source / "notes.txt").touch() if file == "notes.txt" else None
    edit(exercise, file, old, new)
    report = verify.Report("day01")
    verify.declarations(course.exercise("day01"), report)

    assert any(says in str(problem) for problem in report.problems), report.problems


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("answers.py", "return x + x", "return x + 2", "by_addition: is right, but"),
        ("answers.py", "return 3 * x", "return 2 * x", "times_three: is wrong, but TestDouble"),
        ("answers.py", "expected 2", "expected 4", "does not contain 'expected 4'"),
        ("answers.py", "return x + x", "return y(", "answers.py"),
        ("scaling.py", "return x * 2", "return x * 3", "reference: TestDouble::test_doubles is"),
        ("scaling.py", "### BEGIN SOLUTION 2", "# was a region", "### END SOLUTION without"),
        ("exercise.toml", "minutes = 5", "budget_seconds = 0.0001", "CPU time, 0.0001 allowed"),
        ("test_scaling.py", "import torch", "import torch\n1 / 0", "the suite does not load"),
    ],
)
def test_a_flaw_that_shows_when_run_is_found(course, exercise, file, old, new, says):
    edit(exercise, file, old, new)
    report = verify.verify_one(course.exercise("day01"))

    assert any(says in str(problem) for problem in report.problems), report.problems


def test_a_stub_that_passes_or_leaves_nothing_open_is_found(course, exercise):
    edit(exercise, "scaling.py", "    ### BEGIN SOLUTION 1: double every element\n", "")
    edit(exercise, "scaling.py", "    return x * 2\n    ### END SOLUTION", "    return x * 2")
    found = problems(course)

    assert any("leaves nothing open in double" in text for text in found)
    assert any("stub: passes TestDouble::test_doubles" in text for text in found)


# --- the commands -----------------------------------------------------------------------------


def run(course, *argv):
    return author.main(argv, course.root)


def test_generate_writes_stubs_once_and_is_stable(course, capsys):
    (course.exercises_folder / "day01" / "scaling.py").unlink()

    assert run(course, "generate", "--check") == 1
    assert run(course, "generate") == 0
    assert "wrote exercises/day01/scaling.py" in capsys.readouterr().out
    assert run(course, "generate", "--check") == 0
    assert run(course, "generate") == 0
    assert "up to date" in capsys.readouterr().out


def test_generate_replaces_its_own_stub_but_never_someones_work(course, exercise):
    (exercise.folder / "scaling.py").unlink()
    run(course, "generate")
    edit(exercise, "scaling.py", "Triple every element", "Treble every element")

    assert run(course, "generate") == 0
    assert "Treble" in exercise.submission.read_text(encoding="utf-8")

    work = exercise.submission.read_text(encoding="utf-8") + "\nmine = 1\n"
    exercise.submission.write_text(work, encoding="utf-8")
    edit(exercise, "scaling.py", "Treble every element", "Triple every element")

    with pytest.raises(CourseError, match=r"scaling.py: not the stub .* may hold someone's work"):
        run(course, "generate")
    assert exercise.submission.read_text(encoding="utf-8") == work


def test_generate_diff_shows_and_writes_nothing(course, exercise, capsys):
    before = exercise.submission.read_text(encoding="utf-8")
    edit(exercise, "scaling.py", "Triple every element", "Treble every element")
    run(course, "generate", "--diff")

    assert '+    """Treble every element.' in capsys.readouterr().out
    assert exercise.submission.read_text(encoding="utf-8") == before


def test_verify_prints_a_table_and_json(course, capsys):
    assert run(course, "verify", "day01") == 0
    assert "day01           2       4         1         3" in capsys.readouterr().out
    assert run(course, "verify", "--json") == 0
    assert json.loads(capsys.readouterr().out)["exercises"][0]["rejected"] == 3


def test_processors_that_are_left_over_share_out_the_answers(exercise, monkeypatch):
    together = threading.Barrier(2, timeout=20)

    def meets(answer, *rest):
        together.wait()  # breaks unless two answers are held at once

    monkeypatch.setattr(verify, "_accepted", meets)
    monkeypatch.setattr(verify, "_rejected", meets)
    two = answers.read(exercise)[:2]
    monkeypatch.setattr(verify, "declarations", lambda *given: two)
    (report,) = verify.verify([exercise], jobs=2, tasks=[answer.task for answer in two])
    assert not report.problems


def test_verify_knows_the_names_of_tasks(course):
    assert run(course, "verify", "day01", "--task", "triple") == 0
    with pytest.raises(UsageError, match=r"no task is named tripel; there are .*triple"):
        run(course, "verify", "day01", "--task", "tripel")


def test_a_new_exercise_verifies_as_it_is(course, capsys):
    assert run(course, "new", "day02", "--title", "Doubling") == 0
    assert run(course, "generate", "day02") == 0
    assert run(course, "verify", "day02", "--flaky", "2") == 0
    with pytest.raises(UsageError, match="day02 exists"):
        run(course, "new", "day02")
    with pytest.raises(UsageError, match="is no id"):
        run(course, "new", "second")


def test_ctrl_c_leaves_the_answers_that_nobody_waits_for(exercise, monkeypatch):
    asked = []
    has_begun = threading.Event()

    def slow(*given, **more):
        asked.append(given)
        has_begun.set()
        time.sleep(0.3)
        raise CourseError("not this one")

    monkeypatch.setattr(verify.grading, "grade", slow)
    others = [replace(exercise, id=f"day{n:02}") for n in range(2, 9)]

    def interrupt(signum, frame):
        raise KeyboardInterrupt

    monkeypatch.setattr(verify, "_stub", lambda *given: slow())
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        main = threading.main_thread().ident
        threading.Thread(
            target=lambda: (has_begun.wait(), signal.pthread_kill(main, signal.SIGUSR1))
        ).start()
        with pytest.raises(verify.Interrupted) as stopped:
            verify.verify([exercise, *others], jobs=1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(asked) == 1
    assert [(r.exercise, r.seeds) for r in stopped.value.reports] == [("day01", 0)]


def test_ctrl_c_shows_what_was_found_until_then(course, monkeypatch, capsys):
    report = verify.Report("day01", tasks=2, checks=4, seeds=1)
    report.add("answers.py:7 in_place", "is wrong, but passed")

    def interrupted(*given, **more):
        raise verify.Interrupted([report])

    monkeypatch.setattr(verify, "verify", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(course, "verify", "day01", "--flaky", "3")

    out = capsys.readouterr().out
    assert "1 to mend   interrupted: 1 of 3 seeds done" in out
    assert "day01  answers.py:7 in_place: is wrong, but passed" in out


def test_verify_goes_on_from_the_seed_that_is_named(exercise, monkeypatch):
    seeds = []
    grade = grading.grade

    def noted(exercise, submission, options, **more):
        seeds.append(options.seed)
        return grade(exercise, submission, options, **more)

    monkeypatch.setattr(verify.grading, "grade", noted)
    (report,) = verify.verify([exercise], flaky=2, seed=77, tasks=("triple",))
    assert not report.problems
    assert sorted(set(seeds)) == [77, 78]


@pytest.mark.parametrize(("unsure", "complaints"), [(1, 0), (99, 1)])
def test_a_wrong_answer_that_is_too_noisy_to_tell_is_timed_again(
    exercise, monkeypatch, unsure, complaints
):
    asked = []
    grade = grading.grade

    def noisy(*arguments, **options):
        attempt = grade(*arguments, **options)
        if len(attempt.outcomes) != 1:
            return attempt
        asked.append(attempt.outcomes[0].check.name)
        if asked.count(asked[-1]) > unsure:
            return attempt
        outcomes = tuple(replace(o, status=Status.UNSURE) for o in attempt.outcomes)
        return replace(attempt, outcomes=outcomes)

    monkeypatch.setattr(verify.grading, "grade", noisy)
    report = verify.verify_one(exercise, tasks=("triple",))

    assert len(asked) == min(unsure + 1, verify.ASKED_AGAIN)
    assert len(report.problems) == complaints
