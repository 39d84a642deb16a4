"""A check fails with one sentence, and hands a view what it needs to draw it."""

import json
import pickle

import pytest
import torch

from grader import testing
from grader.testing import (
    CheckFailed,
    _record,
    assert_close,
    expect,
    fail,
    measured,
    picture,
    smallest,
)


def test_a_failure_is_an_assertion_error_whose_text_is_the_sentence():
    with pytest.raises(AssertionError) as caught:
        fail("axis 1 is missing", id="shape.missing", expected=[2, 3], got=[2], details=("a", "b"))

    failure = caught.value
    assert isinstance(failure, CheckFailed)
    assert str(failure) == failure.text == "axis 1 is missing"
    assert (failure.id, failure.expected, failure.got) == ("shape.missing", [2, 3], [2])
    assert failure.details == ("a", "b")


def test_a_failure_carries_plain_json_only():
    failure = CheckFailed(
        "text",
        expected=torch.tensor([[1.0, float("nan")]]),
        got={"shape": torch.Size([2, 3]), 4: torch.float32},
        args={"worst": float("inf")},
    )

    assert failure.expected == [[1.0, "nan"]]
    assert failure.got == {"shape": [2, 3], "4": "torch.float32"}
    assert json.loads(json.dumps(failure.args_, allow_nan=False)) == {"worst": "inf"}


def test_a_failure_survives_a_trip_between_processes():
    failure = pickle.loads(pickle.dumps(CheckFailed("text", id="an.id", minimal="f(1)")))

    assert (str(failure), failure.id, failure.minimal) == ("text", "an.id", "f(1)")


@pytest.mark.parametrize("condition", [False, 0, [], torch.tensor(False), torch.ones(2)])
def test_expect_fails_unless_the_condition_holds(condition):
    with pytest.raises(CheckFailed, match=r"^the sentence$"):
        expect(condition, "the sentence", id="an.id")


@pytest.mark.parametrize("condition", [True, 1, torch.tensor(True)])
def test_expect_is_silent_when_the_condition_holds(condition):
    expect(condition, "the sentence")


def test_pictures_and_the_figure_go_to_the_record_that_was_begun():
    record = _record.begin()
    picture("bars", "Sizes", "one of them", labels=["a"], series=torch.tensor([1, 2]))
    measured("1.4x")
    with pytest.raises(CheckFailed):
        fail("text", pictures=[_record.drawn("curve", "t", "c", y=(1.0, 2.0))])

    assert [p["kind"] for p in record.pictures] == ["bars", "curve"]
    assert record.pictures[0]["data"] == {"labels": ["a"], "series": [1, 2]}
    assert record.pictures[1]["data"] == {"y": [1.0, 2.0]}
    assert record.measured == "1.4x"
    assert _record.begin().pictures == []


@pytest.mark.parametrize(
    ("case", "code"),
    [
        (3, "3"),
        ((2, 3), "2, 3"),
        ("split_heads(x, heads=2)", "split_heads(x, heads=2)"),
        ({"n": 2, "dim": -1}, "n=2, dim=-1"),
        ((torch.tensor([0.5, 1.0]), (2,)), "torch.tensor([0.5, 1.0]), (2,)"),
        (torch.zeros(3, 5), "torch.randn(3, 5)"),
        (torch.zeros(3, 5, dtype=torch.int64), "torch.zeros(3, 5, dtype=torch.int64)"),
    ],
)
def test_smallest_names_the_first_case_that_fails(case, code):
    ran = []

    def run(each):
        ran.append(each)
        expect(each == "fine" if isinstance(each, str) else False, "wrong")

    with pytest.raises(CheckFailed) as caught:
        smallest(run, ["fine", case, "never reached"])

    assert caught.value.minimal == code
    assert len(ran) == 2


def test_smallest_prefers_a_mistake_that_has_a_name():
    record = _record.begin()
    right = {1: torch.tensor([1.0]), 2: torch.tensor([2.0, 5.0]), 3: torch.tensor([3.0, 4.0])}

    def run(n, got):
        # On the first case both mistakes give the same, and neither is named.
        explain = {"each is doubled": right[n] * 2, "each is one more": right[n] + 1}
        assert_close(got(right[n]), right[n], explain=explain)

    with pytest.raises(CheckFailed, match="each is doubled") as caught:
        smallest(lambda n: run(n, lambda x: x * 2), [1, 2, 3])
    assert caught.value.minimal == "2"
    pictures = len(record.pictures)

    record = _record.begin()
    with pytest.raises(CheckFailed, match="expected 1") as caught:
        smallest(lambda n: run(n, lambda x: x * 9), [1, 2, 3])
    assert caught.value.minimal == "1"
    assert len(record.pictures) == pictures

    def gives_up(n):
        if n > 1:
            raise RuntimeError("later")
        run(n, lambda x: x * 9)

    with pytest.raises(CheckFailed, match="expected 1"):
        smallest(gives_up, [1, 2, 3])


def test_smallest_notes_the_case_where_the_submission_itself_raises():
    record = _record.begin()

    with pytest.raises(ZeroDivisionError):
        smallest(lambda n: 1 // n, [1, 0])

    assert record.minimal == "0"


def test_smallest_passes_when_every_case_does():
    smallest(lambda n: expect(n > 0, "wrong"), [1, 2, 3])


def test_the_face_lists_its_names_in_order():
    assert testing.__all__ == sorted(testing.__all__)
    assert all(hasattr(testing, name) for name in testing.__all__)
