"""Solution regions and the TODOs they leave."""

from __future__ import annotations

import pytest

from grader import exercise_file, regions

SOURCE = '''\
import x


def f(a):
    """Doc."""
    ### BEGIN SOLUTION 1: do it
    return 1
    ### END SOLUTION


### BEGIN SOLUTION 2: at the level of the module
A = 1
### END SOLUTION


class C:
    """Doc."""

    ### BEGIN SOLUTION 3: a body
    def g(self):
        return 1

    ### END SOLUTION

    def h(self):
        x = 1
        ### BEGIN SOLUTION 3
        return x
        ### END SOLUTION
'''
STUB = '''\
import x


def f(a):
    """Doc."""
    # TODO 1: do it
    raise NotImplementedError("day09 T1: f")
    # END TODO


# TODO 2: at the level of the module
# END TODO


class C:
    """Doc."""

    # TODO 3: a body
    # END TODO

    def h(self):
        x = 1
        # TODO 3: your code here
        raise NotImplementedError("day09 T3: C")
        # END TODO
'''
TASKS = {1: "f", 2: "constants", 3: "C"}


def strip(text: str) -> str:
    return regions.strip(text, "c.py", "day09", TASKS)


def test_a_region_becomes_a_todo_and_raises_only_inside_a_function():
    assert strip(SOURCE) == STUB


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("### END SOLUTION", "c.py, line 1: ### END SOLUTION without a ### BEGIN SOLUTION"),
        ("### BEGIN SOLUTION 1", "c.py, line 1: ### BEGIN SOLUTION is never closed"),
        ("### BEGIN SOLUTION 1\n### BEGIN SOLUTION 1", "line 2: .* inside the region opened at"),
        ("### BEGIN SOLUTION\n### END SOLUTION", "line 1: .* needs its task's number, 1 to 3"),
        ("### BEGIN SOLUTION 9\n### END SOLUTION", "line 1: .* needs its task's number, 1 to 3"),
        ("def f(:\n", "c.py, line 1"),
    ],
)
def test_markers_that_do_not_pair_up_are_refused_with_file_and_line(text, complaint):
    with pytest.raises(regions.RegionError, match=complaint):
        strip(text)


def test_every_region_of_a_stub_is_open_and_none_of_the_source():
    assert [(t.task, t.line, t.words) for t in exercise_file.todos(STUB)] == [
        (1, 6, "do it"),
        (2, 11, "at the level of the module"),
        (3, 18, "a body"),
        (3, 23, "your code here"),
    ]
    assert exercise_file.todos(SOURCE) == []


@pytest.mark.parametrize(
    ("filled", "still_open"),
    [
        (STUB.replace('raise NotImplementedError("day09 T1: f")', "return 1"), [2, 3, 3]),
        (STUB.replace("# END TODO\n\n\nclass", "A = 1\n# END TODO\n\n\nclass"), [1, 3, 3]),
        (STUB.replace("    # TODO 1: do it\n", ""), [1, 2, 3, 3]),
        (STUB.replace("    # TODO 3: a body\n    # END TODO\n", ""), [1, 2, 3]),
        ("raise NotImplementedError('later')", []),
        # Helpers that nobody needed: the other region of the task is written.
        (
            "# TODO 1: helpers\n# END TODO\ndef f():\n    # TODO 1: do it\n    return 1\n"
            "    # END TODO",
            [],
        ),
        ("# TODO 1: helpers\n# END TODO\n# TODO 2: values\nA = 1\n# END TODO", [1]),
    ],
)
def test_a_task_is_open_while_its_raise_stands_or_its_region_is_empty(filled, still_open):
    assert [todo.task for todo in exercise_file.todos(filled)] == still_open
