"""What a waiting session does ahead: it goes all the way, leaves nothing, and gives way."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from grader.course import Course
from grader.history import History
from grader.server import rehearsal


def everything_below(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture
def kept_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that a rehearsal does not remove at its end."""
    keeping = SimpleNamespace(rmtree=lambda *args, **options: None)
    monkeypatch.setattr(rehearsal, "shutil", keeping)
    return tmp_path / "rehearsal"


def test_it_goes_from_the_answer_to_the_pages(course: Course, reference: str, kept_folder: Path):
    (course.exercises_folder / "day01/scaling.py").write_text(reference, encoding="utf-8")

    rehearsal.rehearse(str(course.root), kept_folder, lambda: False)

    with History.open(kept_folder / "history.db") as history:
        (attempt,) = history.attempts("day01")
    assert (attempt.passed, attempt.counted) == (3, 4)
    assert "got 1, expected 2" in (kept_folder / "day01.html").read_text(encoding="utf-8")
    assert (kept_folder / "index.html").stat().st_size > 0


def test_the_course_is_left_alone(course: Course, reference: str, tmp_path: Path):
    (course.exercises_folder / "day01/scaling.py").write_text(reference, encoding="utf-8")
    before = everything_below(course.root)

    rehearsal.rehearse(str(course.root), tmp_path / "rehearsal", lambda: False)

    assert everything_below(course.root) == before
    assert not (tmp_path / "rehearsal").exists()


def test_it_ends_as_soon_as_a_client_waits(course: Course, reference: str, kept_folder: Path):
    (course.exercises_folder / "day01/scaling.py").write_text(reference, encoding="utf-8")

    rehearsal.rehearse(str(course.root), kept_folder, lambda: True)

    assert not (kept_folder / "day01.html").exists()
    with History.open(kept_folder / "history.db") as history:
        assert history.attempts() == []


def test_a_course_in_disorder_is_nothing_to_it(course: Course, tmp_path: Path):
    (course.root / "course.toml").write_text("[", encoding="utf-8")

    rehearsal.rehearse(str(course.root), tmp_path / "rehearsal", lambda: False)

    assert not (tmp_path / "rehearsal").exists()
