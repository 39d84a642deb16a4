"""Day 17: what half precision holds, who runs in it, and how gradients and weights survive it."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def float_facts(dtype: torch.dtype) -> dict[str, float]:
    """What a floating-point format holds, found by arithmetic on tensors of that format.

    Args:
        dtype: float16, bfloat16, float32 or float64.

    Returns:
        max: the largest finite number.
        smallest_subnormal: the smallest number above 0.
        eps: the distance from 1 to the next number.
        largest_exact_int: the largest n such that 0, 1, ..., n can all be held.
        smallest_step: the smallest x of this dtype with 1 + x != 1.
    """
    ### BEGIN SOLUTION 1: five loops
    one = torch.ones((), dtype=dtype)
    half_step = one
    while one + half_step != one:
        half_step = half_step / 2
    eps = half_step * 2
    power = one
    while (power * 2).isfinite():
        power = power * 2
    smallest = one
    while smallest / 2 > 0:
        smallest = smallest / 2
    exact = one
    while exact + 1 != exact:
        exact = exact * 2
    return {
        "max": (power * (2 - eps)).item(),
        "smallest_subnormal": smallest.item(),
        "eps": eps.item(),
        "largest_exact_int": exact.item(),
        "smallest_step": (half_step * (1 + eps)).item(),
    }
    ### END SOLUTION


def dtype_trace(
    model: nn.Module, x: Tensor, device_type: str, dtype: torch.dtype
) -> dict[str, torch.dtype]:
    """The dtype of every leaf module's output when `model(x)` runs under autocast.

    Args:
        model: every leaf (a module without children) returns one tensor.
        x: what the model takes.
        device_type: of autocast, "cpu" or "cuda".
        dtype: of autocast.

    Returns:
        Name in `model.named_modules()` -> dtype of the output, for every leaf that ran.
    """
    ### BEGIN SOLUTION 2: watch, run, stop watching
    trace: dict[str, torch.dtype] = {}

    def watch(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def note(module: nn.Module, args: Any, output: Tensor) -> None:
            trace[name] = output.dtype

        return note

    handles = [
        module.register_forward_hook(watch(name))
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    try:
        with torch.autocast(device_type, dtype):
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return trace
    ### END SOLUTION


EXPRESSIONS = (
    "linear(x)",
    "x @ w",
    "softmax(h, -1)",
    "layer_norm(h, (5,))",
    "exp(h)",
    "sum(h)",
    "softmax(x, -1)",
    "h + x",
    "cross_entropy(h, y)",
    "mse_loss(h, x)",
)
"""Run under `torch.autocast("cpu", torch.bfloat16)`; functions are those of torch.

`x` (3, 5) and `w` (5, 5) are float32, `linear` is an `nn.Linear(5, 5)` in float32, `h = linear(x)`
within the same autocast, and `y` (3,) holds classes.
"""

PREDICTIONS: dict[str, torch.dtype] = {
    ### BEGIN SOLUTION 2: a dtype for each of EXPRESSIONS, written before you run it
    "linear(x)": torch.bfloat16,
    "x @ w": torch.bfloat16,
    "softmax(h, -1)": torch.bfloat16,
    "layer_norm(h, (5,))": torch.bfloat16,
    "exp(h)": torch.bfloat16,
    "sum(h)": torch.bfloat16,
    "softmax(x, -1)": torch.float32,
    "h + x": torch.float32,
    "cross_entropy(h, y)": torch.float32,
    "mse_loss(h, x)": torch.float32,
    ### END SOLUTION
}


class MiniScaler:
    """Dynamic loss scaling: backs off when a gradient overflows, grows while none does."""

    def __init__(
        self,
        init: float = 2.0**16,
        growth: float = 2.0,
        backoff: float = 0.5,
        interval: int = 2000,
    ) -> None:
        """The scale begins at `init`."""
        ### BEGIN SOLUTION 3: what it remembers
        self.state = {
            "scale": init,
            "growth": growth,
            "backoff": backoff,
            "interval": interval,
            "good": 0,
        }
        self.found_inf: dict[int, bool] = {}
        ### END SOLUTION

    def scale(self, loss: Tensor) -> Tensor:
        """The loss, a float32 scalar, times the scale; with its graph."""
        ### BEGIN SOLUTION 3: scaled loss
        return loss * self.state["scale"]
        ### END SOLUTION

    @torch.no_grad()
    def unscale_(self, opt: Optimizer) -> None:
        """Divide the gradients of this optimizer in place, and note whether one is inf or nan.

        Raises:
            RuntimeError: they have been divided already since the last `update`.
        """
        ### BEGIN SOLUTION 3: unscale
        if id(opt) in self.found_inf:
            raise RuntimeError("the gradients of this optimizer are unscaled already")
        found = False
        for group in opt.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.div_(self.state["scale"])
                    found = found or not p.grad.isfinite().all().item()
        self.found_inf[id(opt)] = found
        ### END SOLUTION

    def step(self, opt: Optimizer) -> None:
        """Unscale if that was not done, then step unless a gradient is inf or nan."""
        ### BEGIN SOLUTION 3: step or skip
        if id(opt) not in self.found_inf:
            self.unscale_(opt)
        if not self.found_inf[id(opt)]:
            opt.step()
        ### END SOLUTION

    def update(self) -> None:
        """Back off or grow; call it once, at the end of an iteration."""
        ### BEGIN SOLUTION 3: the next scale
        if any(self.found_inf.values()):
            self.state["scale"] *= self.state["backoff"]
            self.state["good"] = 0
        else:
            self.state["good"] += 1
            if self.state["good"] == self.state["interval"]:
                self.state["scale"] *= self.state["growth"]
                self.state["good"] = 0
        self.found_inf = {}
        ### END SOLUTION

    def get_scale(self) -> float:
        """The scale that the next loss is multiplied by."""
        ### BEGIN SOLUTION 3: scale
        return float(self.state["scale"])
        ### END SOLUTION

    def state_dict(self) -> dict[str, Any]:
        """All that another scaler needs to go on as this one would, taken after `update`."""
        ### BEGIN SOLUTION 3: save
        return dict(self.state)
        ### END SOLUTION

    def load_state_dict(self, d: dict[str, Any]) -> None:
        """Go on as the scaler would whose `state_dict` this is."""
        ### BEGIN SOLUTION 3: load
        self.state = dict(d)
        ### END SOLUTION


def amp_step(
    model: nn.Module,
    opt: Optimizer,
    scaler: torch.amp.GradScaler,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    dtype: torch.dtype,
    max_norm: float,
) -> tuple[float, bool]:
    """One training step in mixed precision.

    Args:
        model: its parameters are float32 and stay so.
        opt: holds the parameters of the model.
        scaler: enabled, or disabled (for bfloat16).
        loss_fn: `loss_fn(model(x), y)` is a scalar.
        x: (batch, *)
        y: (batch, *)
        dtype: of autocast, float16 or bfloat16.
        max_norm: the largest norm of all unscaled gradients together.

    Returns:
        loss: before the step, not scaled.
        stepped: False if the scaler skipped the step of `opt`.
    """
    ### BEGIN SOLUTION 4: one step
    opt.zero_grad()
    with torch.autocast(x.device.type, dtype):
        loss = loss_fn(model(x), y)
    scaler.scale(loss).backward()
    scaler.unscale_(opt)
    nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    before = scaler.get_scale()
    scaler.step(opt)
    scaler.update()
    return loss.item(), scaler.get_scale() >= before
    ### END SOLUTION


def kahan_sum(x: Tensor) -> Tensor:
    """Compensated sum: every addition's loss is carried into the next.

    Args:
        x: (n,), floating point, n at least 1.

    Returns:
        (), in the dtype of `x`, as is everything on the way to it.
    """
    ### BEGIN SOLUTION 5: sum
    total = torch.zeros_like(x[0])
    lost = torch.zeros_like(total)
    for value in x:
        value = value - lost
        after = total + value
        lost = (after - total) - value
        total = after
    return total
    ### END SOLUTION


def stochastic_round(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Round to one of the two bfloat16 neighbours, such that the mean is exact.

    Args:
        x: (*,), float32, finite.
        generator: where the random numbers come from; None = torch's global one.

    Returns:
        (*,), bfloat16.
    """
    ### BEGIN SOLUTION 5: rounding
    noise = torch.randint(
        0, 2**16, x.shape, generator=generator, dtype=torch.int32, device=x.device
    )
    bits = (x.contiguous().view(torch.int32) + noise) & ~0xFFFF
    return bits.view(torch.float32).bfloat16()
    ### END SOLUTION


class BF16AdamW(Optimizer):
    """AdamW for bfloat16 weights: no float32 copy, the new weight is rounded stochastically."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        """Options hold for every group that doesn't bring its own; `generator` is for all."""
        ### BEGIN SOLUTION 5: the defaults
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self.generator = generator
        ### END SOLUTION

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        ### BEGIN SOLUTION 5: the update
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state, g = self.state[p], p.grad.float()
                if not state:
                    state["t"] = 0
                    state["m"] = torch.zeros_like(g)
                    state["v"] = torch.zeros_like(g)
                state["t"] += 1
                state["m"].lerp_(g, 1 - b1)
                state["v"].mul_(b2).addcmul_(g, g, value=1 - b2)
                mean = state["m"] / (1 - b1 ** state["t"])
                root = (state["v"] / (1 - b2 ** state["t"])).sqrt()
                weight = p.float() * (1 - group["lr"] * group["weight_decay"])
                weight -= group["lr"] * mean / (root + group["eps"])
                p.copy_(stochastic_round(weight, self.generator))
        ### END SOLUTION


def train_variants(
    X: Tensor, y: Tensor, seed: int, steps: int = 1500, lr: float = 2e-3
) -> dict[str, list[float]]:
    """Linear regression from w = 0 with Adam, four ways to keep the weights.

    Args:
        X: (rows, feat), float32.
        y: (rows,), float32.
        seed: of the stochastic rounding.
        steps: on all rows at once.
        lr: of Adam; betas (0.9, 0.999) and eps 1e-8.

    Returns:
        For "float32", "naive", "master" and "stochastic" the mean squared error before each step.
    """
    ### BEGIN SOLUTION 5: four runs
    losses: dict[str, list[float]] = {}
    for name in ("float32", "naive", "master", "stochastic"):
        generator = torch.Generator(X.device).manual_seed(seed)
        exact = torch.zeros(X.shape[1], device=X.device)  # what Adam changes
        weights = exact if name == "float32" else exact.bfloat16()  # what the model uses
        mean, square = torch.zeros_like(exact), torch.zeros_like(exact)
        losses[name] = []
        for t in range(1, steps + 1):
            error = X @ weights.float() - y
            losses[name].append(error.square().mean().item())
            g = 2 * X.T @ error / len(y)
            mean.lerp_(g, 0.1)
            square.mul_(0.999).addcmul_(g, g, value=0.001)
            root = (square / (1 - 0.999**t)).sqrt()
            if name in ("naive", "stochastic"):
                exact = weights.float()
            exact = exact - lr * mean / (1 - 0.9**t) / (root + 1e-8)
            if name == "float32":
                weights = exact
            elif name == "stochastic":
                weights = stochastic_round(exact, generator)
            else:
                weights = exact.bfloat16()
    return losses
    ### END SOLUTION
