"""Answers to day 15 that its suite must accept or reject."""

import copy
import math

import numpy as np
import torch
from nan_hunting import *
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from grader.answers import accepted, rejected

# --- 1 ------------------------------------------------------------------------------------------


@accepted("stable_zoo")
def safe_norm(x, dim):
    """In float64, where the squares fit."""
    return x.double().norm(dim=dim).to(x.dtype)


@accepted("stable_zoo")
def safe_norm(x, dim):
    """torch's norm of what was scaled, in the tensor's own dtype."""
    largest = torch.linalg.vector_norm(x.detach(), ord=math.inf, dim=dim, keepdim=True)
    largest = largest.masked_fill(largest == 0, 1)
    return torch.linalg.vector_norm(x / largest, dim=dim) * largest.squeeze(dim)


@accepted("stable_zoo")
def safe_norm(x, dim):
    """The scale keeps its graph; what flows through it cancels."""
    wide = x if x.dtype == torch.float64 else x.float()
    m = wide.abs().max(dim=dim, keepdim=True).values
    m = torch.where(m == 0, torch.ones_like(m), m)
    s = ((wide / m) ** 2).sum(dim=dim, keepdim=True)
    zero = s == 0
    root = torch.where(zero, torch.zeros_like(s), torch.where(zero, torch.ones_like(s), s).sqrt())
    return (root * m).squeeze(dim).to(x.dtype)


class RootFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        root = x.sqrt()
        ctx.save_for_backward(root)
        return root

    @staticmethod
    def backward(ctx, upstream):
        (root,) = ctx.saved_tensors
        return torch.where(root > 0, upstream / (2 * root), torch.zeros_like(root))


@accepted("stable_zoo")
def safe_sqrt(x):
    """A Function with a backward of its own."""
    return RootFunction.apply(x)


@accepted("stable_zoo")
def safe_sqrt(x):
    """By an index."""
    result = torch.zeros_like(x)
    return result.masked_scatter(x > 0, x[x > 0].sqrt()) if x.device.type != "meta" else result


@accepted("stable_zoo")
def safe_sqrt(x):
    """masked_fill before and after."""
    zero = x <= 0
    return x.masked_fill(zero, 1).sqrt().masked_fill(zero, 0)


@accepted("stable_zoo")
def log1mexp(x):
    """Split at -1, with ones_like."""
    near = x > -1
    one = torch.ones_like(x)
    a = torch.log(-torch.expm1(torch.where(near, x, -one)))
    b = torch.log1p(-torch.exp(torch.where(near, -2 * one, x)))
    return torch.where(near, a, b)


@accepted("stable_zoo")
def log1mexp(x):
    """Clamps are safe inputs too."""
    split = -0.6931
    near = (-torch.expm1(x.clamp(min=split))).log()
    far = torch.log1p(-x.clamp(max=split).exp())
    return torch.where(x > split, near, far)


@accepted("stable_zoo")
def masked_softmax(x, mask, dim):
    """The smallest number of the dtype as a fill, and zeros afterwards."""
    scores = x.masked_fill(~mask, torch.finfo(x.dtype).min)
    return scores.softmax(dim).masked_fill(~mask, 0)


@accepted("stable_zoo")
def masked_softmax(x, mask, dim):
    """By hand: shift, exp, divide."""
    mask = torch.broadcast_to(mask, x.shape)
    top = torch.where(mask, x.detach(), torch.finfo(x.dtype).min).amax(dim, keepdim=True)
    shifted = torch.where(mask, x - top, torch.zeros_like(x))
    terms = torch.where(mask, shifted.exp(), torch.zeros_like(x))
    total = terms.sum(dim=dim, keepdim=True)
    return terms / total.masked_fill(total == 0, 1)


@accepted("stable_zoo")
def masked_softmax(x, mask, dim):
    """By the sister function."""
    lse = masked_logsumexp(x, mask, dim).unsqueeze(dim)
    lse = torch.where(torch.isinf(lse), torch.zeros_like(lse), lse)
    kept = torch.where(mask, x - lse, torch.zeros_like(x))
    return torch.where(mask, kept.exp(), torch.zeros_like(x))


@accepted("stable_zoo")
def masked_logsumexp(x, mask, dim):
    """By hand: shift, sum, log."""
    mask = mask.broadcast_to(x.shape)
    low = torch.finfo(x.dtype).min
    filled = torch.where(mask, x, torch.full_like(x, low))
    top = filled.detach().amax(dim, keepdim=True)
    total = torch.where(mask, (filled - top).exp(), torch.zeros_like(x)).sum(dim)
    some = total > 0
    log = torch.where(some, total, torch.ones_like(total)).log() + top.squeeze(dim)
    return torch.where(some, log, torch.full_like(log, -math.inf))


@accepted("stable_zoo")
def masked_logsumexp(x, mask, dim):
    """A large negative fill, and the empty rows set at the end."""
    filled = x.masked_fill(~mask, torch.finfo(x.dtype).min)
    empty = ~mask.expand_as(x).any(dim)
    return torch.where(empty, -math.inf, torch.logsumexp(filled, dim))


@accepted("stable_zoo")
def safe_acos(x):
    """atan2 of the leg, which is (1 - x)(1 + x) under a safe root."""
    return torch.atan2(safe_sqrt((1 - x) * (1 + x)), x)


@accepted("stable_zoo")
def safe_acos(x):
    """Constants at the border."""
    inside = x.abs() < 1
    edge = torch.where(x > 0, torch.zeros_like(x), torch.full_like(x, math.pi))
    return torch.where(inside, torch.acos(torch.where(inside, x, torch.zeros_like(x))), edge)


@rejected("stable_zoo", by="test_singular_points", says="still differentiated")
def safe_sqrt(x):
    """A single where."""
    return torch.where(x > 0, x.sqrt(), 0)


@rejected("stable_zoo", by="test_singular_points", says="expected 0")
def safe_sqrt(x):
    """torch's own root."""
    return x.sqrt()


@rejected("stable_zoo", by="test_precision", says="eps")
def safe_sqrt(x):
    """An eps under the root."""
    return (x + 1e-12).sqrt()


@rejected("stable_zoo", by=("test_interior_gradients", "test_precision"), says="clamp")
def safe_sqrt(x):
    """A clamp."""
    return x.clamp(min=1e-12).sqrt()


@rejected("stable_zoo", by="test_singular_points", says="infinite derivative")
def safe_norm(x, dim):
    """Scaled, under a bare root."""
    largest = x.detach().abs().amax(dim, keepdim=True)
    scale = torch.where(largest > 0, largest, 1)
    return (x / scale).square().sum(dim).sqrt() * scale.squeeze(dim)


@rejected("stable_zoo", by=("test_norm_of_any_magnitude", "test_precision"), says="largest entry")
def safe_norm(x, dim):
    """No scaling."""
    return safe_sqrt((x * x).sum(dim))


@rejected("stable_zoo", by=("test_norm_of_any_magnitude", "test_precision"), says="largest entry")
def safe_norm(x, dim):
    """torch's own norm."""
    return x.norm(dim=dim)


@rejected("stable_zoo", by=("test_norm_of_any_magnitude", "test_precision"), says="largest entry")
def safe_norm(x, dim):
    """An eps beside the squares."""
    return ((x * x).sum(dim) + 1e-12).sqrt()


@rejected("stable_zoo", by="test_precision", says="relative error")
def log1mexp(x):
    """As it is written."""
    return torch.log(1 - torch.exp(x))


@rejected("stable_zoo", by="test_precision", says="relative error")
def log1mexp(x):
    """The form for small x everywhere."""
    return torch.log(-torch.expm1(x))


@rejected("stable_zoo", by="test_precision", says="relative error")
def log1mexp(x):
    """The form for far x everywhere."""
    return torch.log1p(-torch.exp(x))


@rejected("stable_zoo", by="test_half_precision", says="log1mexp")
def log1mexp(x):
    """Two good branches, and where over both of them."""
    near, far = torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x))
    return torch.where(x > -0.6931, near, far)


@rejected("stable_zoo", by="test_half_precision", says="65504")
def masked_softmax(x, mask, dim):
    """-1e9 is no float16."""
    return x.masked_fill(~mask, -1e9).softmax(dim) * mask.any(dim, keepdim=True)


@rejected("stable_zoo", by="test_empty_rows", says="uniform")
def masked_softmax(x, mask, dim):
    """A large negative fill, and nothing for the empty rows."""
    return torch.where(mask, x, torch.finfo(x.dtype).min).softmax(dim)


@rejected("stable_zoo", by="test_empty_rows", says="-inf alone")
def masked_softmax(x, mask, dim):
    """Nothing for the empty rows."""
    return x.masked_fill(~mask, -torch.inf).softmax(dim)


@accepted("stable_zoo")
def masked_softmax(x, mask, dim):
    """The nan is picked away in the end, and masked_fill cuts its gradient."""
    weights = x.masked_fill(~mask, -torch.inf).softmax(dim)
    return torch.where(mask, weights, 0)


@rejected("stable_zoo", by="test_empty_rows", says="still differentiated")
def masked_softmax(x, mask, dim):
    """The mask is added, so the gradient of the nan row has a way back."""
    weights = (x + torch.where(mask, 0.0, -torch.inf).to(x.dtype)).softmax(dim)
    return torch.where(mask, weights, 0)


@rejected("stable_zoo", by="test_masked_entries", says="exactly 0")
def masked_softmax(x, mask, dim):
    """Softmax over everything, then the mask."""
    weights = x.softmax(dim) * mask
    total = weights.sum(dim, keepdim=True)
    return weights / torch.where(total > 0, total, 1)


@rejected("stable_zoo", by="test_no_nan_to_num", says="where the nan came from")
def masked_softmax(x, mask, dim):
    """The cause is hidden."""
    return x.masked_fill(~mask, -torch.inf).softmax(dim).nan_to_num(0)


@rejected("stable_zoo", by="test_values", says="inverted")
def masked_softmax(x, mask, dim):
    """True removes."""
    return torch.where(mask, 0, x.masked_fill(mask, -1e4).softmax(dim))


@rejected("stable_zoo", by="test_smaller_masks", says="out of range")
def masked_softmax(reference: str) -> str:
    return reference.replace("    mask = mask.expand_as(x)\n", "")


@rejected("stable_zoo", by="test_arguments", says="changed")
def masked_softmax(x, mask, dim):
    """In place."""
    empty = ~mask.expand_as(x).any(dim, keepdim=True)
    scores = x.detach().masked_fill_(~mask, -torch.inf).masked_fill(empty, 0)
    return torch.where(mask, scores.softmax(dim), 0)


@accepted("stable_zoo")
def masked_logsumexp(x, mask, dim):
    """The gradient of an all -inf row is nan, and masked_fill cuts it."""
    return x.masked_fill(~mask, -torch.inf).logsumexp(dim)


@rejected("stable_zoo", by="test_empty_rows", says="still differentiated")
def masked_logsumexp(x, mask, dim):
    """The mask is added, so the gradient of the -inf row has a way back."""
    return (x + torch.where(mask, 0.0, -torch.inf).to(x.dtype)).logsumexp(dim)


@rejected("stable_zoo", by="test_empty_rows", says="expected -inf")
def masked_logsumexp(x, mask, dim):
    """A large negative number is not -inf."""
    return x.masked_fill(~mask, -1e4).logsumexp(dim)


@rejected("stable_zoo", by="test_half_precision")
def masked_logsumexp(x, mask, dim):
    """Without a shift."""
    total = torch.where(mask, (x + 8).exp(), 0).sum(dim)
    some = total > 0
    return torch.where(some, torch.where(some, total, 1).log() - 8, -torch.inf)


@rejected("stable_zoo", by=("test_interior_gradients", "test_precision"), says="clamp")
def safe_acos(x):
    """A clamp inside the domain."""
    return x.clamp(-1 + 1e-6, 1 - 1e-6).acos()


@rejected("stable_zoo", by="test_singular_points", says="infinite there")
def safe_acos(x):
    """A clamp that changes nothing."""
    return x.clamp(-1, 1).acos()


@rejected("stable_zoo", by="test_singular_points", says="still differentiated")
def safe_acos(x):
    """A single where."""
    return torch.where(x.abs() < 1, x.acos(), x.detach().acos())


@rejected("stable_zoo", by="test_precision", says="nearly equal")
def safe_acos(x):
    """1 - x * x near 1."""
    return torch.atan2(safe_sqrt(1 - x * x), x)


# --- 2 ------------------------------------------------------------------------------------------


def tensors_in(value):
    if isinstance(value, torch.Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [t for part in value for t in tensors_in(part)]
    return []


@accepted("NanTracer")
class WithNestedClosures:
    """Recursion by hand, and two methods that look."""

    def __init__(self, model):
        self.model, self.report, self.hooks = model, [], []
        self.first_forward = self.first_backward = None

    def look(self, name, phase, tensors):
        largest, good = 0.0, True
        for t in tensors:
            t = t.detach()
            ok = torch.isfinite(t)
            good = good and ok.all().item()
            if ok.any():
                largest = max(largest, t[ok].abs().max().item())
        self.report.append((name, phase, largest, good))
        key = f"first_{phase}"
        if not good and getattr(self, key) is None:
            setattr(self, key, name)

    def __enter__(self):
        for name, module in self.model.named_modules():
            if any(True for _ in module.children()):
                continue

            def hook(module, args, output, name=name):
                found = tensors_in(output)
                self.look(name, "forward", found)
                for t in found:
                    if t.requires_grad:
                        self.hooks.append(
                            t.register_hook(lambda g, name=name: self.look(name, "backward", [g]))
                        )

            self.hooks.append(module.register_forward_hook(hook))
        return self

    def __exit__(self, kind, value, trace):
        while self.hooks:
            self.hooks.pop().remove()
        return False


class FromTheReport:
    """The first names are read off the report."""

    def __init__(self, model: nn.Module) -> None:
        self.leaves = {n: m for n, m in model.named_modules() if len(list(m.children())) == 0}
        self.report = []
        self._handles = []

    def _first(self, phase):
        return next((n for n, p, _, good in self.report if p == phase and not good), None)

    @property
    def first_forward(self):
        return self._first("forward")

    @property
    def first_backward(self):
        return self._first("backward")

    def _entry(self, name, phase, tensors):
        finite = [t.detach()[t.detach().isfinite()].abs() for t in tensors]
        top = max((float(t.max()) for t in finite if t.numel()), default=0.0)
        return name, phase, top, all(t.numel() == f.numel() for t, f in zip(tensors, finite))

    def __enter__(self):
        for name, leaf in self.leaves.items():
            self._handles.append(leaf.register_forward_hook(self._hook(name)))
        return self

    def _hook(self, name):
        def forward(module, inputs, output):
            tensors = tensors_in(output)
            self.report.append(self._entry(name, "forward", tensors))
            for t in tensors:
                if t.grad_fn is not None:
                    self._handles.append(t.register_hook(backward))

        def backward(gradient):
            self.report.append(self._entry(name, "backward", [gradient]))

        return forward

    def __exit__(self, *_):
        for handle in self._handles:
            handle.remove()


@accepted("NanTracer")
class ReadOffTheReport(FromTheReport):
    pass


@accepted("NanTracer")
def with_torch_flatten(reference: str) -> str:
    return reference.replace("tree_leaves(output)", "torch.utils._pytree.tree_flatten(output)[0]")


@rejected("NanTracer", by="test_forward_fault", says="last bad one")
def keeps_the_last(reference: str) -> str:
    return reference.replace(" and self.first_forward is None:", ":").replace(
        " and self.first_backward is None:", ":"
    )


@rejected("NanTracer", by="test_backward_fault", says="from the end")
def keeps_the_last_of_backward(reference: str) -> str:
    return reference.replace(" and self.first_backward is None:", ":")


@rejected("NanTracer", by=("test_inf_before_nan", "test_forward_fault"), says="became nan")
def looks_for_nan_only(reference: str) -> str:
    return reference.replace("good = bool(finite.all())", "good = not bool(flat.isnan().any())")


@rejected("NanTracer", by="test_hooks_removed", says="still holds a hook")
def leaves_its_hooks(reference: str) -> str:
    return reference.replace("            handle.remove()\n", "            pass\n")


@rejected("NanTracer", by="test_hooks_removed", says="output tensor still")
def leaves_the_hooks_of_tensors(reference: str) -> str:
    return reference.replace("                    self.handles.append(handle)\n", "")


@rejected("NanTracer", by="test_hooks_removed", says="the block raised")
def leaves_its_hooks_after_an_exception(reference: str) -> str:
    return reference.replace(
        "        for handle in self.handles:\n",
        "        if exception[0] is not None:\n            return\n"
        "        for handle in self.handles:\n",
    )


@rejected("NanTracer", by="test_hooks_removed", says="must not return True")
def swallows_exceptions(reference: str) -> str:
    return reference.replace(
        "        self.handles.clear()\n", "        self.handles.clear()\n        return True\n"
    )


@rejected("NanTracer", by="test_hooks_removed", says="there before")
def removes_the_hooks_of_others(reference: str) -> str:
    return reference.replace(
        "        self.handles.clear()\n",
        "        self.handles.clear()\n        for module in self.model.modules():\n"
        "            module._forward_hooks.clear()\n",
    )


@rejected("NanTracer", by="test_structures")
def tensors_alone(reference: str) -> str:
    return reference.replace("tree_leaves(output)", "[output]")


@rejected("NanTracer", by="test_structures")
def flat_tuples_alone(reference: str) -> str:
    return reference.replace(
        "tree_leaves(output)", "(output if isinstance(output, tuple) else (output,))"
    )


@rejected("NanTracer", by="test_leaf_names", says="container")
def names_containers(reference: str) -> str:
    return reference.replace(
        "            if not list(module.children()):\n                self.handles",
        "            if module is not self.model and '.' not in name:\n"
        "                self.handles",
    )


@rejected("NanTracer", by="test_leaf_names")
def names_of_the_last_part(reference: str) -> str:
    return reference.replace("self.forward_hook(name)", "self.forward_hook(name.split('.')[-1])")


@rejected("NanTracer", by="test_backward_fault", says="gradient of its *output*")
class GradientOfTheInput:
    """A full backward hook that looks at grad_input."""

    def __init__(self, model):
        self.model, self.report, self.handles = model, [], []
        self.first_forward = self.first_backward = None

    def look(self, name, phase, value):
        tensors = tensors_in(value)
        good = all(t.isfinite().all().item() for t in tensors)
        largest = max([t[t.isfinite()].abs().max().item() for t in tensors if good], default=0.0)
        self.report.append((name, phase, largest, good))
        if not good and getattr(self, f"first_{phase}") is None:
            setattr(self, f"first_{phase}", name)

    def __enter__(self):
        for name, module in self.model.named_modules():
            if not list(module.children()):
                self.handles += [
                    module.register_forward_hook(
                        lambda m, i, o, name=name: self.look(name, "forward", o)
                    ),
                    module.register_full_backward_hook(
                        lambda m, gi, go, name=name: self.look(name, "backward", gi)
                    ),
                ]
        return self

    def __exit__(self, *exception):
        for handle in self.handles:
            handle.remove()


@rejected("NanTracer", by="test_backward_fault", says="from the end")
class BackwardInTheOrderOfForward(FromTheReport):
    """The first in the order of the modules."""

    @property
    def first_backward(self):
        bad = {n for n, p, _, good in self.report if p == "backward" and not good}
        return next((name for name in self.leaves if name in bad), None)


@rejected("NanTracer", by="test_run_twice")
def one_run_a_name(reference: str) -> str:
    return reference.replace(
        "        def hook(module: nn.Module, inputs: object, output: object) -> None:\n",
        "        def hook(module: nn.Module, inputs: object, output: object) -> None:\n"
        "            if any(line[0] == name for line in self.report):\n                return\n",
    )


@rejected("NanTracer", by="test_healthy")
def blames_somebody(reference: str) -> str:
    return reference.replace(
        "        self.first_forward = None\n", "        self.first_forward = ''\n"
    )


@rejected("NanTracer", by="test_report", says="largest finite magnitude")
def magnitude_with_inf(reference: str) -> str:
    return reference.replace(
        "largest = flat[finite].abs().max().item() if finite.any() else 0.0",
        "largest = flat.abs().max().item()",
    )


@rejected("NanTracer", by="test_report", says="largest finite magnitude")
def largest_without_abs(reference: str) -> str:
    return reference.replace("flat[finite].abs().max()", "flat[finite].max()")


@rejected("NanTracer", by="test_report", says="numbers of Python")
def tensors_in_the_report(reference: str) -> str:
    return reference.replace("flat[finite].abs().max().item()", "flat[finite].abs().max()")


@rejected("NanTracer", by="test_no_grad")
def hooks_without_a_graph(reference: str) -> str:
    return reference.replace(
        "                if tensor.requires_grad:\n", "                if True:\n"
    )


@rejected("NanTracer", by="test_nothing_changes", says="gradient")
def cures_the_gradient(reference: str) -> str:
    return reference.replace(
        'lambda gradient: self.note(name, "backward", [gradient])',
        'lambda gradient: self.note(name, "backward", [gradient]) or gradient.clamp(-1, 1)',
    )


@rejected("NanTracer", by="test_nothing_changes", says="result")
def samples_the_output(reference: str) -> str:
    return reference.replace(
        "            finite = flat.isfinite()\n",
        "            torch.rand(1)\n            finite = flat.isfinite()\n",
    )


# --- 3 ------------------------------------------------------------------------------------------


@accepted("first_bad_op")
def first_bad_op(fn, *args, allow=("masked_fill", "masked_fill_")):
    """A list of the mode, filled in a closure."""
    found, place = [], [0]

    def state(tensors):
        nan = any(t.numel() and torch.isnan(t).any().item() for t in tensors)
        finite = all(torch.isfinite(t).all().item() for t in tensors)
        return nan, finite

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            kwargs = {} if kwargs is None else kwargs
            inputs = [a for a in tree_flatten([args, kwargs])[0] if isinstance(a, torch.Tensor)]
            nan_in, finite_in = state(inputs)
            result = func(*args, **kwargs)
            outputs = [a for a in tree_flatten(result)[0] if isinstance(a, torch.Tensor)]
            nan_out, _ = state(outputs)
            inf_out = any(torch.isinf(t).any().item() for t in outputs)
            name = func.overloadpacket.__name__
            if inputs and name not in allow and not found:
                if (nan_out and not nan_in) or (inf_out and finite_in):
                    found.append((name, place[0]))
            place[0] += 1
            return result

    with Mode():
        fn(*args)
    return found[0] if found else None


class Sums(TorchDispatchMode):
    """Judges by sums in float64, and floats alone."""

    def __init__(self, allow):
        super().__init__()
        self.log, self.allow = [], allow

    @staticmethod
    def kinds(tree):
        found = set()
        tree_map(lambda t: found.update(Sums.kind(t)) if isinstance(t, torch.Tensor) else t, tree)
        return found

    @staticmethod
    def kind(t):
        if not t.dtype.is_floating_point:
            return {"finite"}
        wide = t.detach().double()
        kinds = {"finite"}
        if (wide != wide).any():
            kinds.add("nan")
        if (wide.abs() == math.inf).any():
            kinds.add("inf")
        return kinds

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = self.kinds((args, kwargs or {}))
        out = func(*args, **(kwargs or {}))
        after = self.kinds(out)
        new_nan = "nan" in after and "nan" not in before
        new_inf = "inf" in after and before == {"finite"}
        name = func._schema.name.split("::")[1]
        guilty = before and (new_nan or new_inf) and name not in self.allow
        self.log.append((name, guilty))
        return out


@accepted("first_bad_op")
def from_a_log(fn, *args, allow=("masked_fill", "masked_fill_")):
    with Sums(allow) as mode:
        fn(*args)
    for place, (name, guilty) in enumerate(mode.log):
        if guilty:
            return name, place
    return None


@rejected("first_bad_op", by="test_messengers", says="passes that on")
def blames_messengers(reference: str) -> str:
    return reference.replace(
        "if (nan and not nan_before) or (inf and not (nan_before or inf_before)):", "if nan or inf:"
    )


@rejected("first_bad_op", by="test_messengers", says="passes that on")
def args_alone(reference: str) -> str:
    return reference.replace(
        "nan_before, inf_before = holds((args, kwargs))",
        "nan_before, inf_before = holds([a for a in args if isinstance(a, Tensor)])",
    )


@rejected("first_bad_op", by="test_allowed", says="never blamed")
def blames_masked_fill(reference: str) -> str:
    return reference.replace(
        "if self.found is None and fed and name not in self.allow:",
        "if self.found is None and fed:",
    )


@rejected("first_bad_op", by="test_allowed", says="never blamed")
def knows_no_in_place_fill(reference: str) -> str:
    return reference.replace("name not in self.allow:", "name not in self.allow[:1]:")


@rejected("first_bad_op", by="test_allowed", says="nothing is allowed")
def always_allows_masks(reference: str) -> str:
    return reference.replace("name not in self.allow:", "not name.startswith('masked_fill'):")


@rejected("first_bad_op", by="test_dtypes")
def floats_alone(reference: str) -> str:
    return reference.replace(
        "    tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]",
        "    tensors = [\n        leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)"
        " and leaf.dtype == torch.float32\n    ]",
    )


@rejected("first_bad_op", by="test_dtypes")
def crashes_on_ints(reference: str) -> str:
    return reference.replace(
        "bool(t.isinf().any())", "t.abs().max().item() > torch.finfo(t.dtype).max"
    )


@rejected("first_bad_op", by="test_dtypes")
def first_output_alone(reference: str) -> str:
    return reference.replace("holds(out)", "holds(out if isinstance(out, Tensor) else out[-1])")


@rejected("first_bad_op", by="test_nan_from_inf", says="its own")
def demands_finite_inputs(reference: str) -> str:
    return reference.replace("(nan and not nan_before)", "(nan and not (nan_before or inf_before))")


@rejected("first_bad_op", by="test_names", says="first that creates")
def looks_for_nan_alone(reference: str) -> str:
    return reference.replace(" or (inf and not (nan_before or inf_before))", "")


@rejected("first_bad_op", by="test_names", says="first that creates")
def names_the_last(reference: str) -> str:
    return reference.replace("if self.found is None and fed", "if fed")


@rejected("first_bad_op", by="test_names")
def names_with_overload(reference: str) -> str:
    return reference.replace("name = func.overloadpacket.__name__", "name = str(func)")


@rejected("first_bad_op", by="test_places", says="views too")
def leaves_out_views(reference: str) -> str:
    return reference.replace(
        "        self.count += 1\n", "        self.count += not func.is_view\n"
    )


@rejected("first_bad_op", by="test_places", says="from 0")
def counts_from_one(reference: str) -> str:
    return reference.replace("self.found = name, self.count", "self.found = name, self.count + 1")


@rejected("first_bad_op", by="test_in_place", says="before it runs")
def judges_inputs_afterwards(reference: str) -> str:
    return reference.replace(
        "        nan_before, inf_before = holds((args, kwargs))\n"
        "        out = func(*args, **kwargs)\n",
        "        out = func(*args, **kwargs)\n"
        "        nan_before, inf_before = holds((args, kwargs))\n",
    )


@rejected("first_bad_op", by="test_clean", says="never blamed")
def blames_factories(reference: str) -> str:
    return reference.replace("is None and fed and", "is None and")


@rejected("first_bad_op", by="test_clean", says="2 times")
def runs_twice(reference: str) -> str:
    return reference.replace(
        "    with Watch(allow) as watch:\n", "    fn(*args)\n    with Watch(allow) as watch:\n"
    )


# --- 4 ------------------------------------------------------------------------------------------


@accepted("bad_rows")
def bad_rows(ds, classes, z=8.0):
    """With NumPy, whose median is the mean of the two in the middle."""
    rows, ys = [], []
    for i in range(len(ds)):
        x, y = ds[i]
        rows.append(x.double().numpy())
        ys.append(int(y))
    x = np.stack(rows)
    outlier = np.zeros(len(x), dtype=bool)
    for column in x.T:
        finite = np.isfinite(column)
        if not finite.any():
            continue
        median = np.median(column[finite])
        mad = np.median(np.abs(column[finite] - median))
        if mad > 0:
            far = np.zeros(len(x), dtype=bool)
            far[finite] = 0.6745 * np.abs(column[finite] - median) / mad > z
            outlier |= far
    return {
        "nan": np.flatnonzero(np.isnan(x).any(1)).tolist(),
        "inf": np.flatnonzero(np.isinf(x).any(1)).tolist(),
        "outlier": np.flatnonzero(outlier).tolist(),
        "label_range": [i for i, y in enumerate(ys) if y < 0 or y >= classes],
    }


@accepted("bad_rows")
def bad_rows(ds, classes, z=8.0):
    """Iterating, in Python's lists, in float32."""
    bad = {"nan": set(), "inf": set(), "outlier": set(), "label_range": set()}
    columns = {}
    for row, (x, y) in enumerate(ds):
        if y not in range(classes):
            bad["label_range"].add(row)
        for column, value in enumerate(x.tolist()):
            if math.isnan(value):
                bad["nan"].add(row)
            elif math.isinf(value):
                bad["inf"].add(row)
            else:
                columns.setdefault(column, []).append((row, value))
    for entries in columns.values():
        values = torch.tensor([value for _, value in entries], dtype=torch.float32)
        off = (values - values.median()).abs()
        mad = off.median()
        if mad == 0:
            continue
        for (row, _), score in zip(entries, (0.6745 * off / mad).tolist()):
            if score > z:
                bad["outlier"].add(row)
    return {key: sorted(rows) for key, rows in bad.items()}


@rejected("bad_rows", by="test_contamination", says="hide in them")
def mean_and_deviation(reference: str) -> str:
    return reference.replace(
        "off = (known - known.nanmedian(0).values).abs()",
        "off = (known - known.nanmean(0)).abs() / 0.6745",
    ).replace("mad = off.nanmedian(0).values", "mad = (off * 0.6745).square().nanmean(0).sqrt()")


@rejected("bad_rows", by="test_outlier_beside_nan", says="spoils its statistics")
def nan_in_the_statistics(reference: str) -> str:
    return reference.replace("nanmedian", "median")


@rejected("bad_rows", by="test_outlier_beside_nan", says="only these can be outliers")
def inf_is_an_outlier(reference: str) -> str:
    return reference.replace("x.masked_fill(~finite, torch.nan)", "x")


@rejected("bad_rows", by="test_ints")
def crashes_on_int_features(reference: str) -> str:
    return reference.replace("for features, _ in items]).double()", "for features, _ in items])")


@rejected("bad_rows", by="test_constant_features", says="MAD is 0")
def flags_constant_features(reference: str) -> str:
    return reference.replace("(far & (mad > 0)).any(1)", "far.any(1)")


@rejected("bad_rows", by="test_constant_features", says="MAD is 0")
def an_eps_beside_mad(reference: str) -> str:
    return reference.replace("0.6745 * off / mad > z", "0.6745 * off / (mad + 1e-8) > z").replace(
        "(far & (mad > 0)).any(1)", "far.any(1)"
    )


@rejected("bad_rows", by="test_read_once", says="2 times")
def reads_twice(reference: str) -> str:
    return reference.replace("for _, y in items]", "for _, y in (ds[i] for i in range(len(ds)))]")


@rejected("bad_rows", by="test_labels", says="3 is out of range")
def classes_is_a_label(reference: str) -> str:
    return reference.replace("not 0 <= int(y) < classes", "not 0 <= int(y) <= classes")


@rejected("bad_rows", by="test_labels", says="so is -1")
def ignores_minus_one(reference: str) -> str:
    return reference.replace("not 0 <= int(y) < classes", "int(y) >= classes")


@rejected("bad_rows", by="test_threshold", says="score")
def without_the_factor(reference: str) -> str:
    return reference.replace("0.6745 * off", "off")


@rejected("bad_rows", by="test_threshold", says="score")
def ignores_z(reference: str) -> str:
    return reference.replace("mad > z", "mad > 8")


@rejected("bad_rows", by="test_planted", says="keys")
def leaves_out_empty_keys(reference: str) -> str:
    return reference.replace(
        ".tolist() for key, rows in bad.items()}",
        ".tolist() for key, rows in bad.items() if rows.any()}",
    )


@rejected("bad_rows", by="test_planted")
def one_key_a_row(reference: str) -> str:
    return reference.replace(
        '"inf": x.isinf().any(1)', '"inf": x.isinf().any(1) & ~x.isnan().any(1)'
    )


@rejected("bad_rows", by="test_planted", says="Python ints")
def tensors_for_rows(reference: str) -> str:
    return reference.replace("rows.nonzero().flatten().tolist()", "list(rows.nonzero().flatten())")


# --- 5 ------------------------------------------------------------------------------------------


def all_gradients(opt):
    return [p.grad for group in opt.param_groups for p in group["params"] if p.grad is not None]


@accepted("rescue_training")
def guarded_fit(model, loader, loss_fn, opt, *, steps, policy):
    """With next and clip_grad_norm_, two reads, NumPy for the quantile."""
    losses, skipped, causes, norms = [], [], {}, []
    rollbacks = good = in_a_row = 0
    reference_loss = None
    base = [group["lr"] for group in opt.param_groups]
    kept = copy.deepcopy(model.state_dict()), copy.deepcopy(opt.state_dict())
    iterator = iter(loader)
    for step in range(steps):
        try:
            x, y = next(iterator)
        except StopIteration:
            iterator = iter(loader)
            x, y = next(iterator)
        opt.zero_grad(set_to_none=True)
        loss = loss_fn(model(x), y)
        value = loss.item()
        losses.append(value)
        cause = None
        if not math.isfinite(value):
            cause = "loss"
        else:
            reference_loss = value if reference_loss is None else reference_loss
            loss.backward()
            limit = math.inf
            if len(norms) >= 10:
                limit = policy.clip_factor * float(
                    np.quantile(norms[-policy.window :], policy.clip_quantile)
                )
            norm = nn.utils.clip_grad_norm_(model.parameters(), limit).item()
            if not math.isfinite(norm):
                cause = "grad"
            elif value > policy.explode * reference_loss:
                cause = "explode"
        if cause is not None:
            skipped.append(step)
            causes[step] = cause
            in_a_row += 1
            opt.zero_grad()
            if in_a_row >= policy.patience:
                in_a_row = 0
                rollbacks += 1
                if rollbacks > policy.max_rollbacks:
                    raise RuntimeError("too many rollbacks")
                model.load_state_dict(kept[0])
                opt.load_state_dict(copy.deepcopy(kept[1]))
                for group, lr in zip(opt.param_groups, base, strict=True):
                    group["lr"] = lr * policy.lr_factor**rollbacks
            continue
        in_a_row = 0
        norms.append(norm)
        opt.step()
        good += 1
        if good % policy.snapshot_every == 0:
            kept = copy.deepcopy(model.state_dict()), copy.deepcopy(opt.state_dict())
    return Report(losses, skipped, causes, rollbacks)


class Keeper:
    """Snapshots by cloned tensors, and a count that begins anew with every snapshot or rollback."""

    def __init__(self, model, opt):
        self.model, self.opt = model, opt
        self.take()

    def take(self):
        self.weights = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.moments = copy.deepcopy(self.opt.state_dict()["state"])
        self.since = 0

    def restore(self, factor):
        self.model.load_state_dict(self.weights)
        now = self.opt.state_dict()
        now["state"] = copy.deepcopy(self.moments)
        for group in now["param_groups"]:
            group["lr"] = group["lr"] * factor
        self.opt.load_state_dict(now)
        self.since = 0


@accepted("rescue_training")
def guarded_fit(model, loader, loss_fn, opt, *, steps, policy):
    """The state alone is restored, so lr stays; norms by hand in one tensor."""
    report, keeper = Report(), Keeper(model, opt)
    norms, first, streak, step = deque(maxlen=policy.window), math.nan, 0, 0
    while step < steps:
        for x, y in loader:
            if step == steps:
                break
            model.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            squares = [g.pow(2).sum() for g in all_gradients(opt)]
            norm = torch.stack(squares).sum().sqrt()
            value, size = torch.stack((loss.detach(), norm)).tolist()
            report.losses.append(value)
            if math.isnan(first) and math.isfinite(value):
                first = value
            if not math.isfinite(value):
                cause = "loss"
            elif not math.isfinite(size):
                cause = "grad"
            else:
                cause = "explode" if value > policy.explode * first else ""
            if cause:
                report.skipped.append(step)
                report.causes[step] = cause
                streak += 1
                if streak % policy.patience == 0:
                    report.rollbacks += 1
                    if report.rollbacks > policy.max_rollbacks:
                        raise RuntimeError("it can't be rescued")
                    keeper.restore(policy.lr_factor)
            else:
                streak = 0
                if len(norms) >= 10:
                    ordered = sorted(norms)
                    place = policy.clip_quantile * (len(ordered) - 1)
                    low = int(place)
                    high = min(low + 1, len(ordered) - 1)
                    limit = policy.clip_factor * (
                        ordered[low] + (place - low) * (ordered[high] - ordered[low])
                    )
                    if size > limit:
                        for g in all_gradients(opt):
                            g.mul_(limit / size)
                norms.append(size)
                opt.step()
                keeper.since += 1
                if keeper.since == policy.snapshot_every:
                    keeper.take()
            step += 1
    return report


@rejected(
    "rescue_training", by=("test_nan_row", "test_sick_runs", "test_causes"), says="not finite"
)
def guarded_fit(model, loader, loss_fn, opt, *, steps, policy):
    """No guard at all."""
    report = Report()
    while len(report.losses) < steps:
        for x, y in loader:
            if len(report.losses) == steps:
                break
            opt.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            opt.step()
            report.losses.append(loss.item())
    return report


@rejected(
    "rescue_training", by=("test_bad_step_changes_nothing", "test_nan_row"), says="not finite"
)
def checks_after_the_step(reference: str) -> str:
    return reference.replace(
        "        loss.backward()\n", "        loss.backward()\n        opt.step()\n"
    ).replace(
        "            norms.append(length)\n            opt.step()\n",
        "            norms.append(length)\n",
    )


@rejected("rescue_training", by="test_bad_step_changes_nothing", says="gradients of 0 still")
def zeroes_the_gradients_and_steps(reference: str) -> str:
    return reference.replace(
        "        opt.zero_grad()\n        report.skipped",
        "        for g in gradients:\n            g.zero_()\n        opt.step()\n"
        "        report.skipped",
    )


@rejected("rescue_training", by="test_rollback", says="optimizer's state")
def rolls_back_weights_alone(reference: str) -> str:
    return reference.replace("            opt.load_state_dict(moments)\n", "")


@rejected("rescue_training", by="test_rollback", says="share its tensors")
def snapshot_of_references(reference: str) -> str:
    return reference.replace(
        "copy.deepcopy((model.state_dict(), opt.state_dict()))",
        "model.state_dict(), copy.deepcopy(opt.state_dict())",
    )


@rejected("rescue_training", by="test_rollback", says="optimizer's state")
def snapshot_of_moments_by_reference(reference: str) -> str:
    return reference.replace(
        "copy.deepcopy((model.state_dict(), opt.state_dict()))",
        "copy.deepcopy(model.state_dict()), opt.state_dict()",
    )


@rejected("rescue_training", by="test_rollback", says="those of the start")
def one_snapshot(reference: str) -> str:
    return reference.replace("                saved = snapshot()\n", "                pass\n")


@rejected("rescue_training", by="test_second_rollback", says="load a copy")
def loads_the_snapshot_itself(reference: str) -> str:
    return reference.replace("copy.deepcopy(saved)", "saved")


@rejected("rescue_training", by="test_nan_row", says="not finite")
def clips_with_a_nan_norm(reference: str) -> str:
    return reference.replace(
        "        elif not math.isfinite(length):",
        "        if not math.isfinite(length) and math.isfinite(value):",
    ).replace('cause = "loss"\n', "cause = None\n", 1)


@rejected("rescue_training", by="test_clipping", says="nothing was clipped")
def never_clips(reference: str) -> str:
    return reference.replace("if len(norms) >= 10:", "if False:")


@rejected("rescue_training", by="test_clipping", says="the step itself")
def counts_the_step_itself(reference: str) -> str:
    return reference.replace(
        "            if len(norms) >= 10:",
        "            norms.append(length)\n            if len(norms) > 10:",
    ).replace("            norms.append(length)\n            opt.step()", "            opt.step()")


@rejected("rescue_training", by="test_clipping", says="last `window`")
def remembers_all_norms(reference: str) -> str:
    return reference.replace("deque(maxlen=policy.window)", "deque()")


@rejected("rescue_training", by="test_clipping", says="before")
def keeps_clipped_norms(reference: str) -> str:
    return reference.replace(
        "                nn.utils.clip_grads_with_norm_",
        "                length = min(length, limit.item())\n"
        "                nn.utils.clip_grads_with_norm_",
    )


@rejected("rescue_training", by="test_clipping", says="clip_factor")
def without_the_clip_factor(reference: str) -> str:
    return reference.replace("limit = policy.clip_factor * torch", "limit = torch")


@rejected("rescue_training", by="test_gives_up")
def skips_forever(reference: str) -> str:
    return reference.replace("report.rollbacks > policy.max_rollbacks", "False")


@rejected("rescue_training", by="test_gives_up")
def one_rollback_too_few(reference: str) -> str:
    return reference.replace(
        "report.rollbacks > policy.max_rollbacks", "report.rollbacks >= policy.max_rollbacks"
    )


@rejected("rescue_training", by="test_learning_rate", says="as they were")
def lowers_lr_at_every_bad_step(reference: str) -> str:
    return reference.replace(
        "        report.causes[number] = cause\n",
        "        report.causes[number] = cause\n"
        '        for group in opt.param_groups:\n            group["lr"] *= 0.9\n',
    )


@rejected("rescue_training", by="test_learning_rate", says="not lowered at all")
def restores_the_old_lr(reference: str) -> str:
    return reference.replace('                group["lr"] = rate\n', "                pass\n")


@rejected("rescue_training", by="test_learning_rate", says="lr of the snapshot")
def lowers_the_lr_of_the_snapshot(reference: str) -> str:
    return reference.replace('group["lr"] = rate\n', 'group["lr"] *= policy.lr_factor\n')


@rejected("rescue_training", by="test_learning_rate", says="rates of the groups")
def lowers_the_first_group_alone(reference: str) -> str:
    return reference.replace('group["lr"] = rate\n', 'group["lr"] = rate\n                break\n')


@rejected("rescue_training", by="test_patience", says="rollbacks is")
def counts_bad_steps_in_all(reference: str) -> str:
    return reference.replace("good, streak = good + 1, 0", "good = good + 1")


@rejected("rescue_training", by="test_patience", says="rollbacks is")
def rolls_back_again_and_again(reference: str) -> str:
    return reference.replace(
        '                group["lr"] = rate\n            streak = 0\n',
        '                group["lr"] = rate\n',
    ).replace("streak == policy.patience", "streak >= policy.patience")


@rejected("rescue_training", by="test_causes", says="causes is")
def one_cause_for_all(reference: str) -> str:
    return reference.replace("report.causes[number] = cause", 'report.causes[number] = "loss"')


@rejected("rescue_training", by="test_causes", says="skipped is")
def explodes_from_the_last_loss(reference: str) -> str:
    return reference.replace(
        "if first is None and math.isfinite(value):",
        "if first is None or (math.isfinite(value) and value < first):",
    )


@rejected("rescue_training", by="test_causes")
def first_loss_even_if_nan(reference: str) -> str:
    return reference.replace("if first is None and math.isfinite(value):", "if first is None:")


@rejected("rescue_training", by="test_causes", says="losses has")
def leaves_out_bad_losses(reference: str) -> str:
    return reference.replace(
        "        report.losses.append(value)\n",
        "        if math.isfinite(value):\n            report.losses.append(value)\n",
    )


@rejected("rescue_training", by="test_plain_loop", says="first epoch")
def cycles_through_the_first_epoch(reference: str) -> str:
    return reference.replace(
        "itertools.chain.from_iterable(itertools.repeat(loader))", "itertools.cycle(loader)"
    )


@rejected("rescue_training", by="test_plain_loop", says="differ")
def one_epoch_alone(reference: str) -> str:
    return reference.replace(
        "itertools.chain.from_iterable(itertools.repeat(loader))", "iter(loader)"
    ).replace("if good % policy", "if good and good % policy")


@rejected("rescue_training", by="test_plain_loop", says="differ")
def scales_by_a_little(reference: str) -> str:
    return reference.replace(
        "            norms.append(length)\n",
        "            norms.append(length)\n            for g in gradients:\n"
        "                g.mul_(length / (length + 1e-6))\n",
    )


@rejected("rescue_training", by="test_reads", says="at most 2 reads")
def reads_every_gradient(reference: str) -> str:
    return reference.replace(
        "        norm = nn.utils.get_total_norm(gradients)\n",
        "        norm = nn.utils.get_total_norm(gradients)\n"
        "        norm = norm if all(g.isfinite().all() for g in gradients) else norm * 1\n",
    )
