"""Day 25: a language model, from text to text.

Axes are (batch, seq, dim) and (batch, seq, vocab). Beside this file lie `block.py` (the transformer
block of day 24; your own may stand in its place) and `toytext.py` (a text to train on).
"""

import copy
import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from block import Block, Cache
from torch import Tensor, nn
from torch.nn import functional as F


class BPE:
    """Byte-level byte pair encoding: ids 0 to 255 are the bytes, merge r makes the id 256 + r.

    `merges` has the pair of ids of every merge, in the order they were learned.
    """

    def __init__(self) -> None:
        self.merges: list[tuple[int, int]] = []

    def train(self, text: str, vocab_size: int) -> None:
        """Learn merges from a text until there are vocab_size ids, or no pair is left.

        Raises:
            ValueError: vocab_size < 256.
        """
        ### BEGIN SOLUTION 1: learn the merges
        if vocab_size < 256:
            raise ValueError(f"vocab_size is {vocab_size}; the bytes alone are 256 ids")
        self.merges = []
        pieces = [bytes([i]) for i in range(256)]
        ids = list(text.encode())
        while len(pieces) < vocab_size and len(ids) > 1:
            counts: dict[tuple[int, int], int] = {}
            for pair in itertools.pairwise(ids):
                counts[pair] = counts.get(pair, 0) + 1
            best = max(counts, key=lambda p: (counts[p], pieces[p[0]], pieces[p[1]]))
            merged: list[int] = []
            for token in ids:
                if merged and (merged[-1], token) == best:
                    merged[-1] = len(pieces)
                else:
                    merged.append(token)
            ids = merged
            self.merges.append(best)
            pieces.append(pieces[best[0]] + pieces[best[1]])
        ### END SOLUTION

    def encode(self, text: str) -> list[int]:
        """The ids of a text, merged in the order learned."""
        ### BEGIN SOLUTION 1: from text to ids
        ids = list(text.encode())
        for rank, pair in enumerate(self.merges):
            merged: list[int] = []
            for token in ids:
                if merged and (merged[-1], token) == pair:
                    merged[-1] = 256 + rank
                else:
                    merged.append(token)
            ids = merged
        return ids
        ### END SOLUTION

    def decode(self, ids: list[int]) -> str:
        """The text of ids; U+FFFD stands for what is not UTF-8."""
        ### BEGIN SOLUTION 1: from ids to text
        pieces = [bytes([i]) for i in range(256)]
        for left, right in self.merges:
            pieces.append(pieces[left] + pieces[right])
        return b"".join(pieces[i] for i in ids).decode("utf-8", errors="replace")
        ### END SOLUTION


def get_batch(
    ids: Tensor | np.memmap,
    batch: int,
    ctx: int,
    generator: torch.Generator,
    device: torch.device | str,
) -> tuple[Tensor, Tensor]:
    """Random windows of a text, and the same windows one step later.

    Args:
        ids: (n,) of an integer dtype; a tensor, or an array that may be too large for the memory.
        batch: how many windows.
        ctx: length of a window.
        generator: of the CPU; the starts are drawn with it.
        device: of the results.

    Returns:
        x and y, each (batch, ctx) int64.

    Raises:
        ValueError: n <= ctx.
    """
    ### BEGIN SOLUTION 2: starts, windows, x and y
    n = len(ids)
    if n <= ctx:
        raise ValueError(f"{n} ids have no window of {ctx} with its next token")
    start = torch.randint(n - ctx, (batch,), generator=generator)
    places = start[:, None] + torch.arange(ctx + 1)
    if isinstance(ids, Tensor):
        windows = ids[places.to(ids.device)].long()
    else:
        windows = torch.from_numpy(ids[places.numpy()].astype(np.int64))
    windows = windows.to(device)
    return windows[:, :-1], windows[:, 1:]
    ### END SOLUTION


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of a GPT: ctx is the longest text it sees, p the rate of dropout."""

    vocab: int
    ctx: int
    dim: int
    heads: int
    layers: int
    tie: bool = True
    p: float = 0.0


class GPT(nn.Module):
    """A decoder: embeddings, blocks, a last norm, a head. Its config is `cfg`.

    Submodules `tok`, `pos` (nn.Embedding), `blocks` (nn.ModuleList), `norm` (LayerNorm) and `head`
    (nn.Linear without bias).
    """

    def __init__(self, cfg: GPTConfig) -> None:
        super().__init__()
        self.cfg = cfg
        ### BEGIN SOLUTION 3: submodules and their first weights
        self.tok = nn.Embedding(cfg.vocab, cfg.dim)
        self.pos = nn.Embedding(cfg.ctx, cfg.dim)
        self.drop = nn.Dropout(cfg.p)
        self.blocks = nn.ModuleList(Block(cfg.dim, cfg.heads, cfg.p) for _ in range(cfg.layers))
        self.norm = nn.LayerNorm(cfg.dim)
        self.head = nn.Linear(cfg.dim, cfg.vocab, bias=False)
        if cfg.tie:
            self.head.weight = self.tok.weight
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                deep = name.endswith(("out_proj.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * cfg.layers) if deep else 0.02)
        ### END SOLUTION

    # keep and caches serve task 5 (block.py says what they are); change them as you like.
    def forward(
        self,
        ids: Tensor,
        targets: Tensor | None = None,
        *,
        keep: Tensor | None = None,
        caches: list[Cache] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Scores for the token after each one, and their loss.

        Args:
            ids: (batch, seq) int64
            targets: (batch, seq) int64, the token after each one; -100 does not count.

        Returns:
            logits (batch, seq, vocab), and the mean cross entropy in nats, None without targets.

        Raises:
            ValueError: more than ctx tokens.
        """
        ### BEGIN SOLUTION 3: from ids to logits and loss
        past = caches[0].length if caches else 0
        total = past + ids.shape[1]
        if total > self.cfg.ctx:
            raise ValueError(f"{total} tokens are more than ctx, {self.cfg.ctx}")
        if keep is None:
            places = torch.arange(past, total, device=ids.device)
        else:
            places = (keep.cumsum(1) - 1).clamp(min=0)[:, past:]
        x = self.drop(self.tok(ids) + self.pos(places))
        for i, block in enumerate(self.blocks):
            x = block(x, keep=keep, cache=caches[i] if caches else None)
        logits = self.head(self.norm(x))
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        ### END SOLUTION


@dataclass(frozen=True)
class TrainConfig:
    """Settings of `train_lm`."""

    steps: int = 300
    batch: int = 16
    ctx: int = 48
    lr: float = 3e-3
    warmup: int = 30
    clip: float = 1.0
    val_frac: float = 0.1
    eval_every: int = 50
    seed: int = 0


@dataclass
class History:
    """One entry per evaluation: steps made so far, losses in nats, perplexity of `val`."""

    steps: list[int]
    train: list[float]
    val: list[float]
    ppl: list[float]
    best_step: int


def train_lm(model: nn.Module, ids: Tensor, cfg: TrainConfig) -> History:
    """Train on the front of a text, evaluate on its tail, keep the best weights.

    Args:
        model: `model(x, y)` returns (logits, loss) for x and y (batch, ctx).
        ids: (n,) int64
        cfg: settings.
    """
    ### BEGIN SOLUTION 4: split, steps, evaluations, best weights
    modes = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device
    split = len(ids) - int(len(ids) * cfg.val_frac)
    front, tail = ids[:split], ids[split:]
    windows = (len(tail) - 1) // cfg.ctx
    val_x = tail[: windows * cfg.ctx].view(windows, cfg.ctx).to(device)
    val_y = tail[1 : windows * cfg.ctx + 1].view(windows, cfg.ctx).to(device)

    @torch.no_grad()
    def evaluate() -> float:
        model.eval()
        parts = zip(val_x.split(64), val_y.split(64), strict=True)
        total = sum(model(x, y)[1].item() * len(x) for x, y in parts)
        return total / windows

    def factor(step: int) -> float:
        if step < cfg.warmup:
            return (step + 1) / cfg.warmup
        done = (step - cfg.warmup) / max(1, cfg.steps - cfg.warmup)
        return 0.5 * (1 + math.cos(math.pi * done))

    generator = torch.Generator().manual_seed(cfg.seed)
    torch.manual_seed(cfg.seed)  # for dropout
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    history = History([], [], [], [], 0)
    best = None
    losses: list[float] = []
    for step in range(1, cfg.steps + 1):
        model.train()
        loss = model(*get_batch(front, cfg.batch, cfg.ctx, generator, device))[1]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), cfg.clip)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % cfg.eval_every == 0 or step == cfg.steps:
            val = evaluate()
            if best is None or val < min(history.val):
                best, history.best_step = copy.deepcopy(model.state_dict()), step
            history.steps.append(step)
            history.train.append(sum(losses) / len(losses))
            history.val.append(val)
            history.ppl.append(math.exp(val))
            losses.clear()
    if best is not None:
        model.load_state_dict(best)
    for module, mode in modes.items():
        module.training = mode
    return history
    ### END SOLUTION


def generate(
    model: nn.Module,
    ids: Tensor,
    n: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: int | None = None,
    pad: int | None = None,
    cache: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Append n tokens to each row.

    Args:
        model: your GPT; with cache=False any with `cfg.ctx` and `model(ids) -> (logits, loss)`.
        ids: (batch, seq) int64; with `pad`, rows may begin with it.
        n: tokens to append.
        temperature: the logits are divided by it; 0 takes the largest.
        top_k: keep so many of the largest logits.
        top_p: keep the smallest set of the most probable tokens that reaches it.
        stop: a row that has drawn it is finished.
        pad: fills finished rows, and stands on the left of short prompts.
        cache: compute each token once, as long as the text fits into ctx.
        generator: to draw with.

    Returns:
        (batch, seq + n) int64
    """

    ### BEGIN SOLUTION 5: token by token
    def draw(logits: Tensor) -> Tensor:
        if temperature == 0:
            return logits.argmax(-1)
        logits = logits / temperature
        if top_k is not None and top_k < logits.shape[-1]:
            logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -math.inf)
        if top_p is not None and top_p < 1:
            ordered, order = logits.sort(descending=True)
            weights = ordered.softmax(-1)
            late = weights.cumsum(-1) - weights >= top_p
            logits = logits.masked_fill(torch.zeros_like(late).scatter(-1, order, late), -math.inf)
        return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]

    ctx = model.cfg.ctx
    keep = None
    if pad is not None and (ids[:, 0] == pad).any():
        keep = (ids != pad).cumsum(1) > 0
    done = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    store: list[Cache] | None = None
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            for _ in range(n):
                seen, extra = ids[:, -ctx:], {}
                if keep is not None:
                    extra["keep"] = keep[:, -ctx:]
                if cache and ids.shape[1] <= ctx:
                    seen = ids if store is None else ids[:, -1:]
                    store = store or [Cache() for _ in model.blocks]
                    extra["caches"] = store
                token = draw(model(seen, **extra)[0][:, -1])
                if stop is not None:
                    token = token.masked_fill(done, stop if pad is None else pad)
                    done = done | (token == stop)
                ids = torch.cat([ids, token[:, None]], dim=1)
                if keep is not None:
                    keep = F.pad(keep, (0, 1), value=True)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return ids
    ### END SOLUTION
