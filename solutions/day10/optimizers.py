"""Day 10: optimizers, clipping, accumulation, a schedule and an average of the weights."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def train_step(
    model: nn.Module,
    opt: Optimizer,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    max_norm: float | None = None,
) -> float:
    """One training step: forget old gradients, forward, backward, clip, step.

    Args:
        model: called with `x`; its train or eval mode stays as it is.
        opt: holds the parameters of the model.
        loss_fn: `loss_fn(model(x), y)` is a scalar.
        x: (batch, *)
        y: (batch, *)
        max_norm: the largest norm of all gradients together; None = no clipping.

    Returns:
        The loss before the step.
    """
    ### BEGIN SOLUTION 1: one step, in the right order
    opt.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    if max_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    opt.step()
    return loss.item()
    ### END SOLUTION


def clip_grad_norm(params: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients in place by min(1, max_norm / (norm + 1e-6)).

    Args:
        params: parameters, any shapes; those whose grad is None are skipped. May be a generator.
        max_norm: the largest L2 norm of all gradients together.

    Returns:
        (), the norm of all gradients together before clipping; 0 without any gradient.

    Raises:
        RuntimeError: the norm is non-finite; the gradients are then left as they are.
    """
    ### BEGIN SOLUTION 2: measure, then scale
    grads = [p.grad for p in params if p.grad is not None]
    if not grads:
        return torch.tensor(0.0)
    total = torch.stack([g.norm() for g in grads]).norm()
    if not total.isfinite():
        raise RuntimeError(f"non-finite gradient norm: {total.item()}")
    factor = (max_norm / (total + 1e-6)).clamp(max=1)
    for g in grads:
        g.mul_(factor)
    return total
    ### END SOLUTION


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, Nesterov's variant and weight decay."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict],
        lr: float = 1e-3,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        """Options hold for every group that doesn't bring its own."""
        ### BEGIN SOLUTION 3: the defaults
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults)
        ### END SOLUTION

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One update of every parameter that has a gradient.

        Args:
            closure: computes the loss again and calls backward.

        Returns:
            What the closure returned; None without one.
        """
        ### BEGIN SOLUTION 3: closure, then the update
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                momentum = group["momentum"]
                for p in group["params"]:
                    if p.grad is None:
                        continue
                    g = p.grad.add(p, alpha=group["weight_decay"])
                    if momentum:
                        state = self.state[p]
                        if "buffer" in state:
                            state["buffer"].mul_(momentum).add_(g)
                        else:
                            state["buffer"] = g.clone()
                        buffer = state["buffer"]
                        g = g + momentum * buffer if group["nesterov"] else buffer
                    p.add_(g, alpha=-group["lr"])
        return loss
        ### END SOLUTION


class AdamW(Optimizer):
    """Adam with bias correction, and weight decay beside the gradient or within it."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        decoupled: bool = True,
    ) -> None:
        """Options hold for every group that doesn't bring its own."""
        ### BEGIN SOLUTION 4: the defaults
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled": decoupled,
        }
        super().__init__(params, defaults)
        ### END SOLUTION

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One update of every parameter that has a gradient; as `SGD.step`."""
        ### BEGIN SOLUTION 4: closure, then the update
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                lr, (b1, b2), decay = group["lr"], group["betas"], group["weight_decay"]
                for p in group["params"]:
                    if p.grad is None:
                        continue
                    state, g = self.state[p], p.grad
                    if not state:
                        state["step"] = 0
                        state["m"] = torch.zeros_like(p)
                        state["v"] = torch.zeros_like(p)
                    if group["decoupled"]:
                        p.mul_(1 - lr * decay)
                    else:
                        g = g.add(p, alpha=decay)
                    state["step"] += 1
                    m, v, t = state["m"], state["v"], state["step"]
                    m.mul_(b1).add_(g, alpha=1 - b1)
                    v.mul_(b2).addcmul_(g, g, value=1 - b2)
                    root = (v / (1 - b2**t)).sqrt()
                    p.sub_(lr * (m / (1 - b1**t)) / (root + group["eps"]))
        return loss
        ### END SOLUTION


def accumulate(
    model: nn.Module,
    loss_sum_fn: Callable[[Tensor, Tensor], Tensor],
    batches: list[tuple[Tensor, Tensor]],
    opt: Optimizer,
) -> float:
    """One optimizer step from the mean loss over all samples of all micro-batches.

    Args:
        model: called with each x.
        loss_sum_fn: `loss_sum_fn(model(x), y)` is the sum of the losses of a micro-batch, a scalar.
        batches: pairs x (samples, *), y (samples, *); the number of samples differs.
        opt: holds the parameters of the model.

    Returns:
        The mean loss over all samples, before the step.
    """
    ### BEGIN SOLUTION 5: backward for each micro-batch, one step
    total = sum(len(x) for x, _ in batches)
    opt.zero_grad()
    mean = 0.0
    for x, y in batches:
        loss = loss_sum_fn(model(x), y) / total
        loss.backward()
        mean += loss.item()
    opt.step()
    return mean
    ### END SOLUTION


def param_groups(model: nn.Module, wd: float) -> list[dict]:
    """Groups for an optimizer: every trainable parameter once, with its weight decay.

    Returns:
        Dicts with `params` (a list) and `weight_decay`: 0 for parameters with fewer than 2
        dimensions and for the weights of `nn.Embedding`, else `wd`.
    """
    ### BEGIN SOLUTION 6: who decays, and who doesn't
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    decaying, others = [], []
    for p in model.parameters():
        if p.requires_grad:
            (others if p.ndim < 2 or id(p) in tables else decaying).append(p)
    return [
        {"params": decaying, "weight_decay": wd},
        {"params": others, "weight_decay": 0.0},
    ]
    ### END SOLUTION


def lr_at(step: int, *, peak: float, floor: float, warmup: int, total: int) -> float:
    """Learning rate of a step: a line up to `peak`, half a cosine down to `floor`.

    Args:
        step: 0 or more.
        peak: the rate at the end of the warm-up.
        floor: the rate from step `total` on.
        warmup: steps of the warm-up, 0 to `total`.
        total: the step where the cosine ends.

    Returns:
        The learning rate.
    """
    ### BEGIN SOLUTION 6: the phases
    if step >= total:
        return floor
    if step < warmup:
        return peak * step / warmup
    done = (step - warmup) / (total - warmup)
    return floor + (peak - floor) * (1 + math.cos(math.pi * done)) / 2
    ### END SOLUTION


class EMA:
    """Exponential moving average of a model's trainable parameters, corrected for its start."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """The averages start at 0; `model` is not changed."""
        ### BEGIN SOLUTION 6: what is remembered
        self.decay, self.steps = decay, 0
        self.averages = {
            name: torch.zeros_like(p) for name, p in model.named_parameters() if p.requires_grad
        }
        self.buffers: dict[str, Tensor] = {}
        ### END SOLUTION

    def update(self, model: nn.Module) -> None:
        """s = decay * s + (1 - decay) * w for every trainable parameter w."""
        ### BEGIN SOLUTION 6: one update
        self.steps += 1
        with torch.no_grad():
            for name, p in model.named_parameters():
                if name in self.averages:
                    self.averages[name].lerp_(p, 1 - self.decay)
        self.buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        ### END SOLUTION

    def copy_to(self, model: nn.Module) -> None:
        """Write s / (1 - decay^t) and the last seen buffers into `model`, in place.

        `t` is the number of updates, at least 1.
        """
        ### BEGIN SOLUTION 6: averages and buffers into the model
        with torch.no_grad():
            for name, p in model.named_parameters():
                if name in self.averages:
                    p.copy_(self.averages[name] / (1 - self.decay**self.steps))
            for name, buffer in model.named_buffers():
                buffer.copy_(self.buffers[name])
        ### END SOLUTION
