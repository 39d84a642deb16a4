"""`grade update`: the course's newer stubs and statements under the learner's answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from grader import bundle, carry, files, handout, notebook
from grader import course as courses
from grader.course import Course
from grader.errors import UsageError
from grader.history import History
from grader.learner import Desk
from grader.model import Exercise, Fault
from grader.terminal import wrap

UNKNOWN = "left alone: the stub that your file began with is not known"


@dataclass(slots=True)
class _Plan:
    """What is to be written for one exercise, and what is kept before."""

    exercise: Exercise
    said: list[str] = field(default_factory=list)  # the first is the headline
    texts: dict[Path, str] = field(default_factory=dict)
    saved: dict[str, str] = field(default_factory=dict)  # by the name that `restore` writes
    digests: dict[str, str] = field(default_factory=dict)
    bundle: bytes | None = None

    @property
    def is_empty(self) -> bool:
        return not self.texts and self.bundle is None


def run(desk: Desk, source: Path | None, *, is_dry: bool) -> int:
    """Bring exercises up to date, all answers kept in the history first.

    Args:
        desk: the learner's.
        source: a newer release; None: where the course's exercises come from anyway.
        is_dry: say what would happen, and write nothing.

    Raises:
        UsageError: exercises of this course can't come from there.
        HistoryError: the answers could not be kept; nothing was changed.
    """
    newer = _newer(desk.course, source)
    known = handout.digests(desk.course)
    plans = [_plan(desk.course, newer, id, known) for id in newer.ids]
    for plan in plans:
        headline, *more = plan.said or ["unchanged"]
        shown = [line for said in (headline, *more) for line in wrap(said, desk.out.width - 12)]
        for place, line in enumerate(shown):
            desk.out.write(f"  {plan.exercise.id if place == 0 else '':<10}{line}")
    for id in desk.course.ids:
        if id not in newer.ids:
            desk.out.write(f"  {id:<10}not in the newer course; left as it is")
    if all(plan.is_empty for plan in plans):
        desk.out.write("Everything is up to date.")
    elif is_dry:
        desk.out.write("Nothing was written (dry run).")
    else:
        _write(desk, newer, plans, known)
    return 0


def _newer(course: Course, source: Path | None) -> Course:
    if source is None:
        return course
    if course.origin == "installed":
        raise UsageError(
            "the exercises of this course come from the installed torch28: "
            "pip install --upgrade torch28, then grade update"
        )
    if course.origin == "solutions":
        raise UsageError(
            "the exercises of this course come from its own solutions/: git pull, then grade update"
        )
    if not (source / "course.toml").is_file():
        raise UsageError(f"{source} is no release: it has no course.toml")
    newer = courses.read(source.resolve())
    if newer.origin != "bundles":
        raise UsageError(f"{source} is no release; grade author release writes one")
    return newer


def _plan(course: Course, newer: Course, id: str, known: Mapping[str, str]) -> _Plan:
    exercise = replace(newer.exercise(id), folder=course.exercises_folder / id)
    plan = _Plan(exercise)
    has_begun = any((exercise.folder / name).exists() for name in exercise.files)
    for name, theirs in handout.of(exercise).items():
        path = exercise.folder / name
        key = f"{id}/{name}"
        if name in exercise.files:
            _answer(course, plan, name, theirs)
            continue
        mine = files.read(path) if path.exists() else None
        plan.digests[key] = handout.digest(theirs)
        if mine != theirs:
            plan.texts[path] = theirs
            if mine is not None and known.get(key) != handout.digest(mine):
                plan.saved[name] = mine
            plan.said.append("its statement is new" if name == "README.md" else f"{name} is new")
    if newer is not course:
        packed = bundle.path_of(newer.exercises_folder, id).read_bytes()
        own = bundle.path_of(course.exercises_folder, id)
        if not own.exists() or own.read_bytes() != packed:
            plan.bundle = packed
            plan.said = plan.said or ["its checks are new"]
    if not has_begun:
        plan.said = ["new"]
    return plan


def _answer(course: Course, plan: _Plan, name: str, theirs: str) -> None:
    """Plan what becomes of one file that the learner edits."""
    exercise = plan.exercise
    path, pristine = exercise.folder / name, handout.pristine_path(course, exercise.id, name)
    base = files.read(pristine) if pristine.exists() else None
    other = notebook.path_of(exercise) if name == exercise.files[0] else None
    cells = _cells(exercise, other) if other is not None else None
    mine = files.read(path) if path.exists() else None
    if cells is not None:
        mine = notebook.module_of(cells, name).text
    plan.digests[f"{exercise.id}/{name}"] = handout.digest(theirs)
    if base == theirs and mine is not None:
        return
    ends = "\r\n" if mine is not None and "\r\n" in mine else "\n"
    plain = mine.replace("\r\n", "\n") if mine is not None else None
    if plain is None or plain in (base, theirs):
        plan.said += [] if plain == theirs else ["the new stub; you had not begun"]
        text = theirs
    elif base is None:
        del plan.digests[f"{exercise.id}/{name}"]
        plan.said += [UNKNOWN, f"grade reset {exercise.id} begins anew, and keeps your answer"]
        return
    else:
        merge = carry.carry if name.endswith(".py") else carry.merge
        found = merge(base, plain, theirs)
        plan.said += _notes(found, name)
        text = found.text
    if mine is not None and text != plain and plain != base:
        plan.saved |= _as_they_were(exercise, name, path, other if cells is not None else None)
        if base is not None:
            # With the answer, `restore` brings back what it is to be compared with.
            plan.saved[f"../{handout.PRISTINE}/{exercise.id}/{name}"] = base
    plan.texts[pristine] = theirs
    if text != plain or cells is not None:
        plan.texts[path] = text.replace("\n", ends)
    if cells is not None and other is not None and text != plain:
        statement = handout.of(exercise)["README.md"]
        made = notebook.updated(notebook.of(exercise, text, statement), cells)
        plan.texts[other] = notebook.dumps(made)


def _cells(exercise: Exercise, path: Path) -> notebook.Notebook | None:
    """The notebook, where it is what the learner wrote last."""
    if not path.exists() or not notebook.is_newer(exercise):
        return None
    found = notebook.load(path, path.name)
    return None if isinstance(found, Fault) else found


def _as_they_were(exercise: Exercise, name: str, path: Path, other: Path | None) -> dict[str, str]:
    found = {}
    for place, kept_as in ((path, name), (other, other.name if other else "")):
        if place is not None and place.exists():
            found[kept_as] = files.read(place)
    return found


def _notes(found: carry.Carried, name: str) -> Iterator[str]:
    kept = ", ".join(found.kept)
    yield f"carried over: {kept}" if kept else f"{name}: the new stub with your changes"
    for names, what in (
        (found.signatures, "takes other arguments now"),
        (found.statements, "has another statement now"),
        (found.added, "is new"),
        (found.removed, "is no longer asked for; your code is at the end of the file"),
    ):
        for each in names:
            yield f"{each} {what}"
    if found.conflicts:
        places = "1 place" if found.conflicts == 1 else f"{found.conflicts} places"
        yield f"{places} changed by both: yours stays, the new text is a comment below it"


def _write(desk: Desk, newer: Course, plans: list[_Plan], known: Mapping[str, str]) -> None:
    course = desk.course
    saved: list[tuple[str, int]] = []
    with History.open(desk.database) as kept:
        for plan in plans:
            if plan.saved:
                id = plan.exercise.id
                kept.save(id, plan.saved, "update", desk.now)
                saved.append((id, len(kept.saves(id))))
    digests = dict(known)
    for plan in plans:
        for path, text in plan.texts.items():
            files.replace(path, text)
        if plan.bundle is not None:
            place = bundle.path_of(course.exercises_folder, plan.exercise.id)
            place.parent.mkdir(parents=True, exist_ok=True)
            beside = place.with_suffix(".new")
            beside.write_bytes(plan.bundle)
            beside.replace(place)
        digests |= plan.digests
    handout.note(course, digests)
    if newer is not course:
        text = files.read(newer.root / "course.toml")
        if text != files.read(course.root / "course.toml"):
            files.replace(course.root / "course.toml", text)
    for id, number in saved:
        desk.out.write(f"Your answer to {id} as it was: grade history {id} --restore s{number}")
