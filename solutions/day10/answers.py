"""Answers to day 10 that its suite must accept or reject."""

import copy
import math

import torch
from optimizers import *
from torch import nn
from torch.optim import Optimizer

from grader.answers import accepted, rejected

# --- 1 ------------------------------------------------------------------------------------------


@accepted("train_step")
def emptied_by_the_model(model, opt, loss_fn, x, y, max_norm=None):
    prediction = model(x)
    loss = loss_fn(prediction, y)
    model.zero_grad(set_to_none=False)
    loss.backward()
    if max_norm is not None:
        torch.nn.utils.clip_grad_norm_(
            [p for group in opt.param_groups for p in group["params"]], max_norm
        )
    opt.step()
    return float(loss.detach())


@accepted("train_step")
def emptied_by_hand_and_clipped_by_hand(model, opt, loss_fn, x, y, max_norm=None):
    for p in model.parameters():
        p.grad = None
    loss = loss_fn(model(x), y)
    loss.backward()
    if max_norm is not None:
        clip_grad_norm(model.parameters(), max_norm)
    opt.step()
    return loss.item()


@accepted("train_step")
def by_autograd_grad(model, opt, loss_fn, x, y, max_norm=None):
    parameters = [p for p in model.parameters() if p.requires_grad]
    loss = loss_fn(model(x), y)
    gradients = torch.autograd.grad(loss, parameters)
    norm = torch.sqrt(sum((g**2).sum() for g in gradients))
    factor = 1.0 if max_norm is None else min(1.0, max_norm / norm.item())
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = g * factor
    opt.step()
    return loss.item()


@accepted("train_step")
def with_a_closure(model, opt, loss_fn, x, y, max_norm=None):
    def closure():
        opt.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        if max_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        return loss

    return opt.step(closure).item()


@accepted("train_step")
def emptied_after_the_step_too(model, opt, loss_fn, x, y, max_norm=None):
    opt.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    if max_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    opt.step()
    opt.zero_grad()
    return loss.item()


@rejected("train_step", by=("test_parameters", "test_old_gradients"), says="emptied after backward")
def zero_after_backward(model, opt, loss_fn, x, y, max_norm=None):
    loss = loss_fn(model(x), y)
    loss.backward()
    if max_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    opt.zero_grad()
    opt.step()
    return loss.item()


@rejected("train_step", by=("test_old_gradients", "test_one_backward_and_one_step"), says="emptied")
def no_zero(model, opt, loss_fn, x, y, max_norm=None):
    loss = loss_fn(model(x), y)
    loss.backward()
    if max_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    opt.step()
    return loss.item()


@rejected("train_step", by=("test_old_gradients", "test_parameters"), says="before the new one")
def step_before_backward(model, opt, loss_fn, x, y, max_norm=None):
    loss = loss_fn(model(x), y)
    opt.step()
    opt.zero_grad()
    loss.backward()
    if max_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    return loss.item()


@rejected("train_step", by="test_clipped", says="clip after backward and before step")
def clip_after_step(model, opt, loss_fn, x, y, max_norm=None):
    opt.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    opt.step()
    if max_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    return loss.item()


@rejected("train_step", by="test_clipped", says="clip after backward and before step")
def clip_before_backward(model, opt, loss_fn, x, y, max_norm=None):
    opt.zero_grad()
    loss = loss_fn(model(x), y)
    if max_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    loss.backward()
    opt.step()
    return loss.item()


@rejected("train_step", by="test_clipped", says="by itself")
def clips_each_tensor(model, opt, loss_fn, x, y, max_norm=None):
    opt.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    if max_norm is not None:
        for p in model.parameters():
            nn.utils.clip_grad_norm_(p, max_norm)
    opt.step()
    return loss.item()


@rejected("train_step", by="test_clipped", says="bounds values")
def clips_values(model, opt, loss_fn, x, y, max_norm=None):
    opt.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    if max_norm is not None:
        nn.utils.clip_grad_value_(model.parameters(), max_norm)
    opt.step()
    return loss.item()


@rejected("train_step", by="test_small_gradients", says="scaled up")
def scales_up(model, opt, loss_fn, x, y, max_norm=None):
    opt.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    if max_norm is not None:
        norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
        for p in model.parameters():
            p.grad.mul_(max_norm / norm)
    opt.step()
    return loss.item()


@rejected("train_step", by="test_returns_a_float", says="graph")
def returns_the_tensor(model, opt, loss_fn, x, y, max_norm=None):
    opt.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    if max_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    opt.step()
    return loss


@rejected("train_step", by="test_returns_a_float", says="after the step")
def loss_after_the_step(model, opt, loss_fn, x, y, max_norm=None):
    train_step_by_the_book(model, opt, loss_fn, x, y, max_norm)
    with torch.no_grad():
        return loss_fn(model(x), y).item()


def train_step_by_the_book(model, opt, loss_fn, x, y, max_norm=None):
    opt.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    if max_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    opt.step()
    return loss.item()


@rejected("train_step", by="test_mode", says="mode")
def sets_train_mode(model, opt, loss_fn, x, y, max_norm=None):
    model.train()
    return train_step_by_the_book(model, opt, loss_fn, x, y, max_norm)


@rejected("train_step", by=("test_one_backward_and_one_step", "test_parameters"), says="2 times")
def steps_twice(reference: str) -> str:
    return reference.replace(
        "    loss.backward()\n    if max_norm",
        "    loss.backward(retain_graph=True)\n    if max_norm",
    ).replace("    opt.step()\n    return loss.item()", TWICE)


TWICE = """\
    opt.step()
    opt.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    opt.step()
    return loss.item()"""

# --- 2 ------------------------------------------------------------------------------------------


@accepted("clip_grad_norm")
def as_one_vector(params, max_norm):
    gradients = [p.grad for p in params if p.grad is not None]
    norm = torch.cat([g.flatten() for g in gradients] or [torch.zeros(1)]).norm()
    if norm.isnan() or norm.isinf():
        raise RuntimeError("the norm is non-finite")
    if norm > max_norm:
        for g in gradients:
            g *= max_norm / norm
    return norm


@accepted("clip_grad_norm")
@torch.no_grad()
def with_squares(params, max_norm):
    params = [p for p in params if p.grad is not None]
    total = torch.zeros(())
    for p in params:
        total += p.grad.pow(2).sum()
    total = total.sqrt()
    if not math.isfinite(total):
        raise RuntimeError("Non-finite norm")
    factor = min(1.0, max_norm / (total.item() + 1e-6))
    for p in params:
        p.grad.mul_(factor)
    return total


@accepted("clip_grad_norm")
def with_foreach(params, max_norm):
    gradients = [p.grad for p in list(params) if p.grad is not None]
    if len(gradients) == 0:
        return torch.zeros(())
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if not torch.isfinite(norm):
        raise RuntimeError("gradients are non-finite")
    torch._foreach_mul_(gradients, torch.clamp(max_norm / (norm + 1e-6), max=1.0))
    return norm


@accepted("clip_grad_norm")
def as_a_number_in_float64(params, max_norm):
    gradients = [p.grad for p in params if p.grad is not None]
    norm = math.sqrt(sum(g.double().square().sum().item() for g in gradients))
    if not math.isfinite(norm):
        raise RuntimeError(f"non-finite: {norm}")
    if norm > max_norm:
        for g in gradients:
            g.copy_(g * max_norm / norm)
    return torch.tensor(norm)


@accepted("clip_grad_norm")
def through_data(params, max_norm):
    held = [p for p in params if p.grad is not None]
    if not held:
        return torch.tensor(0.0)
    norm = sum(p.grad.data.norm(2) ** 2 for p in held) ** 0.5
    if not torch.isfinite(norm):
        raise RuntimeError("non-finite gradients")
    for p in held:
        p.grad.data.mul_(torch.clamp(max_norm / (norm + 1e-6), max=1))
    return norm


@rejected("clip_grad_norm", by=("test_gradients", "test_one_factor"), says="by itself")
def each_tensor_by_itself(params, max_norm):
    gradients = [p.grad for p in params if p.grad is not None]
    norm = checked(gradients)
    for g in gradients:
        g.mul_((max_norm / (g.norm() + 1e-6)).clamp(max=1))
    return norm


def checked(gradients):
    norm = torch.stack([g.norm() for g in gradients] or [torch.zeros(())]).norm()
    if not norm.isfinite():
        raise RuntimeError("non-finite")
    return norm


@rejected("clip_grad_norm", by="test_returned_norm", says="after clipping")
def returns_the_clipped_norm(params, max_norm):
    gradients = [p.grad for p in params if p.grad is not None]
    norm = checked(gradients)
    for g in gradients:
        g.mul_((max_norm / (norm + 1e-6)).clamp(max=1))
    return checked(gradients)


@rejected("clip_grad_norm", by="test_generator", says="first pass")
def goes_through_a_generator_twice(params, max_norm):
    norm = checked([p.grad for p in params if p.grad is not None])
    for p in params:
        if p.grad is not None:
            p.grad.mul_((max_norm / (norm + 1e-6)).clamp(max=1))
    return norm


@rejected("clip_grad_norm", by="test_small_gradients", says="never makes gradients longer")
def scales_to_the_limit(reference: str) -> str:
    return reference.replace("(max_norm / (total + 1e-6)).clamp(max=1)", "max_norm / total")


@rejected("clip_grad_norm", by=("test_gradients", "test_returned_norm"), says="squares")
def adds_norms(params, max_norm):
    gradients = [p.grad for p in params if p.grad is not None]
    checked(gradients)
    norm = torch.stack([g.norm() for g in gradients] or [torch.zeros(())]).sum()
    for g in gradients:
        g.mul_((max_norm / (norm + 1e-6)).clamp(max=1))
    return norm


@rejected("clip_grad_norm", by=("test_gradients", "test_returned_norm"), says="root")
def forgets_the_root(params, max_norm):
    gradients = [p.grad for p in params if p.grad is not None]
    norm = checked(gradients) ** 2
    for g in gradients:
        g.mul_((max_norm / (norm + 1e-6)).clamp(max=1))
    return norm


@rejected("clip_grad_norm", by="test_non_finite", says="nothing was raised")
def never_raises(reference: str) -> str:
    return reference.replace("if not total.isfinite():", "if False:")


@rejected("clip_grad_norm", by="test_non_finite")
def looks_for_nan_only(reference: str) -> str:
    return reference.replace("if not total.isfinite():", "if total.isnan():")


@rejected("clip_grad_norm", by="test_non_finite", says="after the error")
def scales_before_it_looks(params, max_norm):
    gradients = [p.grad for p in params if p.grad is not None]
    norm = torch.stack([g.norm() for g in gradients] or [torch.zeros(())]).norm()
    for g in gradients:
        g.mul_((max_norm / (norm + 1e-6)).clamp(max=1))
    if not norm.isfinite():
        raise RuntimeError("non-finite")
    return norm


@rejected("clip_grad_norm", by="test_nothing_to_clip")
def stacks_nothing(reference: str) -> str:
    return reference.replace("    if not grads:\n        return torch.tensor(0.0)\n", "")


@rejected("clip_grad_norm", by=("test_nothing_to_clip", "test_returned_norm"))
def returns_a_number(params, max_norm):
    gradients = [p.grad for p in params if p.grad is not None]
    norm = checked(gradients)
    for g in gradients:
        g.mul_((max_norm / (norm + 1e-6)).clamp(max=1))
    return norm.item()


@rejected("clip_grad_norm", by="test_without_gradient")
def trips_over_none(params, max_norm):
    params = list(params)
    norm = checked([p.grad for p in params])
    for p in params:
        p.grad.mul_((max_norm / (norm + 1e-6)).clamp(max=1))
    return norm


@rejected("clip_grad_norm", by="test_without_gradient", says="None means skipped")
def fills_in_zeros(params, max_norm):
    params = list(params)
    for p in params:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    norm = checked([p.grad for p in params])
    for p in params:
        p.grad.mul_((max_norm / (norm + 1e-6)).clamp(max=1))
    return norm


@rejected("clip_grad_norm", by="test_in_place", says="another tensor")
def replaces_the_gradients(params, max_norm):
    params = [p for p in params if p.grad is not None]
    norm = checked([p.grad for p in params])
    for p in params:
        p.grad = p.grad * (max_norm / (norm + 1e-6)).clamp(max=1)
    return norm


@rejected("clip_grad_norm", by="test_by_hand", says="clip_grad_norm_")
def by_torch(params, max_norm):
    try:
        return nn.utils.clip_grad_norm_(list(params), max_norm, error_if_nonfinite=True)
    except RuntimeError:
        raise RuntimeError("non-finite") from None


@rejected("clip_grad_norm", by="test_by_hand", says="get_total_norm")
def norm_by_torch(params, max_norm):
    gradients = [p.grad for p in params if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if not norm.isfinite():
        raise RuntimeError("non-finite")
    for g in gradients:
        g.mul_((max_norm / (norm + 1e-6)).clamp(max=1))
    return norm


# --- 3 ------------------------------------------------------------------------------------------


@accepted("SGD")
class BufferOfZeros(Optimizer):
    def __init__(self, params, lr=1e-3, momentum=0.0, nesterov=False, weight_decay=0.0):
        super().__init__(
            params,
            dict(lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay),  # noqa: C408
        )

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, m, wd = group["lr"], group["momentum"], group["weight_decay"]
            for p in group["params"]:
                if p.grad is not None:
                    g = p.grad + wd * p
                    state = self.state[p]
                    buf = m * state.get("momentum_buffer", torch.zeros_like(p)) + g
                    state["momentum_buffer"] = buf
                    p -= lr * (g + m * buf if group["nesterov"] else buf)
        return loss


@accepted("SGD")
class UpdatesThroughData(Optimizer):
    def __init__(self, params, lr=1e-3, momentum=0.0, nesterov=False, weight_decay=0.0):
        super().__init__(
            params,
            {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay},
        )

    def step(self, closure=None):
        loss = closure() if closure else None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                g = p.grad.data.clone()
                if group["weight_decay"] != 0:
                    g += group["weight_decay"] * p.data
                if group["momentum"] != 0:
                    if len(self.state[p]) == 0:
                        self.state[p]["v"] = torch.clone(g).detach()
                    else:
                        self.state[p]["v"] = group["momentum"] * self.state[p]["v"] + g
                    v = self.state[p]["v"]
                    g = g + group["momentum"] * v if group["nesterov"] else v
                p.data.add_(g, alpha=-group["lr"])
        return loss


@accepted("SGD")
class WithForeach(SGD):
    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            held = [p for p in group["params"] if p.grad is not None]
            if not held:
                continue
            gradients = torch._foreach_add(
                [p.grad for p in held], held, alpha=group["weight_decay"]
            )
            buffers = [self.state[p].setdefault("buf", torch.zeros_like(p)) for p in held]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, gradients)
            if group["nesterov"]:
                updates = torch._foreach_add(gradients, buffers, alpha=group["momentum"])
            else:
                updates = buffers
            torch._foreach_add_(held, updates, alpha=-group["lr"])
        return loss


@rejected("SGD", by="test_schedule", says="inside the buffer")
class RateInsideTheBuffer(SGD):
    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            lr, m = group["lr"], group["momentum"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                g = p.grad + group["weight_decay"] * p
                buf = m * self.state[p].get("buf", torch.zeros_like(p)) + lr * g
                self.state[p]["buf"] = buf
                p -= lr * g + m * buf if group["nesterov"] else buf
        return loss


@rejected("SGD", by=("test_first_step", "test_like_torch"), says="1 - momentum")
def average_of_gradients(reference: str) -> str:
    return reference.replace(
        'state["buffer"].mul_(momentum).add_(g)',
        'state["buffer"].mul_(momentum).add_(g, alpha=1 - momentum)',
    ).replace('state["buffer"] = g.clone()', 'state["buffer"] = g * (1 - momentum)')


@rejected("SGD", by="test_like_torch", says="later ones")
def dampened_after_the_first(reference: str) -> str:
    return reference.replace(
        'state["buffer"].mul_(momentum).add_(g)',
        'state["buffer"].mul_(momentum).add_(g, alpha=1 - momentum)',
    )


@rejected("SGD", by=("test_first_step", "test_like_torch"), says="twice")
def first_buffer_twice(reference: str) -> str:
    return reference.replace('state["buffer"] = g.clone()', 'state["buffer"] = g + momentum * g')


@rejected("SGD", by="test_like_torch", says="after the momentum")
def decay_after_the_momentum(reference: str) -> str:
    return reference.replace(
        'g = p.grad.add(p, alpha=group["weight_decay"])', "g = p.grad"
    ).replace(
        'p.add_(g, alpha=-group["lr"])',
        'p.add_(g.add(p, alpha=group["weight_decay"]), alpha=-group["lr"])',
    )


@rejected("SGD", by="test_like_torch")
def no_decay(reference: str) -> str:
    return reference.replace('g = p.grad.add(p, alpha=group["weight_decay"])', "g = p.grad")


@rejected("SGD", by="test_like_torch", says="not to the buffer")
def nesterov_of_the_buffer(reference: str) -> str:
    return reference.replace(
        'g + momentum * buffer if group["nesterov"]',
        'buffer + momentum * buffer if group["nesterov"]',
    )


@rejected("SGD", by="test_like_torch", says="makes no difference")
def nesterov_is_ignored(reference: str) -> str:
    return reference.replace('g + momentum * buffer if group["nesterov"] else buffer', "buffer")


@rejected("SGD", by="test_added_group", says="not to a place")
class StateByIndex(SGD):
    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for i, p in enumerate(group["params"]):
                if p.grad is None:
                    continue
                g = p.grad + group["weight_decay"] * p
                buf = group["momentum"] * self.state[i].get("buf", torch.zeros_like(p)) + g
                self.state[i]["buf"] = buf
                p -= group["lr"] * (g + group["momentum"] * buf if group["nesterov"] else buf)
        return loss


@rejected("SGD", by=("test_added_group", "test_resume"))
class BuffersMadeOnce(SGD):
    def __init__(self, params, lr=1e-3, momentum=0.0, nesterov=False, weight_decay=0.0):
        super().__init__(params, lr, momentum, nesterov, weight_decay)
        self.buffers = {
            p: torch.zeros_like(p) for group in self.param_groups for p in group["params"]
        }

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                g = p.grad + group["weight_decay"] * p
                buf = self.buffers[p].mul_(group["momentum"]).add_(g)
                p -= group["lr"] * (g + group["momentum"] * buf if group["nesterov"] else buf)
        return loss


@rejected("SGD", by="test_resume", says="started anew")
def buffers_in_a_dict_of_its_own(reference: str) -> str:
    return reference.replace("state = self.state[p]\n", "state = own(self, p)\n") + OWN


OWN = """

def own(opt, p):
    return opt.__dict__.setdefault("buffers", {}).setdefault(p, {})
"""


@rejected("SGD", by="test_schedule", says="constructor")
class RateOfTheConstructor(SGD):
    def __init__(self, params, lr=1e-3, momentum=0.0, nesterov=False, weight_decay=0.0):
        super().__init__(params, lr, momentum, nesterov, weight_decay)
        self.lr = lr

    def step(self, closure=None):
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] = self.lr
        loss = super().step(closure)
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = rate
        return loss


@rejected("SGD", by="test_groups")
class OptionsOfTheFirstGroup(SGD):
    def step(self, closure=None):
        kept = [dict(group) for group in self.param_groups]
        for group in self.param_groups[1:]:
            group |= {k: v for k, v in kept[0].items() if k != "params"}
        loss = super().step(closure)
        for group, before in zip(self.param_groups, kept, strict=True):
            group |= before
        return loss


@rejected("SGD", by="test_none_is_not_zero", says="None")
class NoneIsZero(SGD):
    def step(self, closure=None):
        if closure is None:
            for group in self.param_groups:
                for p in group["params"]:
                    p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        return super().step(closure)


@rejected("SGD", by="test_none_is_not_zero", says="momentum goes on")
def zero_is_skipped(reference: str) -> str:
    return reference.replace("if p.grad is None:", "if p.grad is None or not p.grad.any():")


@rejected("SGD", by="test_closure", says="disabled")
class ClosureWithoutGradients(SGD):
    @torch.no_grad()
    def step(self, closure=None):
        loss = closure() if closure is not None else None
        super().step()
        return loss


@rejected("SGD", by="test_closure", says="returned None")
class LossIsLost(SGD):
    def step(self, closure=None):
        super().step(closure)


@rejected("SGD", by="test_closure", says="0 times")
class ClosureIsIgnored(SGD):
    def step(self, closure=None):
        super().step()


@rejected("SGD", by="test_closure", says="before the update")
class ClosureAfterTheUpdate(SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if closure is not None and p.grad is None:
                    p.grad = torch.ones_like(p)
        super().step()
        return None if closure is None else closure() * 0 + 34.0


@rejected("SGD", by="test_same_memory", says=".data")
def replaces_the_data(reference: str) -> str:
    return reference.replace('p.add_(g, alpha=-group["lr"])', 'p.data = p.data - group["lr"] * g')


@rejected("SGD", by="test_same_memory", says="very objects")
class ReplacesTheParameters(SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            moved = [nn.Parameter(p.detach().clone()) for p in group["params"]]
            for p, new in zip(group["params"], moved, strict=True):
                new.grad = p.grad
            group["params"] = moved
        return super().step(closure)


@rejected("SGD", by="test_same_memory", says="graph")
def buffers_with_a_graph(reference: str) -> str:
    return (
        reference.replace(
            "        with torch.no_grad():\n            for group in self.param_groups:\n"
            '                momentum = group["momentum"]',
            "        with torch.enable_grad():\n            for group in self.param_groups:\n"
            '                momentum = group["momentum"]',
        )
        .replace('state["buffer"] = g.clone()', 'state["buffer"] = g + 0 * p')
        .replace('p.add_(g, alpha=-group["lr"])', 'p.data.add_(g.detach(), alpha=-group["lr"])')
        .replace(
            'state["buffer"].mul_(momentum).add_(g)',
            'state["buffer"] = state["buffer"] * momentum + g',
        )
    )


@rejected("SGD", by="test_gradients_stay", says="copy")
def buffer_is_the_gradient(reference: str) -> str:
    return reference.replace(
        'g = p.grad.add(p, alpha=group["weight_decay"])',
        'g = p.grad.add(p, alpha=group["weight_decay"]) if group["weight_decay"] else p.grad',
    ).replace('state["buffer"] = g.clone()', 'state["buffer"] = g')


@rejected("SGD", by="test_gradients_stay", says="very tensor")
class FirstBufferIsTheGradient(SGD):
    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            m, wd = group["momentum"], group["weight_decay"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                g = p.grad + wd * p if wd else p.grad
                state = self.state[p]
                buf = state["buf"] = m * state["buf"] + g if "buf" in state else g
                p -= group["lr"] * (g + m * buf if group["nesterov"] else buf)
        return loss


@rejected("SGD", by="test_gradients_stay", says="before the step")
def decays_the_gradient_in_place(reference: str) -> str:
    return reference.replace("g = p.grad.add(p, alpha", "g = p.grad.add_(p, alpha")


@rejected("SGD", by="test_by_hand", says="derived from torch.optim.SGD")
class DerivedFromTorch(torch.optim.SGD):
    def __init__(self, params, lr=1e-3, momentum=0.0, nesterov=False, weight_decay=0.0):
        super().__init__(params, lr, momentum, 0.0, weight_decay, nesterov)


@rejected("SGD", by="test_by_hand", says="was called")
class AsksTorch(Optimizer):
    def __init__(self, params, lr=1e-3, momentum=0.0, nesterov=False, weight_decay=0.0):
        super().__init__(
            params,
            {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay},
        )
        self.other = torch.optim.SGD(
            self.param_groups, lr, momentum, weight_decay=weight_decay, nesterov=nesterov
        )

    def step(self, closure=None):
        return self.other.step(closure)


# --- 4 ------------------------------------------------------------------------------------------


@accepted("AdamW")
class DecayAfterTheUpdate(AdamW):
    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                g = p.grad if group["decoupled"] else p.grad + group["weight_decay"] * p
                state = self.state[p]
                t = state["t"] = state.get("t", 0) + 1
                m = state["m"] = b1 * state.get("m", 0) + (1 - b1) * g
                v = state["v"] = b2 * state.get("v", 0) + (1 - b2) * g * g
                mhat, vhat = m / (1 - b1**t), v / (1 - b2**t)
                p -= group["lr"] * mhat / (vhat.sqrt() + group["eps"])
                if group["decoupled"]:
                    p *= 1 - group["lr"] * group["weight_decay"]
        return loss


@accepted("AdamW")
class InTorchsOrder(AdamW):
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                self.update(group)
        return loss

    def update(self, group):
        lr, eps, wd = group["lr"], group["eps"], group["weight_decay"]
        b1, b2 = group["betas"]
        for p in filter(lambda p: p.grad is not None, group["params"]):
            grad, state = p.grad, self.state[p]
            if len(state) == 0:
                state["step"] = torch.tensor(0.0)
                state["exp_avg"] = torch.zeros_like(p)
                state["exp_avg_sq"] = torch.zeros_like(p)
            state["step"] += 1
            t = state["step"].item()
            if wd and group["decoupled"]:
                p.mul_(1 - lr * wd)
            elif wd:
                grad = grad.add(p, alpha=wd)
            state["exp_avg"].lerp_(grad, 1 - b1)
            state["exp_avg_sq"].mul_(b2).addcmul_(grad, grad, value=1 - b2)
            denominator = (state["exp_avg_sq"].sqrt() / (1 - b2**t) ** 0.5).add_(eps)
            p.addcdiv_(state["exp_avg"], denominator, value=-lr / (1 - b1**t))


@accepted("AdamW")
class DecayAndUpdateAtOnce(AdamW):
    def step(self, closure=None):
        loss = closure() if closure else None
        for group in self.param_groups:
            lr, (b1, b2), wd = group["lr"], group["betas"], group["weight_decay"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                g = p.grad.detach()
                if not group["decoupled"]:
                    g = g + wd * p.data
                if p not in self.state:
                    self.state[p] = {"m": torch.zeros_like(p.data), "v": torch.zeros_like(p.data)}
                    self.state[p]["t"] = 0
                state = self.state[p]
                state["t"] += 1
                state["m"] = b1 * state["m"] + (1 - b1) * g
                state["v"] = b2 * state["v"] + (1 - b2) * g.pow(2)
                mhat = state["m"] / (1 - b1 ** state["t"])
                vhat = state["v"] / (1 - b2 ** state["t"])
                update = mhat / (vhat.sqrt() + group["eps"])
                if group["decoupled"]:
                    update = update + wd * p.data
                p.data -= lr * update
        return loss


@rejected("AdamW", by=("test_decoupled", "test_first_step"), says="not corrected")
def no_bias_correction(reference: str) -> str:
    return reference.replace("v / (1 - b2**t)", "v").replace("m / (1 - b1**t)", "m")


@rejected("AdamW", by=("test_first_step", "test_decoupled"), says="only the second")
def first_moment_uncorrected(reference: str) -> str:
    return reference.replace("m / (1 - b1**t)", "m")


@rejected("AdamW", by=("test_first_step", "test_decoupled"), says="only the first")
def second_moment_uncorrected(reference: str) -> str:
    return reference.replace("v / (1 - b2**t)", "v")


@rejected("AdamW", by="test_eps", says="under the root")
def eps_under_the_root(reference: str) -> str:
    return reference.replace(
        "root = (v / (1 - b2**t)).sqrt()", 'root = (v / (1 - b2**t) + group["eps"]).sqrt()'
    ).replace('(root + group["eps"])', "root")


@rejected("AdamW", by="test_eps", says="before the correction")
def eps_before_the_correction(reference: str) -> str:
    return reference.replace(
        "root = (v / (1 - b2**t)).sqrt()",
        'root = (v.sqrt() + group["eps"]) / (1 - b2**t) ** 0.5',
    ).replace('(root + group["eps"])', "root")


@rejected("AdamW", by="test_eps")
def no_eps(reference: str) -> str:
    return reference.replace('(root + group["eps"])', "root")


@rejected("AdamW", by="test_decoupled", says="through the moments")
def always_l2(reference: str) -> str:
    return reference.replace('if group["decoupled"]:', "if False:")


@rejected("AdamW", by="test_l2", says="beside the gradient")
def always_decoupled(reference: str) -> str:
    return reference.replace('if group["decoupled"]:', "if True:")


@rejected("AdamW", by="test_l2", says="left out")
def l2_is_left_out(reference: str) -> str:
    return reference.replace("g = g.add(p, alpha=decay)", "pass")


@rejected("AdamW", by="test_decoupled", says="lr twice")
def decay_with_lr_twice(reference: str) -> str:
    return reference.replace("p.mul_(1 - lr * decay)", "p.mul_(1 - lr * lr * decay)")


@rejected("AdamW", by="test_decoupled", says="at every step")
def decay_without_lr(reference: str) -> str:
    return reference.replace("p.mul_(1 - lr * decay)", "p.mul_(1 - decay)")


@rejected("AdamW", by="test_own_counter", says="once for all")
def one_counter(reference: str) -> str:
    return reference.replace(
        '                lr, (b1, b2), decay = group["lr"]',
        '                self.count = getattr(self, "count", 0) + (group is self.param_groups[0])\n'
        '                lr, (b1, b2), decay = group["lr"]',
    ).replace('state["m"], state["v"], state["step"]', 'state["m"], state["v"], self.count')


@rejected("AdamW", by="test_groups")
def counted_for_each_group(reference: str) -> str:
    return reference.replace(
        '                lr, (b1, b2), decay = group["lr"]',
        '                self.count = getattr(self, "count", 0) + 1\n'
        '                lr, (b1, b2), decay = group["lr"]',
    ).replace(
        'state["step"] += 1',
        'state["step"] = state["step"] + 1 if len(self.param_groups) == 1 else self.count',
    )


@rejected("AdamW", by="test_resume", says="started anew")
def state_beside_the_state(reference: str) -> str:
    return (
        reference.replace("state, g = self.state[p], p.grad", "state, g = own(self, p), p.grad")
        + OWN
    )


@rejected("AdamW", by="test_resume")
class CounterIsNotSaved(AdamW):
    def step(self, closure=None):
        counts = self.__dict__.setdefault("counts", {})
        for p, state in self.state.items():
            state["step"] = counts.get(p, 0)
        loss = super().step(closure)
        for p, state in self.state.items():
            counts[p] = state["step"]
        return loss


@rejected("AdamW", by="test_none_is_skipped", says="weight decay too")
class DecaysEveryone(AdamW):
    def step(self, closure=None):
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for p in group["params"]:
                if group["decoupled"]:
                    p.data.mul_(1 - group["lr"] * group["weight_decay"])
        kept = [(group, group["weight_decay"]) for group in self.param_groups]
        for group, decay in kept:
            group["weight_decay"] = 0.0 if group["decoupled"] else decay
        super().step()
        for group, decay in kept:
            group["weight_decay"] = decay
        return loss


@rejected("AdamW", by=("test_none_is_skipped", "test_own_counter"))
class NoneIsZeroForAdam(AdamW):
    def step(self, closure=None):
        if closure is None:
            for group in self.param_groups:
                for p in group["params"]:
                    p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        return super().step(closure)


@rejected("AdamW", by="test_in_place", says=".data")
def replaces_the_data_of_adam(reference: str) -> str:
    return reference.replace(
        "p.sub_(lr * (m / (1 - b1**t)) / (root + group",
        "p.data = p.data - (lr * (m / (1 - b1**t)) / (root + group",
    )


@rejected("AdamW", by="test_in_place", says="before the step")
def l2_in_place(reference: str) -> str:
    return reference.replace("g = g.add(p, alpha=decay)", "g.add_(p, alpha=decay)")


@rejected("AdamW", by="test_in_place", says="disabled")
class AdamClosureWithoutGradients(AdamW):
    @torch.no_grad()
    def step(self, closure=None):
        loss = closure() if closure is not None else None
        super().step()
        return loss


@rejected("AdamW", by="test_groups", says="0.1 / t")
class AdamRateOfTheConstructor(AdamW):
    def step(self, closure=None):
        if len(self.param_groups) == 1:
            self.param_groups[0]["lr"] = self.defaults["lr"]
        return super().step(closure)


@rejected("AdamW", by="test_by_hand", says="derived from torch.optim.Adam")
class DerivedFromTorchsAdam(torch.optim.AdamW):
    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, decoupled=True
    ):
        super().__init__(params, lr, betas, eps, weight_decay)


@rejected("AdamW", by="test_by_hand", says="was called")
class AsksTorchsAdam(Optimizer):
    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, decoupled=True
    ):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        kind = torch.optim.AdamW if decoupled else torch.optim.Adam
        self.other = kind(self.param_groups, lr, betas, eps, weight_decay)

    def step(self, closure=None):
        return self.other.step(closure)


# --- 5 ------------------------------------------------------------------------------------------


@accepted("accumulate")
def gradients_divided_at_the_end(model, loss_sum_fn, batches, opt):
    opt.zero_grad()
    total, samples = 0.0, 0
    for x, y in batches:
        loss = loss_sum_fn(model(x), y)
        loss.backward()
        total += loss.item()
        samples += x.shape[0]
    for p in model.parameters():
        if p.grad is not None:
            p.grad /= samples
    opt.step()
    return total / samples


@accepted("accumulate")
def weighted_means(model, loss_sum_fn, batches, opt):
    samples = sum(x.size(0) for x, _ in batches)
    model.zero_grad()
    mean = torch.zeros(())
    for x, y in batches:
        loss = loss_sum_fn(model(x), y) / len(x) * (len(x) / samples)
        loss.backward()
        mean += loss.detach()
    opt.step()
    opt.zero_grad()
    return float(mean)


@accepted("accumulate")
def with_an_upstream_gradient(model, loss_sum_fn, batches, opt):
    share = 1 / sum(len(y) for _, y in batches)
    opt.zero_grad(set_to_none=False)
    losses = []
    for x, y in batches:
        loss = loss_sum_fn(model(x), y)
        loss.backward(torch.full_like(loss, share))
        losses.append(loss.detach())
    opt.step()
    return (torch.stack(losses).sum() * share).item()


@accepted("accumulate")
def by_autograd_grad_of_each(model, loss_sum_fn, batches, opt):
    parameters = [p for p in model.parameters() if p.requires_grad]
    sums = [torch.zeros_like(p) for p in parameters]
    samples = sum(len(x) for x, _ in batches)
    total = 0.0
    for x, y in batches:
        loss = loss_sum_fn(model(x), y)
        for kept, g in zip(sums, torch.autograd.grad(loss, parameters), strict=True):
            kept += g / samples
        total += loss.item()
    for p, g in zip(parameters, sums, strict=True):
        p.grad = g
    opt.step()
    return total / samples


@rejected("accumulate", by="test_parameters", says="number of micro-batches")
def divides_by_the_micro_batches(reference: str) -> str:
    return reference.replace(
        "loss = loss_sum_fn(model(x), y) / total\n        loss.backward()",
        "loss = loss_sum_fn(model(x), y) / total\n        (loss * total / len(batches)).backward()",
    )


@rejected("accumulate", by="test_parameters", says="not divided")
def no_division(reference: str) -> str:
    return reference.replace(
        "        loss.backward()\n        mean", "        (loss * total).backward()\n        mean"
    )


@rejected("accumulate", by=("test_parameters", "test_mean_loss"), says="whatever its size")
def mean_of_means(reference: str) -> str:
    return reference.replace(
        "loss_sum_fn(model(x), y) / total", "loss_sum_fn(model(x), y) / len(x) / len(batches)"
    )


@rejected("accumulate", by=("test_parameters", "test_mean_loss"), says="elements")
def counts_elements(reference: str) -> str:
    return reference.replace(
        "sum(len(x) for x, _ in batches)", "sum(y.numel() for _, y in batches)"
    )


@rejected("accumulate", by=("test_parameters",), says="added up")
def adds_the_means(reference: str) -> str:
    return reference.replace(
        "loss_sum_fn(model(x), y) / total", "loss_sum_fn(model(x), y) / len(x)"
    )


@rejected("accumulate", by=("test_one_graph_at_a_time", "test_memory"), says="all graphs lived")
def one_backward_at_the_end(model, loss_sum_fn, batches, opt):
    opt.zero_grad()
    total = sum(len(x) for x, _ in batches)
    loss = sum(loss_sum_fn(model(x), y) for x, y in batches) / total
    loss.backward()
    opt.step()
    return loss.item()


@rejected("accumulate", by=("test_one_step", "test_parameters"), says="3 times")
def steps_each_time(reference: str) -> str:
    return reference.replace("    opt.step()\n    return mean", "    return mean").replace(
        "mean += loss.item()", "mean += loss.item()\n        opt.step()"
    )


@rejected("accumulate", by=("test_parameters", "test_old_gradients"), says="on the way")
def empties_inside(reference: str) -> str:
    return reference.replace(
        "        loss = loss_sum_fn", "        opt.zero_grad()\n        loss = loss_sum_fn"
    )


@rejected("accumulate", by="test_old_gradients", says="earlier backward")
def empties_nothing(reference: str) -> str:
    return reference.replace("    opt.zero_grad()\n    mean = 0.0", "    mean = 0.0")


@rejected("accumulate", by="test_graphs_are_freed", says="retain")
def retains_the_graphs(reference: str) -> str:
    return reference.replace(
        "        loss.backward()\n        mean",
        "        loss.backward(retain_graph=True)\n        mean",
    )


@rejected("accumulate", by="test_memory")
def keeps_the_graphs_alive(reference: str) -> str:
    return reference.replace(
        "        loss.backward()\n        mean",
        "        loss.backward(retain_graph=True)\n        kept.append(loss)\n        mean",
    ).replace("    mean = 0.0\n    for x, y", "    mean, kept = 0.0, []\n    for x, y")


@rejected("accumulate", by="test_mean_loss", says="sum of the losses")
def returns_the_sum(reference: str) -> str:
    return reference.replace(
        "    opt.step()\n    return mean", "    opt.step()\n    return mean * total"
    )


@rejected("accumulate", by="test_mean_loss", says="last")
def returns_the_last(reference: str) -> str:
    return reference.replace("mean += loss.item()", "mean = loss.item()")


@rejected("accumulate", by="test_mean_loss", says="tensor")
def returns_a_tensor(reference: str) -> str:
    return reference.replace("mean += loss.item()", "mean += loss")


# --- 6 ------------------------------------------------------------------------------------------


@accepted("warmup_cosine")
def param_groups(model, wd):
    seen, groups = set(), []
    tables = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
    for p in model.parameters():
        if p.requires_grad and p not in seen:
            seen.add(p)
            decay = wd if p.dim() >= 2 and p not in tables else 0
            groups.append({"params": [p], "weight_decay": decay})
    return groups


@accepted("warmup_cosine")
def param_groups(model, wd):  # noqa: F811
    without = {}
    for module in model.modules():
        for p in module.parameters(recurse=False):
            if isinstance(module, nn.Embedding) or p.ndim < 2:
                without[id(p)] = p
    others = {id(p): p for p in model.parameters() if id(p) not in without}
    return [
        {"name": "plain", "params": [p for p in ps.values() if p.requires_grad], "weight_decay": d}
        for ps, d in ((without, 0.0), (others, wd))
    ]


@accepted("warmup_cosine")
def lr_at(step, *, peak, floor, warmup, total):
    if step < warmup and step < total:
        return step / warmup * peak
    if step >= total:
        return floor
    angle = (step - warmup) / max(1, total - warmup) * math.pi
    return 0.5 * (peak + floor) + 0.5 * (peak - floor) * math.cos(angle)


@accepted("warmup_cosine")
class EMA:
    """Averages in a list, buffers in a dict; both by the order or name in the model."""

    def __init__(self, model, decay):
        self.decay = decay
        self.t = 0
        self.shadow = [p.detach().clone().zero_() for p in model.parameters()]

    @torch.no_grad()
    def update(self, model):
        self.t += 1
        for s, p in zip(self.shadow, model.parameters(), strict=True):
            if p.requires_grad:
                s.mul_(self.decay).add_(p, alpha=1 - self.decay)
        self.seen = [b.detach().clone() for b in model.buffers()]

    @torch.no_grad()
    def copy_to(self, model):
        for s, p in zip(self.shadow, model.parameters(), strict=True):
            if p.requires_grad:
                p.copy_(s / (1 - self.decay**self.t))
        for b, seen in zip(model.buffers(), self.seen, strict=True):
            b.copy_(seen)


@accepted("warmup_cosine")
class EMA:  # noqa: F811
    """Everything through state dicts and detached clones."""

    def __init__(self, model, decay):
        self.decay, self.weight = decay, 1.0
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        self.sums = {name: 0.0 for name in self.names}
        self.buffers = {}

    def update(self, model):
        state = {k: v.detach().clone() for k, v in model.state_dict().items()}
        for name in self.names:
            self.sums[name] = self.decay * self.sums[name] + (1 - self.decay) * state[name]
        self.buffers = {name: state[name] for name, _ in model.named_buffers()}
        self.weight *= self.decay

    def copy_to(self, model):
        averages = {name: s / (1 - self.weight) for name, s in self.sums.items()}
        model.load_state_dict({**averages, **self.buffers}, strict=False)


@accepted("warmup_cosine")
class EMA:  # noqa: F811
    """Keeps a copy of the model."""

    def __init__(self, model, decay):
        self.decay, self.updates = decay, 0
        self.shadow = copy.deepcopy(model)
        for p in self.shadow.parameters():
            p.data.zero_()

    def update(self, model):
        self.updates += 1
        for s, p in zip(self.shadow.parameters(), model.parameters(), strict=True):
            s.data = self.decay * s.data + (1 - self.decay) * p.data
        for s, b in zip(self.shadow.buffers(), model.buffers(), strict=True):
            s.data = b.data.clone()

    def copy_to(self, model):
        for s, p in zip(self.shadow.parameters(), model.parameters(), strict=True):
            if p.requires_grad:
                p.data.copy_(s.data / (1 - self.decay**self.updates))
        for s, b in zip(self.shadow.buffers(), model.buffers(), strict=True):
            b.data.copy_(s.data)


@rejected("warmup_cosine", by="test_decay_by_dimensions", says="norm.weight")
def param_groups(model, wd):  # noqa: F811
    """By the name alone."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    groups = []
    for name, p in model.named_parameters():
        if p.requires_grad:
            none = name.endswith(".bias") or id(p) in tables
            groups.append({"params": [p], "weight_decay": 0.0 if none else wd})
    return groups


@rejected("warmup_cosine", by="test_decay_by_dimensions", says="distance_bias")
def param_groups(model, wd):  # noqa: F811
    """By dimensions, and by the name too."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    groups = []
    for name, p in model.named_parameters():
        if p.requires_grad:
            none = "bias" in name or p.ndim < 2 or id(p) in tables
            groups.append({"params": [p], "weight_decay": 0.0 if none else wd})
    return groups


@rejected("warmup_cosine", by="test_tied", says="2 times")
def param_groups(model, wd):  # noqa: F811
    """Module by module, so a shared weight comes twice."""
    groups = []
    for module in model.modules():
        for p in module.parameters(recurse=False):
            if p.requires_grad:
                none = p.ndim < 2 or isinstance(module, nn.Embedding)
                groups.append({"params": [p], "weight_decay": 0.0 if none else wd})
    return groups


@rejected("warmup_cosine", by="test_tied", says="whichever")
def param_groups(model, wd):  # noqa: F811
    """The first module that owns a weight decides."""
    seen, groups = set(), []
    for module in model.modules():
        for p in module.parameters(recurse=False):
            if p.requires_grad and id(p) not in seen:
                seen.add(id(p))
                none = p.ndim < 2 or isinstance(module, nn.Embedding)
                groups.append({"params": [p], "weight_decay": 0.0 if none else wd})
    return groups


@rejected("warmup_cosine", by=("test_embeddings", "test_tied"), says="table.weight")
def param_groups(model, wd):  # noqa: F811
    """Dimensions alone."""
    ps = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in ps if p.ndim >= 2], "weight_decay": wd},
        {"params": [p for p in ps if p.ndim < 2], "weight_decay": 0.0},
    ]


@rejected("warmup_cosine", by="test_frozen", says="leave it out")
def frozen_ones_too(reference: str) -> str:
    return reference.replace(
        "        if p.requires_grad:\n            (others", "        if True:\n            (others"
    )


@rejected("warmup_cosine", by="test_every_parameter_once", says="in 0 groups")
def param_groups(model, wd):  # noqa: F811
    """Only what lies in a module of a known kind."""
    decaying = [m.weight for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d)]
    known = {id(p) for p in decaying}
    rest = [
        p
        for m in model.modules()
        if not isinstance(m, nn.Sequential)
        for n, p in m.named_parameters(recurse=False)
        if id(p) not in known and n in ("weight", "bias")
    ]
    groups = [{"params": decaying, "weight_decay": wd}, {"params": rest, "weight_decay": 0.0}]
    return [group | {"params": [p for p in group["params"] if p.requires_grad]} for group in groups]


@rejected("warmup_cosine", by="test_schedule", says="one step late: it is 0 at step 1")
def lr_at(step, *, peak, floor, warmup, total):  # noqa: F811
    """The warm-up begins one step late."""
    if step >= total:
        return floor
    if step < warmup:
        return peak * max(step - 1, 0) / warmup
    done = (step - warmup) / (total - warmup)
    return floor + (peak - floor) * (1 + math.cos(math.pi * done)) / 2


@rejected("warmup_cosine", by="test_schedule", says="one step ahead")
def warmup_ahead(reference: str) -> str:
    return reference.replace("return peak * step / warmup", "return peak * (step + 1) / warmup")


@rejected("warmup_cosine", by=("test_schedule", "test_joints"), says="counted from 0")
def cosine_over_total(reference: str) -> str:
    return reference.replace("(step - warmup) / (total - warmup)", "step / total")


@rejected("warmup_cosine", by=("test_schedule", "test_joints"), says="stretched")
def cosine_stretched(reference: str) -> str:
    return reference.replace("(step - warmup) / (total - warmup)", "(step - warmup) / total")


@rejected("warmup_cosine", by=("test_schedule", "test_joints"), says="instead of floor")
def down_to_zero(reference: str) -> str:
    return reference.replace(
        "floor + (peak - floor) * (1 + math.cos(math.pi * done)) / 2",
        "peak * (1 + math.cos(math.pi * done)) / 2",
    )


@rejected("warmup_cosine", by="test_after_the_end", says="up again")
def no_end(reference: str) -> str:
    return reference.replace(
        "    if step >= total:\n        return floor\n", "    total += total == warmup\n"
    )


@rejected("warmup_cosine", by="test_no_warmup")
def divides_by_zero(reference: str) -> str:
    return reference.replace("    if step < warmup:\n", "    if step / warmup < 1:\n")


@rejected("warmup_cosine", by="test_no_warmup")
def end_comes_last(reference: str) -> str:
    return reference.replace("    if step >= total:\n        return floor\n", "").replace(
        "    done = (step - warmup) / (total - warmup)\n",
        "    done = min((step - warmup) / (total - warmup), 1)\n",
    )


@rejected("warmup_cosine", by="test_average", says="not divided")
def no_correction(reference: str) -> str:
    return reference.replace(" / (1 - self.decay**self.steps)", "")


@rejected("warmup_cosine", by="test_average", says="swapped")
def swapped(reference: str) -> str:
    return reference.replace(
        "self.decay, self.steps = decay, 0", "self.decay, self.steps = 1 - decay, 0"
    )


@rejected("warmup_cosine", by="test_average", says="starts at 0")
def starts_at_the_weights(reference: str) -> str:
    return reference.replace(
        "name: torch.zeros_like(p) for", "name: p.detach().clone() for"
    ).replace(" / (1 - self.decay**self.steps)", "")


@rejected("warmup_cosine", by=("test_average", "test_own_memory"), says="last weights")
class EMA:  # noqa: F811
    """Keeps the state_dict, which shares the model's memory."""

    def __init__(self, model, decay):
        self.decay, self.best = decay, None

    def update(self, model):
        self.best = {
            name: value
            for name, value in model.state_dict().items()
            if not dict(model.named_parameters()).get(name, value).is_leaf
            or name in dict(model.named_buffers())
            or dict(model.named_parameters())[name].requires_grad
        }

    def copy_to(self, model):
        model.load_state_dict(self.best, strict=False)


@rejected("warmup_cosine", by="test_buffers", says="clone")
def aliases_the_buffers(reference: str) -> str:
    return reference.replace("name: buffer.clone() for", "name: buffer for")


@rejected("warmup_cosine", by="test_buffers")
def forgets_the_buffers(reference: str) -> str:
    return reference.replace("buffer.copy_(self.buffers[name])", "pass")


@rejected("warmup_cosine", by="test_own_memory", says="graph")
def keeps_the_graph(reference: str) -> str:
    return reference.replace(
        "self.averages[name].lerp_(p, 1 - self.decay)",
        "with torch.enable_grad():\n                        self.averages[name] = (\n"
        "                            self.decay * self.averages[name] + (1 - self.decay) * p\n"
        "                        )",
    )


@rejected("warmup_cosine", by="test_copied_in_place", says="another object")
class EMA(EMA):  # noqa: F811
    def copy_to(self, model):
        for name, p in list(model.named_parameters()):
            if name in self.averages:
                owner, _, last = name.rpartition(".")
                value = self.averages[name] / (1 - self.decay**self.steps)
                setattr(model.get_submodule(owner), last, nn.Parameter(value))
        for name, buffer in model.named_buffers():
            buffer.copy_(self.buffers[name])


@rejected("warmup_cosine", by="test_copied_in_place", says="other memory")
def replaces_the_data_of_the_model(reference: str) -> str:
    return reference.replace(
        "p.copy_(self.averages[name] / (1 - self.decay**self.steps))",
        "p.data = self.averages[name] / (1 - self.decay**self.steps)",
    )


@rejected("warmup_cosine", by="test_copied_in_place", says="frozen")
def averages_frozen_ones(reference: str) -> str:
    return reference.replace(
        "name: torch.zeros_like(p) for name, p in model.named_parameters() if p.requires_grad",
        "name: torch.zeros_like(p) for name, p in model.named_parameters()",
    )


@rejected("warmup_cosine", by="test_training")
class EMA(EMA):  # noqa: F811
    """Right for five updates, and stops then."""

    def update(self, model):
        if self.steps < 5:
            super().update(model)
