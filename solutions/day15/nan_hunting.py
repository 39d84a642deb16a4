"""Day 15: stable functions, tracers for the first bad value, and a training loop on guard."""

import copy
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset


def safe_norm(x: Tensor, dim: int) -> Tensor:
    """L2 norm along `dim`, for entries of any magnitude.

    Args:
        x: (*,), floating point.
        dim: the axis that is dropped.

    Returns:
        (*) without `dim`, in the dtype of `x`. The gradient of a zero vector is 0.
    """
    ### BEGIN SOLUTION 1: norm
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    largest = wide.detach().abs().amax(dim, keepdim=True)
    scale = torch.where(largest > 0, largest, 1)
    root = safe_sqrt((wide / scale).square().sum(dim))
    return (root * scale.squeeze(dim)).to(x.dtype)
    ### END SOLUTION


def safe_sqrt(x: Tensor) -> Tensor:
    """Square root whose gradient at 0 is 0.

    Args:
        x: (*,), floating point, 0 or more.

    Returns:
        (*,), in the dtype of `x`.
    """
    ### BEGIN SOLUTION 1: square root
    zero = x == 0
    return torch.where(zero, 0, torch.where(zero, 1, x).sqrt())
    ### END SOLUTION


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)), exact near 0 and far from it.

    Args:
        x: (*,), floating point, below 0.

    Returns:
        (*,), in the dtype of `x`.
    """
    ### BEGIN SOLUTION 1: log(1 - exp(x))
    near = x > -math.log(2)
    close = torch.where(near, x, -1)
    far = torch.where(near, -1, x)
    return torch.where(near, (-close.expm1()).log(), (-far.exp()).log1p())
    ### END SOLUTION


def masked_softmax(x: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Softmax along `dim` over the entries that the mask keeps.

    Args:
        x: (*,), floating point, finite.
        mask: bool, broadcastable to `x`; True = keep.
        dim: an axis of `x`.

    Returns:
        (*,), in the dtype of `x`; 0 where masked, and all 0 where a row keeps nothing.
    """
    ### BEGIN SOLUTION 1: softmax
    mask = mask.expand_as(x)
    empty = ~mask.any(dim, keepdim=True)
    scores = torch.where(mask, x, -torch.inf).masked_fill(empty, 0)
    return torch.where(mask, scores.softmax(dim), 0)
    ### END SOLUTION


def masked_logsumexp(x: Tensor, mask: Tensor, dim: int) -> Tensor:
    """log of the sum of exp along `dim`, over the entries that the mask keeps.

    Args:
        x: (*,), floating point, finite.
        mask: bool, broadcastable to `x`; True = keep.
        dim: the axis of `x` that is dropped.

    Returns:
        (*) without `dim`, in the dtype of `x`; -inf where a row keeps nothing.
    """
    ### BEGIN SOLUTION 1: logsumexp
    mask = mask.expand_as(x)
    empty = ~mask.any(dim, keepdim=True)
    scores = torch.where(mask, x, -torch.inf).masked_fill(empty, 0)
    return scores.logsumexp(dim).masked_fill(empty.squeeze(dim), -torch.inf)
    ### END SOLUTION


def safe_acos(x: Tensor) -> Tensor:
    """Arc cosine whose gradient at 1 and -1 is 0.

    Args:
        x: (*,), floating point, -1 to 1.

    Returns:
        (*,), in the dtype of `x`.
    """
    ### BEGIN SOLUTION 1: arc cosine
    edge = x.abs() == 1
    return torch.where(edge, x.detach().acos(), torch.where(edge, 0, x).acos())
    ### END SOLUTION


class NanTracer:
    """Watch every leaf module of a model while a `with` block runs forward and backward.

    Attributes:
        first_forward: name of the first leaf module whose output holds inf or nan.
        first_backward: name of the first one, in the order of backward, for whose output the
            gradient holds inf or nan.
        report: (module name, "forward" or "backward", largest finite magnitude, all finite) of
            every output and every output's gradient, in the order of execution.
    """

    first_forward: str | None
    first_backward: str | None
    report: list[tuple[str, str, float, bool]]

    def __init__(self, model: nn.Module) -> None:
        """Nothing is watched before the `with` block begins."""
        ### BEGIN SOLUTION 2: what is remembered
        self.model = model
        self.first_forward = None
        self.first_backward = None
        self.report = []
        self.handles = []
        ### END SOLUTION

    def __enter__(self) -> "NanTracer":
        """Begin to watch."""
        ### BEGIN SOLUTION 2: begin
        for name, module in self.model.named_modules():
            if not list(module.children()):
                self.handles.append(module.register_forward_hook(self.forward_hook(name)))
        return self
        ### END SOLUTION

    def __exit__(self, *exception: object) -> None:
        """Stop watching; an exception goes on."""
        ### BEGIN SOLUTION 2: end
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        ### END SOLUTION

    ### BEGIN SOLUTION 2: helpers
    def forward_hook(self, name: str) -> Callable:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            tensors = [
                leaf
                for leaf in tree_leaves(output)
                if isinstance(leaf, Tensor) and leaf.is_floating_point()
            ]
            self.note(name, "forward", tensors)
            for tensor in tensors:
                if tensor.requires_grad:
                    handle = tensor.register_hook(
                        lambda gradient: self.note(name, "backward", [gradient])
                    )
                    self.handles.append(handle)

        return hook

    def note(self, name: str, phase: str, tensors: list[Tensor]) -> None:
        with torch.no_grad():
            flat = torch.cat([t.detach().flatten().double() for t in tensors] or [torch.zeros(0)])
            finite = flat.isfinite()
            good = bool(finite.all())
            largest = flat[finite].abs().max().item() if finite.any() else 0.0
        self.report.append((name, phase, largest, good))
        if not good:
            if phase == "forward" and self.first_forward is None:
                self.first_forward = name
            if phase == "backward" and self.first_backward is None:
                self.first_backward = name

    ### END SOLUTION


### BEGIN SOLUTION 3: helpers
def holds(tree: object) -> tuple[bool, bool]:
    """Whether any tensor in it holds nan, and whether any holds inf."""
    tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
    return any(bool(t.isnan().any()) for t in tensors), any(bool(t.isinf().any()) for t in tensors)


class Watch(TorchDispatchMode):
    def __init__(self, allow: tuple[str, ...]) -> None:
        super().__init__()
        self.allow, self.count, self.found = allow, 0, None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        fed = any(isinstance(leaf, Tensor) for leaf in tree_leaves((args, kwargs)))
        nan_before, inf_before = holds((args, kwargs))
        out = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if self.found is None and fed and name not in self.allow:
            nan, inf = holds(out)
            if (nan and not nan_before) or (inf and not (nan_before or inf_before)):
                self.found = name, self.count
        self.count += 1
        return out


### END SOLUTION


def first_bad_op(
    fn: Callable, *args: object, allow: tuple[str, ...] = ("masked_fill", "masked_fill_")
) -> tuple[str, int] | None:
    """Name and place of the first ATen operator that creates a nan or an inf.

    Args:
        fn: called once, as `fn(*args)`.
        args: tensors and anything else.
        allow: short names of operators that are never blamed.

    Returns:
        Short name (`func.overloadpacket.__name__`) and place among all dispatched operators,
        from 0; None if none is to blame.
    """
    ### BEGIN SOLUTION 3: run and report
    with Watch(allow) as watch:
        fn(*args)
    return watch.found
    ### END SOLUTION


def bad_rows(ds: Dataset, classes: int, z: float = 8.0) -> dict[str, list[int]]:
    """Rows of a data set that would poison a training.

    Args:
        ds: has `len(ds)`; an item is x (feat,), floats or ints, and y, an int.
        classes: labels are 0 to `classes - 1`.
        z: robust score above which a finite entry is an outlier.

    Returns:
        Sorted row numbers under the keys `nan`, `inf`, `outlier` and `label_range`.
    """
    ### BEGIN SOLUTION 4: read once, then judge
    items = [ds[i] for i in range(len(ds))]
    x = torch.stack([features for features, _ in items]).double()
    finite = x.isfinite()
    known = x.masked_fill(~finite, torch.nan)
    off = (known - known.nanmedian(0).values).abs()
    mad = off.nanmedian(0).values
    far = 0.6745 * off / mad > z
    bad = {
        "nan": x.isnan().any(1),
        "inf": x.isinf().any(1),
        "outlier": (far & (mad > 0)).any(1),
        "label_range": torch.tensor([not 0 <= int(y) < classes for _, y in items]),
    }
    return {key: rows.nonzero().flatten().tolist() for key, rows in bad.items()}
    ### END SOLUTION


@dataclass(frozen=True)
class Policy:
    """When a step is bad, how far good ones may go, and what happens after bad ones."""

    explode: float = 5.0
    clip_quantile: float = 0.9
    clip_factor: float = 4.0
    window: int = 50
    patience: int = 3
    snapshot_every: int = 10
    lr_factor: float = 0.1
    max_rollbacks: int = 5


@dataclass
class Report:
    """What happened in a training."""

    losses: list[float] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    causes: dict[int, str] = field(default_factory=dict)
    rollbacks: int = 0


def guarded_fit(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    opt: torch.optim.Optimizer,
    *,
    steps: int,
    policy: Policy,
) -> Report:
    """Train for `steps` steps; skip bad steps, clip good ones, roll back after several bad ones.

    Args:
        model: called with each x.
        loader: pairs x (batch, *), y (batch, *); iterated anew when it ends.
        loss_fn: `loss_fn(model(x), y)` is a scalar.
        opt: holds the parameters of the model.
        steps: number of steps, bad ones included.
        policy: the rules.

    Returns:
        The losses of all steps, the bad steps, their causes, and the number of rollbacks.

    Raises:
        RuntimeError: more than `policy.max_rollbacks` rollbacks.
    """
    ### BEGIN SOLUTION 5: the loop
    report = Report()
    norms = deque(maxlen=policy.window)
    first, good, streak = None, 0, 0

    def snapshot() -> tuple[dict, dict]:
        return copy.deepcopy((model.state_dict(), opt.state_dict()))

    saved = snapshot()
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    for number, (x, y) in enumerate(itertools.islice(batches, steps)):
        opt.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        value, length = torch.stack([loss.detach(), norm]).tolist()
        report.losses.append(value)
        if first is None and math.isfinite(value):
            first = value
        cause = None
        if not math.isfinite(value):
            cause = "loss"
        elif not math.isfinite(length):
            cause = "grad"
        elif value > policy.explode * first:
            cause = "explode"
        if cause is None:
            if len(norms) >= 10:
                limit = policy.clip_factor * torch.tensor(list(norms)).quantile(
                    policy.clip_quantile
                )
                nn.utils.clip_grads_with_norm_(model.parameters(), limit, norm)
            norms.append(length)
            opt.step()
            good, streak = good + 1, 0
            if good % policy.snapshot_every == 0:
                saved = snapshot()
            continue
        opt.zero_grad()
        report.skipped.append(number)
        report.causes[number] = cause
        streak += 1
        if streak == policy.patience:
            report.rollbacks += 1
            if report.rollbacks > policy.max_rollbacks:
                raise RuntimeError(f"{report.rollbacks} rollbacks, and the training is still sick")
            rates = [group["lr"] * policy.lr_factor for group in opt.param_groups]
            weights, moments = copy.deepcopy(saved)
            model.load_state_dict(weights)
            opt.load_state_dict(moments)
            for group, rate in zip(opt.param_groups, rates, strict=True):
                group["lr"] = rate
            streak = 0
    return report
    ### END SOLUTION
