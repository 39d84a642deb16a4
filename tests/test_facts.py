"""What the exercises say of torch, NumPy and Python: when one changes, a statement must follow.

Each test names the days that rest on it. Figures of speed are not here (`docs/benchmarks.md`).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from grader.testing import count_ops, peak_memory, saved_memory

NAN, INF = float("nan"), float("inf")


def gradient(fn: Callable[[Tensor], Tensor], *values: float) -> list[float]:
    """The gradient of the sum of `fn` at some values."""
    x = torch.tensor(values, requires_grad=True)
    (found,) = torch.autograd.grad(fn(x).sum(), x)
    return found.tolist()


def same(got: list[float], expected: list[float]) -> bool:
    """Equality in which nan is nan."""
    return bool(np.array_equal(got, expected, equal_nan=True))


# --- weeks 1 and 2 ----------------------------------------------------------------------------


def test_manual_seed_seeds_cuda_itself_with_or_without_cuda(monkeypatch):
    """Day 0."""
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    torch.manual_seed(7)

    assert seeded == [7]


def test_complex_results_keep_the_width_of_the_tensor():
    """Day 1."""
    dtypes = (torch.float16, torch.float64, torch.bfloat16)
    found = [torch.result_type(torch.ones(1, dtype=dtype), 1j) for dtype in dtypes]

    assert found == [torch.complex32, torch.complex128, torch.complex64]


def test_torch_and_numpy_differ_in_the_sign_of_nan():
    """Days 1 and 6."""
    assert torch.tensor(NAN).sign().item() == 0
    assert np.isnan(np.sign(np.nan))


def test_round_with_decimals_is_not_there_for_integers():
    """Day 1."""
    with pytest.raises(RuntimeError):
        torch.round(torch.tensor([15]), decimals=-1)


def test_a_zero_dimensional_index_makes_a_view_and_a_list_a_copy():
    """Days 2 and 4."""
    x = torch.arange(6).reshape(3, 2)

    assert x[torch.tensor(1)].data_ptr() == x[1].data_ptr()
    assert x[[1]].data_ptr() != x[1].data_ptr()


def test_t_of_three_dimensions_warns():
    """Day 2."""
    x = torch.zeros(2, 3, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="T"):
            _ = x.T


def test_a_double_loop_costs_operators_by_the_square():
    """Days 3 and 5."""
    x = torch.randn(64, 3)

    def looped() -> Tensor:
        rows = [torch.stack([(a - b).square().sum() for b in x]) for a in x]
        return torch.stack(rows)

    assert count_ops(looped).count > 64 * 64 * 2
    assert count_ops(lambda: (x[:, None] - x[None]).square().sum(-1)).count == 3


def test_an_index_out_of_range_is_another_error_for_scatter():
    """Day 4."""
    with pytest.raises(IndexError):
        torch.zeros(3).index_add_(0, torch.tensor([5]), torch.ones(1))
    with pytest.raises(RuntimeError):
        torch.zeros(3).scatter_add_(0, torch.tensor([5]), torch.ones(1))


def test_einsum_without_an_arrow_sorts_its_letters():
    """Day 5."""
    a = torch.randn(2, 3)

    assert torch.equal(torch.einsum("ji", a), a.T)
    assert torch.equal(torch.einsum("ij", a), a)


def test_an_array_with_negative_strides_is_refused():
    """Day 6."""
    with pytest.raises(ValueError, match="negative"):
        torch.from_numpy(np.arange(3.0)[::-1])
    assert torch.from_numpy(np.arange(3.0)[::-1].copy()).tolist() == [2.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("name", "fn", "units"),
    [
        ("sin", torch.sin, 1),
        ("exp", torch.exp, 1),
        ("x·sigmoid(x)", lambda x: x * torch.sigmoid(x), 2),
        ("silu", F.silu, 1),
        ("x + 1", lambda x: x + 1, 0),
    ],
)
def test_what_an_operator_keeps_for_backward(name, fn, units):
    """Days 8 and 16: in units of its input, the input itself counted."""
    leaf = torch.randn(1000, requires_grad=True)
    x = leaf * 1.0
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        fn(x)
    assert sum(kept.values()) == units * x.nbytes, name
    assert saved_memory(torch.sin, x) == 0  # the helper leaves out what it was given


@pytest.mark.parametrize(
    ("fn", "at", "expected"),
    [
        (torch.sqrt, 0.0, INF),
        (lambda x: (x * x).sum().sqrt(), 0.0, NAN),
        (torch.norm, 0.0, 0.0),
        (lambda x: x**0.5, 0.0, INF),
        (lambda x: x * x.log(), 0.0, NAN),
        (torch.acos, 1.0, -INF),
        (lambda x: torch.where(x > 0, x.sqrt(), 0 * x), 0.0, NAN),
        (lambda x: x.clamp(-1, 1).acos(), 1.0, -INF),
    ],
)
def test_gradients_at_the_border(fn, at, expected):
    """Days 8 and 15."""
    assert same(gradient(fn, at), [expected])


def test_rows_that_are_all_masked():
    """Days 4, 15 and 23."""
    assert same(gradient(lambda x: x.logsumexp(0), -INF, -INF), [NAN, NAN])
    assert torch.softmax(torch.full((3,), -INF), 0).isnan().all()
    q = torch.randn(1, 1, 2, 4)
    mask = torch.tensor([[True, False], [False, False]])
    assert F.scaled_dot_product_attention(q, q, q, attn_mask=mask)[0, 0, 1].tolist() == [0.0] * 4
    layer = nn.MultiheadAttention(4, 1, batch_first=True)
    x = torch.randn(1, 2, 4)
    out, _ = layer(x, x, x, attn_mask=~mask, need_weights=True)
    assert out[0, 1].isnan().all()


def test_causal_attention_is_aligned_top_left():
    """Day 23."""
    q, k = torch.randn(1, 1, 2, 4), torch.randn(1, 1, 4, 4)
    first = F.scaled_dot_product_attention(q, k, k, is_causal=True)[0, 0, 0]

    assert torch.allclose(first, k[0, 0, 0])


def test_kl_with_a_probability_of_zero_has_no_gradient_by_three_ways():
    """Day 9."""
    q = torch.zeros(2).log_softmax(0)

    def by_where(x: Tensor) -> Tensor:
        p, log_p = x.softmax(0), x.log_softmax(0)
        return torch.where(p > 0, p * (log_p - q), 0.0)

    def by_xlogy(x: Tensor) -> Tensor:
        p = x.softmax(0)
        return torch.special.xlogy(p, p) - p * q

    def by_kl_div(x: Tensor) -> Tensor:
        return F.kl_div(q, x.log_softmax(0), log_target=True, reduction="none")

    for way in (by_where, by_xlogy, by_kl_div):
        assert any(np.isnan(gradient(way, 0.0, -INF))), way


def test_momentum_moves_on_a_zero_gradient_and_not_without_one():
    """Day 10."""
    moved = []
    for gone in (torch.zeros(1), None):
        p = nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([p], lr=1.0, momentum=0.9)
        p.grad = torch.ones(1)
        optimizer.step()
        before = p.item()
        p.grad = gone
        optimizer.step()
        moved.append(p.item() != before)

    assert moved == [True, False]


@pytest.mark.parametrize(
    ("make", "ratio"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), 0.0),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), 1.0),
        (lambda p: torch.optim.AdamW(p), 2.0),
    ],
)
def test_what_an_optimizer_keeps(make, ratio):
    """Days 10 and 16: in units of the parameters; AdamW's step counters come on top."""
    p = nn.Parameter(torch.randn(10_000))
    optimizer = make([p])
    p.grad = torch.randn_like(p)
    optimizer.step()
    held = sum(v.nbytes for s in optimizer.state.values() for v in s.values() if v is not None)

    assert held / p.nbytes == pytest.approx(ratio, abs=1e-3)


def test_ragged_chunks_want_the_share_of_their_samples():
    """Day 10."""
    torch.manual_seed(0)
    x, w = torch.randn(10, 3), torch.randn(3, requires_grad=True)
    y = torch.randn(10)

    def loss(rows: slice) -> Tensor:
        return (x[rows] @ w - y[rows]).square().mean()

    chunks = (slice(0, 4), slice(4, 8), slice(8, 10))
    (whole,) = torch.autograd.grad(loss(slice(0, 10)), w)
    (thirds,) = torch.autograd.grad(sum(loss(c) for c in chunks) / 3, w)
    (shares,) = torch.autograd.grad(sum(loss(c) * (c.stop - c.start) / 10 for c in chunks), w)

    assert (shares - whole).abs().max() < 1e-6
    assert (thirds - whole).abs().max() > 1e-2


class _OwnGenerator(Dataset[tuple[int, float]]):
    """Draws from a generator that is kept on the data set."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> tuple[int, float]:
        return i, float(torch.rand((), generator=self.generator))


class _Global(_OwnGenerator):
    """Draws from the global generators."""

    def __getitem__(self, i: int) -> tuple[int, float]:
        return i, float(np.random.rand() + 10 * torch.rand(()))


class _Stream(IterableDataset[int]):
    """Four numbers, not shared out among workers."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(4))


def test_workers_copy_a_generator_of_the_data_sets_own():
    """Days 12 and 18."""
    numbers = [b[1].item() for b in DataLoader(_OwnGenerator(), num_workers=2)]
    others = [b[1].item() for b in DataLoader(_Global(), num_workers=2)]

    assert numbers[0] == numbers[1]
    assert numbers[2] == numbers[3]
    assert len(set(others)) == 4


def test_workers_repeat_a_stream_that_is_not_shared_out():
    """Day 12."""
    assert [b.item() for b in DataLoader(_Stream(), num_workers=2)] == [0, 0, 1, 1, 2, 2, 3, 3]


def _saved(value: object) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def test_a_slice_is_saved_with_its_whole_storage():
    """Day 13."""
    x = torch.zeros(1000, 1000)

    assert len(_saved(x[:2])) > 4_000_000
    assert len(_saved(x[:2].clone())) < 12_000


@pytest.mark.parametrize(
    ("value", "loads"),
    [
        (nn.Linear(2, 2), False),
        (np.float64(1.0), False),
        (np.random.get_state(), False),
        (__import__("random").getstate(), True),
        (nn.Linear(2, 2).state_dict(), True),
        ({"step": 3, "rng": torch.get_rng_state()}, True),
    ],
    ids=["module", "numpy scalar", "numpy state", "python state", "state_dict", "dict"],
)
def test_what_torch_load_accepts_by_default(value, loads):
    """Day 13."""
    stream = io.BytesIO(_saved(value))
    if loads:
        torch.load(stream)
    else:
        with pytest.raises(Exception, match="Weights only load failed"):
            torch.load(stream)


def test_a_state_dict_is_the_live_weights():
    """Days 13 and 14."""
    layer = nn.Linear(1, 1)
    kept = layer.state_dict()
    with torch.no_grad():
        layer.weight.fill_(7.0)

    assert kept["weight"].item() == 7.0


# --- weeks 3 and 4 ----------------------------------------------------------------------------


def test_a_gradient_that_is_not_finite_spoils_all_that_are_clipped_with_it():
    """Day 15."""
    good, bad = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(1))
    good.grad, bad.grad = torch.ones(2), torch.tensor([NAN])
    nn.utils.clip_grad_norm_([good, bad], 1.0)

    assert good.grad.isnan().all()


def test_checkpointing_trades_memory_and_keeps_gradients():
    """Day 16: 8 blocks with dropout, a batch of 2048, 64 channels."""
    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(0)
    blocks = nn.ModuleList(
        nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.1)) for _ in range(8)
    )
    x = torch.randn(2048, 64)

    def run(is_checkpointed: bool) -> None:
        torch.manual_seed(1)
        y = x
        for block in blocks:
            y = checkpoint(block, y, use_reentrant=False) if is_checkpointed else block(y)
        torch.autograd.backward(y.square().mean())

    found = []
    for is_checkpointed in (False, True):
        blocks.zero_grad()
        peak = peak_memory(run, is_checkpointed)
        found.append((peak, [p.grad.clone() for p in blocks.parameters() if p.grad is not None]))

    assert found[1][0] < 0.5 * found[0][0]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


def test_the_scaler_skips_an_infinite_step_and_halves_its_scale():
    """Day 17."""
    p = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([p], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", growth_interval=2)
    scales, values = [], []
    for factor in (INF, 1.0, 1.0):
        optimizer.zero_grad()
        torch.autograd.backward(scaler.scale((p * factor).sum()))
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
        values.append(p.item())

    assert scales == [32768.0, 32768.0, 65536.0]
    assert values == [1.0, 0.0, -1.0]


def test_which_operators_autocast_runs_in_bfloat16_on_the_cpu():
    """Day 17."""
    x = torch.randn(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = x @ x
        narrow = [low, low.softmax(-1), F.layer_norm(low, (4,)), low.exp(), low.sum()]
        wide = [F.cross_entropy(low, torch.arange(4)), F.mse_loss(low, low)]

    assert {t.dtype for t in narrow} == {torch.bfloat16}
    assert {t.dtype for t in wide} == {torch.float32}


def test_tolist_dispatches_nothing_and_item_does():
    """Day 19."""
    x = torch.ones(3)

    assert count_ops(x.tolist).total == 0
    assert "_local_scalar_dense" in count_ops(x.sum().item).names


def test_the_norm_of_huge_and_tiny_entries_leaves_float32():
    """Day 15."""
    assert torch.full((2,), 1e30).norm().item() == INF
    assert torch.full((2,), 1e-30).norm().item() == 0.0


def test_padding_idx_does_not_survive_a_new_init():
    """Day 22."""
    layer = nn.Embedding(5, 3, padding_idx=0)
    assert layer.weight[0].abs().sum() == 0
    nn.init.normal_(layer.weight)

    assert layer.weight[0].abs().sum() > 0


def test_angles_in_float32_are_off_at_far_positions():
    """Day 22."""
    position, dim = 10_000, 64
    wide = position * 10_000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    narrow = position * 10_000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float32) / dim)

    assert 1e-5 < (wide.sin() - narrow.sin().double()).abs().max() < 1e-2


def test_the_variance_as_a_difference_of_squares_fails_far_from_zero():
    """Day 24."""
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)) + 1e4
    wrong = (x - x.mean(-1, keepdim=True)) / (
        (x * x).mean(-1, keepdim=True) - x.mean(-1, keepdim=True) ** 2 + 1e-5
    ).sqrt()
    right = F.layer_norm(x.double(), (64,))

    assert not (wrong - right).abs().max() < 1
    assert (F.layer_norm(x, (64,)) - right).abs().max() < 1e-2


def test_the_two_gelus_differ_by_less_than_a_thousandth():
    """Day 24."""
    x = torch.linspace(-6, 6, 10_001, dtype=torch.float64)
    worst = (F.gelu(x) - F.gelu(x, approximate="tanh")).abs().max().item()

    assert 4e-4 < worst < 5e-4


def test_top_p_of_one_loses_tokens_in_float32():
    """Day 25: the cumulative sum of a spread row passes 1 before its end, or never reaches it."""
    torch.manual_seed(0)
    logits = torch.randn(500, 31) * 6
    p = logits.softmax(-1).sort(descending=True).values
    kept = (p.cumsum(-1) - p) < 1.0

    assert not kept.all()


def test_layer_norm_with_eps_is_not_scale_invariant():
    """Day 26."""
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    assert not torch.allclose(F.layer_norm(x * 1e-3, (8,)), F.layer_norm(x, (8,)), rtol=1e-3)
    assert torch.allclose(F.layer_norm(x * 1e-3, (8,), eps=0), F.layer_norm(x, (8,), eps=0))
