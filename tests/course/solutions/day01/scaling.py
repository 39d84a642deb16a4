"""Scaling."""

from torch import Tensor


def double(x: Tensor) -> Tensor:
    """Double every element.

    Args:
        x: (*)
    """
    ### BEGIN SOLUTION 1: double every element
    return x * 2
    ### END SOLUTION


def triple(x: Tensor) -> Tensor:
    """Triple every element.

    Args:
        x: (*)
    """
    ### BEGIN SOLUTION 2: use `double`
    return double(x) + x
    ### END SOLUTION
