"""`grade init`: a folder becomes a course, with the exercises that came with the engine."""

from __future__ import annotations

from pathlib import Path

from grader import course as courses
from grader import doctor, handout
from grader.errors import EnvironmentFault, UsageError
from grader.terminal import Terminal

COURSE_TOML = """\
title = "{title}"
format = 1
# The exercises come from the installed torch28; `grade update` fetches newer ones.
source = "installed"
"""


def begin(out: Terminal, folder: Path) -> int:
    """Write a learner's course into a folder, and say what to do next.

    Raises:
        UsageError: the folder lies in a course, or something that differs is in the way.
        EnvironmentFault: the machine lacks what grading needs, or the folder can't be written.
    """
    root = folder.resolve()
    _stand_alone(root)
    missing = [finding for finding in doctor.packages() if finding.state == "missing"]
    if missing:
        advice = "; ".join(f"{finding.name} is {finding.value}" for finding in missing)
        names = " ".join(finding.name for finding in missing)
        raise EnvironmentFault(f"{advice}. pip install {names}, then grade init again")
    packed = courses.read(courses.installed())
    exercises = packed.exercises()
    content = {f"exercises/{name}": data for name, data in handout.fresh(exercises).items()} | {
        "reports/.gitkeep": b""
    }
    # Last: a folder is a course once all of it is there.
    content["course.toml"] = COURSE_TOML.format(title=packed.title).encode("utf-8")
    handout.put(root, content)
    count = len(exercises)
    out.write(f"{root} is a course of {count} {'exercise' if count == 1 else 'exercises'}.")
    change = "" if root == Path.cwd().resolve() else f"cd {folder}, then "
    out.write(f"Next: {change}grade {exercises[0].id}" if exercises else "It has no exercises.")
    return 0


def _stand_alone(root: Path) -> None:
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root} is a file; grade init needs a folder")
    for parent in (root, *root.parents):
        if (parent / "course.toml").is_file():
            if parent == root:
                raise UsageError(f"{root} is a course already; grade next says where to go on")
            raise UsageError(f"{root} lies in the course {parent}; a course holds no other")
