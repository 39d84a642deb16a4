"""The engine of 28 days of PyTorch: it grades exercises and knows none by name."""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False  # `typing` is not worth its time to every command
if TYPE_CHECKING:
    from pathlib import Path

    from grader.live import Result


def check(id: str, *, task: str | int | None = None, file: str | Path | None = None) -> Result:
    """Grade an exercise from a notebook or a console, as `grade day23` does.

    Args:
        id: such as "day23".
        task: only the points of this task, by name or number.
        file: the script or notebook; by default the one in this folder, or in the exercise's. What
            is graded is the file as it was saved.

    Returns:
        What came of it, to be shown; `points` and `passed` for programs.
    """
    from grader import live

    return live.check(id, task=task, file=file)
