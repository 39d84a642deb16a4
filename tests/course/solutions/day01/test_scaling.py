"""Day 1 of the fixture course asks for two functions."""

import pytest
import torch

from grader.testing import fail


@pytest.mark.task("double")
class TestDouble:
    @pytest.mark.points(20, "value")
    def test_doubles(self, submission):
        """Every element is doubled."""
        got = submission.double(torch.ones(2))
        if not torch.equal(got, torch.full((2,), 2.0)):
            fail(f"got {got.tolist()}, expected 2", got=got.tolist(), expected=[2.0, 2.0])

    @pytest.mark.points(30, "shape")
    @pytest.mark.after("test_doubles")
    @pytest.mark.parametrize("n", [1, 2])
    def test_any_length(self, submission, n):
        """Any length will do."""
        assert submission.double(torch.ones(n)).shape == (n,), f"lost an element of {n}"


@pytest.mark.task("triple")
class TestTriple:
    @pytest.mark.points(50, "value")
    @pytest.mark.hint("double, then add")
    def test_triples(self, submission):
        """Every element is tripled."""
        got = submission.triple(torch.ones(2))
        if not torch.equal(got, torch.full((2,), 3.0)):
            fail("not three times the argument", got=got.tolist(), expected=[3.0, 3.0])

    @pytest.mark.gpu
    @pytest.mark.points(0, "speed")
    def test_on_the_gpu(self, submission):
        """The accelerator does it too."""
        submission.triple(torch.ones(2, device=torch.accelerator.current_accelerator()))
