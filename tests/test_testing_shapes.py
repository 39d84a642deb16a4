"""What the shape helpers say about a tensor that is not the one that was asked for."""

import numpy
import pytest
import torch

from grader.testing import (
    CheckFailed,
    _record,
    assert_contiguous,
    assert_device,
    assert_dtype,
    assert_shape,
    assert_strides,
    assert_tensor,
)


def shape_failure(got, **axes):
    _record.begin()
    with pytest.raises(CheckFailed) as caught:
        assert_shape(torch.zeros(got), **axes)
    return caught.value


@pytest.mark.parametrize(
    ("got", "axes", "id", "says"),
    [
        (
            (2, 5, 4),
            {"batch": 2, "heads": 4, "time": 5},
            "permuted",
            "axes 1 and 2 (heads and time) are swapped",
        ),
        (
            (3, 2, 7, 5),
            {"a": 2, "b": 3, "c": 5, "d": 7},
            "permuted",
            "axes are in another order, (b, a, d, c)",
        ),
        ((5, 2, 3), {"a": 2, "b": 3, "c": 5}, "permuted", "in another order, (c, a, b)"),
        ((2, 5), {"batch": 2, "heads": 3, "time": 5}, "missing", "axis 1 (heads) is missing"),
        (
            (2, 5),
            {"batch": 2, "one": 1, "time": 5},
            "keepdim",
            "a size-1 axis is missing, axis 1 (one) (keepdim)",
        ),
        ((5,), {"a": 2, "b": 3, "c": 5}, "missing", "axis 0 (a) and axis 1 (b) are missing"),
        ((5, 5), {"rows": 5, "one": 1}, "broadcast", "it was broadcast to (5, 5)"),
        ((5, 5), {"rows": 5}, "broadcast", "it was broadcast to (5, 5)"),
        ((5, 3), {"batch": 5}, "extra", "an extra axis of size 3 at position 1"),
        ((2, 1, 3), {"a": 2, "b": 3}, "extra", "an extra axis of size 1 at position 1"),
        (
            (2, 15),
            {"a": 2, "b": 3, "c": 5},
            "merged",
            "axes 1 and 2 (b and c) are merged into one of 15",
        ),
        ((2, 3, 5), {"a": 2, "b": 15}, "split", "axis 1 (b) is split into (3, 5)"),
        (
            (2, 4),
            {"batch": 2, "time": 5},
            "size",
            "axis 1 (time) has size 4 instead of 5, one too few",
        ),
        ((2, 1), {"batch": 2, "time": 5}, "size", "as after a reduction with keepdim=True"),
        ((3, 7), {"a": 2, "b": 5}, "size", "axis 0 (a) is 3 not 2 and axis 1 (b) is 7 not 5"),
        ((), {"a": 2, "b": 5}, "reduced", "it is a single number"),
        ((7, 7, 7), {"a": 2}, "ndim", "3 axes where 1 belong"),
        ((2,), {}, "extra", "an extra axis of size 2 at position 0"),
    ],
)
def test_a_wrong_shape_is_told_by_what_happened_to_its_axes(got, axes, id, says):
    failure = shape_failure(got, **axes)

    assert says in failure.text
    assert failure.id == f"shape.{id}"
    assert failure.text.endswith(f"got {tuple(got)}")
    assert failure.expected == {"shape": list(axes.values()), "axes": list(axes)}
    assert failure.got == {"shape": list(got)}


def test_both_shapes_stand_in_aligned_rows_with_a_star_where_they_differ():
    failure = shape_failure((2, 5, 4, 8), batch=2, heads=4, time=5, head_dim=8)

    assert failure.details == (
        "             batch   heads   time   head_dim",
        "expected         2       4      5          8",
        "got              2      *5     *4          8",
    )


def test_the_picture_shows_where_each_axis_went():
    shape_failure((2, 5, 4), batch=2, heads=4, time=5)

    (picture,) = _record.current().pictures
    assert picture["kind"] == "axes"
    assert picture["data"] == {
        "expected": {"names": ["batch", "heads", "time"], "sizes": [2, 4, 5]},
        "got": {"sizes": [2, 5, 4]},
        "moves": [[0, 0], [1, 2], [2, 1]],
    }


@pytest.mark.parametrize("axes", [{"a": 2, "b": 3}, {"tensor": 2, "self": 3}])
def test_the_right_shape_passes_whatever_the_axes_are_called(axes):
    assert_shape(torch.zeros(2, 3), **axes)


class Odd(torch.Tensor):
    def __eq__(self, other):
        return True


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "the result is None; expected a torch.Tensor: is a return missing?"),
        (3, "expected a torch.Tensor; torch.tensor makes one of a number"),
        (3.0, "leave torch, and cut the gradient"),
        ((torch.ones(1), torch.ones(1)), "the result is a tuple of 2"),
        ([1.0], "the result is a list of 1"),
        (0.5, "the result is a float, 0.5"),
        (10**40, "an integer of 133 bits"),
        (numpy.ones(3), "the result is a numpy.ndarray"),
        (torch.ones(2).as_subclass(Odd), "the result is an Odd of shape (2,)"),
        (torch.ones(2, 2).to_sparse(), "layout sparse_coo"),
        (torch.Tensor, "the class Tensor"),
        ({"a": 1}, "the result is a dict with 1 key"),
        ("text", "the result is the text 'text'"),
    ],
)
def test_what_is_no_plain_tensor_is_named(value, says):
    with pytest.raises(CheckFailed) as caught:
        assert_tensor(value)

    assert says in str(caught.value)


def test_a_tensor_and_a_parameter_are_tensors():
    tensor = torch.ones(2)
    assert assert_tensor(tensor) is tensor
    assert_tensor(torch.nn.Parameter(tensor))
    assert_tensor(torch.ones(2, device="meta"))


@pytest.mark.parametrize(
    ("check", "says"),
    [
        (lambda x: assert_dtype(x, torch.float64), "the result is float32; expected float64"),
        (lambda x: assert_device(x, "meta"), "the result is on cpu; expected meta"),
        (
            lambda x: assert_strides(x.T, (3, 1)),
            "(1, 3); expected (3, 1); the axes are in another order",
        ),
        (lambda x: assert_strides(x, (0, 1)), "(3, 1); expected (0, 1); it was copied"),
        (lambda x: assert_contiguous(x.T), "its strides are (1, 3) for shape (3, 2)"),
    ],
)
def test_dtype_device_and_strides_are_exact(check, says):
    with pytest.raises(CheckFailed) as caught:
        check(torch.zeros(2, 3))

    assert says in str(caught.value)


def test_the_right_dtype_device_and_strides_pass():
    x = torch.zeros(2, 3)
    assert_dtype(x, torch.float32)
    assert_device(x, "cpu")
    assert_strides(x.expand(4, 2, 3), (0, 3, 1))
    assert_contiguous(x)
