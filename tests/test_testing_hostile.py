"""Whatever a submission returns, a check fails with a sentence and with nothing else."""

import math

import numpy
import pytest
import torch
from torch import nn

from grader.testing import (
    CheckFailed,
    assert_contiguous,
    assert_copy,
    assert_device,
    assert_dtype,
    assert_finite,
    assert_gradients,
    assert_gradients_close,
    assert_independent,
    assert_same_seed_same_result,
    assert_shape,
    assert_strides,
    assert_view,
    train_until,
)


class Nothing:
    """Everything one may ask of it raises."""

    def __getattr__(self, name):
        raise RuntimeError(name)

    def __eq__(self, other):
        raise RuntimeError

    def __repr__(self):
        raise RuntimeError

    def __bool__(self):
        raise RuntimeError

    __hash__ = None


class Sure(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return True


RESULTS = {
    "None": lambda: None,
    "text": lambda: "tensor([1.])",
    "an object": object,
    "an object that raises": Nothing,
    "a tuple": lambda: (torch.ones(3), None),
    "an empty tuple": lambda: (),
    "a dict": lambda: {"x": torch.ones(3)},
    "a function": lambda: torch.ones,
    "a class": lambda: torch.Tensor,
    "a module": lambda: nn.Linear(1, 1),
    "a huge number": lambda: 10**5000,
    "nan": lambda: math.nan,
    "an array": lambda: numpy.ones(3),
    "a sure tensor": lambda: torch.ones(3).as_subclass(Sure),
    "a sparse tensor": lambda: torch.eye(3).to_sparse(),
    "a tensor that is not initialised": nn.UninitializedParameter,
    "a tensor of many axes": lambda: torch.ones((1,) * 30),
    "a tensor of bools": lambda: torch.ones(7, dtype=torch.bool),
}
X = torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
BASE = torch.arange(6.0).reshape(2, 3)
CHECKS = {
    "shape": lambda result: assert_shape(result(), batch=3, width=5),
    "dtype": lambda result: assert_dtype(result(), torch.int16),
    "device": lambda result: assert_device(result(), "cuda"),
    "strides": lambda result: assert_strides(result(), (7, 5)),
    "view": lambda result: assert_view(result(), BASE),
    "gradients": lambda result: assert_gradients(lambda x: result(), X),
    "gradients_close": lambda result: assert_gradients_close(lambda x: result(), torch.sin, X),
    "independent": lambda result: assert_independent(lambda x: result(), X, 0, 1),
    "seed": lambda result: assert_same_seed_same_result(result),
    "train": lambda result: train_until(lambda seed: result, -1.0, 3),
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("result", RESULTS)
def test_a_check_fails_with_a_sentence(check, result):
    with pytest.raises(CheckFailed) as caught:
        CHECKS[check](RESULTS[result])

    assert len(str(caught.value)) > 10


@pytest.mark.parametrize(
    "result", sorted(set(RESULTS) - {"a tensor of many axes", "a tensor of bools"})
)
@pytest.mark.parametrize("check", [assert_finite, assert_copy, assert_contiguous])
def test_what_is_no_tensor_is_refused_by_every_check(check, result):
    value = RESULTS[result]()
    with pytest.raises(CheckFailed):
        if check is assert_finite:
            assert_finite(result=math.inf if isinstance(value, int) else value)
        elif check is assert_copy:
            assert_copy(value, BASE)
        else:
            assert_contiguous(value)
