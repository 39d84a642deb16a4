"""Answers to day 16 that its suite must accept or reject."""

import contextlib
import copy
import functools
import gc
import math
import weakref

import torch
from memory import *
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from grader.answers import accepted, rejected

# --- 1 ------------------------------------------------------------------------------------------


@accepted("model_bytes")
def with_sets_of_pointers(model, opt):
    def total(tensors):
        seen, size = set(), 0
        for t in tensors:
            storage = t.untyped_storage()
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                size += storage.size()
        return size

    return dict(
        parameters=total(model.parameters()),
        buffers=total(model.buffers()),
        gradients=total(p.grad for p in model.parameters() if p.grad is not None),
        optimizer=total(leaf for leaf in tree_leaves(dict(opt.state)) if isinstance(leaf, Tensor)),
    )


@accepted("model_bytes")
def with_named_things_and_loops(model, opt):
    result = {}
    groups = {
        "parameters": [p for _, p in model.named_parameters(remove_duplicate=False)],
        "buffers": [b for _, b in model.named_buffers(remove_duplicate=False)],
        "gradients": [p.grad for p in model.parameters() if p.grad is not None],
        "optimizer": [],
    }
    for entry in opt.state.values():
        groups["optimizer"] += filter(torch.is_tensor, entry.values())
    for key, tensors in groups.items():
        storages = [t.untyped_storage() for t in tensors]
        result[key] = sum({s.data_ptr(): len(s) for s in storages}.values())
    return result


def shown(tensors):
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)


def stored(tensors):
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())


right_bytes = model_bytes


@rejected("model_bytes", by="test_parameters", says="not 4")
def four_bytes_a_number(model, opt):
    return right_bytes(model, opt) | {"parameters": 4 * sum(p.numel() for p in model.parameters())}


@rejected("model_bytes", by="test_parameters", says="numbers, not bytes")
def counts_numbers(model, opt):
    return right_bytes(model, opt) | {"parameters": sum(p.numel() for p in model.parameters())}


@rejected("model_bytes", by="test_tied", says="counted twice")
def ties_twice(model, opt):
    tensors = [p for m in model.modules() for p in m.parameters(recurse=False)]
    return right_bytes(model, opt) | {"parameters": shown(tensors)}


@rejected("model_bytes", by=("test_tied", "test_views_of_one_storage"))
def bytes_that_are_shown(model, opt):
    return right_bytes(model, opt) | {
        "parameters": shown(model.parameters()),
        "gradients": shown(p.grad for p in model.parameters()),
    }


@rejected("model_bytes", by="test_views_of_one_storage", says="only what it shows")
def bytes_that_are_shown_once_a_pointer(model, opt):
    def total(tensors):
        return sum({t.data_ptr(): t.nbytes for t in tensors if t is not None}.values())

    return right_bytes(model, opt) | {
        "parameters": total(model.parameters()),
        "gradients": total(p.grad for p in model.parameters()),
    }


@rejected("model_bytes", by="test_views_of_one_storage", says="once for each view")
def storage_of_each_view(model, opt):
    sizes = {p: p.untyped_storage().nbytes() for p in model.parameters()}
    return right_bytes(model, opt) | {"parameters": sum(sizes.values())}


@rejected("model_bytes", by=("test_buffers", "test_tied"), says="state_dict")
def by_state_dict(model, opt):
    values = model.state_dict().values()
    return right_bytes(model, opt) | {"parameters": shown(values)}


@rejected("model_bytes", by="test_buffers", says="leaves out")
def saved_buffers_only(model, opt):
    names = {name for name, _ in model.named_parameters()}
    saved = [value for name, value in model.state_dict().items() if name not in names]
    return right_bytes(model, opt) | {"buffers": shown(saved)}


@rejected("model_bytes", by="test_gradients", says="None has no bytes")
def gradients_assumed(model, opt):
    return right_bytes(model, opt) | {"gradients": stored(model.parameters())}


@rejected("model_bytes", by="test_gradients", says="none before backward")
def gradients_of_what_is_trainable(model, opt):
    trainable = [p for p in model.parameters() if p.requires_grad]
    return right_bytes(model, opt) | {"gradients": stored(trainable)}


@rejected("model_bytes", by="test_gradients", says="frozen")
def trainable_parameters_only(model, opt):
    trainable = [p for p in model.parameters() if p.requires_grad]
    return right_bytes(model, opt) | {"parameters": stored(trainable)}


@rejected("model_bytes", by="test_optimizer", says="step counters")
def without_step_counters(model, opt):
    state = [v for e in opt.state.values() for k, v in e.items() if k != "step" and v is not None]
    return right_bytes(model, opt) | {"optimizer": stored(state)}


@rejected("model_bytes", by="test_optimizer", says="before its first step")
def twice_the_parameters(model, opt):
    return right_bytes(model, opt) | {"optimizer": 2 * stored(model.parameters())}


@rejected("model_bytes", by="test_optimizer")
def tensors_directly_in_the_state(model, opt):
    return right_bytes(model, opt) | {
        "optimizer": stored(v for v in opt.state.values() if isinstance(v, Tensor))
    }


# --- 2 ------------------------------------------------------------------------------------------


@accepted("saved_for_backward")
def with_pointers_and_kept_tensors(fn, *args):
    skip = {a.untyped_storage().data_ptr() for a in args if torch.is_tensor(a)}
    if isinstance(fn, nn.Module):
        skip |= {p.untyped_storage().data_ptr() for p in fn.parameters()}
    alive, found = [], []

    def pack(tensor):
        pointer = tensor.untyped_storage().data_ptr()
        if pointer not in skip:
            skip.add(pointer)
            alive.append(tensor.detach())
            name = "?" if tensor.grad_fn is None else tensor.grad_fn.name()
            found.append((name, tensor.shape, tensor.untyped_storage().size()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        fn(*args)
    return found


@accepted("saved_for_backward")
def as_a_class(fn, *args):
    class Listing(torch.autograd.graph.saved_tensors_hooks):
        def __init__(self):
            self.storages, self.result = [], []
            super().__init__(self.pack, self.unpack)

        def pack(self, tensor):
            storage = tensor.untyped_storage()
            if not any(storage._cdata == other._cdata for other in known + self.storages):
                self.storages.append(storage)
                self.result.append(
                    (type(tensor.grad_fn).__name__, tuple(tensor.size()), len(storage))
                )
            return (tensor.detach(),)

        def unpack(self, box):
            return box[0]

    known = [leaf.untyped_storage() for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
    known += [p.untyped_storage() for p in getattr(fn, "parameters", list)()]
    mine = Listing()
    with mine:
        fn(*args)
    return mine.result


def listing(
    fn,
    args,
    *,
    skip=True,
    weights=True,
    once=True,
    alive=True,
    outputs=False,
    pointer=lambda t: t.untyped_storage().data_ptr(),
    size=lambda t: t.untyped_storage().nbytes(),
    unpack=lambda t: t,
):
    known, kept, found = set(), [], []
    if skip:
        known |= {pointer(a) for a in args if isinstance(a, Tensor)}
    if weights and isinstance(fn, nn.Module):
        known |= {pointer(p) for p in fn.parameters()}

    def note(tensor):
        if pointer(tensor) not in known:
            if once:
                known.add(pointer(tensor))
            if alive:
                kept.append(tensor.detach())
            found.append(("?", tuple(tensor.shape), size(tensor)))

    def pack(tensor):
        note(tensor)
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        out = fn(*args)
    if outputs and isinstance(out, Tensor):
        note(out)
    return found


@rejected("saved_for_backward", by=("test_modules", "test_fused", "test_views_and_order"))
def counts_views_twice(fn, *args):
    return listing(fn, args, once=False)


@rejected("saved_for_backward", by="test_views_and_order")
def once_a_view(fn, *args):
    return listing(fn, args, pointer=lambda t: (t.data_ptr(), t.shape))


@rejected("saved_for_backward", by="test_views_and_order", says="its whole storage")
def bytes_that_are_seen(fn, *args):
    return listing(fn, args, size=lambda t: t.nbytes)


@rejected("saved_for_backward", by="test_modules", says="second weight")
def counts_parameters(fn, *args):
    return listing(fn, args, weights=False)


@rejected("saved_for_backward", by=("test_arguments", "test_modules"))
def counts_arguments(fn, *args):
    return listing(fn, args, skip=False)


@rejected("saved_for_backward", by="test_arguments", says="share their storages")
def leaves_out_the_arguments_alone(fn, *args):
    return listing(fn, args, pointer=lambda t: (t.data_ptr(), t.shape))


@rejected("saved_for_backward", by="test_backward_inside")
def unpack_returns_nothing(fn, *args):
    return listing(fn, args, unpack=lambda t: None)


@rejected("saved_for_backward", by="test_pointwise", says="not kept for that alone")
def counts_outputs(fn, *args):
    return listing(fn, args, outputs=True)


@rejected("saved_for_backward", by="test_one_storage_after_another", says="hold on")
def forgets_what_it_compares_with(fn, *args):
    return listing(fn, args, alive=False)


seen_before = {}


@rejected("saved_for_backward", by="test_twice", says="the same each time")
def remembers_between_calls(fn, *args):
    entries = [e for e in listing(fn, args) if (id(fn), e) not in seen_before]
    seen_before.update({(id(fn), e): fn for e in entries})
    return entries


@rejected("saved_for_backward", by="test_twice", says="still set")
def never_stops_listening(fn, *args):
    found = saved_right(fn, *args)

    def pack(tensor):
        found.append(("?", tuple(tensor.shape), 0))
        return tensor.detach()

    torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t).__enter__()
    return found


saved_right = saved_for_backward


@rejected("saved_for_backward", by="test_no_grad")
def always_with_grad(fn, *args):
    with torch.enable_grad():
        return saved_right(fn, *args)


@rejected("saved_for_backward", by="test_attention", says="nothing of 11 x 11")
def with_another_kernel(fn, *args):
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return saved_right(fn, *args)


@rejected("saved_for_backward", by="test_attention", says="keeps its weights")
def results_are_not_kept(fn, *args):
    return [entry for entry in saved_right(fn, *args) if "Softmax" not in entry[0]]


@rejected("saved_for_backward", by="test_views_and_order", says="order of packing")
def largest_first(fn, *args):
    return sorted(saved_right(fn, *args), key=lambda e: -e[2])


# --- 3 ------------------------------------------------------------------------------------------


@accepted("PeakMeter")
class WithWeakReferences(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.reset()

    def reset(self):
        self.current, self.peak, self.timeline, self.alive = 0, 0, [], {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        old = set()
        tree_map_only(Tensor, lambda t: old.add(t.untyped_storage()._cdata), (args, kwargs))
        out = func(*args, **kwargs)
        tree_map_only(Tensor, functools.partial(self.note, old), out)
        self.peak = max(self.peak, self.current)
        self.timeline.append((func.name(), self.current))
        return out

    def note(self, old, tensor):
        storage = tensor.untyped_storage()
        key, size, alive = storage._cdata, storage.nbytes(), self.alive
        if key in old or key in alive:
            return tensor

        def died(_):
            del alive[key]
            if alive is self.alive:
                self.current -= size

        alive[key] = weakref.ref(storage, died)
        self.current += size
        return tensor


@accepted("PeakMeter")
class WithACallbackPerStorage(TorchDispatchMode):
    current = 0
    peak = 0

    def __init__(self):
        super().__init__()
        self.timeline = []
        self.sizes = {}
        self.epoch = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        inputs = [t for t in tree_leaves([args, kwargs]) if isinstance(t, torch.Tensor)]
        before = {t.untyped_storage().data_ptr() for t in inputs}
        result = func(*args, **(kwargs or {}))
        for t in tree_leaves(result):
            if isinstance(t, torch.Tensor) and t.untyped_storage().data_ptr() not in before:
                self.birth(t.untyped_storage())
        if self.current > self.peak:
            self.peak = self.current
        self.timeline.append((func.overloadpacket.__name__, self.current))
        return result

    def birth(self, storage):
        if storage._cdata in self.sizes:
            return
        self.sizes[storage._cdata] = storage.nbytes()
        self.current += storage.nbytes()
        weakref.finalize(storage, self.death, storage._cdata, self.epoch)

    def death(self, key, epoch):
        if epoch == self.epoch:
            self.current -= self.sizes.pop(key)

    def reset(self):
        self.epoch += 1
        self.sizes = {}
        self.current = self.peak = 0
        self.timeline = []


@accepted("PeakMeter")
class SumOfTheLiving(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.reset()

    def reset(self):
        self.living, self.peak, self.timeline = weakref.WeakValueDictionary(), 0, []

    @property
    def current(self):
        return sum(s.nbytes() for s in list(self.living.values()))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        old = {
            t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if torch.is_tensor(t)
        }
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if torch.is_tensor(t) and t.untyped_storage()._cdata not in old:
                self.living[t.untyped_storage()._cdata] = t.untyped_storage()
        self.peak = max(self.peak, self.current)
        self.timeline.append((str(func), self.current))
        return out


class Flexible(TorchDispatchMode):
    """A meter with a switch for each mistake."""

    views = tuples = born_only = frees = True
    keyword = resets = inplace = True
    strong = False

    def __init__(self):
        super().__init__()
        self.current = self.peak = 0
        self.timeline, self.held, self.kept = [], {}, []

    def reset(self):
        self.current = self.peak = 0
        self.timeline = []
        if self.resets:
            for watch in self.held.values():
                watch.detach()
            self.held = {}

    def leaves(self, tree):
        if not self.tuples and isinstance(tree, (tuple, list)):
            return []
        return [t for t in tree_leaves(tree) if isinstance(t, Tensor)]

    def thing(self, tensor):
        return tensor.untyped_storage()

    def key(self, tensor):
        return tensor.untyped_storage()._cdata

    def run(self, func, args, kwargs):
        return func(*args, **kwargs)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = tree_leaves((args, (kwargs or {}) if self.keyword else {}))
        old = {self.key(t) for t in given if isinstance(t, Tensor)} if self.born_only else set()
        out = self.run(func, args, kwargs or {})
        for t in self.leaves(out):
            if self.key(t) in old or self.key(t) in self.held:
                continue
            size = self.size(t)
            self.current += size
            if self.strong:
                self.kept.append(t.untyped_storage())
            watch = weakref.finalize(self.thing(t), self.free, self.key(t), size)
            self.held[self.key(t)] = watch
        self.peak = max(self.peak, self.current)
        self.timeline.append((str(func), self.current))
        return out

    def size(self, tensor):
        return tensor.untyped_storage().nbytes()

    def free(self, key, size):
        self.held.pop(key, None)
        if self.frees:
            self.current -= size


@rejected("PeakMeter", by=("test_temporaries", "test_tuples"), says="still counts")
class NeverFrees(Flexible):
    frees = False


@rejected("PeakMeter", by="test_temporaries", says="address")
class NeverForgetsAnAddress(Flexible):
    def free(self, key, size):
        self.current -= size


@rejected("PeakMeter", by=("test_temporaries", "test_backward"), says="itself")
class KeepsStoragesAlive(Flexible):
    strong = True


@rejected("PeakMeter", by="test_views_and_in_place", says="no storage of its own")
class CountsViews(Flexible):
    def key(self, tensor):
        return tensor.data_ptr(), tensor.shape

    def thing(self, tensor):
        return tensor

    def size(self, tensor):
        return tensor.nbytes


@rejected("PeakMeter", by="test_views_and_in_place", says="lives on")
class TensorsInsteadOfStorages(Flexible):
    def thing(self, tensor):
        return tensor


@rejected("PeakMeter", by="test_tuples", says="tuple")
class MissesTuples(Flexible):
    tuples = False


@rejected("PeakMeter", by="test_tuples", says="second result")
class FirstOfEachTuple(Flexible):
    def leaves(self, tree):
        return super().leaves(tree)[:1]


@rejected("PeakMeter", by="test_what_is_only_received", says="in place")
class CountsWhatIsReceived(Flexible):
    born_only = False


@rejected("PeakMeter", by="test_what_is_only_received", says="out=")
class ForgetsKeywords(Flexible):
    keyword = False


@rejected("PeakMeter", by="test_reset", says="subtracted")
class ResetForgetsTheFinalizers(Flexible):
    resets = False


@rejected("PeakMeter", by="test_reset", says="after reset")
class ResetOfThePeakOnly(Flexible):
    def reset(self):
        self.peak = self.current
        self.timeline = []


@rejected("PeakMeter", by="test_exception")
class StaysOnAfterAnException(Flexible):
    def __exit__(self, kind, error, trace):
        if kind is None:
            super().__exit__(kind, error, trace)


@rejected("PeakMeter", by="test_exception", says="swallowed")
class SwallowsExceptions(Flexible):
    def __exit__(self, kind, error, trace):
        super().__exit__(kind, error, trace)
        return True


@rejected("PeakMeter", by="test_nested")
class OneLedgerForAll(Flexible):
    shared = {}

    def __init__(self):
        super().__init__()
        self.held = OneLedgerForAll.shared


@rejected("PeakMeter", by="test_nested", says="outer")
class HidesFromOuterMeters(Flexible):
    def run(self, func, args, kwargs):
        from torch.utils._python_dispatch import _disable_current_modes

        with _disable_current_modes():
            return func(*args, **kwargs)


@rejected("PeakMeter", by="test_timeline")
class TimelineOfBirths(Flexible):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = self.current
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if self.current == before:
            self.timeline.pop()
        return out


@rejected("PeakMeter", by="test_timeline")
class BytesBeforeTheOp(Flexible):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = self.current
        out = super().__torch_dispatch__(func, types, args, kwargs)
        self.timeline[-1] = str(func), before
        return out


@rejected("PeakMeter", by="test_backward", says="current")
class WithoutGradients(Flexible):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if torch._C._current_graph_task_id() >= 0:
            return func(*args, **(kwargs or {}))
        return super().__torch_dispatch__(func, types, args, kwargs)


# --- 4 ------------------------------------------------------------------------------------------


@accepted("checkpoint_segments")
def with_checkpoint_sequential(reference):
    start = reference.index("        ends = [")
    stop = reference.index("        return x\n", start)
    return (
        reference[:start]
        + "        from torch.utils.checkpoint import checkpoint_sequential\n"
        + "        if not torch.is_grad_enabled():\n            return self.blocks(x)\n"
        + "        x = checkpoint_sequential(self.blocks, self.segments, x, use_reentrant=False)\n"
        + reference[stop:]
    )


@accepted("checkpoint_segments")
def runs_as_modules_with_the_function(reference):
    reference = reference.replace(
        "x = checkpoint(self.blocks[start:stop], x, use_reentrant=False)",
        "x = checkpoint_fn(nn.Sequential(*list(self.blocks)[start:stop]), x)",
    )
    return reference.replace(
        "if not self.training:", "if not (self.training and torch.is_grad_enabled()):"
    )


@accepted("checkpoint_segments")
def gradients_by_autograd_grad(reference):
    """Through parameters that are found in a first, dry look at the graph."""
    start = reference.index("        pairs = [(o, g)")
    stop = reference.index("        ### END SOLUTION", start)
    return (
        reference[:start]
        + "        roots = [o for o in out if o.requires_grad]\n"
        + "        seeds = [g for o, g in zip(out, grads) if o.requires_grad]\n"
        + "        torch.autograd.backward(roots, seeds)\n"
        + "        found = [a.grad if torch.is_tensor(a) else None for a in args]\n"
        + "        return (None, None) + tuple(found)\n"
        + reference[stop:]
    )


@accepted("checkpoint_segments")
def without_the_skeleton(reference):
    """A Function of one call, which knows what it is called with."""
    start = reference.index("class Rerun(")
    stop = reference.index("def checkpoint_fn(")
    reference = reference[:start] + reference[stop:]
    start = reference.index("    spark = torch")
    stop = reference.index("    ### END SOLUTION", start)
    body = """
    state = torch.get_rng_state()

    class Again(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *leaves):
            return f(*args)

        @staticmethod
        def backward(ctx, *grads):
            fresh = [
                a.detach().requires_grad_(a.requires_grad) if torch.is_tensor(a) else a
                for a in args
            ]
            now = torch.get_rng_state()
            torch.set_rng_state(state)
            with torch.enable_grad():
                out = f(*fresh)
            torch.set_rng_state(now)
            torch.autograd.backward(out, grads if isinstance(out, tuple) else grads[0])
            found = (t.grad for t in fresh if torch.is_tensor(t))
            return None, *found

    return Again.apply(torch.zeros(1, requires_grad=True), *filter(torch.is_tensor, args))
"""
    return reference[:start] + body + reference[stop:]


@accepted("checkpoint_segments")
def random_state_by_hand(reference):
    return reference.replace(
        "        with torch.random.fork_rng(), torch.enable_grad():\n"
        "            torch.set_rng_state(ctx.random)\n"
        "            out = ctx.f(*args)\n",
        "        now = torch.get_rng_state()\n"
        "        torch.set_rng_state(ctx.random)\n"
        "        try:\n"
        "            with torch.set_grad_enabled(True):\n"
        "                out = ctx.f(*args)\n"
        "        finally:\n"
        "            torch.set_rng_state(now)\n",
    )


@accepted("checkpoint_segments")
def spark_of_one_number(reference):
    return reference.replace(
        "return Rerun.apply(f, spark, *args)",
        "if not torch.is_grad_enabled():\n"
        "        return f(*args)\n"
        "    return Rerun.apply(f, torch.ones(1).requires_grad_(), *args)",
    )


@rejected("checkpoint_segments", by=("test_fn_random",), says="off by")
def random_state_not_replayed(reference):
    return reference.replace("            torch.set_rng_state(ctx.random)\n", "")


@rejected("checkpoint_segments", by="test_fn_random", says="after backward")
def random_state_not_given_back(reference):
    return reference.replace("with torch.random.fork_rng(), torch", "with torch")


@rejected("checkpoint_segments", by="test_dropout", says="off by")
def library_without_random_state(reference):
    return reference.replace(
        "use_reentrant=False)", "use_reentrant=False, preserve_rng_state=False)"
    )


@rejected("checkpoint_segments", by=("test_fn_gradients", "test_fn_parameters"))
def without_enable_grad(reference):
    return reference.replace("fork_rng(), torch.enable_grad():", "fork_rng():")


@rejected("checkpoint_segments", by="test_fn_gradients")
def arguments_not_detached(reference):
    return reference.replace("tensor.detach().requires_grad_(tensor.requires_grad)", "tensor")


@rejected("checkpoint_segments", by="test_fn_parameters", says="twice")
def parameters_twice(reference):
    return reference.replace(
        "[g for _, g in pairs])\n",
        "[g for _, g in pairs], retain_graph=True)\n"
        "        first = [a.grad.clone() if isinstance(a, Tensor) and a.requires_grad else None"
        " for a in args]\n"
        "        torch.autograd.backward([o for o, _ in pairs], [g for _, g in pairs])\n"
        "        return None, None, *first\n",
    )


@rejected("checkpoint_segments", by=("test_fn_parameters", "test_fn_tuples"))
def only_arguments_make_it_require_grad(reference):
    return reference.replace("apply(f, spark, *args)\n    ###", "apply(f, None, *args)\n    ###")


@rejected("checkpoint_segments", by="test_gradients", says="None")
def reentrant_library(reference):
    return reference.replace("x, use_reentrant=False", "x, use_reentrant=True")


@rejected("checkpoint_segments", by="test_entered", says="eval mode")
def checkpoints_in_eval_too(reference):
    return reference.replace(
        "        if not self.training:\n            return self.blocks(x)\n", ""
    )


@rejected("checkpoint_segments", by="test_live_bytes", says="only the runs' inputs")
def no_checkpoints_at_all(reference):
    return reference.replace("        if not self.training:\n", "        if True:\n")


@rejected("checkpoint_segments", by="test_live_bytes")
def every_other_run(reference):
    return reference.replace(
        "            x = checkpoint(self.blocks[start:stop], x, use_reentrant=False)\n",
        "            run = self.blocks[start:stop]\n"
        "            x = checkpoint(run, x, use_reentrant=False) if start % 8 else run(x)\n",
    )


@rejected("checkpoint_segments", by="test_gradients", says="value")
def last_blocks_left_out(reference):
    return reference.replace(
        "i * len(self.blocks) // self.segments for", "i * (len(self.blocks) // self.segments) for"
    )


@rejected("checkpoint_segments", by="test_gradients", says="not among")
def blocks_in_a_list(reference):
    return reference.replace(
        "        self.blocks = blocks\n", "        self.__dict__['blocks'] = blocks\n"
    )


@rejected("checkpoint_segments", by="test_entered", says="training")
def runs_ahead(reference):
    return reference.replace(
        "            x = checkpoint(self",
        "            with torch.no_grad(), torch.random.fork_rng():\n"
        "                self.blocks[start:stop](x)\n"
        "            x = checkpoint(self",
    )


@rejected("checkpoint_segments", by="test_fn_gradients", says="forbidden")
def library_for_the_function(reference):
    return reference.replace(
        "return Rerun.apply(f, spark, *args)",
        "return checkpoint(f, *args, use_reentrant=False)",
    )


@rejected("checkpoint_segments", by=("test_fn_calls", "test_fn_live_bytes"))
def graph_kept_from_forward(reference):
    return reference.replace("return Rerun.apply(f, spark, *args)", "return f(*args)")


@rejected("checkpoint_segments", by="test_fn_live_bytes", says="on the way")
def graph_kept_beside(reference):
    return reference.replace(
        "        return f(*args)\n",
        "        with torch.enable_grad():\n            ctx.graph = f(*args)\n"
        "        return ctx.graph.detach() if isinstance(ctx.graph, Tensor)"
        " else tuple(t.detach() for t in ctx.graph)\n",
    )


@rejected("checkpoint_segments", by="test_fn_tuples")
def first_result_only(reference):
    return reference.replace("zip(out, grads, strict=True) if", "list(zip(out, grads))[:1] if")


@rejected("checkpoint_segments", by="test_fn_tuples")
def tensors_only(reference):
    return reference.replace("out if isinstance(out, tuple) else (out,)", "(out,)")


@rejected("checkpoint_segments", by="test_fn_calls", says="no_grad")
def computes_twice_under_no_grad(reference):
    return reference.replace(
        "    return Rerun.apply(f, spark, *args)",
        "    if not torch.is_grad_enabled():\n        f(*args)\n"
        "    return Rerun.apply(f, spark, *args)",
    )


# --- 5 ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def untouched():
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


def probe(model, make_batch, loss_fn, opt_cls, n, checkpointed=False):
    net = copy.deepcopy(model)
    if checkpointed:
        net = Checkpointed(net, round(len(model) ** 0.5))
    x, y = make_batch(n)
    opt = opt_cls(net.parameters())
    meter = PeakMeter()
    with meter:
        training_step(net, loss_fn, opt, x, y)
    return meter.peak


@accepted("plan_batch")
def doubling_then_halving(model, make_batch, loss_fn, opt_cls, budget, target):
    """The leak by bytes that stay alive without a backward, and not with one."""

    def alive(backward):
        net, (x, y) = copy.deepcopy(model), make_batch(1)
        with PeakMeter() as meter:
            loss = loss_fn(net(x), y)
            if backward:
                loss.backward()
            del loss
            net.zero_grad()
            gc.collect()
            return meter.current

    with untouched():
        leak = alive(False) > alive(True)
        for checkpointed in (False, True):
            peaks = {1: probe(model, make_batch, loss_fn, opt_cls, 1, checkpointed)}
            if peaks[1] <= budget:
                break
        else:
            raise MemoryError
        low = 1
        high = None
        while high is None or high - low > 1:
            n = min(2 * low, target) if high is None else (low + high) // 2
            if n == low:
                break
            peaks[n] = probe(model, make_batch, loss_fn, opt_cls, n, checkpointed)
            if peaks[n] <= budget:
                low = n
            else:
                high = n
    return Plan(low, -(-target // low), checkpointed, peaks[low], leak)


@accepted("plan_batch")
def line_through_large_batches(model, make_batch, loss_fn, opt_cls, budget, target):
    """A first guess from the line, corrected by measuring its neighbours."""
    peaks = {}

    def peak(n, checkpointed):
        if (n, checkpointed) not in peaks:
            peaks[n, checkpointed] = probe(model, make_batch, loss_fn, opt_cls, n, checkpointed)
        return peaks[n, checkpointed]

    def leaks():
        net, (x, y) = copy.deepcopy(model), make_batch(1)
        with PeakMeter() as meter:
            out = net(x)
            before = meter.current - out.nbytes
            loss = loss_fn(out, y)
            del out, loss
            gc.collect()
        return meter.current > before / 2

    with torch.random.fork_rng():
        checkpointed = peak(1, False) > budget
        if checkpointed and peak(1, True) > budget:
            raise MemoryError(f"{peak(1, True)} > {budget}")
        low, high = 1, target + 1
        if peak(target, checkpointed) <= budget:
            low = target
        while high - low > 1:
            a, b = peak(low, checkpointed), peak(min(high, target), checkpointed)
            guess = low + int((budget - a) * (min(high, target) - low) / max(b - a, 1))
            guess = min(max(guess, low + 1), high - 1)
            for n in (guess, guess + 1):
                if low < n < high:
                    if peak(n, checkpointed) <= budget:
                        low = n
                    else:
                        high = n
            middle = (low + high) // 2
            if low < middle < high:
                if peak(middle, checkpointed) <= budget:
                    low = middle
                else:
                    high = middle
        return Plan(
            micro_batch=low,
            accum=math.ceil(target / low),
            checkpoint=checkpointed,
            predicted_peak=peak(low, checkpointed),
            leak=leaks(),
        )


@accepted("plan_batch")
def phases_apart(model, make_batch, loss_fn, opt_cls, budget, target):
    """The step of the optimizer once, forward and backward for each batch."""

    def leaks():
        class Box:
            def __init__(self, tensor):
                self.tensor = tensor.detach()

        boxes = weakref.WeakSet()

        def pack(tensor):
            box = Box(tensor)
            boxes.add(box)
            return box

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
            loss_fn(copy.deepcopy(model)(x), y)
        gc.collect()
        return len(boxes) > 0

    def measure(size, segments):
        net = copy.deepcopy(model)
        run = Checkpointed(blocks=net, segments=segments) if segments else net
        meter = PeakMeter()
        with meter:
            loss_fn(run(x[:size]), y[:size]).backward()
            both = meter.peak
            gradients = meter.current
            meter.reset()
            opt_cls(net.parameters()).step()
        return both, gradients + meter.peak

    with torch.random.fork_rng():
        x, y = make_batch(target)
        for segments in (0, round(math.sqrt(len(model)))):
            first, step = measure(1, segments)
            if max(first, step) > budget:
                continue
            best, low, high = max(first, step), 1, target + 1
            while low + 1 < high:
                n = low + (high - low) // 2
                needed = max(measure(n, segments)[0], step)
                if needed > budget:
                    high = n
                else:
                    low, best = n, needed
            return Plan(low, (target + low - 1) // low, segments > 0, best, leaks())
    raise MemoryError("one sample is too many")


@accepted("plan_batch")
def with_the_other_tasks_open(reference):
    """The checks bring a meter and checkpoints of their own."""
    for line in ("        self.current = self.peak = 0\n", "        self.blocks = blocks\n"):
        reference = reference.replace(line, "        raise NotImplementedError\n")
    return reference


def flawed(measure=probe, leak=None, keep=True, largest=None, smaller=0, checkpoints=True):
    """A planner by halving whose parts can be replaced by wrong ones."""

    def plan(model, make_batch, loss_fn, opt_cls, budget, target):
        context = untouched() if keep else contextlib.nullcontext()
        with context:
            for checkpointed in (False, True) if checkpoints else (False,):
                best = measure(model, make_batch, loss_fn, opt_cls, 1, checkpointed)
                if best <= budget:
                    break
            else:
                if checkpoints:
                    raise MemoryError
            low, high = 1, (largest or target) + 1
            while high - low > 1:
                n = (low + high) // 2
                peak = measure(model, make_batch, loss_fn, opt_cls, n, checkpointed)
                if peak <= budget:
                    low, best = n, peak
                else:
                    high = n
            low = max(1, low - smaller)
            leaks = leak(model, make_batch, loss_fn) if leak else False
            return Plan(low, -(-target // low), checkpointed, best, leaks)

    return plan


@rejected("plan_batch", by=("test_probes", "test_largest"), says="at most 25")
def doubles_until_out_of_memory(model, make_batch, loss_fn, opt_cls, budget, target):
    n = 1
    while True:
        try:
            peak = probe(model, make_batch, loss_fn, opt_cls, n)
            n *= 2
        except (MemoryError, RuntimeError):
            return Plan(n // 2, -(-target // (n // 2)), False, peak, False)


@rejected("plan_batch", by="test_probes", says="at most 25")
def one_sample_after_another(model, make_batch, loss_fn, opt_cls, budget, target):
    with untouched():
        n = 1
        peaks = [probe(model, make_batch, loss_fn, opt_cls, 1)]
        while n < target and peaks[-1] <= budget:
            n += 1
            peaks.append(probe(model, make_batch, loss_fn, opt_cls, n))
    return Plan(n, 1, False, peaks[-1], False)


def without_the_step(model, make_batch, loss_fn, opt_cls, n, checkpointed):
    net, (x, y) = copy.deepcopy(model), make_batch(n)
    net = Checkpointed(net, round(len(model) ** 0.5)) if checkpointed else net
    with PeakMeter() as meter:
        loss_fn(net(x), y).backward()
    return meter.peak


@rejected("plan_batch", by="test_memory_error", says="optimizer")
def forgets_the_optimizer(model, make_batch, loss_fn, opt_cls, budget, target):
    run = flawed(without_the_step)
    return run(model, make_batch, loss_fn, opt_cls, budget, target)


def small_line(model, make_batch, loss_fn, opt_cls, budget, target, intercept=True):
    with untouched():
        one, four = (probe(model, make_batch, loss_fn, opt_cls, n) for n in (1, 4))
        if not intercept:
            one, four = 0, one * 3
        slope = (four - one) / 3
        n = int((budget - one) / slope) + intercept if slope else target
        n = max(1, min(n, target))
        return Plan(n, -(-target // n), False, int(one + slope * (n - intercept)), False)


@rejected("plan_batch", by=("test_largest", "test_predicted"), says="a line through")
def line_through_one_and_four(model, make_batch, loss_fn, opt_cls, budget, target):
    return small_line(model, make_batch, loss_fn, opt_cls, budget, target)


@rejected("plan_batch", by="test_largest", says="as well")
def proportional(model, make_batch, loss_fn, opt_cls, budget, target):
    return small_line(model, make_batch, loss_fn, opt_cls, budget, target, intercept=False)


@rejected("plan_batch", by="test_untouched", says="deep copy")
def probes_the_model_itself(model, make_batch, loss_fn, opt_cls, budget, target):
    def peak(n):
        x, y = make_batch(n)
        with PeakMeter() as meter:
            training_step(model, loss_fn, opt_cls(model.parameters()), x, y)
        model.zero_grad()
        return meter.peak

    with untouched():
        low, high = 1, target + 1
        while high - low > 1:
            n = (low + high) // 2
            low, high = (n, high) if peak(n) <= budget else (low, n)
        return Plan(low, -(-target // low), False, peak(low), False)


@rejected("plan_batch", by="test_untouched", says="gradients")
def empties_the_gradients(model, make_batch, loss_fn, opt_cls, budget, target):
    model.zero_grad()
    return right_plan(model, make_batch, loss_fn, opt_cls, budget, target)


@rejected("plan_batch", by="test_untouched", says="random state")
def draws_from_the_random_state(model, make_batch, loss_fn, opt_cls, budget, target):
    return flawed(keep=False)(model, make_batch, loss_fn, opt_cls, budget, target)


right_plan = plan_batch


def without_gradients(model, make_batch, loss_fn, opt_cls, n, checkpointed):
    weights = sum(p.nbytes for p in model.parameters())
    return probe(model, make_batch, loss_fn, opt_cls, n, checkpointed) - weights


@rejected("plan_batch", by=("test_largest", "test_predicted"), says="budget")
def ignores_gradients(model, make_batch, loss_fn, opt_cls, budget, target):
    return flawed(without_gradients)(model, make_batch, loss_fn, opt_cls, budget, target)


def weights_too(model, make_batch, loss_fn, opt_cls, n, checkpointed):
    weights = sum(p.nbytes for p in model.parameters())
    return probe(model, make_batch, loss_fn, opt_cls, n, checkpointed) + weights


@rejected("plan_batch", by=("test_predicted", "test_largest"))
def counts_the_weights(model, make_batch, loss_fn, opt_cls, budget, target):
    return flawed(weights_too)(model, make_batch, loss_fn, opt_cls, budget, target)


@rejected("plan_batch", by="test_largest", says="as well")
def one_sample_less(model, make_batch, loss_fn, opt_cls, budget, target):
    return flawed(smaller=1)(model, make_batch, loss_fn, opt_cls, budget, target)


@rejected("plan_batch", by=("test_largest", "test_target"), says="as well")
def powers_of_two(model, make_batch, loss_fn, opt_cls, budget, target):
    plan = right_plan(model, make_batch, loss_fn, opt_cls, budget, target)
    n = 2 ** int(math.log2(plan.micro_batch))
    return Plan(n, -(-target // n), plan.checkpoint, plan.predicted_peak, plan.leak)


@rejected("plan_batch", by="test_target", says="accum")
def accum_rounded_down(model, make_batch, loss_fn, opt_cls, budget, target):
    plan = right_plan(model, make_batch, loss_fn, opt_cls, budget, target)
    n = plan.micro_batch
    return Plan(n, target // n, plan.checkpoint, plan.predicted_peak, plan.leak)


@rejected("plan_batch", by="test_target", says="expected the target")
def larger_than_the_target(model, make_batch, loss_fn, opt_cls, budget, target):
    run = flawed(largest=2 * target)
    return run(model, make_batch, loss_fn, opt_cls, budget, target)


@rejected("plan_batch", by=("test_checkpoint", "test_memory_error"), says="plan has none")
def never_checkpoints(model, make_batch, loss_fn, opt_cls, budget, target):
    return flawed(checkpoints=False)(model, make_batch, loss_fn, opt_cls, budget, target)


@rejected("plan_batch", by=("test_largest", "test_target"), says="not needed")
def always_checkpoints(model, make_batch, loss_fn, opt_cls, budget, target):
    def measure(model, make_batch, loss_fn, opt_cls, n, _):
        return probe(model, make_batch, loss_fn, opt_cls, n, True)

    plan = flawed(measure)(model, make_batch, loss_fn, opt_cls, budget, target)
    n = plan.micro_batch
    return Plan(n, target // n, True, plan.predicted_peak, False)


@rejected("plan_batch", by="test_checkpoint", says="plan has none")
def gives_up_before_checkpoints(model, make_batch, loss_fn, opt_cls, budget, target):
    plan = right_plan(model, make_batch, loss_fn, opt_cls, budget, target)
    n = plan.micro_batch
    return Plan(n, plan.accum, False, plan.predicted_peak, plan.leak)


@rejected("plan_batch", by="test_checkpoint", says="lie between")
def one_sample_with_checkpoints(model, make_batch, loss_fn, opt_cls, budget, target):
    plan = right_plan(model, make_batch, loss_fn, opt_cls, budget, target)
    if not plan.checkpoint:
        return plan
    return Plan(1, target, True, plan.predicted_peak, plan.leak)


@rejected("plan_batch", by="test_checkpoint", says="predicted_peak")
def peak_without_the_checkpoints(model, make_batch, loss_fn, opt_cls, budget, target):
    plan = right_plan(model, make_batch, loss_fn, opt_cls, budget, target)
    with untouched():
        peak = probe(model, make_batch, loss_fn, opt_cls, plan.micro_batch)
    return Plan(plan.micro_batch, plan.accum, plan.checkpoint, peak, plan.leak)


@rejected("plan_batch", by="test_memory_error", says="expected MemoryError")
def plans_one_sample_anyway(model, make_batch, loss_fn, opt_cls, budget, target):
    try:
        return right_plan(model, make_batch, loss_fn, opt_cls, budget, target)
    except MemoryError:
        return Plan(1, target, True, budget, False)


def after_a_backward(model, make_batch, loss_fn):
    net, (x, y) = copy.deepcopy(model), make_batch(1)
    with PeakMeter() as meter:
        training_step(net, loss_fn, torch.optim.SGD(net.parameters(), lr=0.1), x, y)
        net.zero_grad()
        gc.collect()
    return meter.current > 100


@rejected("plan_batch", by="test_leak", says="list")
def looks_after_backward(model, make_batch, loss_fn, opt_cls, budget, target):
    run = flawed(leak=after_a_backward)
    return run(model, make_batch, loss_fn, opt_cls, budget, target)


def anything_alive(model, make_batch, loss_fn):
    net, (x, y) = copy.deepcopy(model), make_batch(1)
    with PeakMeter() as meter:
        loss_fn(net(x), y)
        gc.collect()
    return meter.current > 0


@rejected("plan_batch", by="test_no_leak", says="detached")
def anything_that_stays(model, make_batch, loss_fn, opt_cls, budget, target):
    run = flawed(leak=anything_alive)
    return run(model, make_batch, loss_fn, opt_cls, budget, target)
