"""Assignments for nbgrader: each exercise as the notebook that its instructor's version is made of.

`source/day23/self_attention.ipynb` has the reference in its solution regions, and after each task a
locked cell that asks this grader for the points. nbgrader makes the students' version of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from grader import handout, notebook, stubs
from grader.errors import UsageError
from grader.model import Exercise

CONFIG = '''\
"""nbgrader reads this where it is run."""

c = get_config()  # noqa: F821

c.CourseDirectory.course_id = "torch28"
# Valid in a function, a class and a module; the grader takes a region with nothing else for open.
c.ClearSolutions.code_stub = {"python": "..."}
# The first graded cell of a notebook waits for the whole suite.
c.ExecutePreprocessor.timeout = 600
'''

_BEGIN = re.compile(r"^( *)### BEGIN SOLUTION (\d+):? ?(.*)$", re.MULTILINE)
_END = re.compile(r"^( *)### END SOLUTION.*$", re.MULTILINE)


def write(exercises: Sequence[Exercise], to: Path) -> None:
    """Write the sources of an nbgrader course into a folder.

    Raises:
        UsageError: there is nothing to write, or a file that differs is in the way.
    """
    content = {"nbgrader_config.py": CONFIG.encode("utf-8")}
    for exercise in exercises:
        for name, text in _of(exercise).items():
            content[f"source/{exercise.id}/{name}"] = text.encode("utf-8")
    if len(content) == 1:
        raise UsageError("the course has no exercises to write")
    handout.put(to.resolve(), content)


def _of(exercise: Exercise) -> dict[str, str]:
    module, *others = exercise.files
    text = (exercise.source / module).read_text(encoding="utf-8")
    # What stands outside of the region stays in the students' version.
    text = _BEGIN.sub(r"\1# TODO \2: \3\n\1### BEGIN SOLUTION", text)
    text = _END.sub(r"\1### END SOLUTION\n\1# END TODO", text)
    pages = stubs.pages(exercise)
    made = notebook.of(exercise, text, pages.pop("README.md"), has_checks=True)
    beside = {name: stubs.text_of(exercise, name) for name in others}
    return {notebook.path_of(exercise).name: notebook.dumps(made)} | pages | beside
