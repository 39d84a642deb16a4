"""A newer stub under an answer: the course's text is new, and nothing of the learner's is lost."""

from __future__ import annotations

import ast
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grader import carry

HEAD = '"""Scaling."""\n\nimport torch\nfrom torch import Tensor\n'


def definition(name, number, doc="What it does.", signature="(x: Tensor) -> Tensor", words="words"):
    return (
        f'def {name}{signature}:\n    """{doc}"""\n'
        f"    # TODO {number}: {words}\n"
        f'    raise NotImplementedError("day01 T{number}: {name}")\n'
        "    # END TODO\n"
    )


def stub(*parts, head=HEAD):
    return "\n\n".join([head, *parts])


DOUBLE, TRIPLE = definition("double", 1), definition("triple", 2)
BASE = stub(DOUBLE, TRIPLE)
HALF = definition("half", 3)


def solved(text, number, *lines, name="day01"):
    """The text with the region of a task filled in."""
    before, _, rest = text.partition(f"    # TODO {number}:")
    heading, _, rest = rest.partition("\n")
    _, _, after = rest.partition("    # END TODO")
    body = "".join(f"    {line}\n" for line in lines)
    return f"{before}    # TODO {number}:{heading}\n{body}    # END TODO{after}"


MINE = solved(BASE, 1, "y = x + x  # mine", "return y")


def keeps(mine, text, base=BASE):
    """Every line of the learner's own is there."""

    def lines(text):
        bare = (line.strip().removeprefix("#").strip() for line in text.split("\n"))
        return Counter(filter(None, bare))

    return not (lines(mine) - lines(base)) - lines(text)


def merged(mine, theirs, base=BASE):
    found = carry.carry(base, mine, theirs)
    ast.parse(found.text)
    assert keeps(mine, found.text, base)
    return found


def test_an_answer_on_the_same_stub_is_as_it_was():
    assert merged(MINE, BASE).text == MINE


def test_an_untouched_stub_becomes_the_new_one():
    theirs = stub(definition("double", 1, doc="Another statement."), HALF)

    assert merged(BASE, theirs).text == theirs


def test_a_changed_statement_comes_with_the_answer_in_it():
    theirs = stub(definition("double", 1, doc="Another statement.", words="other words"), TRIPLE)

    found = merged(MINE, theirs)

    assert found.text == solved(theirs, 1, "y = x + x  # mine", "return y")
    assert (found.kept, found.statements, found.conflicts) == (("double",), ("double",), 0)


def test_a_changed_signature_comes_with_the_answer_in_it():
    theirs = stub(definition("double", 1, signature="(x: Tensor, out: Tensor) -> Tensor"), TRIPLE)

    found = merged(MINE, theirs)

    assert found.text == solved(theirs, 1, "y = x + x  # mine", "return y")
    assert (found.signatures, found.statements) == (("double",), ())


def test_an_added_task_is_open_in_its_place():
    theirs = stub(DOUBLE, HALF, TRIPLE)

    found = merged(MINE, theirs)

    assert found.text == solved(theirs, 1, "y = x + x  # mine", "return y")
    assert found.added == ("half",)


def test_a_removed_task_that_was_written_stays_in_use_at_the_end():
    theirs = stub(definition("triple", 1))

    found = merged(MINE, theirs)

    assert found.text.startswith(theirs)
    assert "# no longer asked for; your answer was:\ndef double(x: Tensor)" in found.text
    assert "    y = x + x  # mine\n" in found.text
    assert found.removed == ("double",)
    assert found.text.index("def triple") < found.text.index("def double")


def test_a_removed_task_that_was_never_written_is_gone():
    theirs = stub(TRIPLE.replace("TODO 2", "TODO 1").replace("T2", "T1"))
    mine = solved(BASE, 2, "return 3 * x")

    found = merged(mine, theirs)

    assert "double" not in found.text
    assert found.kept == ("triple",)


def test_a_task_that_moved_and_has_another_number_takes_its_answer_along():
    theirs = stub(definition("triple", 1), definition("double", 2))

    found = merged(MINE, theirs)

    assert found.text == solved(theirs, 2, "y = x + x  # mine", "return y")
    assert found.removed == ()


def test_helpers_imports_and_constants_of_the_learners_own_stay():
    mine = MINE.replace("import torch\n", "import math\nimport torch\n")
    mine = mine.replace("def triple", "LIMIT = 3\n\n\ndef helper(x):\n    return x\n\n\ndef triple")
    theirs = stub(
        definition("double", 1, doc="Another statement."),
        definition("triple", 2, doc="Another too."),
        HALF,
        head=HEAD + "import torch.nn.functional as F\n",
    )

    found = merged(mine, theirs)

    assert found.conflicts == 0
    for line in ("import math", "LIMIT = 3", "def helper(x):", "import torch.nn.functional as F"):
        assert f"\n{line}\n" in found.text
    assert "def half" in found.text


def test_imports_added_by_both_are_both_there_and_equal_ones_once():
    mine = MINE.replace("Tensor\n\n\n", "Tensor\nimport os\nimport math\n\n\n", 1)
    theirs = BASE.replace("Tensor\n\n\n", "Tensor\nimport math\nimport sys\n\n\n", 1)

    found = merged(mine, theirs)

    assert found.conflicts == 0
    imports = [line for line in found.text.split("\n") if line.startswith("import")]
    assert sorted(imports) == ["import math", "import os", "import sys", "import torch"]


def test_a_helper_and_a_new_task_in_the_same_place_are_both_there():
    mine = MINE + "\n\ndef helper(x):\n    return x\n"
    theirs = BASE + "\n\n" + HALF

    found = merged(mine, theirs)

    assert "def helper(x):" in found.text
    assert "def half(x: Tensor)" in found.text


def test_where_both_changed_the_same_line_the_learners_stays_and_the_new_one_is_shown():
    mine = MINE.replace('"""Scaling."""', '"""Scaling, by me."""')
    theirs = BASE.replace('"""Scaling."""', '"""Scaling of tensors."""')

    found = merged(mine, theirs)

    assert found.conflicts == 1
    assert found.text.startswith(
        '"""Scaling, by me."""\n# the new stub has here:\n# """Scaling of tensors."""\n'
    )


def test_a_signature_that_both_changed_is_never_guessed():
    mine = MINE.replace("def double(x: Tensor) -> Tensor:", "def double(x: Tensor, *, mine=1):")
    theirs = BASE.replace("def double(x: Tensor) -> Tensor:", "def double(x: Tensor, theirs: int):")

    found = merged(mine, theirs)

    assert found.conflicts == 1
    assert "\ndef double(x: Tensor, *, mine=1):\n" in found.text
    assert "# def double(x: Tensor, theirs: int):\n" in found.text


def without_markers(text):
    return "".join(line for line in text.splitlines(keepends=True) if "TODO" not in line)


@pytest.mark.parametrize(
    "theirs",
    [
        stub(definition("double", 1, doc="Another statement."), TRIPLE),
        stub(definition("double", 1, signature="(x, y)"), TRIPLE),
        stub(definition("triple", 1), definition("double", 2)),
    ],
)
def test_answers_whose_todos_were_deleted_are_found_by_their_definition(theirs):
    mine = without_markers(solved(MINE, 2, "return 3 * x  # mine too"))

    found = merged(mine, theirs)

    assert (found.conflicts, found.removed) == (0, ())
    assert sorted(found.kept) == ["double", "triple"]
    number = 1 if theirs.index("def double") < theirs.index("def triple") else 2
    assert (
        f"# TODO {number}: words\n    y = x + x  # mine\n    return y\n    # END TODO" in found.text
    )


def test_one_marker_that_is_left_is_no_part_of_the_answer():
    mine = MINE.replace("    # TODO 1: words\n", "")
    theirs = stub(definition("double", 1, doc="Another statement."), TRIPLE)

    assert merged(mine, theirs).text == solved(theirs, 1, "y = x + x  # mine", "return y")


def test_a_definition_on_one_line_is_left_as_it_is():
    mine = BASE.replace(DOUBLE, "def double(x): return x + x\n")
    theirs = stub(definition("double", 1, doc="Another statement."), TRIPLE)

    found = merged(mine, theirs)

    assert "def double(x): return x + x\n" in found.text
    assert found.conflicts == 1


def test_an_answer_that_does_not_parse_is_carried_by_its_markers():
    mine = solved(BASE, 1, "return (x +")
    theirs = stub(definition("double", 1, doc="Another statement."), TRIPLE)

    found = carry.carry(BASE, mine, theirs)

    assert found.text == solved(theirs, 1, "return (x +")


CLASS = '''class Cache:
    """Keeps."""

    # TODO 1: what it holds
    # END TODO

    def append(self, x):
        """Add.

        Args:
            x: (n,)
        """
        # TODO 2: add
        raise NotImplementedError("day01 T2: append")
        # END TODO

    def __len__(self):
        # TODO 3: count
        raise NotImplementedError("day01 T3: len")
        # END TODO


# TODO 4: a cache
# END TODO
'''


def test_methods_class_bodies_and_the_module_have_regions_of_their_own():
    mine = CLASS.replace(
        "    # TODO 1: what it holds\n", "    # TODO 1: what it holds\n    x = 1\n"
    )
    mine = mine.replace('raise NotImplementedError("day01 T2: append")', "self.x = x")
    mine = mine.replace("# TODO 4: a cache\n", "# TODO 4: a cache\nCACHE = Cache()\n")
    theirs = CLASS.replace("x: (n,)", "x: (n, m)").replace("class Cache:", "class Cache(dict):")
    theirs = theirs.replace("def __len__(self):", "def __len__(self) -> int:")

    found = merged(mine, theirs, base=CLASS)

    assert found.conflicts == 0
    assert found.kept == ("Cache", "Cache.append", "the module")
    assert found.signatures == ("Cache",)
    assert found.statements == ("Cache.append",)
    for line in ("    x = 1\n", "        self.x = x\n", "CACHE = Cache()\n", "x: (n, m)"):
        assert line in found.text


def test_a_method_that_is_no_longer_asked_for_is_kept_as_a_comment():
    mine = CLASS.replace('raise NotImplementedError("day01 T2: append")', "self.x = x")
    theirs = CLASS[: CLASS.index("    def append")] + CLASS[CLASS.index("    def __len__") :]

    found = merged(mine, theirs, base=CLASS)

    assert (
        "# no longer asked for; your answer was: (Cache.append)\n#         self.x = x\n"
        in found.text
    )
    assert found.removed == ("Cache.append",)


def test_a_task_that_the_learner_deleted_stays_deleted():
    mine = BASE.replace(f"{DOUBLE}\n\n", "")

    found = merged(mine, BASE.replace("import torch\n", "import torch  # and more\n"))

    assert "double" not in found.text
    assert "and more" in found.text


def test_a_merge_that_is_no_python_leaves_the_answer_and_shows_the_stub():
    mine = MINE.replace("import torch\n", "import (  # mine\n  torch)\n").replace(
        "import (", "x = ("
    )
    mine = mine.replace("  torch)\n", "  1,\n  torch_,\n)\n")
    theirs = BASE.replace("import torch\n", "import torch as t\n").replace(
        "Tensor\n\n", "T)\n\n", 1
    )

    found = carry.carry(BASE, mine, theirs)

    assert found.conflicts
    assert keeps(mine, found.text)


def test_markdown_is_merged_line_by_line():
    base = "# Checklist\n\n- shapes:\n- devices:\n"
    mine = base.replace("shapes:", "shapes: looked at")
    theirs = base.replace("# Checklist", "# The checklist") + "- dtypes:\n"

    found = carry.merge(base, mine, theirs)

    assert found.text == "# The checklist\n\n- shapes: looked at\n- devices:\n- dtypes:\n"
    assert carry.merge(base, mine, base.replace("shapes:", "shape:")).conflicts == 1
    both = carry.merge(base, mine, base.replace("shapes:", "shape:")).text
    assert "- shapes: looked at\n> the new stub has here:\n> - shape:\n" in both


# Any edit to either side

PARTS = st.lists(
    st.sampled_from(
        [
            DOUBLE,
            TRIPLE,
            HALF,
            definition("double", 4, doc="Other."),
            definition("triple", 5, signature="(x, y)"),
            "def helper(x):\n    return x\n",
            "import math\n",
            "X = 1\n",
            "# a comment\n",
            "class A:\n    x = 1\n    # TODO 6: words\n    # END TODO\n",
        ]
    ),
    max_size=5,
    unique_by=lambda part: part.split("(")[0],
)
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["insert", "delete", "replace"]),
        st.integers(0, 60),
        st.sampled_from(
            ["y = 1  # mine", "    return 7  # mine", "", "import os", ")", "    # END TODO"]
        ),
    ),
    max_size=6,
)


@settings(max_examples=300, deadline=None)
@given(base=PARTS, theirs=PARTS, edits=EDITS)
def test_whatever_is_edited_no_line_of_the_learners_is_lost(base, theirs, edits):
    old, new = stub(*base), stub(*theirs)
    lines = old.split("\n")
    for what, place, line in edits:
        at = place % (len(lines) + 1)
        if what == "insert":
            lines.insert(at, line)
        elif lines and at < len(lines):
            lines[at : at + 1] = [line] if what == "replace" else []
    mine = "\n".join(lines)

    found = carry.carry(old, mine, new)

    assert keeps(mine, found.text, old)
    if carry._tree(mine) is not None:
        ast.parse(found.text)
    if mine == old:
        assert found.text == new
    if new == old:
        assert found.text == mine
