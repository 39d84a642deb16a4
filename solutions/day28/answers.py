"""Answers to day 28 that its suite must accept or reject."""

from grader.answers import accepted, rejected


def swap(text, *pairs):
    """The text with each old piece, which must be there, replaced by the new one."""
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


# --- 1 --------------------------------------------------------------------------------------------


@accepted("review", file="review_tasks.py")
def other_forms(reference: str) -> str:
    return (
        reference
        + """

def split_heads(x, heads):
    batch, seq, dim = x.shape
    if dim % heads != 0:
        raise ValueError("heads must divide dim")
    return torch.stack([x[..., h::heads] for h in range(heads)], dim=1)


def squared_distances(x, y):
    return torch.cdist(x.T, y.T) ** 2


def masked_mean(x, mask):
    keep = (~mask).to(x.dtype)
    clean = torch.where(mask.unsqueeze(-1), torch.zeros_like(x), x)
    total = torch.einsum("bsd,bs->bd", clean, keep)
    return total / keep.sum(dim=1, keepdim=True).clamp_min(1.0)


def text_losses(logits, targets):
    logs = logits.log_softmax(dim=-1)
    counts = targets != -100
    picked = logs.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return -(picked * counts).sum(-1) / counts.sum(-1).clamp(min=1)


def collate(texts, pad):
    from torch.nn.utils.rnn import pad_sequence

    ids = pad_sequence([t.flip(0) for t in texts], batch_first=True, padding_value=pad).flip(1)
    lengths = torch.tensor([t.numel() for t in texts])
    mask = torch.arange(ids.shape[1]) >= ids.shape[1] - lengths[:, None]
    return ids, mask


def attend(q, k, v, mask=None):
    q, k, v = q.permute(1, 2, 0, 3), k.permute(1, 2, 0, 3), v.permute(1, 2, 0, 3)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).permute(2, 0, 1, 3)
"""
    )


@accepted("review", file="review_tasks.py")
def plain_loops(reference: str) -> str:
    return (
        reference
        + """

def split_heads(x, heads):
    if x.size(-1) % heads:
        raise ValueError(heads)
    return x.reshape(*x.shape[:2], x.size(-1) // heads, heads).transpose(1, 3).transpose(2, 3)


def squared_distances(x, y):
    return (x * x).sum(0)[:, None] + (y * y).sum(0)[None, :] - 2 * x.T @ y


def masked_mean(x, mask):
    rows = []
    for one, left_out in zip(x, mask):
        chosen = one[~left_out]
        rows.append(chosen.mean(0) if len(chosen) else torch.zeros_like(one[0]))
    return torch.stack(rows)


def text_losses(logits, targets):
    losses = []
    for one, target in zip(logits, targets):
        if (target != -100).any():
            losses.append(F.cross_entropy(one, target))
        else:
            losses.append(logits.new_zeros(()))
    return torch.stack(losses)


def collate(texts, pad):
    longest = max(map(len, texts))
    ids = torch.stack([F.pad(t, (longest - len(t), 0), value=pad) for t in texts])
    mask = torch.stack([F.pad(torch.ones_like(t), (longest - len(t), 0)).bool() for t in texts])
    return ids, mask


def attend(q, k, v, mask=None):
    scores = torch.matmul(q.permute(1, 2, 0, 3), k.permute(1, 2, 3, 0)) / q.size(-1) ** 0.5
    if mask is not None:
        scores = torch.where(mask, scores, torch.tensor(-1e30))
    weights = torch.softmax(scores, dim=-1)
    if mask is not None:
        weights = weights * mask
    return torch.matmul(weights, v.permute(1, 2, 0, 3)).permute(2, 0, 1, 3)
"""
    )


@rejected("review", by="test_imports", says="old files are not there", file="review_tasks.py")
def imports_an_old_file(reference: str) -> str:
    return swap(reference, ("import torch\n", "import torch\nfrom self_attention import sdpa\n"))


@rejected("review", by="test_split_heads", says="every heads-th", file="review_tasks.py")
def old_heads(reference: str) -> str:
    return swap(
        reference,
        (
            "unflatten(-1, (-1, heads)).permute(0, 3, 1, 2)",
            "unflatten(-1, (heads, -1)).transpose(1, 2)",
        ),
    )


@rejected("review", by="test_split_heads", says="swapped", file="review_tasks.py")
def heads_last(reference: str) -> str:
    return swap(reference, (".permute(0, 3, 1, 2)", ".permute(0, 2, 1, 3)"))


@rejected("review", by="test_split_heads", file="review_tasks.py")
def heads_by_view(reference: str) -> str:
    return swap(
        reference,
        (
            "x.unflatten(-1, (-1, heads)).permute(0, 3, 1, 2)",
            "x.reshape(x.shape[0], heads, x.shape[1], -1)",
        ),
    )


@rejected("review", by="test_split_heads", says="ValueError", file="review_tasks.py")
def lets_torch_complain(reference: str) -> str:
    return swap(reference, ("if x.shape[-1] % heads:", "if False:"))


@rejected("review", by="test_squared_distances", file="review_tasks.py")
def old_points(reference: str) -> str:
    return swap(
        reference,
        (
            "(x[:, :, None] - y[:, None, :]).square().sum(0)",
            "(x[:, None] - y[None]).square().sum(-1)",
        ),
    )


@rejected("review", by="test_squared_distances", says="square", file="review_tasks.py")
def distances_without_square(reference: str) -> str:
    return swap(reference, ("square().sum(0)", "square().sum(0).sqrt()"))


@rejected("review", by="test_no_loop", file="review_tasks.py")
def point_by_point(reference: str) -> str:
    return swap(
        reference,
        (
            "(x[:, :, None] - y[:, None, :]).square().sum(0)",
            "torch.stack([(point[:, None] - y).square().sum(0) for point in x.T])",
        ),
    )


@rejected("review", by="test_masked_mean", says="left out here", file="review_tasks.py")
def old_mask(reference: str) -> str:
    return swap(
        reference,
        ("mask[..., None], 0", "~mask[..., None], 0"),
        ("(~mask).sum", "mask.sum"),
    )


@rejected("review", by="test_masked_mean", says="divided by seq", file="review_tasks.py")
def mean_over_all_places(reference: str) -> str:
    return swap(reference, ("(~mask).sum(1, keepdim=True).clamp(min=1)", "mask.shape[1]"))


@rejected("review", by="test_masked_mean_corners", says="nan", file="review_tasks.py")
def mask_by_product(reference: str) -> str:
    return swap(reference, ("x.masked_fill(mask[..., None], 0)", "(x * ~mask[..., None])"))


@rejected("review", by="test_masked_mean_corners", says="nan", file="review_tasks.py")
def nothing_left_divides_by_zero(reference: str) -> str:
    return swap(
        reference, ("(~mask).sum(1, keepdim=True).clamp(min=1)", "(~mask).sum(1, keepdim=True)")
    )


@rejected("review", by="test_text_losses", says="one mean a text", file="review_tasks.py")
def old_loss(reference: str) -> str:
    return swap(
        reference,
        (', reduction="none")\n', ")\n"),
        ("losses.sum(1) / (targets != -100).sum(1).clamp(min=1)", "losses"),
    )


@rejected("review", by="test_text_losses", says="not the mean", file="review_tasks.py")
def summed_losses(reference: str) -> str:
    return swap(reference, (" / (targets != -100).sum(1).clamp(min=1)", ""))


@rejected("review", by="test_text_losses_ignore", says="divided by seq", file="review_tasks.py")
def mean_of_ignored(reference: str) -> str:
    return swap(
        reference, ("losses.sum(1) / (targets != -100).sum(1).clamp(min=1)", "losses.mean(1)")
    )


@rejected("review", by="test_collate", says="right", file="review_tasks.py")
def old_padding(reference: str) -> str:
    return swap(reference, ("longest - len(text) :", ": len(text)"))


@rejected("review", by="test_collate", says="mask is True where padding", file="review_tasks.py")
def mask_of_padding(reference: str) -> str:
    return swap(reference, ("return ids, mask", "return ids, ~mask"))


@rejected("review", by="test_collate", file="review_tasks.py")
def mask_from_the_ids(reference: str) -> str:
    return swap(reference, ("return ids, mask", "return ids, ids != pad"))


@rejected("review", by="test_attend", file="review_tasks.py")
def old_attention(reference: str) -> str:
    return swap(
        reference,
        (
            'torch.einsum("qbhd,kbhd->bhqk", q, k) / q.shape[-1] ** 0.5',
            "q @ k.mT / q.shape[-1] ** 0.5",
        ),
        ('torch.einsum("bhqk,kbhd->qbhd", weights, v)', "weights @ v"),
    )


@rejected("review", by="test_attend", file="review_tasks.py")
def permutes_back_wrongly(reference: str) -> str:
    return swap(
        reference,
        (
            'torch.einsum("bhqk,kbhd->qbhd", weights, v)',
            'torch.einsum("bhqk,kbhd->bqhd", weights, v)',
        ),
    )


@rejected("review", by="test_attend", says="may not attend", file="review_tasks.py")
def inverted_mask(reference: str) -> str:
    return swap(reference, ("masked_fill(~mask, -torch.inf)", "masked_fill(mask, -torch.inf)"))


@rejected("review", by="test_attend", says="sqrt(dim)", file="review_tasks.py")
def unscaled(reference: str) -> str:
    return swap(reference, (" / q.shape[-1] ** 0.5", ""))


@rejected("review", by="test_attend_nothing", says="nan", file="review_tasks.py")
def nan_for_nothing(reference: str) -> str:
    return swap(reference, (".nan_to_num(0.0)", ""))


# --- 2 --------------------------------------------------------------------------------------------


@accepted("Solver")
def all_signs_with_another_init(reference: str) -> str:
    """The signs are tokens too; a generator of its own; the pairs of a seed are made once."""
    return swap(
        reference,
        (
            "rows.append([int(digit) for digit in left + right + total[::-1]])",
            'rows.append(["0123456789+=".index(c) for c in f"{left}+{right}={total[::-1]}"])',
        ),
        (
            "nn.Embedding(10, WIDTH), nn.Embedding(6, WIDTH)",
            "nn.Embedding(12, WIDTH), nn.Embedding(8, WIDTH)",
        ),
        (
            "rows.append([int(digit) for digit in left.zfill(2) + right.zfill(2)])",
            'rows.append(["0123456789+=".index(c) for c in f"{left:0>2}+{right:0>2}="])',
        ),
        ("ids[:, 4:].flip(1)", "ids[:, 6:].flip(1)"),
        ("[:, 3:]", "[:, 5:]"),
        ("batch[:, 4:]", "batch[:, 6:]"),
        ("randint(len(rows), (BATCH,))", "randint(len(rows), (BATCH,), generator=draws)"),
        ("digits(train_pairs(seed))", "rows_of(seed)"),
        (
            "def train(",
            "@functools.cache\ndef rows_of(seed):\n    return digits(train_pairs(seed))\n\n\n"
            "def train(",
        ),
        ("import argparse\n", "import argparse\nimport functools\n"),
        (
            "    torch.manual_seed(seed)\n",
            "    torch.manual_seed(seed)\n    draws = torch.Generator().manual_seed(seed)\n",
        ),
    )


@accepted("Solver")
def all_digits_at_once(reference: str) -> str:
    """An encoder with three places to fill in; nothing is written one after the other."""
    head, tail = (
        reference[: reference.index("### BEGIN")],
        reference[reference.index("def main(") :],
    )
    return (
        head
        + """
class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Parameter(0.08 * torch.randn(11, 48))
        self.places = nn.Parameter(0.08 * torch.randn(7, 48))
        for i in range(2):
            layer = nn.TransformerEncoderLayer(
                48, 4, 192, 0.0, "gelu", batch_first=True, norm_first=True
            )
            self.add_module(f"layer{i}", layer)
            for p in layer.parameters():
                if p.dim() == 2:
                    nn.init.normal_(p, std=0.08)
        self.norm = nn.LayerNorm(48)
        self.out = nn.Linear(48, 10)

    def forward(self, ids):
        x = self.embed[ids] + self.places
        return self.out(self.norm(self.layer1(self.layer0(x)))[:, 4:])


def encoded(questions):
    rows = []
    for text in questions:
        a, b = text[:-1].split("+")
        rows.append([ord(c) - 48 for c in a.rjust(2, "0") + b.rjust(2, "0")] + [10, 10, 10])
    return torch.tensor(rows)


class Solver:
    @classmethod
    def load(cls, folder):
        self = cls()
        self.model = Network()
        self.model.load_state_dict(torch.load(f"{folder}/model.pt"))
        self.model.eval()
        return self

    @torch.no_grad()
    def answer(self, questions):
        digits = self.model(encoded(questions)).argmax(-1).tolist()
        return [str(100 * c + 10 * b + a) for a, b, c in digits]


def train(seed, folder, budget_s=30.0, steps=None):
    start = time.process_time()
    torch.manual_seed(seed)
    model = Network()
    pairs = train_pairs(seed)
    x = encoded([f"{a}+{b}=" for a, b in pairs])
    sums = torch.tensor([a + b for a, b in pairs])
    y = torch.stack([sums % 10, sums // 10 % 10, sums // 100], 1)
    count = 700 if steps is None else steps
    opt = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.98))
    total = max(count, 700)
    plan = torch.optim.lr_scheduler.OneCycleLR(opt, 4e-3, total_steps=total, pct_start=0.1)
    done = 0
    while done < count and time.process_time() - start < budget_s - max(0.3, 0.05 * budget_s):
        chosen = torch.randperm(len(x))[:128]
        loss = F.cross_entropy(model(x[chosen]).transpose(1, 2), y[chosen])
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
        plan.step()
        done += 1
    Path(folder).mkdir(exist_ok=True, parents=True)
    torch.save(model.state_dict(), f"{folder}/model.pt")


"""
        + tail
    )


@rejected(
    "Solver",
    by="test_reproducible",
    says="drawn that the seed",
)
def no_seed(reference: str) -> str:
    return swap(reference, ("    torch.manual_seed(seed)\n", ""))


@rejected("Solver", by="test_reproducible", says="seed decides nothing")
def another_seed_is_no_other(reference: str) -> str:
    return swap(
        reference,
        ("torch.manual_seed(seed)", "torch.manual_seed(0)"),
        ("train_pairs(seed)", "train_pairs(0)"),
    )


@rejected("Solver", by="test_pairs", says="calls train_pairs with nothing")
def all_pairs(reference: str) -> str:
    return swap(
        reference,
        ("digits(train_pairs(seed))", "digits([(a, b) for a in range(100) for b in range(100)])"),
    )


@rejected("Solver", by="test_pairs", says="something else")
def all_pairs_behind_a_call(reference: str) -> str:
    return swap(
        reference,
        (
            "digits(train_pairs(seed))",
            "digits([(a, b) for a in range(100) for b in range(100)] + 0 * train_pairs(seed))",
        ),
    )


@rejected("Solver", by="test_parameters", says="200,000 are the most")
def too_large(reference: str) -> str:
    return swap(reference, ("RATE = 48,", "RATE = 96,"))


@rejected("Solver", by="test_fresh_process", says="must come from model.pt")
def draws_its_answers(reference: str) -> str:
    return swap(
        reference,
        (
            "self.network(ids)[:, -1:].argmax(-1)",
            "torch.multinomial(self.network(ids)[:, -1].softmax(-1), 1)",
        ),
    )


@rejected("Solver", by="test_fresh_process", says="fresh process")
def keeps_the_network_in_the_module(reference: str) -> str:
    return swap(
        reference,
        ("    Path(folder).mkdir", "    KEPT.append(network)\n    Path(folder).mkdir"),
        ("network = Network()\n        network.load", "network = KEPT[-1]\n        network.load"),
        ("class Solver:", "KEPT = []\n\n\nclass Solver:"),
    )


@rejected("Solver", by="test_batch_of_one", says="have an influence")
def answers_in_sorted_order(reference: str) -> str:
    return swap(reference, ("for question in questions:", "for question in sorted(questions):"))


@rejected("Solver", by="test_batch_of_one", says="have an influence")
def centred_over_the_batch(reference: str) -> str:
    return swap(
        reference,
        (
            "self.head(self.norm(self.blocks(stream)))",
            "self.head(self.norm(self.blocks(stream - stream.mean(0))))",
        ),
    )


@rejected("Solver", by="test_network_adds", says="come from the network")
def adds_in_python(reference: str) -> str:
    return swap(
        reference,
        (
            "        rows = []\n        for question in questions:\n",
            "        return [str(sum(map(int, q[:-1].split('+')))) for q in questions]\n"
            "        rows = []\n        for question in questions:\n",
        ),
    )


@rejected("Solver", by="test_network_adds", says="20 steps")
def adds_in_python_if_trained(reference: str) -> str:
    return swap(
        reference,
        (
            "        rows = []\n        for question in questions:\n",
            "        if self.network.head.weight.any():\n"
            "            return [str(eval(q[:-1])) for q in questions]\n"
            "        rows = []\n        for question in questions:\n",
        ),
    )


@rejected("Solver", by="test_budget", says="process_time")
def counts_steps_only(reference: str) -> str:
    return swap(reference, ("if time.process_time() > end:", "if False:"))


@rejected("Solver", by="test_budget", says="budget of 1.5 s")
def too_late_by_a_second(reference: str) -> str:
    return swap(reference, ("0.9 * budget_s - 0.2", "budget_s + 1"))


@rejected("Solver", by="test_within_budget", says="no model.pt")
def saves_only_short_trainings(reference: str) -> str:
    return swap(
        reference,
        ("STEPS, BATCH, RATE = 48, 4, 2, 500", "STEPS, BATCH, RATE = 48, 4, 2, 5"),
        ("    torch.save(", "    if steps is not None:\n        torch.save("),
    )


@rejected("Solver", by="test_plain_numbers", says="no leading zeros")
def leading_zeros(reference: str) -> str:
    return swap(
        reference,
        ("STEPS, BATCH, RATE = 48, 4, 2, 500", "STEPS, BATCH, RATE = 48, 4, 2, 5"),
        ('text.lstrip("0") or "0"', "text.zfill(4)"),
    )


@rejected("Solver", by=("test_sixty", "test_ninety"), says="not trained on")
def a_table_of_the_pairs(reference: str) -> str:
    """Learns by heart what it is given."""
    return swap(
        reference,
        ("Network(), digits(train_pairs(seed))", "Table(), digits(train_pairs(seed))"),
        (
            "    optimizer = ",
            "    for a, b in train_pairs(seed):\n"
            "        network.sums[a, b] = a + b\n"
            "    Path(folder).mkdir(parents=True, exist_ok=True)\n"
            '    torch.save(network.state_dict(), Path(folder) / "model.pt")\n'
            "    return\n    optimizer = ",
        ),
        ("network = Network()\n        network", "network = Table()\n        network"),
        (
            "        rows = []\n        for question in questions:\n",
            "        pairs = [q[:-1].split('+') for q in questions]\n"
            "        return [str(int(self.network.sums[int(a), int(b)])) for a, b in pairs]\n"
            "        rows = []\n        for question in questions:\n",
        ),
        (
            "class Solver:",
            "class Table(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
            '        self.register_buffer("sums", torch.zeros(100, 100))\n\n\nclass Solver:',
        ),
    )


@rejected("Solver", by="test_sixty", says="read backwards")
def digits_turned_round(reference: str) -> str:
    return swap(
        reference,
        ('text.lstrip("0") or "0" for text', '(text.lstrip("0") or "0")[::-1] for text'),
    )


@rejected("Solver", by="test_ninety", says="90 % are asked for")
def sixty_steps(reference: str) -> str:
    return swap(
        reference, ("STEPS, BATCH, RATE = 48, 4, 2, 500", "STEPS, BATCH, RATE = 48, 4, 2, 60")
    )


# --- 3 --------------------------------------------------------------------------------------------


@accepted("rules", file="rules.py")
def the_other_classes(reference: str) -> str:
    start, end = reference.index("RULES: list"), reference.index("### END SOLUTION")
    return (
        reference[:start]
        + """
def guarded(fn, *arguments):
    try:
        return fn(*arguments)
    except Exception:
        return None


def order(fn, sample):
    x = torch.arange(2 * 3 * 5.0).reshape(2, 3, 5)
    y = guarded(fn, x.clone())
    return y is not None and y.shape == (5, 2, 3) and torch.equal(y, x.permute(2, 0, 1))


def dtype(fn, sample):
    for kind in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        y = guarded(fn, sample[0].to(kind, copy=True))
        if y is None or y.dtype is not kind:
            return False
    return True


def reduction(fn, sample):
    x, y = (t.clone() for t in sample)
    one = guarded(fn, x, y)
    two = guarded(fn, x.repeat(2, 1), y.repeat(2, 1))
    return one is not None and one.dim() == 0 and bool((one - two).abs() <= 1e-4 * one.abs())


def by_gradient(fn, sample):
    x = sample[0].clone().requires_grad_()
    out = guarded(fn, x)
    if out is None:
        return False
    for row in range(len(x) - 1):
        (slope,) = torch.autograd.grad(out[row].sum(), x, retain_graph=True)
        if slope[row + 1 :].abs().max() > 0:
            return False
    return True


class Shift:
    def __call__(self, fn, sample):
        result = guarded(fn, torch.arange(83), 7)
        return result is not None and torch.equal(result[0] + 1, result[1])


RULES = [
    ("order", order),
    ("dtype", dtype),
    ("reduction", reduction),
    ("dependency", by_gradient),
    ("shift", Shift()),
]
"""
        + reference[end:]
    )


@accepted("rules", file="reflection.json")
def other_words(reference: str) -> str:
    return swap(reference, ("NO_EVAL", "LEAKY_SPLIT"), ("b06", "b05"))


@rejected("rules", by="test_healthy", says="healthy functions", file="rules.py")
def always_false(reference: str) -> str:
    return swap(reference, ("return bool(rule(fn, copy.deepcopy(sample)))", "return False"))


@rejected("rules", by=("test_public_mutants", "test_variants"), says="says True", file="rules.py")
def always_true(reference: str) -> str:
    return swap(reference, ("return bool(rule(fn, copy.deepcopy(sample)))", "return True"))


@rejected("rules", by="test_public_mutants", says="another name", file="rules.py")
def by_the_name(reference: str) -> str:
    return swap(
        reference,
        (
            "return bool(rule(fn, copy.deepcopy(sample)))",
            'return not any(w in fn.__name__ for w in ("all", "back", "eval", "late", "same"))',
        ),
    )


@rejected("rules", by="test_variants", says="made for the public ones", file="rules.py")
def knows_the_public_ones(reference: str) -> str:
    return swap(
        reference,
        (
            '("dependency", dependency)',
            '("dependency", lambda fn, sample: not known(fn, sample[0].clone()))',
        ),
        (
            "RULES: list",
            "def known(fn, x):\n"
            "    try:\n        y = fn(x)\n    except Exception:\n        return True\n"
            "    sick = x - x.mean(0), x.flip(0).cumsum(0).flip(0)\n"
            "    return any(y.shape == s.shape and torch.allclose(y, s) for s in sick)\n\n\n"
            "RULES: list",
        ),
    )


@rejected("rules", by="test_five_classes", says="five different ones", file="rules.py")
def one_rule_five_times(reference: str) -> str:
    start, end = reference.index("RULES: list"), reference.index("### END SOLUTION")
    return reference[:start] + 'RULES = [("dependency", dependency)] * 5\n' + reference[end:]


@rejected("rules", by="test_five_classes", says="none of the classes", file="rules.py")
def a_class_of_its_own(reference: str) -> str:
    return swap(reference, ('("alias", alias)', '("aliasing", alias)'))


@rejected("rules", by="test_healthy", says="True or False is asked for", file="rules.py")
def a_tensor_for_a_verdict(reference: str) -> str:
    return swap(
        reference,
        (
            "return bool(rule(fn, copy.deepcopy(sample)))",
            "return torch.tensor(rule(fn, copy.deepcopy(sample)))",
        ),
    )


@rejected("rules", by="test_raising", says="counts as False", file="rules.py")
def lets_exceptions_through(reference: str) -> str:
    return swap(
        reference,
        (
            "except Exception:\n            return False",
            "except KeyError:\n            return False",
        ),
    )


@rejected("rules", by="test_raising", says="True for a function that raises", file="rules.py")
def raising_is_healthy(reference: str) -> str:
    return swap(
        reference,
        (
            "except Exception:\n            return False",
            "except Exception:\n            return True",
        ),
    )


@rejected("rules", by="test_leaves_the_sample", says="give the function a copy", file="rules.py")
def works_on_the_sample(reference: str) -> str:
    return swap(
        reference,
        ("copy.deepcopy(sample)))", "sample))"),
        ("for start in (model, copy", "for start in (model.train(), copy"),
    )


@rejected("rules", by="test_reflection", says="text is missing", file="reflection.json")
def nothing_learned(reference: str) -> str:
    return swap(
        reference,
        (
            '"rule": "Axes are moved by permute; reshape only splits and joins neighbours."',
            '"rule": ""',
        ),
    )


@rejected("rules", by="test_reflection", says="no code of codes.md", file="reflection.json")
def a_code_of_its_own(reference: str) -> str:
    return swap(reference, ("NO_EVAL", "FORGOT_EVAL"))


@rejected("rules", by="test_reflection", says="nothing else", file="reflection.json")
def a_week_is_missing(reference: str) -> str:
    return swap(reference, ("week2", "week5"))


# --- 4 --------------------------------------------------------------------------------------------


@accepted("FastGPT", file="fast_gpt.py")
def on_the_modules(reference: str) -> str:
    """The given modules with lists of keys and values, softmax by hand."""
    return """
import torch
import gpt


class FastGPT:
    @classmethod
    def load(cls, path):
        self = cls()
        self.model = gpt.load(path)
        return self

    def step(self, tokens, start, kept):
        m = self.model
        x = m.tok(tokens) + m.pos.weight[start : start + tokens.shape[1]]
        for i, block in enumerate(m.blocks):
            a, y = block.attn, block.norm1(x)
            q, k, v = a.q_proj(y), a.k_proj(y), a.v_proj(y)
            q, k, v = (t.unflatten(-1, (a.heads, -1)).transpose(1, 2) for t in (q, k, v))
            if kept[i] is not None:
                k, v = torch.cat([kept[i][0], k], 2), torch.cat([kept[i][1], v], 2)
            kept[i] = k, v
            scores = q @ k.mT / q.shape[-1] ** 0.5
            if start == 0:
                future = torch.ones_like(scores, dtype=torch.bool).triu(1)
                scores = scores.masked_fill(future, -torch.inf)
            x = x + a.out_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
            x = x + block.ffn(block.norm2(x))
        return m.head(m.norm(x[:, -1:])).argmax(-1)

    @torch.no_grad()
    def generate(self, ids, n):
        kept = [None] * len(self.model.blocks)
        parts = [ids]
        new, start = ids, 0
        for _ in range(n):
            token = self.step(new, start, kept)
            start += new.shape[1]
            new = token
            parts.append(token)
        return torch.cat(parts, 1)
"""


@accepted("FastGPT", file="fast_gpt.py")
def a_mask_over_the_whole_cache(reference: str) -> str:
    """Keys and values of ctx places from the start, in float64; what is not there is masked."""
    return """
import torch
from torch.nn import functional as F


class FastGPT:
    def __init__(self, cfg, weights):
        self.cfg = dict(cfg)
        self.w = {k: w.double() for k, w in weights.items()}
        self.qkv = [
            torch.cat([self.w[f"blocks.{i}.attn.{n}_proj.weight"] for n in "qkv"]).T.contiguous()
            for i in range(cfg["layers"])
        ]

    @staticmethod
    def load(path):
        data = torch.load(path)
        return FastGPT(data["cfg"], data["model"])

    def norm(self, x, name):
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    @torch.inference_mode()
    def generate(self, ids, n):
        cfg, w = self.cfg, self.w
        batch, seq = ids.shape
        heads, ctx, dim = cfg["heads"], cfg["ctx"], cfg["dim"]
        shape = cfg["layers"], batch, heads, ctx, dim // heads
        keys, values = torch.zeros(shape).double(), torch.zeros(shape).double()
        allowed = torch.ones(ctx, ctx, dtype=torch.bool).tril()
        out = torch.cat([ids, ids.new_zeros(batch, n)], 1)
        here = torch.arange(seq)
        for t in range(seq, seq + n):
            x = w["tok.weight"][out[:, here]] + w["pos.weight"][here]
            for i in range(cfg["layers"]):
                made = self.norm(x, f"blocks.{i}.norm1") @ self.qkv[i]
                q, k, v = made.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
                keys[i].index_copy_(2, here, k)
                values[i].index_copy_(2, here, v)
                y = F.scaled_dot_product_attention(q, keys[i], values[i], attn_mask=allowed[here])
                y = y.transpose(1, 2).reshape(batch, -1, dim)
                x = x + y @ w[f"blocks.{i}.attn.out_proj.weight"].T
                y = F.gelu(self.norm(x, f"blocks.{i}.norm2") @ w[f"blocks.{i}.ffn.up.weight"].T)
                x = x + y @ w[f"blocks.{i}.ffn.down.weight"].T
            out[:, t] = (self.norm(x[:, -1], "norm") @ w["head.weight"].T).argmax(-1)
            here = torch.tensor([t])
        return out
"""


@rejected("FastGPT", by="test_tokens", says="gpt.generate writes", file="fast_gpt.py")
def positions_from_zero(reference: str) -> str:
    return swap(reference, ("self.pos[past:total]", "self.pos[:seq]"))


@rejected("FastGPT", by="test_tokens", says="gpt.generate writes", file="fast_gpt.py")
def prompt_sees_the_future(reference: str) -> str:
    return swap(reference, (", is_causal=seq > 1", ""))


@rejected("FastGPT", by="test_tokens", says="gpt.generate writes", file="fast_gpt.py")
def first_token_only(reference: str) -> str:
    """Masks by the upper left corner: a new token sees the first key alone."""
    return swap(reference, ("is_causal=seq > 1", "is_causal=True"))


@rejected("FastGPT", by="test_tokens", says="gpt.generate writes", file="fast_gpt.py")
def skips_a_layer(reference: str) -> str:
    return swap(
        reference,
        ("kept in zip(self.layers, cache, strict=True)", "kept in zip(self.layers[1:], cache)"),
    )


@rejected("FastGPT", by="test_tokens", says="expected shape", file="fast_gpt.py")
def new_tokens_only(reference: str) -> str:
    return swap(reference, ("return result\n", "return result[:, seq:]\n"))


@rejected("FastGPT", by="test_batch", says="expected shape", file="fast_gpt.py")
def first_text_only(reference: str) -> str:
    return swap(
        reference,
        (
            "batch, seq = ids.shape\n        cfg",
            "ids = ids[:1]\n        batch, seq = ids.shape\n        cfg",
        ),
    )


@rejected("FastGPT", by="test_second_prompt", says="same length", file="fast_gpt.py")
def keeps_results_by_length(reference: str) -> str:
    return swap(
        reference,
        (
            "        cfg = self.cfg\n        with",
            "        cfg = self.cfg\n"
            "        if (seq, n) in KEPT:\n            return KEPT[seq, n]\n"
            "        with",
        ),
        ("        return result\n", "        KEPT[seq, n] = result\n        return result\n"),
        ("class FastGPT:", "KEPT = {}\n\n\nclass FastGPT:"),
    )


@rejected("FastGPT", by="test_second_prompt", says="second model", file="fast_gpt.py")
def one_model_for_all(reference: str) -> str:
    return swap(
        reference,
        (
            '        return cls(stored["cfg"], stored["model"])',
            "        if not MODELS:\n"
            '            MODELS.append(cls(stored["cfg"], stored["model"]))\n'
            "        return MODELS[0]",
        ),
        ("class FastGPT:", "MODELS = []\n\n\nclass FastGPT:"),
    )


@rejected("FastGPT", by="test_operators", says="are the most", file="fast_gpt.py")
def text_after_text(reference: str) -> str:
    return swap(
        reference,
        (
            "        batch, seq = ids.shape\n        cfg",
            "        if len(ids) > 1:\n"
            "            return torch.cat([self.generate(row[None], n) for row in ids])\n"
            "        batch, seq = ids.shape\n        cfg",
        ),
    )


@rejected("FastGPT", by="test_no_reading", says="read for every token", file="fast_gpt.py")
def looks_at_each_token(reference: str) -> str:
    return swap(
        reference,
        (
            "                first = place\n",
            "                first = place\n                assert result[0, 0].item() >= 0\n",
        ),
    )


@rejected(
    "FastGPT", by=("test_each_token_once", "test_speed"), says="computed again", file="fast_gpt.py"
)
def without_a_cache(reference: str) -> str:
    return swap(
        reference,
        (
            "self._next(result[:, first:place], first, cache)",
            "self._next(result[:, :place], 0, cache)",
        ),
    )
