"""What the value helpers say about numbers that are not the expected ones."""

import math
import warnings

import numpy
import pytest
import torch

from grader.testing import CheckFailed, _record, assert_close, assert_equal, assert_finite

SQUARE = torch.tensor([[0.3, -1.2, 2.0], [1.7, 0.4, -0.6], [-2.5, 0.9, 1.1]], dtype=torch.float64)
SCORES = torch.tensor([[0.1, 0.9, 0.2], [1.5, 0.3, 0.4], [0.6, 0.7, 2.0]])


def failure_of(check, *args, **kwargs):
    _record.begin()
    with pytest.raises(CheckFailed) as caught:
        check(*args, **kwargs)
    return caught.value


@pytest.mark.parametrize(
    ("got", "says"),
    [
        (SQUARE.T, "the result is transposed"),
        (-SQUARE, "the sign of the result is flipped"),
        (SQUARE * 0, "every element of the result is 0"),
        (SQUARE * 7**0.5, "2.6458 times the expected one, which is the square root of 7"),
        (SQUARE / 8, "0.125 times the expected one, which is 1 / 8"),
        (SQUARE * 3, "every element of the result is 3 times the expected one"),
        (SQUARE * 5 / 4, "which is 5/4: divided by n"),
        (SQUARE * (4 / 5) ** 0.5, "which is the square root of 4/5: divided by n"),
        (SQUARE / math.log(2), "a logarithm to base 2"),
        (SQUARE + 0.25, "every element of the result is too large by 0.25"),
        (SQUARE - 0.25, "too small by 0.25"),
        (SQUARE.flip(0), "axis 0 (row) of the result is in reverse order"),
        (SQUARE.roll(1, 1), "the result is shifted by one along axis 1 (column)"),
        (SQUARE[:1].expand(3, 3), "every entry of the result along axis 0 (row) is the first one"),
        (SQUARE.exp(), "is a log missing?"),
        (SQUARE.square(), "is a square root missing?"),
        (SQUARE.reciprocal(), "the result is 1 / what was expected"),
        (SQUARE.softmax(-1), "the softmax of what was expected"),
        (SQUARE * 1.000002, "the result is right to float32 precision only"),
    ],
)
def test_a_common_mistake_is_named_when_it_explains_every_element(got, says):
    failure = failure_of(assert_close, got, SQUARE, axes=("row", "column"))

    assert says in failure.text
    assert failure.id == "value.known"
    assert "expected" in failure.details[0]


def test_weights_that_sum_over_the_wrong_axis_are_named():
    failure = failure_of(assert_close, SCORES.softmax(0), SCORES.softmax(1), axes=("query", "key"))

    assert failure.text == (
        "the result sums to 1 over axis 0 (query); it must sum to 1 over axis 1 (key)"
    )


def test_float32_that_went_through_bfloat16_is_named():
    failure = failure_of(assert_close, SCORES.bfloat16().float(), SCORES)

    assert "right to bfloat16 precision only" in failure.text


def test_the_worst_element_is_named_when_no_mistake_explains_the_rest():
    got = SQUARE.clone()
    got[1, 2] += 5
    got[0, 0] += 1

    failure = failure_of(assert_close, got, SQUARE)

    assert failure.text == (
        "the result at [1, 2] is 4.4; expected -0.6 (the worst of 2 of 9 elements that differ)"
    )
    assert (failure.id, failure.expected, failure.got) == ("value.close", -0.6, 4.4)


@pytest.mark.parametrize(
    ("places", "says"),
    [
        ([(0, 1), (1, 2)], "all 2 wrong elements are one step above the diagonal"),
        ([(0, 0), (1, 1)], "all 2 wrong elements are on the diagonal"),
        ([(0, 1), (0, 2), (1, 2)], "all 3 wrong elements are above the diagonal"),
        ([(1, 0), (2, 0), (2, 1)], "all 3 wrong elements are below the diagonal"),
        ([(2, 0), (2, 1)], "all 2 wrong elements have axis 0 at 2 (the last)"),
    ],
)
def test_what_the_wrong_places_have_in_common_is_a_further_line(places, says):
    got = SQUARE.clone()
    for n, place in enumerate(places):
        got[place] += n + 1

    assert says in failure_of(assert_close, got, SQUARE).details


def test_an_explanation_of_the_suites_own_is_the_sentence():
    failure = failure_of(
        assert_close,
        SQUARE.sigmoid(),
        SQUARE.softmax(-1),
        explain={
            "you used a sigmoid": SQUARE.sigmoid(),
            "you used tanh": lambda: SQUARE.tanh(),
        },
    )

    assert failure.text == "you used a sigmoid"
    assert failure.id == "value.explained"


def test_an_explanation_may_have_another_shape_than_the_expected_value():
    failure = failure_of(
        assert_close, SQUARE.sum(0), SQUARE.sum(), explain={"one axis is left": SQUARE.sum(0)}
    )

    assert failure.text == "one axis is left"


def test_two_explanations_that_both_fit_explain_nothing():
    failure = failure_of(
        assert_close, SQUARE + 1, SQUARE, explain={"first": SQUARE + 1, "second": SQUARE + 1}
    )

    assert "too large by 1" in failure.text


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (SQUARE.clone(), SQUARE),
        (SQUARE * (1 + 5e-8), SQUARE),
        (SQUARE.float() * (1 + 5e-6), SQUARE.float()),
        (SQUARE.half() * 1.004, SQUARE.half()),
        (SQUARE.clone().requires_grad_(), SQUARE),
        (
            torch.tensor([math.nan, math.inf, -math.inf]),
            torch.tensor([math.nan, math.inf, -math.inf]),
        ),
        (torch.tensor([1, 2]), torch.tensor([1, 2])),
        (torch.empty(0, 3), torch.empty(0, 3)),
        (torch.tensor(2.0), 2.0),
        (2.0000001, 2),
        (numpy.float64(0.5), 0.5),
        (0.5, numpy.float64(0.5)),
        ((SQUARE, SQUARE), [SQUARE, SQUARE]),
        ({"a": SQUARE}, {"a": SQUARE}),
        (numpy.ones(2), numpy.ones(2)),
        (torch.tensor([1 + 2j]).conj(), torch.tensor([1 - 2j])),
        (torch.ones(2, dtype=torch.bool), torch.ones(2, dtype=torch.bool)),
    ],
)
def test_close_values_pass(got, expected):
    assert_close(got, expected)


@pytest.mark.parametrize(
    ("got", "expected", "says"),
    [
        (SQUARE.float(), SQUARE, "the result is float32; expected float64"),
        (SQUARE[:2], SQUARE, "axis 0 has size 2 instead of 3"),
        (0.5, SQUARE, "the result is a float, 0.5; expected a torch.Tensor"),
        (torch.tensor([math.inf]), torch.tensor([1.0]), "is inf; expected 1"),
        (torch.tensor([1.0]), torch.tensor([math.inf]), "is 1; expected inf"),
        (torch.tensor([-math.inf]), torch.tensor([math.inf]), "the sign of the result"),
        (torch.tensor([math.nan, 1.0]), torch.tensor([1.0, 2.0]), "at [0] is nan; expected 1"),
        (
            torch.tensor([2**53 + 1]),
            torch.tensor([2**53]),
            "9007199254740993; expected 9007199254740992",
        ),
        (torch.tensor([True, False]), torch.tensor([False, True]), "the result is inverted"),
        (torch.ones(2, device="meta"), torch.ones(2), "meta device and has no values"),
        (None, 0.5, "the result is None; expected a number"),
        ("0.5", 0.5, "the result is the text '0.5'"),
        (10**400, 0.5, "an integer of 1329 bits; expected 0.5"),
        (math.nan, 0.5, "the result is nan; expected 0.5"),
        (torch.ones(2), 0.5, "got (2,)"),
        (0.3, 0.25, "the result is 0.3; expected 0.25"),
        ((SQUARE,), (SQUARE, SQUARE), "the result has 1 item; expected 2"),
        ((SQUARE, SQUARE + 1), (SQUARE, SQUARE), "the result[1] is too large by 1"),
        (SQUARE, (SQUARE, SQUARE), "expected a tuple of 2"),
        ({"a": 1.0}, {"b": 1.0}, "'b' missing and 'a' too many"),
        ([1.0], {"b": 1.0}, "the result is a list of 1; expected a dict"),
        (torch.ones(2), numpy.ones(2), "expected a numpy.ndarray"),
        (numpy.ones(2, dtype="f4"), numpy.ones(2), "the result is float32; expected float64"),
        (torch.tensor([1 - 2j]), torch.tensor([1 + 2j]), "complex conjugate"),
    ],
)
def test_other_values_fail_with_what_they_are(got, expected, says):
    assert says in failure_of(assert_close, got, expected).text


def test_the_tolerance_is_the_suites_where_it_names_one():
    assert_close(SQUARE + 0.01, SQUARE, atol=0.02)
    assert_close(SQUARE * 1.01, SQUARE, rtol=0.02)
    failure_of(assert_close, SQUARE * 1.03, SQUARE, rtol=0.02, atol=0)


def test_a_failing_map_is_drawn_around_its_worst_element():
    expected = torch.zeros(2, 40, 50)
    got = expected.clone()
    got[1, 35, 3] = 1.0

    failure_of(assert_close, got, expected, axes=("batch", "query", "key"))

    (picture,) = _record.current().pictures
    maps = picture["data"]["maps"]
    assert [each["label"] for each in maps] == ["expected", "yours", "difference"]
    assert [len(each["values"]) for each in maps] == [24, 24, 24]
    assert {len(row) for each in maps for row in each["values"]} == {24}
    top, left = picture["data"]["origin"]
    assert maps[1]["values"][35 - top][3 - left] == 1.0
    assert maps[1]["marked"] == [[35 - top, 3 - left]]
    assert (picture["data"]["row_axis"], picture["data"]["column_axis"]) == ("query", "key")
    assert "the slice [1]" in picture["caption"]


@pytest.mark.parametrize(("shape", "pictures"), [((), 0), ((3,), 1), ((2, 3), 1)])
def test_a_strip_is_drawn_for_one_axis_and_nothing_for_a_number(shape, pictures):
    failure_of(assert_close, torch.ones(shape), torch.zeros(shape))

    drawn = _record.current().pictures
    assert len(drawn) == pictures
    assert all(isinstance(row, list) for p in drawn for row in p["data"]["maps"][0]["values"])


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (3, 3),
        (True, True),
        ("a\nb", "a\nb"),
        (torch.Size([2, 3]), (2, 3)),
        ([1, (2, None)], [1, (2, None)]),
        ({"a": [1.5]}, {"a": [1.5]}),
        (torch.float32, torch.float32),
        (math.nan, math.nan),
        (torch.tensor([1, 2]), torch.tensor([1, 2])),
        ({1, 2}, {2, 1}),
        ((torch.ones(2),), (torch.ones(2),)),
    ],
)
def test_equal_values_pass(got, expected):
    assert_equal(got, expected)


class Agreeable:
    def __eq__(self, other):
        return True

    def __repr__(self):
        raise RuntimeError


class AgreeableInt(int):
    def __eq__(self, other):
        return True

    __hash__ = int.__hash__


class AgreeableList(list):
    def __eq__(self, other):
        return True

    def __len__(self):
        return 3


class AgreeableText(str):
    def __eq__(self, other):
        return True

    __hash__ = str.__hash__


@pytest.mark.parametrize(
    ("got", "expected", "says"),
    [
        (True, 1, "the result is a bool, True; expected an int, 1"),
        (1, True, "the result is an int, 1; expected a bool, True"),
        (2.0, 2, "the result is a float, 2; expected an int, 2"),
        ([1, 2], (1, 2), "the result is a list of 2; expected a tuple of 2"),
        ((1, 2, 4), (1, 2, 3), "the result[2] is 4; expected 3"),
        ((1, 2), (1, 2, 3), "the result is (1, 2); expected (1, 2, 3)"),
        ({"a": 1}, {"a": 2}, "the result['a'] is 1; expected 2"),
        ({}, {"a": 2}, "the result lacks 'a'"),
        ({"a": 2, "b": 1}, {"a": 2}, "has 'b', which does not belong there"),
        ("a\nb", "a\nc", "the result differs in line 2: 'b'; expected 'c'"),
        ("a", "a\nc", "the result has 1 line; expected 2"),
        ("left", "right", "the result is 'left'; expected 'right'"),
        (3, "3", "the result is an int, 3; expected the text '3'"),
        (torch.float16, torch.float32, "the result is torch.float16; expected torch.float32"),
        (torch.tensor([1]), torch.tensor([2]), "the result at [0] is 1; expected 2"),
        (torch.tensor([1.0]), torch.tensor([1]), "the result is float32; expected int64"),
        (1, torch.tensor([1]), "expected a torch.Tensor"),
        (Agreeable(), 3, "the result is an Agreeable; expected an int, 3"),
        (Agreeable(), None, "the result is an Agreeable; expected None"),
        (AgreeableInt(4), 3, "the result is 4; expected 3"),
        (AgreeableList([1]), [1, 2, 3], "the result is [1]; expected [1, 2, 3]"),
        (AgreeableText("x"), "y", "the result is 'x'; expected 'y'"),
        ((Agreeable(),), (torch.ones(1),), "expected a tensor of shape (1,)"),
    ],
)
def test_unequal_values_fail_even_if_they_claim_otherwise(got, expected, says):
    failure = failure_of(assert_equal, got, expected)

    assert says in failure.text


def test_a_known_wrong_answer_is_the_sentence():
    failure = failure_of(
        assert_equal, (3, 1), (1, 3), explain={"the strides are reversed": (3, 1), "no": (2, 2)}
    )

    assert failure.text == "the strides are reversed"
    assert failure.details == ("the result[0] is 3; expected 1",)


def test_finite_names_the_tensor_and_the_first_place():
    x = torch.tensor([[1.0, 2.0], [math.nan, math.inf]])

    failure = failure_of(assert_finite, output=torch.ones(2), query_gradient=x)

    assert failure.text == (
        "query gradient is nan at [1, 0], and 1 more of 4 elements; every element must be finite"
    )
    assert "gradient is None" in failure_of(assert_finite, gradient=None).text
    assert "loss is inf" in failure_of(assert_finite, loss=math.inf).text
    assert_finite(a=torch.ones(2), b=torch.tensor([1, 2]), c=0.5, d=torch.empty(0))


def quantized():
    with warnings.catch_warnings(action="ignore"):
        return torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.quint8)


HOSTILE = [
    None,
    "text",
    object(),
    Agreeable(),
    (),
    [],
    {},
    (torch.ones(2, 3), None),
    lambda: 1,
    torch.Tensor,
    10**4000,
    math.nan,
    1 + 2j,
    torch.tensor(4),
    torch.ones(2, 3, device="meta"),
    torch.ones(2, 3).to_sparse(),
    torch.full((2, 3), math.nan, requires_grad=True),
    torch.ones(2, 3, dtype=torch.complex64),
    torch.ones(2, 3, dtype=torch.bool),
    torch.ones(0, 3),
    torch.ones(1).expand(10**9),
    torch.ones((1,) * 20),
    quantized(),
    torch.nn.Linear(2, 3),
    numpy.ones((2, 3)),
]


@pytest.mark.parametrize("expected", [torch.zeros(2, 3), 0.5, 3, (torch.zeros(2, 3),), "a", None])
@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_nothing_that_a_submission_returns_breaks_a_comparison(number, expected):
    for check in (assert_close, assert_equal):
        if check is assert_close and expected in ("a", None):
            continue
        got = HOSTILE[number]
        if got is None and expected is None:
            continue
        failure_of(check, got, expected)


def test_a_tensor_that_claims_to_be_equal_is_refused():
    class Equal(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            return torch.tensor(True)

    result = torch.ones(2).as_subclass(Equal)
    assert "expected a torch.Tensor" in failure_of(assert_close, result, torch.zeros(2)).text


def test_replacing_what_torch_compares_with_changes_nothing(monkeypatch):
    def agree(*args, **kwargs):
        return torch.tensor(True)

    for name in ("allclose", "isclose", "equal", "eq", "ne", "all", "any", "abs", "isnan", "where"):
        monkeypatch.setattr(torch, name, agree)
    monkeypatch.setattr(torch.testing, "assert_close", lambda *args, **kwargs: None)
    with pytest.raises(CheckFailed):
        assert_close(torch.ones(2), torch.zeros(2))
    with pytest.raises(CheckFailed):
        assert_equal(torch.tensor([1]), torch.tensor([2]))


def test_a_function_mode_that_was_left_open_changes_nothing():
    class Agree(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if getattr(func, "__name__", "") in ("ne", "eq", "any", "gt", "le", "logical_not"):
                return torch.zeros((), dtype=torch.bool)
            return func(*args, **(kwargs or {}))

    with Agree(), pytest.raises(CheckFailed):
        assert_close(torch.ones(2), torch.zeros(2))
