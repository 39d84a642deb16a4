"""What is raised, what was called in which order, where training gets, what a seed decides."""

import functools

import pytest
import torch
from torch import nn

from grader.testing import (
    CheckFailed,
    _record,
    assert_raises,
    assert_runs_on_meta,
    assert_same_seed_same_result,
    loop_oracle,
    rand_ints,
    randn,
    spy,
    train_until,
)


def raiser(error):
    def fn(*args, **kwargs):
        raise error

    return fn


def failure_of(check, *args, **kwargs):
    _record.begin()
    with pytest.raises(CheckFailed) as caught:
        check(*args, **kwargs)
    return caught.value


@pytest.mark.parametrize(
    ("exception", "error", "text"),
    [
        (ValueError, ValueError("axis -2 does not fit"), "axis -2"),
        (ValueError, ValueError("Axis -2"), ("dim", "axis")),
        (KeyError, KeyError("heads"), "heads"),
        ((ValueError, IndexError), IndexError("out of range"), ""),
        (LookupError, IndexError("out of range"), "range"),
        (NotImplementedError, NotImplementedError("complex"), "complex"),
    ],
)
def test_the_exception_that_was_asked_for_passes_and_comes_back(exception, error, text):
    assert assert_raises(exception, raiser(error), 1, text=text, key=2) is error


class Mute(ValueError):
    def __str__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (lambda: 3, "nothing was raised, and an int, 3 came back; expected a ValueError"),
        (raiser(KeyError("k")), "a KeyError was raised (k); expected a ValueError"),
        (raiser(ValueError("no")), "the message of the ValueError is 'no'; it must contain 'axis'"),
        (raiser(Mute()), "it must contain 'axis'"),
    ],
)
def test_anything_but_the_exception_fails(fn, says):
    assert says in failure_of(assert_raises, ValueError, fn, text="axis").text


def test_an_open_task_does_not_count_as_a_runtime_error():
    with pytest.raises(NotImplementedError):
        assert_raises(RuntimeError, raiser(NotImplementedError("day03 T1: fit")))
    with pytest.raises(NotImplementedError):
        assert_raises(ValueError, raiser(NotImplementedError("day03 T1: fit")))


def run_of(model, optimizer, log):
    with spy(model, "forward", log=log), spy(optimizer, "zero_grad", "step", log=log):
        with spy(torch.Tensor, "backward", log=log):
            optimizer.zero_grad()
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            model.eval()
            with torch.no_grad():
                model(torch.ones(1, 2))


def test_a_spy_tells_the_order_of_calls_on_several_objects_and_the_modes():
    model = nn.Sequential(nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model[0].weight.detach().clone()

    with spy(model, "train") as log:
        run_of(model, optimizer, log)

    assert str(log) == "zero_grad, forward, backward, step, train, forward"
    assert [(e.training, e.grad_enabled) for e in log.of("forward")] == [
        (True, True),
        (False, False),
    ]
    assert (log.count("forward"), len(log)) == (2, 6)
    assert log.of("train")[0].args == (False,)
    assert not torch.equal(model[0].weight, before)


def test_a_spy_leaves_nothing_behind_even_after_an_error():
    model = nn.Linear(2, 1)
    original = torch.Tensor.backward
    with pytest.raises(ZeroDivisionError), spy(model, "forward"), spy(torch.Tensor, "backward"):
        divmod(1, 0)

    assert "forward" not in vars(model)
    assert torch.Tensor.backward is original


def test_a_scheduler_can_be_made_while_its_optimizer_is_watched():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)

    with spy(optimizer, "step") as log:
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        optimizer.step()
        scheduler.step()

    assert log.names == ["step"]


def test_functions_of_a_module_and_static_methods_can_be_watched():
    class Tools:
        @staticmethod
        def twice(x):
            return 2 * x

    with spy(torch, "ones") as log, spy(Tools, "twice", log=log):
        log.note("begin")
        assert torch.ones(2).sum() == 2
        assert Tools.twice(3) == 6
        assert Tools().twice(4) == 8

    assert log.names == ["begin", "ones", "twice", "twice"]
    assert [event.args for event in log][1:] == [(2,), (3,), (4,)]


def descent(rate, start=2.0):
    def make(seed):
        state = {"x": start + torch.rand(()).item()}

        def step():
            state["x"] *= rate
            return torch.tensor(state["x"])

        return step

    return make


def test_training_stops_as_soon_as_enough_seeds_get_there():
    seeds = []

    def make(seed):
        seeds.append(seed)
        return descent(0.5)(seed)

    record = _record.begin()
    curve = train_until(make, 0.1, 20)

    assert seeds == [0, 1]
    assert curve[-1] < 0.1 <= curve[-2]
    assert record.measured == f"{curve[-1]:.3g} after {len(curve)} steps"


def test_one_seed_may_fail():
    starts = iter([1e9, 1.0, 1.0])

    train_until(lambda seed: descent(0.5, next(starts))(seed), 0.1, 20)


@pytest.mark.parametrize(
    ("make", "kwargs", "says"),
    [
        (descent(0.99), {}, "the loss must come below 0.1 within 20 steps; at best it came to"),
        (descent(float("nan")), {}, "it came to nan and nan, from 2 seeds"),
        (descent(0.9), {"above": True, "what": "the accuracy"}, "the accuracy must come above 0.1"),
        (lambda seed: lambda: None, {}, "the loss is None; expected a number"),
        (lambda seed: lambda: torch.ones(2), {}, "the loss is a tensor of shape (2,)"),
    ],
)
def test_training_that_does_not_get_there_fails(make, kwargs, says):
    target = 10.0 if kwargs.get("above") else 0.1
    assert (
        says.replace("0.1", str(f"{target:.4g}"))
        in failure_of(train_until, make, target, 20, **kwargs).text
    )


def test_the_curves_of_a_failed_training_are_drawn_with_what_belongs_beside_them():
    beside = {"series": [{"label": "model solution", "y": [1.0]}], "levels": [{"y": 2.0}]}
    failure_of(train_until, descent(0.99), 0.1, 20, need=3, beside=beside)

    (picture,) = _record.current().pictures
    assert [one["label"] for one in picture["data"]["series"]] == ["seed 0", "model solution"]
    assert picture["data"]["levels"] == [{"y": 2.0}]


def test_the_curves_of_a_failed_training_are_drawn():
    failure_of(train_until, descent(0.99), 0.1, 20, need=3)

    (picture,) = _record.current().pictures
    assert picture["kind"] == "curve"
    assert len(picture["data"]["series"][0]["y"]) == 20
    assert (picture["data"]["limit"], picture["data"]["log_y"]) == (0.1, True)


COUNT = iter(range(100))


@pytest.mark.parametrize(
    ("fn", "kwargs", "says"),
    [
        (
            lambda: torch.tensor(next(COUNT)),
            {},
            "the result differs between two calls after the same seed",
        ),
        (lambda: torch.ones(3), {}, "the result is the same whatever the seed"),
        (lambda g: torch.randn(3), {"generator": True}, "the global random state changed"),
        (lambda g: torch.ones(3), {"generator": True}, "the same whatever the generator's seed"),
        (lambda: [0.5, torch.ones(2)], {"what": "the batch"}, "the batch is the same"),
    ],
)
def test_a_seed_that_does_not_decide_is_found(fn, kwargs, says):
    assert says in failure_of(assert_same_seed_same_result, fn, **kwargs).text


def test_a_seed_that_decides_passes_and_the_global_state_is_as_before():
    state = torch.get_rng_state()

    assert_same_seed_same_result(lambda: torch.randn(3))
    assert_same_seed_same_result(lambda g: torch.randperm(9, generator=g), generator=True)
    assert_same_seed_same_result(lambda: torch.ones(3), differs=False)

    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("fn", "says"),
    [
        (lambda x: x + torch.ones(5), "you created a tensor without device="),
        (lambda x: x @ torch.ones(5, 3), "you created a tensor without device="),
        (
            lambda x: torch.einsum("ij,j->i", x, torch.ones(5)),
            "you created a tensor without device=",
        ),
        (lambda x: x.masked_fill(torch.ones(5).bool(), 0), "you created a tensor without device="),
        (lambda x: torch.cat([x, torch.ones(1, 5)]), "you created a tensor without device="),
        (lambda x: nn.Linear(5, 2)(x), "you created a tensor without device="),
        (
            lambda x: torch.arange(x.shape[1]),
            "the result is on cpu though the inputs are on another",
        ),
        (lambda x: (x, [torch.ones(1)]), "the result[1][0] is on cpu"),
    ],
)
def test_a_forgotten_device_shows_on_a_machine_that_has_only_one(fn, says):
    assert says in failure_of(assert_runs_on_meta, fn, torch.ones(3, 5)).text


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x + torch.ones(5, device=x.device),
        lambda x: x * torch.tensor(2.0),
        lambda x: x[torch.arange(2)],
        lambda x: x[x > 0],
        lambda x: x / x.max().item(),
        lambda x: x if (x > 0).any() else -x,
        lambda x: torch.from_numpy(x.numpy()),
        lambda x: x.unique(),
        nn.Linear(5, 2),
        nn.Linear(5, 2).forward,
        functools.partial(nn.functional.linear, weight=torch.ones(2, 5)),
        lambda x: nn.functional.dropout(x).softmax(-1).to("meta"),
    ],
)
def test_a_function_that_follows_its_inputs_passes_and_so_does_one_that_must_look(fn):
    assert_runs_on_meta(fn, torch.ones(3, 5))


def test_an_error_that_has_nothing_to_do_with_devices_is_the_submissions_own():
    with pytest.raises(ZeroDivisionError):
        assert_runs_on_meta(lambda x: x / (1 // 0), torch.ones(2))
    with pytest.raises(NotImplementedError, match="day03"):
        assert_runs_on_meta(raiser(NotImplementedError("day03 T1: fit")), torch.ones(2))


def test_an_oracle_by_hand_visits_every_index():
    assert loop_oracle((2, 3), lambda i, j: 10 * i + j).tolist() == [[0, 1, 2], [10, 11, 12]]
    assert loop_oracle((2,), lambda i: i > 0, torch.bool).tolist() == [False, True]
    assert loop_oracle((0, 3), lambda i, j: 1).shape == (0, 3)
    assert loop_oracle((), lambda: torch.tensor(2.5)).item() == 2.5


def test_inputs_follow_the_seed_and_the_asked_type():
    torch.manual_seed(3)
    first = randn(2, 3, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(3)
    second = randn(2, 3)

    assert first.is_leaf
    assert first.requires_grad
    assert torch.equal(first.float(), second)
    assert randn(50, away_from_zero=0.5).abs().min() >= 0.5
    ints = rand_ints(100, low=2, high=4)
    assert (ints.dtype, set(ints.tolist())) == (torch.int64, {2, 3})
