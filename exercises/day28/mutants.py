"""Subjects to try rules on: for each class of bugs a sample, a healthy and two sick functions."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sample(kind: str, seed: int) -> tuple[Any, ...]:
    """What the functions of a class are called with; each seed has its own numbers."""
    torch.manual_seed(seed)
    match kind:
        case "dependency":
            return (torch.randn(7, 5),)
        case "mode":
            layers = nn.Linear(5, 11), nn.BatchNorm1d(11), nn.ReLU(), nn.Dropout(0.5)
            model = nn.Sequential(*layers, nn.Linear(11, 3))
            model[1].eval()  # frozen: it stays so
            return model, torch.randn(7, 5)
        case "mask":
            mask = torch.rand(3, 7) < 0.5
            mask[:, 0], mask[:, 1] = True, False
            return torch.randn(3, 7, 5), mask
        case "shift":
            return torch.randperm(101)[:61], 5
        case "reduction":
            return torch.randn(7, 5), torch.randn(7, 5)
        case "order":
            return (torch.randn(2, 3, 5),)
        case "alias":
            return (torch.randn(5, 7),)
    return (torch.randn(7, 5),)  # dtype


# dependency: row t of fn(x) hangs on rows 0 to t of x alone.


def running_mean(x: Tensor) -> Tensor:
    return x.cumsum(0) / torch.arange(1, len(x) + 1)[:, None]


def centred_on_all_rows(x: Tensor) -> Tensor:
    return x - x.mean(0)


def backwards_sum(x: Tensor) -> Tensor:
    return x.flip(0).cumsum(0).flip(0)


# mode: fn(model, x) predicts in evaluation mode, and leaves each module's mode as it was.


def predicts_with_a_copy(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(model).eval()(x)


def forgets_eval(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def stays_in_eval(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(x)


# mask: places where the mask is False have no influence on fn(x, mask), nor has it how many of
# them stand at the end. Each row of the mask has a True.


def mean_of_the_kept(x: Tensor, mask: Tensor) -> Tensor:
    kept = mask[..., None]
    return x.masked_fill(~kept, 0).sum(1) / kept.sum(1)


def mean_of_all(x: Tensor, mask: Tensor) -> Tensor:
    return x.mean(1)


def weights_masked_too_late(x: Tensor, mask: Tensor) -> Tensor:
    return (x.softmax(1) * mask[..., None] * x).sum(1)


# shift: with x, y = fn(ids, ctx), y[i, t] follows x[i, t] in ids, for every i and t; the rows of x
# are ctx neighbours in ids, which are all different.


def windows(ids: Tensor, ctx: int) -> tuple[Tensor, Tensor]:
    count = (len(ids) - 1) // ctx
    return ids[: count * ctx].view(count, ctx), ids[1 : count * ctx + 1].view(count, ctx)


def same_for_both(ids: Tensor, ctx: int) -> tuple[Tensor, Tensor]:
    x, _ = windows(ids, ctx)
    return x, x.clone()


def rolled_in_each_row(ids: Tensor, ctx: int) -> tuple[Tensor, Tensor]:
    x, _ = windows(ids, ctx)
    return x, x.roll(-1, 1)


# alias: fn(x) leaves x as it is; its result shares no memory with x, nor with an earlier result.


def doubled(x: Tensor) -> Tensor:
    return 2 * x


def doubled_in_place(x: Tensor) -> Tensor:
    return x.mul_(2)


def first_rows(x: Tensor) -> Tensor:
    return x[:3]


# order: fn(x)[k, i, j] is x[i, j, k], for x (a, b, c).


def moved(x: Tensor) -> Tensor:
    return x.permute(2, 0, 1)


def reshaped(x: Tensor) -> Tensor:
    return x.reshape(x.shape[2], x.shape[0], x.shape[1])


def moved_the_other_way(x: Tensor) -> Tensor:
    return x.permute(1, 2, 0)


# dtype: fn(x) has the dtype of x, be it float16, bfloat16, float32 or float64.


def scaled(x: Tensor) -> Tensor:
    return x / x.abs().max()


def always_float32(x: Tensor) -> Tensor:
    return x.float() / 3


def times_a_tensor(x: Tensor) -> Tensor:
    return x * torch.full_like(x, 0.5, dtype=torch.float64)


# reduction: fn(x, y) has no axes, and does not change when every row of x and y stands there twice.


def mean_squared_error(x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(x, y)


def summed_squared_error(x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(x, y, reduction="sum")


def error_of_each_row(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).square().mean(1)


HEALTHY: dict[str, list[Callable[..., Any]]] = {
    "dependency": [running_mean],
    "mode": [predicts_with_a_copy],
    "mask": [mean_of_the_kept],
    "shift": [windows],
    "alias": [doubled],
    "order": [moved],
    "dtype": [scaled],
    "reduction": [mean_squared_error],
}
SICK: dict[str, list[Callable[..., Any]]] = {
    "dependency": [centred_on_all_rows, backwards_sum],
    "mode": [forgets_eval, stays_in_eval],
    "mask": [mean_of_all, weights_masked_too_late],
    "shift": [same_for_both, rolled_in_each_row],
    "alias": [doubled_in_place, first_rows],
    "order": [reshaped, moved_the_other_way],
    "dtype": [always_float32, times_a_tensor],
    "reduction": [summed_squared_error, error_of_each_row],
}
