"""Answers to day 25 that its suite must accept or reject."""

import copy
import math
from collections import Counter

import numpy as np
import torch
from language_model import *
from torch import nn
from torch.nn import functional as F

from grader.answers import accepted, rejected

# --- 1 ------------------------------------------------------------------------------------------


@accepted("BPE")
class LowestRankFirst:
    def __init__(self):
        self.merges, self.ranks, self.pieces = [], {}, [bytes([i]) for i in range(256)]

    def train(self, text, vocab_size):
        if vocab_size < 256:
            raise ValueError("too few ids")
        self.__init__()
        ids = list(bytes(text, "utf-8"))
        for new in range(256, vocab_size):
            counts = Counter(zip(ids, ids[1:]))
            if not counts:
                return
            pair = sorted(counts, key=lambda p: (counts[p], [self.pieces[i] for i in p]))[-1]
            self.ranks[pair] = new - 256
            self.merges.append(pair)
            self.pieces.append(self.pieces[pair[0]] + self.pieces[pair[1]])
            ids = self.join(ids, pair, new)

    def join(self, ids, pair, new):
        out, i = [], 0
        while i < len(ids):
            hit = tuple(ids[i : i + 2]) == pair
            out.append(new if hit else ids[i])
            i += 2 if hit else 1
        return out

    def encode(self, text):
        ids = list(bytes(text, "utf-8"))
        while len(ids) > 1:
            pair = min(zip(ids, ids[1:]), key=lambda p: self.ranks.get(p, math.inf))
            if pair not in self.ranks:
                break
            ids = self.join(ids, pair, 256 + self.ranks[pair])
        return ids

    def decode(self, ids):
        return b"".join([self.pieces[i] for i in ids]).decode(errors="replace")


@accepted("BPE")
class InADictionary(BPE):
    def encode(self, text):
        ids = list(text.encode("utf-8"))
        for new, (left, right) in enumerate(self.merges, 256):
            i = 0
            while i < len(ids) - 1:
                if ids[i] == left and ids[i + 1] == right:
                    ids[i : i + 2] = [new]
                i += 1
        return ids

    def decode(self, ids):
        def spell(i):
            if i < 256:
                return bytes([i])
            return b"".join(spell(part) for part in self.merges[i - 256])

        return b"".join(spell(i) for i in ids).decode("utf-8", "replace")


@rejected("BPE", by="test_rank", says="learned first")
class GreedyLongest(BPE):
    def encode(self, text):
        pieces = [bytes([i]) for i in range(256)]
        for left, right in self.merges:
            pieces.append(pieces[left] + pieces[right])
        lookup = {piece: i for i, piece in enumerate(pieces)}
        data, ids = text.encode(), []
        while data:
            size = next(s for s in range(len(data), 0, -1) if data[:s] in lookup)
            ids.append(lookup[data[:size]])
            data = data[size:]
        return ids


@rejected("BPE", by=("test_overlap", "test_round_trip"), says="used up")
class OverlappingPairs(BPE):
    def train(self, text, vocab_size):
        super().train("aa" + text, vocab_size)

    def encode(self, text):
        ids = list(text.encode())
        for new, pair in enumerate(self.merges, 256):
            hits = [new if p == pair else p[0] for p in zip(ids, ids[1:])]
            ids = hits + ids[-1:]
        return ids


@rejected("BPE", by="test_overlap", says="used up")
class FromTheRight(BPE):
    def encode(self, text):
        ids = list(text.encode())[::-1]
        for new, (left, right) in enumerate(self.merges, 256):
            merged = []
            for token in ids:
                if merged and (merged[-1], token) == (right, left):
                    merged[-1] = new
                else:
                    merged.append(token)
            ids = merged
        return ids[::-1]


@rejected("BPE", by="test_ties", says="on a tie")
def first_seen_on_a_tie(reference: str) -> str:
    return reference.replace("(counts[p], pieces[p[0]], pieces[p[1]])", "counts[p]")


@rejected("BPE", by="test_ties", says="on a tie")
def greater_ids_on_a_tie(reference: str) -> str:
    return reference.replace("(counts[p], pieces[p[0]], pieces[p[1]])", "(counts[p], p)")


@rejected("BPE", by="test_ties", says="on a tie")
def smaller_bytes_on_a_tie(reference: str) -> str:
    return reference.replace(
        "max(counts, key=lambda p: (counts[p], pieces[p[0]], pieces[p[1]]))",
        "min(counts, key=lambda p: (-counts[p], pieces[p[0]], pieces[p[1]]))",
    )


@rejected("BPE", by="test_round_trip", says="not characters")
class OfCharacters(BPE):
    def encode(self, text):
        ids = [ord(character) for character in text]
        return ids if max(ids, default=0) > 255 else super().encode(text)


@rejected("BPE", by="test_merges", says="merge")
def counts_once(reference: str) -> str:
    return reference.replace(
        "            for pair in itertools.pairwise(ids):\n",
        "            for pair in zip(ids[::2], ids[1::2]):\n",
    )


@rejected("BPE", by="test_large", says="nothing is split beforehand")
def words_first(reference: str) -> str:
    return reference.replace(
        "            for pair in itertools.pairwise(ids):\n",
        "            for pair in itertools.pairwise(ids):\n"
        "                if any(b in b' \\n' for i in pair for b in pieces[i]):\n"
        "                    continue\n",
    )


@rejected("BPE", by="test_invalid", says="decode")
def drops_what_is_invalid(reference: str) -> str:
    return reference.replace('errors="replace"', 'errors="ignore"')


@rejected("BPE", by="test_invalid")
def strict_decoding(reference: str) -> str:
    return reference.replace(', errors="replace"', "")


@rejected("BPE", by="test_too_small", says="ValueError")
def takes_any_size(reference: str) -> str:
    return reference.replace("if vocab_size < 256:", "if vocab_size < 0:")


@rejected("BPE", by="test_short_texts")
def goes_on_without_pairs(reference: str) -> str:
    return reference.replace(" and len(ids) > 1:", ":")


@rejected("BPE", by="test_short_texts", says="merge")
def trains_on_top(reference: str) -> str:
    return reference.replace("        self.merges = []\n        pieces", "        pieces")


@rejected("BPE", by="test_merges", says="merges")
def stops_at_pairs_seen_once(reference: str) -> str:
    return reference.replace(
        "            merged: list[int] = []\n            for token in ids:\n"
        "                if merged and (merged[-1], token) == best:",
        "            if counts[best] < 4:\n                break\n"
        "            merged: list[int] = []\n            for token in ids:\n"
        "                if merged and (merged[-1], token) == best:",
    )


# --- 2 ------------------------------------------------------------------------------------------


@accepted("get_batch")
def from_sliding_windows(ids, batch, ctx, generator, device):
    n = len(ids)
    if n <= ctx:
        raise ValueError("too short")
    start = torch.randint(0, n - ctx, size=(batch,), generator=generator)
    if torch.is_tensor(ids):
        rows = ids.unfold(0, ctx + 1, 1)[start.to(ids.device)]
    else:
        view = np.lib.stride_tricks.sliding_window_view(ids, ctx + 1)
        rows = torch.as_tensor(view[start.numpy()].astype("int64"))
    rows = rows.to(device=device, dtype=torch.int64)
    return rows[:, :ctx].contiguous(), rows[:, 1:].contiguous()


@accepted("get_batch")
def two_gathers(ids, batch, ctx, generator, device):
    if ids.shape[0] < ctx + 1:
        raise ValueError("too short")
    start = (torch.rand(batch, generator=generator, dtype=torch.float64) * (len(ids) - ctx)).long()
    at = (start.unsqueeze(1) + torch.arange(ctx).unsqueeze(0)).flatten()

    def gather(at):
        if isinstance(ids, np.ndarray):
            found = torch.tensor(np.take(ids, at.numpy()).astype(np.int64))
        else:
            found = torch.take(ids, at.to(ids.device)).long()
        return found.view(batch, ctx).to(device)

    return gather(at), gather(at + 1)


@rejected("get_batch", by="test_uniform", says="is never drawn")
def last_window_missing(reference: str) -> str:
    return reference.replace("torch.randint(n - ctx, (", "torch.randint(max(1, n - ctx - 1), (")


@rejected("get_batch", by=("test_uniform", "test_one_window"))
def one_start_too_many(reference: str) -> str:
    return reference.replace("torch.randint(n - ctx, (", "torch.randint(n - ctx + 1, (")


@rejected("get_batch", by="test_one_window")
def needs_two_windows(reference: str) -> str:
    return reference.replace("if n <= ctx:", "if n <= ctx + 1:")


@rejected("get_batch", by=("test_windows", "test_one_window"), says="y equals x")
def y_is_x(reference: str) -> str:
    return reference.replace(
        "return windows[:, :-1], windows[:, 1:]", "return windows[:, :-1], windows[:, :-1]"
    )


@rejected("get_batch", by="test_windows", says="shifted by [2]")
def shifted_twice(reference: str) -> str:
    return (
        reference.replace("torch.arange(ctx + 1)", "torch.arange(ctx + 2)")
        .replace("return windows[:, :-1], windows[:, 1:]", "return windows[:, :-2], windows[:, 2:]")
        .replace("torch.randint(n - ctx, (", "torch.randint(max(1, n - ctx - 1), (")
    )


@rejected("get_batch", by=("test_uniform", "test_generator"))
def one_after_the_other(reference: str) -> str:
    return reference.replace(
        "torch.randint(n - ctx, (batch,), generator=generator)",
        "torch.arange(batch) * ctx % (n - ctx)",
    )


@rejected("get_batch", by="test_uniform", says="a step")
def one_start_for_all(reference: str) -> str:
    return reference.replace(
        "torch.randint(n - ctx, (batch,), generator=generator)",
        "(torch.randint(n - ctx, (1,), generator=generator) + torch.arange(batch)) % (n - ctx)",
    )


@rejected("get_batch", by="test_no_loop")
def slice_after_slice(ids, batch, ctx, generator, device):
    if len(ids) <= ctx:
        raise ValueError("too short")
    start = torch.randint(len(ids) - ctx, (batch,), generator=generator).tolist()
    rows = torch.stack(
        [torch.as_tensor(np.array(ids[s : s + ctx + 1]).astype(np.int64)) for s in start]
    )
    rows = rows.to(device)
    return rows[:, :-1], rows[:, 1:]


@rejected("get_batch", by="test_generator")
def from_the_global_generator(reference: str) -> str:
    return reference.replace("(batch,), generator=generator)", "(batch,))")


@rejected("get_batch", by="test_too_short", says="ValueError")
def no_error(reference: str) -> str:
    return reference.replace("if n <= ctx:", "if n < ctx:")


@rejected("get_batch", by="test_device")
def stays_on_the_cpu(reference: str) -> str:
    return reference.replace("    windows = windows.to(device)\n", "")


@rejected("get_batch", by="test_other_arrays")
def keeps_the_dtype(reference: str) -> str:
    return reference.replace("ids[places.to(ids.device)].long()", "ids[places.to(ids.device)]")


@rejected("get_batch", by="test_other_arrays")
def through_int16(reference: str) -> str:
    return reference.replace(".astype(np.int64))", ".astype(np.int16).astype(np.int64))")


# --- 3 ------------------------------------------------------------------------------------------


@accepted("GPT")
class InitByModules(GPT):
    def __init__(self, cfg):
        super().__init__(cfg)
        self.drop = nn.Dropout(cfg.p)
        self.apply(self._draw)
        for name, parameter in self.named_parameters():
            if "out_proj" in name or "down" in name:
                nn.init.normal_(parameter, 0.0, 0.02 * (2 * cfg.layers) ** -0.5)

    def _draw(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, mean=0.0, std=0.02)

    def forward(self, ids, targets=None, keep=None, caches=None):
        batch, seq = ids.size()
        if seq > self.cfg.ctx:
            raise ValueError("too long")
        past = caches[0].length if caches else 0
        where = torch.arange(past, past + seq, device=ids.device).expand(batch, seq)
        if keep is not None:
            where = (keep.long().cumsum(-1) - 1).clamp_min(0)[:, -seq:]
        h = self.drop(F.embedding(ids, self.tok.weight) + F.embedding(where, self.pos.weight))
        for block, cache in zip(self.blocks, caches or [None] * len(self.blocks)):
            h = block(h, keep=keep, cache=cache)
        logits = F.linear(self.norm(h), self.head.weight)
        loss = None
        if targets is not None:
            loss = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=-100)
        return logits, loss


class OwnAttention(nn.Module):
    def __init__(self, dim, heads, ctx):
        super().__init__()
        self.heads = heads
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self, name, nn.Linear(dim, dim, bias=False))
        future = torch.ones(ctx, ctx, dtype=torch.bool).triu(1)
        self.register_buffer("future", future, persistent=False)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = (
            p(x).view(b, t, self.heads, -1).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        scores = q @ k.mT / math.sqrt(d // self.heads)
        weights = scores.masked_fill(self.future[:t, :t], -torch.inf).softmax(-1)
        return self.out_proj((weights @ v).transpose(1, 2).reshape(b, t, d))


class OwnBlock(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        d = cfg.dim
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attn = OwnAttention(d, cfg.heads, cfg.ctx)
        self.ffn = nn.Module()
        self.ffn.up = nn.Linear(d, 4 * d, bias=False)
        self.ffn.down = nn.Linear(4 * d, d, bias=False)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.ffn.down(F.gelu(self.ffn.up(self.norm2(x))))


@accepted("GPT")
class WithBlocksOfItsOwn(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.tok, self.pos = nn.Embedding(cfg.vocab, cfg.dim), nn.Embedding(cfg.ctx, cfg.dim)
        self.blocks = nn.ModuleList([OwnBlock(cfg) for _ in range(cfg.layers)])
        self.norm = nn.LayerNorm(cfg.dim)
        self.head = nn.Linear(cfg.dim, cfg.vocab, bias=False)
        for name, module in self.named_modules():
            if hasattr(module, "weight") and not isinstance(module, nn.LayerNorm):
                deep = name.split(".")[-1] in ("out_proj", "down")
                std = 0.02 / math.sqrt(2 * cfg.layers) if deep else 0.02
                module.weight.data.normal_(0, std)
        if cfg.tie:
            self.tok.weight = self.head.weight

    def forward(self, ids, targets=None):
        seq = ids.shape[-1]
        if seq > self.cfg.ctx:
            raise ValueError
        x = self.tok(ids) + self.pos.weight[:seq]
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        if targets is None:
            return (logits, None)
        counted = targets.ne(-100)
        picked = logits.log_softmax(-1).gather(2, targets.clamp(min=0).unsqueeze(2)).squeeze(2)
        return (logits, -(picked * counted).sum() / counted.sum())


@rejected("GPT", by="test_value", says="no norm between")
def no_last_norm(reference: str) -> str:
    return reference.replace("self.head(self.norm(x))", "self.head(x)")


@rejected("GPT", by="test_loss", says="shifted once more")
def shifts_again(reference: str) -> str:
    return reference.replace(
        "F.cross_entropy(logits.flatten(0, 1), targets.flatten())",
        "F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())",
    )


@rejected("GPT", by=("test_value", "test_one_token"), says="probabilities")
def returns_probabilities(reference: str) -> str:
    return reference.replace("return logits, ", "return logits.softmax(-1), ")


@rejected("GPT", by=("test_loss", "test_value"), says="softmax is applied twice")
def softmax_before_the_loss(reference: str) -> str:
    return reference.replace(
        "return logits, F.cross_entropy(logits.flatten(0, 1)",
        "return logits, F.cross_entropy(logits.softmax(-1).flatten(0, 1)",
    ).replace("            return logits, None", "            return logits.log_softmax(-1), None")


@rejected("GPT", by="test_value", says="rows of the batch")
def positions_of_the_batch(reference: str) -> str:
    return reference.replace(
        "places = torch.arange(past, total, device=ids.device)",
        "places = torch.arange(len(ids), device=ids.device)[:, None]",
    )


@rejected("GPT", by="test_value", says="positions are not added")
def no_positions(reference: str) -> str:
    return reference.replace("self.tok(ids) + self.pos(places)", "self.tok(ids)")


@rejected("GPT", by="test_value", says="nothing is scaled")
def scaled_embeddings(reference: str) -> str:
    return reference.replace("self.tok(ids) +", "self.tok(ids) * self.cfg.dim**0.5 +")


class SeesAll(Block):
    def forward(self, x, *, keep=None, cache=None):
        y, a = self.norm1(x), self.attn
        q, k, v = (
            p(y).unflatten(-1, (a.heads, -1)).transpose(1, 2)
            for p in (a.q_proj, a.k_proj, a.v_proj)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + a.out_proj(mixed)
        return x + self.ffn(self.norm2(x))


@rejected("GPT", by=("test_value", "test_causal"), says="not causal")
class NotCausal(GPT):
    def __init__(self, cfg):
        super().__init__(cfg)
        for block in self.blocks:
            block.__class__ = SeesAll


@rejected("GPT", by="test_causal", says="row 0 looks at row 1")
def mixes_the_rows(reference: str) -> str:
    return reference.replace(
        "        logits = self.head(self.norm(x))",
        "        x = x + 1e-9 * x.mean(0)\n        logits = self.head(self.norm(x))",
    )


@rejected("GPT", by=("test_parameter_count", "test_layout"), says="a head of its own")
def never_tied(reference: str) -> str:
    return reference.replace(
        "        if cfg.tie:\n            self.head.weight = self.tok.weight\n", ""
    )


@rejected("GPT", by="test_layout", says="another Parameter")
def tied_by_value(reference: str) -> str:
    return reference.replace(
        "self.head.weight = self.tok.weight", "self.head.weight.data = self.tok.weight.data"
    ).replace(
        "        for name, parameter in self.named_parameters():",
        "            self.__dict__['named_parameters'] = lambda **k: [\n"
        "                (n, p) for n, p in nn.Module.named_parameters(self, **k)\n"
        "                if n != 'head.weight'\n"
        "            ]\n"
        "        for name, parameter in self.named_parameters():",
    )


@rejected("GPT", by="test_layout", says="a parameter too many")
def head_with_bias(reference: str) -> str:
    return reference.replace("cfg.vocab, bias=False)", "cfg.vocab)")


@rejected("GPT", by="test_first_loss", says="knows nothing")
def default_weights(reference: str) -> str:
    return reference.replace("if parameter.dim() == 2:", "if parameter.dim() == 3:")


@rejected("GPT", by="test_first_loss", says="standard deviation")
def residuals_not_scaled(reference: str) -> str:
    return reference.replace(" / math.sqrt(2 * cfg.layers)", "")


@rejected("GPT", by="test_ignored_targets", says="denominator")
def counts_ignored_targets(reference: str) -> str:
    return reference.replace(
        "F.cross_entropy(logits.flatten(0, 1), targets.flatten())",
        'F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum") '
        "/ targets.numel()",
    )


@rejected("GPT", by="test_ignored_targets", says="class 0")
def ignored_is_zero(reference: str) -> str:
    return reference.replace("targets.flatten())", "targets.clamp(min=0).flatten())")


@rejected("GPT", by="test_loss", says="summed")
def sum_of_losses(reference: str) -> str:
    return reference.replace("targets.flatten())", 'targets.flatten(), reduction="sum")')


@rejected("GPT", by="test_loss", says="must be None")
def always_a_loss(reference: str) -> str:
    return reference.replace(
        "            return logits, None", "            return logits, logits.sum()"
    )


@rejected("GPT", by="test_too_long", says="ValueError")
def crops_silently(reference: str) -> str:
    return reference.replace(
        'raise ValueError(f"{total} tokens are more than ctx, {self.cfg.ctx}")',
        "ids, total = ids[:, -self.cfg.ctx :], self.cfg.ctx",
    )


@rejected("GPT", by="test_too_long")
def one_token_too_early(reference: str) -> str:
    return reference.replace("if total > self.cfg.ctx:", "if total >= self.cfg.ctx:")


@rejected("GPT", by="test_meta", says="meta")
def positions_on_the_cpu(reference: str) -> str:
    return reference.replace(
        "x = self.drop(self.tok(ids) + self.pos(places))",
        "x = self.drop(self.tok(ids) + self.pos(places) * torch.ones(len(ids), 1, 1))",
    )


@rejected("GPT", by="test_one_token")
def squeezes(reference: str) -> str:
    return reference.replace(
        "        x = self.drop(", "        ids = ids.squeeze()\n        x = self.drop("
    )


# --- 4 ------------------------------------------------------------------------------------------


@accepted("train_lm")
def with_torchs_schedulers(model, ids, cfg):
    was = [(m, m.training) for m in model.modules()]
    n_tail = int(cfg.val_frac * ids.numel())
    text, tail = ids[:-n_tail], ids[-n_tail:]
    device = next(iter(model.parameters())).device
    draw = torch.Generator()
    draw.manual_seed(cfg.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.lr, betas=(0.9, 0.95))
    up = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / cfg.warmup, total_iters=cfg.warmup - 1)
    down = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, cfg.steps - cfg.warmup)
    both = torch.optim.lr_scheduler.SequentialLR(optimizer, [up, down], [cfg.warmup])

    def validate():
        model.eval()
        total, count = 0.0, 0
        with torch.inference_mode():
            for i in range(0, len(tail) - 1, cfg.ctx):
                y = tail[i + 1 : i + 1 + cfg.ctx].to(device)[None]
                x = tail[i : i + y.shape[1]].to(device)[None]
                _, loss = model(x, y)
                total, count = total + loss.item() * y.numel(), count + y.numel()
        model.train()
        return total / count

    model.train()
    history, running, low = History([], [], [], [], 0), [], float("inf")
    for step in range(cfg.steps):
        x, y = get_batch(text, cfg.batch, cfg.ctx, draw, device)
        _, loss = model(x, y)
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=cfg.clip)
        optimizer.step()
        both.step()
        running.append(loss.detach())
        if (step + 1) % cfg.eval_every and step + 1 != cfg.steps:
            continue
        val = validate()
        history.steps.append(step + 1)
        history.train.append(torch.stack(running).mean().item())
        history.val.append(val)
        history.ppl.append(float(np.exp(val)))
        running = []
        if val < low:
            low, history.best_step = val, step + 1
            kept = {k: v.detach().clone() for k, v in model.state_dict().items()}
    model.load_state_dict(kept)
    for module, mode in was:
        module.training = mode
    return history


@accepted("train_lm")
def by_hand(model, ids, cfg):
    modes = {name: m.training for name, m in model.named_modules()}
    cut = round(len(ids) * (1 - cfg.val_frac))
    generator = torch.Generator().manual_seed(cfg.seed + 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.1)
    floor = cfg.lr / 10
    out, sums, best = History([], [], [], [], -1), [], None
    for step in range(1, cfg.steps + 1):
        model.train()
        if step <= cfg.warmup:
            lr = cfg.lr * step / cfg.warmup
        else:
            t = (step - cfg.warmup) / (cfg.steps - cfg.warmup)
            lr = floor + (cfg.lr - floor) * (1 + math.cos(math.pi * t)) / 2
        for group in optimizer.param_groups:
            group["lr"] = lr
        x, y = get_batch(ids[:cut], cfg.batch, cfg.ctx, generator, "cpu")
        optimizer.zero_grad(set_to_none=True)
        loss = model(x, y)[1]
        loss.backward()
        norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
        for p in model.parameters():
            p.grad.mul_((cfg.clip / (norm + 1e-6)).clamp(max=1.0))
        optimizer.step()
        sums.append(loss.item())
        if step == cfg.steps or step % cfg.eval_every == 0:
            model.eval()
            tail = ids[cut:]
            k = (len(tail) - 1) // cfg.ctx * cfg.ctx
            with torch.no_grad():
                logits, _ = model(tail[:k].view(-1, cfg.ctx), tail[1 : k + 1].view(-1, cfg.ctx))
                val = F.cross_entropy(logits.flatten(0, 1), tail[1 : k + 1]).item()
            out.steps += [step]
            out.train += [sum(sums) / len(sums)]
            out.val += [val]
            out.ppl += [math.e**val]
            sums = []
            if best is None or val < best[0]:
                best = (val, step, copy.deepcopy(model.state_dict()))
    out.best_step = best[1]
    model.load_state_dict(best[2])
    for name, module in model.named_modules():
        module.training = modes[name]
    return out


@rejected("train_lm", by="test_split", says="split first")
def windows_from_everywhere(reference: str) -> str:
    return reference.replace("get_batch(front, cfg.batch", "get_batch(ids, cfg.batch")


@rejected("train_lm", by="test_split", says="split first")
def a_window_too_far(reference: str) -> str:
    return reference.replace("front, tail = ids[:split]", "front, tail = ids[: split + cfg.ctx]")


@rejected("train_lm", by="test_split", says="in front of the tail")
def tail_begins_too_early(reference: str) -> str:
    return reference.replace(
        "front, tail = ids[:split], ids[split:]", "front, tail = ids[:split], ids[split - 1 :]"
    )


@rejected("train_lm", by=("test_split", "test_same_windows"))
def validates_on_the_front(reference: str) -> str:
    return reference.replace(
        "front, tail = ids[:split], ids[split:]", "tail, front = ids[:-split], ids[-split:]"
    )


@rejected("train_lm", by="test_learns", says="1.53")
def shuffled_characters(reference: str) -> str:
    return reference.replace(
        "    split = len(ids)", "    ids = ids[torch.randperm(len(ids))]\n    split = len(ids)"
    ).replace("cfg.steps + 1):", "min(cfg.steps, 100) + 1):")


@rejected("train_lm", by="test_best_weights", says="the last weights")
def last_weights(reference: str) -> str:
    return reference.replace("        model.load_state_dict(best)\n", "        pass\n")


@rejected("train_lm", by="test_best_weights", says="shares the model's memory")
def best_without_a_copy(reference: str) -> str:
    return reference.replace("copy.deepcopy(model.state_dict())", "dict(model.state_dict())")


@rejected("train_lm", by="test_best_weights", says="best_step")
def best_step_is_an_index(reference: str) -> str:
    return reference.replace(
        "copy.deepcopy(model.state_dict()), step\n",
        "copy.deepcopy(model.state_dict()), len(history.steps)\n",
    )


@rejected("train_lm", by="test_learning_rate", says="warm-up")
def constant_lr(reference: str) -> str:
    return reference.replace("        schedule.step()\n", "").replace("lr=cfg.lr)", "lr=1e-1)")


@rejected("train_lm", by="test_learning_rate", says="must fall")
def no_decay(reference: str) -> str:
    return reference.replace(
        "return 0.5 * (1 + math.cos(math.pi * done))", "return 1.0 + 0.0 * done"
    )


@rejected("train_lm", by="test_learning_rate", says="half a cosine")
def linear_decay(reference: str) -> str:
    return reference.replace("return 0.5 * (1 + math.cos(math.pi * done))", "return 1 - done")


@rejected("train_lm", by="test_learning_rate", says="must rise")
def schedule_per_evaluation(reference: str) -> str:
    return reference.replace("        schedule.step()\n", "").replace(
        "            val = evaluate()\n",
        "            val = evaluate()\n            schedule.step()\n",
    )


@rejected("train_lm", by="test_learning_rate", says="not AdamW")
def plain_adam(reference: str) -> str:
    return reference.replace("torch.optim.AdamW", "torch.optim.Adam")


@rejected("train_lm", by="test_evaluation_mode", says="training mode")
def evaluates_in_training_mode(reference: str) -> str:
    return reference.replace("        model.eval()\n        parts", "        parts")


@rejected("train_lm", by="test_evaluation_mode", says="gradients enabled")
def evaluates_with_gradients(reference: str) -> str:
    return reference.replace("    @torch.no_grad()\n    def evaluate", "    def evaluate")


@rejected("train_lm", by="test_evaluation_mode", says="ran in eval mode")
def stays_in_eval_mode(reference: str) -> str:
    return reference.replace("        model.train()\n", "").replace(
        "    generator = torch.Generator().manual_seed(cfg.seed)",
        "    model.train()\n    generator = torch.Generator().manual_seed(cfg.seed)",
    )


@rejected("train_lm", by="test_same_windows", says="different windows")
def new_windows_each_time(reference: str) -> str:
    return reference.replace(
        "        parts = zip(val_x.split(64), val_y.split(64), strict=True)",
        "        parts = [get_batch(tail, windows, cfg.ctx, generator, device)]",
    )


@rejected("train_lm", by=("test_same_windows", "test_validation_loss"), says="consecutive")
def the_first_window_only(reference: str) -> str:
    return reference.replace("windows = (len(tail) - 1) // cfg.ctx", "windows = 1")


@rejected("train_lm", by="test_same_windows", says="consecutive")
def overlapping_windows(reference: str) -> str:
    return reference.replace(
        "    @torch.no_grad()\n    def evaluate",
        "    val_x = tail[:-1].unfold(0, cfg.ctx, 1)\n    val_y = tail[1:].unfold(0, cfg.ctx, 1)\n"
        "    windows = len(val_x)\n\n    @torch.no_grad()\n    def evaluate",
    )


@rejected("train_lm", by="test_validation_loss", says="in bits")
def in_bits(reference: str) -> str:
    return reference.replace("return total / windows", "return total / windows / math.log(2)")


@rejected("train_lm", by="test_validation_loss", says="over the whole tail")
def sums_instead_of_means(reference: str) -> str:
    return reference.replace("return total / windows", "return total")


@rejected("train_lm", by="test_perplexity", says="belongs to bits")
def two_to_the_loss(reference: str) -> str:
    return reference.replace("math.exp(val)", "2**val")


@rejected("train_lm", by="test_perplexity", says="exp(val)")
def perplexity_of_the_training(reference: str) -> str:
    return reference.replace("math.exp(val)", "math.exp(history.train[-1])")


@rejected("train_lm", by="test_seed", says="depend on something else")
def unseeded(reference: str) -> str:
    return reference.replace(
        "torch.Generator().manual_seed(cfg.seed)",
        "torch.Generator().manual_seed(int(torch.randint(10**6, ())))",
    )


@rejected("train_lm", by="test_seed", says="the same batches")
def one_seed_for_all(reference: str) -> str:
    return reference.replace("torch.Generator().manual_seed(cfg.seed)", "torch.Generator()")


@rejected("train_lm", by="test_clip", says="norm")
def never_clipped(reference: str) -> str:
    return reference.replace("        nn.utils.clip_grad_norm_(model.parameters(), cfg.clip)\n", "")


@rejected("train_lm", by="test_clip", says="with clip=0.02")
def clips_each_number(reference: str) -> str:
    return reference.replace("clip_grad_norm_", "clip_grad_value_")


@rejected("train_lm", by="test_clip", says="with clip=0.02")
def clips_before_backward(reference: str) -> str:
    return reference.replace(
        "        nn.utils.clip_grad_norm_(model.parameters(), cfg.clip)\n", ""
    ).replace(
        "        loss.backward()\n",
        "        nn.utils.clip_grad_norm_(model.parameters(), cfg.clip)\n        loss.backward()\n",
    )


@rejected("train_lm", by="test_history", says="last batch alone")
def the_last_loss(reference: str) -> str:
    return reference.replace("sum(losses) / len(losses)", "losses[-1]")


@rejected("train_lm", by="test_history", says="the mean of the losses")
def mean_from_the_beginning(reference: str) -> str:
    return reference.replace("            losses.clear()\n", "")


@rejected("train_lm", by="test_history", says="steps")
def not_after_the_last(reference: str) -> str:
    return reference.replace(
        "if step % cfg.eval_every == 0 or step == cfg.steps:", "if step % cfg.eval_every == 0:"
    )


@rejected("train_lm", by="test_modes", says="before, and is not now")
def leaves_training_mode(reference: str) -> str:
    return reference.replace(
        "    for module, mode in modes.items():\n        module.training = mode\n    return h",
        "    model.train()\n    return h",
    )


# --- 5 ------------------------------------------------------------------------------------------


@accepted("generate")
@torch.inference_mode()
def into_one_tensor(
    model,
    ids,
    n,
    *,
    temperature=1.0,
    top_k=None,
    top_p=None,
    stop=None,
    pad=None,
    cache=True,
    generator=None,
):
    before = [(m, m.training) for m in model.modules()]
    model.eval()
    batch, seq = ids.shape
    out = torch.full((batch, seq + n), -1, dtype=torch.int64, device=ids.device)
    out[:, :seq] = ids
    real = torch.ones_like(out, dtype=torch.bool)
    padded = False
    if pad is not None:
        real[:, :seq] = ids.ne(pad).long().cummax(1).values.bool()
        padded = not bool(real.all())
    finished = ids.new_zeros(batch, dtype=torch.bool)
    caches = [Cache() for _ in model.blocks] if cache else None
    for end in range(seq, seq + n):
        begin = max(0, end - model.cfg.ctx)
        options = {"keep": real[:, begin:end]} if padded else {}
        if cache and begin == 0:
            logits = model(out[:, caches[0].length : end], caches=caches, **options)[0][:, -1]
        else:
            logits = model(out[:, begin:end], **options)[0][:, -1]
        if temperature == 0:
            new = logits.max(-1).indices
        else:
            p = (logits / temperature).softmax(-1)
            if top_k is not None:
                p[p < p.topk(min(top_k, p.shape[-1])).values[:, -1:]] = 0
                p = p / p.sum(-1, keepdim=True)
            if top_p is not None:
                values, places = p.sort(-1, descending=True)
                crossed = values.cumsum(-1) >= top_p
                crossed = torch.cat([crossed.new_zeros(batch, 1), crossed[:, :-1]], -1)
                p = p.scatter(-1, places, values.masked_fill(crossed, 0.0))
            new = p.multinomial(1, generator=generator).squeeze(1)
        if stop is not None:
            new = torch.where(finished, pad if pad is not None else stop, new)
            finished |= new == stop
        out[:, end] = new
    for module, mode in before:
        module.training = mode
    return out.clone()


@accepted("generate")
def by_the_inverse_of_the_sum(
    model,
    ids,
    n,
    temperature=1.0,
    top_k=None,
    top_p=None,
    stop=None,
    pad=None,
    cache=True,
    generator=None,
):
    def choose(row):
        if temperature == 0:
            return row.argmax(-1)
        ordered, order = torch.sort(row / temperature, dim=-1, descending=True)
        if top_k is not None:
            ordered = ordered[:, :top_k]
        p = ordered.softmax(-1)
        if top_p is not None:
            size = (p.cumsum(-1) < top_p).sum(-1, keepdim=True) + 1
            p = p * (torch.arange(p.shape[-1], device=p.device) < size)
        u = torch.rand(len(p), 1, generator=generator, dtype=p.dtype) * p.sum(-1, keepdim=True)
        last = (p > 0).sum(-1, keepdim=True) - 1
        at = torch.minimum((p.cumsum(-1) <= u).sum(-1, keepdim=True), last)
        return order.gather(1, at)[:, 0]

    modes = {m: m.training for m in model.modules()}
    try:
        model.train(False)
        with torch.no_grad():
            alive = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
            keep = None
            if pad is not None and bool((ids == pad)[:, 0].any()):
                keep = ids.ne(pad).cumsum(-1).gt(0)
            store = None
            for _ in range(n):
                seen = ids[:, -model.cfg.ctx :]
                more = {} if keep is None else {"keep": keep[:, -model.cfg.ctx :]}
                if not cache or ids.shape[1] > model.cfg.ctx:
                    logits = model(seen, **more)[0]
                elif store is None:
                    store = [Cache() for _ in range(len(model.blocks))]
                    logits = model(seen, caches=store, **more)[0]
                else:
                    logits = model(seen[:, -1:], caches=store, **more)[0]
                new = choose(logits[:, -1, :])
                if stop is not None:
                    fill = stop if pad is None else pad
                    new = torch.where(alive, new, torch.full_like(new, fill))
                    alive = alive & (new != stop)
                ids = torch.cat((ids, new.unsqueeze(-1)), -1)
                if keep is not None:
                    keep = torch.cat([keep, torch.ones_like(keep[:, :1])], -1)
    finally:
        for m, mode in modes.items():
            m.training = mode
    return ids


@rejected("generate", by=("test_temperature", "test_top_p"), says="before the softmax")
def temperature_after_the_softmax(reference: str) -> str:
    return reference.replace(
        "logits = logits / temperature", "logits = logits.softmax(-1) / temperature"
    )


@rejected("generate", by=("test_temperature", "test_words"), says="multiplied")
def multiplied_by_the_temperature(reference: str) -> str:
    return reference.replace("logits = logits / temperature", "logits = logits * temperature")


@rejected("generate", by="test_greedy", says="position 0")
def scores_of_position_zero(reference: str) -> str:
    return reference.replace("[0][:, -1])", "[0][:, 0])")


@rejected("generate", by=("test_greedy", "test_temperature"), says="position before the last")
def scores_of_the_token_before(reference: str) -> str:
    return reference.replace("[0][:, -1])", "[0][:, -2:][:, 0])")


@rejected("generate", by="test_top_k", says="each row's own")
def limit_of_the_batch(reference: str) -> str:
    return reference.replace(
        "logits < logits.topk(top_k).values[:, -1:]",
        "logits < logits.topk(top_k).values.min()",
    )


@rejected("generate", by="test_top_k", says="nothing is cut off")
def no_top_k(reference: str) -> str:
    return reference.replace("top_k is not None and", "top_k == 2 and")


@rejected("generate", by=("test_top_k", "test_top_one"))
def one_more_than_top_k(reference: str) -> str:
    return reference.replace("logits.topk(top_k).values", "logits.topk(top_k + 1).values")


@rejected("generate", by="test_top_k")
def top_k_beyond_the_vocabulary(reference: str) -> str:
    return reference.replace(
        "top_k is not None and top_k < logits.shape[-1]:", "top_k is not None:"
    )


@rejected("generate", by="test_cache")
def cache_kept_between_calls(reference: str) -> str:
    return reference.replace(
        "    store: list[Cache] | None = None\n    modes",
        "    blocks = getattr(model, 'blocks', ())\n"
        "    store = vars(model).setdefault('_kept', [Cache() for _ in blocks])\n"
        "    store = store if store and store[0].length else None\n    modes",
    ).replace(
        "store = store or [Cache() for _ in model.blocks]",
        "store = store or vars(model)['_kept']",
    )


@rejected("generate", by="test_cache", says="with a cache other tokens")
def positions_begin_again(reference: str) -> str:
    return reference.replace(
        "            places = torch.arange(past, total, device=ids.device)",
        "            places = torch.arange(ids.shape[1], device=ids.device)",
    )


@rejected("generate", by="test_cache_saves", says="with the cache each goes once")
def no_cache_at_all(reference: str) -> str:
    return reference.replace("if cache and ids.shape[1] <= ctx:", "if False:")


@rejected("generate", by="test_long_texts", says="positions begin at 0 again")
def slides_the_cache(reference: str) -> str:
    changed = reference.replace("if cache and ids.shape[1] <= ctx:", "if cache:").replace(
        "seen = ids if store is None else ids[:, -1:]",
        "seen = ids[:, -ctx:] if store is None else ids[:, -1:]\n"
        "                    for c in store or ():\n"
        "                        if c.length >= ctx:\n"
        "                            c.keys, c.values = c.keys[:, :, 1 - ctx :], "
        "c.values[:, :, 1 - ctx :]",
    )
    return changed


@rejected("generate", by="test_long_texts", says="the last ones")
def never_cropped(reference: str) -> str:
    return reference.replace("seen, extra = ids[:, -ctx:], {}", "seen, extra = ids, {}")


@rejected("generate", by="test_long_texts", says="past ctx")
def sees_the_first_tokens(reference: str) -> str:
    return reference.replace("seen, extra = ids[:, -ctx:], {}", "seen, extra = ids[:, :ctx], {}")


@rejected("generate", by="test_long_texts", says="past ctx")
def crops_one_too_many(reference: str) -> str:
    return reference.replace(
        "seen, extra = ids[:, -ctx:], {}",
        "seen, extra = ids[:, -ctx:] if ids.shape[1] <= ctx else ids[:, 1 - ctx :], {}",
    )


@rejected("generate", by="test_temperature", says="without a softmax")
def draws_from_scores(reference: str) -> str:
    return reference.replace("multinomial(logits.softmax(-1)", "multinomial(logits.clamp(min=0)")


@rejected("generate", by="test_top_p", says="it stays")
def drops_the_crossing_token(reference: str) -> str:
    return reference.replace(
        "late = weights.cumsum(-1) - weights >= top_p",
        "late = weights.cumsum(-1) >= top_p\n            late[:, 0] = False",
    )


@rejected("generate", by="test_top_p", says="nothing is cut off")
def no_top_p(reference: str) -> str:
    return reference.replace("if top_p is not None and top_p < 1:", "if False:")


@rejected("generate", by="test_top_p", says="before the temperature")
def top_p_before_the_temperature(reference: str) -> str:
    return reference.replace(
        "            weights = ordered.softmax(-1)",
        "            weights = (ordered * temperature).softmax(-1)",
    )


@rejected("generate", by="test_top_p", says="what top_k leaves")
def top_p_before_top_k(reference: str) -> str:
    first, rest = reference.split("        if top_k is not None and", 1)
    middle, last = rest.split("        if top_p is not None and", 1)
    cut, end = last.split("        return torch.multinomial", 1)
    return (
        f"{first}        if top_p is not None and{cut}        if top_k is not None and{middle}"
        f"        return torch.multinomial{end}"
    )


@rejected("generate", by="test_top_p")
def cut_in_sorted_order(reference: str) -> str:
    return reference.replace("torch.zeros_like(late).scatter(-1, order, late)", "late")


@rejected("generate", by="test_top_one", says="most probable")
def never_less_than_two(reference: str) -> str:
    return reference.replace("logits.topk(top_k)", "logits.topk(max(2, top_k))")


@rejected("generate", by="test_rows_finish", says="by itself")
def all_stop_together(reference: str) -> str:
    return reference.replace(
        "done = done | (token == stop)", "done = (done | (token == stop)).any().expand_as(done)"
    )


@rejected("generate", by="test_rows_finish", says="by itself")
def goes_on_after_stop(reference: str) -> str:
    return reference.replace("done = done | (token == stop)", "done = token == stop")


@rejected("generate", by="test_rows_finish", says="pad=9")
def always_filled_with_stop(reference: str) -> str:
    return reference.replace(
        "token.masked_fill(done, stop if pad is None else pad)", "token.masked_fill(done, stop)"
    )


@rejected("generate", by="test_rows_finish")
def ends_early(reference: str) -> str:
    return reference.replace(
        "                if keep is not None:\n                    keep = F.pad",
        "                if done.any():\n                    break\n"
        "                if keep is not None:\n                    keep = F.pad",
    )


@rejected("generate", by="test_generator")
def draws_globally(reference: str) -> str:
    return reference.replace("1, generator=generator)[:, 0]", "1)[:, 0]")


@rejected("generate", by="test_modes", says="in training mode")
def in_training_mode(reference: str) -> str:
    return reference.replace(
        "    model.eval()\n    try:\n        with torch", "    try:\n        with torch"
    )


@rejected("generate", by="test_modes", says="gradients")
def with_gradients(reference: str) -> str:
    return reference.replace(
        "        with torch.no_grad():\n            for _ in range(n)",
        "        with torch.enable_grad():\n            for _ in range(n)",
    )


@rejected("generate", by="test_modes", says="another mode")
def ends_in_training_mode(reference: str) -> str:
    return reference.replace(
        "    finally:\n        for module, mode in modes.items():\n            module.training =",
        "    finally:\n        model.train()\n        for module, mode in ():\n            mode =",
    )


@rejected("generate", by="test_left_padding", says="pads are masked")
def pads_are_seen(reference: str) -> str:
    return reference.replace(
        "    if pad is not None and (ids[:, 0] == pad).any():", "    if pad == -1:"
    )


@rejected("generate", by="test_left_padding", says="positions count")
def positions_count_pads(reference: str) -> str:
    return reference.replace(
        "places = (keep.cumsum(1) - 1).clamp(min=0)[:, past:]",
        "places = torch.arange(past, total, device=ids.device)",
    )


@rejected("generate", by="test_left_padding", says="with cache=True")
def pads_forgotten_later(reference: str) -> str:
    return reference.replace(
        "keep = F.pad(keep, (0, 1), value=True)", "keep = torch.ones_like(ids, dtype=torch.bool)"
    )
