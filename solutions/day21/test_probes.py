"""Day 21 asks for probes, a diagnosis and a checklist, and tries them on a zoo of sick runs."""

import copy
import functools
import math
import re
import sys
import textwrap
import types
from pathlib import Path

import pytest
import torch
import torch._dynamo  # the first optimizer would import it, a second, in every process anew
from torch import nn

from grader.testing import expect, fail, measured, picture

STEPS = 60  # of a trace that a probe is shown
SEEDS = (1013, 2027, 3041)
CONTROLS = (4057, 5077, 6089, 7103)
PAIRS = (
    ("detached", "unscaled"),
    ("lr_tiny", "double_softmax"),
    ("nan_row", "no_zero_grad"),
    ("sigmoid_deep", "unscaled"),
    ("stale_optimizer", "double_softmax"),
)
GROUPS = (
    "shape/dtype",
    "not learning",
    "nan",
    "overfit/leak",
    "memory",
    "speed",
    "reproducibility",
)


def loaded(name, private="_loop"):
    """The zoo that lies beside this suite, as a module of that name."""
    path = Path(__file__).with_name("zoo.py")
    module = types.ModuleType(name)
    text = path.read_text(encoding="utf-8").replace("_loop", private)
    exec(compile(text, str(path), "exec"), module.__dict__)
    return module


zoo = loaded("zoo_of_the_checks", private="_order_of_a_step")  # nobody is to read it off
make, KINDS = zoo.make, zoo.KINDS
sys.modules["zoo"] = loaded("zoo")  # what a submission imports is a copy of its own


# --- what a recorder should see -----------------------------------------------------------------


def custom(seed, layers, loop=zoo.LOOP):
    """A healthy run of other layers, which `layers()` makes, or of another loop."""
    torch.manual_seed(seed)
    run = make("healthy", seed)
    model = nn.Sequential(*layers())
    opt = torch.optim.Adam(model.parameters(), lr=3e-3)
    return zoo.Run(model, run.loader, run.loss_fn, opt, loop=loop)


def with_dropout(seed=11):
    """A run that draws random numbers in every step."""
    return custom(
        seed,
        lambda: [
            nn.Linear(10, 7),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(7, 5),
            nn.Tanh(),
            nn.Linear(5, 2),
        ],
    )


def zero_at_the_end(seed=13):
    """A run that clears the gradients right behind the optimizer's step."""
    loop = ("forward", "backward", "step", "zero")
    return custom(seed, lambda: [nn.Linear(10, 7), nn.ReLU(), nn.Linear(7, 2)], loop)


def norm(values):
    """The norm of a tensor, in float64."""
    return values.detach().double().norm().item()


def observe(run, steps):
    """What a recorder writes down of a run, by a loop that does all stages in the open."""
    lists = {}
    mine = dict(run.model.named_parameters())
    for _ in range(steps):
        x, y = next(run.loader)
        seen = {"training": run.model.training, "dead": {}, "saturated": {}}
        seen["data_mean"] = x.mean(0).tolist()
        seen["data_std"] = x.std(0).tolist()
        seen["batch_hash"] = x.numpy().tobytes()
        old = {name: p.detach().clone() for name, p in mine.items()}
        loss = None
        for stage in run._order_of_a_step:
            if stage == "zero":
                run.opt.zero_grad()
            elif stage == "forward":
                loss = run._factor * run.loss_fn(forward(run.model, x, seen), y)
            elif stage == "cut":
                loss = loss.detach().requires_grad_()
            elif stage in ("backward", "climb"):
                (loss if stage == "backward" else -loss).backward()
            elif stage == "step":
                seen["lr"] = run.opt.param_groups[0]["lr"]
                seen["grad_norm"] = {
                    name: math.nan if p.grad is None else norm(p.grad) for name, p in mine.items()
                }
                run.opt.step()
        change = {name: norm(p.detach() - old[name]) for name, p in mine.items()}
        seen["loss"] = loss.item()
        seen["weight_norm"] = {name: norm(p) for name, p in old.items()}
        seen["update_ratio"] = {n: c / (seen["weight_norm"][n] + 1e-12) for n, c in change.items()}
        seen["param_delta"] = math.hypot(*change.values())
        seen["reached"] = 0.0 if "cut" in run._order_of_a_step else 1.0
        for name, value in seen.items():
            lists.setdefault(name, []).append(value)
    return lists


def forward(model, x, seen):
    """The output of a sequential model, layer by layer."""
    for name, layer in model.named_children():
        x = layer(x)
        out = x.detach()
        if isinstance(layer, nn.ReLU):
            seen["dead"][name] = int((out == 0).sum()) / out.numel()
        elif isinstance(layer, nn.Sigmoid):
            at_the_limits = (out <= 0.01) | (out >= 0.99)
            seen["saturated"][name] = int(at_the_limits.sum()) / out.numel()
        elif isinstance(layer, nn.Tanh):
            seen["saturated"][name] = int((out.abs() >= 0.99).sum()) / out.numel()
    seen["row_sum"] = x.detach().double().sum(-1).mean().item()
    return x


def close(got, expected, nothing_is_zero=False):
    """Equal numbers to about five digits; nan agrees with nan."""
    if isinstance(got, bool) or not isinstance(got, int | float):
        return False
    if nothing_is_zero and (math.isnan(expected) or expected == 0):
        return math.isnan(got) or got == 0
    if math.isnan(expected):
        return math.isnan(got)
    return math.isclose(got, expected, rel_tol=1e-5, abs_tol=1e-9)


def flat(value, path=""):
    """The numbers of a list, a dict or a number, each with its place."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from flat(inner, f"{path}[{name!r}]")
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from flat(inner, f"{path}[{i}]")
    else:
        yield path, value


def assert_seen(trace, lists, name, what, known=None, nothing_is_zero=False):
    """The list `name` of a trace holds what the open loop saw.

    `known`: a sentence about a mistake -> the list that it gives.
    """
    got, expected = dict(flat(getattr(trace, name, None))), dict(flat(lists[name]))
    if set(got) != set(expected):
        odd = sorted(set(got) ^ set(expected))[0]
        fail(
            f"trace.{name}{odd} is {'one too many' if odd in got else 'missing'}: {what}",
            expected=sorted(expected)[:6],
            got=sorted(got)[:6],
        )

    def agree(values):
        return all(close(got[path], value, nothing_is_zero) for path, value in values.items())

    if agree(expected):
        return
    for sentence, mistaken in (known or {}).items():
        values = dict(flat(mistaken))
        if set(values) == set(got) and agree(values):
            fail(f"trace.{name}: {sentence}", id="trace.known")
    path = next(p for p, value in expected.items() if not close(got[p], value, nothing_is_zero))
    fail(
        f"trace.{name}{path} is {got[path]!r}, and it was {expected[path]:.6g}: {what}",
        id="trace.value",
        expected=expected[path],
        got=got[path],
    )


def state_of(run):
    """Everything of a run that taking a step, or looking carelessly, would change."""
    return {
        "the weights": [p.detach().clone() for p in run.model.parameters()],
        "a gradient": [None if p.grad is None else p.grad.clone() for p in run.model.parameters()],
        "the optimizer": copy.deepcopy(run.opt.state_dict()),
        "the position of the loader": run.loader.position,
        "the data": [run.loader.x.clone(), run.loader.y.clone()],
        "the mode of the model": [module.training for module in run.model.modules()],
        "the global random state": torch.get_rng_state(),
        "what the run is made of": [id(part) for part in vars(run).values()][:4],
    }


def same(one, other):
    """Equal to the bit, whatever it is made of."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and one.numpy().tobytes() == other.numpy().tobytes()
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def hooks_of(run):
    """How many hooks hang on the run's modules, parameters and optimizer."""
    parts = [*run.model.modules(), *run.model.parameters(), run.opt]
    return sum(
        len(value)
        for part in parts
        for name, value in [
            *vars(part).items(),
            *((n, getattr(part, n, None)) for n in ("_backward_hooks", POST_ACCUMULATE)),
        ]
        if name.endswith("_hooks") and isinstance(value, dict)
    )


POST_ACCUMULATE = "_post_accumulate_grad_hooks"
NAMES = (
    "loss",
    "lr",
    "grad_norm",
    "weight_norm",
    "update_ratio",
    "param_delta",
    "reached",
    "dead",
    "saturated",
    "row_sum",
    "batch_hash",
    "training",
    "data_mean",
    "data_std",
)


@pytest.mark.task("record")
class TestRecord:
    @pytest.mark.points(2, "structure")
    def test_one_entry_a_step(self, submission):
        """Every list of the trace has one entry a step."""
        run = make("healthy", 17)
        trace = submission.record(run, 3)
        for name in NAMES:
            got = getattr(trace, name, None)
            expect(
                isinstance(got, list) and len(got) == 3,
                f"after record(run, 3), trace.{name} is {shown(got)}; a list with one entry a step "
                "is asked for",
            )
        expect(
            run.loader.position == 3,
            f"record(run, 3) took {run.loader.position} steps of the run; 3 are asked for",
        )

    @pytest.mark.points(3, "value")
    @pytest.mark.parametrize("kind", ["dropout", "healthy", "nan_row"])
    def test_losses_as_if_unwatched(self, submission, kind):
        """The losses are to the bit those of a run that nobody watches, nan too."""
        build = with_dropout if kind == "dropout" else functools.partial(make, kind, 19)
        run, twin = build(), build()
        torch.manual_seed(23)
        trace = submission.record(run, 9)
        left = torch.get_rng_state()
        torch.manual_seed(23)
        expected = [twin.step() for _ in range(9)]
        drawn = torch.get_rng_state()
        for step, (a, b) in enumerate(zip(trace.loss, expected, strict=True)):
            expect(
                isinstance(a, float) and (a == b or (math.isnan(a) and math.isnan(b))),
                f"the loss of step {step} is {a!r} while it is recorded and {b!r} otherwise: "
                "watching changes the run (random numbers, gradients, weights or the mode)",
                expected=b,
                got=a,
            )
        expect(
            torch.equal(left, drawn),
            "recording leaves the global random generator in another state than the run alone "
            "does: it draws, or seeds, random numbers of its own",
        )

    @pytest.mark.points(3, "value")
    @pytest.mark.parametrize("kind", ["healthy", "zero_at_the_end", "zero_after_backward"])
    def test_gradients_at_the_step(self, submission, kind):
        """grad_norm is what the optimizer sees when it steps, nan where there is no gradient."""
        build = zero_at_the_end if kind == "zero_at_the_end" else functools.partial(make, kind, 29)
        run, twin = build(), build()
        trace = submission.record(run, 4)
        lists = observe(twin, 4)
        empty = [dict.fromkeys(step, math.nan) for step in lists["grad_norm"]]
        zeros = [dict.fromkeys(step, 0.0) for step in lists["grad_norm"]]
        known = {}
        if kind == "zero_at_the_end":
            late = "it is read when zero_grad has cleared the gradients; read it as the step begins"
            known = {late: empty, f"{late}.": zeros}
        what = "the norm of each parameter's gradient as the optimizer's step begins"
        assert_seen(trace, lists, "grad_norm", what, known, nothing_is_zero=True)

    @pytest.mark.points(3, "value")
    @pytest.mark.parametrize("kind", ["healthy", "lr_huge", "lr_tiny"])
    def test_updates(self, submission, kind):
        """Updates are measured: the weights before and after the step are compared."""
        run, twin = make(kind, 31), make(kind, 31)
        trace = submission.record(run, 4)
        lists = observe(twin, 4)
        guessed = [
            {n: lr * g[n] / (w[n] + 1e-12) for n in g}
            for lr, g, w in zip(lists["lr"], lists["grad_norm"], lists["weight_norm"], strict=True)
        ]
        known = {}
        if kind != "lr_huge":
            known[
                "it is lr * gradient, which is the update of plain SGD only; compare the weights"
            ] = guessed
        assert_seen(trace, lists, "lr", "the learning rate of the optimizer's first group")
        assert_seen(trace, lists, "weight_norm", "the norm of each parameter before the step")
        what = "|after - before| / (|before| + 1e-12) of each parameter"
        assert_seen(trace, lists, "update_ratio", what, known)
        assert_seen(trace, lists, "param_delta", "the norm of the change of all parameters")

    @pytest.mark.points(2, "value")
    @pytest.mark.parametrize("kind", ["healthy", "dropout", "sigmoid_deep", "dead_relu"])
    def test_activations(self, submission, kind):
        """dead and saturated are shares of a layer's outputs, by the layer's name."""
        build = with_dropout if kind == "dropout" else functools.partial(make, kind, 37)
        run, twin = build(), build()
        torch.manual_seed(41)
        trace = submission.record(run, 3)
        torch.manual_seed(41)
        lists = observe(twin, 3)
        assert_seen(trace, lists, "dead", "the share of a ReLU's outputs that are 0, by its name")
        what = "the share of a sigmoid's or tanh's outputs within 0.01 of a limit, by its name"
        assert_seen(trace, lists, "saturated", what)

    @pytest.mark.points(2, "value")
    def test_batches(self, submission):
        """The batch is described: its features, its mode, the same hash for the same batch."""
        run, twin = make("unscaled+double_softmax", 43), make("unscaled+double_softmax", 43)
        for one in (run, twin):
            one.loader = Repeating(one.loader.x, one.loader.y)
            one.model.eval()
        trace = submission.record(run, 5)
        lists = observe(twin, 5)
        for step, (got, wanted) in enumerate(zip(trace.data_mean, lists["data_mean"], strict=True)):
            widths = lists["data_std"][step]
            expect(
                isinstance(got, list)
                and len(got) == len(wanted)
                and all(
                    abs(g - w) <= 1e-5 * s for g, w, s in zip(got, wanted, widths, strict=True)
                ),
                f"trace.data_mean[{step}] is {shown(got)}; the mean of every feature "
                f"over the batch is {[round(w, 4) for w in wanted[:3]]} and so on",
                expected=wanted,
                got=shown(got),
            )
        assert_seen(trace, lists, "data_std", "x.std(dim=0) of the batch")
        for step, (got, wanted) in enumerate(zip(trace.row_sum, lists["row_sum"], strict=True)):
            expect(
                isinstance(got, float) and math.isclose(got, wanted, abs_tol=1e-5),
                f"trace.row_sum[{step}] is {got!r}; the rows of this model's output sum to 1",
                expected=wanted,
                got=got,
            )
        expect(
            list(trace.training) == [False] * 5,
            f"the model was in eval mode in all steps, and trace.training is {trace.training}",
        )
        hashes = trace.batch_hash
        expect(
            hashes[0] == hashes[2] == hashes[4] and hashes[1] == hashes[3],
            "the same batch comes in the steps 0, 2 and 4, and again in 1 and 3, and its hash "
            "differs: it has to follow from the values of the input alone",
            got=hashes,
        )
        expect(
            hashes[0] != hashes[1],
            "two different batches of the same shape have the same hash",
            got=hashes,
        )

    @pytest.mark.points(2, "value")
    @pytest.mark.parametrize("kind", ["zero_after_backward", "detached", "healthy"])
    def test_reached(self, submission, kind):
        """reached tells a gradient that was cleared from one that never came."""
        run, twin = make(kind, 47), make(kind, 47)
        trace = submission.record(run, 3)
        lists = observe(twin, 3)
        known = {
            "it is read off the gradients at the optimizer's step, where they had been cleared "
            "already; watch backward itself": [0.0] * 3 if kind == "zero_after_backward" else None
        }
        what = "the share of the parameters to which this step's backward came"
        assert_seen(trace, lists, "reached", what, known)

    @pytest.mark.points(2, "structure")
    def test_nothing_stays_behind(self, submission):
        """Hooks and wrappers are gone afterwards, also when a step raises."""
        run = make("healthy", 53)
        names = {part: set(vars(getattr(run, part))) for part in ("model", "opt", "loader")}
        own, before = set(vars(run)), hooks_of(run)
        submission.record(run, 2)
        look(run, own, names, before, "after record")
        run.loss_fn = breaks
        try:
            submission.record(run, 2)
        except ZeroDivisionError:
            pass
        else:
            fail("an exception of the run's step has to come through record")
        look(run, own, names, before, "after a step that raised")

    @pytest.mark.points(1, "value")
    def test_foreign_parameters(self, submission):
        """A run whose optimizer holds another network's parameters is recorded as it is."""
        run, twin = make("stale_optimizer", 59), make("stale_optimizer", 59)
        trace = submission.record(run, 3)
        lists = observe(twin, 3)
        what = "the norm of the gradients of the model's own parameters"
        assert_seen(trace, lists, "grad_norm", what, nothing_is_zero=True)
        what = "the change of the model's own parameters, which the optimizer doesn't hold"
        assert_seen(trace, lists, "param_delta", what)


class Repeating:
    """Gives two batches in turn."""

    def __init__(self, x, y):
        self.x, self.y = x, y
        self.position = 0

    def __next__(self):
        place = 64 * (self.position % 2)
        self.position += 1
        return self.x[place : place + 64].clone(), self.y[place : place + 64].clone()


def breaks(logits, y):
    """A loss function that raises."""
    raise ZeroDivisionError


def look(run, own, names, hooks, when):
    """Nothing hangs on the run that did not hang there before."""
    for part, before in names.items():
        extra = set(vars(getattr(run, part))) - before
        if extra:
            fail(f"{when}, run.{part} has a new attribute `{min(extra)}`: take wrappers off again")
    if set(vars(run)) - own:
        fail(f"{when}, the run has a new attribute `{min(set(vars(run)) - own)}`")
    left = hooks_of(run) - hooks
    expect(left == 0, f"{when}, {left} hooks stay on the run; remove them in a `finally`", got=left)


def shown(value):
    """A value as a message quotes it."""
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 80 else text[:77] + "..."


# --- the checklist as text ----------------------------------------------------------------------


def rows_of(text):
    """Of each row: group, id, symptom, probe, threshold as text, fix; and what is no whole row."""
    rows, broken, group = [], [], ""
    for line in text.splitlines():
        if line.startswith("## "):
            group = line[3:].strip()
        elif line.startswith(("- [ ] ", "- [x] ")):
            cells = [cell.strip() for cell in line[6:].split("|")]
            if len(cells) == 5 and all(cells[:3]) and cells[2].startswith("probe:"):
                rows.append((group, *cells[:2], cells[2][6:].strip(), *cells[3:]))
            else:
                broken.append(line)
    return rows, broken


def number(text):
    """A finite number, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def document(scratch):
    """The learner's checklist as text."""
    path = scratch / "debug_checklist.md"
    expect(path.exists(), "there is no debug_checklist.md beside probes.py")
    return path.read_text(encoding="utf-8")


def at_least_fifteen(scratch):
    """The rows of the learner's checklist."""
    rows, broken = rows_of(document(scratch))
    details = [f"no row: {line[:76]}" for line in broken[:4]]
    expect(
        len(rows) >= 15,
        f"debug_checklist.md has {len(rows)} whole rows; at least 15 are asked for, each "
        "`- [ ] ID | symptom | probe: function | threshold | fix`",
        got=len(rows),
        details=details,
    )
    return rows


# --- probes on the zoo --------------------------------------------------------------------------


@functools.cache
def watched(kind, seed, steps=STEPS, units=1.0):
    """What is to be seen of a run of the zoo."""
    lists = observe(make(kind, seed, units=units, factor=units), steps)
    lists["batch_hash"] = [hash(data) for data in lists["batch_hash"]]
    return lists


def probes_of(submission, scratch):
    """Of each kind with a probe: the function and its threshold in the checklist."""
    limits = {}
    for _, _, _, probe, threshold, _ in rows_of(document(scratch))[0]:
        limits.setdefault(probe, number(threshold))
    found = {}
    for kind in KINDS:
        name = f"probe_{kind}"
        function = vars(submission).get(name)
        if function is None:
            continue
        expect(
            limits.get(name) is not None,
            f"probes.py has {name}, and no row of debug_checklist.md gives it a threshold "
            f"(`probe: {name} | 0.5`)",
        )
        found[kind] = (function, limits[name])
    expect(
        len(found) >= 10,
        f"probes.py has probes for {len(found)} kinds of the zoo; at least 10 are asked for, "
        "called probe_ and the kind's name",
        got=len(found),
        details=[f"without a probe: {', '.join(k for k in KINDS if k not in found)}"],
    )
    return found


def value_of(submission, kind, function, patient, seed, steps=STEPS, units=1.0):
    """What a probe gives for a run of the zoo."""
    value = function(submission.Trace(**copy.deepcopy(watched(patient, seed, steps, units))))
    expect(
        isinstance(value, int | float),
        f"probe_{kind} gives {shown(value)}, of type {type(value).__name__}; a float is asked for",
    )
    return float(value)


def page(rows, hits, alarms):
    """The checklist with its hit rates, as lines of a page, and which of them are not as asked."""
    lines, marked, heading = [], [], None
    for group, name, symptom, probe, threshold, fix in rows:
        if group != heading:
            heading = group
            lines += ["", f"## {group}"] if lines else [f"## {group}"]
        kind = probe.removeprefix("probe_")
        rate = "no kind of the zoo"
        if kind in hits:
            rate = f"{hits[kind]} of {len(SEEDS)} found, {alarms[kind]} false alarms"
            if hits[kind] < len(SEEDS) or alarms[kind]:
                marked.append(len(lines))
        lines.append(f"{name}  {probe} >= {threshold}: {rate}")
        lines += textwrap.wrap(
            f"{symptom}: {fix}", 72, initial_indent="    ", subsequent_indent="    "
        )
    return lines, marked


def spares(submission, scratch, seeds, steps=STEPS, units=1.0, told="a healthy run"):
    """No probe flags a healthy run."""
    for kind, (function, limit) in probes_of(submission, scratch).items():
        for seed in seeds:
            value = value_of(submission, kind, function, "healthy", seed, steps, units)
            expect(
                not value >= limit,
                f"probe_{kind} gives {value:.3g} for {told}, which is not below its threshold "
                f"{limit:g}: a false alarm",
                expected=f"below {limit:g}",
                got=value,
            )


@pytest.mark.task("probes")
class TestProbes:
    @pytest.mark.points(3, "structure")
    def test_ten_probes(self, submission, scratch):
        """At least ten kinds have a probe, each with a threshold in the checklist."""
        probes_of(submission, scratch)

    @pytest.mark.points(8, "value")
    @pytest.mark.after("test_ten_probes")
    def test_spares_the_healthy(self, submission, scratch):
        """No probe flags a healthy run."""
        spares(submission, scratch, CONTROLS)

    @pytest.mark.points(4, "value")
    @pytest.mark.after("test_ten_probes")
    def test_other_units(self, submission, scratch):
        """A healthy run stays healthy when data and loss are in other units."""
        told = "a healthy run whose data and loss are multiplied by 100"
        spares(submission, scratch, CONTROLS[:2], units=100.0, told=told)

    @pytest.mark.points(3, "value")
    @pytest.mark.after("test_ten_probes")
    def test_early_steps(self, submission, scratch):
        """A healthy run is not flagged in its first 20 steps."""
        told = "the first 20 steps of a healthy run, in which little has been learned yet"
        spares(submission, scratch, CONTROLS[:3], steps=20, told=told)

    @pytest.mark.points(12, "value")
    @pytest.mark.after("test_ten_probes")
    def test_flags_its_disease(self, submission, scratch):
        """Every probe flags its own disease, on three runs of it."""
        found = probes_of(submission, scratch)
        hits, missed = {}, []
        for kind, (function, limit) in found.items():
            values = [value_of(submission, kind, function, kind, seed) for seed in SEEDS]
            hits[kind] = sum(value >= limit for value in values)
            missed += [(kind, value, limit) for value in values if not value >= limit]
        alarms = {
            kind: sum(value_of(submission, kind, function, "healthy", s) >= limit for s in CONTROLS)
            for kind, (function, limit) in found.items()
        }
        lines, marked = page(rows_of(document(scratch))[0], hits, alarms)
        picture(
            "text",
            "The checklist",
            f"{len(found)} of its probes were tried on {len(SEEDS)} runs with their disease and on "
            f"{len(CONTROLS)} healthy ones.",
            panels=[{"label": "debug_checklist.md", "lines": lines, "marked": marked}],
        )
        measured(f"{sum(hits.values())} of {len(SEEDS) * len(hits)}")
        for kind, value, limit in missed[:1]:
            why = (
                "; nan is never flagged: leave out what is not finite" if math.isnan(value) else ""
            )
            fail(
                f"probe_{kind} gives {value:.3g} for a run with {kind}, and its threshold is "
                f"{limit:g}: not found{why}",
                id="probe.missed",
                expected=f"{limit:g} or more",
                got=value,
                details=[f"{len(missed)} of {len(SEEDS) * len(found)} sick runs are not found"],
            )

    @pytest.mark.points(3, "value")
    @pytest.mark.after("test_ten_probes")
    def test_two_others_at_most(self, submission, scratch):
        """A probe flags at most two diseases besides its own."""
        found = probes_of(submission, scratch)
        patients = ("healthy", *KINDS)
        table = []
        for kind, (function, limit) in found.items():
            table.append(
                [
                    int(value_of(submission, kind, function, patient, SEEDS[0]) >= limit)
                    for patient in patients
                ]
            )
        picture(
            "heatmap",
            "Which probe flags what",
            "1 where a probe flags a run; its own disease is framed. Probes: "
            + ", ".join(f"{i} {kind}" for i, kind in enumerate(found))
            + ". Runs: "
            + ", ".join(f"{i} {kind}" for i, kind in enumerate(patients))
            + ".",
            maps=[
                {
                    "label": "flagged",
                    "values": table,
                    "marked": [[i, patients.index(kind)] for i, kind in enumerate(found)],
                }
            ],
            row_axis="probe",
            column_axis="run",
        )
        for kind, flags in zip(found, table, strict=True):
            others = [p for p, flag in zip(patients, flags, strict=True) if flag and p != kind]
            expect(
                len(others) <= 2,
                f"probe_{kind} also flags {', '.join(others)}; two besides its own are the most. "
                "What is different there, though the loss looks the same?",
                id="probe.others",
                got=others,
            )

    @pytest.mark.points(2, "structure")
    @pytest.mark.after("test_ten_probes")
    def test_the_threshold_decides(self, submission, scratch):
        """A probe measures; a higher threshold in the checklist changes the verdict."""
        for kind, (function, _) in probes_of(submission, scratch).items():
            value = value_of(submission, kind, function, kind, SEEDS[0])
            expect(
                not value >= 1e30,
                f"probe_{kind} gives {value} for a run with {kind}, so no threshold could make it "
                "healthy: give what was measured, and leave the verdict to the checklist",
                got=str(value),
            )


# --- the diagnosis ------------------------------------------------------------------------------


def diagnosed(submission, kind, seed, **kwargs):
    """The first three names that `diagnose` gives."""
    got = submission.diagnose(make(kind, seed), **kwargs)
    expect(
        isinstance(got, list) and all(name in KINDS for name in got),
        f"diagnose gives {shown(got)}; a list of names of zoo.KINDS is asked for",
    )
    return got[:3]


@pytest.mark.task("diagnose")
class TestDiagnose:
    @pytest.mark.points(6, "value")
    def test_healthy_runs(self, submission):
        """Four healthy runs are not ill."""
        for seed in CONTROLS:
            got = diagnosed(submission, "healthy", seed)
            expect(
                got == [],
                f"diagnose gives {got} for a healthy run; [] is asked for",
                expected=[],
                got=got,
            )

    @pytest.mark.points(4, "value")
    @pytest.mark.parametrize("most", [60, 25])
    def test_budget(self, submission, monkeypatch, most):
        """All experiments together take max_steps steps at most, copies included."""
        taken = counting(monkeypatch)
        for kind in ("healthy", "shuffled_labels", "nan_row"):
            taken.clear()
            submission.diagnose(make(kind, 61), max_steps=most)
            expect(
                len(taken) <= most,
                f"diagnose(run, max_steps={most}) calls step() {len(taken)} times, copies of the "
                "run included",
                expected=f"at most {most}",
                got=len(taken),
            )

    @pytest.mark.points(5, "structure")
    @pytest.mark.parametrize("kind", ["healthy", "shuffled_labels"])
    def test_leaves_the_run_alone(self, submission, kind):
        """The run stays as it was: weights, optimizer, random state, place in the data."""
        run = make(kind, 67)
        for _ in range(3):
            run.step()
        before, hooks = state_of(run), hooks_of(run)
        submission.diagnose(run)
        after = state_of(run)
        for part, value in before.items():
            expect(
                same(value, after[part]),
                f"diagnose changes {part}; experiments are made on copy.deepcopy(run)",
            )
        expect(hooks_of(run) == hooks, "diagnose leaves hooks on the run it was given")

    @pytest.mark.points(10, "value")
    def test_known_kinds(self, submission):
        """In four of five runs the disease is the first that is named."""
        patients = [(kind, seed) for kind in KINDS for seed in SEEDS[:2]]
        wrong = []
        for kind, seed in patients:
            got = diagnosed(submission, kind, seed)
            if got[:1] != [kind]:
                wrong.append((kind, got))
        right = len(patients) - len(wrong)
        measured(f"{right} of {len(patients)}")
        expect(
            right >= 0.8 * len(patients),
            f"the disease is named first in {right} of {len(patients)} runs; four of five are "
            "asked for",
            id="diagnose.known",
            expected=f"at least {math.ceil(0.8 * len(patients))}",
            got=right,
            details=[f"{kind}: {', '.join(got) or 'healthy'}" for kind, got in wrong[:8]],
        )

    @pytest.mark.points(5, "value")
    def test_pairs(self, submission):
        """Of two diseases at once, one is among the first two named, in three runs of five."""
        wrong = []
        for pair, seed in zip(PAIRS, SEEDS + CONTROLS, strict=False):
            got = diagnosed(submission, "+".join(pair), seed)
            if not set(got[:2]) & set(pair):
                wrong.append((pair, got))
        expect(
            len(wrong) <= 2,
            f"of five runs with two diseases each, one of the two is among the first two names in "
            f"{5 - len(wrong)}; three are asked for",
            id="diagnose.pairs",
            details=[f"{' and '.join(pair)}: {', '.join(got) or 'healthy'}" for pair, got in wrong],
        )


def counting(monkeypatch):
    """A list that grows by one whenever a run of the zoo takes a step."""
    taken = []
    step = zoo.Run.step

    def counted(self):
        taken.append(1)
        return step(self)

    monkeypatch.setattr(zoo.Run, "step", counted)
    return taken


# --- the document -------------------------------------------------------------------------------

MESSAGES = (
    ("mat1 and mat2 shapes cannot be multiplied (5x7 and 11x3)", "shape/dtype"),
    ("expected scalar type Long but found Float", "shape/dtype"),
    ("element 0 of tensors does not require grad and does not have a grad_fn", "not learning"),
    ("the loss is not decreasing", "not learning"),
    ("Function 'LogBackward0' returned nan values in its 0th output.", "nan"),
    ("validation loss rises while training loss falls: overfitting", "overfit/leak"),
    ("CUDA out of memory. Tried to allocate 3.00 GiB.", "memory"),
    ("training is slow, GPU utilization 7 %", "speed"),
    ("DataLoader worker (pid 1234) is killed by signal", "speed"),
    ("two runs with the same seed give different results", "reproducibility"),
)


def first_of(text, symptom):
    """Day 0's rule: the heading and the ids of the group with the most keywords in the symptom."""
    best, most = ("", []), 0
    group, words, ids = "", set(), []
    for line in [*text.splitlines(), "## "]:
        if line.startswith("## "):
            count = sum(word in symptom.lower() for word in words)
            if count > most:
                best, most = (group, ids), count
            group, words, ids = line[3:].strip(), set(), []
        elif group and line.startswith("Keywords:"):
            words |= {w.strip().lower() for w in line[9:].split(",")} - {""}
        elif group and line.startswith(("- [ ] ", "- [x] ")):
            ids.append(line[6:].split()[0] if line[6:].split() else "")
    return best


def is_group(heading, name):
    """Whether a heading begins with a group's name."""
    return heading.lower().startswith(name)


@pytest.mark.task("debug_checklist")
class TestChecklist:
    @pytest.mark.points(3, "structure")
    def test_fifteen_rows(self, submission, scratch):
        """The checklist has at least 15 whole rows, and no broken one."""
        at_least_fifteen(scratch)
        _, broken = rows_of(document(scratch))
        expect(
            not broken,
            "a line with a box is no whole row `- [ ] ID | symptom | probe: function | threshold "
            f"| fix`: {broken[0][:80] if broken else ''}",
        )

    @pytest.mark.points(2, "structure")
    def test_ids_differ(self, submission, scratch):
        """Every row has an id of its own, of one word."""
        ids = [row[1] for row in at_least_fifteen(scratch)]
        for name in ids:
            expect(
                len(name.split()) == 1 and ids.count(name) == 1,
                f"the id {name!r} "
                + ("is not one word" if len(name.split()) != 1 else "stands in several rows")
                + "; day 0's find_first gives ids, and each must lead to one row",
                got=name,
            )

    @pytest.mark.points(3, "structure")
    def test_seven_groups(self, submission, scratch):
        """Each of the seven groups has a row."""
        headings = {row[0] for row in at_least_fifteen(scratch)}
        missing = [g for g in GROUPS if not any(is_group(h, g) for h in headings)]
        expect(
            not missing,
            f"no row stands under a heading that begins with `## {missing[0] if missing else ''}`",
            got=sorted(headings),
        )

    @pytest.mark.points(2, "structure")
    def test_probes_exist(self, submission, scratch):
        """Every probe that a row names is a function of probes.py."""
        for _, name, _, probe, _, _ in at_least_fifteen(scratch):
            expect(
                callable(vars(submission).get(probe)),
                f"row {name} names the probe {probe!r}, and probes.py has no function of that name",
                got=probe,
            )

    @pytest.mark.points(1, "structure")
    def test_thresholds(self, submission, scratch):
        """Every threshold is a number."""
        for _, name, _, _, threshold, _ in at_least_fifteen(scratch):
            expect(
                number(threshold) is not None,
                f"the threshold of row {name} is {threshold!r}; a finite number is asked for",
                got=threshold,
            )

    @pytest.mark.points(2, "structure")
    def test_fixes(self, submission, scratch):
        """Every fix is a text of its own that names a day."""
        fixes = [(row[1], row[5]) for row in at_least_fifteen(scratch)]
        texts = [fix for _, fix in fixes]
        for name, fix in fixes:
            expect(
                re.search(r"\bday\d\d\b", fix) is not None
                and len(re.sub(r"\W|day\d\d", "", fix)) > 0,
                f"the fix of row {name} is {fix!r}; say what to do, and name a day, such as day15",
            )
            expect(
                texts.count(fix) == 1,
                f"the fix {fix!r} stands in several rows; each row needs its own",
            )

    @pytest.mark.points(2, "value")
    def test_messages_lead_to_groups(self, submission, scratch):
        """Ten messages lead to the right group by its keywords."""
        at_least_fifteen(scratch)
        text = document(scratch)
        for message, group in MESSAGES:
            heading, ids = first_of(text, message)
            expect(
                is_group(heading, group) and bool(ids),
                f"{message!r} leads to the group {heading or 'of nothing'!r}; it belongs to "
                f"{group!r}. A keyword is what the message says, verbatim",
                id="checklist.group",
                expected=group,
                got=heading,
            )
