"""Answers to day 14 that its suite must accept or reject."""

import argparse
import copy
import dataclasses
import math
import typing
from dataclasses import fields

import torch
from template import *
from torch import nn

from grader.answers import accepted, rejected

# --- 1 ------------------------------------------------------------------------------------------


@accepted("parse")
def one_by_one(argv):
    parser = argparse.ArgumentParser(prog="template.py", allow_abbrev=False)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=277527)
    parser.add_argument("--clip", type=float)
    parser.add_argument("--accum", type=int, default=1)
    parser.add_argument("--patience", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", dest="amp", action="store_true")
    parser.add_argument("--no-amp", dest="amp", action="store_false")
    parser.add_argument("--out", default="run")
    return Config(**vars(parser.parse_args(argv)))


@accepted("parse")
def without_argparse(argv):
    hints = typing.get_type_hints(Config)
    config, words = Config(), [part for word in argv for part in word.split("=", 1)]
    while words:
        word = words.pop(0)
        name = word.removeprefix("--").replace("-", "_")
        if name == "amp" or name == "no_amp":
            config.amp = name == "amp"
            continue
        if not word.startswith("--") or name not in hints or not words:
            raise SystemExit(f"unknown: {word}")
        kind = (typing.get_args(hints[name]) or (hints[name],))[0]
        setattr(config, name, kind(words.pop(0)))
    return config


@accepted("parse")
def only_what_was_named(argv):
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS)
    for name, hint in typing.get_type_hints(Config).items():
        flag = f"--{name}".replace("_", "-")
        if hint is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction)
        else:
            kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
            parser.add_argument(flag, type=kinds[0] if kinds else hint)
    return dataclasses.replace(Config(), **vars(parser.parse_args(argv)))


@accepted("parse")
def a_field_more(reference: str) -> str:
    return reference.replace(
        '    out: str = "run"\n', '    out: str = "run"\n    resume: bool = False\n'
    )


@accepted("parse")
def annotations_as_text(reference: str) -> str:
    changed = reference.replace(
        "import argparse", "from __future__ import annotations\n\nimport argparse", 1
    )
    changed = changed.replace(
        "get_args(field.type) or (field.type,)", "get_args(h[field.name]) or (h[field.name],)"
    )
    return changed.replace(
        "    for field in fields(Config):",
        "    h = typing.get_type_hints(Config)\n    for field in fields(Config):",
    ).replace("import time\n", "import time\nimport typing\n")


@rejected("parse", by=("test_values", "test_hyphens"), says="(str)")
def texts_for_numbers(reference: str) -> str:
    return reference.replace('else {"type": kind}', "else {}")


@rejected("parse", by="test_switch", says="--no-amp")
def no_amp_is_true(argv):
    parser = argparse.ArgumentParser()
    for field in fields(Config):
        kind = (typing.get_args(field.type) or (field.type,))[0]
        if kind is bool:
            parser.add_argument("--amp", action="store_true")
            parser.add_argument("--no-amp", dest="amp", action="store_true")
        else:
            parser.add_argument(
                "--" + field.name.replace("_", "-"), type=kind, default=field.default
            )
    return Config(**vars(parser.parse_args(argv)))


@rejected("parse", by="test_switch")
def bool_as_a_type(reference: str) -> str:
    return reference.replace(" if kind is bool else", " if kind is None else")


@rejected("parse", by="test_hyphens", says="SystemExit")
def underscores_only(reference: str) -> str:
    return reference.replace('"--" + field.name.replace("_", "-")', '"--" + field.name')


@rejected("parse", by="test_unknown_key", says="mistyped key")
def ignores_unknown_keys(reference: str) -> str:
    return reference.replace("parser.parse_args(argv)", "parser.parse_known_args(argv)[0]")


@rejected("parse", by="test_unknown_key")
def unknown_keys_raise_something_else(argv):
    known = {"--" + field.name.replace("_", "-") for field in fields(Config)} | {"--no-amp"}
    for word in argv:
        if word.startswith("--") and word.split("=")[0] not in known:
            raise ValueError(f"unknown key {word}")
    return right_parse(argv)


right_parse = parse


@rejected("parse", by="test_argv_only", says="sys.argv")
def of_sys_argv(reference: str) -> str:
    return reference.replace("parser.parse_args(argv)", "parser.parse_args(argv or None)")


@rejected("parse", by="test_argv_only", says="an earlier call")
def one_config_for_all(reference: str) -> str:
    return reference.replace(
        "    return Config(**vars(parser.parse_args(argv)))",
        "    for name, value in vars(parser.parse_args(argv)).items():\n"
        "        if value != Config.__dataclass_fields__[name].default:\n"
        "            setattr(CURRENT, name, value)\n"
        "    return copy.copy(CURRENT)",
    ).replace("def parse(", "CURRENT = Config()\n\n\ndef parse(")


@rejected("parse", by=("test_values", "test_json"))
def types_of_the_defaults(reference: str) -> str:
    return reference.replace("(get_args(field.type) or (field.type,))[0]", "type(field.default)")


@rejected("parse", by=("test_fields", "test_defaults"), says="lr")
def another_default(reference: str) -> str:
    return reference.replace("lr: float = 1e-3", "lr: float = 3e-4")


@rejected("parse", by="test_fields", says="clip")
def a_field_is_missing(reference: str) -> str:
    return reference.replace("    clip: float | None = None\n", "")


@rejected("parse", by="test_fields", says="annotated")
def patience_is_an_int(reference: str) -> str:
    return reference.replace("patience: int | None = None", "patience: int = None")


@rejected("parse", by="test_json", says="json")
def device_is_no_text(reference: str) -> str:
    return reference.replace(
        "    return Config(**vars(parser.parse_args(argv)))",
        "    config = Config(**vars(parser.parse_args(argv)))\n"
        "    config.device = torch.device(config.device)\n"
        "    return config",
    )


@rejected("parse", by="test_json", says="comes back")
def compared_by_identity(reference: str) -> str:
    return reference.replace("@dataclass\nclass Config", "@dataclass(eq=False)\nclass Config")


# --- 2 ------------------------------------------------------------------------------------------


def to_device(value, device):
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to_device(item, device) for item in value)
    return value.to(device)


def forward(model, inputs):
    if isinstance(inputs, dict):
        return model(**inputs)
    if isinstance(inputs, (list, tuple)):
        return model(*inputs)
    return model(inputs)


@accepted("fit")
def with_run_epoch(
    model, train_loader, val_loader, *, loss_fn, optimizer, cfg, scheduler=None, metrics=None
):
    metrics = dict(metrics or {})

    def run_epoch(loader, training):
        model.train(training)
        rows, total = [], 0
        if training:
            optimizer.zero_grad(set_to_none=True)
        with torch.set_grad_enabled(training):
            batches = iter(loader)
            batch, i = next(batches, None), 0
            while batch is not None:
                following, i = next(batches, None), i + 1
                inputs, target = to_device(batch[0], cfg.device), batch[1].to(cfg.device)
                out = forward(model, inputs)
                loss = loss_fn(out, target)
                row = [loss.detach()]
                if training:
                    loss.div(cfg.accum).backward()
                    if i % cfg.accum == 0 or following is None:
                        if cfg.clip:
                            torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.clip)
                        optimizer.step()
                        optimizer.zero_grad()
                else:
                    row += [f(out, target) for f in metrics.values()]
                rows.append([float(value) * target.shape[0] for value in row])
                total += target.shape[0]
                batch = following
        return [sum(column) / total for column in zip(*rows, strict=True)]

    names = ["val_loss", *(f"val_{name}" for name in metrics)]
    history = {name: [] for name in ["train_loss", *names]}
    best = kept = None
    bad = 0
    for _epoch in range(cfg.epochs):
        history["train_loss"] += run_epoch(train_loader, True)
        if scheduler:
            scheduler.step()
        values = run_epoch(val_loader, False) if val_loader is not None else []
        for name, value in zip(names, values or [math.nan] * len(names), strict=True):
            history[name].append(value)
        if not values:
            continue
        if best is None or values[0] < best:
            best, bad = values[0], 0
            kept = {k: v.detach().clone() for k, v in model.state_dict().items()}
        else:
            bad += 1
        if cfg.patience is not None and bad >= cfg.patience:
            break
    if kept is not None:
        model.load_state_dict(kept)
    return history


@accepted("fit")
def rescaled_remainder(
    model, train_loader, val_loader, *, loss_fn, optimizer, cfg, scheduler=None, metrics=None
):
    history = {"train_loss": [], "val_loss": []} | {f"val_{k}": [] for k in metrics or {}}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    best_loss, best_epoch, best_model = float("inf"), -1, None

    def step(size):
        for p in parameters:
            if p.grad is not None:
                p.grad /= size
        if cfg.clip is not None:
            nn.utils.clip_grad_norm_(parameters, max_norm=cfg.clip)
        optimizer.step()
        model.zero_grad()

    for epoch in range(cfg.epochs):
        model.train()
        model.zero_grad()
        sums, n, size = torch.zeros(()), 0, 0
        for batch in train_loader:
            inputs, target = to_device(batch, cfg.device)
            loss = loss_fn(forward(model, inputs), target)
            loss.backward()
            sums, n, size = sums + loss.detach().cpu() * len(target), n + len(target), size + 1
            if size == cfg.accum:
                step(size)
                size = 0
        if size > 0:
            step(size)
        history["train_loss"].append((sums / n).item())
        model.eval()
        values = {name: [] for name in history if name != "train_loss"}
        sizes = []
        with torch.inference_mode():
            for batch in val_loader if val_loader is not None else []:
                inputs, target = to_device(batch, cfg.device)
                out = forward(model, inputs)
                values["val_loss"].append(float(loss_fn(out, target)) * len(target))
                for name, metric in (metrics or {}).items():
                    values[f"val_{name}"].append(float(metric(out, target)) * len(target))
                sizes.append(len(target))
        for name, column in values.items():
            history[name].append(sum(column) / sum(sizes) if sizes else float("nan"))
        if scheduler is not None:
            scheduler.step()
        if not sizes:
            continue
        if history["val_loss"][-1] < best_loss:
            best_loss, best_epoch = history["val_loss"][-1], epoch
            best_model = copy.deepcopy(model)
        elif cfg.patience and epoch - best_epoch >= cfg.patience:
            break
    if best_model is not None:
        model.load_state_dict(best_model.state_dict())
    return history


@accepted("fit")
def clipped_by_hand(reference: str) -> str:
    return reference.replace(
        "            nn.utils.clip_grad_norm_(model.parameters(), cfg.clip)\n",
        "            grads = [p.grad for p in model.parameters() if p.grad is not None]\n"
        "            norm = torch.stack([g.norm() for g in grads]).norm()\n"
        "            for g in grads:\n"
        "                g.mul_(min(1.0, cfg.clip / (float(norm) + 1e-6)))\n",
    )


@accepted("fit")
def with_mixed_precision_at_hand(reference: str) -> str:
    return (
        reference.replace(
            "    def update() -> None:\n",
            "    scaler = torch.amp.GradScaler(cfg.device, enabled=cfg.amp)\n\n"
            "    def update() -> None:\n        scaler.unscale_(optimizer)\n",
        )
        .replace(
            "        optimizer.step()\n",
            "        scaler.step(optimizer)\n        scaler.update()\n",
        )
        .replace("(loss / cfg.accum).backward()", "scaler.scale(loss / cfg.accum).backward()")
        .replace(
            "        inputs = moved(inputs)\n        if isinstance",
            "        inputs = moved(inputs)\n"
            "        with torch.autocast(cfg.device, torch.bfloat16, enabled=cfg.amp):\n"
            "            return called(inputs)\n\n"
            "    def called(inputs: Any) -> Any:\n"
            "        if isinstance",
        )
    )


@accepted("fit")
def with_more_in_the_history(reference: str) -> str:
    return reference.replace(
        "        values |= measured\n",
        "        values |= measured\n"
        '        values["lr"] = float(optimizer.param_groups[0]["lr"])\n',
    )


class Trainer:
    def __init__(self, model, optimizer, loss_fn, cfg):
        self.model, self.optimizer, self.loss_fn, self.cfg = model, optimizer, loss_fn, cfg
        self.best, self.since, self.weights = math.inf, 0, None

    def groups(self, loader):
        group = []
        for batch in loader:
            group.append(batch)
            if len(group) == self.cfg.accum:
                yield group
                group = []
        if group:
            yield group

    def loss(self, batch):
        inputs, target = to_device(batch, self.cfg.device)
        out = forward(self.model, inputs)
        return self.loss_fn(out, target), out, target

    def epoch(self, loader):
        self.model.train()
        pairs = []
        for group in self.groups(loader):
            self.optimizer.zero_grad()
            for batch in group:
                loss, _, target = self.loss(batch)
                (loss / len(group)).backward()
                pairs.append((loss.item(), len(target)))
            if self.cfg.clip is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.cfg.clip)
            self.optimizer.step()
        return sum(v * n for v, n in pairs) / sum(n for _, n in pairs)

    def remember(self, value):
        if value < self.best:
            self.best, self.since = value, 0
            self.weights = {k: v.clone() for k, v in self.model.state_dict().items()}
        else:
            self.since += 1
        return self.since == self.cfg.patience


@accepted("fit")
def with_a_trainer(
    model, train_loader, val_loader, *, loss_fn, optimizer, cfg, scheduler=None, metrics=None
):
    trainer = Trainer(model, optimizer, loss_fn, cfg)
    functions = {"loss": None} | (metrics or {})
    history = {"train_loss": []} | {f"val_{name}": [] for name in functions}
    for _ in range(cfg.epochs):
        history["train_loss"].append(trainer.epoch(train_loader))
        if scheduler is not None:
            scheduler.step()
        model.eval()
        rows, sizes = [], []
        with torch.no_grad():
            for batch in [] if val_loader is None else val_loader:
                loss, out, target = trainer.loss(batch)
                values = [loss if f is None else f(out, target) for f in functions.values()]
                rows.append(torch.tensor([float(value) for value in values]))
                sizes.append(len(target))
        if not rows:
            means = [math.nan] * len(functions)
        else:
            weights = torch.tensor(sizes, dtype=torch.float32)
            means = (torch.stack(rows, 1) @ weights / weights.sum()).tolist()
        for name, mean in zip(functions, means, strict=True):
            history[f"val_{name}"].append(mean)
        if rows and trainer.remember(means[0]):
            break
    if trainer.weights is not None:
        model.load_state_dict(trainer.weights)
    return history


@rejected("fit", by="test_modes", says="train mode must be set again")
def eval_never_undone(reference: str) -> str:
    return reference.replace(
        "        model.train()\n        optimizer", "        optimizer"
    ).replace(
        "    for _ in range(cfg.epochs):\n",
        "    model.train()\n    for _ in range(cfg.epochs):\n",
        1,
    )


@rejected("fit", by=("test_modes", "test_validation_changes_nothing"), says="validation")
def validates_in_train_mode(reference: str) -> str:
    return reference.replace("        model.eval()\n        functions", "        functions")


@rejected("fit", by="test_modes", says="no grad")
def validates_with_gradients(reference: str) -> str:
    return reference.replace("    @torch.no_grad()\n    def validate", "    def validate")


@rejected("fit", by="test_own_gradient", says="zero_grad is missing")
def never_zeroed(reference: str) -> str:
    return reference.replace(
        "        optimizer.step()\n        optimizer.zero_grad()\n", "        optimizer.step()\n"
    )


@rejected("fit", by="test_accumulation", says="zero_grad after the step")
def never_zeroed_with_accumulation(reference: str) -> str:
    return reference.replace(
        "        optimizer.step()\n        optimizer.zero_grad()\n",
        "        optimizer.step()\n        if cfg.accum == 1:\n            optimizer.zero_grad()\n",
    )


@rejected("fit", by="test_own_gradient", says="before `fit`")
def begins_with_old_gradients(reference: str) -> str:
    return reference.replace(
        "        model.train()\n        optimizer.zero_grad()\n", "        model.train()\n"
    )


@rejected("fit", by="test_accumulation", says="not before every backward")
def zeroed_before_every_backward(reference: str) -> str:
    return reference.replace(
        "            (loss / cfg.accum).backward()\n",
        "            optimizer.zero_grad()\n            loss.backward()\n",
    )


@rejected("fit", by="test_accumulation", says="summed")
def sum_of_the_group(reference: str) -> str:
    return reference.replace("(loss / cfg.accum).backward()", "loss.backward()")


@rejected("fit", by="test_accumulation", says="optimizer steps")
def accum_ignored(reference: str) -> str:
    return reference.replace("if waiting == cfg.accum:", "if waiting:")


@rejected("fit", by="test_remainder", says="for nothing")
def remainder_dropped(reference: str) -> str:
    return reference.replace("        if waiting:\n            update()\n", "")


@rejected("fit", by="test_remainder", says="next epoch")
def remainder_carried_over(
    model, train_loader, val_loader, *, loss_fn, optimizer, cfg, scheduler=None, metrics=None
):
    step = optimizer.step
    pending = [0]

    def counted(closure=None):
        return step()

    loss_of = loss_fn

    def counting_loss(out, target):
        return loss_of(out, target)

    history = {"train_loss": [], "val_loss": []}
    for _ in range(cfg.epochs):
        model.train()
        for inputs, target in train_loader:
            counting_loss(forward(model, inputs), target).backward()
            pending[0] += 1
            if pending[0] % cfg.accum == 0:
                counted()
                optimizer.zero_grad()
        history["train_loss"].append(0.0)
    return history


@rejected("fit", by="test_no_len")
def last_batch_by_len(reference: str) -> str:
    return reference.replace(
        "            if waiting == cfg.accum:",
        "            if waiting == cfg.accum or samples == len(train_loader):",
    )


@rejected("fit", by=("test_no_len", "test_trains_models"))
def asks_whether_the_loader_is_true(reference: str) -> str:
    return reference.replace("in () if val_loader is None else val_loader:", "in val_loader or ():")


@rejected("fit", by="test_no_len")
def loaders_as_iterators(reference: str) -> str:
    return reference.replace(
        "    history: dict", "    train_loader = iter(train_loader)\n    history: dict", 1
    )


@rejected("fit", by="test_clip", says="nothing was clipped")
def never_clipped(reference: str) -> str:
    return reference.replace("if cfg.clip is not None:", "if False:")


@rejected("fit", by="test_clip", says="each by itself")
def clipped_one_by_one(reference: str) -> str:
    return reference.replace(
        "            nn.utils.clip_grad_norm_(model.parameters(), cfg.clip)",
        "            for p in model.parameters():\n"
        "                nn.utils.clip_grad_norm_([p], cfg.clip)",
    )


@rejected("fit", by="test_clip", says="single elements")
def clipped_by_value(reference: str) -> str:
    return reference.replace("clip_grad_norm_(", "clip_grad_value_(")


@rejected("fit", by="test_clip")
def clipped_after_the_step(reference: str) -> str:
    return reference.replace(
        "        optimizer.step()\n        optimizer.zero_grad()\n",
        "        optimizer.zero_grad()\n",
    ).replace(
        "        if cfg.clip is not None:",
        "        optimizer.step()\n        if cfg.clip is not None:",
    )


@rejected("fit", by="test_clip")
def clipped_after_each_backward(reference: str) -> str:
    return reference.replace(
        "            (loss / cfg.accum).backward()\n",
        "            (loss / cfg.accum).backward()\n"
        "            if cfg.clip is not None:\n"
        "                nn.utils.clip_grad_norm_(model.parameters(), cfg.clip / cfg.accum)\n",
    )


@rejected("fit", by="test_scheduler", says="not per batch")
def scheduler_per_batch(reference: str) -> str:
    return reference.replace(
        "        optimizer.step()\n",
        "        optimizer.step()\n"
        "        if scheduler is not None:\n            scheduler.step()\n",
    ).replace(
        "        if scheduler is not None:\n            scheduler.step()\n        if values",
        "        if values",
    )


@rejected("fit", by="test_scheduler", says="after the optimizer steps")
def scheduler_first(reference: str) -> str:
    return reference.replace(
        "        if scheduler is not None:\n            scheduler.step()\n", ""
    ).replace(
        '        values = {"train_loss"',
        "        if scheduler is not None:\n            scheduler.step()\n"
        '        values = {"train_loss"',
    )


@rejected("fit", by="test_scheduler", says="0 times")
def scheduler_forgotten(reference: str) -> str:
    return reference.replace("if scheduler is not None:", "if False:")


@rejected("fit", by="test_patience", says="it must stop")
def patience_one_too_many(reference: str) -> str:
    return reference.replace("worse == cfg.patience:", "cfg.patience and worse > cfg.patience:")


@rejected("fit", by="test_patience")
def patience_in_all(reference: str) -> str:
    return reference.replace(
        "copy.deepcopy(model.state_dict()), 0\n", "copy.deepcopy(model.state_dict()), worse\n"
    )


@rejected("fit", by="test_patience")
def compared_with_the_epoch_before(reference: str) -> str:
    return reference.replace(
        "            worse += 1\n",
        '            worse += 1\n            best = values["val_loss"]\n',
    )


@rejected("fit", by="test_patience")
def none_stops_at_once(reference: str) -> str:
    return reference.replace("worse == cfg.patience:", "worse >= (cfg.patience or 0):")


@rejected("fit", by="test_ties", says="equal")
def equal_is_better(reference: str) -> str:
    return reference.replace('if values["val_loss"] < best', 'if values["val_loss"] <= best')


@rejected("fit", by="test_best_weights", says="keep a copy")
def best_is_an_alias(reference: str) -> str:
    return reference.replace("copy.deepcopy(model.state_dict())", "model.state_dict()")


@rejected("fit", by="test_best_weights", says="keep a copy")
def best_is_a_shallow_copy(reference: str) -> str:
    return reference.replace("copy.deepcopy(model.state_dict())", "dict(model.state_dict())")


@rejected("fit", by="test_best_weights", says="last weights")
def last_weights_stay(reference: str) -> str:
    return reference.replace("    if best_state is not None:", "    if False:")


@rejected("fit", by="test_best_weights", says="epoch")
def restored_only_when_stopped(reference: str) -> str:
    return reference.replace("    if best_state is not None:", "    if worse == cfg.patience:")


@rejected("fit", by="test_best_buffers", says="buffer")
def best_parameters_only(reference: str) -> str:
    return reference.replace(
        "copy.deepcopy(model.state_dict())",
        "{k: p.detach().clone() for k, p in model.named_parameters()}",
    ).replace("load_state_dict(best_state)", "load_state_dict(best_state, strict=False)")


@rejected("fit", by="test_weighted", says="weigh by samples")
def mean_of_batch_means(reference: str) -> str:
    return (
        reference.replace("loss.item() * len(target)", "loss.item()")
        .replace("float(function(out, target)) * len(target)", "float(function(out, target))")
        .replace("samples += len(target)", "samples += 1")
    )


@rejected("fit", by="test_weighted", says="val_mae")
def metrics_not_weighted(reference: str) -> str:
    return reference.replace(
        "float(function(out, target)) * len(target)",
        "float(function(out, target)) * (len(target) if function is loss_fn else 4)",
    )


@rejected("fit", by="test_weighted", says="last batch")
def loss_of_the_last_batch(reference: str) -> str:
    return reference.replace(
        "return total / samples if samples else math.nan\n", "return loss.item()\n"
    )


@rejected("fit", by=("test_history",), says="Tensor")
def losses_as_tensors(reference: str) -> str:
    return reference.replace("total += loss.item() * len(target)", "total += loss * len(target)")


@rejected("fit", by="test_history", says="values after 3 epochs")
def one_loss_a_batch(reference: str) -> str:
    return reference.replace(
        '        values = {"train_loss": train()}\n',
        '        values = {"train_loss": train()}\n'
        '        history.setdefault("train_loss", []).append(0.0)\n',
    )


@rejected("fit", by="test_history", says="expected")
def metrics_under_their_own_names(reference: str) -> str:
    return reference.replace('f"val_{k}": metrics[k]', "k: metrics[k]")


@rejected("fit", by="test_without_validation", says="nan")
def zero_without_validation(reference: str) -> str:
    return reference.replace(
        "total / samples if samples else math.nan for k", "total / max(samples, 1) for k"
    )


@rejected("fit", by="test_without_validation")
def stops_without_validation(reference: str) -> str:
    return reference.replace("        elif samples:\n", "        else:\n")


@rejected("fit", by="test_without_validation")
def validation_required(reference: str) -> str:
    return reference.replace("in () if val_loader is None else val_loader:", "in val_loader:")


@rejected("fit", by="test_inputs")
def tensors_only(reference: str) -> str:
    return reference.replace("out = outputs(inputs)", "out = model(inputs)").replace(
        "loss_fn(outputs(inputs), target)", "loss_fn(model(inputs), target)"
    )


@rejected("fit", by="test_inputs")
def tuples_but_no_lists(reference: str) -> str:
    return (
        reference.replace(
            "return [moved(item) for item in value]", "return tuple(map(moved, value))"
        )
        .replace("isinstance(inputs, list)", "isinstance(inputs, tuple)")
        .replace("isinstance(value, tuple | list)", "isinstance(value, tuple)")
    )


@rejected("fit", by="test_inputs")
def dict_by_position(reference: str) -> str:
    return reference.replace("model(**inputs)", "model(*inputs.values())")


@rejected("fit", by="test_inputs", says="only x")
def first_of_the_tuple(reference: str) -> str:
    return reference.replace(
        "model(*inputs) if isinstance(inputs, list)", "model(inputs[0]) if isinstance(inputs, list)"
    )


@rejected("fit", by=("test_trains_models",))
def weighed_by_the_inputs(reference: str) -> str:
    return reference.replace("len(target)", "inputs.shape[0]")


@rejected("fit", by=("test_trains_numbers",))
def classes_for_all(reference: str) -> str:
    return reference.replace("target = moved(target)", "target = moved(target).long()")


@rejected("fit", by="test_trains_numbers")
def squeezed_outputs(reference: str) -> str:
    return reference.replace(
        "return model(*inputs) if isinstance(inputs, list) else model(inputs)",
        "return model(*inputs) if isinstance(inputs, list) else model(inputs).squeeze(-1)",
    ).replace(
        "out = outputs(inputs)", "out = outputs(inputs)\n            target = target.squeeze(-1)"
    )


@rejected("fit", by=("test_trains_tokens", "test_trains_images"))
def floats_for_all(reference: str) -> str:
    return reference.replace("return value.to(cfg.device)", "return value.float().to(cfg.device)")


@rejected("fit", by=("test_trains_images",))
def flattened_targets(reference: str) -> str:
    return reference.replace("target = moved(target)", "target = moved(target).float().flatten()")


@rejected("fit", by="test_trains_images", says="accuracy")
def one_step_an_epoch(reference: str) -> str:
    return reference.replace("if waiting == cfg.accum:", "if waiting == 10**6:")


# --- 3 ------------------------------------------------------------------------------------------


@accepted("sanity_checks")
def by_changing_a_row(model, batch, loss_fn, n_classes=None):
    x, y = batch
    state = torch.get_rng_state()
    try:
        twin = copy.deepcopy(model)
        twin.eval()
        with torch.no_grad():
            start = float(loss_fn(twin(x), y))
            other = x.clone()
            other[1] = torch.randn_like(other[1]) + 3
            mixing = not torch.allclose(twin(x)[0], twin(other)[0], rtol=1e-4, atol=1e-6)
        twin.train()
        twin.zero_grad()
        loss_fn(twin(x), y).backward()
        grads = [p.grad for p in twin.parameters() if p.requires_grad]
        fine = all(g is not None and g.abs().sum() > 0 for g in grads)
        opt = torch.optim.AdamW(twin.parameters(), lr=1e-2, weight_decay=0)
        losses = []
        for _ in range(100):
            opt.zero_grad()
            loss = loss_fn(twin(x), y)
            loss.backward()
            opt.step()
            losses.append(loss.item())
        twin.eval()
        with torch.no_grad():
            blind = float(loss_fn(twin(torch.zeros_like(x)), y)) > float(loss_fn(twin(x), y))
        norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
        target = None if n_classes is None else math.log(n_classes)
        return {
            "init_loss": target is None or abs(start / target - 1) < 0.25,
            "overfits": min(losses) < losses[0] / 10,
            "no_mixing": not mixing,
            "all_grads": fine,
            "uses_inputs": blind,
            "has_bn": any(isinstance(m, norms) for m in twin.modules()),
        }
    finally:
        torch.set_rng_state(state)


@accepted("sanity_checks")
def by_the_jacobian(reference: str) -> str:
    return reference.replace(
        "        (grad,) = torch.autograd.grad("
        "(row * torch.randn_like(row)).sum(), probe, allow_unused=True)\n",
        "        ask = {'retain_graph': True, 'allow_unused': True}\n"
        "        rows = [torch.autograd.grad(v, probe, **ask)[0] for v in row]\n"
        "        grad = None if rows[0] is None else sum(g.abs() for g in rows)\n",
    )


@accepted("sanity_checks")
def on_the_model_itself_and_put_back(model, batch, loss_fn, n_classes=None):
    grads = {p: p.grad for p in model.parameters()}
    modes = {m: m.training for m in model.modules()}
    weights = copy.deepcopy(model.state_dict())
    x, y = batch
    with torch.random.fork_rng():
        model.eval()
        probe = x.clone().requires_grad_(True)
        out = model(probe)
        (grad,) = torch.autograd.grad((out[0] ** 2).sum(), probe, allow_unused=True)
        model.train()
        for p in model.parameters():
            p.grad = None
        opt = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
        losses, fine = [], True
        for i in range(80):
            opt.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            if i == 0:
                for p in model.parameters():
                    if p.requires_grad:
                        fine &= p.grad is not None and p.grad.count_nonzero().item() > 0
            losses.append(loss.item())
            opt.step()
        model.eval()
        with torch.no_grad():
            worse = (loss_fn(model(torch.zeros_like(x)), y) > loss_fn(model(x), y)).item()
    model.load_state_dict(weights)
    for p, old in grads.items():
        p.grad = old
    for m, mode in modes.items():
        m.training = mode
    healthy = True
    if n_classes is not None:
        healthy = 0.75 * math.log(n_classes) <= losses[0] <= 1.25 * math.log(n_classes)
    return {
        "init_loss": healthy,
        "overfits": losses[-1] < 0.1 * losses[0],
        "no_mixing": grad is None or grad[1].abs().max().item() == 0,
        "all_grads": fine,
        "uses_inputs": worse,
        "has_bn": any("BatchNorm" in type(m).__name__ for m in modes),
    }


@rejected("sanity_checks", by="test_untouched", says="caller's model changed")
def trains_the_callers_model(reference: str) -> str:
    return reference.replace("twin = copy.deepcopy(model).train()", "twin = model.train()")


@rejected("sanity_checks", by="test_untouched", says="changed")
def shallow_copy(reference: str) -> str:
    return reference.replace(
        "twin = copy.deepcopy(model).train()", "twin = copy.copy(model).train()"
    )


@rejected("sanity_checks", by="test_untouched", says="modes")
def left_in_eval(reference: str) -> str:
    return reference.replace("copy.deepcopy(model).eval()(probe)", "model.eval()(probe)")


@rejected("sanity_checks", by="test_untouched", says="gradients")
def gradients_left_behind(reference: str) -> str:
    return reference.replace(
        "    x, y = batch\n",
        "    x, y = batch\n    loss_fn(copy.deepcopy(model).eval()(x), y)\n    model.zero_grad()\n",
        1,
    )


@rejected("sanity_checks", by="test_untouched", says="x requires grad")
def asks_with_x_itself(reference: str) -> str:
    return reference.replace(
        "probe = x.detach().clone().requires_grad_()", "probe = x.requires_grad_()"
    )


@rejected("sanity_checks", by="test_generator", says="global generator")
def draws_from_the_global_generator(reference: str) -> str:
    return reference.replace("with torch.random.fork_rng():", "if True:")


@rejected("sanity_checks", by=("test_healthy",), says="init_loss")
def compared_with_zero(reference: str) -> str:
    return reference.replace(
        "abs(first.item() - expected) <= 0.25 * expected", "first.item() <= 0.25"
    )


@rejected("sanity_checks", by="test_init_loss", says="log 5")
def only_too_high(reference: str) -> str:
    return reference.replace(
        "abs(first.item() - expected) <= 0.25 * expected", "first.item() <= 1.25 * expected"
    )


@rejected("sanity_checks", by="test_init_loss", says="init_loss")
def only_too_low(reference: str) -> str:
    return reference.replace(
        "abs(first.item() - expected) <= 0.25 * expected", "first.item() >= 0.75 * expected"
    )


@rejected("sanity_checks", by="test_init_loss", says="init_loss")
def loss_after_the_training(reference: str) -> str:
    return reference.replace(
        "abs(first.item() - expected) <= 0.25 * expected", "loss.item() <= 1.25 * expected"
    )


@rejected("sanity_checks", by="test_regression")
def needs_classes(reference: str) -> str:
    return reference.replace("n_classes is None or abs(", "abs(")


@rejected("sanity_checks", by="test_frozen", says="only trainable")
def frozen_is_a_fault(reference: str) -> str:
    return reference.replace(
        "bool(p.grad.any()) for p in trainable", "bool(p.grad.any()) for p in twin.parameters()"
    )


@rejected("sanity_checks", by="test_frozen", says="requires grad afterwards")
def unfreezes(reference: str) -> str:
    return reference.replace(
        "    x, y = batch\n", "    x, y = batch\n    model.requires_grad_(True)\n", 1
    )


@rejected("sanity_checks", by="test_all_grads", says="all zeros")
def zeros_will_do(reference: str) -> str:
    return reference.replace("p.grad is not None and bool(p.grad.any())", "p.grad is not None")


@rejected("sanity_checks", by="test_all_grads", says="None")
def none_will_do(reference: str) -> str:
    return reference.replace(
        "p.grad is not None and bool(p.grad.any())", "p.grad is None or bool(p.grad.any())"
    )


@rejected("sanity_checks", by="test_all_grads", says="all_grads")
def any_gradient_will_do(reference: str) -> str:
    return reference.replace("all_grads = all(", "all_grads = any(")


@rejected("sanity_checks", by=("test_batch_norm",), says="look in eval mode")
def mixing_in_train_mode(reference: str) -> str:
    return reference.replace(
        "copy.deepcopy(model).eval()(probe)", "copy.deepcopy(model).train()(probe)"
    )


@rejected("sanity_checks", by="test_batch_norm", says="BatchNorm2d")
def one_dimension_only(reference: str) -> str:
    return reference.replace("nn.modules.batchnorm._BatchNorm", "nn.BatchNorm1d")


@rejected("sanity_checks", by="test_no_mixing", says="depends on other rows")
def mixing_by_the_sum(reference: str) -> str:
    return reference.replace("not bool(grad[1:].any())", "bool(grad[0].any())")


@rejected("sanity_checks", by="test_healthy", says="no_mixing")
def gradient_of_all_rows(reference: str) -> str:
    return reference.replace(".eval()(probe)[0]", ".eval()(probe)")


@rejected("sanity_checks", by="test_overfits", says="overfits")
def a_lower_loss_will_do(reference: str) -> str:
    return reference.replace("loss.item() < 0.1 * first.item()", "loss.item() < first.item()")


@rejected("sanity_checks", by="test_healthy", says="overfits")
def a_single_step(reference: str) -> str:
    return reference.replace("range(60)", "range(1)")


@rejected("sanity_checks", by="test_uses_inputs", says="ignores x")
def any_loss_will_do(reference: str) -> str:
    return reference.replace("bool(blind > seeing)", "bool(blind >= seeing)")


@rejected("sanity_checks", by="test_healthy", says="uses_inputs")
def better_without_inputs(reference: str) -> str:
    return reference.replace("bool(blind > seeing)", "bool(blind < seeing)")


@rejected("sanity_checks", by="test_flags", says="expected a bool")
def flags_as_tensors(reference: str) -> str:
    return reference.replace("bool(blind > seeing)", "blind > seeing")


# --- 4 ------------------------------------------------------------------------------------------


def with_main(text, body):
    """The reference's text with another main."""
    start, end = text.index("def main("), text.index('if __name__ == "__main__"')
    return text[:start] + body.strip() + "\n\n\n" + text[end:]


OWN_LOOP = """
def batches_of(x, y, size, generator):
    order = torch.randperm(len(x), generator=generator)
    for rows in order.split(size):
        yield x[rows], y[rows]


def main(argv):
    parser = argparse.ArgumentParser()
    parser.add_argument("--resume", action="store_true")
    known, rest = parser.parse_known_args(argv)
    cfg = parse(rest)
    os.makedirs(cfg.out, exist_ok=True)
    path = lambda name: os.path.join(cfg.out, name)
    with open(path("config.json"), "w") as stream:
        json.dump(asdict(cfg), stream, indent=2)
    generator = torch.Generator().manual_seed(cfg.seed)
    x = torch.rand(90, 2, generator=generator)
    y = (x[:, 0] > x[:, 1]).long()
    torch.manual_seed(cfg.seed)
    model = nn.Sequential(nn.Linear(2, 12), nn.ReLU(), nn.Dropout(0.1), nn.Linear(12, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=cfg.lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
    done, best = 0, float("inf")
    if known.resume and os.path.exists(path("last.pt")):
        saved = torch.load(path("last.pt"), weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        done, best = saved["done"], saved["best"]
    elif os.path.exists(path("metrics.jsonl")):
        os.remove(path("metrics.jsonl"))
    stopped = False

    def stop(number, frame):
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGINT, stop)
    while done < cfg.epochs and not stopped:
        done += 1
        began = time.perf_counter()
        torch.manual_seed(1000003 * cfg.seed + done)
        generator.manual_seed(1000003 * cfg.seed + done)
        model.train()
        total = 0.0
        for a, b in batches_of(x[:60], y[:60], cfg.batch_size, generator):
            loss = nn.functional.cross_entropy(model(a), b)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(b)
        schedule.step()
        model.eval()
        with torch.no_grad():
            out = model(x[60:])
            val = nn.functional.cross_entropy(out, y[60:]).item()
            acc = (out.argmax(1) == y[60:]).float().mean().item()
        record = dict(epoch=done, train_loss=total / 60, val_loss=val, val_acc=acc)
        record["time"] = time.perf_counter() - began
        print(record)
        if val < best:
            best = val
            torch.save({"model": model.state_dict(), "epoch": done}, path("best.pt"))
        torch.save(
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "done": done,
                "best": best,
            },
            path("last.pt"),
        )
        with open(path("metrics.jsonl"), "a") as stream:
            stream.write(json.dumps(record) + "\\n")
"""


@accepted("main")
def with_a_loop_of_its_own(reference: str) -> str:
    return with_main(reference, OWN_LOOP).replace("import math\n", "import math\nimport os\n", 1)


@accepted("main")
def interrupts_put_off(reference: str) -> str:
    return (
        reference.replace(
            "    signal.signal(signal.SIGINT, lambda number, _: signals.append(number))\n", ""
        )
        .replace(
            "            began = time.perf_counter()\n",
            "            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})\n"
            "            began = time.perf_counter()\n",
            1,
        )
        .replace(
            "            if signals:\n                break\n",
            "            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})\n",
        )
    )


@accepted("main")
def resume_as_a_setting(reference: str) -> str:
    return (
        reference.replace(
            '    out: str = "run"\n', '    out: str = "run"\n    resume: bool = False\n'
        )
        .replace('    resume = "--resume" in argv\n', "")
        .replace('[word for word in argv if word != "--resume"]', "argv")
        .replace("resume = resume and last.exists()", "resume = cfg.resume and last.exists()")
    )


@rejected("main", by="test_same_seed", says="without the seed")
def unseeded_loader(reference: str) -> str:
    return (
        reference.replace(
            "cfg.batch_size, shuffle=True)", "cfg.batch_size, shuffle=True, generator=loose)"
        )
        .replace("    val_loader = [(x", "    val_loader = [(x")
        .replace(
            "    train_loader = DataLoader(",
            "    loose = torch.Generator()\n    loose.seed()\n    train_loader = DataLoader(",
        )
    )


@rejected("main", by="test_same_seed", says="without the seed")
def unseeded_weights(reference: str) -> str:
    return reference.replace("    torch.manual_seed(cfg.seed)\n", "").replace(
        "    model = nn.Sequential(nn.Linear(4, 16)",
        "    torch.seed()\n    model = nn.Sequential(nn.Linear(4, 16)",
    )


@rejected("main", by="test_other_seed", says="--seed 5")
def always_the_same_seed(reference: str) -> str:
    return reference.replace("torch.manual_seed(cfg.seed)", "torch.manual_seed(0)")


@rejected("main", by="test_lines", says="not the text of one")
def text_of_tensors(reference: str) -> str:
    return reference.replace(
        "stream.write(json.dumps(line)",
        "told = {k: v if k in ('epoch', 'time') else torch.tensor(v) for k, v in line.items()}\n"
        "            stream.write(json.dumps(told, default=repr)",
    )


@rejected("main", by="test_lines", says="epochs")
def epochs_from_zero(reference: str) -> str:
    return reference.replace('line = {"epoch": epoch}', 'line = {"epoch": epoch - 1}')


@rejected("main", by="test_lines", says="no JSON")
def dicts_as_python_prints_them(reference: str) -> str:
    return reference.replace("stream.write(json.dumps(line)", "stream.write(str(line)")


@rejected("main", by="test_lines", says="a date")
def time_of_day(reference: str) -> str:
    return reference.replace("time.perf_counter() - began", "time.time()")


@rejected("main", by="test_lines", says="expected > 0")
def time_backwards(reference: str) -> str:
    return reference.replace("time.perf_counter() - began", "began - time.perf_counter()")


@rejected("main", by="test_resume", says="epochs")
def overwrites_on_resume(reference: str) -> str:
    return reference.replace('"a" if resume else "w"', '"w"')


@rejected("main", by="test_begins_anew", says="epochs")
def always_appends(reference: str) -> str:
    return reference.replace('"a" if resume else "w"', '"a"')


@rejected("main", by="test_begins_anew", says="without --resume")
def always_resumes(reference: str) -> str:
    return reference.replace("resume = resume and last.exists()", "resume = last.exists()")


@rejected("main", by="test_resume", says="in the one")
def generator_not_saved(reference: str) -> str:
    return reference.replace('        torch.set_rng_state(state["rng"])\n', "")


@rejected("main", by="test_resume", says="in the one")
def optimizer_not_saved(reference: str) -> str:
    return reference.replace('        optimizer.load_state_dict(state["optimizer"])\n', "")


@rejected("main", by="test_resume", says="in the one")
def schedule_by_the_number_of_epochs(reference: str) -> str:
    return (
        reference.replace("lr=cfg.lr)", "lr=cfg.lr / cfg.epochs)")
        .replace(
            "        optimizer.load_state_dict(",
            "        lr = cfg.lr / cfg.epochs\n        optimizer.load_state_dict(",
        )
        .replace(
            '        torch.set_rng_state(state["rng"])\n',
            '        torch.set_rng_state(state["rng"])\n'
            '        optimizer.param_groups[0]["lr"] = lr\n',
        )
    )


@rejected("main", by="test_resume", says="epochs")
def counts_again_from_one(reference: str) -> str:
    return reference.replace(
        'start, best = state["epoch"] + 1, state["best"]', 'best = state["best"]'
    )


@rejected("main", by=("test_interrupt",), says="lost")
def interrupt_loses_the_run(reference: str) -> str:
    return (
        reference.replace(
            "    signal.signal(signal.SIGINT, lambda number, _: signals.append(number))\n", ""
        )
        .replace('            (folder / "last.tmp").replace(last)\n', "")
        .replace(
            "            if signals:\n                break\n",
            '    (folder / "last.tmp").replace(last)\n',
        )
    )


@rejected("main", by="test_interrupt", says="still going on")
def interrupt_ignored(reference: str) -> str:
    return reference.replace("lambda number, _: signals.append(number)", "signal.SIG_IGN")


@rejected("main", by="test_interrupt_and_resume", says="epochs")
def saved_without_its_epoch(reference: str) -> str:
    return reference.replace(
        "            if signals:\n",
        "            if signals:\n"
        '                state["epoch"] = 0\n                torch.save(state, last)\n',
    )


@rejected("main", by="test_interrupt_and_resume", says="in the one")
def saved_in_the_middle(reference: str) -> str:
    return reference.replace(
        "            if signals:\n",
        "            if signals:\n"
        "                fit(model, train_loader, None, loss_fn=nn.functional.mse_loss,\n"
        "                    optimizer=optimizer, cfg=replace(cfg, epochs=1))\n"
        '                torch.save(state | {"model": model.state_dict()}, last)\n',
    )


@rejected("main", by="test_flushed", says="flush")
def never_flushed(reference: str) -> str:
    return reference.replace("            stream.flush()\n", "")


@rejected("main", by="test_quiet", says="stderr")
def progress_on_stderr(reference: str) -> str:
    return reference.replace(
        "            stream.flush()\n",
        "            stream.flush()\n            print(line, file=sys.stderr)\n",
    )


@rejected("main", by="test_quiet", says="has a cause")
def a_warning(reference: str) -> str:
    return reference.replace(
        "    signals: list[int] = []\n",
        "    signals: list[int] = []\n    torch.optim.lr_scheduler.StepLR(optimizer, 3).step()\n",
    )


@rejected("main", by="test_shell", says="from a shell")
def seeded_by_a_hash(reference: str) -> str:
    return reference.replace(
        "torch.manual_seed(cfg.seed)", 'torch.manual_seed(hash(f"data {cfg.seed}"))'
    )


@rejected("main", by="test_files", says="best.pt")
def no_best(reference: str) -> str:
    return reference.replace('folder / "best.pt"', 'folder / "best_model.pt"')


@rejected("main", by="test_files", says="can't read last.pt")
def saves_whole_objects(reference: str) -> str:
    return reference.replace(
        '{"epoch": epoch, "best": best', '{"module": model, "epoch": epoch, "best": best'
    )


@rejected("main", by="test_files", says="config.json")
def config_as_text(reference: str) -> str:
    return reference.replace("json.dumps(asdict(cfg))", "str(cfg)")


@rejected("main", by="test_files")
def no_parents(reference: str) -> str:
    return reference.replace(
        "folder.mkdir(parents=True, exist_ok=True)", "folder.mkdir(exist_ok=True)"
    )


@rejected("main", by="test_learns", says="has to fall")
def optimizer_of_another_model(reference: str) -> str:
    return reference.replace("Adam(model.parameters()", "Adam(copy.deepcopy(model).parameters()")
