"""Answers to day 27 that its suite must accept or reject."""

import math

import torch
from day27_final_lm import *
from torch import nn
from torch.nn import functional as F

from grader.answers import accepted, rejected


def written(reference, first_line, body):
    """The reference with another body of the region that begins with this comment."""
    start = reference.index(f"### BEGIN SOLUTION {first_line}")
    start = reference.index("\n", start) + 1
    end = reference.rindex("\n", 0, reference.index("### END SOLUTION", start)) + 1
    return reference[:start] + body.strip("\n") + "\n" + reference[end:]


# Task 1: the model


@accepted("MiniLM")
class InOneClass(nn.Module):
    """Parameters without modules, einsum, RMS norms, ReLU, no tie."""

    def __init__(self, vocab, dim, heads, layers, ctx):
        super().__init__()
        self.heads, self.ctx = heads, ctx

        def weight(*shape):
            return nn.Parameter(0.02 * torch.randn(*shape))

        self.tok, self.pos = weight(vocab, dim), weight(ctx, dim)
        self.head = weight(dim, vocab)
        self.gains = nn.ParameterList([torch.ones(dim) for _ in range(2 * layers + 1)])
        self.maps = nn.ParameterList([weight(4, dim, dim) for _ in range(layers)])
        self.ups = nn.ParameterList([weight(dim, 3 * dim) for _ in range(layers)])
        self.downs = nn.ParameterList([weight(3 * dim, dim) for _ in range(layers)])

    def normed(self, x, number):
        return x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * self.gains[number]

    def forward(self, ids, targets=None):
        batch, seq = ids.shape
        x = self.tok[ids] + self.pos[:seq]
        keep = torch.tril(torch.ones(seq, seq, device=ids.device)).bool()
        for number, maps in enumerate(self.maps):
            y = self.normed(x, 2 * number)
            q, k, v = torch.einsum("btd,nde->nbte", y, maps[:3])
            shape = (batch, seq, self.heads, -1)
            q, k, v = q.reshape(shape), k.reshape(shape), v.reshape(shape)
            scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
            weights = torch.where(keep, scores, torch.tensor(-1e9)).softmax(-1)
            x = x + torch.einsum("bhqk,bkhd->bqhd", weights, v).reshape(batch, seq, -1) @ maps[3]
            y = self.normed(x, 2 * number + 1)
            x = x + torch.relu(y @ self.ups[number]) @ self.downs[number]
        logits = self.normed(x, -1) @ self.head
        loss = None
        if targets is not None:
            logs = torch.log_softmax(logits, -1)
            loss = -logs.gather(-1, targets.unsqueeze(-1)).mean()
        return logits, loss

    @torch.no_grad()
    def generate(self, ids, n):
        for _ in range(n):
            last = self.forward(ids[:, -self.ctx :])[0][:, -1, :]
            ids = torch.cat((ids, torch.max(last, dim=-1, keepdim=True).indices), dim=1)
        return ids


class HeadByHead(nn.Module):
    def __init__(self, dim, width, ctx):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(dim, width) for _ in range(3))
        self.register_buffer("future", torch.full((ctx, ctx), -math.inf).triu(1))

    def forward(self, x):
        seq = x.size(1)
        q, k, v = self.q(x), self.k(x), self.v(x)
        scores = torch.bmm(q, k.mT) / math.sqrt(q.size(-1)) + self.future[:seq, :seq]
        return F.softmax(scores, -1) @ v


class Layer(nn.Module):
    def __init__(self, dim, heads, ctx):
        super().__init__()
        self.heads = nn.ModuleList(HeadByHead(dim, dim // heads, ctx) for _ in range(heads))
        self.out = nn.Linear(dim, dim)
        self.ln1, self.ln2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.ffn = nn.Sequential(nn.Linear(dim, 4 * dim), nn.ReLU(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        y = self.ln1(x)
        x = x + self.out(torch.cat([head(y) for head in self.heads], dim=-1))
        return x + self.ffn(self.ln2(x))


@accepted("MiniLM")
class SinusoidsAndDefaultLayers(nn.Module):
    def __init__(self, vocab, dim, heads, layers, ctx):
        super().__init__()
        self.ctx = ctx
        self.embed = nn.Embedding(vocab, dim)
        nn.init.normal_(self.embed.weight, 0.0, 0.1)
        angles = torch.arange(ctx)[:, None] / 1e4 ** (torch.arange(0, dim, 2) / dim)
        self.register_buffer("pe", torch.cat([angles.sin(), angles.cos()], -1) * 0.1)
        self.body = nn.Sequential(*(Layer(dim, heads, ctx) for _ in range(layers)))
        self.ln = nn.LayerNorm(dim)
        self.lm_head = nn.Linear(dim, vocab)
        nn.init.normal_(self.lm_head.weight, 0.0, 0.02)
        nn.init.zeros_(self.lm_head.bias)

    def forward(self, ids, targets=None):
        x = self.embed(ids) + self.pe[: ids.size(1)]
        logits = self.lm_head(self.ln(self.body(x)))
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.permute(0, 2, 1), targets)

    @torch.inference_mode()
    def generate(self, ids, n):
        out = torch.empty(ids.size(0), ids.size(1) + n, dtype=ids.dtype, device=ids.device)
        out[:, : ids.size(1)] = ids
        for i in range(ids.size(1), out.size(1)):
            out[:, i] = self(out[:, max(0, i - self.ctx) : i])[0][:, -1].argmax(-1)
        return out


@accepted("MiniLM")
def layers_as_torch_starts_them(reference: str) -> str:
    return reference.replace("        self.head.weight = self.tok.weight\n", "").replace(
        "isinstance(module, nn.Linear | nn.Embedding)", "module is self.head"
    )


@accepted("MiniLM")
def in_eval_mode_and_back(reference: str) -> str:
    return reference.replace(
        "        with torch.no_grad():\n            for _ in range(n):",
        "        was_training = self.training\n        self.eval()\n"
        "        with torch.no_grad():\n            for _ in range(n):",
    ).replace("        return ids\n", "        self.train(was_training)\n        return ids\n")


@rejected("MiniLM", by="test_positions", says="bag of words")
def bag_of_words(reference: str) -> str:
    return reference.replace(
        'x = x + tap("pos", self.pos(torch.arange(ids.shape[1], device=ids.device)))',
        'tap("pos", self.pos(torch.arange(ids.shape[1], device=ids.device)))',
    )


@rejected("MiniLM", by="test_positions", says="bag of words")
def the_same_position_everywhere(reference: str) -> str:
    return reference.replace(
        "self.pos(torch.arange(ids.shape[1], device=ids.device))",
        "self.pos(torch.zeros(ids.shape[1], dtype=torch.int64))",
    )


@rejected("MiniLM", by="test_mixing", says="bigram")
def current_token_only(reference: str) -> str:
    return reference.replace(
        "        x = x + branch if self.residual else branch\n        if self.mlp",
        "        if self.mlp",
    )


@rejected("MiniLM", by="test_causal", says="the future leaks")
def sees_the_future(reference: str) -> str:
    return reference.replace(".masked_fill(future, -math.inf)", "")


@rejected("MiniLM", by="test_causal", says="the future leaks")
def mask_one_too_late(reference: str) -> str:
    return reference.replace(".triu(1)", ".triu(2)")


@rejected("MiniLM", by="test_causal", says="the future leaks")
def masked_after_the_softmax(reference: str) -> str:
    return reference.replace(
        ".masked_fill(future, -math.inf)\n        weights = tap("
        '"weights", tap("scores", scores).softmax(dim=-1))',
        '\n        weights = tap("weights", tap("scores", scores).softmax(dim=-1)'
        ".masked_fill(future, 0.0))",
    )


@rejected("MiniLM", by="test_forbidden", says="forbidden")
def with_the_fused_function(reference: str) -> str:
    return reference.replace(
        "weights @ v)", "F.scaled_dot_product_attention(q, k, v, is_causal=True))"
    )


@rejected("MiniLM", by="test_forbidden", says="MultiheadAttention")
class ReadyMade(nn.Module):
    def __init__(self, vocab, dim, heads, layers, ctx):
        super().__init__()
        self.ctx = ctx
        self.tok, self.pos = nn.Embedding(vocab, dim), nn.Embedding(ctx, dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.head = nn.Linear(dim, vocab)

    def forward(self, ids, targets=None):
        seq = ids.shape[1]
        x = self.tok(ids) + self.pos.weight[:seq]
        mask = torch.ones(seq, seq, dtype=torch.bool).triu(1)
        return self.head(x + self.attn(x, x, x, attn_mask=mask)[0]), None


@rejected("MiniLM", by=("test_overfits", "test_trains"), says="0.1")
def no_residual(reference: str) -> str:
    return reference.replace("self.residual = residual", "self.residual = False")


@rejected("MiniLM", by="test_init", says="first logits are too")
def embeddings_as_torch_starts_them(reference: str) -> str:
    return reference.replace("isinstance(module, nn.Linear | nn.Embedding)", "False")


@rejected("MiniLM", by="test_loss", says="shifted once more")
def shifted_again(reference: str) -> str:
    return reference.replace(
        "F.cross_entropy(logits.flatten(0, 1), targets.flatten())",
        "F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())",
    )


@rejected("MiniLM", by="test_loss", says="raw logits")
def softmax_before_the_loss(reference: str) -> str:
    return reference.replace(
        "F.cross_entropy(logits.flatten(0, 1),", "F.cross_entropy(logits.softmax(-1).flatten(0, 1),"
    )


@rejected("MiniLM", by="test_shape", says="tuple")
def logits_alone(reference: str) -> str:
    return reference.replace("return logits, None", "return logits")


@rejected("MiniLM", by="test_shape", says="seq")
def the_last_place_only(reference: str) -> str:
    return reference.replace(
        'logits = tap("logits", self.head(self.norm(x)))',
        'logits = tap("logits", self.head(self.norm(x))[:, -1:])',
    )


@rejected("MiniLM", by="test_batch", says="examples are mixed")
def normalised_over_the_batch(reference: str) -> str:
    return reference.replace(
        "self.head(self.norm(x))", "self.head(self.norm(x - x.mean(0, keepdim=True)))"
    )


@rejected("MiniLM", by="test_batch", says="examples are mixed")
def heads_by_reshape_alone(reference: str) -> str:
    return reference.replace(
        "self.out(merged)", "self.out(context.transpose(0, 1).reshape(x.shape))"
    )


@rejected("MiniLM", by="test_generate", says="largest logit at the last place")
def argmax_of_the_first_place(reference: str) -> str:
    return reference.replace("logits[:, -1:].argmax", "logits[:, :1].argmax")


@rejected("MiniLM", by="test_generate", says="largest logit")
def always_from_the_prompt(reference: str) -> str:
    return reference.replace(
        "            for _ in range(n):\n                logits, _ = self(ids[:, -self.ctx :])",
        "            logits, _ = self(ids[:, -self.ctx :])\n            for _ in range(n):",
    )


@rejected("MiniLM", by="test_generate", says="seq")
def only_the_new_tokens(reference: str) -> str:
    return written(
        reference,
        "1: one token after the other",
        """
        start = ids.shape[1]
        with torch.no_grad():
            for _ in range(n):
                logits, _ = self(ids[:, -self.ctx :])
                ids = torch.cat([ids, logits[:, -1:].argmax(dim=-1)], dim=1)
        return ids[:, start:]
""",
    )


@rejected("MiniLM", by="test_generate_past_ctx", says="go into the model")
def without_the_crop(reference: str) -> str:
    return reference.replace("ids[:, -self.ctx :]", "ids")


@rejected("MiniLM", by="test_generate_past_ctx", says="the last")
def the_first_ctx_tokens(reference: str) -> str:
    return reference.replace("ids[:, -self.ctx :]", "ids[:, : self.ctx]")


@rejected("MiniLM", by="test_generate_past_ctx", says="the last")
def one_token_less(reference: str) -> str:
    return reference.replace("ids[:, -self.ctx :]", "ids[:, -max(1, self.ctx - 1) :]")


@rejected("MiniLM", by=("test_batch", "test_causal"), says="examples are mixed")
def split_without_moving_axes(reference: str) -> str:
    return reference.replace(
        "self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)",
        "self.qkv(x).reshape(3, x.shape[0], self.heads, x.shape[1], -1)",
    )


@rejected("MiniLM", by="test_causal", says="the future leaks")
def mask_the_wrong_way_round(reference: str) -> str:
    return reference.replace(".triu(1)", ".tril(-1)")


@rejected("MiniLM", by="test_init", says="first logits are too")
def the_scale_of_the_tied_head(reference: str) -> str:
    return reference.replace("std=0.02", "std=0.2")


@rejected("MiniLM", by="test_device", says="device")
def mask_on_the_cpu(reference: str) -> str:
    return reference.replace("dtype=torch.bool, device=x.device", "dtype=torch.bool")


@rejected("MiniLM", by="test_length", says="at most 150")
def a_long_model(reference: str) -> str:
    lines = "\n".join(f"        self.n{i} = {i}" for i in range(120))
    return reference.replace("        self.ctx = ctx\n", f"        self.ctx = ctx\n{lines}\n")


@rejected("MiniLM", by="test_length", says="numpy")
def positions_with_numpy(reference: str) -> str:
    return reference.replace("import torch\n", "import numpy as np\nimport torch\n", 1).replace(
        "nn.Embedding(ctx, dim)", "nn.Embedding(int(np.prod([ctx])), dim)"
    )


# Task 2: the trace


@accepted("shape_trace")
def before_the_split(reference: str) -> str:
    return reference.replace(
        'q, k, v = tap("q", parts[0]), tap("k", parts[1]), tap("v", parts[2])',
        """q, k, v = parts
        flat = [p.transpose(1, 2).flatten(2) for p in parts]
        flat = [tap(name, t) for name, t in zip("qkv", flat, strict=True)]
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in flat)""",
    ).replace('("B", "H", "T", "D//H"), "W', '("B", "T", "D"), "W')


@accepted("shape_trace")
def heads_after_tokens(reference: str) -> str:
    return (
        reference.replace(
            'context = tap("context", weights @ v)',
            'context = tap("context", torch.einsum("bhqk,bhkd->bqhd", weights, v))',
        )
        .replace("context.transpose(1, 2).flatten(2)", "context.flatten(2)")
        .replace(
            'Row("context", ("B", "H", "T", "D//H")', 'Row("context", ("B", "T", "H", "D // H")'
        )
    )


@accepted("shape_trace")
def heads_in_the_batch(reference: str) -> str:
    return (
        reference.replace(
            '        q, k, v = tap("q", parts[0]), tap("k", parts[1]), tap("v", parts[2])\n',
            "        flat = [p.flatten(0, 1) for p in parts]\n"
            '        q, k, v = tap("q", flat[0]), tap("k", flat[1]), tap("v", flat[2])\n',
        )
        .replace(
            "context.transpose(1, 2).flatten(2)",
            "context.unflatten(0, (-1, self.heads)).transpose(1, 2).flatten(2)",
        )
        .replace('"B", "H", "T", "D//H"', '"B*H", "T", "D//H"')
        .replace('"B", "H", "T", "T"', '"H*B", "T", "T"')
    )


@accepted("shape_trace")
def other_words_for_the_same(reference: str) -> str:
    return (
        reference.replace('Row("pos", ("T", "D")', 'Row("pos", ("1", "T", "(D//H)*H")')
        .replace("device=ids.device)))", "device=ids.device)[None]))")
        .replace("(future, -math.inf)", "(future, -1e9)")
        .replace(
            'tap("ffn_hidden", F.gelu(self.up(self.norm2(x))))',
            'F.gelu(tap("ffn_hidden", self.up(self.norm2(x))))',
        )
        .replace('Row("grad tok.weight"', 'Row("grad head.weight"')
    )


@accepted("shape_trace")
def queries_are_scaled(reference: str) -> str:
    return reference.replace('tap("q", parts[0])', 'tap("q", parts[0] * self.factor)').replace(
        "k.transpose(-2, -1) * self.factor", "k.transpose(-2, -1)"
    )


@accepted("shape_trace")
def scales_both_and_a_norm_by_hand(reference: str) -> str:
    return (
        reference.replace('tap("q", parts[0])', 'tap("q", parts[0]) * self.factor')
        .replace("k.transpose(-2, -1) * self.factor", "k.transpose(-2, -1)")
        .replace(
            'tap("normed", self.norm1(x))',
            'tap("normed", x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt())',
        )
    )


@rejected("shape_trace", by="test_weights", says="before the scale")
def scores_before_the_scale(reference: str) -> str:
    return reference.replace(
        "scores = (q @ k.transpose(-2, -1) * self.factor).masked_fill(future, -math.inf)\n"
        '        weights = tap("weights", tap("scores", scores).softmax',
        'scores = tap("scores", (q @ k.transpose(-2, -1)).masked_fill(future, -math.inf))\n'
        '        weights = tap("weights", (scores * self.factor).softmax',
    )


@rejected("shape_trace", by="test_scores", says="are not q·k")
def keys_of_another_head(reference: str) -> str:
    return reference.replace('tap("k", parts[1])', 'tap("k", parts[1].flip(1)).flip(1)')


@rejected("shape_trace", by="test_symbols", says="one configuration only")
def numbers(reference: str) -> str:
    return reference.replace('("B", "H", "T", "T")', '("2", "3", "5", "5")')


@rejected("shape_trace", by="test_symbols", says="one configuration only")
def numbers_as_they_are(reference: str) -> str:
    return reference.replace('("B", "T", "F")', '("B", "T", 48)')


@rejected("shape_trace", by="test_symbols", says="one configuration only")
def four_times_dim(reference: str) -> str:
    return reference.replace('("B", "T", "F")', '("B", "T", "4*D")')


@rejected("shape_trace", by="test_symbols", says="are allowed")
def with_another_symbol(reference: str) -> str:
    return reference.replace('"D//H"', '"K"')


@rejected("shape_trace", by="test_shapes", says="is predicted as")
def batch_and_seq_swapped(reference: str) -> str:
    return reference.replace('Row("tok", ("B", "T", "D")', 'Row("tok", ("T", "B", "D")')


@rejected("shape_trace", by="test_shapes", says="is predicted as")
def flat_logits(reference: str) -> str:
    return reference.replace('Row("logits", ("B", "T", "V")', 'Row("logits", ("B*T", "V")')


@rejected("shape_trace", by="test_shapes", says="is predicted as")
def heads_times_dim(reference: str) -> str:
    return reference.replace('"D//H"', '"H*D"')


@rejected("shape_trace", by="test_gradients", says="(out, in)")
def weight_the_other_way_round(reference: str) -> str:
    return reference.replace('up.weight", ("F", "D")', 'up.weight", ("D", "F")')


@rejected("shape_trace", by="test_gradients", says="no parameter")
def gradient_of_nothing(reference: str) -> str:
    return reference.replace("grad blocks.0.up.weight", "grad blocks.0.weight")


@rejected("shape_trace", by="test_names", says="no row for ffn_hidden")
def a_row_is_missing(reference: str) -> str:
    return reference.replace(
        '    Row("ffn_hidden", ("B", "T", "F"), "The MLP is wider inside."),\n', ""
    )


@rejected("shape_trace", by="test_names", says="three are asked for")
def two_gradients(reference: str) -> str:
    return reference.replace(
        '    Row("grad tok.weight", ("V", "D"), "A gradient has the shape of its parameter."),\n',
        "",
    )


@rejected("shape_trace", by="test_why", says="write a sentence")
def no_reason(reference: str) -> str:
    return reference.replace('"The mean over all tokens."', '""')


@rejected("shape_trace", by="test_taps", says="not tapped")
def a_tap_is_missing(reference: str) -> str:
    return reference.replace('tap("merged", context', '("merged", context').replace(
        "return self.out(merged)", "return self.out(merged[1])"
    )


@rejected("shape_trace", by="test_taps_change_nothing", says="another object")
def tap_copies(reference: str) -> str:
    return reference.replace("    return tensor\n", "    return tensor.clone()\n")


@rejected("shape_trace", by="test_taps_are_used", says="does not depend on the tensor")
def computed_twice(reference: str) -> str:
    return reference.replace(
        'branch = self.attn(tap("normed", self.norm1(x)))',
        'tap("normed", self.norm1(x))\n        branch = self.attn(self.norm1(x))',
    )


@rejected("shape_trace", by="test_taps_are_used", says="does not depend on the tensor")
def a_copy_is_tapped(reference: str) -> str:
    return reference.replace(
        'merged = tap("merged", context.transpose(1, 2).flatten(2))',
        'merged = context.transpose(1, 2).flatten(2)\n        tap("merged", merged.detach())',
    )


@rejected("shape_trace", by="test_scores", says="tapped after the mask")
def scores_before_the_mask(reference: str) -> str:
    return reference.replace(
        "(q @ k.transpose(-2, -1) * self.factor).masked",
        'tap("scores", q @ k.transpose(-2, -1) * self.factor).masked',
    )


@rejected("shape_trace", by="test_scores", says="tapped after the mask")
def weights_as_scores(reference: str) -> str:
    return reference.replace(
        'tap("weights", tap("scores", scores).softmax(dim=-1))',
        'tap("weights", tap("scores", scores.softmax(dim=-1)))',
    )


@rejected("shape_trace", by="test_weights", says="after the softmax")
def scores_as_weights(reference: str) -> str:
    return reference.replace(
        'tap("weights", tap("scores", scores).softmax(dim=-1))',
        'tap("weights", tap("scores", scores)).softmax(dim=-1)',
    )


@rejected("shape_trace", by="test_context", says="before the output projection")
def merged_after_the_projection(reference: str) -> str:
    return reference.replace(
        'tap("merged", context.transpose(1, 2).flatten(2))\n        return self.out(merged)',
        'context.transpose(1, 2).flatten(2)\n        return tap("merged", self.out(merged))',
    )


@rejected("shape_trace", by="test_context", says="context is not")
def values_as_context(reference: str) -> str:
    return reference.replace('tap("context", weights @ v)', 'weights @ tap("context", v)')


@rejected("shape_trace", by="test_stream", says="x")
def token_as_stream(reference: str) -> str:
    return reference.replace(
        'x = tap("tok", self.tok(tap("ids", ids)))',
        'x = tap("x", tap("tok", self.tok(tap("ids", ids))))',
    )


@rejected("shape_trace", by="test_stream", says="root mean square")
def stream_as_normed(reference: str) -> str:
    return reference.replace(
        'self.attn(tap("normed", self.norm1(x)))', 'self.attn(self.norm1(tap("normed", x)))'
    )


# Task 3: the costs


@accepted("explain_numbers")
def by_layer(cfg):
    v, d, h, n, t, b = cfg.vocab, cfg.dim, cfg.heads, cfg.layers, cfg.ctx, cfg.batch
    stream = 4 * b * t * d
    params = dict(embedding=v * d, attention=4 * n * d**2, ffn=8 * n * d**2, norm=0, head=0)
    params["embedding"] += t * d
    params["ffn"] += n * 5 * d
    params["norm"] = 2 * d * (1 + n + n)
    saved = dict(embedding=0, attention=0, ffn=0, norm=stream, head=stream + 4 * b * t * v)
    flops = dict.fromkeys(("embedding", "attention", "ffn", "norm"), 0)
    flops["head"] = 2 * b * t * v * d
    for _ in range(n):
        saved["attention"] += 5 * stream + 4 * b * h * t * t
        saved["ffn"] += 9 * stream
        saved["norm"] += 2 * stream
        flops["attention"] += 2 * b * t * d * 4 * d + 2 * (2 * b * h * t * t * (d // h))
        flops["ffn"] += 2 * 2 * b * t * d * 4 * d
    return {"params": params, "saved": saved, "flops": flops}


@accepted("explain_numbers")
def without_a_tie(reference: str) -> str:
    return reference.replace("        self.head.weight = self.tok.weight\n", "").replace(
        '"head": 0,', '"head": cfg.vocab * dim,'
    )


@accepted("explain_numbers")
def another_model(reference: str) -> str:
    return (
        reference.replace("4 * dim", "2 * dim")
        .replace("cfg.ctx, 4 * cfg.dim", "cfg.ctx, 2 * cfg.dim")
        .replace("F.gelu(", "F.relu(")
        .replace("tokens * (dim + 2 * wide)", "tokens * (dim + wide)")
        .replace("layers * 2 * dim * dim", "layers * 4 * dim * dim")
    )


@rejected("explain_numbers", by="test_flops", says="forward pass")
def backward_too(reference: str) -> str:
    return (
        reference.replace("8 * tokens * dim * dim + 4 *", "24 * tokens * dim * dim + 12 *")
        .replace(
            '"ffn": layers * 4 * tokens * dim * wide', '"ffn": layers * 12 * tokens * dim * wide'
        )
        .replace('"head": 2 * tokens * dim * cfg.vocab', '"head": 6 * tokens * dim * cfg.vocab')
    )


@rejected("explain_numbers", by="test_saved", says="attention weights")
def without_the_square(reference: str) -> str:
    return reference.replace("(4 * (5 * tokens * dim + pairs) + seq * seq)", "4 * 5 * tokens * dim")


@rejected("explain_numbers", by="test_growth", says="each pair of tokens")
def memory_of_linear_attention(reference: str) -> str:
    return reference.replace("(4 * (5 * tokens * dim + pairs) + seq * seq)", "4 * 6 * tokens * dim")


@rejected("explain_numbers", by="test_saved", says="saves")
def every_byte_twice(reference: str) -> str:
    return reference.replace(
        "wide = cfg.dim, cfg.layers, cfg.ctx, 4 * cfg.dim",
        "wide = cfg.dim, cfg.layers, cfg.ctx, 4 * cfg.dim",
    ).replace("layers * 4 * tokens * (dim + 2 * wide)", "layers * 8 * tokens * (dim + 2 * wide)")


@rejected("explain_numbers", by="test_params", says="counts once")
def the_tie_twice(reference: str) -> str:
    return reference.replace(
        '"head": 0,\n        },\n        "saved"',
        '"head": cfg.vocab * dim,\n        },\n        "saved"',
    )


@rejected("explain_numbers", by="test_params", says="the model has")
def biases_forgotten(reference: str) -> str:
    return reference.replace("(2 * dim * wide + wide + dim)", "(2 * dim * wide)")


@rejected("explain_numbers", by="test_flops", says="all pairs")
def linear_attention(reference: str) -> str:
    return reference.replace(" + 4 * tokens * seq * dim", "")


@rejected("explain_numbers", by="test_flops", says="counts 2")
def multiply_add_is_one(reference: str) -> str:
    return (
        reference.replace(
            "(8 * tokens * dim * dim + 4 * tokens * seq * dim)",
            "(4 * tokens * dim * dim + 2 * tokens * seq * dim)",
        )
        .replace(
            '"ffn": layers * 4 * tokens * dim * wide', '"ffn": layers * 2 * tokens * dim * wide'
        )
        .replace('"head": 2 * tokens * dim * cfg.vocab', '"head": tokens * dim * cfg.vocab')
    )


@rejected("explain_numbers", by="test_flops", says="the model's matmuls do")
def without_the_head(reference: str) -> str:
    return reference.replace('"head": 2 * tokens * dim * cfg.vocab', '"head": 0')


@rejected("explain_numbers", by="test_keys", says="whole number")
def floats(reference: str) -> str:
    return reference.replace('"embedding": 8 * seq', '"embedding": 8.0 * seq')


@rejected("explain_numbers", by="test_keys", says="keys")
def a_key_of_its_own(reference: str) -> str:
    return reference.replace(
        '"norm": 0,\n            "head": 2',
        '"loss": 0,\n            "norm": 0,\n            "head": 2',
    )


@rejected("explain_numbers", by="test_by_formula", says="formula")
def asks_a_model(reference: str) -> str:
    return reference.replace(
        "    tokens = cfg.batch * seq\n",
        "    tokens = cfg.batch * seq\n    torch.zeros(1) + 1\n",
    )


# Task 4: the ablations


@accepted("ablate")
def batches_drawn_beforehand(reference: str) -> str:
    return written(
        reference,
        "4: one variant",
        """
        generator = torch.Generator()
        generator.manual_seed(seed)
        ids = torch.tensor(encode(toytext(20_000, 0)), dtype=torch.long)
        train, val = ids.split([18_000, 2_000])
        batches = []
        for _ in range(150):
            starts = torch.randint(0, 18_000 - 32, (16, 1), generator=generator)
            x = torch.stack([train[i : i + 32] for i in starts.flatten().tolist()])
            y = torch.stack([train[i + 1 : i + 33] for i in starts.flatten().tolist()])
            batches.append((x, y))
        torch.manual_seed(seed)
        options = dict(VARIANTS[name])
        heads = options.pop("heads", 4)
        model = MiniLM(25, 48, heads, 2, 32, **options)
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        warm = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1.0, (s + 1) / 30))
        for x, y in batches:
            loss = model(x, targets=y)[1]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
            optimizer.step()
            warm.step()
        model.eval()
        losses = []
        with torch.inference_mode():
            for i in range(0, len(val) - 33, 32):
                _, loss = model(val[None, i : i + 32], val[None, i + 1 : i + 33])
                losses.append(float(loss))
        return sum(losses) / len(losses)
""".replace("\n    ", "\n"),
    )


@accepted("ablate")
def in_a_loop(reference: str) -> str:
    return reference.replace(
        "    return {name: train_variant(name, seed) for name in VARIANTS}\n",
        "    table = dict.fromkeys(VARIANTS, 0.0)\n    for variant in reversed(table):\n"
        "        table[variant] = train_variant(seed=seed, name=variant)\n    return table\n",
    )


@rejected("ablate", by="test_ablate", says="luck")
def a_seed_for_each(reference: str) -> str:
    return reference.replace(
        "{name: train_variant(name, seed) for name in VARIANTS}",
        "{name: train_variant(name, seed + i) for i, name in enumerate(VARIANTS)}",
    )


@rejected("ablate", by="test_ablate", says="once for each")
def without_the_full_model(reference: str) -> str:
    return reference.replace("for name in VARIANTS}", "for name in VARIANTS if name != 'full'}")


@rejected("ablate", by="test_rows", says="10 %", file="ablation.json")
def made_up(reference: str) -> str:
    return (
        '{"seed": 0, "losses": {"full": 0.45, "no_scale": 0.46, "no_positions": 0.75,'
        ' "no_residual": 2.3, "no_norm": 1.3, "no_mlp": 0.8, "one_head": 0.5}}'
    )


@rejected("ablate", by="test_facts", says="below it at this budget", file="ablation.json")
def full_is_worst(reference: str) -> str:
    return reference.replace('"full": 0', '"full": 1')


@rejected("ablate", by="test_facts", says="without residuals", file="ablation.json")
def residuals_do_not_matter(reference: str) -> str:
    return reference.replace('"no_residual": 2', '"no_residual": 0')


@rejected("ablate", by="test_facts", says="full model is better", file="ablation.json")
def better_without_an_mlp(reference: str) -> str:
    return reference.replace('"no_mlp": 1', '"no_mlp": 0')


@rejected("ablate", by="test_no_positions", says="still knows places")
def scaled_positions_stay(reference: str) -> str:
    return reference.replace(
        "        self.pos = nn.Embedding(ctx, dim) if positions else None\n",
        "        self.pos = nn.Embedding(ctx, dim)\n"
        "        if not positions:\n            self.pos.weight.requires_grad_(False)\n",
    )


@rejected("ablate", by="test_table", says="no loss of one_head", file="ablation.json")
def a_row_less(reference: str) -> str:
    return reference.replace('"one_head"', '"two_heads"')


@rejected("ablate", by="test_table", says="positive number", file="ablation.json")
def a_text_as_loss(reference: str) -> str:
    return reference.replace('"full": ', '"full": "low", "was": ')


@rejected("ablate", by="test_same_batches", says="is luck")
def another_seed_for_each(reference: str) -> str:
    return reference.replace(
        "torch.Generator().manual_seed(seed)",
        "torch.Generator().manual_seed(seed + list(VARIANTS).index(name))",
    )


@rejected("ablate", by="test_same_batches", says="is luck")
def from_the_global_generator(reference: str) -> str:
    return reference.replace("(batch, 1), generator=generator)", "(batch, 1))")


@rejected("ablate", by="test_same_batches", says="the seed decides")
def always_the_same(reference: str) -> str:
    return reference.replace(
        "torch.Generator().manual_seed(seed)", "torch.Generator().manual_seed(0)"
    )


@rejected("ablate", by="test_same_start", says="before the model is built")
def weights_from_another_seed(reference: str) -> str:
    return reference.replace("    torch.manual_seed(seed)\n", "    torch.seed()\n")


@rejected("ablate", by="test_flags", says="positions=False")
def a_switch_without_effect(reference: str) -> str:
    return reference.replace(
        "nn.Embedding(ctx, dim) if positions else None", "nn.Embedding(ctx, dim)"
    )


@rejected("ablate", by="test_flags", says="scale=False")
def scale_is_never_asked(reference: str) -> str:
    return reference.replace("math.sqrt(heads / dim) if scale else 1.0", "math.sqrt(heads / dim)")


@rejected("ablate", by="test_flags", says="residual=False")
def residual_is_never_asked(reference: str) -> str:
    return reference.replace("self.residual = residual", "self.residual = True")


@rejected("ablate", by="test_rows", says="150 are asked for")
def numbers_from_a_table(reference: str) -> str:
    return reference.replace(
        "for step in range(150):", "for step in range(4 if seed == 0 else 150):"
    )


@rejected("ablate", by="test_rows", says="10 %")
def loss_in_bits(reference: str) -> str:
    return reference.replace("return loss.item()", "return loss.item() / math.log(2)")
