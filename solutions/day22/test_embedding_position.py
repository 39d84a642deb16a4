"""Day 22 asks for the table of tokens, four ways of telling positions, and both together."""

import copy
import math
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grader.testing import (
    assert_close,
    assert_copy,
    assert_device,
    assert_dtype,
    assert_equal,
    assert_gradients,
    assert_no_python_loop,
    assert_no_tensor_of,
    assert_raises,
    assert_runs_on_meta,
    assert_shape,
    assert_tensor,
    assert_unchanged,
    expect,
    fail,
    forbid,
    loop_oracle,
    measured,
    picture,
    rand_ints,
    randn,
    smallest,
)

HALF = (torch.float16, torch.bfloat16)

# --- 1 ------------------------------------------------------------------------------------------


def table_of(layer: nn.Module) -> Tensor:
    """The parameter `weight` of an embedding."""
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, nn.Parameter):
        fail("the module has no Parameter called `weight`", id="embedding.weight")
    return weight


def loaded(layer: nn.Module, table: Tensor) -> nn.Module:
    """The layer with this table written over its weight."""
    weight = table_of(layer)
    assert_shape(weight, vocab=table.shape[0], dim=table.shape[1])
    with torch.no_grad():
        weight.copy_(table)
    return layer


def by_one_hot(ids: Tensor, table: Tensor) -> Tensor:
    """Rows by the product with one-hot vectors, in the dtype of the table."""
    hot = (ids.long().cpu()[..., None] == torch.arange(table.shape[0])).to(table.dtype)
    return (hot @ table.cpu()).to(table.device)


def upstream_through(layer: nn.Module, ids: Tensor, upstream: Tensor) -> Tensor:
    """The gradient of `weight` for this upstream gradient."""
    output = layer(ids.clone())
    assert_shape(output, **{f"axis_{i}": n for i, n in enumerate(upstream.shape)})
    expect(
        output.requires_grad,
        "the result has no graph, so `weight` gets no gradient",
        id="embedding.no_graph",
    )
    output.backward(upstream.clone())
    gradient = table_of(layer).grad
    return assert_tensor(gradient, "weight.grad")


def summed_rows(ids: Tensor, upstream: Tensor, vocab: int) -> tuple[Tensor, Tensor]:
    """Sum of the upstream rows of every id, (vocab, dim), and how often each occurs, (vocab, 1)."""
    rows = torch.zeros(vocab, upstream.shape[-1], dtype=upstream.dtype)
    count = torch.zeros(vocab, 1, dtype=upstream.dtype)
    for index, row in zip(ids.flatten().tolist(), upstream.flatten(0, -2), strict=True):
        rows[index] += row
        count[index] += 1
    return rows, count


@pytest.mark.task("MyEmbedding")
class TestMyEmbedding:
    @pytest.mark.points(3, "value")
    def test_value(self, submission, device):
        """Every id gives its row of the table."""
        names = ("nn.Embedding", "F.embedding", "nn.EmbeddingBag", "F.embedding_bag")

        def check(case):
            ids, table, padding_idx = case.values()
            vocab, dim = table.shape
            layer = loaded(submission.MyEmbedding(vocab, dim, padding_idx), table).to(device)
            with forbid(*names, why="task 1 asks for your own look-up"):
                got = assert_unchanged(layer, ids)
            expected = by_one_hot(ids, table.to(device))
            zeroed = expected.masked_fill(
                (ids == (-1 if padding_idx is None else padding_idx))[..., None], 0
            )
            explain = (
                {}
                if padding_idx is None
                else {"the padding row is read as zeros, whatever stands in the table": zeroed}
            )
            axes = (*("batch", "seq")[2 - ids.dim() :], "dim")
            assert_close(got, expected, axes=axes, explain=explain)

        cases = [
            {
                "ids": rand_ints(*shape, high=vocab, device=device),
                "table": randn(vocab, dim),
                "padding_idx": padding_idx,
            }
            for shape, vocab, dim, padding_idx in (
                ((3,), 2, 1, None),
                ((2, 3), 5, 7, None),
                ((2, 3), 5, 7, None),
                ((11, 3), 7, 5, 2),
            )
        ]
        smallest(check, cases)

    @pytest.mark.points(3, "gradient")
    def test_gradient(self, submission):
        """A row's gradient is the sum over all places of its id."""

        def check(case):
            ids, upstream, vocab = case.values()
            layer = loaded(
                submission.MyEmbedding(vocab, upstream.shape[-1]),
                randn(vocab, upstream.shape[-1]),
            )
            got = upstream_through(layer, ids, upstream)
            rows, count = summed_rows(ids, upstream, vocab)
            last = torch.zeros_like(rows)
            last[ids.flatten()] = upstream.flatten(0, -2)
            explain = {
                "the gradients of a repeated id are averaged; they add up": rows / count.clamp(1),
                "of a repeated id only one place counts; the gradients add up": last,
            }
            assert_close(
                got, rows, axes=("vocab", "dim"), what="the gradient of weight", explain=explain
            )

        cases = [
            {"ids": torch.tensor(ids), "upstream": randn(*torch.tensor(ids).shape, dim), "vocab": n}
            for ids, dim, n in (
                ([1, 0, 1], 2, 3),
                ([[4, 1, 1], [0, 4, 4]], 5, 7),
            )
        ]
        smallest(check, cases)

    @pytest.mark.points(2, "gradient")
    @pytest.mark.parametrize("padding_idx", [3, 0])
    def test_padding_row(self, submission, padding_idx):
        """The padding row starts at 0 and gets no gradient."""
        layer = submission.MyEmbedding(vocab=5, dim=3, padding_idx=padding_idx)
        row = table_of(layer).detach()[padding_idx]
        expect(
            bool((row == 0).all()),
            f"the row padding_idx={padding_idx} is {row.tolist()} at the start; it must be zeros",
            id="padding.start",
            expected=[0.0, 0.0, 0.0],
            got=row.tolist(),
        )
        ids = torch.tensor([[0, 3, 1], [3, 0, 4]])
        upstream = randn(2, 3, 3)
        got = upstream_through(layer, ids, upstream)
        trained, _ = summed_rows(ids, upstream, 5)
        expected = trained.clone()
        expected[padding_idx] = 0
        explain = {
            "the padding row gets a gradient, so training moves it away from 0": trained,
        }
        what = f"the gradient with padding_idx={padding_idx}"
        assert_close(got, expected, axes=("vocab", "dim"), what=what, explain=explain)

    @pytest.mark.points(1, "structure")
    def test_state_dict(self, submission):
        """The state_dict has the one key weight."""
        for padding_idx in (None, 2):
            keys = list(submission.MyEmbedding(7, 3, padding_idx).state_dict())
            assert_equal(keys, ["weight"], "the list of keys of the state_dict")
        table_of(submission.MyEmbedding(7, 3))

    @pytest.mark.points(1, "value")
    def test_any_shape(self, submission):
        """Ids of any shape will do, 0-d and empty too."""
        table = randn(7, 3)
        for padding_idx in (None, 2):
            layer = loaded(submission.MyEmbedding(7, 3, padding_idx), table)
            assert_close(layer(torch.tensor(5)), table[5], what="the row of a 0-d id")
            assert_shape(layer(torch.zeros(0, dtype=torch.int64)), seq=0, dim=3)
            assert_shape(layer(torch.zeros(2, 0, dtype=torch.int64)), batch=2, seq=0, dim=3)
            assert_shape(layer(rand_ints(2, 3, 5, 1, high=7)), a=2, b=3, c=5, d=1, dim=3)

    @pytest.mark.points(1, "value")
    @pytest.mark.hint("`ids.long()` first: an index of dtype uint8 is taken for a mask.")
    @pytest.mark.parametrize(
        "dtype",
        [torch.int32, torch.int16, torch.int8, torch.uint8],
        ids=["int32", "int16", "int8", "uint8"],
    )
    def test_any_integer(self, submission, dtype):
        """Ids may have any integer dtype."""
        table = randn(5, 3)
        layer = loaded(submission.MyEmbedding(5, 3), table)
        ids = torch.tensor([1, 0, 4, 1, 0], dtype=dtype)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                got = layer(ids.clone())
        except (IndexError, RuntimeError) as error:
            fail(
                f"ids of dtype {dtype} raise {type(error).__name__}: {str(error).splitlines()[0]}",
                id="embedding.integer",
            )
        expected = by_one_hot(ids, table)
        what = f"the result for ids of dtype {dtype}"
        assert_shape(got, seq=5, dim=3)
        assert_close(got, expected, axes=("seq", "dim"), what=what)

    @pytest.mark.points(2, "value")
    def test_out_of_range(self, submission):
        """An id that is not in the table raises an IndexError."""

        def check(case):
            ids, padding_idx = case["ids"], case["padding_idx"]
            layer = submission.MyEmbedding(5, 3, padding_idx)
            assert_raises(IndexError, layer, ids)

        cases = [
            {"ids": torch.tensor(ids), "padding_idx": padding_idx}
            for ids in (-1, 5, [0, -1], [5, 0], [[0, 4], [-5, 2]], [[0, 4], [2, 7]])
            for padding_idx in (None, 4)
        ]
        smallest(check, cases)

    @pytest.mark.points(1, "memory")
    def test_no_one_hot(self, submission):
        """No tensor has a number for each id and row."""
        vocab, dim, seq = 101, 3, 97
        layer = submission.MyEmbedding(vocab, dim)
        ids, upstream = rand_ints(seq, high=vocab), randn(seq, dim)

        def forward(ids):
            return layer(ids)

        def both(ids, upstream):
            layer(ids).backward(upstream)

        assert_no_tensor_of(seq * vocab, forward, ids.clone())
        assert_no_tensor_of(seq * vocab, both, ids.clone(), upstream)

    @pytest.mark.points(1, "value")
    def test_start(self, submission):
        """The table starts as N(0, 1), drawn anew each time."""
        vocab, dim = 997, 13
        weight = table_of(submission.MyEmbedding(vocab, dim, 5)).detach().double()
        again = table_of(submission.MyEmbedding(vocab, dim, 5)).detach().double()
        expect(not torch.equal(weight, again), "two tables are equal: the numbers are not drawn")
        assert_normal(torch.cat([weight[:5], weight[6:]]), 1.0, "weight")


def assert_normal(sample: Tensor, std: float, what: str) -> None:
    """Mean, spread and share within one standard deviation of N(0, std), by five sigma."""
    sample = sample.detach().double().flatten() / std
    n = len(sample)
    mean, spread = sample.mean().item(), sample.std().item()
    share = (sample.abs() < 1).double().mean().item()
    expect(
        abs(mean) < 5 / n**0.5 and abs(spread - 1) < 5 / (2 * n) ** 0.5,
        f"{what} starts with mean {std * mean:.3g} and standard deviation {std * spread:.3g}; "
        f"expected 0 and {std:g}",
        id="start.spread",
        expected=[0.0, std],
        got=[std * mean, std * spread],
    )
    expect(
        abs(share - 0.68269) < 5 * (0.68269 * 0.31731 / n) ** 0.5,
        f"{100 * share:.0f} % of {what} lie within one standard deviation at the start; of normal "
        "numbers 68 % do",
        id="start.normal",
        expected=0.683,
        got=share,
    )


# --- 2 ------------------------------------------------------------------------------------------


def sines(positions: range | list[int], dim: int, base: float = 1e4) -> Tensor:
    """Rows of the table by the scalar formula, in float64, (positions, dim)."""
    rows = list(positions)

    def element(row: int, column: int) -> float:
        angle = rows[row] * base ** (-2 * (column // 2) / dim)
        return math.cos(angle) if column % 2 else math.sin(angle)

    return loop_oracle((len(rows), dim), element)


def wrong_sines(seq: int, dim: int, base: float) -> dict[str, Tensor]:
    """What known mistakes give: sentence -> table (seq, dim) in float64."""
    right = sines(range(seq), dim, base)
    position = torch.arange(seq, dtype=torch.float64)[:, None]
    pair = torch.arange(dim // 2, dtype=torch.float64)

    def table(angle: Tensor) -> Tensor:
        return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)

    return {
        "the exponent is -i/dim; it must be -2i/dim, for i = 0 to dim/2 - 1": table(
            position * base ** (-pair / dim)
        ),
        "sines fill the first half and cosines the second; they alternate, column 2i and "
        "column 2i + 1": torch.cat([right[:, 0::2], right[:, 1::2]], -1),
        "the cosines come first; column 2i holds the sine": right.unflatten(-1, (-1, 2))
        .flip(-1)
        .flatten(-2),
        "the positions start at 1; the first row belongs to position 0": sines(
            range(1, seq + 1), dim, base
        ),
        "the frequencies grow, base^(+2i/dim); the exponent is negative": table(
            position * base ** (2 * pair / dim)
        ),
        "column c has the exponent -2c/dim of its own; columns 2i and 2i + 1 share the exponent "
        "-2i/dim": torch.where(
            torch.arange(dim) % 2 == 0,
            (position * base ** (-2 * torch.arange(dim).double() / dim)).sin(),
            (position * base ** (-2 * torch.arange(dim).double() / dim)).cos(),
        ),
    }


@pytest.mark.task("sinusoidal")
class TestSinusoidal:
    @pytest.mark.points(1, "shape")
    def test_shape(self, submission):
        """The table has one row per position and one column per channel."""
        for seq, dim in ((1, 2), (5, 6), (7, 4)):
            got = submission.sinusoidal(seq, dim)
            assert_shape(got, seq=seq, dim=dim)
            assert_dtype(got, torch.float32)
            assert_dtype(submission.sinusoidal(seq, dim, dtype=torch.float64), torch.float64)

    @pytest.mark.points(4, "value")
    @pytest.mark.after("test_shape")
    def test_value(self, submission, device):
        """Every element is the sine or cosine of its angle."""
        image = submission.sinusoidal(24, 24, base=50.0)
        if isinstance(image, Tensor) and image.shape == (24, 24):
            expected = sines(range(24), 24, 50.0)
            picture(
                "heatmap",
                "Sines and cosines",
                "Rows are positions, columns are channels (base 50): fast waves on the left, slow "
                "ones on the right.",
                maps=[
                    {"label": label, "values": values.tolist(), "marked": [], "scale": "diverging"}
                    for label, values in (("expected", expected), ("yours", image.detach().cpu()))
                ],
                row_axis="position",
                column_axis="channel",
                origin=[0, 0],
            )

        def check(case):
            seq, dim, base = case.values()
            got = submission.sinusoidal(seq, dim, base, device=device)
            expected = sines(range(seq), dim, base).to(device, torch.float32)
            known = wrong_sines(seq, dim, base)
            if base != 1e4:
                known["base has no effect: the frequencies are those of 10000"] = sines(
                    range(seq), dim
                )
            explain = {text: wrong.to(device, torch.float32) for text, wrong in known.items()}
            assert_close(got, expected, axes=("position", "channel"), explain=explain)

        cases = [
            {"seq": seq, "dim": dim, "base": base}
            for seq, dim, base in ((2, 4, 1e4), (3, 6, 100.0), (11, 10, 1e4), (11, 10, 500.0))
        ]
        smallest(check, cases)
        got = submission.sinusoidal(5, 6)
        assert_close(got, sines(range(5), 6).float(), what="the table with the default base")

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_shape")
    def test_first_row(self, submission):
        """Position 0 is 0, 1, 0, 1 and so on."""
        got = submission.sinusoidal(3, 10)[0]
        expected = torch.tensor([0.0, 1.0] * 5)
        explain = {
            "the zeros come first, then the ones: sines and cosines alternate": torch.tensor(
                [0.0] * 5 + [1.0] * 5
            ),
            "the ones come first: column 2i holds the sine, sin 0 = 0": 1 - expected,
            "the first row is position 1; positions start at 0": sines([1], 10)[0].float(),
        }
        assert_close(got, expected, what="the row of position 0", explain=explain)

    @pytest.mark.points(4, "value")
    @pytest.mark.after("test_value")
    @pytest.mark.hint("arange(seq, dtype=torch.float64), frequencies in float64, cast at the end.")
    def test_far(self, submission):
        """Position 10 000 is right within 1e-6."""
        dim = 6
        rows = [*range(7), 97, 1009, 4999, 9973, 9999, 10000]
        for base in (10000.0, 300.0):
            got = submission.sinusoidal(10001, dim, base)
            assert_shape(got, seq=10001, dim=dim)
            exact = sines(rows, dim, base)
            worst = (got[rows].detach().cpu().double() - exact).abs().amax(-1)
            measured(f"{worst.max().item():.0e}")
            if worst.max() > 1e-6:
                row = int((worst > 1e-6).nonzero()[0])
                fail(
                    f"position {rows[row]} is off by {worst[row]:.1e}; at most 1e-6 is allowed: an "
                    "angle near 10 000 has an error of 3e-4 in float32. Compute positions, "
                    "frequencies and angles in float64 and cast the result",
                    id="sinusoidal.precision",
                    expected=1e-6,
                    got=worst[row].item(),
                )

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_shape")
    def test_rotation(self, submission):
        """k positions further is a rotation, the same from everywhere."""
        seq, dim, base = 31, 10, 1e4
        table = submission.sinusoidal(seq, dim, base, dtype=torch.float64)
        pairs = table.detach().unflatten(-1, (-1, 2))
        for k in (1, 2, 13):
            angle = torch.tensor([k * base ** (-2 * i / dim) for i in range(dim // 2)]).double()
            sin, cos = pairs[: seq - k].unbind(-1)
            turned = [sin * angle.cos() + cos * angle.sin(), cos * angle.cos() - sin * angle.sin()]
            what = f"the rows from position {k} on"
            assert_close(pairs[k:], torch.stack(turned, -1), rtol=0, atol=1e-6, what=what)

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_shape")
    def test_gram(self, submission):
        """The product of two rows depends on their distance only."""
        seq, dim = 53, 10
        table = submission.sinusoidal(seq, dim, dtype=torch.float64).detach()
        gram = table @ table.mT
        picture(
            "heatmap",
            "Products of rows, PE · PEᵀ",
            "Bands along the diagonal: what attention can read from two rows is their distance.",
            maps=[
                {
                    "label": "yours",
                    "values": gram[:24, :24].tolist(),
                    "marked": [],
                    "scale": "diverging",
                }
            ],
            row_axis="position",
            column_axis="position",
            origin=[0, 0],
        )
        spread = max(gram.diagonal(k).std().item() for k in range(seq - 1))
        measured(f"{spread:.0e}")
        expect(
            spread < 1e-12,
            f"with dtype=float64 the products of rows of the same distance differ by {spread:.1e} "
            "(standard deviation along a diagonal); below 1e-12 is right. Angles in float32, a "
            "sine without its cosine, or two frequencies in one pair do that",
            id="sinusoidal.gram",
            expected=1e-12,
            got=spread,
        )

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_shape")
    @pytest.mark.parametrize("dtype", HALF, ids=["float16", "bfloat16"])
    def test_half(self, submission, dtype):
        """In half precision only the result is rounded."""
        rows = [0, 1, 2, 3, 11, 97, 257, 300, 2049, 2999]
        got = submission.sinusoidal(3000, 6, dtype=dtype)
        assert_dtype(got, dtype)
        assert_shape(got, seq=3000, dim=6)
        expected = sines(rows, 6)
        off = (got[rows].double() - expected).abs().amax(-1)
        allowed = torch.finfo(dtype).eps
        if not bool((off <= allowed).all()):
            row = int((~(off <= allowed)).nonzero()[0])
            fail(
                f"with dtype={dtype}, position {rows[row]} is off by {off[row]:.2g}; rounding the "
                f"result takes {allowed / 2:.1g} at most. Angles in {dtype} are worth nothing",
                id="sinusoidal.half",
                expected=allowed / 2,
                got=off[row].item(),
            )

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_value")
    def test_default_dtype(self, submission):
        """Torch's default dtype changes nothing."""
        before = torch.get_default_dtype()
        for default in (torch.float16, torch.float64):
            torch.set_default_dtype(default)
            try:
                got = submission.sinusoidal(301, 6)
            finally:
                torch.set_default_dtype(before)
            assert_dtype(got, torch.float32)
            what = f"the table while the default dtype is {default}"
            assert_close(got, sines(range(301), 6).float(), what=what)

    @pytest.mark.points(1, "value")
    def test_odd(self, submission):
        """An odd dim raises a ValueError."""
        for dim in (1, 5):
            assert_raises(ValueError, submission.sinusoidal, 3, dim)

    @pytest.mark.points(1, "structure")
    def test_device(self, submission):
        """The table is on the device that was asked for."""
        assert_device(submission.sinusoidal(5, 6, device="meta"), "meta")
        assert_device(submission.sinusoidal(5, 6, device=torch.device("cpu")), "cpu")
        assert_device(submission.sinusoidal(5, 6), "cpu")


# --- 3 ------------------------------------------------------------------------------------------

ROPE_AXES = ("batch", "heads", "seq", "dim")


def turned(
    x: Tensor,
    positions: Tensor,
    base: float = 1e4,
    interleaved: bool = True,
    pairs_apart: bool | None = None,
    exponent: float = -2.0,
) -> Tensor:
    """RoPE in float64 on the CPU: pairs as complex numbers, times exp(i * angle).

    Args:
        x: (batch, heads, seq, dim)
        positions: anything that broadcasts to (batch, heads, seq) once it has four axes less one.
        base, interleaved: as in the task.
        pairs_apart: write the result back in the other layout, if given.
        exponent: -2; what the index of the pair is multiplied by, over dim.
    """
    x, positions = x.detach().cpu().double(), positions.detach().cpu().double()
    dim = x.shape[-1]
    if positions.dim() == 2:
        positions = positions[:, None]
    frequency = [base ** (exponent * i / dim) for i in range(dim // 2)]
    angle = positions[..., None] * torch.tensor(frequency, dtype=torch.float64)
    pairs = x.unflatten(-1, (-1, 2)) if interleaved else x.unflatten(-1, (2, -1)).mT
    points = torch.complex(pairs[..., 0], pairs[..., 1]) * torch.polar(
        torch.ones_like(angle), angle
    )
    back = torch.stack([points.real, points.imag], -1)
    apart = not interleaved if pairs_apart is None else pairs_apart
    return (back.mT if apart else back).flatten(-2)


def wrong_rope(
    x: Tensor, positions: Tensor, base: float = 1e4, interleaved: bool = True
) -> dict[str, Tensor]:
    """What known mistakes give: sentence -> result (batch, heads, seq, dim) in float64."""
    here, there = ("2i and 2i + 1", "i and i + dim/2")[:: 1 if interleaved else -1]
    heads = torch.arange(x.shape[1])[None, :, None].expand(x.shape[0], -1, x.shape[2])
    known = {
        f"the pairs are channels {there}; with interleaved={interleaved} they are {here}": turned(
            x, positions, base, not interleaved
        ),
        "the pairs are turned the other way: the sign of the sine is wrong": turned(
            x, -positions, base, interleaved
        ),
        "the angle grows with the index of the head; it grows with the position": turned(
            x, heads, base, interleaved
        ),
        "positions is not used: the angles are those of 0, 1, 2 …": turned(
            x, torch.arange(x.shape[2]), base, interleaved
        ),
        "the exponent is -i/dim; it must be -2i/dim, for i = 0 to dim/2 - 1": turned(
            x, positions, base, interleaved, exponent=-1.0
        ),
        "the frequencies grow, base^(+2i/dim); the exponent is negative": turned(
            x, positions, base, interleaved, exponent=2.0
        ),
        f"the pairs are turned, and then written back as channels {there}": turned(
            x, positions, base, interleaved, pairs_apart=interleaved
        ),
    }
    if positions.dim() == 2:
        known["all batches get the positions of the first"] = turned(
            x, positions[0], base, interleaved
        )
    return known


def agree(
    got: object, case: dict, *, rtol: float = 1e-7, atol: float = 1e-7, what: str = ""
) -> None:
    """What `rope` gave is what the complex product gives."""
    x = case["x"]
    expected = turned(**case).to(x)
    explain = {text: wrong.to(x) for text, wrong in wrong_rope(**case).items()}
    what = what or "the result"
    assert_close(got, expected, rtol=rtol, atol=atol, axes=ROPE_AXES, what=what, explain=explain)


def called(fn, case: dict):
    """Call `fn` with a copy of each tensor of the case, so that the case stays what it was."""
    return fn(**{n: v.clone() if isinstance(v, Tensor) else v for n, v in case.items()})


def rope_case(shape, positions, dtype=torch.float64, device="cpu", **rest):
    """One set of arguments of `rope`."""
    return {
        "x": randn(*shape, dtype=dtype, device=device),
        "positions": torch.as_tensor(positions).to(device),
        **rest,
    }


@pytest.mark.task("rope")
class TestRope:
    @pytest.mark.points(5, "value")
    def test_value(self, submission, device):
        """Each pair is turned by its angle."""

        def check(case):
            got = called(submission.rope, case)
            agree(got, case)

        smallest(
            check,
            [
                rope_case((1, 2, 1, 2), [3], device=device),
                rope_case((1, 1, 2, 4), [3, 1], device=device),
                rope_case((2, 3, 5, 8), [4, 0, 7, 1, 2], device=device),
                rope_case((3, 2, 7, 10), [5, 6, 7, 8, 9, 11, 40], device=device),
                rope_case((3, 2, 7, 10), [5, 6, 7, 8, 9, 11, 40], device=device, base=300.0),
                rope_case((2, 3, 3, 6), [2, 3, 4], device=device, interleaved=True),
            ],
        )
        narrow = rope_case((2, 3, 5, 8), [4, 0, 7, 1, 2], torch.float32, device)
        got = called(submission.rope, narrow)
        agree(got, narrow, rtol=1e-5, atol=1e-5, what="the float32 result")

    @pytest.mark.points(3, "value")
    def test_halves(self, submission):
        """With interleaved=False the pairs lie dim/2 apart."""

        def check(case):
            got = called(submission.rope, case)
            agree(got, case, what="the result with interleaved=False")

        sizes = ((1, 1, 2, 4), [3, 1]), ((2, 3, 5, 8), [4, 0, 7, 1, 2]), ((3, 2, 1, 10), [13])
        smallest(check, [rope_case(shape, at, base=1e3, interleaved=False) for shape, at in sizes])

    @pytest.mark.points(1, "value")
    def test_norms(self, submission):
        """No vector becomes longer or shorter."""
        for interleaved in (True, False):
            x = randn(2, 3, 5, 6, dtype=torch.float64)
            got = submission.rope(
                x.clone(), torch.tensor([0, 3, 11, 200, 7]), interleaved=interleaved
            )
            assert_close(
                assert_tensor(got).norm(dim=-1), x.norm(dim=-1), what="the length of the vectors"
            )

    @pytest.mark.points(3, "value")
    @pytest.mark.hint("A score of two turned vectors depends on the difference of their angles.")
    def test_relative(self, submission):
        """A score depends on the distance of the two positions only."""
        pairs, dim = 50, 8
        q, k = (randn(1, 1, 1, dim, dtype=torch.float64) for _ in range(2))

        def scores(m, n):
            seq = len(m)
            left = submission.rope(q.expand(1, 1, seq, dim).clone(), m.clone())
            right = submission.rope(k.expand(1, 1, seq, dim).clone(), n.clone())
            return (assert_tensor(left) * assert_tensor(right)).sum(-1).flatten()

        dial = scores(torch.zeros(60, dtype=torch.int64), torch.arange(60))
        picture(
            "curve",
            "The score of one query and one key by distance",
            "The query stands at 0, the key moves away from it.",
            series=[{"label": "q · k", "x": list(range(60)), "y": dial.tolist()}],
            x_label="key position - query position",
            y_label="score",
            log_y=False,
            limit=None,
        )
        m, n = rand_ints(pairs, high=1000), rand_ints(pairs, high=1000)
        shift = rand_ints(pairs, low=1, high=1000)
        here, there = scores(m, n), scores(m + shift, n + shift)
        worst = (here - there).abs().max().item()
        expect(
            worst < 1e-8,
            f"moving query and key by the same number of places changes a score by {worst:.1e}",
            id="rope.relative",
            expected=0.0,
            got=worst,
        )
        expect(
            (dial[1:] - dial[:-1]).abs().max().item() > 1e-3,
            "the score doesn't change with the distance of query and key at all",
            id="rope.constant",
        )
        exact = (
            (turned(q.expand(1, 1, pairs, dim), m - n) * k.expand(1, 1, pairs, dim))
            .sum(-1)
            .flatten()
        )
        assert_close(here, exact, rtol=1e-7, atol=1e-8, what="the score")

    @pytest.mark.points(2, "value")
    def test_zero(self, submission):
        """At position 0 nothing turns, and the result is new."""
        for interleaved in (True, False):
            x = randn(2, 3, 5, 6)
            given = x.clone()
            got = submission.rope(given, torch.zeros(5, dtype=torch.int64), interleaved=interleaved)
            assert_close(got, x, axes=ROPE_AXES, what="the result at position 0")
            assert_copy(got, given)

    @pytest.mark.points(3, "value")
    def test_batch_positions(self, submission):
        """Every example of a batch may have positions of its own."""

        def check(case):
            got = called(submission.rope, case)
            agree(got, case, what="the result with positions (batch, seq)")

        def case(shape, **rest):
            return rope_case(shape, rand_ints(shape[0], shape[2], low=1, high=50), **rest)

        shapes = (1, 1, 2, 4), (2, 3, 5, 6), (5, 2, 3, 6), (3, 5, 3, 4)
        smallest(check, [*map(case, shapes), *(case(s, interleaved=False) for s in shapes[1:3])])

    @pytest.mark.points(2, "value")
    @pytest.mark.hint(
        "What is kept between two calls must be told apart by all that it depends on."
    )
    def test_later_calls(self, submission):
        """A call has no influence on the next one."""
        calls = (
            rope_case((2, 3, 3, 6), [0, 1, 2]),
            rope_case((2, 3, 7, 6), [0, 1, 2, 3, 4, 5, 6]),
            rope_case((2, 3, 7, 6), [9, 1, 12, 3, 0, 5, 16]),
            rope_case((2, 3, 7, 6), [9, 1, 12, 3, 0, 5, 16], base=70.0),
            rope_case((2, 3, 1, 6), [7]),
            rope_case((2, 3, 1, 8), [7]),
        )
        for number, case in enumerate(calls, start=1):
            got = called(submission.rope, case)
            shape = tuple(case["x"].shape)
            assert_shape(got, **dict(zip(ROPE_AXES, shape, strict=True)))
            agree(got, case, what=f"the result of call {number}")

    @pytest.mark.points(2, "gradient")
    def test_gradient(self, submission):
        """The gradient turns back."""
        for interleaved in (True, False):

            def run(x, interleaved=interleaved):
                return submission.rope(x, torch.tensor([2, 0, 5]), interleaved=interleaved)

            assert_gradients(
                run, randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True), names=("x",)
            )

    @pytest.mark.points(1, "structure")
    def test_unchanged(self, submission):
        """The arguments stay as they were."""
        for interleaved in (True, False):
            x, positions = randn(2, 3, 5, 6), torch.tensor([3, 1, 4, 1, 5])
            assert_unchanged(submission.rope, x, positions, 1e4, interleaved)
            apart = randn(2, 5, 3, 6, dtype=torch.float64).transpose(1, 2)
            case = {"x": apart, "positions": positions, "interleaved": interleaved}
            got = assert_unchanged(submission.rope, **case)
            agree(got, case, what="the result for an x that isn't contiguous")

    @pytest.mark.points(2, "value")
    @pytest.mark.hint("Positions, frequencies and angles in float32 at least; x too.")
    @pytest.mark.parametrize("dtype", HALF, ids=["float16", "bfloat16"])
    def test_half(self, submission, dtype):
        """Half precision is computed in float32 and returned half."""
        for interleaved in (True, False):
            at = [0, 1, 3, 97, 259, 1001, 2049]
            case = rope_case((2, 3, 7, 6), at, dtype, interleaved=interleaved)
            got = called(submission.rope, case)
            assert_dtype(got, dtype)
            exact = turned(**case)
            assert_shape(got, **dict(zip(ROPE_AXES, exact.shape, strict=True)))
            # Rounding the result once, and the error that a float32 angle has.
            angle_error = 1e-6 + 6e-7 * case["positions"][:, None] * exact.norm(
                dim=-1, keepdim=True
            )
            allowed = exact.abs() * torch.finfo(dtype).eps / 2 + angle_error
            off = (got.detach().double() - exact).abs()
            wrong = ~(off <= allowed)
            if bool(wrong.any()):
                place = tuple(wrong.nonzero()[0].tolist())
                fail(
                    f"for x of {dtype}, position {at[place[2]]}, element {list(place)} is off by "
                    f"{off[place]:.2g}; computed in float32 (positions, angles, products) and "
                    f"rounded once it is off by {allowed[place]:.2g} at most",
                    id="rope.half",
                    expected=allowed[place].item(),
                    got=off[place].item(),
                )

    @pytest.mark.points(1, "structure")
    def test_device(self, submission):
        """Everything is made on the device of x."""
        x = randn(2, 3, 5, 6)
        for positions in (torch.arange(5), torch.arange(10).view(2, 5)):
            for interleaved in (True, False):
                assert_runs_on_meta(submission.rope, x, positions, interleaved=interleaved)


# --- 4 ------------------------------------------------------------------------------------------


def below(heads: int) -> int:
    """The largest power of two that is not above `heads`."""
    power = 1
    while 2 * power <= heads:
        power *= 2
    return power


def slopes_of(heads: int) -> list[float]:
    """The slopes of ALiBi by the rule of the statement."""
    power = below(heads)
    slopes = [2.0 ** (-8 * j / power) for j in range(1, power + 1)]
    more = [2.0 ** (-8 * j / (2 * power)) for j in range(1, 2 * power + 1)]
    return slopes + more[::2][: heads - power]


def bias_by_loop(slopes: list[float], seq_q: int, seq_k: int, offset: int | None = None) -> Tensor:
    """ALiBi element by element, in float32, (heads, seq_q, seq_k)."""
    offset = seq_k - seq_q if offset is None else offset

    def element(head: int, i: int, j: int) -> float:
        return -slopes[head] * abs(j - (i + offset))

    return loop_oracle((len(slopes), seq_q, seq_k), element).float()


def wrong_bias(heads: int, seq_q: int, seq_k: int) -> dict[str, Tensor]:
    """What known mistakes give: sentence -> bias (heads, seq_q, seq_k)."""
    slopes = slopes_of(heads)
    right = bias_by_loop(slopes, seq_q, seq_k)
    power = below(heads)
    known = {
        "the bias is positive: far keys are to be pushed down": -right,
        "keys after the query get no bias; the distance counts on both sides": torch.where(
            torch.arange(seq_k) > torch.arange(seq_q)[:, None] + seq_k - seq_q, 0.0, right
        ),
        "the slopes start with j = 0; the first one is 2^(-8/h)": bias_by_loop(
            [2.0 ** (-8 * j / heads) for j in range(heads)], seq_q, seq_k
        ),
    }
    if seq_q != seq_k:
        known["the first query stands at the first key; the last one stands at the last key"] = (
            bias_by_loop(slopes, seq_q, seq_k, 0)
        )
    if power != heads:
        known["2^(-8j/h) is for powers of two only; see the rule for other numbers of heads"] = (
            bias_by_loop([2.0 ** (-8 * j / heads) for j in range(1, heads + 1)], seq_q, seq_k)
        )
    return known


def bucket_by_rule(rel: int, buckets: int, max_dist: int) -> int:
    """The bucket in whole numbers, without a logarithm."""
    half, exact, distance = buckets // 2, buckets // 4, abs(rel)
    bucket = distance
    if distance >= exact:
        # The largest j with (max_dist / m)^j <= (d / m)^m, both sides times m^m.
        j = 0
        while j < half and max_dist ** (j + 1) * exact ** (exact - j - 1) <= distance**exact:
            j += 1
        bucket = min(exact + j, half - 1)
    return bucket + half * (rel > 0)


# (buckets, max_dist), and the distances where the quotient of the logarithms is whole.
BUCKETS = ((8, 20, ()), (20, 100, ()), (32, 128, (16, 32, 64)), (64, 200, ()))


def distances(last: int, left_out: tuple[int, ...] = ()) -> Tensor:
    """All whole numbers from -last to last, but for those left out."""
    rel = torch.arange(-last, last + 1)
    return rel[[abs(int(r)) not in left_out for r in rel]]


def wrong_buckets(rel: Tensor, buckets: int, max_dist: int) -> dict[str, Tensor]:
    """What known mistakes give: sentence -> buckets like `rel`."""
    half, exact = buckets // 2, buckets // 4
    distance = rel.abs()
    share = torch.log(distance.clamp(1).double() / exact) / math.log(max_dist / exact) * exact

    def bucket(far: Tensor, later: Tensor) -> Tensor:
        far = (exact + far.long()).clamp(max=half - 1)
        return torch.where(distance < exact, distance, far) + half * later

    after = rel > 0
    return {
        "the direction is not told apart: add buckets/2 where rel > 0": bucket(
            share, after & False
        ),
        "the direction is turned around: buckets/2 is added where rel > 0, a key after the query": (
            bucket(share, rel < 0)
        ),
        "the distance 0 is counted as rel > 0": bucket(share, rel >= 0),
        "the logarithm is rounded to the nearest; it must be rounded down": bucket(
            share.round(), after
        ),
    }


@pytest.mark.task("alibi_and_relative")
class TestAlibiAndRelative:
    @pytest.mark.points(3, "value")
    def test_alibi(self, submission, device):
        """The bias is -slope times the distance."""

        def check(case):
            heads, seq_q, seq_k = case.values()
            got = submission.alibi_bias(heads, seq_q, seq_k, device=device)
            expected = bias_by_loop(slopes_of(heads), seq_q, seq_k).to(device)
            known = wrong_bias(heads, seq_q, seq_k)
            explain = {text: wrong.to(device) for text, wrong in known.items()}
            assert_close(got, expected, axes=("head", "query", "key"), explain=explain)

        sizes = (2, 3, 3), (4, 3, 5), (2, 1, 7), (2, 5, 3), (4, 11, 13), (1, 2, 3)
        smallest(check, [{"heads": h, "seq_q": q, "seq_k": k} for h, q, k in sizes])

    @pytest.mark.points(2, "value")
    @pytest.mark.parametrize("heads", [8, 6, 12, 3])
    def test_slopes(self, submission, heads):
        """Any number of heads has its slopes."""
        got = submission.alibi_bias(heads, 5, 5)
        assert_shape(got, heads=heads, seq_q=5, seq_k=5)
        slopes = -got[:, -1, -2]
        expected = torch.tensor(slopes_of(heads))
        power = below(heads)
        explain = {
            "the slopes start with j = 0; the first one is 2^(-8/h)": torch.tensor(
                [2.0 ** (-8 * j / heads) for j in range(heads)]
            )
        }
        if power != heads:
            explain |= {
                "2^(-8j/h) is for powers of two only; see the rule for other numbers of "
                "heads": torch.tensor([2.0 ** (-8 * j / heads) for j in range(1, heads + 1)]),
                "the further slopes are the first ones for 2n in a row; take every second one: "
                "first, third and so on": torch.tensor(
                    slopes_of(power) + slopes_of(2 * power)[: heads - power]
                ),
                "the further slopes are the second, fourth and so on of those for 2n; take the "
                "first, third and so on": torch.tensor(
                    slopes_of(power) + slopes_of(2 * power)[1::2][: heads - power]
                ),
            }
        assert_close(
            slopes, expected, what=f"the list of slopes for {heads} heads", explain=explain
        )

    @pytest.mark.points(2, "value")
    def test_alignment(self, submission):
        """The last query stands at the last key."""

        def check(case):
            seq_q, seq_k = case.values()
            got = submission.alibi_bias(2, seq_q, seq_k)
            assert_shape(got, heads=2, seq_q=seq_q, seq_k=seq_k)
            for i in range(seq_q):
                j = i + seq_k - seq_q
                if j < 0:
                    continue
                value = got[0, i, j].item()
                expect(
                    value == 0,
                    f"query {i} of {seq_q} stands at key {j} of {seq_k}, where the bias must be 0; "
                    f"it is {value:g}. The last query stands at the last key",
                    id="alibi.alignment",
                    expected=0.0,
                    got=value,
                )
                near = got[:, i, :j].max().item() if j else -1.0
                expect(
                    near < 0,
                    f"query {i} of {seq_q} stands at key {j} of {seq_k}, and a key before it has a "
                    f"bias of {near:g}; all others are pushed down, below 0",
                    id="alibi.sign",
                )

        smallest(check, [{"seq_q": q, "seq_k": k} for q, k in ((1, 2), (2, 5), (7, 11), (5, 3))])

    @pytest.mark.points(3, "value")
    @pytest.mark.parametrize(
        ("buckets", "max_dist", "left_out"), BUCKETS, ids=["8-20", "20-100", "32-128", "64-200"]
    )
    def test_buckets(self, submission, device, buckets, max_dist, left_out):
        """Every distance has its bucket."""

        def check(case):
            rel = case["rel"].to(device)
            got = submission.t5_bucket(rel.clone(), buckets, max_dist)
            by_rule = [bucket_by_rule(int(r), buckets, max_dist) for r in case["rel"]]
            expected = torch.tensor(by_rule, device=device)
            explain = wrong_buckets(case["rel"], buckets, max_dist)
            explain = {text: wrong.to(device) for text, wrong in explain.items()}
            told = {}
            for text, wrong in explain.items():
                if not any(torch.equal(wrong, other) for other in told.values()):
                    told[text] = wrong
            what = f"t5_bucket(rel, {buckets}, {max_dist})"
            assert_shape(got, rel=len(rel))
            assert_dtype(got, torch.int64, what)
            wrong = [i for i, same in enumerate((got == expected).tolist()) if not same]
            if wrong and not any(torch.equal(got, mistake) for mistake in told.values()):
                near = min(wrong, key=lambda i: abs(int(case["rel"][i])))
                fail(
                    f"t5_bucket({int(case['rel'][near])}, {buckets}, {max_dist}) is "
                    f"{int(got[near])}; expected {by_rule[near]} ({len(wrong)} of {len(rel)} "
                    "distances differ, this one is the smallest)",
                    id="bucket.value",
                    expected=by_rule[near],
                    got=int(got[near]),
                )
            assert_equal(got, expected, what, told)

        smallest(check, [{"rel": distances(last, left_out)} for last in (1, 5, 40, 600)])

    @pytest.mark.points(2, "value")
    def test_order(self, submission):
        """Buckets are exact near by, clipped far away, never falling."""
        last = 600
        got = submission.t5_bucket(torch.arange(-last, last + 1))
        assert_shape(got, rel=2 * last + 1)
        before, after = got[: last + 1].flip(0), got[last:]  # by distance, from 0
        expect(
            before[:8].tolist() == list(range(8)),
            f"with 32 buckets the distances 0 to 7 before the query have the buckets "
            f"{before[:8].tolist()}; each has its own, 0 to 7",
            id="bucket.exact",
        )
        expect(
            after[1:8].tolist() == list(range(17, 24)),
            f"with 32 buckets the distances 1 to 7 after the query have the buckets "
            f"{after[1:8].tolist()}; they are 16 + the distance",
            id="bucket.direction",
        )
        for side, words, top in ((before, "before", 15), (after[1:], "after", 31)):
            fall = side.diff().min().item()
            expect(
                fall >= 0,
                f"{words} the query a farther key has a smaller bucket",
                id="bucket.falls",
            )
            far = int(side[-1])
            expect(
                far == top and bool((side[130:] == top).all()),
                f"{words} the query, 600 places away, the bucket is {far}; from max_dist on it is "
                f"{top}, the last one of its direction",
                id="bucket.clipped",
                expected=top,
                got=far,
            )

    @pytest.mark.points(1, "shape")
    def test_any_shape(self, submission):
        """rel may have any shape; int64 comes out."""
        table = torch.arange(7) - torch.arange(5)[:, None]
        got = assert_unchanged(submission.t5_bucket, table)
        assert_shape(got, seq_q=5, seq_k=7)
        assert_dtype(got, torch.int64)
        one = submission.t5_bucket(torch.tensor(3))
        assert_shape(one)
        assert_equal(one, torch.tensor(19), "t5_bucket(torch.tensor(3))")
        assert_shape(submission.t5_bucket(torch.zeros(0, 2, dtype=torch.int64)), a=0, b=2)

    @pytest.mark.points(1, "structure")
    def test_device(self, submission):
        """Both stay on their device."""
        got = submission.alibi_bias(6, 3, 5, device="meta")
        assert_device(got, "meta")
        assert_shape(got, heads=6, seq_q=3, seq_k=5)
        assert_runs_on_meta(submission.t5_bucket, torch.arange(-5, 6))
        assert_runs_on_meta(submission.t5_bucket, torch.arange(-5, 6), 8, 20)

    @pytest.mark.points(1, "structure")
    def test_no_loop(self, submission):
        """There is no loop over positions."""
        assert_no_python_loop(lambda n: submission.alibi_bias(4, n, n + 3), lambda n: (n,))
        assert_no_python_loop(submission.t5_bucket, lambda n: (torch.arange(-n, n),))


# --- 5 ------------------------------------------------------------------------------------------

KINDS = ("learned", "sinusoidal")


def token_of(layer: nn.Module) -> nn.Embedding:
    """The module `token`."""
    token = getattr(layer, "token", None)
    if not isinstance(token, nn.Embedding):
        fail("the module has no nn.Embedding called `token`", id="input.token")
    return token


def positions_of(layer: nn.Module) -> nn.Parameter:
    """The learned positions: the one parameter beside the tokens'."""
    token = token_of(layer).weight
    others = [(n, p) for n, p in layer.named_parameters() if p is not token]
    if len(others) != 1:
        names = ", ".join(name for name, _ in others) or "none"
        fail(
            "with kind='learned' there is one parameter beside token.weight, (max_len, dim); "
            f"found {names}",
            id="input.parameters",
        )
    return others[0][1]


def built(submission, kind, *, vocab=13, dim=6, max_len=11, **rest) -> nn.Module:
    """An embedding with random weights, in which tokens and positions are of the same size."""
    layer = submission.InputEmbedding(vocab, dim, max_len, kind, **rest)
    with torch.no_grad():
        token_of(layer).weight.copy_(randn(vocab, dim))
        if kind == "learned":
            position = positions_of(layer)
            assert_shape(position, max_len=max_len, dim=dim)
            position.copy_(randn(max_len, dim))
    return layer


def position_rows(layer: nn.Module, kind: str, start: int, seq: int) -> Tensor:
    """The rows that are added, (seq, dim), in float64."""
    dim = token_of(layer).weight.shape[1]
    if kind == "learned":
        return positions_of(layer).detach().cpu().double()[start : start + seq]
    return sines(range(start, start + seq), dim)


def sum_of(layer: nn.Module, kind: str, ids: Tensor, start: int = 0, **wrong: float) -> Tensor:
    """token * sqrt(dim) + position in float64; `tokens=` and `rows=` are other factors."""
    weight = token_of(layer).weight.detach().cpu().double()
    rows = position_rows(layer, kind, start, ids.shape[1])
    factor = wrong.get("tokens", weight.shape[1] ** 0.5)
    return by_one_hot(ids, weight) * factor + rows * wrong.get("rows", 1.0)


def wrong_sums(layer: nn.Module, kind: str, ids: Tensor, start: int = 0) -> dict[str, Tensor]:
    """What known mistakes give: sentence -> (batch, seq, dim) in float64."""
    dim = token_of(layer).weight.shape[1]
    known = {
        "the tokens are not scaled by sqrt(dim)": sum_of(layer, kind, ids, start, tokens=1.0),
        "the positions are scaled by sqrt(dim) too; only the tokens are": sum_of(
            layer, kind, ids, start, rows=dim**0.5
        ),
        "the positions are not added": sum_of(layer, kind, ids, start, rows=0.0),
        "the tokens are scaled by dim; the factor is its root": sum_of(
            layer, kind, ids, start, tokens=float(dim)
        ),
        "the positions are scaled by sqrt(dim) and the tokens are not": sum_of(
            layer, kind, ids, start, tokens=1.0, rows=dim**0.5
        ),
    }
    if start:
        known["start has no effect: the positions begin at 0"] = sum_of(layer, kind, ids)
    return known


@pytest.mark.task("InputEmbedding")
class TestInputEmbedding:
    @pytest.mark.points(4, "value")
    @pytest.mark.parametrize("kind", KINDS)
    def test_value(self, submission, kind, device):
        """Scaled tokens plus positions come out."""
        axes = ("batch", "seq", "dim")

        def check(case):
            shape, vocab, dim, max_len, start = case.values()
            layer = built(submission, kind, vocab=vocab, dim=dim, max_len=max_len).to(device)
            ids = rand_ints(*shape, high=vocab, device=device)
            got = layer(ids.clone(), start=start) if start else layer(ids.clone())
            expected = sum_of(layer, kind, ids.cpu(), start).float().to(device)
            known = wrong_sums(layer, kind, ids.cpu(), start)
            explain = {text: wrong.float().to(device) for text, wrong in known.items()}
            assert_close(got, expected, atol=2e-6, axes=axes, explain=explain)

        smallest(
            check,
            [
                {"shape": (1, 1), "vocab": 3, "dim": 2, "max_len": 5, "start": 0},
                {"shape": (1, 3), "vocab": 5, "dim": 6, "max_len": 7, "start": 0},
                {"shape": (3, 5), "vocab": 11, "dim": 10, "max_len": 7, "start": 0},
                {"shape": (2, 7), "vocab": 11, "dim": 10, "max_len": 7, "start": 0},
                {"shape": (2, 3), "vocab": 11, "dim": 10, "max_len": 13, "start": 4},
            ],
        )

    @pytest.mark.points(3, "value")
    @pytest.mark.parametrize("kind", KINDS)
    def test_chunks(self, submission, kind):
        """A sequence in pieces gives what the whole gives."""
        layer = built(submission, kind)
        ids = rand_ints(3, 11, high=13)
        whole = assert_tensor(layer(ids.clone()))
        assert_shape(whole, batch=3, seq=11, dim=6)
        for k in (1, 4, 10):
            rest = layer(ids[:, k:].clone(), start=k)
            wrong = sum_of(layer, kind, ids[:, k:]).float()
            explain = {"start has no effect: the positions begin at 0 again": wrong}
            what = f"forward(ids[:, {k}:], start={k})"
            assert_close(rest, whole[:, k:], atol=2e-6, what=what, explain=explain)
        one_by_one = torch.cat([layer(ids[:, k : k + 1], k) for k in range(11)], dim=1)
        assert_close(one_by_one, whole, atol=2e-6, what="one token after the other")

    @pytest.mark.points(2, "value")
    def test_past_max_len(self, submission):
        """Learned positions end at max_len, with an error that says so."""
        layer = submission.InputEmbedding(13, 6, 5, "learned")
        assert_shape(layer(rand_ints(2, 5, high=13)), batch=2, seq=5, dim=6)
        assert_shape(layer(rand_ints(2, 2, high=13), start=3), batch=2, seq=2, dim=6)
        for seq, start in ((6, 0), (1, 5), (3, 3), (2, 40)):
            ids = rand_ints(2, seq, high=13)
            assert_raises(ValueError, layer, ids, start=start, text="max_len")

    @pytest.mark.points(2, "value")
    def test_goes_on(self, submission):
        """Sinusoidal positions go on past max_len."""
        layer = built(submission, "sinusoidal", max_len=5)
        for seq, start in ((3, 0), (7, 0), (3, 4), (2, 2000), (3, 0), (11, 3)):
            ids = rand_ints(2, seq, high=13)
            try:
                got = layer(ids.clone(), start=start)
            except (ValueError, IndexError, RuntimeError) as error:
                fail(
                    f"with max_len=5, {seq} tokens from position {start} on raise "
                    f"{type(error).__name__} ({str(error).splitlines()[0]}); sinusoidal positions "
                    "have no end",
                    id="input.goes_on",
                )
            expected = sum_of(layer, "sinusoidal", ids, start).float()
            explain = {
                text: wrong.float()
                for text, wrong in wrong_sums(layer, "sinusoidal", ids, start).items()
            }
            at = range(start, start + seq)
            tokens = sum_of(layer, "sinusoidal", ids, start, rows=0.0)
            explain |= {
                "past max_len the positions start again at 0; they go on": (
                    tokens + sines([p % 5 for p in at], 6)
                ).float(),
                "past max_len the last position is repeated; they go on": (
                    tokens + sines([min(p, 4) for p in at], 6)
                ).float(),
            }
            what = f"the result for positions {start} to {start + seq - 1}, max_len=5,"
            assert_close(got, expected, atol=4e-6, what=what, explain=explain)

    @pytest.mark.points(2, "structure")
    def test_state(self, submission):
        """Only learned positions are a parameter, and a state_dict loads."""
        layer = built(submission, "sinusoidal")
        names = [name for name, _ in layer.named_parameters()]
        assert_equal(names, ["token.weight"], "the list of parameters with kind='sinusoidal'")
        names = [n for n, _ in submission.InputEmbedding(7, 4, 5, "learned").named_parameters()]
        expect(
            len(names) == 2 and "token.weight" in names,
            f"with kind='learned' the parameters are {', '.join(names)}; expected token.weight and "
            "one for the positions",
            id="input.parameters",
        )
        for kind in KINDS:
            layer = built(submission, kind)
            ids = rand_ints(2, 11, high=13)
            if kind == "sinusoidal":
                layer(ids, start=9)  # past max_len
            fresh = submission.InputEmbedding(13, 6, 11, kind)
            try:
                fresh.load_state_dict(layer.state_dict())
            except RuntimeError as error:
                fail(
                    f"a fresh module with kind={kind!r} doesn't load the state_dict of another one",
                    id="input.state_dict",
                    details=tuple(str(error).splitlines()[:3]),
                )
            assert_close(fresh(ids), layer(ids), what="the result of the fresh module")

    @pytest.mark.points(2, "structure")
    @pytest.mark.parametrize("kind", KINDS)
    def test_moves(self, submission, kind):
        """Positions follow the module's device and dtype."""
        layer = built(submission, kind)
        ids = rand_ints(2, 5, high=13)
        assert_runs_on_meta(layer, ids)
        assert_runs_on_meta(layer, ids, start=3)
        if kind == "sinusoidal":
            assert_runs_on_meta(layer, ids, start=9)
        for dtype in (torch.float64, torch.bfloat16):
            moved = copy.deepcopy(layer).to(dtype)
            starts = (0, 3, 9) if kind == "sinusoidal" else (0, 3)
            for start in starts:
                got = moved(ids.clone(), start=start)
                assert_dtype(got, dtype, f"the result of a module moved to {dtype}")
                expected = sum_of(moved, kind, ids, start).to(dtype)
                tolerance = 4e-2 if dtype == torch.bfloat16 else 1e-6
                assert_close(got, expected, rtol=tolerance, atol=tolerance)

    @pytest.mark.points(2, "value")
    @pytest.mark.parametrize("kind", KINDS)
    def test_dropout(self, submission, kind):
        """Dropout is on the sum, in training only."""
        layer = built(submission, kind, vocab=13, dim=10, max_len=101, p=0.25)
        ids = rand_ints(3, 101, high=13)
        layer.eval()
        quiet = layer(ids.clone())
        layer.train()
        got = assert_tensor(layer(ids.clone())).detach()
        exact = sum_of(layer, kind, ids).float()
        assert_close(quiet, exact, atol=4e-6, what="the result in evaluation")
        share = (got == 0).double().mean().item()
        sigma = (0.25 * 0.75 / got.numel()) ** 0.5
        expect(
            abs(share - 0.25) < 5 * sigma,
            f"in training with p=0.25, {100 * share:.1f} % of the elements are 0; about 25 % of "
            "the sum are to be dropped, tokens and positions together",
            id="input.dropout",
            expected=0.25,
            got=share,
        )
        expected = torch.where(got == 0, 0.0, exact / 0.75)
        what = "what dropout leaves of the sum"
        assert_close(got, expected, atol=4e-6, what=what)

    @pytest.mark.points(2, "structure")
    @pytest.mark.parametrize("kind", KINDS)
    def test_tied(self, submission, kind):
        """Tied weights are one Parameter and stay one."""
        head = nn.Linear(6, 13, bias=False)
        layer = submission.InputEmbedding(13, 6, 11, kind, tie=head)

        def look(model, when):
            token, out = token_of(model["embedding"]).weight, model["head"].weight
            expect(
                token.untyped_storage().data_ptr() == out.untyped_storage().data_ptr(),
                f"{when}, token.weight and tie.weight are two tensors",
                id="tie.storage",
            )
            expect(
                token is out,
                f"{when}, token.weight and tie.weight share their memory and are two Parameters: "
                "each gets a gradient of its own, and an optimizer moves both",
                id="tie.parameter",
            )
            listed = [p for p in model.parameters() if p.shape == (13, 6)]
            expect(
                len(listed) == 1,
                f"{when}, parameters() lists {len(listed)} tensors (vocab, dim); expected one",
                id="tie.listed",
                expected=1,
                got=len(listed),
            )

        model = nn.ModuleDict({"embedding": layer, "head": head})
        look(model, "after construction")
        look(model.to(torch.float64), "after .to(float64)")
        look(copy.deepcopy(model), "in a deepcopy")
        other_head = nn.Linear(6, 13, bias=False)
        other = nn.ModuleDict(
            {
                "embedding": submission.InputEmbedding(13, 6, 11, kind, tie=other_head),
                "head": other_head,
            }
        )
        other.load_state_dict(model.state_dict())
        look(other, "after load_state_dict")
        loaded_weight = other["head"].weight.detach()
        assert_close(loaded_weight, head.weight.detach().float(), what="the weight that was loaded")

    @pytest.mark.points(3, "gradient")
    @pytest.mark.parametrize("kind", KINDS)
    def test_gradient(self, submission, kind):
        """Tied weights get the gradients of both paths."""
        vocab, dim, max_len = 7, 4, 5
        head = nn.Linear(dim, vocab, bias=False)
        layer = built(submission, kind, vocab=vocab, dim=dim, max_len=max_len, tie=head).double()
        head.double()
        ids, upstream = rand_ints(2, 3, high=vocab), randn(2, 3, vocab, dtype=torch.float64)
        table = token_of(layer).weight.detach().clone()
        (head(layer(ids.clone(), start=1)) * upstream).sum().backward()
        got = token_of(layer).weight.grad
        rows = position_rows(layer, kind, 1, 3)
        hot = by_one_hot(ids, torch.eye(vocab, dtype=torch.float64))
        into = hot @ table * dim**0.5 + rows  # (batch, seq, dim)
        out = torch.einsum("bsv,bsd->vd", upstream, into)
        back = upstream @ table
        inward = torch.einsum("bsv,bsd->vd", hot, back) * dim**0.5
        explain = {
            "only the path through the token table counts; the gradient is the sum of both": inward,
            "only the path through the head counts; the gradient is the sum of both": out,
        }
        # Positions of a table that was moved to float64 are rounded to float32.
        what = "the gradient of the tied weight"
        assert_close(got, out + inward, rtol=1e-6, atol=1e-5, what=what, explain=explain)
        if kind == "learned":
            expected = torch.zeros(max_len, dim, dtype=torch.float64)
            expected[1:4] = back.sum(0)
            what = "the gradient of the learned positions"
            assert_close(positions_of(layer).grad, expected, what=what)

    @pytest.mark.points(1, "value")
    def test_start(self, submission):
        """Tables start at N(0, 0.02)."""
        layer = submission.InputEmbedding(499, 14, 251, "learned")
        assert_normal(token_of(layer).weight, 0.02, "token.weight")
        assert_normal(positions_of(layer), 0.02, "the learned positions")
        tied = submission.InputEmbedding(
            499, 14, 251, "sinusoidal", tie=nn.Linear(14, 499, bias=False)
        )
        assert_normal(token_of(tied).weight, 0.02, "the tied token.weight")

    @pytest.mark.points(2, "training")
    @pytest.mark.parametrize("kind", KINDS)
    def test_first_loss(self, submission, kind):
        """The first loss is that of guessing."""
        vocab, dim, seq = 65, 64, 31
        head = nn.Linear(dim, vocab, bias=False)
        layer = submission.InputEmbedding(vocab, dim, seq, kind, tie=head)
        ids, targets = rand_ints(16, seq, high=vocab), rand_ints(16, seq, high=vocab)
        logits = head(F.layer_norm(layer(ids), (dim,)))
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()
        guess = math.log(vocab)
        measured(f"{loss:.2f}")
        expect(
            abs(loss - guess) < 0.1 * guess,
            f"before any training the loss is {loss:.2f}; guessing among {vocab} tokens costs "
            f"ln {vocab} = {guess:.2f}. A tied head as wide as N(0, 1) is sure of wrong answers",
            id="input.first_loss",
            expected=guess,
            got=loss,
        )
