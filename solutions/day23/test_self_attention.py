"""Day 23 asks for attention: the weights, the mix, heads, masks, a cache and the tiled form."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from grader.testing import (
    assert_close,
    assert_device,
    assert_dtype,
    assert_equal,
    assert_finite,
    assert_gradients,
    assert_gradients_close,
    assert_independent,
    assert_no_python_loop,
    assert_no_tensor_of,
    assert_raises,
    assert_runs_on_meta,
    assert_shape,
    assert_speed,
    assert_unchanged,
    assert_view,
    expect,
    fail,
    forbid,
    measured,
    picture,
    saved_memory,
    smallest,
    train_until,
)

HEADS = ("batch", "heads", "seq_q", "seq_k")

# The toy language: "red fox, blue owl, grey hen, black dog, white cat: what is the hen?"
COLOURS = ("red", "blue", "grey", "black", "white", "green", "brown")
ANIMALS = ("fox", "owl", "hen", "dog", "cat", "bat", "cow")


def weights_by_row(q, k, mask=None, scale=None):
    """Attention weights in float64 on the CPU, one query after the other.

    Args:
        q: (*, seq_q, dim)
        k: (*, seq_k, dim)
        mask: bool, broadcastable to (*, seq_q, seq_k); True = may attend.
        scale: what the scores are multiplied by; 1 / sqrt(dim) if left out.
    """
    q, k = q.detach().cpu().double(), k.detach().cpu().double()
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    shape = (*q.shape[:-1], k.shape[-2])
    mask = torch.ones(shape, dtype=torch.bool) if mask is None else mask.cpu().expand(shape)
    weights = torch.zeros(shape, dtype=torch.float64)
    for row in itertools.product(*map(range, shape[:-1])):
        keys = mask[row].nonzero().flatten()
        if len(keys):
            scores = k[row[:-1]][keys] @ q[row] * scale
            parts = (scores - scores.max()).exp()
            weights[row][keys] = parts / parts.sum()
    return weights


def attention_by_row(q, k, v, mask=None):
    """Attention output in float64 on the CPU, (*, seq_q, dim_v)."""
    return weights_by_row(q, k, mask) @ v.detach().cpu().double()


def past(seq_q, seq_k, offset=None):
    """The causal mask as a table, (seq_q, seq_k): key j is at most `offset` behind query i."""
    offset = seq_k - seq_q if offset is None else offset
    return torch.tensor([[j <= i + offset for j in range(seq_k)] for i in range(seq_q)])


def random_mask(*shape):
    """A bool mask in which every row keeps a key and drops one."""
    kept = torch.randint(shape[-1], (*shape[:-1], 1))
    mask = torch.rand(shape) < 0.5
    return mask.scatter(-1, kept, True).scatter(-1, (kept + 1) % shape[-1], False)


def randn(*shape, dtype=torch.float64, device="cpu", grad=False):
    """Standard normal numbers, drawn on the CPU so that a seed means the same everywhere."""
    return torch.randn(shape, dtype=torch.float64).to(device, dtype).requires_grad_(grad)


def called(fn, case):
    """Call `fn` with a copy of each tensor of the case, so that the case stays what it was."""
    copies = {n: v.clone() if isinstance(v, torch.Tensor) else v for n, v in case.items()}
    return fn(**copies)


def softmax_where(scores, keep):
    """Softmax over the kept keys; a row that keeps none is 0."""
    return scores.masked_fill(~keep, -math.inf).softmax(-1).nan_to_num()


def wrong_weights(q, k, mask):
    """What known mistakes give: sentence -> weights (*, seq_q, seq_k) like `q`."""
    scores = q.double() @ k.double().mT
    dim, seq_k = k.shape[-1], k.shape[-2]
    keep = torch.ones_like(scores, dtype=torch.bool)
    known = {}
    if mask is not None:
        keep = keep & mask
        scaled = scores * dim**-0.5
        known = {
            "the mask is upside down: True means that the query may attend to the key": (
                softmax_where(scaled, ~keep)
            ),
            "the mask comes after the softmax: what it removes stays in the denominator, so the "
            "rows sum to less than 1": scaled.softmax(-1) * keep,
            "the mask is not applied": scaled.softmax(-1),
        }
    known |= {
        "the softmax runs over the queries (dim=-2); it must run over the keys (dim=-1)": (
            softmax_where((scores * dim**-0.5).mT, keep.mT).mT
        ),
        "the scores are not divided by sqrt(dim)": softmax_where(scores, keep),
        "the scores are divided by dim; the scale is its square root": (
            softmax_where(scores / dim, keep)
        ),
        "the scores are divided by sqrt(seq_k); the scale is the square root of the width": (
            softmax_where(scores * seq_k**-0.5, keep)
        ),
        "the scores are divided by sqrt(seq_q); the scale is the square root of the width": (
            softmax_where(scores * q.shape[-2] ** -0.5, keep)
        ),
    }
    return {sentence: weights.to(q) for sentence, weights in known.items()}


def show_weights(got, expected, allowed, title):
    """Attach three maps of the first example and head: expected, yours, what must be 0.

    Args:
        got, expected, allowed: (*, seq_q, seq_k); allowed is True where a weight may be.
        title: what is drawn.
    """
    if not isinstance(got, torch.Tensor) or got.shape != expected.shape:
        return
    first = (0,) * (got.dim() - 2)
    got, expected, allowed = (
        t.detach().cpu()[first].double() for t in (got, expected, allowed.expand(got.shape))
    )
    wrong = ((got - expected).abs() <= 1e-4 + 1e-3 * expected).logical_not().nonzero().tolist()
    leaks = got.masked_fill(allowed.bool(), 0)
    leaking = (leaks != 0).nonzero().tolist()
    caption = "Rows are queries, columns are keys, more colour is more weight. "
    if leaking:
        i, j = leaking[0]
        caption += f"Query {i} puts {leaks[i, j]:.2f} on key {j}, where the weight must be 0."
    elif wrong:
        i, j = wrong[0]
        caption += f"Query {i} puts {got[i, j]:.2f} on key {j}; expected {expected[i, j]:.2f}."
    else:
        caption += "All weights agree, and none lies where it must be 0."
    maps = [
        {"label": label, "values": values.tolist(), "marked": marked, "scale": "sequential"}
        for label, values, marked in (
            ("expected", expected, []),
            ("yours", got, wrong),
            ("must be 0", leaks, leaking),
        )
    ]
    picture(
        "heatmap", title, caption, maps=maps, row_axis="query", column_axis="key", origin=[0, 0]
    )


def place(index):
    """An index as text, `(0, 0, 1, 4)`."""
    return f"({', '.join(map(str, index))})"


def assert_no_weight_where(got, allowed):
    """No weight lies on a key that the query may not attend to."""
    leaks = got.masked_fill(allowed, 0)
    leaking = (leaks != 0).nonzero().tolist()  # nan is not 0 either
    if not leaking:
        return
    upside_down = bool((got.masked_fill(~allowed, 0) == 0).all())
    reason = (
        "the mask is upside down, True means keep"
        if upside_down
        else "True means keep, and all other weights are exactly 0"
    )
    index = leaking[0]
    weight = got[tuple(index)].item()
    fail(
        f"position {place(index)} is masked but has weight {weight:.2g}: {reason}",
        id="mask.polarity" if upside_down else "mask.leak",
        expected=0.0,
        got=weight,
    )


def assert_rows_sum_to_one(weights, masked):
    """Every row of weights (*, seq_q, seq_k) sums to 1, with a message for either mistake."""
    rows, columns = weights.sum(-1), weights.sum(-2)
    wrong = ((rows - 1).abs() <= 1e-6).logical_not().nonzero().tolist()
    if not wrong:
        return
    index = wrong[0]
    total = rows[tuple(index)].item()
    found = f"row {place(index)} sums to {total:.2g}"
    if bool(((columns - 1).abs() < 1e-6).all()):
        fail(
            f"{found}, and each column to 1: you normalised over the queries (dim=-2); each "
            "query's weights must sum to 1 over the keys (dim=-1)",
            id="dim.queries",
        )
    if masked and bool((rows < 1 + 1e-6).all()):
        fail(
            f"with a mask, {found}: masking after the softmax leaves the removed weight in the "
            "denominator; take masked keys out before it",
            id="mask.after_softmax",
        )
    fail(f"{found}; the weights of each query must sum to 1 over the keys", id="rows.sum")


def assert_empty_row(row, number):
    """The weights of a query without keys, (seq_k,), are all 0."""
    if bool((row == 0).all()):
        return
    if bool(row.isnan().any()):
        fail(
            f"row {number} has no key to attend to: return zeros, not nan, which is what a "
            "softmax over nothing but -inf gives",
            id="mask.empty_nan",
        )
    fail(
        f"row {number} has no key to attend to, and its weights sum to {row.sum().item():.2g}: "
        "return zeros",
        id="mask.empty_weight",
    )


def scale_of(weights, scores):
    """The factor between raw scores and the exponents of a softmax, over rows or columns.

    Taking the mean of each row and column away removes what the softmax divided by.
    """

    def centred(table):
        return table - table.mean(-1, keepdim=True) - table.mean(-2, keepdim=True) + table.mean()

    exponents, scores = centred(weights.log()), centred(scores)
    return ((exponents * scores).sum() / scores.square().sum()).item()


def entropy(weights):
    """Mean entropy of the rows, in nats."""
    return -torch.xlogy(weights, weights).sum(-1).mean().item()


@pytest.mark.task("attention_weights")
class TestAttentionWeights:
    @pytest.mark.points(1, "shape")
    @pytest.mark.hint("Rows are queries, columns are keys: q @ k.mT, not k @ q.mT.")
    def test_shape(self, submission):
        """One row per query, one column per key."""
        weights = submission.attention_weights(randn(5, 7), randn(11, 7))
        assert_shape(weights, seq_q=5, seq_k=11)
        weights = submission.attention_weights(randn(2, 3, 5, 7), randn(2, 3, 11, 7))
        assert_shape(weights, batch=2, heads=3, seq_q=5, seq_k=11)

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_shape")
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
    def test_value(self, submission, device, dtype):
        """The weights agree with a plain loop."""

        def tensors(*shape):
            return randn(*shape, dtype=dtype, device=device)

        def check(case):
            got = called(submission.attention_weights, case)
            expected = weights_by_row(**case).to(device, dtype)
            mistakes = wrong_weights(case["q"], case["k"], case.get("mask"))
            axes = HEADS[-got.dim() :] if isinstance(got, torch.Tensor) else None
            assert_close(got, expected, what="the table of weights", axes=axes, explain=mistakes)

        strided = tensors(2, 5, 3, 7).transpose(1, 2)
        masks = (random_mask(*shape) for shape in [(5, 11), (2, 1, 1, 11), (3, 5, 11), (11,)])
        cases = [
            {"q": tensors(2, 2), "k": tensors(3, 2)},
            {"q": tensors(2, 2), "k": tensors(3, 2)},
            {"q": tensors(2, 2), "k": tensors(3, 2), "mask": random_mask(2, 3).to(device)},
            {"q": tensors(2, 3, 5, 7), "k": tensors(2, 3, 11, 7)},
            *({"q": strided, "k": tensors(2, 3, 11, 7), "mask": m.to(device)} for m in masks),
        ]
        smallest(check, cases)

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_shape")
    def test_rows_sum_to_one(self, submission):
        """The weights of a query sum to 1."""
        q, k = randn(2, 3, 5, 7), randn(2, 3, 11, 7)
        assert_rows_sum_to_one(submission.attention_weights(q, k), masked=False)
        mask = random_mask(2, 3, 5, 11)
        assert_rows_sum_to_one(submission.attention_weights(q, k, mask), masked=True)

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_shape")
    def test_masked_exactly_zero(self, submission):
        """A masked key has weight exactly 0."""
        q, k, mask = randn(2, 3, 5, 7), randn(2, 3, 11, 7), random_mask(2, 3, 5, 11)
        got = submission.attention_weights(q.clone(), k.clone(), mask.clone())
        show_weights(got, weights_by_row(q, k, mask), mask, "Weights under a mask")
        assert_no_weight_where(got, mask)

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_shape")
    def test_scale(self, submission):
        """The scores are divided by sqrt(dim)."""
        seq_q, seq_k = 5, 11
        factors, entropies = {}, {"yours": [], "with 1/√dim": [], "without": []}
        for dim in (7, 64, 257):
            q, k = randn(seq_q, dim), randn(seq_k, dim)
            got = submission.attention_weights(q.clone(), k.clone()).detach()
            factors[dim] = scale_of(got, q @ k.mT)
            entropies["yours"].append(entropy(got))
            entropies["with 1/√dim"].append(entropy(weights_by_row(q, k)))
            entropies["without"].append(entropy(weights_by_row(q, k, scale=1.0)))
        picture(
            "bars",
            "How undecided a query is",
            f"Mean entropy of a row of weights over {seq_k} keys, in nats; ln {seq_k} is "
            f"{math.log(seq_k):.2f}. Without the scale a query of width 257 looks at little more "
            f"than one key ({entropies['without'][-1]:.2f}), with it the width does not matter "
            f"({entropies['with 1/√dim'][-1]:.2f}).",
            labels=[f"dim {dim}" for dim in factors],
            series=[{"label": label, "values": values} for label, values in entropies.items()],
            log=False,
            unit="nats",
            limit=None,
        )
        for dim, factor in factors.items():
            if math.isclose(factor, dim**-0.5, rel_tol=1e-6):
                continue
            known = {
                1.0: "they are not divided by anything",
                1 / dim: "they are divided by dim itself",
                seq_k**-0.5: f"they are divided by sqrt({seq_k}), the number of keys",
                seq_q**-0.5: f"they are divided by sqrt({seq_q}), the number of queries",
                dim**0.5: "they are multiplied by sqrt(dim)",
            }
            why = next((t for f, t in known.items() if math.isclose(f, factor, rel_tol=1e-6)), "")
            fail(
                f"with dim = {dim} the scores q·k are multiplied by {factor:.3g}; expected "
                f"{dim**-0.5:.3g} = 1 / sqrt({dim})" + (f": {why}" if why else ""),
                id="scale",
                expected=dim**-0.5,
                got=factor,
            )

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_shape")
    @pytest.mark.hint("What is a softmax over nothing but -inf? And over equal finite numbers?")
    def test_empty_rows(self, submission):
        """A query without keys has weights 0."""
        q, k, mask = randn(2, 5, 7), randn(2, 11, 7), random_mask(5, 11)
        mask[2] = False
        got = submission.attention_weights(q.clone(), k.clone(), mask.clone())
        assert_empty_row(got[1, 2], 2)
        got = submission.attention_weights(q.clone(), k.clone(), torch.zeros(11, dtype=torch.bool))
        assert_empty_row(got[0, 0], 0)

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_value")
    @pytest.mark.hint("exp(1e4) is inf, and float16 ends at 65504: -1e9 is no float16 number.")
    @pytest.mark.parametrize("case", ["scores of 1e4", "float16"])
    def test_extremes(self, submission, case):
        """Scores of ±1e4 and float16 give weights."""
        if case == "float16":
            q, k = randn(5, 1, dtype=torch.float16), randn(11, 1, dtype=torch.float16)
            masks = [None, random_mask(5, 11)]
        else:
            # Each score is one product. The largest of the first row are masked below, and
            # of the second row all but the least.
            q = torch.tensor([[100.0], [-100.0], [1.0], [0.01]])
            k = torch.tensor([[100.0], [-100.0], [90.0], [30.0], [50.0]])
            rows = [[0, 0, 1, 1, 1], [1, 0, 0, 0, 0], [0, 1, 1, 1, 0], [1, 1, 0, 1, 1]]
            masks = [None, torch.tensor(rows, dtype=torch.bool)]
        for mask in masks:
            got = called(submission.attention_weights, {"q": q, "k": k, "mask": mask})
            assert_finite(a_weight=got)
            expected = weights_by_row(q, k, mask).to(q.dtype)
            assert_close(got, expected, what="the table of weights", axes=HEADS[2:])

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_shape")
    def test_causal_dependence(self, submission):
        """Under a causal mask nothing leaks."""
        x, (wq, wk, wv) = randn(7, 3), randn(3, 3, 5)
        mask = past(7, 7)

        def attend(x):
            return submission.attention_weights(x @ wq, x @ wk, mask.clone()) @ (x @ wv)

        for i, j in ((0, 1), (2, 4), (5, 6)):
            leak = f"output {i} depends on token {j}, the future leaks through the normaliser"
            assert_independent(attend, x, i, j, leak)

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_shape")
    def test_gradients(self, submission):
        """The gradients are exact and finite."""
        fn = submission.attention_weights
        q, k = randn(1, 2, 3, 4, grad=True), randn(1, 2, 5, 4, grad=True)
        mask = random_mask(3, 5)
        assert_gradients(fn, q, k, fast=True)
        assert_gradients(lambda q, k: fn(q, k, mask.clone()), q, k, fast=True)
        mask[1] = False
        weights = fn(q, k, mask.clone())
        weights.backward(randn(*weights.shape))
        for name, gradient in (("q", q.grad), ("k", k.grad)):
            if not bool(gradient.isfinite().all()):
                fail(
                    f"with a row that has no key to attend to, the gradient of {name} is "
                    f"{gradient[~gradient.isfinite()][0].item()}: the weights were nan on the way",
                    id="mask.empty_gradient",
                )

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_shape")
    def test_house_rules(self, submission):
        """No argument changes; no stray device."""
        q, k, mask = randn(2, 3, 5, 7), randn(2, 3, 11, 7), random_mask(5, 11)
        assert_unchanged(submission.attention_weights, q, k, mask)
        assert_runs_on_meta(submission.attention_weights, q, k, mask)


@pytest.mark.task("sdpa")
class TestSdpa:
    @pytest.mark.points(1, "shape")
    def test_shape(self, submission):
        """One output per query, as wide as v."""
        output = submission.sdpa(randn(5, 7), randn(11, 7), randn(11, 13))
        assert_shape(output, seq_q=5, dim_v=13)
        q, k, v = randn(2, 3, 5, 7), randn(2, 3, 11, 7), randn(2, 3, 11, 13)
        output = assert_unchanged(submission.sdpa, q, k, v, random_mask(5, 11), True)
        assert_shape(output, batch=2, heads=3, seq_q=5, dim_v=13)
        assert_runs_on_meta(submission.sdpa, q, k, v, random_mask(5, 11), True)

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_shape")
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
    def test_matches_torch(self, submission, device, dtype):
        """Square inputs give PyTorch's result."""

        def qkv(*shape):
            names = ("q", "k", "v")
            return {name: randn(*shape, dtype=dtype, device=device) for name in names}

        def check(case):
            got = called(submission.sdpa, case)
            q, k, v, mask = case["q"], case["k"], case["v"], case.get("mask")
            causal = case.get("causal", False)
            expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
            seq = q.shape[-2]
            weights = wrong_weights(q, k, past(seq, seq).to(device) if causal else mask)
            if causal:
                weights |= {
                    "the diagonal is one too far to the right: a query sees a key of its future": (
                        weights_by_row(q, k, past(seq, seq, 1)).to(q)
                    ),
                    "the diagonal is one too far to the left: a query must see its own key too": (
                        weights_by_row(q, k, past(seq, seq, -1)).to(q)
                    ),
                }
            assert_close(
                got,
                expected,
                axes=("batch", "heads", "seq_q", "dim_v")[-got.dim() :],
                explain={sentence: wrong @ v for sentence, wrong in weights.items()},
            )

        cases = [
            qkv(3, 2),
            qkv(3, 2) | {"causal": True},
            qkv(2, 3, 5, 7),
            qkv(2, 3, 5, 7) | {"mask": random_mask(2, 1, 5, 5).to(device)},
            qkv(2, 3, 5, 7) | {"causal": True},
        ]
        smallest(check, cases)

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_shape")
    @pytest.mark.hint("With 2 queries and 5 keys, query 0 is the last but one: it sees 4 keys.")
    def test_bottom_right(self, submission):
        """The last query sees all keys."""

        def check(case):
            q, k = case["q"], case["k"]
            seq_q, seq_k = q.size(-2), k.size(-2)
            got = called(submission.sdpa, case)  # the values are unit vectors: these are weights
            allowed = past(seq_q, seq_k)
            expected = weights_by_row(q, k, allowed)
            if seq_k == 11 or not torch.allclose(got, expected):
                show_weights(got, expected, allowed, "Causal weights")
            for i in range(seq_q - seq_k):
                assert_empty_row(got[i], i)
            offset = seq_k - seq_q
            known = {
                "the mask is aligned at the top left, so the last query doesn't see all keys; it "
                "must be aligned at the bottom right": past(seq_q, seq_k, 0),
                "the diagonal is one too far to the left: a query must see its own key too": (
                    past(seq_q, seq_k, offset - 1)
                ),
                "the diagonal is one too far to the right: a query sees a key of its future": (
                    past(seq_q, seq_k, offset + 1)
                ),
                "the offset has the wrong sign; it is seq_k - seq_q": past(seq_q, seq_k, -offset),
            }
            explain = {text: weights_by_row(q, k, mask) for text, mask in known.items()}
            what = "the output for unit vectors as values"
            assert_close(got, expected, what=what, axes=HEADS[2:], explain=explain)

        smallest(
            check,
            [
                {"q": randn(a, 2), "k": randn(b, 2), "v": torch.eye(b).double(), "causal": True}
                for a, b in ((2, 5), (5, 3), (7, 11))
            ],
        )

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_bottom_right")
    def test_mask_and_causal(self, submission):
        """Mask and causal must both allow a key."""

        def check(case):
            q, k, v, mask = case["q"], case["k"], case["v"], case["mask"]
            got = called(submission.sdpa, case)
            causal = past(q.shape[-2], k.shape[-2])
            expected = attention_by_row(q, k, v, mask & causal)
            explain = {
                "the causal mask replaces the one given": attention_by_row(q, k, v, causal),
                "the mask given replaces the causal one": attention_by_row(q, k, v, mask),
                "a key counts if either mask allows it; both must": (
                    attention_by_row(q, k, v, mask | causal)
                ),
            }
            assert_close(got, expected, explain=explain)

        def qkv(seq_q, seq_k, *lead):
            return {"q": randn(*lead, seq_q, 2), "k": randn(*lead, seq_k, 2)} | {
                "v": randn(*lead, seq_k, 3)
            }

        cases = [
            qkv(3, 3) | {"mask": random_mask(3, 3), "causal": True},
            qkv(5, 7) | {"mask": random_mask(7), "causal": True},
            qkv(5, 7, 2, 3) | {"mask": random_mask(2, 1, 5, 7), "causal": True},
        ]
        smallest(check, cases)

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_matches_torch")
    def test_gradients(self, submission):
        """The gradients of q, k and v are exact."""
        fn = submission.sdpa
        q, k, v = (randn(1, 2, n, d, grad=True) for n, d in ((3, 2), (5, 2), (5, 3)))
        assert_gradients(lambda q, k, v: fn(q, k, v, causal=True), q, k, v, fast=True)
        q, k, v = (randn(2, 3, 5, 7, dtype=torch.float32, grad=True) for _ in range(3))
        assert_gradients_close(fn, F.scaled_dot_product_attention, q, k, v, names=("q", "k", "v"))
        q, k, v = (randn(1, 1, n, 2, grad=True) for n in (5, 3, 3))
        output = fn(q, k, v, causal=True)
        output.backward(randn(*output.shape))
        assert_finite(gradient_of_q=q.grad, gradient_of_k=k.grad, gradient_of_v=v.grad)

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_shape")
    def test_sees_no_future(self, submission):
        """With causal, nothing sees its future."""
        x, (wq, wk, wv) = randn(7, 3), randn(3, 3, 5)

        def attend(x):
            return submission.sdpa(x @ wq, x @ wk, x @ wv, causal=True)

        for i, j in ((0, 1), (2, 4), (5, 6)):
            assert_independent(attend, x, i, j, f"output {i} depends on token {j}, its future")

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_shape")
    def test_dropout_rests(self, submission):
        """Dropout rests outside of training."""
        q, k, v = (randn(2, 3, 5, 7) for _ in range(3))
        plain = submission.sdpa(q, k, v)
        for p, training in ((0.5, False), (0.0, True)):
            got = submission.sdpa(q, k, v, p=p, training=training)
            expect(
                bool(torch.equal(got, plain)),
                f"p={p}, training={training} changes the output; dropout acts only in training, "
                "and only at a rate above 0",
                id="dropout.active",
            )

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_shape")
    @pytest.mark.hint("What is dropped is a weight: after the softmax, before the values.")
    def test_dropout(self, submission):
        """Dropout drops weights at rate p."""
        seq, p = 31, 0.25
        q, k = randn(2, 3, seq, 5), randn(2, 3, seq, 5)
        # Values that are unit vectors make the output the weights; a last column of ones makes it
        # their sum, which tells dropout on the weights from dropout on the output.
        v = torch.cat([torch.eye(seq), torch.ones(seq, 1)], dim=1).double().expand(2, 3, -1, -1)
        got = submission.sdpa(q.clone(), k.clone(), v.clone(), p=p, training=True).detach()
        again = submission.sdpa(q.clone(), k.clone(), v.clone(), p=p, training=True).detach()
        weights, total = got[..., :seq], got[..., seq]
        expected = weights_by_row(q, k)
        if torch.equal(got, submission.sdpa(q.clone(), k.clone(), v.clone()).detach()):
            fail(f"with p={p} and training=True nothing is dropped", id="dropout.missing")
        dropped = weights == 0
        kept = torch.where(dropped, 0.0, expected)
        if bool(torch.isclose(weights, kept, rtol=1e-6).all()):
            fail("the kept weights are not divided by 1 - p", id="dropout.unscaled")
        if not bool(torch.isclose(weights, kept / (1 - p), rtol=1e-6).all()):
            fail(
                "the weights after dropout are neither 0 nor the weight divided by 1 - p: drop "
                "weights, after the softmax; dropping scores only sets them to 0",
                id="dropout.not_on_weights",
            )
        if not bool(torch.isclose(total, weights.sum(-1), rtol=1e-6).all()):
            fail(
                "the channels of one output disagree on which keys were dropped: dropout acts on "
                "the weights, before they meet the values",
                id="dropout.on_output",
            )
        expect(
            not torch.equal(dropped[0, 0], dropped[1, 1]) and not torch.equal(got, again),
            "the same weights are dropped in every example, or in every call; each weight of each "
            "head and example is dropped on its own",
            id="dropout.repeated",
        )
        rate, spread = dropped.double().mean().item(), (p * (1 - p) / dropped.numel()) ** 0.5
        expect(
            abs(rate - p) < 6 * spread,
            f"of {dropped.numel()} weights {rate:.0%} are dropped; expected about {p:.0%}",
            id="dropout.rate",
        )

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_shape")
    def test_own_work(self, submission):
        """It works without PyTorch's attention."""
        q, k, v = randn(2, 3, 5, 7), randn(2, 3, 11, 7), randn(2, 3, 11, 13)
        with forbid(
            "scaled_dot_product_attention",
            "multi_head_attention_forward",
            why="task 2 asks for your own attention",
        ):
            for options in ({}, {"mask": random_mask(5, 11)}, {"causal": True}):
                submission.sdpa(q, k, v, **options)


def layer_of(submission, dim, heads, dtype=torch.float64, device="cpu", **options):
    """A layer of the submission in eval mode, its parameters large enough for clear weights."""
    layer = submission.MultiHeadAttention(dim, heads, **options).to(device, dtype).eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(randn(*parameter.shape, dtype=dtype) * (2 / dim) ** 0.5)
    return layer


def projections(layer):
    """Copies of weight and bias of q_proj, k_proj, v_proj, out_proj, in float64 on the CPU."""
    copies = []
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        linear = getattr(layer, name)
        weight = linear.weight.detach().cpu().double().clone()
        bias = torch.zeros(len(weight)) if linear.bias is None else linear.bias.detach().cpu()
        copies.append((weight, bias.double().clone()))
    return copies


def heads_one_by_one(layer, x, heads, kv_heads=None, context=None, mask=None):
    """Multi-head attention in float64, one example and one head after the other.

    Args:
        layer: its projections are read, never its forward.
        x, context: (batch, seq, dim)
        mask: bool, broadcastable to (batch, heads, seq, seq_k).
    """
    x = x.detach().cpu().double()
    context = x if context is None else context.detach().cpu().double()
    (wq, bq), (wk, bk), (wv, bv), (wo, bo) = projections(layer)
    width, group = x.shape[-1] // heads, heads // (kv_heads or heads)
    shape = (len(x), heads, x.shape[1], context.shape[1])
    mask = torch.ones(shape, dtype=torch.bool) if mask is None else mask.cpu().expand(shape)
    output = torch.zeros_like(x) + bo
    for b, h in itertools.product(range(len(x)), range(heads)):
        mine = slice(h * width, (h + 1) * width)
        shared = slice(h // group * width, (h // group + 1) * width)
        q = x[b] @ wq[mine].T + bq[mine]
        k = context[b] @ wk[shared].T + bk[shared]
        v = context[b] @ wv[shared].T + bv[shared]
        output[b] += attention_by_row(q, k, v, mask[b, h]) @ wo[:, mine].T
    return output


def wrong_heads(layer, x, heads, kv_heads=None, context=None, mask=None):
    """What known mistakes give: sentence -> output (batch, seq, dim) in float64."""
    x = x.detach().cpu().double()
    given = context
    context = x if context is None else context.detach().cpu().double()
    kv_heads = kv_heads or heads
    (wq, bq), (wk, bk), (wv, bv), (wo, bo) = projections(layer)
    batch, seq, dim = x.shape
    seq_k, width = context.shape[1], dim // heads
    mask = torch.ones(seq, seq_k, dtype=torch.bool) if mask is None else mask.cpu()

    def neighbours(t, n):
        return t.unflatten(-1, (n, -1)).transpose(1, 2)

    def interleaved(t, n):
        return t.unflatten(-1, (-1, n)).permute(0, 3, 1, 2)

    def viewed(t, n):
        return t.reshape(batch, n, -1, width)

    def merged(t):
        return t.transpose(1, 2).flatten(2)

    def run(split=neighbours, merge=merged, scale=width**-0.5, tiled=False):
        q, k, v = x @ wq.T + bq, context @ wk.T + bk, context @ wv.T + bv
        q, k, v = split(q, heads), split(k, kv_heads), split(v, kv_heads)
        spread = (
            (lambda t: t.repeat(1, heads // kv_heads, 1, 1))
            if tiled
            else (lambda t: t.repeat_interleave(heads // kv_heads, dim=1))
        )
        k, v = spread(k), spread(v)
        keep = mask.expand(batch, heads, seq, k.shape[-2])
        return merge(softmax_where(q @ k.mT * scale, keep) @ v)

    known = {
        "the heads were split by a view to (batch, heads, seq, width), which mixes tokens: split "
        "the last axis first, then move the heads forward": run(split=viewed),
        "the heads were merged by a view of (batch, heads, seq, width), which mixes tokens: move "
        "the heads back before merging": run(merge=lambda t: t.reshape(batch, seq, dim)),
        "head h has every heads-th channel; it must have dim / heads neighbouring ones": run(
            split=interleaved, merge=lambda t: t.permute(0, 2, 3, 1).flatten(2)
        ),
        "the heads were merged channel by channel; the channels of a head must stay neighbours": (
            run(merge=lambda t: t.permute(0, 2, 3, 1).flatten(2))
        ),
        "the scores are divided by sqrt(dim); the width of a head is dim / heads": run(
            scale=dim**-0.5
        ),
        "the scores are not divided by the root of the head's width": run(scale=1.0),
    }
    known = {sentence: heads_output @ wo.T + bo for sentence, heads_output in known.items()}
    known["out_proj is not applied"] = run()
    if kv_heads < heads:
        known[
            "query head h uses key and value head h % kv_heads (repeat); it must use "
            "h // (heads / kv_heads), as repeat_interleave gives"
        ] = run(tiled=True) @ wo.T + bo
    if given is not None:
        known["the context is not used: the keys and values come from x"] = heads_one_by_one(
            layer, x, heads, kv_heads
        )
        known["the queries come from the context; they come from x"] = heads_one_by_one(
            layer, context, heads, kv_heads, context
        )
        known[
            "queries and keys have changed places: queries come from x, keys and values from "
            "the context"
        ] = heads_one_by_one(layer, context, heads, kv_heads, x)
    return known


def permuted_heads(layer, order):
    """Put the heads of all four projections of a layer (kv_heads = heads) into another order."""
    with torch.no_grad():
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear = getattr(layer, name)
            axis = 1 if name == "out_proj" else 0
            blocks = linear.weight.detach().clone().chunk(len(order), axis)
            linear.weight.copy_(torch.cat([blocks[h] for h in order], axis))
            if linear.bias is not None and axis == 0:
                blocks = linear.bias.detach().clone().chunk(len(order))
                linear.bias.copy_(torch.cat([blocks[h] for h in order]))


class Reader(nn.Module):
    """Reads five coloured animals and says the colour of the one that is asked for.

    The sum over the words is the same for every pairing of colours and animals, so that only
    looking at the right one tells.
    """

    def __init__(self, submission, dim, heads):
        super().__init__()
        self.colours = nn.Embedding(len(COLOURS) + 1, dim)  # the last one: not said
        self.animals = nn.Embedding(len(ANIMALS), dim)
        self.attention = submission.MultiHeadAttention(dim, heads)
        self.answer = nn.Linear(dim, len(COLOURS))

    def tokens(self, colours, animals):
        """(batch, 6) ids of colours and of animals -> (batch, 6, dim)."""
        return self.colours(colours) + self.animals(animals)

    def forward(self, colours, animals):
        """(batch, 6) ids of colours and of animals -> (batch, colours) logits."""
        return self.answer(self.attention(self.tokens(colours, animals))[:, -1])


def questions(n, generator):
    """Colours (n, 6), animals (n, 6), of which the last is asked for, and its colour (n,)."""
    colours, animals = (
        torch.rand(n, len(words), generator=generator).argsort(1)[:, :5]
        for words in (COLOURS, ANIMALS)
    )
    asked = torch.randint(5, (n, 1), generator=generator)
    unsaid = torch.full((n, 1), len(COLOURS))
    return (
        torch.cat([colours, unsaid], 1),
        torch.cat([animals, animals.gather(1, asked)], 1),
        colours.gather(1, asked)[:, 0],
    )


def training(submission, dim, heads, seed):
    """A model, and a function that trains it by one step and returns the loss."""
    generator = torch.Generator().manual_seed(seed)
    model = Reader(submission, dim, heads)
    parameters = list(model.parameters())
    squares = [torch.zeros_like(parameter) for parameter in parameters]

    def step():
        colours, animals, answers = questions(64, generator)
        loss = F.cross_entropy(model(colours, animals), answers)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        # RMSprop by hand: the first step of torch.optim takes longer than the whole training.
        with torch.no_grad():
            for parameter, square, gradient in zip(parameters, squares, gradients, strict=True):
                if gradient is not None:
                    square.mul_(0.9).addcmul_(gradient, gradient, value=0.1)
                    parameter -= 0.02 * gradient / (square.sqrt() + 1e-8)
        return loss.item()

    return model, step


def show_trained(model, heads):
    """Attach a map of the weights of each head for one question, computed from the projections."""
    said, asked = [f"{c} {a}" for c, a in zip(COLOURS[:5], ANIMALS[:5], strict=True)], 2
    words = [*said, f"{ANIMALS[asked]}?"]
    colours, animals = torch.tensor([[0, 1, 2, 3, 4, len(COLOURS)], [0, 1, 2, 3, 4, asked]])
    x = model.tokens(colours, animals).detach().double()
    (wq, bq), (wk, bk), *_ = projections(model.attention)
    q, k = (
        (x @ w.T + b).unflatten(-1, (heads, -1)).transpose(0, 1) for w, b in ((wq, bq), (wk, bk))
    )
    weights = weights_by_row(q, k)
    head = weights[:, -1, asked].argmax().item()
    numbered = ", ".join(f"{i} {word}" for i, word in enumerate(words))
    picture(
        "heatmap",
        f'What your trained layer looks at: "{", ".join(words)}"',
        f"Rows are queries, columns are keys: {numbered}. Asked for the {ANIMALS[asked]}, head "
        f'{head} puts {weights[head, -1, asked]:.2f} on "{words[asked]}".',
        maps=[
            {"label": f"head {h}", "values": w.tolist(), "marked": [], "scale": "sequential"}
            for h, w in enumerate(weights)
        ],
        row_axis="query",
        column_axis="key",
        origin=[0, 0],
    )


@pytest.mark.task("MultiHeadAttention")
class TestMultiHeadAttention:
    @pytest.mark.points(2, "structure")
    def test_projections(self, submission):
        """Four projections of the right sizes."""
        for dim, heads, kv_heads, bias in (
            (6, 3, None, False),
            (12, 6, 2, True),
            (12, 4, 1, False),
        ):
            options = {} if kv_heads is None else {"kv_heads": kv_heads}
            layer = submission.MultiHeadAttention(dim, heads, bias=bias, **options)
            said = f"MultiHeadAttention({dim}, {heads}, kv_heads={kv_heads}, bias={bias})"
            kv_dim = dim // heads * (kv_heads or heads)
            shapes = {"q_proj": dim, "k_proj": kv_dim, "v_proj": kv_dim, "out_proj": dim}
            for name, rows in shapes.items():
                linear = getattr(layer, name, None)
                expect(
                    isinstance(linear, nn.Linear),
                    f"{said}: {name} is {type(linear).__name__}; expected nn.Linear",
                    id="projection.kind",
                )
                expect(
                    tuple(linear.weight.shape) == (rows, dim),
                    f"{said}: the weight of {name} is {tuple(linear.weight.shape)}; expected "
                    f"({rows}, {dim}): {rows // (dim // heads)} heads of {dim // heads} channels",
                    id="projection.shape",
                    expected=[rows, dim],
                    got=list(linear.weight.shape),
                )
                expect(
                    (linear.bias is not None) == bias,
                    f"{said}: {name} has {'no' if linear.bias is None else 'a'} bias",
                    id="projection.bias",
                )
            expected = 2 * dim * dim + 2 * dim * kv_dim + bias * (2 * dim + 2 * kv_dim)
            got = sum(parameter.numel() for parameter in layer.parameters())
            expect(
                got == expected,
                f"{said} has {got} parameters; the four projections have {expected}",
                id="projection.count",
                expected=expected,
                got=got,
            )

    @pytest.mark.points(1, "shape")
    @pytest.mark.after("test_projections")
    def test_shape(self, submission):
        """One output per query, as wide as x."""
        layer = layer_of(submission, 6, 3)
        assert_shape(layer(randn(2, 5, 6)), batch=2, seq=5, dim=6)
        output = layer(randn(2, 5, 6), randn(2, 7, 6))
        expect(
            tuple(output.shape) != (2, 7, 6),
            "there is an output for each token of the context; the queries come from x, and only "
            "keys and values from the context",
            id="cross.queries",
        )
        assert_shape(output, batch=2, seq=5, dim=6)

    @pytest.mark.points(3, "value")
    @pytest.mark.after("test_shape")
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
    def test_value(self, submission, device, dtype):
        """It agrees with a loop over the heads."""

        def check(case):
            dim, heads, batch, seq, bias = case.values()
            layer = layer_of(submission, dim, heads, dtype, device, bias=bias)
            for _ in range(2):
                x = randn(batch, seq, dim, dtype=dtype, device=device)
                with forbid(
                    "multi_head_attention_forward",
                    "_native_multi_head_attention",
                    why="task 3 asks for your own layer",
                ):
                    got = layer(x.clone())
                expected = heads_one_by_one(layer, x, heads).to(device, dtype)
                known = wrong_heads(layer, x, heads)
                explain = {text: wrong.to(device, dtype) for text, wrong in known.items()}
                assert_close(got, expected, axes=("batch", "seq", "dim"), explain=explain)

        names = ("dim", "heads", "batch", "seq", "bias")
        sizes = ((2, 1, 3, 2, False), (4, 2, 2, 3, False), (4, 2, 3, 5, True), (15, 3, 2, 7, True))
        smallest(check, [dict(zip(names, values, strict=True)) for values in sizes])

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_shape")
    @pytest.mark.parametrize("bias", [False, True])
    def test_matches_torch(self, submission, bias):
        """It agrees with nn.MultiheadAttention."""
        dim, heads = 15, 5
        layer, x = layer_of(submission, dim, heads, bias=bias), randn(2, 7, dim)
        got = layer(x.clone())
        model = nn.MultiheadAttention(dim, heads, bias=bias, batch_first=True).double().eval()
        *inner, (wo, bo) = projections(layer)
        with torch.no_grad():
            model.in_proj_weight.copy_(torch.cat([weight for weight, _ in inner]))
            model.out_proj.weight.copy_(wo)
            if bias:
                model.in_proj_bias.copy_(torch.cat([b for _, b in inner]))
                model.out_proj.bias.copy_(bo)
            expected, _ = model(x, x, x)
        assert_close(got, expected, axes=("batch", "seq", "dim"))

    @pytest.mark.points(3, "value")
    @pytest.mark.after("test_value")
    def test_cross(self, submission):
        """Keys and values come from the context."""

        def check(case):
            dim, heads, seq, seq_k = case.values()
            layer = layer_of(submission, dim, heads)
            x, context = randn(2, seq, dim), randn(2, seq_k, dim)
            got = layer(x.clone(), context.clone())
            expected = heads_one_by_one(layer, x, heads, context=context)
            explain = wrong_heads(layer, x, heads, context=context)
            assert_close(got, expected, axes=("batch", "seq", "dim"), explain=explain)

        names = ("dim", "heads", "seq", "seq_k")
        sizes = ((4, 2, 3, 3), (6, 3, 2, 5), (6, 2, 7, 5))
        smallest(check, [dict(zip(names, values, strict=True)) for values in sizes])

    @pytest.mark.points(3, "value")
    @pytest.mark.after("test_value")
    def test_grouped(self, submission):
        """Neighbouring heads share a kv head."""

        def check(case):
            dim, heads, kv_heads, seq = case.values()
            layer = layer_of(submission, dim, heads, kv_heads=kv_heads, bias=True)
            x, context = randn(2, seq, dim), randn(2, 5, dim)
            got, cross = layer(x.clone(), causal=True), layer(x.clone(), context.clone())
            mask = past(seq, seq)
            expected = heads_one_by_one(layer, x, heads, kv_heads, mask=mask)
            explain = wrong_heads(layer, x, heads, kv_heads, mask=mask)
            assert_close(got, expected, axes=("batch", "seq", "dim"), explain=explain)
            expected = heads_one_by_one(layer, x, heads, kv_heads, context)
            assert_close(cross, expected, what="the output for a context")

        names = ("dim", "heads", "kv_heads", "seq")
        sizes = ((4, 2, 1, 3), (4, 4, 2, 3), (12, 6, 3, 7), (12, 6, 2, 7))
        smallest(check, [dict(zip(names, values, strict=True)) for values in sizes])

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_shape")
    @pytest.mark.hint("Which channels of q_proj's output are head 0: the first dim / heads?")
    def test_head_order(self, submission):
        """The order of the heads is free."""
        dim, heads = 15, 5
        layer, x = layer_of(submission, dim, heads, bias=True), randn(2, 7, dim)
        before = layer(x.clone())
        permuted_heads(layer, (3, 0, 4, 2, 1))
        after = layer(x.clone())
        worst = (after - before).abs().max().item()
        expect(
            worst < 1e-7,
            "the blocks of dim / heads neighbouring channels were put into another order in all "
            f"four projections, and the output changed by {worst:.2g}: the heads are not made of "
            "these blocks, or not merged in the order they were split",
            id="heads.order",
        )

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_value")
    def test_masks(self, submission):
        """A mask of any shape that fits works."""
        dim, heads, batch, seq, seq_k = 6, 3, 2, 5, 7

        def check(shape):
            layer, mask = layer_of(submission, dim, heads), random_mask(*shape)
            x, context = randn(batch, seq, dim), randn(batch, seq_k, dim)
            got = layer(x.clone(), context.clone(), mask.clone())
            expected = heads_one_by_one(layer, x, heads, context=context, mask=mask)
            explain = {
                "the mask is upside down: True means that the query may attend to the key": (
                    heads_one_by_one(layer, x, heads, context=context, mask=~mask)
                ),
                "the mask is not applied": heads_one_by_one(layer, x, heads, context=context),
            }
            what = f"the output with a mask of {place(shape)}"
            assert_close(got, expected, what=what, explain=explain)

        for shape in ((5, 7), (2, 1, 1, 7), (2, 1, 5, 7), (3, 5, 7), (2, 3, 5, 7)):
            check(shape)

    @pytest.mark.points(2, "gradient")
    @pytest.mark.after("test_shape")
    def test_dependence(self, submission):
        """Examples and futures stay apart."""
        layer = layer_of(submission, 6, 3)
        x = randn(3, 5, 6)
        for i, j in ((0, 1), (2, 1)):
            leak = f"example {i} of the output depends on example {j} of the input"
            assert_independent(layer, x, i, j, leak)
        for i, j in ((0, 1), (2, 3), (1, 4)):
            leak = f"output {i} depends on token {j}, its future, although causal=True"
            fn = lambda tokens: layer(tokens[None], causal=True)[0]  # noqa: E731
            assert_independent(fn, x[0].clone(), i, j, leak)

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_value")
    def test_edges(self, submission):
        """One example, one token, one head work."""

        def check(case):
            x, heads = case["x"], case["heads"]
            layer = layer_of(submission, x.shape[-1], heads)
            got = layer(x.clone(), causal=True)
            mask = past(x.shape[1], x.shape[1])
            expected = heads_one_by_one(layer, x, heads, mask=mask)
            assert_close(got, expected, axes=("batch", "seq", "dim"))

        cases = [
            {"x": randn(1, 1, 4), "heads": 2},
            {"x": randn(1, 3, 4), "heads": 1},
            {"x": randn(3, 1, 4), "heads": 4},
            {"x": randn(3, 4, 2).transpose(1, 2), "heads": 2},
            {"x": randn(5, 3, 4).transpose(0, 1), "heads": 2},
        ]
        smallest(check, cases)

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_value")
    def test_gradients(self, submission):
        """The gradients of all weights are exact."""
        layer = layer_of(submission, 4, 2, kv_heads=1, bias=True)
        names = [name for name, _ in layer.named_parameters()]
        values = [p.detach().clone().requires_grad_() for p in layer.parameters()]

        def run(x, *weights):
            weights = dict(zip(names, weights, strict=True))
            return torch.func.functional_call(layer, weights, (x,), {"causal": True})

        assert_gradients(run, randn(2, 3, 4, grad=True), *values, fast=True)

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_value")
    def test_dropout(self, submission):
        """Dropout acts in training mode only."""
        seq, p = 29, 0.25
        layer = layer_of(submission, seq, 1, p=p)
        identity = torch.eye(seq, dtype=torch.float64)
        with torch.no_grad():  # unit vectors all the way: the output is the weights
            layer.v_proj.weight.copy_(identity)
            layer.out_proj.weight.copy_(identity)
        x = identity.expand(3, seq, seq)
        rest, again = layer(x.clone()).detach(), layer(x.clone()).detach()
        expect(
            torch.equal(rest, again),
            f"in eval mode two calls with p={p} differ; dropout acts in training mode only",
            id="dropout.active",
        )
        got = layer.train()(x.clone()).detach()
        expect(
            not torch.allclose(got, rest),
            f"in training mode nothing is dropped, although p={p}",
            id="dropout.missing",
        )
        dropped = got == 0
        expected = torch.where(dropped, 0.0, rest / (1 - p))
        expect(
            torch.allclose(got, expected, rtol=1e-6, atol=1e-12),
            "in training mode the weights are neither 0 nor the weight divided by 1 - p: dropout "
            "acts on the weights, after the softmax, and nowhere else",
            id="dropout.not_on_weights",
        )
        expect(
            not bool(dropped.all(dim=-1).any()),
            "in training mode all weights of a query are dropped together; each weight is dropped "
            "on its own",
            id="dropout.rows",
        )
        spread = (p * (1 - p) / dropped.numel()) ** 0.5
        rate = dropped.double().mean().item()
        expect(
            abs(rate - p) < 6 * spread,
            f"of {dropped.numel()} weights {rate:.0%} are dropped; expected about {p:.0%}",
            id="dropout.rate",
        )

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_shape")
    def test_no_loop(self, submission):
        """More heads are not more operations."""

        def make(heads):
            return layer_of(submission, 32, heads, kv_heads=heads // 2), randn(2, 5, 32)

        assert_no_python_loop(lambda layer, x: layer(x, causal=True), make, sizes=(4, 8))

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_shape")
    def test_house_rules(self, submission):
        """No argument changes; no stray device."""
        layer = layer_of(submission, 6, 3, kv_heads=1)
        x, context, mask = randn(2, 5, 6), randn(2, 7, 6), random_mask(2, 1, 1, 7)
        assert_unchanged(layer, x, context, mask)
        assert_runs_on_meta(layer, x, context, mask)
        assert_runs_on_meta(layer, x, causal=True)

    @pytest.mark.points(1, "training")
    @pytest.mark.after("test_shape")
    def test_learns(self, submission):
        """It learns to find the word asked for."""
        dim, heads = 16, 2
        models = []

        def make(seed):
            model, step = training(submission, dim, heads, seed)
            models.append(model)
            return step

        try:
            train_until(make, 0.3, steps=100)
        finally:
            show_trained(models[-1], heads)


def combined_masks(padding, attn_mask, seq_q):
    """What may be attended to, entry by entry: (batch, seq_q, seq_k) bool."""
    batch, seq_k = padding.shape
    table = torch.ones(batch, seq_q, seq_k, dtype=torch.bool)
    for b, i, j in itertools.product(range(batch), range(seq_q), range(seq_k)):
        table[b, i, j] = not padding[b, j].item() and not (
            attn_mask is not None and attn_mask[i, j].item()
        )
    return table


@pytest.mark.task("to_sdpa_mask")
class TestToSdpaMask:
    @pytest.mark.points(2, "shape")
    def test_form(self, submission):
        """Shape, dtype and device are right."""
        fn, padding = submission.to_sdpa_mask, torch.rand(2, 7) < 0.5
        mask = fn(padding, None)
        assert_shape(mask, batch=2, heads=1, seq_q=1, seq_k=7)
        assert_dtype(mask, torch.bool, "the mask for padding alone")
        mask = fn(padding, torch.rand(5, 7) < 0.5)
        assert_shape(mask, batch=2, heads=1, seq_q=5, seq_k=7)
        assert_dtype(mask, torch.bool, "the mask for a bool attn_mask")
        for dtype in (torch.float32, torch.float64, torch.float16):
            mask = fn(padding, randn(5, 7, dtype=dtype))
            assert_shape(mask, batch=2, heads=1, seq_q=5, seq_k=7)
            assert_dtype(mask, dtype, "the mask for a float attn_mask")
        for attn_mask in (None, torch.rand(5, 7) < 0.5, randn(5, 7)):
            assert_runs_on_meta(fn, padding, attn_mask)

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_form")
    def test_padding_alone(self, submission):
        """Padding becomes True = may attend."""

        def check(case):
            got = submission.to_sdpa_mask(case["key_padding_mask"].clone(), None)
            padding = case["key_padding_mask"]
            expected = combined_masks(padding, None, 1)[:, None]
            explain = {
                "the mask says what to ignore: F.scaled_dot_product_attention wants True where "
                "the query may attend": padding[:, None, None, :]
            }
            assert_equal(got, expected, "the mask", explain=explain)

        for_two = {"key_padding_mask": torch.tensor([[False, True, True]])}
        smallest(check, [for_two, {"key_padding_mask": torch.rand(3, 7) < 0.5}])

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_form")
    def test_bool(self, submission):
        """A key must be ignored by neither mask."""

        def check(case):
            padding, attn_mask = case.values()
            got = called(submission.to_sdpa_mask, case)
            expected = combined_masks(padding, attn_mask, len(attn_mask))[:, None]
            wide = padding[:, None, None, :]
            explain = {
                "the mask is upside down: True must stand where the query may attend": ~expected,
                "padding is turned round and attn_mask is not; True means ignore in both": (
                    ~wide & attn_mask
                ),
                "attn_mask is turned round and padding is not; True means ignore in both": (
                    wide & ~attn_mask
                ),
                "a key counts if one of the masks allows it; both must": ~wide | ~attn_mask,
            }
            if padding.shape[1] == len(attn_mask):
                explain["padding masks queries; it must mask keys, the last axis"] = (
                    ~padding[:, None, :, None] & ~attn_mask
                )
            assert_equal(got, expected, "the mask", explain=explain)

        def masks(batch, seq_q, seq_k):
            padding, attn_mask = ~random_mask(batch, seq_k), ~random_mask(seq_q, seq_k)
            return {"key_padding_mask": padding, "attn_mask": attn_mask}

        smallest(check, [masks(1, 3, 3), masks(2, 3, 3), masks(2, 5, 7), masks(3, 7, 2)])

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_form")
    @pytest.mark.hint("0 * inf is nan. masked_fill(mask, -inf) multiplies nothing.")
    def test_float(self, submission):
        """A float mask gets -inf at ignored keys."""

        def check(case):
            padding, attn_mask = case.values()
            got = called(submission.to_sdpa_mask, case)
            drop = padding[:, None, None, :]
            wide = attn_mask.expand(len(padding), 1, *attn_mask.shape)
            expected = torch.where(drop, -math.inf, wide)
            explain = {
                "padding was added as 0 and 1; an ignored key must get -inf": wide + drop.to(wide),
                "True of the padding was kept and the rest dropped; True means ignore": (
                    torch.where(drop, wide, -math.inf)
                ),
            }
            if isinstance(got, torch.Tensor) and bool(got.isnan().any()):
                fail("the mask has nan in it: 0 * -inf is nan", id="mask.nan")
            same = (got == expected).logical_not().nonzero().tolist()
            if same and not any(torch.equal(got, wrong) for wrong in explain.values()):
                index = tuple(same[0])
                fail(
                    f"the mask at {place(index)} is {got[index].item():.3g}; expected "
                    f"{expected[index].item():.3g}",
                    id="mask.value",
                )
            assert_equal(got, expected, "the mask", explain=explain)

        def masks(batch, seq_q, seq_k):
            attn_mask = randn(seq_q, seq_k, dtype=torch.float32)
            attn_mask[0, 0] = -math.inf
            return {"key_padding_mask": ~random_mask(batch, seq_k), "attn_mask": attn_mask}

        smallest(check, [masks(1, 2, 3), masks(2, 3, 3), masks(2, 5, 7)])

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_form")
    def test_same_effect(self, submission):
        """Both attentions give the same output."""
        batch, heads, seq_q, seq_k, dim = 2, 3, 5, 7, 6
        model = nn.MultiheadAttention(dim, heads, bias=False, batch_first=True).double().eval()
        query, memory = randn(batch, seq_q, dim), randn(batch, seq_k, dim)
        padding = torch.zeros(batch, seq_k, dtype=torch.bool)
        padding[1, -3:] = True  # the first keys stay, so that every query keeps one
        later = ~past(seq_q, seq_k, 1)
        slopes = -randn(seq_q, seq_k).abs()
        for kind, attn_mask in (("None", None), ("bool", later), ("float", slopes)):
            mask = submission.to_sdpa_mask(
                padding.clone(), None if attn_mask is None else attn_mask.clone()
            )
            # Of one kind: PyTorch warns when padding is bool and the other mask is float.
            ignored = padding
            if kind == "float":
                ignored = torch.zeros(padding.shape).double().masked_fill(padding, -math.inf)
            with torch.no_grad():
                expected, _ = model(
                    query, memory, memory, key_padding_mask=ignored, attn_mask=attn_mask
                )
                q, k, v = (
                    (t @ w.T).unflatten(-1, (heads, -1)).transpose(1, 2)
                    for t, w in zip(
                        (query, memory, memory), model.in_proj_weight.chunk(3), strict=True
                    )
                )
                got = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
                got = model.out_proj(got.transpose(1, 2).flatten(2))
            what = f"the output of F.scaled_dot_product_attention (attn_mask: {kind})"
            assert_close(got, expected, what=what)

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_form")
    def test_unchanged(self, submission):
        """Both masks stay as they are."""
        padding = ~random_mask(2, 7)
        for attn_mask in (None, ~random_mask(5, 7), randn(5, 7)):
            assert_unchanged(submission.to_sdpa_mask, padding, attn_mask)


def cache_of(submission, batch=2, kv_heads=3, max_len=11, dim=5, dtype=torch.float64):
    """An empty cache of the submission."""
    return submission.KVCache(batch, kv_heads, max_len, dim, dtype, "cpu")


def filled(cache, *lengths, batch=2, kv_heads=3, dim=5):
    """Append random keys and values chunk by chunk; returns all of them, and the last result."""
    keys, values, result = [], [], (None, None)
    for length in lengths:
        k, v = randn(2, batch, kv_heads, length, dim)
        result = cache.append(k.clone(), v.clone())
        keys.append(k)
        values.append(v)
    return torch.cat(keys, 2), torch.cat(values, 2), result


def assert_holds(result, keys, values, when):
    """`append` returned these keys and values, each (batch, kv_heads, length, dim)."""
    expect(
        isinstance(result, tuple | list) and len(result) == 2,
        f"append returns {type(result).__name__}; expected the keys and the values",
        id="cache.result",
    )
    axes = ("batch", "kv_heads", "length", "dim")
    for name, got, expected in zip(("keys", "values"), result, (keys, values), strict=True):
        assert_close(got, expected, axes=axes, what=f"the {name} {when}")


def assert_length(cache, expected, when):
    """`length` is this int."""
    expect(
        isinstance(cache.length, int) and cache.length == expected,
        f"{when}, length is {cache.length!r}; expected {expected}",
        id="cache.length",
        expected=expected,
    )


def decoded(submission, layer, x, chunks, kv_heads, heads):
    """Run x (batch, seq, dim) through the layer and a new cache, chunk by chunk."""
    batch, seq, dim = x.shape
    cache = submission.KVCache(batch, kv_heads, seq, dim // heads, x.dtype, "cpu")
    with torch.no_grad():
        parts = [layer(part, cache=cache, causal=True) for part in x.split(chunks, dim=1)]
    return torch.cat(parts, dim=1)


def wrong_decoding(layer, x, chunks, heads, kv_heads):
    """What known mistakes give: sentence -> output (batch, seq, dim)."""
    seq = x.shape[1]
    starts = list(itertools.accumulate(chunks, initial=0))
    spans = list(itertools.pairwise(starts))
    top_left, alone, everything = (torch.zeros(seq, seq, dtype=torch.bool) for _ in range(3))
    for start, end in spans:
        top_left[start:end, :end] = past(end - start, end, 0)
        alone[start:end, start:end] = past(end - start, end - start)
        everything[start:end, :end] = True
    known = {
        "the causal mask is aligned at the top left: query 0 of a chunk sees only key 0; the new "
        "queries stand at the end of all keys": top_left,
        "each chunk sees itself only: the cached keys and values are not used": alone,
        "the queries of a chunk see each other's future": everything,
    }
    return {t: heads_one_by_one(layer, x, heads, kv_heads, mask=m) for t, m in known.items()}


def assert_decodes(submission, chunks, heads=4, kv_heads=2, dim=8):
    """A sequence cut into these chunks gives the result of the whole."""
    layer = layer_of(submission, dim, heads, kv_heads=kv_heads)
    x = randn(2, sum(chunks), dim)
    got = decoded(submission, layer, x, chunks, kv_heads, heads)
    expected = heads_one_by_one(layer, x, heads, kv_heads, mask=past(*x.shape[1:2] * 2))
    assert_close(
        got,
        expected,
        rtol=1e-5,
        what=f"the output in chunks of {place(chunks)}",
        axes=("batch", "seq", "dim"),
        explain=wrong_decoding(layer, x, chunks, heads, kv_heads),
    )


@pytest.mark.task("KVCache")
class TestKVCache:
    @pytest.mark.points(2, "value")
    def test_append(self, submission):
        """append returns all entries in order."""
        cache = cache_of(submission)
        assert_length(cache, 0, "at first")
        keys, values, result = filled(cache, 2)
        assert_holds(result, keys, values, "after one append")
        assert_length(cache, 2, "after appending 2 entries")
        k, v = randn(2, 2, 3, 4, 5)
        result = assert_unchanged(cache.append, k, v)
        keys, values = torch.cat([keys, k], 2), torch.cat([values, v], 2)
        assert_holds(result, keys, values, "after a second append")
        assert_length(cache, 6, "after appending 4 more")
        k, v = randn(2, 2, 3, 5, 5)
        keys, values = torch.cat([keys, k], 2), torch.cat([values, v], 2)
        assert_holds(cache.append(k.clone(), v.clone()), keys, values, "in a full cache")
        half = submission.KVCache(2, 3, 11, 5, torch.float16, "cpu")
        k, _ = half.append(*randn(2, 2, 3, 2, 5, dtype=torch.float16))
        assert_dtype(k, torch.float16, "the keys of a float16 cache")
        other = submission.KVCache(2, 3, 11, 5, torch.float32, "meta")
        try:
            k, _ = other.append(*torch.empty(2, 2, 3, 2, 5, device="meta"))
        except (RuntimeError, NotImplementedError):
            fail(
                "a cache for another device does not take keys that live there: allocate its "
                "memory with device=device",
                id="device.stray",
            )
        assert_device(k, "meta", "the keys of a cache on another device")

    @pytest.mark.points(2, "memory")
    @pytest.mark.after("test_append")
    @pytest.mark.hint("torch.cat makes a new tensor at each call, as large as all tokens so far.")
    def test_allocates_once(self, submission):
        """The memory is allocated once."""
        batch, kv_heads, max_len, dim = 2, 3, 11, 5
        cache = cache_of(submission, batch, kv_heads, max_len, dim)
        results = [filled(cache, length)[2] for length in (2, 1, 4)]
        for i, name in enumerate(("keys", "values")):
            first, *others = (result[i] for result in results)
            room = first.untyped_storage().nbytes()
            needed = batch * kv_heads * max_len * dim * first.element_size()
            if room < needed:
                fail(
                    f"the {name} lie in {room} bytes; {max_len} entries need {needed}: they are a "
                    "copy, or memory that has to grow with each token",
                    id="cache.copied",
                    expected=needed,
                    got=room,
                )
            for other in others:
                if other.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
                    fail(
                        f"after another append the {name} lie somewhere else: a copy. Write into "
                        "memory allocated once, and return a slice of it",
                        id="cache.moved",
                    )
                assert_view(other[:, :, :2], first)
            expect(
                room <= 2 * needed,
                f"the {name} lie in {room} bytes; {max_len} entries need {needed}",
                id="cache.too_large",
            )

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_append")
    def test_overflow(self, submission):
        """Overflow raises and changes nothing."""
        cache = cache_of(submission)
        keys, values, _ = filled(cache, 9)
        assert_raises(ValueError, cache.append, *randn(2, 2, 3, 3, 5))
        assert_length(cache, 9, "after an append that was refused")
        k, v = randn(2, 2, 3, 2, 5)
        result = cache.append(k.clone(), v.clone())
        keys, values = torch.cat([keys, k], 2), torch.cat([values, v], 2)
        assert_holds(result, keys, values, "after an append that was refused and one that fits")

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_append")
    def test_no_graph(self, submission):
        """The cache keeps no graph."""
        cache = cache_of(submission)
        source = randn(2, 2, 3, 2, 5, grad=True)
        for _ in range(2):
            for name, kept in zip(("keys", "values"), cache.append(*(2 * source)), strict=True):
                expect(
                    not kept.requires_grad and kept.grad_fn is None,
                    f"the {name} in the cache require a gradient: every token keeps the graph of "
                    "all tokens before it alive; store detached values",
                    id="cache.graph",
                )

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_append")
    @pytest.mark.hint("With idx = (1, 1, 0): when row 0 has become row 1, where is row 0?")
    def test_reorder(self, submission):
        """reorder moves rows, repeated ones too."""

        def check(case):
            idx = case["idx"]
            cache = cache_of(submission, batch=len(idx))
            keys, values, _ = filled(cache, 4, batch=len(idx))
            cache.reorder(idx.clone())
            assert_length(cache, 4, "after reorder")
            more_keys, more_values, result = filled(cache, 1, batch=len(idx))
            in_place = keys.clone()
            for row, source in enumerate(idx.tolist()):
                in_place[row] = in_place[source]
            inverse = keys.clone()
            inverse[idx] = keys
            explain = {
                "row after row was overwritten in place, and later rows found the new rows "
                "instead of the old ones": in_place,
                "row idx[b] became what row b was; row b must become what row idx[b] was": inverse,
                "nothing was reordered": keys,
            }
            explain = {text: torch.cat([wrong, more_keys], 2) for text, wrong in explain.items()}
            what = "the keys after reorder and another append"
            assert_close(
                result[0], torch.cat([keys[idx], more_keys], 2), what=what, explain=explain
            )
            expected = torch.cat([values[idx], more_values], 2)
            assert_close(result[1], expected, what="the values after reorder and another append")

        orders = ([1, 0], [1, 2, 0], [1, 1], [1, 2, 0, 2, 1])
        smallest(check, [{"idx": torch.tensor(order)} for order in orders])

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_append")
    def test_truncate(self, submission):
        """truncate keeps the first n entries."""
        cache = cache_of(submission)
        keys, values, _ = filled(cache, 4, 3)
        for n in (5, 2, 0):
            cache.truncate(n)
            assert_length(cache, n, f"after truncate({n})")
            more_keys, more_values, result = filled(cache, 3)
            keys = torch.cat([keys[:, :, :n], more_keys], 2)
            values = torch.cat([values[:, :, :n], more_values], 2)
            assert_holds(result, keys, values, f"after truncate({n}) and an append of 3")

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_append", "TestMultiHeadAttention::test_grouped")
    def test_token_by_token(self, submission):
        """Token by token gives the whole."""
        for length in (2, 7):
            assert_decodes(submission, (1,) * length)

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_append", "TestMultiHeadAttention::test_grouped")
    def test_chunks(self, submission):
        """Chunks of any size give the whole."""
        sizes = torch.randint(1, 5, (4,)).tolist()
        for chunks in ((2, 2), (5, 1, 1), (1, 3, 2, 5), tuple(sizes)):
            assert_decodes(submission, chunks)

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_chunks")
    def test_beam(self, submission):
        """A beam search goes on after reorder."""
        layer = layer_of(submission, 8, 4, kv_heads=2)
        cache = submission.KVCache(3, 2, 7, 2, torch.float64, "cpu")
        x, rejected, tail = randn(3, 4, 8), randn(3, 2, 8), randn(3, 3, 8)
        idx = torch.tensor([2, 0, 2])
        with torch.no_grad():
            layer(x, cache=cache, causal=True)
            layer(rejected, cache=cache, causal=True)
            cache.truncate(4)
            cache.reorder(idx)
            got = layer(tail, cache=cache, causal=True)
        whole = torch.cat([x[idx], tail], dim=1)
        expected = heads_one_by_one(layer, whole, 4, 2, mask=past(7, 7))[:, 4:]
        what = "the output after truncate and reorder"
        assert_close(got, expected, rtol=1e-5, what=what, axes=("batch", "seq", "dim"))

    @pytest.mark.points(1, "speed")
    @pytest.mark.after("test_chunks")
    def test_speed(self, submission, device):
        """A token takes under 0.6 of recomputing."""
        # A GPU starts twenty small operators no faster than one large one ends.
        dim, heads, seq = (64, 4, 384) if device == "cpu" else (512, 8, 8192)
        layer = layer_of(submission, dim, heads, dtype=torch.float32, device=device)
        cache = submission.KVCache(1, heads, seq, dim // heads, torch.float32, device)
        prompt = randn(1, seq - 1, dim, dtype=torch.float32, device=device)
        (wq, _), (wk, _), (wv, _), (wo, _) = (
            (weight.to(device, torch.float32), bias) for weight, bias in projections(layer)
        )
        with torch.no_grad():
            layer(prompt.clone(), cache=cache, causal=True)

        @torch.no_grad()
        def with_cache(token):
            cache.truncate(seq - 1)
            return layer(token, cache=cache, causal=True)

        @torch.no_grad()
        def without(token):
            x = torch.cat([prompt, token], dim=1)
            q, k, v = (
                F.linear(x, w).unflatten(-1, (heads, -1)).transpose(1, 2) for w in (wq, wk, wv)
            )
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return F.linear(out.transpose(1, 2).flatten(2), wo)[:, -1:]

        def make(generator, device):
            return (torch.randn(1, 1, dim, generator=generator, device=device),)

        what = "one more token with the cache"
        assert_speed(with_cache, without, make, limit=0.6, device=device, what=what)


def wrong_tiles(q, k, v, causal, block):
    """What known mistakes of an online softmax give: sentence -> output in float64."""
    q, k, v = (t.detach().cpu().double() for t in (q, k, v))
    scores = q @ k.mT * q.shape[-1] ** -0.5
    seq_q, seq_k = scores.shape[-2:]
    if causal:
        scores = scores.masked_fill(~past(seq_q, seq_k), -math.inf)
    tiles = [(s, v[..., j : j + block, :]) for s, j in _tiles(scores, block)]

    def online(*, shrink_output, shrink_sum, local=False):
        top = scores.new_full((*scores.shape[:-1], 1), -math.inf)
        total, out = torch.zeros_like(top), torch.zeros_like(q[..., :1]) * v[..., :1, :]
        for tile, values in tiles:
            largest = tile.amax(-1, keepdim=True)
            new = largest if local else torch.maximum(top, largest)
            shrink = (top - new).exp().nan_to_num(nan=1.0)
            part = (tile - new).exp().nan_to_num(nan=0.0)
            total = total * (shrink if shrink_sum else 1) + part.sum(-1, keepdim=True)
            out = out * (shrink if shrink_output else 1) + part @ values
            top = new
        return out / total

    known = {
        "the output so far is not rescaled when a block brings a larger maximum": online(
            shrink_output=False, shrink_sum=True
        ),
        "the sum so far is not rescaled when a block brings a larger maximum": online(
            shrink_output=True, shrink_sum=False
        ),
        "neither the sum nor the output so far is rescaled when a block brings a larger "
        "maximum": online(shrink_output=False, shrink_sum=False),
        "each block subtracts its own maximum and nothing is rescaled": online(
            shrink_output=False, shrink_sum=False, local=True
        ),
        "each block is normalised on its own, as if it were all keys; divide once, at the end": (
            sum(tile.softmax(-1).nan_to_num() @ values for tile, values in tiles)
        ),
        "the scores are not scaled by 1 / sqrt(dim)": (
            (scores * q.shape[-1] ** 0.5).softmax(-1) @ v
        ),
    }
    if causal:
        i, j = torch.arange(seq_q)[:, None], torch.arange(seq_k)
        local = (j // block < i // block) & (j % block <= i % block) | (
            (j // block == i // block) & (j <= i)
        )
        plain = q @ k.mT * q.shape[-1] ** -0.5
        known |= {
            "the causal mask compares positions within the tiles; add the start of the query "
            "block and of the key block": softmax_where(plain, local) @ v,
            "causal has no effect": plain.softmax(-1) @ v,
        }
    return known


def _tiles(scores, block):
    """The scores cut along the keys, each tile with the key it starts at."""
    return [(scores[..., j : j + block], j) for j in range(0, scores.shape[-1], block)]


def on_tape(output):
    """The tensors that the output of a custom Function keeps: those saved, and ctx's attributes."""
    node = output.grad_fn
    found = [t for t in getattr(node, "saved_tensors", ()) if t is not None]
    stack = list(vars(node).values()) if hasattr(node, "__dict__") else []
    while stack:
        value = stack.pop()
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, dict):
            stack.extend(value.values())
        elif isinstance(value, list | tuple | set):
            stack.extend(value)
    return found


def flops(fn):
    """Floating point operations of the matrix products of a call."""
    with FlopCounterMode(display=False) as counter:
        fn()
    return counter.get_total_flops()


@pytest.mark.task("FlashAttention")
class TestFlashAttention:
    @pytest.mark.points(4, "value")
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
    def test_value(self, submission, device, dtype):
        """Any block size gives attention."""

        def check(case):
            q, k, v, causal, block = case.values()
            with forbid("scaled_dot_product_attention", why="task 6 asks for your own"):
                got = submission.FlashAttention.apply(
                    q.clone(), k.clone(), v.clone(), causal, block
                )
            expected = attention_by_row(q, k, v).to(device, dtype)
            known = wrong_tiles(q, k, v, causal, block)
            explain = {text: wrong.to(device, dtype) for text, wrong in known.items()}
            what = f"the output with block={block}"
            assert_close(got, expected, what=what, axes=(*HEADS[:3], "dim"), explain=explain)

        def case(batch, heads, seq, dim, block):
            q, k, v = (randn(batch, heads, seq, dim, dtype=dtype, device=device) for _ in range(3))
            return {"q": q, "k": k, "v": v, "causal": False, "block": block}

        sizes = ((1, 1, 2, 2, 3), (1, 1, 2, 2, 1), (1, 1, 5, 2, 2), (2, 3, 11, 5, 4))
        smallest(check, [case(*size) for size in (*sizes, (2, 3, 11, 5, 4), (3, 2, 7, 5, 7))])

    @pytest.mark.points(3, "value")
    @pytest.mark.after("test_value")
    def test_causal(self, submission):
        """With causal, no query sees a later key."""

        def check(case):
            q, k, v, causal, block = case.values()
            got = submission.FlashAttention.apply(q.clone(), k.clone(), v.clone(), causal, block)
            expected = attention_by_row(q, k, v, past(q.shape[-2], q.shape[-2]))
            explain = wrong_tiles(q, k, v, causal, block)
            what = f"the causal output with block={block}"
            assert_close(got, expected, what=what, axes=(*HEADS[:3], "dim"), explain=explain)

        def case(seq, dim, block):
            q, k, v = (randn(2, 3, seq, dim) for _ in range(3))
            return {"q": q, "k": k, "v": v, "causal": True, "block": block}

        sizes = ((3, 2, 5), (3, 2, 1), (5, 2, 2), (7, 5, 7), (11, 5, 4), (13, 3, 5))
        smallest(check, [case(*size) for size in sizes])

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_value")
    def test_cross(self, submission):
        """More keys than queries work, or fewer."""

        def check(case):
            q, k, v, causal, block = case.values()
            got = assert_unchanged(submission.FlashAttention.apply, q, k, v, causal, block)
            expected = attention_by_row(q, k, v)
            explain = wrong_tiles(q, k, v, causal, block)
            what = f"the output with block={block}"
            assert_close(got, expected, what=what, axes=(*HEADS[:3], "dim"), explain=explain)

        def case(seq_q, seq_k, block):
            q, k, v = randn(2, 3, seq_q, 5), randn(2, 3, seq_k, 5), randn(2, 3, seq_k, 5)
            return {"q": q, "k": k, "v": v, "causal": False, "block": block}

        smallest(check, [case(*size) for size in ((3, 7, 2), (7, 3, 2), (1, 11, 4), (11, 1, 4))])
        assert_runs_on_meta(submission.FlashAttention.apply, *randn(3, 1, 2, 7, 5), True, 3)

    @pytest.mark.points(4, "gradient")
    @pytest.mark.after("test_value")
    @pytest.mark.parametrize("causal", [False, True])
    def test_gradients(self, submission, causal):
        """backward is the derivative of forward."""
        q, k, v = (randn(1, 2, 5, 3, grad=True) for _ in range(3))
        for block in (2, 1, 7):
            assert_gradients(
                lambda q, k, v, block=block: submission.FlashAttention.apply(
                    q, k, v, causal, block
                ),
                q,
                k,
                v,
                fast=True,
            )

    @pytest.mark.points(3, "gradient")
    @pytest.mark.after("test_value")
    @pytest.mark.hint("D is one number per row: (grad_output * output).sum(-1, keepdim=True).")
    def test_upstream(self, submission):
        """Upstream gradients come through."""
        for seq_q, seq_k, causal, block in ((5, 5, False, 2), (13, 13, True, 4), (7, 11, False, 3)):
            q, k, v = (
                randn(2, 3, n, 5, dtype=torch.float32, grad=True) for n in (seq_q, seq_k, seq_k)
            )

            def ours(q, k, v, causal=causal, block=block):
                return submission.FlashAttention.apply(q, k, v, causal, block)

            def theirs(q, k, v, causal=causal):
                return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

            assert_gradients_close(ours, theirs, q, k, v, names=("q", "k", "v"), rtol=1e-4)

    @pytest.mark.points(4, "memory")
    @pytest.mark.hint("The largest tile allowed is (batch, heads, seq, block), for masks too.")
    @pytest.mark.after("test_value")
    @pytest.mark.parametrize("causal", [False, True])
    def test_no_matrix(self, submission, causal):
        """No tensor has seq² elements."""
        seq, block = 256, 32
        q, k, v, grad = (randn(1, 2, seq, 16, dtype=torch.float32) for _ in range(4))

        def forward(q, k, v):
            return submission.FlashAttention.apply(q, k, v, causal, block)

        def both(q, k, v, grad):
            q, k, v = (t.requires_grad_() for t in (q, k, v))
            return torch.autograd.grad(forward(q, k, v), (q, k, v), grad)

        assert_no_tensor_of(seq * seq, forward, *(t.clone() for t in (q, k, v)))
        assert_no_tensor_of(seq * seq, both, *(t.clone() for t in (q, k, v, grad)))

    @pytest.mark.points(3, "memory")
    @pytest.mark.after("test_value")
    @pytest.mark.hint("P can be had again from the scores and the log-sum-exp of each row.")
    def test_saves_little(self, submission):
        """Little is kept for the way back."""
        batch, heads, seq, dim = 1, 2, 64, 16
        q, k, v = (randn(batch, heads, seq, dim, dtype=torch.float32, grad=True) for _ in range(3))

        def run(q, k, v):
            return submission.FlashAttention.apply(q, k, v, True, 16)

        saved = saved_memory(run, q, k, v)
        output = run(q, k, v)
        inputs = {t.untyped_storage().data_ptr() for t in (q, k, v)}
        kept = {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in on_tape(output)
        }
        kept = sum(size for pointer, size in kept.items() if pointer not in inputs)
        rows, limit = batch * heads * seq, output.nbytes + 2 * batch * heads * seq * 4
        most = max(saved, kept)
        measured(f"{most / 1024:.3g} kB")
        picture(
            "bars",
            "Kept for the way back",
            f"Beside q, k and v your Function keeps {most} bytes; the output and two numbers per "
            f"row take {limit}, the probabilities would take {4 * rows * seq}.",
            labels=["yours", "the probabilities"],
            series=[{"label": "bytes", "values": [most, 4 * rows * seq]}],
            log=False,
            unit="bytes",
            limit=limit,
        )
        expect(
            most <= limit,
            f"beside q, k and v it keeps {most} bytes for the way back; the output and two numbers "
            f"for each of {rows} rows take {limit}: compute the rest again, from the log-sum-exp",
            id="saved.bytes",
            expected=limit,
            got=most,
        )

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_value")
    def test_huge_scores(self, submission):
        """Scores of ±1e4 stay right and finite."""
        for causal in (False, True):
            q, k, v = (randn(1, 2, 11, 5) for _ in range(3))
            q, k = q * 300, k * 60
            q.requires_grad_()
            got = submission.FlashAttention.apply(q, k, v, causal, 4)
            got.backward(randn(*got.shape))
            assert_finite(output=got, gradient_of_q=q.grad)
            mask = past(11, 11) if causal else None
            assert_close(got.detach(), attention_by_row(q, k, v, mask), rtol=1e-6)

    @pytest.mark.points(2, "structure")
    @pytest.mark.after("test_causal")
    @pytest.mark.hint("For the keys from `start` on, only the queries from `start` on matter.")
    def test_skips_blocks(self, submission):
        """Causal skips the blocks above."""
        q, k, v, grad = (randn(1, 2, 64, 16, dtype=torch.float32) for _ in range(4))
        q, k, v = (t.requires_grad_() for t in (q, k, v))
        work = {}
        for causal in (False, True):
            output = []
            there = flops(
                lambda causal=causal, output=output: output.append(
                    submission.FlashAttention.apply(q, k, v, causal, 8)
                )
            )
            back = flops(lambda output=output: output[0].backward(grad))
            work[causal] = (there, back)
        for way, full, half in zip(("forward", "backward"), work[False], work[True], strict=True):
            expect(
                full > 0,
                f"the {way} pass has no matrix product; compute tiles with one, such as q @ k.mT",
                id="flops.none",
            )
            share = half / full
            measured(f"{share:.2f} of the work")
            expect(
                share <= 0.6,
                f"the causal {way} pass does {share:.2f} of the work of the full one; at most 0.6: "
                "a block of keys above the diagonal is not to be computed at all, not masked",
                id="flops.causal",
                expected=0.6,
                got=share,
            )

    @pytest.mark.points(3, "value")
    @pytest.mark.after("test_value")
    def test_half(self, submission):
        """float16 accumulates in float32."""
        seq, half = 512, torch.float16
        k = randn(1, 2, 1, 3, dtype=half) + 0.01 * randn(1, 2, seq, 3, dtype=half)
        q, v = randn(1, 2, 5, 3, dtype=half), 200 + randn(1, 2, seq, 3, dtype=half)
        q, k, v = (t.requires_grad_() for t in (q, k, v))
        for block in (512, 64):
            got = submission.FlashAttention.apply(q, k, v, False, block)
            assert_dtype(got, half)
            if not bool(got.isfinite().all()):
                fail(
                    f"with {seq} almost equal keys and values near 200 the output is "
                    f"{got[~got.isfinite()][0].item()}: their sum, about 1e5, is more than "
                    "float16 can hold; accumulate in float32",
                    id="half.overflow",
                )
            expected = attention_by_row(q, k, v).to(half)
            assert_close(got.detach(), expected, rtol=2e-3, what=f"the output with block={block}")
            gradients = torch.autograd.grad(got, (q, k, v), randn(*got.shape, dtype=half))
            for name, gradient in zip("qkv", gradients, strict=True):
                assert_finite(**{f"gradient_of_{name}": gradient})
