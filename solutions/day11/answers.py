"""Answers to day 11 that its suite must accept or reject."""

import contextlib
import copy
import functools
import math
import types

import torch
from torch import nn
from torch.nn import functional as F
from train_eval import *

from grader.answers import accepted, rejected

# --- 1 ------------------------------------------------------------------------------------------


@accepted("evaluate")
@torch.inference_mode()
def by_decorator(model, loader, loss_fn):
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        loss, hits, total = torch.zeros(()), torch.zeros(()), 0
        for x, y in loader:
            out = model(x)
            loss += loss_fn(out, y) * y.shape[0]
            hits += (out.argmax(1) == y).sum()
            total += y.shape[0]
        if total == 0:
            return {"loss": float("nan"), "acc": float("nan")}
        return {"loss": (loss / total).item(), "acc": (hits / total).item()}
    finally:
        for module, mode in before:
            module.training = mode


@contextlib.contextmanager
def evaluating(model):
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():  # parents come first, children have the last word
            module.train(mode)


@accepted("evaluate")
def by_context_manager(model, loader, loss_fn):
    total, loss, hits = 0, 0.0, 0
    with evaluating(model), torch.no_grad():
        for x, y in loader:
            out = model(x)
            loss += float(loss_fn(out, y)) * x.size(0)
            hits += out.argmax(dim=1).eq(y).sum().item()
            total += x.size(0)
    return {"loss": loss / total if total else math.nan, "acc": hits / total if total else math.nan}


@accepted("evaluate")
def with_lists_of_numbers(model, loader, loss_fn):
    modes = {name: module.training for name, module in model.named_modules()}
    losses, hits = [], []
    try:
        model.train(False)
        for x, y in loader:
            with torch.inference_mode():
                out = model(x)
                losses += [loss_fn(out, y).item()] * len(x)
                hits += (out.max(1).indices == y).tolist()
    finally:
        for name, module in model.named_modules():
            module.training = modes[name]
    mean = lambda values: sum(values) / len(values) if values else float("nan")  # noqa: E731
    return {"loss": mean(losses), "acc": mean(hits)}


@accepted("evaluate")
def of_a_copy(model, loader, loss_fn):
    twin = copy.deepcopy(model).eval()
    loss, hits, total = 0.0, 0, 0
    with torch.no_grad():
        for x, y in loader:
            out = twin(x)
            loss += loss_fn(out, y).item() * len(x)
            hits += (out.argmax(1) == y).sum().item()
            total += len(x)
    return {"loss": loss / max(total, 1), "acc": hits / total} if total else nothing()


def nothing():
    return dict.fromkeys(("loss", "acc"), math.nan)


@rejected(
    "evaluate",
    by=("test_eval_mode", "test_statistics"),
    says="no_grad doesn't change that",
)
def without_eval(reference: str) -> str:
    return reference.replace(
        "        model.eval()\n        with torch.no_grad", "        with torch.no_grad", 1
    )


@rejected("evaluate", by="test_without_gradients", says="eval() doesn't switch gradients off")
def without_no_grad(reference: str) -> str:
    return reference.replace("with torch.no_grad():", "with torch.enable_grad():", 1)


@rejected("evaluate", by="test_without_gradients", says="afterwards")
def grad_mode_left_off(model, loader, loss_fn):
    torch.set_grad_enabled(False)
    return right(model, loader, loss_fn)


right = evaluate


@rejected("evaluate", by=("test_modes", "test_modes_after_an_exception"), says="own mode")
def always_back_to_training(model, loader, loss_fn):
    try:
        return right(model, loader, loss_fn)
    finally:
        model.train()


@rejected("evaluate", by=("test_modes", "test_modes_after_an_exception"), says="own mode")
def back_to_the_roots_mode(model, loader, loss_fn):
    try:
        return right(model, loader, loss_fn)
    finally:
        model.train(model.training)


@rejected("evaluate", by=("test_modes", "test_modes_after_an_exception"), says="own mode")
def children_first(model, loader, loss_fn):
    modes = {module: module.training for module in model.modules()}
    try:
        return right(model, loader, loss_fn)
    finally:
        for module, mode in reversed(modes.items()):
            module.train(mode)


@rejected("evaluate", by="test_modes", says="it was in training mode before")
def left_in_eval(model, loader, loss_fn):
    result = right(model, loader, loss_fn)
    model.eval()
    return result


@rejected("evaluate", by="test_modes_after_an_exception", says="after an exception")
def without_finally(model, loader, loss_fn):
    modes = {module: module.training for module in model.modules()}
    model.eval()
    total, loss, hits = 0, 0.0, 0
    with torch.no_grad():
        for x, y in loader:
            out = model(x)
            loss += loss_fn(out, y).item() * len(y)
            hits += (out.argmax(1) == y).sum().item()
            total += len(y)
    for module, mode in modes.items():
        module.training = mode
    return {"loss": loss / total, "acc": hits / total} if total else nothing()


@rejected("evaluate", by="test_modes_after_an_exception", says="nothing was raised")
def swallows_the_exception(model, loader, loss_fn):
    try:
        return right(model, loader, loss_fn)
    except Exception:
        return nothing()


@rejected("evaluate", by="test_ragged_last_batch", says="mean of the batches' means")
def mean_of_means(reference: str) -> str:
    return (
        reference.replace(".item() * len(y)", ".item() * 1")
        .replace("(logits.argmax(1) == y).sum())", "(logits.argmax(1) == y).sum()) / len(y)")
        .replace("samples += len(y)", "samples += 1")
    )


@rejected("evaluate", by="test_ragged_last_batch", says="loss is the mean of the batches' means")
def mean_of_losses(reference: str) -> str:
    return (
        reference.replace(".item() * len(y)", ".item()")
        .replace("loss, correct, samples = 0.0, 0, 0", "loss, correct, samples, n = 0.0, 0, 0, 0")
        .replace("samples += len(y)", "samples += len(y)\n                n += 1")
        .replace('"loss": loss / samples', '"loss": loss / n')
    )


@rejected("evaluate", by="test_ragged_last_batch")
def all_batches_as_large_as_the_first(model, loader, loss_fn):
    loader = list(loader)
    result = right(model, loader, loss_fn)
    if loader:
        share = sum(len(y) for _, y in loader) / (len(loader) * len(loader[0][1]))
        result = {key: value * share for key, value in result.items()}
    return result


@rejected("evaluate", by="test_no_outputs_kept", says="still alive")
def keeps_the_outputs(model, loader, loss_fn):
    modes = {module: module.training for module in model.modules()}
    outputs, targets = [], []
    try:
        model.eval()
        with torch.no_grad():
            for x, y in loader:
                outputs.append(model(x))
                targets.append(y)
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not outputs:
        return nothing()
    logits, y = torch.cat(outputs), torch.cat(targets)
    return {"loss": loss_fn(logits, y).item(), "acc": (logits.argmax(1) == y).float().mean().item()}


@rejected("evaluate", by="test_no_outputs_kept", says="still alive")
def keeps_views_of_the_outputs(model, loader, loss_fn):
    kept = []
    handle = model.register_forward_hook(lambda m, args, out: kept.append(out.detach()[:]))
    try:
        return right(model, loader, loss_fn)
    finally:
        handle.remove()


@rejected("evaluate", by="test_no_batch")
def divides_by_nothing(reference: str) -> str:
    return reference.replace("if not samples:", "if samples < 0:")


@rejected("evaluate", by="test_no_batch", says="expected nan")
def zero_for_nothing(reference: str) -> str:
    return reference.replace('float("nan")', "0.0")


@rejected("evaluate", by="test_loss_and_accuracy", says="Python float")
def tensors_come_back(model, loader, loss_fn):
    return {key: torch.tensor(value) for key, value in right(model, loader, loss_fn).items()}


@rejected("evaluate", by="test_loss_and_accuracy", says="percent")
def in_percent(reference: str) -> str:
    return reference.replace("correct / samples", "100 * correct / samples")


@rejected("evaluate", by="test_loss_and_accuracy", says="added up")
def sum_of_losses(reference: str) -> str:
    return reference.replace(".item() * len(y)", ".item()").replace("loss / samples", "loss")


@rejected("evaluate", by="test_loss_and_accuracy")
def argmax_over_the_batch(reference: str) -> str:
    return reference.replace("logits.argmax(1) == y", "logits.argmax(0)[:1] == y")


@rejected("evaluate", by="test_loss_and_accuracy")
def goes_through_the_loader_twice(model, loader, loss_fn):
    samples = sum(len(y) for _, y in loader)
    return right(model, loader, loss_fn) if samples else nothing()


# --- 2 ------------------------------------------------------------------------------------------


@accepted("Dropout")
class ByBernoulli(nn.Module):
    def __init__(self, p=0.5, generator=None):
        super().__init__()
        if p < 0 or p > 1:
            raise ValueError("p must be within [0, 1]")
        self.p, self.generator = p, generator

    def forward(self, x):
        if not self.training:
            return x
        if self.p == 1:
            return torch.zeros_like(x)
        mask = torch.empty_like(x).bernoulli_(1 - self.p, generator=self.generator)
        return x * mask / (1 - self.p)


@accepted("Dropout")
class ByMaskedFill(Dropout):
    def forward(self, x):
        if not self.training or self.p == 0:
            return x.view_as(x)
        dropped = torch.rand(x.shape, generator=self.generator, device=x.device) < self.p
        if self.p == 1:
            return x * 0
        return (x / (1 - self.p)).masked_fill(dropped, 0)


@accepted("Dropout")
class ByWhere(Dropout):
    def forward(self, x):
        if self.training:
            keep = 1 - self.p
            mask = torch.rand(x.size(), device=x.device, generator=self.generator).ge(self.p)
            return torch.where(mask, x, 0) / (keep or 1.0)
        return x


@accepted("Dropout")
class ByAProbabilityTensor(Dropout):
    def forward(self, x):
        if not self.training:
            return x
        chances = torch.full(x.shape, 1.0 - self.p, device=x.device)
        mask = torch.bernoulli(chances, generator=self.generator)
        return (x * mask / chances.clamp_min(1e-12)).to(x.dtype)


@rejected("Dropout", by="test_kept_elements", says="expectation shrinks")
def without_the_scale(reference: str) -> str:
    return reference.replace("* (draws >= self.p) * scale", "* (draws >= self.p)")


@rejected("Dropout", by="test_expectation", says="expectation")
class NotInverted(Dropout):
    def forward(self, x):
        if not self.training:
            return x * (1 - self.p)
        return x * (torch.rand(x.shape, generator=self.generator) >= self.p)


@rejected("Dropout", by="test_evaluation", says="has nothing to do")
class ScalesInEval(Dropout):
    def forward(self, x):
        return super().forward(x) if self.training else x * (1 - self.p)


@rejected("Dropout", by="test_evaluation", says="copy")
class CopiesInEval(Dropout):
    def forward(self, x):
        return super().forward(x) if self.training else x.clone()


@rejected("Dropout", by="test_rate", says="not to keep")
def keep_probability(reference: str) -> str:
    return reference.replace("draws >= self.p", "draws < self.p")


@rejected("Dropout", by="test_kept_elements", says="divided by p")
def divided_by_p(reference: str) -> str:
    return reference.replace("1 / (1 - self.p) if self.p < 1", "1 / self.p if 0 < self.p < 1")


@rejected("Dropout", by="test_own_draws", says="shared")
def one_mask_for_the_batch(reference: str) -> str:
    return reference.replace("torch.rand(x.shape, gen", "torch.rand(x.shape[1:], gen")


@rejected("Dropout", by="test_own_draws", says="shared")
def whole_rows(reference: str) -> str:
    return reference.replace("torch.rand(x.shape, gen", "torch.rand((*x.shape[:-1], 1), gen")


@rejected("Dropout", by="test_own_draws", says="two calls")
class TheFirstMaskForever(Dropout):
    def forward(self, x):
        if not self.training:
            return x
        if getattr(self, "draws", torch.empty(0)).shape != x.shape:
            self.draws = torch.rand(x.shape, generator=self.generator)
        return x * (self.draws >= self.p) * (1 / (1 - self.p) if self.p < 1 else 0)


@rejected("Dropout", by="test_p_one", says="nan")
class ZeroTimesInfinity(Dropout):
    def forward(self, x):
        if not self.training:
            return x
        mask = (torch.rand(x.shape, generator=self.generator) >= self.p).to(x.dtype)
        return x * mask / torch.tensor(1 - self.p, dtype=x.dtype)


@rejected("Dropout", by="test_p_one")
class DividesByZero(Dropout):
    def forward(self, x):
        if not self.training:
            return x
        return x * (torch.rand(x.shape, generator=self.generator) >= self.p) * (1 / (1 - self.p))


@rejected("Dropout", by="test_p_one", says="nan")
class NanInTheGradient(Dropout):
    def forward(self, x):
        if not self.training:
            return x
        mask = torch.rand(x.shape, generator=self.generator) >= self.p
        keep = torch.tensor(1 - self.p, dtype=x.dtype)
        return torch.where(mask, x / keep, 0)


@rejected("Dropout", by="test_p_zero")
def p_zero_is_the_default(reference: str) -> str:
    return reference.replace("self.p = p\n", "self.p = p or 0.5\n")


@rejected("Dropout", by="test_p_zero")
def zero_drops_all(reference: str) -> str:
    return reference.replace("if self.p < 1 else 0.0", "if 0 < self.p < 1 else 0.0")


@rejected("Dropout", by="test_evaluation")
def always_on(reference: str) -> str:
    return reference.replace("if not self.training:\n            return x\n        draws", "draws")


@rejected("Dropout", by="test_gradient", says="mask isn't part")
class StraightThrough(Dropout):
    def forward(self, x):
        return x + (super().forward(x) - x).detach()


@rejected("Dropout", by="test_gradient", says="no graph")
class Detached(Dropout):
    def forward(self, x):
        return super().forward(x).detach() if self.training else x


@rejected("Dropout", by="test_generator", says="global random state")
def generator_forgotten(reference: str) -> str:
    return reference.replace(
        "torch.rand(x.shape, generator=self.generator, ", "torch.rand(x.shape, "
    )


@rejected("Dropout", by="test_generator", says="without a generator")
def a_generator_of_its_own(reference: str) -> str:
    return reference.replace(
        "self.generator = generator",
        "self.generator = generator or torch.Generator().manual_seed(0)",
    )


@rejected("Dropout", by="test_generator")
def seeds_the_global_one(reference: str) -> str:
    return reference.replace(
        "draws = torch.rand(x.shape, generator=self.generator, ",
        "if self.generator is not None:\n"
        "            torch.manual_seed(self.generator.initial_seed())\n"
        "        draws = torch.rand(x.shape, ",
    )


@rejected("Dropout", by="test_bad_p", says="nothing was raised")
def any_p(reference: str) -> str:
    return reference.replace("if not 0 <= p <= 1:", "if p != p:")


@rejected("Dropout", by="test_bad_p")
def the_ends_are_refused(reference: str) -> str:
    return reference.replace("if not 0 <= p <= 1:", "if not 0 < p < 1:")


@rejected("Dropout", by="test_bad_p", says="AssertionError")
def an_assertion(reference: str) -> str:
    return reference.replace("raise ValueError(f", "raise AssertionError(f")


@rejected("Dropout", by="test_half", says="float32")
def a_float_mask(reference: str) -> str:
    return reference.replace("(draws >= self.p) *", "(draws >= self.p).float() *")


@rejected("Dropout", by="test_kept_elements")
class InPlace(Dropout):
    def forward(self, x):
        if not self.training:
            return x
        with torch.no_grad():
            return x.copy_(super().forward(x))


@rejected("Dropout", by="test_forbidden", says="draw the mask")
class ByFunctional(Dropout):
    def forward(self, x):
        return F.dropout(x, self.p, self.training)


@rejected("Dropout", by="test_forbidden")
class ByModule(Dropout):
    def __init__(self, p=0.5, generator=None):
        super().__init__(p, generator)
        self.inner = nn.Dropout(p)

    def forward(self, x):
        return self.inner(x)


@rejected("Dropout", by="test_evaluation")
class FunctionalAlwaysOn(Dropout):
    def forward(self, x):
        return F.dropout(x, self.p)


# --- 3 ------------------------------------------------------------------------------------------


@accepted("BatchNorm1d")
class WithLerp(nn.Module):
    def __init__(self, features, eps=1e-5, momentum=0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long))

    def forward(self, x):
        flat = x if x.dim() == 2 else x.transpose(1, 2).reshape(-1, x.shape[1])
        if self.training:
            if flat.shape[0] < 2:
                raise ValueError("Expected more than 1 value per channel when training")
            mean, var = flat.mean(0), flat.var(0, unbiased=False)
            self.num_batches_tracked.add_(1)
            weight = self.momentum
            if weight is None:
                weight = 1.0 / self.num_batches_tracked.item()
            self.running_mean.lerp_(mean.detach(), weight)
            self.running_var.lerp_(flat.detach().var(0), weight)
        else:
            mean, var = self.running_mean, self.running_var
        out = (flat - mean) * torch.rsqrt(var + self.eps) * self.weight + self.bias
        return out if x.dim() == 2 else out.view(x.shape[0], x.shape[2], -1).transpose(1, 2)


@accepted("BatchNorm1d")
class WithNewBuffers(BatchNorm1d):
    """Replaces its buffers, and writes the variance out."""

    def forward(self, x):
        dims = (0,) if x.ndim == 2 else (0, 2)
        if self.training:
            n = x.numel() / x.size(1)
            if n <= 1:
                raise ValueError("one value per channel")
            mean = x.mean(dims, keepdim=True)
            var = ((x - mean) ** 2).mean(dims, keepdim=True)
            self.num_batches_tracked = self.num_batches_tracked + 1
            m = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
            self.running_mean = (1 - m) * self.running_mean + m * mean.detach().flatten()
            self.running_var = (1 - m) * self.running_var + m * var.detach().flatten() * n / (n - 1)
        else:
            size = (1, -1, 1)[: x.ndim]
            mean, var = self.running_mean.view(size), self.running_var.view(size)
        size = (1, -1, 1)[: x.ndim]
        return self.weight.view(size) * (x - mean) / (var + self.eps) ** 0.5 + self.bias.view(size)


@accepted("BatchNorm1d")
class WithAnAxisMore(BatchNorm1d):
    def forward(self, x):
        y = x.unsqueeze(-1) if x.dim() == 2 else x
        mean, var = self.running_mean, self.running_var
        if self.training:
            if y.shape[0] * y.shape[2] == 1:
                raise ValueError("a variance needs two values")
            mean, var = y.mean((0, 2)), y.var((0, 2), correction=0)
            self.update(mean.data, y.data.var((0, 2)))
        y = torch.einsum("bfs,f->bfs", y - mean[:, None], (var + self.eps).rsqrt())
        return torch.addcmul(self.bias[:, None], y, self.weight[:, None]).view(x.shape)

    @torch.no_grad()
    def update(self, mean, var):
        self.num_batches_tracked += 1
        if self.momentum is None:
            count = self.num_batches_tracked
            self.running_mean.mul_((count - 1) / count).add_(mean / count)
            self.running_var.mul_((count - 1) / count).add_(var / count)
        else:
            self.running_mean.mul_(1 - self.momentum).add_(mean, alpha=self.momentum)
            self.running_var.mul_(1 - self.momentum).add_(var, alpha=self.momentum)


@rejected("BatchNorm1d", by=("test_training", "test_sequence"), says="biased")
def normalised_by_the_unbiased(reference: str) -> str:
    return reference.replace("correction=0)", "correction=1)").replace(
        "var * values / (values - 1)", "var"
    )


@rejected("BatchNorm1d", by="test_running_statistics", says="unbiased one")
def biased_in_running_var(reference: str) -> str:
    return reference.replace("unbiased = var * values / (values - 1)", "unbiased = var")


@rejected("BatchNorm1d", by="test_running_statistics", says="weight of the new value")
def momentum_swapped(reference: str) -> str:
    return reference.replace("else self.momentum\n", "else 1 - self.momentum\n")


@rejected("BatchNorm1d", by="test_gradient", says="count as constants")
def statistics_detached(reference: str) -> str:
    return reference.replace(
        "torch.var_mean(x, axes, correction=0)", "torch.var_mean(x.detach(), axes, correction=0)"
    )


@rejected("BatchNorm1d", by="test_gradient")
def variance_detached(reference: str) -> str:
    return reference.replace("correction=0)\n", "correction=0)\n            var = var.detach()\n")


@rejected("BatchNorm1d", by="test_sequence", says="seq axis too")
class EveryStepOnItsOwn(BatchNorm1d):
    def forward(self, x):
        if x.dim() == 2 or not self.training:
            return super().forward(x)
        mean, var = x.mean(0), x.var(0, correction=0)
        with torch.no_grad():
            super().forward(x)
        y = (x - mean) / (var + self.eps).sqrt()
        return y * self.weight[:, None] + self.bias[:, None]


@rejected("BatchNorm1d", by="test_sequence")
class LastAxisIsTheChannel(BatchNorm1d):
    def forward(self, x):
        if x.dim() == 2:
            return super().forward(x)
        return super().forward(x.reshape(-1, x.shape[1])).reshape(x.shape)


@rejected("BatchNorm1d", by="test_evaluation_learns_nothing", says="learns nothing")
class LearnsInEval(BatchNorm1d):
    def forward(self, x):
        if self.training:
            return super().forward(x)
        out = super().forward(x)
        self.train()
        with torch.no_grad():
            super().forward(x)
        self.eval()
        return out


@rejected(
    "BatchNorm1d",
    by=("test_evaluation", "test_single_value_in_evaluation"),
    says="rest of the batch",
)
class BatchStatisticsAlways(BatchNorm1d):
    def forward(self, x):
        if self.training:
            return super().forward(x)
        axes = [axis for axis in range(x.dim()) if axis != 1]
        var, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
        size = (1, -1, 1)[: x.dim()]
        return (x - mean) / (var + self.eps).sqrt() * self.weight.view(size) + self.bias.view(size)


@rejected("BatchNorm1d", by="test_training", says="not the running ones")
class RunningStatisticsAlways(BatchNorm1d):
    def forward(self, x):
        with torch.no_grad():
            before = self.running_mean.clone(), self.running_var.clone()
            if self.training:
                super().forward(x)
        size = (1, -1, 1)[: x.dim()]
        mean, var = (value.view(size) for value in before)
        return (x - mean) / (var + self.eps).sqrt() * self.weight.view(size) + self.bias.view(size)


@rejected("BatchNorm1d", by="test_training", says="outside the root")
def eps_outside(reference: str) -> str:
    return reference.replace("torch.sqrt(var + self.eps)", "(torch.sqrt(var) + self.eps)")


@rejected("BatchNorm1d", by="test_training", says="left out")
def without_weight_and_bias(reference: str) -> str:
    return reference.replace("scale = self.weight /", "scale = 1 /").replace(
        " + self.bias.view(shape)", ""
    )


@rejected("BatchNorm1d", by="test_training")
def normalised_over_the_features(reference: str) -> str:
    return reference.replace(
        "var, mean = torch.var_mean(x, axes, correction=0)",
        "var, mean = torch.var_mean(x, axes, correction=0)\n"
        "            x = x - x.mean(1, keepdim=True)",
    )


@rejected("BatchNorm1d", by="test_momentum_none", says="momentum 0.1")
def none_is_a_tenth(reference: str) -> str:
    return reference.replace("1 / self.num_batches_tracked if", "0.1 if")


@rejected("BatchNorm1d", by="test_momentum_none", says="counts as a batch")
def the_start_counts(reference: str) -> str:
    return reference.replace(
        "1 / self.num_batches_tracked if", "1 / (self.num_batches_tracked + 1) if"
    )


@rejected("BatchNorm1d", by="test_momentum_zero", says="0 is not None")
def zero_is_none(reference: str) -> str:
    return reference.replace("if self.momentum is None else", "if not self.momentum else")


@rejected("BatchNorm1d", by=("test_running_statistics", "test_momentum_none"), says="num_batches")
def counts_nothing(reference: str) -> str:
    return reference.replace(
        "self.num_batches_tracked += 1\n",
        "self.batches = getattr(self, 'batches', 0) + 1\n",
    ).replace("1 / self.num_batches_tracked if", "1 / self.batches if")


@rejected("BatchNorm1d", by="test_single_value_in_training", says="nothing was raised")
def a_single_value_goes_through(reference: str) -> str:
    return reference.replace("if values == 1:", "if values == 0:").replace(
        "values / (values - 1)", "values / max(values - 1, 1)"
    )


@rejected("BatchNorm1d", by="test_single_value_in_training")
def only_one_sample_is_looked_at(reference: str) -> str:
    return reference.replace("if values == 1:", "if x.shape == (1, x.shape[1]):").replace(
        "values / (values - 1)", "values / max(values - 1, 1)"
    )


@rejected("BatchNorm1d", by="test_sequence", says="single value")
def one_sample_is_refused(reference: str) -> str:
    return reference.replace("if values == 1:", "if len(x) == 1:")


@rejected("BatchNorm1d", by="test_single_value_in_evaluation")
def refused_in_evaluation_too(reference: str) -> str:
    return reference.replace(
        "        if self.training:\n            values",
        "        if x.numel() == x.shape[1]:\n            raise ValueError('one value')\n"
        "        if self.training:\n            values",
    )


@rejected("BatchNorm1d", by="test_buffers_without_a_graph", says="graph")
class KeepsTheGraph(BatchNorm1d):
    def forward(self, x):
        if self.training:
            old = self.running_mean
            out = super().forward(x)
            axes = [axis for axis in range(x.dim()) if axis != 1]
            m = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean = old.detach() * 0 + self.running_mean + 0 * m * x.mean(axes)
            return out
        return super().forward(x)


@rejected("BatchNorm1d", by="test_buffers_without_a_graph", says="register_buffer")
class PlainAttributes(BatchNorm1d):
    def __init__(self, features, eps=1e-5, momentum=0.1):
        super().__init__(features, eps, momentum)
        for name in ("running_mean", "running_var"):
            value = getattr(self, name)
            delattr(self, name)
            setattr(self, name, value)


@rejected("BatchNorm1d", by="test_state_dict", says="missing")
def not_in_the_state_dict(reference: str) -> str:
    return reference.replace(
        '("running_mean", torch.zeros(features))',
        '("running_mean", torch.zeros(features), persistent=False)',
    )


@rejected("BatchNorm1d", by="test_state_dict")
class StatisticsAreParameters(BatchNorm1d):
    def __init__(self, features, eps=1e-5, momentum=0.1):
        super().__init__(features, eps, momentum)
        del self.running_mean
        self.running_mean = nn.Parameter(torch.zeros(features), requires_grad=False)


@rejected("BatchNorm1d", by="test_state_dict", says="num_batches_tracked")
def a_count_in_float(reference: str) -> str:
    return reference.replace("torch.tensor(0))", "torch.tensor(0.0))")


@rejected("BatchNorm1d", by="test_state_dict")
def the_variance_starts_at_zero(reference: str) -> str:
    return reference.replace('("running_var", torch.ones(', '("running_var", torch.zeros(')


@rejected("BatchNorm1d", by="test_large_mean", says="loses all digits")
def square_of_the_mean(reference: str) -> str:
    return reference.replace(
        "var, mean = torch.var_mean(x, axes, correction=0)",
        "mean = x.mean(axes)\n            var = ((x * x).mean(axes) - mean * mean).clamp_min(0)",
    )


@rejected("BatchNorm1d", by="test_forbidden", says="write it out")
class ByFunctionalBatchNorm(BatchNorm1d):
    def forward(self, x):
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum or 0.0,
            self.eps,
        )


@rejected("BatchNorm1d", by="test_forbidden")
class Inherited(nn.BatchNorm1d):
    pass


# --- 4 ------------------------------------------------------------------------------------------


def eval_before(module, args):
    module.train(False)


def stay(module, mode=True):
    return nn.Module.train(module, False)


@accepted("freeze_backbone")
def freeze(module):
    for child in module.modules():
        child.register_forward_pre_hook(eval_before)
    for parameter in module.parameters():
        parameter.requires_grad = False
    return module


@accepted("freeze_backbone")
def freeze(module):  # noqa: F811
    module.eval()
    module.requires_grad_(False)
    module.train = functools.partial(stay, module)
    return module


@accepted("freeze_backbone")
def freeze(module):  # noqa: F811
    module.eval()
    for child in module.modules():
        child.train = functools.partial(stay, child)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    return module


class StaysInEval:
    """A callable of a class at the level of the file is found by pickle as well."""

    def __call__(self, module, args):
        for child in module.modules():
            child.training = False


@accepted("freeze_backbone")
def freeze(module):  # noqa: F811
    module.requires_grad_(False)
    module.register_forward_pre_hook(StaysInEval())
    return module.eval()


def forward_in_eval(module, *args, **kwargs):
    module.eval()
    return type(module).forward(module, *args, **kwargs)


@accepted("freeze_backbone")
def freeze(module):  # noqa: F811
    module.forward = functools.partial(forward_in_eval, module)
    return module.requires_grad_(False)


@rejected("freeze_backbone", by=("test_statistics", "test_dropout", "test_computes_as_in_eval"))
def freeze(module):  # noqa: F811
    return module.requires_grad_(False)


@rejected("freeze_backbone", by="test_statistics", says="model.train() put it back")
def freeze(module):  # noqa: F811
    return module.requires_grad_(False).eval()


@rejected("freeze_backbone", by="test_no_gradients", says="not about gradients")
def freeze(module):  # noqa: F811
    module.register_forward_pre_hook(eval_before)
    return module


@rejected("freeze_backbone", by="test_state_dict", says="keys")
def freeze(module):  # noqa: F811
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    module.register_forward_pre_hook(eval_before)
    return module.requires_grad_(False)


@rejected("freeze_backbone", by="test_other_modules", says="whole class")
def freeze(module):  # noqa: F811
    for child in module.modules():
        type(child).train = stay
        child.eval()
    return module.requires_grad_(False)


@rejected("freeze_backbone", by="test_pickle", says="lambda")
def freeze(module):  # noqa: F811
    module.train = lambda mode=True: nn.Module.train(module, False)
    return module.requires_grad_(False).eval()


@rejected("freeze_backbone", by=("test_pickle",), says="lambda")
def freeze(module):  # noqa: F811
    module.register_forward_pre_hook(lambda m, args: m.eval() and None)
    return module.requires_grad_(False)


@rejected("freeze_backbone", by=("test_pickle",))
def freeze(module):  # noqa: F811
    module.train = types.MethodType(stay, module)
    return module.requires_grad_(False).eval()


@rejected("freeze_backbone", by=("test_deep_copy", "test_pickle"), says="deep copy")
def freeze(module):  # noqa: F811
    def to_eval(m, args):
        module.eval()

    module.register_forward_pre_hook(to_eval)
    return module.requires_grad_(False)


frozen = set()


def eval_if_known(module, args):
    if id(module) in frozen:
        module.eval()


@rejected("freeze_backbone", by=("test_deep_copy", "test_pickle"))
def freeze(module):  # noqa: F811
    frozen.add(id(module))
    module.register_forward_pre_hook(eval_if_known)
    return module.requires_grad_(False)


@rejected("freeze_backbone", by="test_computes_as_in_eval", says="normalises by the batch")
def freeze(module):  # noqa: F811
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.momentum = 0.0
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return module.requires_grad_(False)


@rejected("freeze_backbone", by="test_dropout", says="dropout is on")
def freeze(module):  # noqa: F811
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.register_forward_pre_hook(eval_before)
    return module.requires_grad_(False)


@rejected("freeze_backbone", by="test_single_layer")
def freeze(module):  # noqa: F811
    for child in module.children():
        child.register_forward_pre_hook(eval_before)
    return module.requires_grad_(False)


def cut(module, args, out):
    return out.detach()


@rejected("freeze_backbone", by="test_gradients_pass", says="no gradient gets through")
def freeze(module):  # noqa: F811
    module.register_forward_pre_hook(eval_before)
    module.register_forward_hook(cut)
    return module.requires_grad_(False)


@rejected("freeze_backbone", by="test_returns_the_module", says="came back")
def freeze(module):  # noqa: F811
    module.register_forward_pre_hook(eval_before)
    module.requires_grad_(False)


@rejected("freeze_backbone", by="test_returns_the_module", says="in place")
def freeze(module):  # noqa: F811
    module = copy.deepcopy(module)
    module.register_forward_pre_hook(eval_before)
    return module.requires_grad_(False)


def stays(module):
    return module


@rejected("freeze_backbone", by="test_eval_of_the_parent")
def freeze(module):  # noqa: F811
    module.eval()
    module.train = functools.partial(stays, module)
    return module.requires_grad_(False)


@rejected("freeze_backbone", by="test_head_still_trains", says="of the head")
def freeze(module):  # noqa: F811
    torch.nn.modules.module.register_module_forward_pre_hook(eval_all)
    return module.requires_grad_(False)


def eval_all(module, args):
    for child in module.modules():
        child.training = False


# --- 5 ------------------------------------------------------------------------------------------

DROPOUTS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)


@accepted("mc_dropout_and_bn_recalibration")
@torch.no_grad()
def mc_predict(model, x, n):
    """One batched forward."""
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        for m, _ in modes:
            if isinstance(m, DROPOUTS):
                m.training = True
        logits = model(x.repeat(n, *[1] * (x.dim() - 1)))
    finally:
        for m, mode in modes:
            m.training = mode
    passes = logits.softmax(-1).view(n, x.shape[0], -1)
    return passes.mean(0), passes.std(0, correction=1)


@accepted("mc_dropout_and_bn_recalibration")
@torch.inference_mode()
def mc_predict(model, x, n):  # noqa: F811
    """By class name, interleaved, with the variance written out."""
    modes = {name: m.training for name, m in model.named_modules()}
    try:
        for m in model.modules():
            m.training = type(m).__name__.rstrip("123d").endswith("Dropout")
        logits = model(x.repeat_interleave(n, 0))
    finally:
        for name, m in model.named_modules():
            m.training = modes[name]
    passes = F.softmax(logits, dim=-1).reshape(len(x), n, -1)
    mean = passes.sum(1) / n
    return mean, (((passes - mean[:, None]) ** 2).sum(1) / (n - 1)).sqrt()


@accepted("mc_dropout_and_bn_recalibration")
def mc_predict(model, x, n):  # noqa: F811
    """Running sums, on a copy of the model."""
    twin = copy.deepcopy(model).eval()
    for m in twin.modules():
        if isinstance(m, DROPOUTS):
            m.train()
    total, squares = 0.0, 0.0
    with torch.no_grad():
        for _ in range(n):
            p = torch.softmax(twin(x), dim=-1)
            total, squares = total + p, squares + p * p
    mean = total / n
    return mean, ((squares - n * mean**2).clamp_min(0) / (n - 1)).sqrt()


@accepted("mc_dropout_and_bn_recalibration")
def mc_predict(model, x, n):  # noqa: F811
    """Every pass at once, by vmap."""
    before = {m: m.training for m in model.modules()}
    try:
        for m in before:
            m.training = isinstance(m, DROPOUTS)
        with torch.no_grad():
            passes = torch.vmap(lambda _: model(x), randomness="different")(torch.arange(n))
    finally:
        for m in before:
            m.training = before[m]
    passes = passes.softmax(-1)
    return passes.mean(0), passes.std(0)


@accepted("mc_dropout_and_bn_recalibration")
def recalibrate_bn(model, loader):
    """Momentum 1 / k in the k-th batch."""
    modes = {m: m.training for m in model.modules()}
    norms = {
        m: m.momentum
        for m in modes
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d))
    }
    try:
        for m in modes:
            m.training = m in norms
        with torch.inference_mode(False), torch.no_grad():
            for k, (x, _) in enumerate(loader, start=1):
                for m in norms:
                    m.momentum = 1 / k
                model(x)
    finally:
        for m, momentum in norms.items():
            m.momentum = momentum
        for m, mode in modes.items():
            m.training = mode


def remember(store, layer, args):
    values = args[0].detach().transpose(0, 1).flatten(1)
    store[layer].append((values.mean(1), values.var(1)))


@accepted("mc_dropout_and_bn_recalibration")
def recalibrate_bn(model, loader):  # noqa: F811
    """By hooks, and an average at the end."""
    modes = {m: m.training for m in model.modules()}
    store = {m: [] for m in modes if "BatchNorm" in type(m).__name__}
    momenta = {m: m.momentum for m in store}
    handles = [m.register_forward_pre_hook(functools.partial(remember, store)) for m in store]
    try:
        for m in modes:
            m.training = m in store
        with torch.no_grad():
            for x, _ in loader:
                model(x)
    finally:
        for handle in handles:
            handle.remove()
        for m, mode in modes.items():
            m.training = mode
        for m, momentum in momenta.items():
            m.momentum = momentum
    for m, seen in store.items():
        m.running_mean.copy_(torch.stack([mean for mean, _ in seen]).mean(0))
        m.running_var.copy_(torch.stack([var for _, var in seen]).mean(0))


@accepted("mc_dropout_and_bn_recalibration")
def recalibrate_bn(model, loader):  # noqa: F811
    """With gradients on, which changes nothing."""
    modes = {m: m.training for m in model.modules()}
    norms = [m for m in modes if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [m.momentum for m in norms]
    model.eval()
    try:
        for m in norms:
            m.reset_running_stats()
            m.momentum = None
            m.train()
        for batch in loader:
            model(batch[0])
    finally:
        for m, momentum in zip(norms, before):
            m.momentum = momentum
        for m in modes:
            m.training = modes[m]


DROPS = """\
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.train()
"""


@rejected(
    "mc_dropout_and_bn_recalibration",
    by=("test_mc_statistics", "test_mc_without_dropout"),
    says="only dropout is to be",
)
def everything_in_training(reference: str) -> str:
    return reference.replace(DROPS, "            module.train()\n")


@rejected("mc_dropout_and_bn_recalibration", by="test_mc_without_dropout", says="other modules")
def all_but_batch_norm_in_training(reference: str) -> str:
    return reference.replace(
        DROPS,
        DROPS.replace(
            "if isinstance(module, nn.modules.dropout._DropoutNd)",
            "if not isinstance(module, nn.modules.batchnorm._BatchNorm)",
        ),
    )


@rejected(
    "mc_dropout_and_bn_recalibration", by=("test_mc_mean", "test_mc_std"), says="no module drops"
)
def everything_in_eval(reference: str) -> str:
    return reference.replace(DROPS, "            pass\n")


@rejected("mc_dropout_and_bn_recalibration", by="test_mc_every_dropout", says="not active")
def only_the_class_dropout(reference: str) -> str:
    return reference.replace("nn.modules.dropout._DropoutNd", "nn.Dropout")


@rejected("mc_dropout_and_bn_recalibration", by="test_mc_mean", says="softmax of the mean logits")
def softmax_of_the_mean(reference: str) -> str:
    return reference.replace("[model(x).softmax(-1) for", "[model(x) for").replace(
        "return passes.mean(0), passes.std(0)",
        "return passes.mean(0).softmax(-1), passes.softmax(-1).std(0)",
    )


@rejected("mc_dropout_and_bn_recalibration", by=("test_mc_mean", "test_mc_std"), says="logits")
def of_the_logits(reference: str) -> str:
    return reference.replace("[model(x).softmax(-1) for", "[model(x) for")


@rejected("mc_dropout_and_bn_recalibration", by="test_mc_mean")
def softmax_over_the_batch(reference: str) -> str:
    return reference.replace("model(x).softmax(-1)", "model(x).softmax(0)")


@rejected("mc_dropout_and_bn_recalibration", by="test_mc_mean", says="draws anew")
def one_pass_n_times(reference: str) -> str:
    return reference.replace(
        "[model(x).softmax(-1) for _ in range(n)]", "[model(x).softmax(-1)] * n"
    )


@rejected("mc_dropout_and_bn_recalibration", by="test_mc_mean")
def one_pass_too_many(reference: str) -> str:
    return reference.replace("range(n)]", "range(n + 1)]")


@rejected("mc_dropout_and_bn_recalibration", by="test_mc_std", says="divided by n")
def population(reference: str) -> str:
    return reference.replace("passes.std(0)", "passes.std(0, correction=0)")


@rejected("mc_dropout_and_bn_recalibration", by="test_mc_std", says="variance")
def variance(reference: str) -> str:
    return reference.replace("passes.std(0)", "passes.var(0)")


@rejected("mc_dropout_and_bn_recalibration", by="test_mc_std")
def standard_error(reference: str) -> str:
    return reference.replace("passes.std(0)", "passes.std(0) / n**0.5")


PREDICT = "    return passes.mean(0), passes.std(0)"
RESTORE = "        for module, mode in modes.items():\n            module.training = mode\n"


@rejected("mc_dropout_and_bn_recalibration", by="test_mc_modes", says="own mode")
def predicted_and_left_in_eval(reference: str) -> str:
    return reference.replace(PREDICT, "    model.eval()\n" + PREDICT)


@rejected("mc_dropout_and_bn_recalibration", by="test_mc_modes")
def predicted_and_left_in_training(reference: str) -> str:
    return reference.replace(PREDICT, "    model.train()\n" + PREDICT)


@rejected("mc_dropout_and_bn_recalibration", by="test_mc_modes_after_an_exception")
def mc_without_finally(reference: str) -> str:
    head, tail = reference.split("def mc_predict")
    return (
        head
        + "def mc_predict"
        + tail.replace("    finally:", "    except ZeroDivisionError:\n        pass\n    else:", 1)
    )


@rejected("mc_dropout_and_bn_recalibration", by="test_mc_without_a_graph", says="graph")
def mc_with_gradients(reference: str) -> str:
    head, tail = reference.split("def mc_predict")
    return head + "def mc_predict" + tail.replace("torch.no_grad", "torch.enable_grad", 1)


@rejected("mc_dropout_and_bn_recalibration", by="test_momentum_is_restored", says="afterwards")
def momentum_stays_none(reference: str) -> str:
    return reference.replace("layer.momentum = momentum\n", "pass\n")


@rejected("mc_dropout_and_bn_recalibration", by="test_momentum_is_restored")
def one_momentum_for_all(reference: str) -> str:
    return reference.replace("layer.momentum = momentum\n", "layer.momentum = 0.1\n")


@rejected(
    "mc_dropout_and_bn_recalibration",
    by="test_recalibrated_without_dropout",
    says="training mode",
)
def with_dropout_on(reference: str) -> str:
    head, tail = reference.split("def recalibrate_bn")
    return head + "def recalibrate_bn" + tail.replace("model.eval()", "model.train()")


@rejected("mc_dropout_and_bn_recalibration", by="test_recalibrated")
def without_a_reset(reference: str) -> str:
    return reference.replace("            layer.reset_running_stats()\n", "")


@rejected("mc_dropout_and_bn_recalibration", by="test_recalibrated", says="momentum 0.1")
def with_momentum(reference: str) -> str:
    return reference.replace("layer.momentum = None", "layer.momentum = 0.1")


@rejected("mc_dropout_and_bn_recalibration", by="test_recalibrated", says="last batch")
def the_last_batch_only(reference: str) -> str:
    return reference.replace("layer.momentum = None", "layer.momentum = 1.0")


@rejected("mc_dropout_and_bn_recalibration", by=("test_recalibrated", "test_sick_net"))
def resets_only(reference: str) -> str:
    return reference.replace(
        "                model(x)\n    finally:\n        for layer",
        "                pass\n    finally:\n        for layer",
    )


@rejected("mc_dropout_and_bn_recalibration", by="test_recalibrated", says="all samples at once")
def recalibrate_bn(model, loader):  # noqa: F811
    recalibrated(model, [(torch.cat([x for x, _ in loader]), None)])


recalibrated = recalibrate_bn


@rejected("mc_dropout_and_bn_recalibration", by="test_recalibrated", says="biased variances")
def recalibrate_bn(model, loader):  # noqa: F811
    recalibrated(model, loader)
    n = len(loader[0][0])
    for m in model.modules():
        if isinstance(m, nn.BatchNorm1d):
            m.running_var.mul_((n - 1) / n)


@rejected("mc_dropout_and_bn_recalibration", by="test_batches_count_the_same", says="weighted")
def recalibrate_bn(model, loader):  # noqa: F811
    recalibrated(model, [batch for batch in loader for _ in range(len(batch[0]))])


@rejected("mc_dropout_and_bn_recalibration", by="test_recalibrated_in_2d", says="BatchNorm too")
def only_one_dimension(reference: str) -> str:
    return reference.replace("nn.modules.batchnorm._BatchNorm", "nn.BatchNorm1d")


@rejected(
    "mc_dropout_and_bn_recalibration",
    by="test_recalibration_changes_no_parameter",
    says="reset_parameters",
)
def resets_the_parameters(reference: str) -> str:
    return reference.replace("layer.reset_running_stats()", "layer.reset_parameters()")


@rejected("mc_dropout_and_bn_recalibration", by="test_recalibration_modes", says="own mode")
def recalibrated_left_in_eval(reference: str) -> str:
    head, tail = reference.split("def recalibrate_bn")
    return head + "def recalibrate_bn" + tail.replace(RESTORE, "        model.eval()\n")


@rejected("mc_dropout_and_bn_recalibration", by="test_recalibration_after_an_exception")
def recalibrated_without_finally(reference: str) -> str:
    head, tail = reference.split("def recalibrate_bn")
    return (
        head
        + "def recalibrate_bn"
        + tail.replace("    finally:", "    except ZeroDivisionError:\n        pass\n    else:", 1)
    )


@rejected("mc_dropout_and_bn_recalibration", by="test_sick_net", says="the weights are fine")
def does_nothing(reference: str) -> str:
    head, tail = reference.split("def recalibrate_bn")
    return head + "def recalibrate_bn" + tail.replace("    modes =", "    return\n    modes =")
