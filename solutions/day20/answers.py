"""Answers to day 20 that its suite must accept or reject."""

import re

import torch
from bug_hunt import *

from grader.answers import accepted, rejected


def swap(text, *pairs):
    """The text with each old piece, which must be there, replaced by the new one."""
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


# --- warm_up --------------------------------------------------------------------------------------


@accepted("warm_up", file="b01.py")
def b01_long_in_the_loss(reference: str) -> str:
    return swap(
        reference,
        ("\n\n    model =", "\n    y = y.to(x.dtype)\n\n    model ="),
        ("y[rows])", "y[rows].long())"),
    )


@accepted("warm_up", file="b02.py")
def b02_targets_get_an_axis(reference: str) -> str:
    return swap(
        reference,
        (".squeeze(1)\n            loss", "\n            loss"),
        ("power, y[rows]", "power, y[rows].unsqueeze(1)"),
    )


@accepted("warm_up", file="b02.py")
def b02_flattens_in_the_model(reference: str) -> str:
    return swap(
        reference,
        ("model(x[rows]).squeeze(1)", "model(x[rows])"),
        ("nn.Linear(WIDTH, 1))", "nn.Linear(WIDTH, 1), nn.Flatten(0))"),
        ("model(x_test).squeeze(1)", "model(x_test)"),
    )


@accepted("warm_up", file="b03.py")
def b03_empties_after_the_step(reference: str) -> str:
    return swap(
        reference,
        ("            opt.zero_grad()\n", ""),
        ("            opt.step()\n", "            opt.step()\n            opt.zero_grad()\n"),
    )


@accepted("warm_up", file="b03.py")
def b03_gradients_are_set_to_none(reference: str) -> str:
    return swap(
        reference,
        ("opt.zero_grad()", "for p in model.parameters():\n                p.grad = None"),
    )


@accepted("warm_up", file="b04.py")
def b04_takes_the_logarithm_itself(reference: str) -> str:
    return swap(
        reference,
        ("return self.out(hidden)", "return self.out(hidden).log_softmax(dim=1)"),
        ("F.cross_entropy(", "F.nll_loss("),
    )


@accepted("warm_up", file="diagnosis.json")
def lines_as_they_are_now(reference: str) -> str:
    return swap(reference, ('"line": 31, "code": "WRONG', '"line": 30, "code": "WRONG'))


@accepted("warm_up", file="diagnosis.json")
def the_line_where_it_was_noticed(reference: str) -> str:
    return swap(
        reference,
        ('"line": 31, "code": "WRONG', '"line": 37, "code": "WRONG'),
        ('"line": 40', '"line": 42'),
        ('"line": 48, "code": "NO_ZERO', '"line": 47, "code": "NO_ZERO'),
    )


@rejected("warm_up", by="test_b01_reaches_its_target", says="RuntimeError", file="b01.py")
def b01_as_it_was(reference: str) -> str:
    return swap(reference, ("\n\n    model =", "\n    y = y.to(x.dtype)\n\n    model ="))


@rejected("warm_up", by="test_b01_reaches_its_target", says="accuracy", file="b01.py")
def b01_swallows_the_error(reference: str) -> str:
    loop = reference[reference.index("            loss = ") : reference.index("\n    with torch")]
    inner = "".join(f"    {line}\n" for line in loop.splitlines())
    return swap(
        reference,
        ("\n\n    model =", "\n    y = y.to(x.dtype)\n\n    model ="),
        (
            loop,
            f"            try:\n{inner}            except RuntimeError:\n                pass\n",
        ),
    )


@rejected("warm_up", by="test_b01_diagnosis", says="0 of its 1", file="diagnosis.json")
def b01_another_code(reference: str) -> str:
    return swap(reference, ("WRONG_DTYPE", "WRONG_CLASS_DIM"))


@rejected("warm_up", by="test_b01_diagnosis", says="no code of codes.md", file="diagnosis.json")
def b01_a_code_of_its_own(reference: str) -> str:
    return swap(reference, ("WRONG_DTYPE", "DTYPE_ERROR"))


@rejected("warm_up", by="test_b01_few_edits", says="Take back", file="b01.py")
def b01_renames(reference: str) -> str:
    return swap(reference, ("loss", "objective"), ("model", "net"))


@rejected("warm_up", by="test_data_left_alone", says="constants", file="b01.py")
def b01_more_data(reference: str) -> str:
    return swap(reference, ("TRAIN, TEST = 300", "TRAIN, TEST = 3000"))


@rejected("warm_up", by="test_data_left_alone", says="come from the inputs alone", file="b01.py")
def b01_looks_at_the_labels_of_the_test(reference: str) -> str:
    return swap(reference, ("model(x_test).argmax(1)", "y_test.clone()"))


@rejected("warm_up", by="test_b02_reaches_its_target", says="r2 0.", file="b02.py")
def b02_trains_longer(reference: str) -> str:
    return swap(
        reference,
        ("model(x[rows]).squeeze(1)", "model(x[rows])"),
        ("range(EPOCHS)", "range(2 * EPOCHS)"),
    )


@rejected("warm_up", by="test_b02_reaches_its_target", says="the target is", file="b02.py")
def b02_edits_the_metric(reference: str) -> str:
    return swap(
        reference,
        ("model(x[rows]).squeeze(1)", "model(x[rows])"),
        ("r2(predictions, y_test)}", "0.95}"),
    )


@rejected("warm_up", by="test_b02_diagnosis", says="not at line", file="diagnosis.json")
def b02_another_line(reference: str) -> str:
    return swap(reference, ('"line": 40', '"line": 17'))


@rejected("warm_up", by="test_b02_few_edits", says="Take back", file="b02.py")
def b02_shotgun(reference: str) -> str:
    return swap(
        reference,
        ("lr=LR)", "lr=LR, weight_decay=1e-5)"),
        ("torch.manual_seed(seed)", "torch.manual_seed(seed + 1)"),
        ("nn.ReLU()", "nn.GELU()"),
    )


@rejected("warm_up", by="test_b03_reaches_its_target", says="accuracy", file="b03.py")
def b03_a_smaller_step(reference: str) -> str:
    return swap(reference, ("            opt.zero_grad()\n", ""), ("lr=LR", "lr=LR / 3"))


@rejected("warm_up", by="test_b03_reaches_its_target", says="accuracy", file="b03.py")
def b03_empties_before_the_step(reference: str) -> str:
    return swap(
        reference,
        ("            opt.zero_grad()\n", ""),
        ("            opt.step()\n", "            opt.zero_grad()\n            opt.step()\n"),
    )


@rejected("warm_up", by="test_b03_reaches_its_target", says="steps", file="b03.py")
def b03_trains_longer_too(reference: str) -> str:
    return swap(reference, ("range(EPOCHS)", "range(2 * EPOCHS)"))


@rejected("warm_up", by="test_b03_diagnosis", says="0 of the 1", file="diagnosis.json")
def b03_nothing_named(reference: str) -> str:
    return swap(reference, ('{"line": 48, "code": "NO_ZERO_GRAD"}', ""))


@rejected("warm_up", by="test_b03_few_edits", says="Take back", file="b03.py")
def b03_clips_too(reference: str) -> str:
    return swap(
        reference,
        (
            "            opt.step()\n",
            "            nn.utils.clip_grad_norm_(model.parameters(), 5.0)\n"
            "            opt.step()\n            loss = loss.detach()\n",
        ),
    )


@rejected("warm_up", by="test_b04_reaches_its_target", says="nll", file="b04.py")
def b04_softmax_taken_out_of_the_loss_alone(reference: str) -> str:
    return swap(
        reference,
        ("return self.out(hidden)", "return self.out(hidden).softmax(dim=1)"),
        ("F.cross_entropy(model(x[rows])", "F.nll_loss(model(x[rows]).log()"),
    )


@rejected("warm_up", by="test_b04_reaches_its_target", says="has 293", file="b04.py")
def b04_another_model(reference: str) -> str:
    return swap(
        reference,
        ("self.hidden = nn.Linear(3, WIDTH)", "self.hidden = nn.Linear(3, 64)"),
        ("nn.Linear(WIDTH, 5)", "nn.Linear(64, 5)"),
    )


@rejected("warm_up", by="test_b04_reaches_its_target", says="must be true", file="b04.py")
def b04_embellishes(reference: str) -> str:
    return swap(reference, ('{"nll": nll}', '{"nll": nll / 2}'))


@rejected("warm_up", by="test_b04_diagnosis", says="has no SIGMOID_TWICE", file="diagnosis.json")
def b04_names_two(reference: str) -> str:
    entry = '{"line": 35, "code": "SOFTMAX_BEFORE_CE"}'
    return swap(reference, (entry, entry + ', {"line": 35, "code": "SIGMOID_TWICE"}'))


@rejected("warm_up", by="test_b04_few_edits", says="Take back", file="b04.py")
def b04_rewrites_the_head(reference: str) -> str:
    return swap(
        reference,
        (
            "        return self.out(hidden)",
            "        scores = self.out(hidden)\n        largest = scores.max()\n"
            "        return scores - largest",
        ),
    )


# --- silent ---------------------------------------------------------------------------------------

SPLIT = """    is_train = torch.isin(part, torch.randperm(PARTS)[: PARTS // 2])
    train, val = is_train.nonzero().flatten(), (~is_train).nonzero().flatten()
"""
LEAK = """    order = torch.randperm(len(x))
    train, val = order[: len(x) // 2], order[len(x) // 2 :]
"""


@accepted("silent", file="b05.py")
def b05_the_first_half(reference: str) -> str:
    return swap(reference, (SPLIT, LEAK.replace("randperm(len(x))", "arange(len(x))")))


@accepted("silent", file="b05.py")
def b05_shuffles_parts_not_photos(reference: str) -> str:
    order = "(torch.randperm(PARTS)[:, None] * PHOTOS + torch.arange(PHOTOS)).flatten()"
    return swap(reference, (SPLIT, LEAK.replace("torch.randperm(len(x))", order)))


@accepted("silent", file="b05.py")
def b05_the_new_layer_joins_the_optimizer(reference: str) -> str:
    opt = "    opt = torch.optim.Adam(model.parameters(), lr=LR)\n"
    return swap(
        reference,
        (opt, ""),
        (
            "nn.Sequential(nn.LayerNorm(PIXELS, elementwise_affine=False), nn.Linear(PIXELS, 2))",
            "nn.Sequential(nn.LayerNorm(PIXELS, elementwise_affine=False), nn.Linear(PIXELS, 2))\n"
            + opt.rstrip(),
        ),
        (
            "    for _ in range(EPOCHS)",
            '    opt.param_groups[0]["params"] = list(model.parameters())\n'
            "    for _ in range(EPOCHS)",
        ),
    )


@accepted("silent", file="b06.py")
def b06_one_order_for_both(reference: str) -> str:
    return swap(
        reference,
        ("    model.eval()\n    with", "    with"),
        ("    with torch.no_grad():\n", "    with torch.no_grad():\n        model.train(False)\n"),
    )


@accepted("silent", file="b06.py")
def b06_indexes_rows(reference: str) -> str:
    return swap(
        reference,
        (
            "        order = torch.randperm(TRAIN)\n        noises = x[order].split(BATCH)\n"
            "        machines = y[order].split(BATCH)\n",
            "        rows = torch.randperm(TRAIN).split(BATCH)\n"
            "        noises, machines = [x[r] for r in rows], [y[r] for r in rows]\n",
        ),
    )


@accepted("silent", file="b07.py")
def b07_divides_by_what_is_left(reference: str) -> str:
    return swap(
        reference,
        (
            "weights = scores.masked_fill(~is_letter, -torch.inf).softmax(dim=1)",
            "weights = scores.softmax(dim=1) * is_letter\n"
            "        weights = weights / weights.sum(1, keepdim=True)",
        ),
    )


@accepted("silent", file="b07.py")
def b07_masks_the_scores(reference: str) -> str:
    return swap(
        reference,
        (
            "scores.masked_fill(~is_letter, -torch.inf).softmax(dim=1)",
            "(scores - 1e9 * (~is_letter).float()).softmax(dim=1) * is_letter",
        ),
    )


@accepted("silent", file="b08.py")
def b08_layer_by_layer(reference: str) -> str:
    return swap(
        reference,
        (
            "        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))\n",
            "        self.a = nn.Linear(6, WIDTH)\n        self.b = nn.Linear(WIDTH, WIDTH)\n"
            "        self.c = nn.Linear(WIDTH, WIDTH)\n",
        ),
        (
            "        for layer in self.layers:\n            x = F.relu(layer(x))\n",
            "        for layer in (self.a, self.b, self.c):\n            x = F.relu(layer(x))\n",
        ),
    )


@accepted("silent", file="b08.py")
def b08_keeps_the_list_and_adds_modules(reference: str) -> str:
    return swap(
        reference,
        (
            "nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))",
            "[nn.Linear(a, b) for a, b in pairwise(sizes)]\n"
            "        for i, layer in enumerate(self.layers):\n"
            '            self.add_module(f"layer{i}", layer)',
        ),
    )


@accepted("silent", file="diagnosis.json")
def in_another_order(reference: str) -> str:
    return swap(
        reference,
        (
            '{"line": 38, "code": "MASK_AFTER_SOFTMAX"}, {"line": 39, "code": "DETACHED_LOSS"}',
            '{"line": 40, "code": "DETACHED_LOSS"}, {"line": 37, "code": "MASK_AFTER_SOFTMAX"}',
        ),
        ('"line": 56, "code": "NO_EVAL"', '"line": 58, "code": "NO_EVAL"'),
    )


@rejected("silent", by="test_b05_reaches_its_target", says="give the optimizer", file="b05.py")
def b05_trains_a_layer_more(reference: str) -> str:
    return swap(reference, ("elementwise_affine=False", "elementwise_affine=True"))


@rejected("silent", by="test_b05_reaches_its_target", says="accuracy", file="b05.py")
def b05_split_repaired_only(reference: str) -> str:
    old = "    opt = torch.optim.Adam(model.parameters(), lr=LR)\n"
    return swap(reference, (old, ""), ("    model[1] =", old + "    model[1] ="))


@rejected("silent", by="test_b05_validates_honestly", says="too good", file="b05.py")
def b05_optimizer_repaired_only(reference: str) -> str:
    return swap(reference, (SPLIT, LEAK))


@rejected("silent", by="test_b05_validates_honestly", says='lost "val"', file="b05.py")
def b05_removes_validation(reference: str) -> str:
    return swap(reference, (SPLIT, LEAK), ('"val": valid, ', ""))


@rejected("silent", by="test_b05_validates_honestly", says="still the accuracy", file="b05.py")
def b05_a_validation_of_nothing(reference: str) -> str:
    return swap(reference, (SPLIT, LEAK), ('"val": valid, ', '"val": 0.0 * valid, '))


@rejected("silent", by="test_b05_diagnosis", says="1 of the 2", file="diagnosis.json")
def b05_stops_at_the_first(reference: str) -> str:
    return swap(reference, ('{"line": 32, "code": "LEAKY_SPLIT"}, ', ""))


@rejected("silent", by="test_b05_few_edits", says="Take back", file="b05.py")
def b05_rewrites(reference: str) -> str:
    return swap(
        reference,
        ("train, val", "ours, others"),
        ("train[", "ours["),
        ("len(train)", "len(ours)"),
        ("x[val]", "x[others]"),
        ("y[val]", "y[others]"),
        ("opt", "adam"),
        ("torch.adamim", "torch.optim"),
    )


@rejected("silent", by="test_data_left_alone", says="constants", file="b05.py")
def b05_changes_the_data(reference: str) -> str:
    return swap(reference, ("PARTS, PHOTOS, TEST = 1200, 3", "PARTS, PHOTOS, TEST = 3600, 1"))


@rejected("silent", by="test_b06_reaches_its_target", says="accuracy", file="b06.py")
def b06_pairs_repaired_only(reference: str) -> str:
    return swap(reference, ("    model.eval()\n", ""))


@rejected("silent", by="test_b06_reaches_its_target", says="accuracy", file="b06.py")
def b06_mode_repaired_only(reference: str) -> str:
    return swap(reference, ("machines = y[order]", "machines = y[torch.randperm(TRAIN)]"))


@rejected("silent", by="test_b06_noise_by_noise", says="in another order", file="b06.py")
def b06_one_large_batch_instead(reference: str) -> str:
    return swap(reference, ("    model.eval()\n", ""), ("x_test.split(20)", "x_test.split(400)"))


@rejected("silent", by="test_b06_diagnosis", says="not at line", file="diagnosis.json")
def b06_names_the_layer(reference: str) -> str:
    return swap(reference, ('"line": 56, "code": "NO_EVAL"', '"line": 30, "code": "NO_EVAL"'))


@rejected("silent", by="test_b06_few_edits", says="Take back", file="b06.py")
def b06_rewrites_the_model(reference: str) -> str:
    return swap(reference, ("self.hidden", "self.first"), ("self.out", "self.second"))


@rejected("silent", by="test_b07_reaches_its_target", says="r2", file="b07.py")
def b07_mask_repaired_only(reference: str) -> str:
    return swap(reference, ("(weights *", "(weights.detach() *"))


@rejected("silent", by="test_b07_reaches_its_target", says="r2", file="b07.py")
def b07_path_repaired_only(reference: str) -> str:
    return swap(
        reference,
        (
            "scores.masked_fill(~is_letter, -torch.inf).softmax(dim=1)",
            "scores.softmax(dim=1) * is_letter",
        ),
    )


@rejected("silent", by="test_b07_ignores_padding", says="not letters", file="b07.py")
def b07_masks_with_zero(reference: str) -> str:
    return swap(reference, ("scores.masked_fill(~is_letter, -torch.inf)", "(scores * is_letter)"))


@rejected("silent", by="test_b07_diagnosis", says="1 of the 2", file="diagnosis.json")
def b07_one_of_two(reference: str) -> str:
    return swap(reference, (', {"line": 39, "code": "DETACHED_LOSS"}', ""))


@rejected("silent", by="test_b07_few_edits", says="Take back", file="b07.py")
def b07_rewrites(reference: str) -> str:
    return swap(reference, ("model", "reader"), ("y[rows]", "y[rows].float()"))


@rejected("silent", by="test_b08_reaches_its_target", says="accuracy", file="b08.py")
def b08_schedule_repaired_only(reference: str) -> str:
    return swap(
        reference,
        (
            "nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))",
            "[nn.Linear(a, b) for a, b in pairwise(sizes)]",
        ),
    )


@rejected("silent", by="test_b08_reaches_its_target", says="accuracy", file="b08.py")
def b08_layers_repaired_only(reference: str) -> str:
    return swap(reference, ("        schedule.step()", "            schedule.step()"))


@rejected("silent", by="test_b08_reaches_its_target", says="accuracy", file="b08.py")
def b08_a_larger_step_instead(reference: str) -> str:
    return swap(
        reference,
        ("        schedule.step()", "            schedule.step()"),
        ("lr=LR)", "lr=3 * LR)"),
    )


@rejected("silent", by="test_b08_diagnosis", says="has no NO_ACTIVATION", file="diagnosis.json")
def b08_guesses(reference: str) -> str:
    return swap(reference, ("SCHED_PER_BATCH", "NO_ACTIVATION"))


@rejected("silent", by="test_b08_few_edits", says="Take back", file="b08.py")
def b08_renames(reference: str) -> str:
    return swap(reference, ("model", "net"))


# --- triage ---------------------------------------------------------------------------------------


@accepted("triage")
def line_by_line(log: str) -> list[str]:
    table = [
        (r"second time", "GRAPH_KEPT"),
        (r"empty parameter", "PYTHON_LIST_OF_LAYERS"),
        (r"CUDA|same device", "HARD_CODED_DEVICE"),
        (r"[Dd]type", "WRONG_DTYPE"),
        (r"target size .* input\s+size", "BROADCAST_N1_N"),
    ]
    rows: dict[str, list[float]] = {"loss": [], "grad": [], "lr": [], "val_acc": [], "test_acc": []}
    for line in log.split("\n"):
        if "Error:" in line or "Warning:" in line:
            for pattern, code in table:
                if re.search(pattern, line):
                    return [code, "NO_ZERO_GRAD"][:1]
        for name, value in re.findall(r"([a-z_]+)\"?[ =:]+([-+\d.e]+)", line):
            key = "grad" if name.startswith("grad") else name.removeprefix("train_")
            try:
                rows.get(key, []).append(float(value))
            except ValueError:
                pass
    grads, losses, rates = rows["grad"], rows["loss"], rows["lr"]
    if not losses:
        return []
    if rows["val_acc"] and rows["test_acc"] and rows["val_acc"][-1] > rows["test_acc"][-1] + 0.15:
        return ["LEAKY_SPLIT"]
    if rates[-1] < rates[0] / 500:
        return ["SCHED_PER_BATCH"]
    if not any(grads):
        return ["ZERO_GRAD_AFTER_BACKWARD", "DETACHED_LOSS"]
    half = len(grads) // 2
    if half and sorted(grads[half:])[half // 2] > 2 * sorted(grads[:half])[half // 2]:
        return ["NO_ZERO_GRAD", "STALE_OPTIMIZER"]
    return []


@rejected("triage", by=("test_loud_logs", "test_curves"), says="are needed")
def looks_at_the_name_of_the_file(log: str) -> list[str]:
    if "zero_grad" in log:
        return ["NO_ZERO_GRAD"]
    if "val.py" in log:
        return ["NO_EVAL"]
    return ["WRONG_DTYPE"] if "train.py" in log else []


@rejected("triage", by=("test_curves", "test_healthy_logs", "test_empty_log", "test_noisy_logs"))
def always_the_same(log: str) -> list[str]:
    return ["NO_ZERO_GRAD"]


@rejected("triage", by="test_the_cause_not_the_last_line", says="are needed")
def the_last_line_only(log: str, _all=triage) -> list[str]:
    if "Traceback" in log:
        return _all(log.strip().splitlines()[-1])
    return _all(log)


@rejected("triage", by="test_noisy_logs", says="small batches")
def two_neighbours_decide(log: str, _all=triage) -> list[str]:
    found = _all(log)
    losses = [float(n) for n in re.findall(r"(?<!val_)loss\"?[ =:]+([\d.e+-]+)", log)]
    rises = any(b > 1.3 * a for a, b in zip(losses, losses[1:]))
    return found or (["NO_ZERO_GRAD"] if rises else [])


@rejected("triage", by="test_healthy_logs", says="healthy log")
def any_falling_rate(log: str, _all=triage) -> list[str]:
    rates = [float(n) for n in re.findall(r"\blr\"?[ =:]+([\d.e+-]+)", log)]
    return _all(log) or (["SCHED_PER_BATCH"] if rates and rates[-1] < rates[0] else [])


@rejected("triage", by="test_curves", says="are needed")
def errors_alone(log: str, _all=triage) -> list[str]:
    return _all(log) if "Error" in log or "Warning" in log else []


@rejected("triage", by="test_empty_log")
def needs_a_last_line(log: str, _all=triage) -> list[str]:
    log.splitlines()[-1]
    return _all(log)


@rejected("triage", by="test_loud_logs", says="at most 3")
def everything_it_knows(log: str, _all=triage) -> list[str]:
    return [*_all(log), "NO_EVAL", "NO_TRAIN_AGAIN", "NORM_TWICE"]


@rejected("triage", by="test_loud_logs", says="no code of codes.md")
def words_of_its_own(log: str, _all=triage) -> list[str]:
    return [code.lower() for code in _all(log)]


@rejected("triage", by="test_loud_logs", says="expected a list")
def one_code_alone(log: str, _all=triage) -> str:
    return "".join(_all(log)[:1])


# --- bisect ---------------------------------------------------------------------------------------


def alike(ours, theirs, times=23.0):
    """Whether two tensors differ by rounding only."""
    unit = torch.finfo(ours.dtype).eps * ours.double().abs().max()
    return bool((ours.double() - theirs.double()).abs().max() <= times * unit)


def pairs_alike(good, bad, stage, seed, times=23.0):
    """Whether output and gradient of a stage agree."""
    return all(alike(a, b, times) for a, b in zip(good(stage, seed), bad(stage, seed), strict=True))


@accepted("bisect")
def with_the_library(good, bad, stages, seed):
    from bisect import bisect_left

    place = bisect_left(stages, True, key=lambda s: not pairs_alike(good, bad, s, seed))
    return stages[place] if place < len(stages) else None


@accepted("bisect")
def recursive(good, bad, stages, seed):
    if not stages:
        return None
    middle = len(stages) // 2
    if pairs_alike(good, bad, stages[middle], seed, 30.0):
        return bisect(good, bad, stages[middle + 1 :], seed)
    return bisect(good, bad, stages[:middle], seed) or stages[middle]


@accepted("bisect")
def keeps_what_deviates(good, bad, stages, seed):
    low, high = -1, len(stages)
    while high - low > 1:
        middle = low + (high - low) // 2
        (out, grad), (out2, grad2) = good(stages[middle], seed), bad(stages[middle], seed)
        same = True
        for a, b in ((out, out2), (grad, grad2)):
            same &= torch.allclose(
                b.double(),
                a.double(),
                rtol=0,
                atol=16 * torch.finfo(a.dtype).eps * a.abs().max().item(),
            )
        low, high = (middle, high) if same else (low, middle)
    return None if high == len(stages) else stages[high]


@accepted("bisect", file="b09.py")
def b09_permutes(reference: str) -> str:
    return swap(reference, ("x.transpose(1, 2)", "x.permute(0, 2, 1)"), ("F.relu(", "torch.tanh("))


@accepted("bisect", file="b09.py")
def b09_activates_in_a_line_of_its_own(reference: str) -> str:
    return swap(
        reference,
        (
            "features = F.relu(self.conv(x)).mean(dim=2)",
            "features = self.conv(x).relu()\n        features = features.mean(dim=2)",
        ),
        ("x.transpose(1, 2)", "x.mT"),
    )


@accepted("bisect", file="b10.py")
def b10_a_dropout_module(reference: str) -> str:
    return swap(
        reference,
        ("F.dropout(self.embed(tokens), 0.6, self.training)", "self.dropout(self.embed(tokens))"),
        ("        self.head =", "        self.dropout = nn.Dropout(0.6)\n        self.head ="),
    )


@accepted("bisect", file="b10.py")
def b10_with_keyword(reference: str) -> str:
    return swap(
        reference,
        ("0.6, self.training)", "p=0.6, training=self.training)"),
        ("return texts[:, :-1], texts[:, 1:]", "return texts[:, : LENGTH - 1], texts[:, 1:LENGTH]"),
    )


@rejected("bisect", by="test_few_calls", says="at most")
def one_after_the_other(good, bad, stages, seed):
    return next((s for s in stages if not pairs_alike(good, bad, s, seed)), None)


@rejected("bisect", by="test_few_calls", says="at most")
def looks_at_the_end_first(good, bad, stages, seed, _search=bisect):
    if stages and pairs_alike(good, bad, stages[-1], seed):
        return None
    return _search(good, bad, stages, seed)


@rejected("bisect", by="test_finds_the_stage", says="after it")
def the_end_alone(good, bad, stages, seed):
    if stages and pairs_alike(good, bad, stages[-1], seed):
        return None
    return stages[-1] if stages else None


@rejected("bisect", by="test_rounding", says="rounding only")
def one_tolerance_for_all(good, bad, stages, seed):
    def deviates(stage):
        pairs = zip(good(stage, seed), bad(stage, seed))
        return any(not torch.allclose(a, b, rtol=0, atol=4e-6) for a, b in pairs)

    from bisect import bisect_left

    place = bisect_left(stages, True, key=deviates)
    return stages[place] if place < len(stages) else None


@rejected("bisect", by="test_rounding", says="says None")
def a_coarse_tolerance(good, bad, stages, seed, _search=bisect):
    def wide(pipeline):
        return lambda s, n: tuple(t.bfloat16() for t in pipeline(s, n))

    return _search(wide(good), wide(bad), stages, seed)


@rejected("bisect", by="test_gradient_alone", says="None")
def outputs_only(good, bad, stages, seed, _search=bisect):
    def first(pipeline):
        return lambda s, n: (pipeline(s, n)[0],) * 2

    return _search(first(good), first(bad), stages, seed)


@rejected("bisect", by="test_equal_pair", says="rounding only")
def bit_by_bit(good, bad, stages, seed):
    from bisect import bisect_left

    def deviates(stage):
        return any(not torch.equal(a, b) for a, b in zip(good(stage, seed), bad(stage, seed)))

    place = bisect_left(stages, True, key=deviates)
    return stages[place] if place < len(stages) else None


@rejected("bisect", by=("test_equal_pair", "test_few_stages"))
def always_names_one(good, bad, stages, seed):
    low, high = 0, len(stages) - 1
    while low < high:
        middle = (low + high) // 2
        if pairs_alike(good, bad, stages[middle], seed):
            low = middle + 1
        else:
            high = middle
    return stages[low]


@rejected("bisect", by="test_same_seed", says="called the pipelines with")
def a_seed_of_its_own(good, bad, stages, seed, _search=bisect):
    return _search(good, bad, stages, 0 * seed + 1)


@rejected("bisect", by="test_finds_the_stage")
def another_seed_for_bad(good, bad, stages, seed, _search=bisect):
    return _search(good, lambda s, n: bad(s, n + 1), stages, seed)


@rejected("bisect", by="test_b09_reaches_its_target", says="accuracy", file="b09.py")
def b09_axes_repaired_only(reference: str) -> str:
    return swap(reference, ("F.relu(self.conv(x))", "self.conv(x)"))


@rejected("bisect", by="test_b09_reaches_its_target", says="accuracy", file="b09.py")
def b09_activation_repaired_only(reference: str) -> str:
    return swap(reference, ("x.transpose(1, 2)", "x.view(len(x), SENSORS, TIME)"))


@rejected("bisect", by="test_b09_diagnosis", says="1 of the 2", file="diagnosis.json")
def b09_one_of_two(reference: str) -> str:
    return swap(reference, ('{"line": 37, "code": "RESHAPE_FOR_PERMUTE"}, ', ""))


@rejected("bisect", by="test_b09_few_edits", says="Take back", file="b09.py")
def b09_rewrites(reference: str) -> str:
    return swap(reference, ("self.conv", "self.filter"), ("self.head", "self.last"))


@rejected("bisect", by="test_b10_reaches_its_target", says="not what it seems", file="b10.py")
def b10_dropout_repaired_only(reference: str) -> str:
    return swap(reference, ("texts[:, :-1], texts[:, 1:]", "texts[:, :-1], texts[:, :-1]"))


@rejected("bisect", by="test_data_left_alone", says="inputs alone", file="b10.py")
def b10_shifts_the_inputs_instead(reference: str) -> str:
    return swap(reference, ("texts[:, :-1], texts[:, 1:]", "texts[:, 1:], texts[:, 1:]"))


@rejected("bisect", by="test_b10_reaches_its_target", says="nll", file="b10.py")
def b10_targets_repaired_only(reference: str) -> str:
    return swap(reference, ("0.6, self.training)", "0.6)"))


@rejected("bisect", by="test_b10_diagnosis", says="not at line", file="diagnosis.json")
def b10_another_line(reference: str) -> str:
    return swap(reference, ('"line": 44', '"line": 60'))


@rejected("bisect", by="test_b10_few_edits", says="Take back", file="b10.py")
def b10_rewrites(reference: str) -> str:
    return swap(reference, ("inputs", "tokens_in"), ("targets", "tokens_out"))


@rejected("bisect", by="test_data_left_alone", says="constants", file="b10.py")
def b10_trains_longer(reference: str) -> str:
    return swap(reference, ("LR = 32, 15, 20, 0.02", "LR = 32, 60, 20, 0.02"))
