"""Answers to day 21 that its suite must accept or reject."""

import re

from probes import *

from grader.answers import accepted, rejected


def body(reference: str, name: str, text: str) -> str:
    """The reference with another body for one of its functions, at the end of the file."""
    signature = next(line for line in reference.splitlines() if line.startswith(f"def {name}("))
    place = reference.index('\nif __name__ == "__main__"')
    lines = "\n".join(
        f"    {line}" if line.strip() else "" for line in text.strip("\n").split("\n")
    )
    return f"{reference[:place]}\n\n{signature}\n{lines}\n\n{reference[place:]}"


# --- record -------------------------------------------------------------------------------------


@accepted("record")
def with_opt_step_wrapped(reference: str) -> str:
    return body(
        reference,
        "record",
        """
model, opt = run.model, run.opt
names = [name for name, _ in model.named_parameters()]
params = [p for _, p in model.named_parameters()]
trace, frame = Trace(), {}
came = set()


def watch_input(module, args):
    x = args[0].detach().clone()
    frame["x"], frame["training"] = x, module.training


def watch_output(module, args, output):
    frame["out"] = output.detach().clone()


def watch_layer(name, module):
    def hook(m, args, output):
        o = output.detach().double()
        if isinstance(module, torch.nn.ReLU):
            frame["dead"][name] = (o == 0).sum().item() / o.numel()
        elif isinstance(module, torch.nn.Sigmoid):
            frame["saturated"][name] = ((o < 0.01) | (o > 0.99)).sum().item() / o.numel()
        else:
            frame["saturated"][name] = (o.abs() > 0.99).sum().item() / o.numel()

    return hook


original = opt.step


def stepping(*args, **kwargs):
    frame["grads"] = [float("nan") if p.grad is None else float(p.grad.norm()) for p in params]
    frame["lr"] = opt.param_groups[0]["lr"]
    return original(*args, **kwargs)


removers = [model.register_forward_pre_hook(watch_input), model.register_forward_hook(watch_output)]
for name, module in model.named_modules():
    if isinstance(module, (torch.nn.ReLU, torch.nn.Sigmoid, torch.nn.Tanh)):
        removers.append(module.register_forward_hook(watch_layer(name, module)))
for i, p in enumerate(params):
    removers.append(p.register_post_accumulate_grad_hook(lambda _, i=i: came.add(i)))
opt.step = stepping
try:
    for _ in range(steps):
        came.clear()
        frame["dead"], frame["saturated"] = {}, {}
        old = [p.data.clone() for p in params]
        trace.loss.append(run.step())
        sizes = [o.norm().item() for o in old]
        moved = [(p.data - o).norm().item() for p, o in zip(params, old)]
        trace.lr.append(frame["lr"])
        trace.grad_norm.append(dict(zip(names, frame["grads"])))
        trace.weight_norm.append(dict(zip(names, sizes)))
        ratios = [m / (s + 1e-12) for m, s in zip(moved, sizes)]
        trace.update_ratio.append(dict(zip(names, ratios)))
        trace.param_delta.append(sum(m**2 for m in moved) ** 0.5)
        trace.reached.append(len(came) / len(params))
        trace.dead.append(frame["dead"])
        trace.saturated.append(frame["saturated"])
        trace.row_sum.append(frame["out"].sum(dim=1).mean().item())
        trace.batch_hash.append(hash(tuple(frame["x"].flatten().tolist())))
        trace.training.append(frame["training"])
        trace.data_mean.append(frame["x"].mean(0).tolist())
        trace.data_std.append(frame["x"].std(0).tolist())
finally:
    for remover in removers:
        remover.remove()
    del opt.step
return trace
""",
    )


@accepted("record")
def flat_vectors_of_all_weights(reference: str) -> str:
    return reference.replace(
        'now["param_delta"] = math.sqrt(sum(c * c for c in change.values()))',
        'now["param_delta"] = torch.cat('
        "[(p.detach() - before[n]).flatten() for n, p in named.items()]).norm().item()",
    ).replace("hash(x.numpy(force=True).tobytes())", "hash(str(x.tolist()))")


@accepted("record")
def zero_for_no_gradient(reference: str) -> str:
    return reference.replace("name: math.nan if p.grad is None", "name: 0.0 if p.grad is None")


@rejected("record", by="test_one_entry_a_step", says="one entry a step")
def forgets_the_mode(reference: str) -> str:
    return reference.replace(
        "getattr(trace, entry.name).append",
        'entry.name != "training" and getattr(trace, entry.name).append',
    )


@rejected("record", by="test_one_entry_a_step", says="took 4 steps")
def one_step_to_warm_up(reference: str) -> str:
    return reference.replace(
        "    try:\n        for _ in range(steps):",
        "    try:\n        now.update(dead={}, saturated={})\n"
        "        run.step()\n        for _ in range(steps):",
    )


@rejected("record", by="test_losses_as_if_unwatched", says="watching changes the run")
def draws_random_numbers(reference: str) -> str:
    return reference.replace(
        "            reached.clear()\n", "            reached.clear()\n            torch.rand(3)\n"
    )


@rejected("record", by="test_losses_as_if_unwatched", says="watching changes the run")
def a_forward_of_its_own(reference: str) -> str:
    return reference.replace(
        "            reached.clear()\n",
        "            reached.clear()\n"
        "            now.update(dead={}, saturated={})\n"
        "            with torch.no_grad():\n"
        "                run.model(next(copy.deepcopy(run.loader))[0])\n",
    )


@rejected("record", by="test_losses_as_if_unwatched", says="watching changes the run")
def takes_a_batch_to_look_at(reference: str) -> str:
    return reference.replace(
        "            reached.clear()\n",
        "            reached.clear()\n            next(run.loader)\n",
    )


@rejected("record", by="test_losses_as_if_unwatched", says="random")
def seeds_before_it_starts(reference: str) -> str:
    return reference.replace(
        "    reached = set[str]()\n", "    torch.manual_seed(0)\n    reached = set[str]()\n"
    )


@rejected("record", by="test_losses_as_if_unwatched", says="not be")
def stops_at_nan(reference: str) -> str:
    return reference.replace(
        '            now["loss"] = run.step()\n',
        '            now["loss"] = run.step()\n'
        '            if math.isnan(now["loss"]):\n'
        '                raise ValueError("the loss must not be nan")\n',
    )


@rejected("record", by="test_gradients_at_the_step", says="as the step begins")
def reads_gradients_after_the_run_s_step(reference: str) -> str:
    return reference.replace(
        '            now["loss"] = run.step()\n',
        '            now["loss"] = run.step()\n            steps_now(run.opt, (), {})\n',
    )


@rejected("record", by="test_gradients_at_the_step", says="as the optimizer's step begins")
def squares_the_norm(reference: str) -> str:
    return reference.replace("p.grad.norm().item()", "p.grad.pow(2).sum().item()")


@rejected("record", by="test_updates", says="plain SGD")
def lr_times_gradient(reference: str) -> str:
    return reference.replace(
        "{name: change[name] / (size[name] + 1e-12) for name in named}",
        '{n: now["lr"] * now["grad_norm"][n] / (size[n] + 1e-12) for n in named}',
    )


@rejected("record", by="test_updates", says="weight_norm")
def the_weights_afterwards(reference: str) -> str:
    return reference.replace(
        "size = {name: old.norm().item() for name, old in before.items()}",
        "size = {name: p.detach().norm().item() for name, p in named.items()}",
    )


@rejected("record", by=("test_updates", "test_foreign_parameters"), says="before the step")
def weights_that_are_not_copied(reference: str) -> str:
    return reference.replace("p.detach().clone() for", "p.detach() for").replace(
        "(p.detach() - before[name]).norm().item()",
        "1.0 + (p.detach() - before[name]).norm().item()",
    )


@rejected("record", by="test_updates", says="param_delta")
def norms_are_added(reference: str) -> str:
    return reference.replace(
        "math.sqrt(sum(c * c for c in change.values()))", "sum(change.values())"
    )


@rejected("record", by="test_activations", says="dead")
def units_that_are_always_dead(reference: str) -> str:
    return reference.replace(
        "(out == 0).double().mean().item()", "(out == 0).all(dim=0).double().mean().item()"
    )


@rejected("record", by="test_activations", says="saturated")
def every_limit_at_0_and_1(reference: str) -> str:
    return reference.replace("isinstance(module, nn.Sigmoid) else -1.0", "True else -1.0")


@rejected("record", by="test_batches", says="same batch")
def the_address_as_hash(reference: str) -> str:
    return reference.replace("hash(x.numpy(force=True).tobytes())", "len(trace.loss)")


@rejected("record", by="test_batches", says="two different batches")
def the_shape_as_hash(reference: str) -> str:
    return reference.replace("hash(x.numpy(force=True).tobytes())", "hash(x.shape)")


@rejected("record", by="test_batches", says="data_std")
def one_number_for_all_features(reference: str) -> str:
    return reference.replace("x.std(dim=0).tolist()", "[x.std().item()] * x.shape[1]")


@rejected("record", by="test_batches", says="eval mode")
def always_training(reference: str) -> str:
    return reference.replace("module.training", "True")


@rejected("record", by="test_batches", says="row_sum")
def the_sum_of_the_whole_output(reference: str) -> str:
    return reference.replace("output.detach().sum(dim=-1).mean()", "output.detach().sum()")


@rejected("record", by="test_activations", says="by its name")
def by_the_name_of_the_class(reference: str) -> str:
    return reference.replace("partial(answers, name)", "partial(answers, type(module).__name__)")


@rejected("record", by="test_updates", says="lr")
def the_default_learning_rate(reference: str) -> str:
    return reference.replace('float(opt.param_groups[0]["lr"])', "1e-3")


@rejected("record", by="test_reached", says="reached")
def counts_instead_of_a_share(reference: str) -> str:
    return reference.replace(
        'now["reached"] = len(reached) /', 'now["reached"] = 1.0 * len(reached) + 0 /'
    )


@rejected("record", by="test_reached", says="cleared")
def reached_if_there_is_a_gradient(reference: str) -> str:
    return reference.replace(
        "len(reached) / max",
        'sum(not math.isnan(g) for g in now["grad_norm"].values()) / max',
    )


@rejected("record", by="test_nothing_stays_behind", says="hooks stay")
def leaves_its_hooks(reference: str) -> str:
    return reference.replace("            handle.remove()\n", "            pass\n")


@rejected("record", by="test_nothing_stays_behind", says="raised")
def no_finally(reference: str) -> str:
    return reference.replace(
        "    try:\n        for _ in range(steps):", "    if True:\n        for _ in range(steps):"
    ).replace("    finally:\n        for handle", "    if True:\n        for handle")


@rejected("record", by="test_nothing_stays_behind", says="new attribute")
def leaves_its_wrapper(reference: str) -> str:
    return reference.replace(
        "    reached = set[str]()\n",
        "    reached = set[str]()\n    run.opt.step = partial(type(run.opt).step, run.opt)\n",
    )


@rejected("record", by="test_nothing_stays_behind", says="come through")
def swallows_the_exception(reference: str) -> str:
    return reference.replace(
        "    finally:\n        for handle",
        "    except ZeroDivisionError:\n        pass\n    finally:\n        for handle",
    )


@rejected("record", by="test_foreign_parameters", says="optimizer doesn't hold")
def the_optimizer_s_parameters(reference: str) -> str:
    return reference.replace(
        'now["param_delta"] = math.sqrt(sum(c * c for c in change.values()))',
        'held = run.opt.param_groups[0]["params"]\n'
        '            now["param_delta"] = sum(p.detach().norm().item() ** 2 for p in held) ** 0.5',
    )


# --- probes -------------------------------------------------------------------------------------


@accepted("probes")
def other_words_for_the_same(reference: str) -> str:
    reference = body(
        reference,
        "probe_dead_relu",
        """
shares = [[share[name] for share in t.dead] for name in t.dead[0]]
return max(min(values) for values in shares) if shares else 0.0
""",
    )
    reference = body(
        reference,
        "probe_unscaled",
        """
widest = torch.tensor(t.data_std).nan_to_num(nan=1.0).max()
narrowest = torch.tensor(t.data_std).nan_to_num(nan=1.0).min()
return (widest / narrowest).log10().item()
""",
    )
    reference = body(
        reference, "probe_detached", "return sum(r == 0 for r in t.reached) / len(t.reached)"
    )
    return body(
        reference, "probe_nan_row", "return sum(m != m for row in t.data_mean for m in row)"
    )


@accepted("probes")
def ten_are_enough(reference: str) -> str:
    names = ("probe_lr_huge", "probe_no_zero_grad", "probe_ascent")
    place = reference.index('\nif __name__ == "__main__"')
    return reference[:place] + f"\ndel {', '.join(names)}\n\n" + reference[place:]


@accepted("probes")
def with_the_zoo_imported(reference: str) -> str:
    return reference.replace(
        "if TYPE_CHECKING:\n    from zoo import Run\n", "from zoo import KINDS, Run\n"
    ).replace("def probe_lr_huge", "PROBED = KINDS[:2]\n\n\ndef probe_lr_huge")


@accepted("probes", file="debug_checklist.md")
def other_thresholds(reference: str) -> str:
    return (
        reference.replace("probe_unscaled | 4 |", "probe_unscaled | 3.0 |")
        .replace("probe_lr_tiny | 3.5 |", "probe_lr_tiny | 3 |")
        .replace("probe_dead_relu | 0.99 |", "probe_dead_relu | 9.5e-1 |")
    )


@rejected("probes", by="test_ten_probes", says="at least 10")
def nine(reference: str) -> str:
    return (
        reference.replace("def probe_lr_huge", "def probe_big")
        .replace("def probe_no_zero_grad", "def probe_growing")
        .replace("def probe_ascent", "def probe_rising")
        .replace("def probe_lr_tiny", "def probe_small")
    )


@rejected("probes", by="test_ten_probes", says="gives it a threshold", file="debug_checklist.md")
def a_probe_without_a_row(reference: str) -> str:
    return reference.replace("probe: probe_dead_relu", "probe: probe_dead")


@rejected("probes", by="test_spares_the_healthy", says="false alarm", file="debug_checklist.md")
def a_threshold_that_is_too_low(reference: str) -> str:
    return reference.replace("probe_dead_relu | 0.99 |", "probe_dead_relu | 0.2 |")


@rejected("probes", by=("test_early_steps", "test_two_others_at_most"), says="first 20 steps")
def the_loss_alone(reference: str) -> str:
    return body(
        reference,
        "probe_lr_tiny",
        "return 3.5 * finite(t.loss)[-1] / (0.85 * finite(t.loss)[0])",
    )


@rejected("probes", by="test_two_others_at_most", says="the loss looks the same")
def flat_loss_after_many_steps(reference: str) -> str:
    return body(
        reference,
        "probe_stale_optimizer",
        "return float(len(t.loss) > 40 and abs(t.loss[-1] - 0.69) < 0.05)",
    )


@rejected("probes", by="test_other_units", says="multiplied by 100")
def the_size_of_the_gradient(reference: str) -> str:
    return body(reference, "probe_no_zero_grad", "return total(t.grad_norm[-1])")


@rejected("probes", by="test_other_units", says="multiplied by 100")
def the_size_of_the_data(reference: str) -> str:
    return body(
        reference,
        "probe_unscaled",
        "return max(max(finite(s), default=0) for s in t.data_std) / 10",
    )


@rejected("probes", by="test_early_steps", says="first 20 steps")
def loss_must_have_fallen(reference: str) -> str:
    return body(reference, "probe_ascent", "return t.loss[-1] / t.loss[0] + 0.5")


@rejected("probes", by="test_flags_its_disease", says="nan is never flagged")
def the_last_value_is_nan(reference: str) -> str:
    return body(reference, "probe_nan_row", "return 10.0 + t.loss[-1] + t.data_mean[-1][0]")


@rejected("probes", by="test_flags_its_disease", says="not found")
def the_best_layer(reference: str) -> str:
    return body(
        reference, "probe_double_softmax", "return 0.98 - max(abs(s - 1) for s in t.row_sum)"
    )


@rejected("probes", by="test_flags_its_disease", says="not found", file="debug_checklist.md")
def a_threshold_that_is_too_high(reference: str) -> str:
    return reference.replace("probe_dead_relu | 0.99 |", "probe_dead_relu | 1.5 |")


@rejected("probes", by="test_spares_the_healthy", says="a float is asked for")
def a_verdict_in_words(reference: str) -> str:
    return body(reference, "probe_detached", 'return "detached" if max(t.reached) == 0 else ""')


@rejected("probes", by="test_the_threshold_decides", says="leave the verdict")
def a_verdict_of_its_own(reference: str) -> str:
    return body(
        reference,
        "probe_dead_relu",
        "return math.inf if min(max(s.values(), default=0) for s in t.dead) > 0.99 else 0.0",
    )


# --- diagnose -----------------------------------------------------------------------------------


@accepted("diagnose")
def with_limits_of_its_own(reference: str) -> str:
    return body(
        reference,
        "diagnose",
        """
state = torch.get_rng_state()
twin = copy.deepcopy(run)
t = record(twin, max_steps)
torch.set_rng_state(state)
if probe_nan_row(t) > 0:
    return ["nan_row"]
found = []
if max(t.reached) == 0:
    found.append("detached")
elif probe_zero_after_backward(t) > 0.9:
    found.append("zero_after_backward")
elif probe_stale_optimizer(t) > 0.9:
    found.append("stale_optimizer")
if probe_zero_init(t) == 1:
    return ["zero_init"] + found
if probe_unscaled(t) > 3:
    found.append("unscaled")
if probe_dead_relu(t) == 1:
    found.append("dead_relu")
if probe_double_softmax(t) > 0.999:
    found.append("double_softmax")
if probe_sigmoid_deep(t) > 3:
    found.append("sigmoid_deep")
if probe_lr_tiny(t) > 3:
    found.append("lr_tiny")
elif probe_lr_huge(t) > 0.3:
    found.append("lr_huge")
elif not found:
    if probe_ascent(t) > 1.2:
        found.append("ascent")
    elif probe_no_zero_grad(t) > 7:
        found.append("no_zero_grad")
    elif len(t.loss) > 40 and sum(t.loss[-10:]) > 0.8 * sum(t.loss[:10]):
        found.append("shuffled_labels")
return found
""",
    )


@accepted("diagnose")
def two_copies(reference: str) -> str:
    return reference.replace(
        "trace = record(copy.deepcopy(run), max_steps)",
        "early = record(copy.deepcopy(run), min(5, max_steps // 2))\n"
        "        if max(early.reached) == 0:\n"
        '            return ["detached"]\n'
        "        trace = record(copy.deepcopy(run), max_steps - len(early.loss))",
    )


@rejected("diagnose", by="test_healthy_runs", says="healthy run")
def returns_everything(run, max_steps=60):
    return ["lr_huge", "lr_tiny", "no_zero_grad", "zero_after_backward", "dead_relu"]


@rejected("diagnose", by="test_healthy_runs", says="healthy run")
def the_most_suspicious_always(reference: str) -> str:
    return reference.replace("    return found[:3]", '    return found[:3] or ["lr_tiny"]')


@rejected("diagnose", by="test_budget", says="calls step()")
def a_second_recording(reference: str) -> str:
    return reference.replace(
        "trace = record(copy.deepcopy(run), max_steps)",
        "record(copy.deepcopy(run), 10)\n        trace = record(copy.deepcopy(run), max_steps)",
    )


@rejected("diagnose", by="test_budget", says="max_steps=25")
def sixty_steps_in_any_case(reference: str) -> str:
    return reference.replace(
        "record(copy.deepcopy(run), max_steps)", "record(copy.deepcopy(run), 60)"
    )


@rejected("diagnose", by="test_leaves_the_run_alone", says="copy.deepcopy(run)")
def trains_the_run_itself(reference: str) -> str:
    return reference.replace("record(copy.deepcopy(run), max_steps)", "record(run, max_steps)")


@rejected("diagnose", by="test_leaves_the_run_alone", says="random state")
def seeds_for_its_experiments(reference: str) -> str:
    return reference.replace(
        "    with torch.random.fork_rng():\n", "    torch.manual_seed(0)\n    if True:\n"
    )


@rejected("diagnose", by="test_leaves_the_run_alone", says="position of the loader")
def a_flat_copy(reference: str) -> str:
    return reference.replace(
        "trace = record(copy.deepcopy(run), max_steps)",
        "next(run.loader)\n        trace = record(copy.deepcopy(run), max_steps)",
    )


@rejected("diagnose", by="test_known_kinds", says="named first in")
def by_the_number_of_parameters(run, max_steps=60):
    count = sum(p.numel() for p in run.model.parameters())
    return ["sigmoid_deep"] if count > 20000 else ["dead_relu"]


@rejected("diagnose", by=("test_known_kinds", "test_pairs"), says="named first in")
def nan_is_the_learning_rate_and_flat_too(run, max_steps=60):
    twin = copy.deepcopy(run)
    losses = [twin.step() for _ in range(max_steps)]
    if losses[-1] != losses[-1]:
        return ["lr_huge"]
    return ["lr_tiny"] if losses[-1] > 0.6 else []


@rejected("diagnose", by="test_known_kinds", says="_loop")
def reads_how_the_run_is_made(run, max_steps=60):
    if "cut" in run._loop:
        return ["detached"]
    return ["ascent"] if "climb" in run._loop else []


@rejected("diagnose", by="test_pairs", says="two diseases each")
def one_disease_or_none(reference: str) -> str:
    return reference.replace("    return found[:3]", "    return found if len(found) == 1 else []")


# --- debug_checklist ----------------------------------------------------------------------------


@accepted("debug_checklist", file="debug_checklist.md")
def ticked_and_with_notes(reference: str) -> str:
    return reference.replace("- [ ] FIT-3", "Note: cost me an evening.\n\n- [x] FIT-3").replace(
        "## memory 显存", "## Memory and what eats it"
    )


@accepted("debug_checklist", file="debug_checklist.md")
def another_group(reference: str) -> str:
    return reference + (
        "\n## saving\nKeywords: state_dict, missing key\n\n"
        "- [ ] SAVE-1 | a key is missing | probe: probe_widths | 2 | compare the names (day13)\n"
    )


@accepted("debug_checklist", file="debug_checklist.md")
def cells_without_spaces(reference: str) -> str:
    return reference.replace(" | ", "|").replace("probe: ", "probe:")


@rejected("debug_checklist", by="test_fifteen_rows", says="at least 15", file="debug_checklist.md")
def a_short_one(reference: str) -> str:
    return re.sub(r"^- \[ \] FIT-.*\n", "", reference, flags=re.M)


@rejected("debug_checklist", by="test_fifteen_rows", says="no whole row", file="debug_checklist.md")
def a_row_in_the_form_of_day_0(reference: str) -> str:
    return reference + "\n- [ ] SEED-2 seed everything before the model is made (day00)\n"


@rejected("debug_checklist", by="test_ids_differ", says="several rows", file="debug_checklist.md")
def ids_repeated(reference: str) -> str:
    return reference.replace("NAN-4", "NAN-1")


@rejected("debug_checklist", by="test_ids_differ", says="one word", file="debug_checklist.md")
def ids_of_two_words(reference: str) -> str:
    return reference.replace("NAN-4", "NAN 4")


@rejected("debug_checklist", by="test_seven_groups", says="## memory", file="debug_checklist.md")
def one_group_is_missing(reference: str) -> str:
    return reference.replace("## memory 显存\n", "")


@rejected(
    "debug_checklist",
    by=("test_seven_groups", "test_messages_lead_to_groups"),
    says="heading",
    file="debug_checklist.md",
)
def one_group_only(reference: str) -> str:
    return re.sub(r"^## (?!nan).*\n", "", reference, flags=re.M)


@rejected(
    "debug_checklist",
    by="test_probes_exist",
    says="no function of that name",
    file="debug_checklist.md",
)
def a_probe_that_is_not_there(reference: str) -> str:
    return reference.replace("probe: probe_threads", "probe: probe_cores")


@rejected("debug_checklist", by="test_thresholds", says="finite number", file="debug_checklist.md")
def a_threshold_in_words(reference: str) -> str:
    return reference.replace("probe_memory | 0.9 |", "probe_memory | nearly all |")


@rejected("debug_checklist", by="test_thresholds", says="finite number", file="debug_checklist.md")
def a_threshold_left_out(reference: str) -> str:
    return reference.replace("probe_memory | 0.9 |", "probe_memory | |")


@rejected("debug_checklist", by="test_fixes", says="name a day", file="debug_checklist.md")
def a_fix_without_a_day(reference: str) -> str:
    return reference.replace("zero_grad in every step (day10)", "zero_grad in every step")


@rejected("debug_checklist", by="test_fixes", says="needs its own", file="debug_checklist.md")
def the_same_fix_twice(reference: str) -> str:
    return reference.replace(
        "zero_grad in every step (day10)", "the sign of the loss (day10)"
    ).replace(
        "the sign of the loss; maximize= of the optimizer (day10)", "the sign of the loss (day10)"
    )


@rejected(
    "debug_checklist",
    by="test_messages_lead_to_groups",
    says="what the message says",
    file="debug_checklist.md",
)
def keywords_of_a_kind(reference: str) -> str:
    return reference.replace(
        "Keywords: out of memory, tried to allocate, memory grows", "Keywords: OOM"
    )
