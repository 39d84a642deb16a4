"""Day 4 asks what indexing copies, and for gathering, scattering, masking and a segment softmax."""

import math

import numpy as np
import pytest
import torch
import torch._dynamo  # a comparison on the meta device imports it; a second that no check pays
from torch import Tensor

from grader.testing import (
    assert_close,
    assert_copy,
    assert_dtype,
    assert_equal,
    assert_gradients,
    assert_gradients_close,
    assert_no_python_loop,
    assert_peak_memory,
    assert_raises,
    assert_runs_on_meta,
    assert_shape,
    assert_tensor,
    assert_unchanged,
    count_ops,
    expect,
    fail,
    loop_oracle,
    picture,
    rand_ints,
    smallest,
)

# Views and copies.

SLICES = "ints, slices, `None` and `...` only choose another start, other sizes or other strides"
LISTS = "the places that a list, a mask or an index tensor names have no common stride in general"
STRIDES = "ask whether a start, sizes and strides on the memory of x describe the result"
NOTHING_TO_DO = "where nothing has to change, the method gives x itself"
EVERY_TIME = "it makes a new tensor, whatever it is given"

REASONS = {
    "x[1]": SLICES,
    "x[0:1]": SLICES,
    "x[:, ::2]": SLICES,
    "x[..., None]": SLICES,
    "x[[1]]": LISTS,
    "x[:, [0, 2]]": LISTS,
    "x[x > 0]": LISTS,
    "x[torch.tensor(1)]": "an integer tensor without dimensions selects like an int",
    "x.mT": STRIDES,
    "x.flatten()": STRIDES,
    "x.transpose(0, 1).reshape(-1)": STRIDES,
    "x.expand(5, 2, 3, 4)": "an axis may have the stride 0",
    "x.diagonal()": STRIDES,
    "x.unfold(2, 2, 1)": "windows may overlap: two axes may step through the same memory",
    "x.chunk(2)[0]": STRIDES,
    "x.contiguous()": NOTHING_TO_DO,
    "x.to(torch.float32)": NOTHING_TO_DO,
    "x.detach()": "it leaves the graph, not the memory",
    "x.clone()": EVERY_TIME,
    "x.repeat(1, 1, 1)": EVERY_TIME,
    "torch.stack(list(x))": EVERY_TIME,
}


def evaluated(expression: str) -> str:
    """What an expression gives, found by trying it."""
    x = torch.randn(2, 3, 4)
    result = eval(expression, {"torch": torch, "x": x})
    shares = result.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    return "view" if shares else "copy"


def predictions(submission) -> dict[str, str]:
    """The learner's dict."""
    answer = submission.view_or_copy()
    expect(
        isinstance(answer, dict),
        f"the result should be a dict from expression to answer; it is a {type(answer).__name__}",
        id="value.dict",
    )
    return answer


def check_predictions(submission, *expressions: str) -> None:
    """The answers to some of the expressions."""
    answer = predictions(submission)
    for expression in expressions:
        if expression not in answer:
            fail(f"the dict has no key `{expression}`", id="value.key")
        said, expected = answer[expression], evaluated(expression)
        if said != expected:
            fail(
                f"the answer to `{expression}` is {said!r}; it doesn't hold: {REASONS[expression]}",
                id="value.prediction",
            )


@pytest.mark.task("view_or_copy")
class TestViewOrCopy:
    @pytest.mark.points(1, "structure")
    def test_keys(self, submission):
        """Every expression is a key, as printed, with "view" or "copy"."""
        answer = predictions(submission)
        missing = [each for each in REASONS if each not in answer]
        unknown = [key for key in answer if key not in REASONS]
        also = f"; it has the key {unknown[0]!r}, which is none of them" if unknown else ""
        expect(
            not missing,
            f"{len(missing)} of {len(REASONS)} expressions are no key of the dict, the first is "
            f"`{missing[0] if missing else ''}`{also}",
            id="value.key",
        )
        expect(
            not unknown,
            f"the dict has the key {unknown[0] if unknown else ''!r}, which is none of the "
            "expressions",
            id="value.key",
        )
        for key, value in answer.items():
            expect(
                value in ("view", "copy"),
                f'the answer to `{key}` is {value!r}; "view" and "copy" are the two answers',
                id="value.word",
            )

    @pytest.mark.points(2, "theory")
    def test_basic_indexing(self, submission):
        """Indexing with ints, slices and None is predicted."""
        check_predictions(submission, "x[1]", "x[0:1]", "x[:, ::2]", "x[..., None]")

    @pytest.mark.points(2, "theory")
    def test_advanced_indexing(self, submission):
        """Indexing with lists and masks is predicted."""
        check_predictions(submission, "x[[1]]", "x[:, [0, 2]]", "x[x > 0]")

    @pytest.mark.points(1, "theory")
    def test_index_without_dimensions(self, submission):
        """Indexing with a 0-dim integer tensor is predicted."""
        check_predictions(submission, "x[torch.tensor(1)]")

    @pytest.mark.points(2, "theory")
    def test_shapes_and_strides(self, submission):
        """What strides can express is predicted, and what they can't."""
        check_predictions(
            submission,
            "x.mT",
            "x.flatten()",
            "x.transpose(0, 1).reshape(-1)",
            "x.expand(5, 2, 3, 4)",
            "x.diagonal()",
            "x.unfold(2, 2, 1)",
            "x.chunk(2)[0]",
        )

    @pytest.mark.points(1, "theory")
    def test_conversions(self, submission):
        """Which methods copy although nothing changes is predicted."""
        check_predictions(
            submission,
            "x.contiguous()",
            "x.to(torch.float32)",
            "x.detach()",
            "x.clone()",
            "x.repeat(1, 1, 1)",
            "torch.stack(list(x))",
        )

    @pytest.mark.points(1, "structure")
    def test_predicted(self, submission):
        """It is a prediction: nothing of torch is called."""
        log = count_ops(submission.view_or_copy)
        expect(
            not log.total,
            f"view_or_copy calls torch's {log.ops[0].name if log.ops else ''}; predict what the "
            "expressions give, and try them outside of the function",
            id="forbidden",
        )


# Other rows from each batch entry.


def rows_one_by_one(x: Tensor, idx: Tensor) -> Tensor:
    """Row by row, with Python's own reading of an index."""
    batch, k = idx.shape
    if not idx.numel():
        return x.new_empty(batch, k, x.shape[2])
    wanted = idx.tolist()
    return torch.stack(
        [torch.stack([list(x[b])[wanted[b][j]] for j in range(k)]) for b in range(batch)]
    )


def check_rows(submission, x: Tensor, idx: Tensor) -> None:
    """The rows, with the known mistakes by name."""
    got = assert_tensor(submission.take_per_row(x.clone(), idx.clone()))
    expected = rows_one_by_one(x, idx)
    (batch, n, feat), k = x.shape, idx.shape[1]
    if got.ndim == 4 and got.shape == (batch, batch, k, feat):
        fail(
            f"the result has shape {tuple(got.shape)}: every row of idx was applied to every batch "
            f"entry; row b of idx belongs to x[b] alone, which gives {(batch, k, feat)}",
            id="shape.all_pairs",
        )
    if feat > 1 and got.shape == (batch, k, 1):
        fail(
            f"the result has shape {tuple(got.shape)}: one number of each row instead of its "
            f"{feat}; gather gives as many elements as its index has, and broadcasts nothing",
            id="shape.gather",
        )
    explain = {}
    if idx.numel() and n:
        explain = {
            "the indices of batch entry 0 were used for every batch entry": x[:, idx[0]],
            "the rows were counted through the whole batch, so they come from x[0]; row b of idx "
            "belongs to x[b]": x.reshape(-1, feat)[idx],
            "a negative index runs into the batch entry before; -1 is the last row of its own": (
                x.reshape(-1, feat)[idx + n * torch.arange(batch)[:, None]]
            ),
            "negative indices were replaced by 0; -1 is the last row": x[
                torch.arange(batch)[:, None], idx.clamp_min(0)
            ],
            "the sign of negative indices was dropped; -1 is the last row": x[
                torch.arange(batch)[:, None], idx.abs() % n
            ],
        }
    assert_close(got, expected, axes=("batch", "k", "feat"), explain=explain)


def index_map(submission) -> None:
    """Attach the picture of which row each result was read from, as the learner's code has it."""
    cells = torch.arange(6.0).reshape(2, 3, 1)
    idx = torch.tensor([[2, 0, 2, 1, 0], [0, 1, 1, 2, 1]])
    got = submission.take_per_row(cells.clone(), idx.clone())
    if not isinstance(got, Tensor) or got.shape != (2, 5, 1):
        return
    read = got[:, :, 0].tolist()
    again = [
        [b, j] for b, row in enumerate(read) for j, value in enumerate(row) if value in row[:j]
    ]
    again = [[b, j] for b, j in again if math.isfinite(read[b][j])]
    picture(
        "heatmap",
        "Index map",
        "Left the rows of x, numbered; right the number of the row that each result was read "
        f"from. {len(again)} results, marked, read a row that was read before.",
        maps=[
            {"label": "rows of x", "values": cells[:, :, 0], "marked": [], "scale": "sequential"},
            {"label": "result", "values": read, "marked": again, "scale": "sequential"},
        ],
        row_axis="batch",
        column_axis="row",
        origin=[0, 0],
    )


@pytest.mark.task("take_per_row")
class TestTakePerRow:
    @pytest.mark.points(2, "value")
    def test_rows(self, submission):
        """Entry [b, j] is row idx[b, j] of x[b]."""
        index_map(submission)
        smallest(
            lambda case: check_rows(
                submission,
                torch.randn(case["batch"], case["n"], case["feat"], dtype=torch.float64),
                rand_ints(case["batch"], case["k"], high=case["n"]),
            ),
            [
                {"batch": 2, "n": 3, "feat": 2, "k": 1},
                {"batch": 2, "n": 5, "feat": 3, "k": 2},
                {"batch": 3, "n": 7, "feat": 2, "k": 5},
                {"batch": 3, "n": 7, "feat": 2, "k": 5},
            ],
        )

    @pytest.mark.points(1, "value")
    def test_negative(self, submission):
        """Negative indices count from the end."""
        x = torch.randn(2, 5, 3)
        for idx in ([[-1, 1], [0, -1]], [[-5, 4, -2], [3, -3, -4]]):
            check_rows(submission, x, torch.tensor(idx))

    @pytest.mark.points(1, "value")
    def test_more_rows_than_there_are(self, submission):
        """k may be larger than n: rows come more than once."""
        check_rows(submission, torch.randn(3, 2, 5), rand_ints(3, 7, high=2))

    @pytest.mark.points(1, "value")
    def test_no_rows(self, submission):
        """With k = 0 the result has no rows."""
        got = submission.take_per_row(torch.randn(2, 3, 5), torch.empty(2, 0, dtype=torch.int64))
        assert_shape(got, batch=2, k=0, feat=5)

    @pytest.mark.points(1, "value")
    def test_sizes_of_one(self, submission):
        """Sizes of 1 are no exception."""
        smallest(
            lambda case: check_rows(
                submission,
                torch.randn(case["batch"], case["n"], case["feat"]),
                rand_ints(case["batch"], case["k"], high=case["n"]),
            ),
            [
                {"batch": 1, "n": 3, "feat": 2, "k": 2},
                {"batch": 3, "n": 5, "feat": 1, "k": 2},
                {"batch": 3, "n": 1, "feat": 5, "k": 2},
                {"batch": 3, "n": 5, "feat": 2, "k": 1},
                {"batch": 1, "n": 1, "feat": 1, "k": 1},
            ],
        )

    @pytest.mark.points(2, "gradient")
    def test_gradient(self, submission):
        """Gradients reach x, and those of repeated rows add up."""
        idx = torch.tensor([[0, 2, 0, 0], [4, 1, 4, 2]])
        x = torch.randn(2, 5, 3, dtype=torch.float64)
        assert_gradients_close(
            lambda x: submission.take_per_row(x, idx.clone()),
            lambda x: rows_one_by_one(x, idx),
            x,
            names=("x",),
        )

    @pytest.mark.points(1, "structure")
    def test_no_loop(self, submission):
        """A larger batch or k takes no more operations."""
        for make in (
            lambda size: (torch.randn(size, 5, 2), rand_ints(size, 3, high=5)),
            lambda size: (torch.randn(2, 5, 3), rand_ints(2, size, high=5)),
        ):
            assert_no_python_loop(submission.take_per_row, make)

    @pytest.mark.points(1, "structure")
    def test_leaves_its_arguments_alone(self, submission):
        """x and idx come back unchanged, negative indices too."""
        idx = torch.tensor([[0, -1, 2], [-3, 1, -2]])
        assert_unchanged(submission.take_per_row, torch.randn(2, 5, 3), idx)


# Adding to bins.


def added_at(bins: Tensor, idx: Tensor, w: Tensor) -> Tensor:
    """What NumPy's `add.at` makes of it."""
    result = bins.numpy().copy()
    np.add.at(result, idx.numpy(), w.numpy())
    return torch.from_numpy(result)


def added_one_by_one(bins: Tensor, idx: Tensor, w: Tensor) -> Tensor:
    """The same in a form that has gradients: each bin and the weights that belong to it."""
    return torch.stack([bins[i] + w[idx == i].sum() for i in range(len(bins))])


def check_bins(submission, bins: Tensor, idx: Tensor, w: Tensor) -> None:
    """One histogram, with the known mistakes by name."""
    got = assert_tensor(submission.histogram_add(bins.clone(), idx.clone(), w.clone()))
    expected = added_at(bins, idx, w)
    if got.ndim == 1 and len(idx) and len(got) == int(idx.max()) + 1 < len(bins):
        fail(
            f"the result has {len(got)} bins, up to the largest index; bins has {len(bins)}, also "
            "if nothing falls into the last ones",
            id="shape.bins",
        )
    once = bins.clone()
    once[idx] += w
    over = bins.clone()
    over[idx] = w
    assert_close(
        got,
        expected,
        axes=("bin",),
        what="the histogram",
        explain={
            "only one of the weights of each bin was added: `out[idx] += w` reads every place "
            "once, adds, and writes; where an index comes twice, the last write wins": once,
            "the last weight of each bin was written over what was there; it should be added": over,
            "the weights alone are counted; the result starts from bins": expected - bins,
            "every index counts as 1; its weight should be added": added_at(
                bins, idx, torch.ones_like(w)
            ),
            "nothing was added": bins,
        },
    )


def bin_map() -> None:
    """Attach the picture of which weight goes into which bin."""
    idx = [1, 3, 1, 0, 3, 1]
    again = [[0, j] for j, i in enumerate(idx) if i in idx[:j]]
    picture(
        "heatmap",
        "Index map",
        "The bin of each of six weights. Marked: a bin that an earlier weight has already; "
        "`out[idx] += w` counts only one weight of each bin.",
        maps=[{"label": "idx", "values": [idx], "marked": again, "scale": "sequential"}],
        row_axis="",
        column_axis="weight",
        origin=[0, 0],
    )


@pytest.mark.task("histogram_add")
class TestHistogramAdd:
    @pytest.mark.points(3, "value")
    def test_values(self, submission):
        """Every weight is added to its bin, on top of what was there."""
        bin_map()
        cases = [{"n": 3, "idx": [1, 0, 1]}, {"n": 5, "idx": [4, 1, 4, 4, 1, 0, 2]}]
        cases += [{"n": n, "idx": rand_ints(m, high=n).tolist()} for n, m in ((7, 11), (5, 31))]
        smallest(
            lambda case: check_bins(
                submission,
                torch.randn(case["n"], dtype=torch.float64),
                torch.tensor(case["idx"]),
                torch.randn(len(case["idx"]), dtype=torch.float64),
            ),
            [*cases, cases[1]],
        )

    @pytest.mark.points(2, "value")
    def test_one_bin(self, submission):
        """If all indices are the same, that bin gets all the weights."""
        for n, place in ((3, 1), (5, 0)):
            check_bins(
                submission,
                torch.randn(n, dtype=torch.float64),
                torch.full((7,), place),
                torch.randn(7, dtype=torch.float64),
            )

    @pytest.mark.points(1, "value")
    def test_integers(self, submission):
        """Integer bins stay integers, exactly."""
        for dtype in (torch.int64, torch.int32, torch.uint8):
            bins, idx = rand_ints(5, high=10, dtype=dtype), rand_ints(7, high=5)
            w = rand_ints(7, high=10, dtype=dtype)
            got = submission.histogram_add(bins.clone(), idx.clone(), w.clone())
            assert_dtype(got, dtype, what=f"with bins and weights of {dtype}, the result")
            assert_equal(got, added_at(bins, idx, w), what="the histogram")
        large = 2**60 + 1
        bins, w = torch.tensor([large, 0, 1]), torch.tensor([3, large])
        got = submission.histogram_add(bins.clone(), torch.tensor([1, 0]), w)
        assert_equal(
            got,
            torch.tensor([2 * large, 3, 1]),
            what="the histogram of numbers above 2**53, which no float holds exactly,",
        )

    @pytest.mark.points(1, "value")
    def test_float_dtypes(self, submission):
        """The result has the dtype of bins."""
        for dtype in (torch.float32, torch.float64, torch.float16):
            bins, idx = torch.randn(3, dtype=dtype), torch.tensor([0, 2, 0, 0])
            got = submission.histogram_add(bins, idx, torch.randn(4, dtype=dtype))
            assert_dtype(got, dtype, what=f"with bins and weights of {dtype}, the result")

    @pytest.mark.points(2, "gradient")
    def test_gradient(self, submission):
        """Gradients flow to bins and to every weight, duplicates too."""
        idx = torch.tensor([1, 3, 1, 0, 3, 1, 0])
        assert_gradients_close(
            lambda bins, w: submission.histogram_add(bins, idx.clone(), w),
            lambda bins, w: added_one_by_one(bins, idx, w),
            torch.randn(5, dtype=torch.float64),
            torch.randn(7, dtype=torch.float64),
            names=("bins", "w"),
        )

    @pytest.mark.points(2, "structure")
    def test_leaves_its_arguments_alone(self, submission):
        """bins, idx and w come back unchanged."""
        idx = torch.tensor([1, 3, 1, 0, 3, 1])
        assert_unchanged(submission.histogram_add, torch.randn(5), idx, torch.randn(6))

    @pytest.mark.points(1, "value")
    def test_no_weights(self, submission):
        """Without weights the result is a copy of bins."""
        bins = torch.randn(3)
        got = submission.histogram_add(bins, torch.empty(0, dtype=torch.int64), torch.empty(0))
        assert_close(got, bins.clone(), axes=("bin",), what="the histogram without weights")
        assert_copy(got, bins)

    @pytest.mark.points(2, "value")
    def test_out_of_range(self, submission):
        """An index of n or more raises an IndexError or a RuntimeError."""
        for index in (3, 7):
            idx = torch.tensor([0, index, 1])
            assert_raises(
                (IndexError, RuntimeError),
                submission.histogram_add,
                torch.randn(3),
                idx,
                torch.randn(3),
            )

    @pytest.mark.points(1, "structure")
    def test_no_loop(self, submission):
        """More weights or bins take no more operations."""
        for make in (
            lambda size: (torch.randn(5), rand_ints(size, high=5), torch.randn(size)),
            lambda size: (torch.randn(size), rand_ints(11, high=5), torch.randn(11)),
        ):
            assert_no_python_loop(submission.histogram_add, make)


# A mask for attention.


def mask_by_formula(lengths: Tensor, seq: int, window: int | None = None) -> Tensor:
    """The statement's formula, entry by entry."""
    valid = lengths.tolist()

    def may_attend(b: int, _: int, i: int, j: int) -> bool:
        return j <= i and j < valid[b] and (window is None or i - j < window)

    return loop_oracle((len(valid), 1, seq, seq), may_attend, dtype=torch.bool)


def check_mask(submission, lengths: list[int], seq: int, window: int | None = None) -> None:
    """One mask, with the known mistakes by name."""
    given = torch.tensor(lengths)
    got = submission.attention_mask(given.clone(), seq, window)
    assert_shape(got, batch=len(lengths), one=1, query=seq, key=seq)
    assert_dtype(got, torch.bool, what="the mask")
    expected = mask_by_formula(given, seq, window)
    query, key = torch.arange(seq)[:, None], torch.arange(seq)
    valid = given[:, None, None, None]
    near = torch.full((seq, seq), True) if window is None else query - key < window
    causal, real = key <= query, key < valid
    explain = {
        "the mask is True where attending is forbidden; True means may attend": ~expected,
        "queries and keys are swapped: rows are queries, columns are keys": expected.mT,
        "no query may attend to itself; `j <= i` allows it": (key < query) & near & real,
        "later keys are allowed; `j <= i` forbids them": (near & real).expand_as(expected),
        "the rows of padded queries are masked; only keys are masked for padding": (
            causal & near & real & (query < valid)
        ),
        "the lengths are ignored: keys in the padding are allowed": (
            (causal & near).expand_as(expected)
        ),
        "one key too many is allowed for each length; `j < lengths[b]`": (
            causal & near & (key <= valid)
        ),
        "one key too few is allowed for each length; `j < lengths[b]`": (
            causal & near & (key < valid - 1)
        ),
        "the length of batch entry 0 was used for every batch entry": (
            (causal & near & (key < given[0])).expand_as(expected)
        ),
    }
    if window is not None:
        explain |= {
            "the window reaches one key too far: with window 1 a query attends to itself alone": (
                causal & real & (query - key <= window)
            ),
            "the window is one key too short: with window 1 a query attends to itself": (
                causal & real & (query - key < window - 1)
            ),
            "the window is ignored": causal & real,
            "the window masks the near keys and allows the far ones": (
                causal & real & (query - key >= window)
            ),
        }
    assert_equal(got, expected, what="the mask", explain=explain)


def cases_of(submission, *cases: dict) -> None:
    """Several masks, the smallest first."""
    smallest(lambda case: check_mask(submission, **case), cases)


@pytest.mark.task("attention_mask")
class TestAttentionMask:
    @pytest.mark.points(2, "shape")
    def test_shape(self, submission):
        """The mask is bool, with one axis of size 1 for the heads."""
        for lengths, seq in (([1], 1), ([2], 3), ([3, 5], 5), ([1, 2, 3], 2)):
            given = torch.tensor(lengths).clamp_max(seq)
            got = submission.attention_mask(given, seq)
            assert_shape(got, batch=len(lengths), heads=1, query=seq, key=seq)
            assert_dtype(got, torch.bool, what="the mask")

    @pytest.mark.points(2, "value")
    def test_causal(self, submission):
        """Each query attends to itself and to what is before."""
        cases_of(submission, {"lengths": [3], "seq": 3}, {"lengths": [5, 5], "seq": 5})

    @pytest.mark.points(2, "value")
    def test_padding(self, submission):
        """Padding masks keys only, for padded queries too."""
        cases_of(
            submission,
            {"lengths": [1], "seq": 3},
            {"lengths": [2, 3], "seq": 5},
            {"lengths": [7, 1, 4, 2], "seq": 7},
        )

    @pytest.mark.points(2, "value")
    def test_window(self, submission):
        """A window leaves the nearest keys, the query's own counted."""
        cases_of(
            submission,
            {"lengths": [5], "seq": 5, "window": 2},
            {"lengths": [5, 5], "seq": 5, "window": 3},
            {"lengths": [7], "seq": 7, "window": 4},
        )

    @pytest.mark.points(1, "value")
    def test_window_of_one(self, submission):
        """With window 1 the mask of a full row is the diagonal."""
        cases_of(
            submission,
            {"lengths": [3], "seq": 3, "window": 1},
            {"lengths": [5, 5], "seq": 5, "window": 1},
        )

    @pytest.mark.points(1, "value")
    def test_all_together(self, submission):
        """Causality, padding and window hold at the same time."""
        cases_of(
            submission,
            {"lengths": [2], "seq": 3, "window": 2},
            {"lengths": [2, 5, 1], "seq": 7, "window": 3},
            {"lengths": [4, 11, 6], "seq": 11, "window": 5},
            {"lengths": [2, 3], "seq": 5, "window": 9},
        )

    @pytest.mark.points(1, "value")
    def test_valid_queries_see_something(self, submission):
        """Each query within its length may attend to some key."""
        lengths = torch.tensor([3, 5, 1])
        for window in (None, 1, 2):
            got = assert_tensor(submission.attention_mask(lengths.clone(), 5, window))
            rows = got.reshape(3, 5, 5).any(-1)
            for b, length in enumerate(lengths.tolist()):
                blind = [i for i in range(length) if not rows[b, i]]
                if blind:
                    fail(
                        f"with length {length} and window={window}, query {blind[0]} may attend to "
                        "no key at all, and a softmax over nothing is nan; its own key is always "
                        "allowed",
                        id="value.blind_query",
                    )

    @pytest.mark.points(1, "value")
    def test_length_zero(self, submission):
        """With length 0 nothing is allowed."""
        cases_of(
            submission,
            {"lengths": [0], "seq": 2},
            {"lengths": [3, 0], "seq": 3},
            {"lengths": [0, 5, 0], "seq": 5, "window": 2},
        )

    @pytest.mark.points(1, "structure")
    def test_no_loop(self, submission):
        """More batch, steps or window take no more operations."""
        for make in (
            lambda size: (torch.arange(size) % 5 + 1, 5, 3),
            lambda size: (torch.tensor([2, 5, size]), size, None),
            lambda size: (torch.tensor([2, 31, 17]), 31, size),
        ):
            assert_no_python_loop(submission.attention_mask, make)

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_shape")
    def test_device(self, submission):
        """The mask lives on the device of lengths."""
        for window in (None, 2):
            assert_runs_on_meta(submission.attention_mask, torch.tensor([2, 5, 3]), 5, window)

    @pytest.mark.points(1, "structure")
    def test_leaves_lengths_alone(self, submission):
        """lengths come back unchanged."""
        for window in (None, 2):
            assert_unchanged(submission.attention_mask, torch.tensor([2, 5, 0]), 5, window)


# The nucleus.


def kept_in_order(logits: Tensor, p: float, sign: int = -1) -> list[list[int]]:
    """Per row, the tokens that stay, most probable first (least, by sign): a loop in float64."""
    kept = []
    for row in logits.double():
        probability = (row.exp() / row.exp().sum()).tolist()
        order = sorted(range(len(row)), key=lambda token: sign * probability[token])
        stays, reached = [order[0]], probability[order[0]]
        for token in order[1:]:
            if reached >= p:
                break
            stays.append(token)
            reached += probability[token]
        kept.append(stays)
    return kept


def nucleus(logits: Tensor, p: float) -> Tensor:
    """The filtered logits."""
    return only(logits, kept_in_order(logits, p))


def only(logits: Tensor, kept: list[list[int]]) -> Tensor:
    """These tokens' logits, -inf for the others."""
    result = torch.full_like(logits, -math.inf)
    for row, tokens in enumerate(kept):
        for token in tokens:
            result[row, token] = logits[row, token]
    return result


def clear_p(logits: Tensor, low: float = 0.2, high: float = 0.95) -> float:
    """A p that is at least 1e-3 away from every sum of most probable tokens, in every row."""
    sums = logits.double().softmax(-1).sort(-1, descending=True).values.cumsum(-1)
    candidates = [low + (high - low) * float(torch.rand(())) for _ in range(200)]
    return next(p for p in candidates if float((sums - p).abs().min()) > 1e-3)


def check_nucleus(submission, logits: Tensor, p: float, what: str = "the filtered logits") -> None:
    """One filter, with the known mistakes by name."""
    got = submission.top_p_filter(logits.clone(), p)
    kept = kept_in_order(logits, p)
    expected = only(logits, kept)
    ordered, order = logits.sort(-1, descending=True)
    sizes = [len(tokens) for tokens in kept]
    in_front = [list(range(size)) for size in sizes]
    probability = logits.softmax(-1)
    explain = {
        "the token that crosses p was removed; the kept ones must sum to at least p": only(
            logits, [tokens[: max(len(tokens) - 1, 1)] for tokens in kept]
        ),
        "one token more than needed was kept": only(
            logits,
            [row[: size + 1] for row, size in zip(order.tolist(), sizes, strict=True)],
        ),
        "the logits come in sorted order; each belongs to the place of its token": only(
            ordered, in_front
        ),
        "what was decided about the sorted tokens was applied to the tokens by their place in the "
        "vocabulary": only(logits, in_front),
        "the decisions about the sorted tokens were gathered by the order of the sort; they have "
        "to be scattered by it": logits.masked_fill(
            (torch.arange(logits.shape[1]) >= torch.tensor(sizes)[:, None]).gather(1, order),
            -math.inf,
        ),
        "the least probable tokens were kept": only(logits, kept_in_order(logits, p, sign=1)),
        "the most probable tokens were removed and the others kept": torch.where(
            expected.isinf(), logits, -math.inf
        ),
        "each token's own probability was compared with p; the sum over the more probable "
        "ones decides": logits.masked_fill(probability < p, -math.inf),
        "the result holds probabilities; the kept logits should be unchanged": torch.where(
            expected.isinf(), -math.inf, probability
        ),
        "the removed entries are 0; they should be -inf": torch.where(
            expected.isinf(), 0.0, logits
        ),
    }
    if 1 in sizes:
        explain["the token that crosses p was removed, even where it is the top one"] = only(
            logits, [tokens[:-1] for tokens in kept]
        )
    assert_close(got, expected, axes=("row", "token"), what=what, explain=explain)


@pytest.mark.task("top_p_filter")
class TestTopPFilter:
    @pytest.mark.points(4, "value")
    def test_values(self, submission):
        """Each row keeps its nucleus, and -inf stands for the rest."""

        def check(case: dict) -> None:
            logits = 2 * torch.randn(case["batch"], case["vocab"], dtype=case["dtype"])
            check_nucleus(submission, logits, clear_p(logits))

        sizes = ((1, 5), (2, 5), (3, 7), (3, 7), (5, 31))
        cases = [{"batch": b, "vocab": v, "dtype": torch.float64} for b, v in sizes]
        smallest(check, [*cases, {"batch": 3, "vocab": 11, "dtype": torch.float32}])

    @pytest.mark.points(3, "value")
    def test_order(self, submission):
        """What stays keeps its place in the vocabulary and its value."""
        logits = torch.tensor([[0.3, 0.1, 0.6], [0.1, 0.65, 0.25], [0.2, 0.3, 0.5]]).log()
        check_nucleus(submission, logits, 0.7)
        logits = torch.randn(5, 11)
        got = assert_tensor(submission.top_p_filter(logits.clone(), clear_p(logits)))
        assert_shape(got, row=5, token=11)
        moved = (got != logits) & (got != -math.inf)
        if moved.any():
            row, token = moved.nonzero()[0].tolist()
            fail(
                f"entry [{row}, {token}] is {float(got[row, token]):.4g}; it should be the logit "
                f"{float(logits[row, token]):.4g} that came in at this place, or -inf",
                id="value.moved",
            )

    @pytest.mark.points(2, "value")
    def test_reaches_p(self, submission):
        """The token that brings the sum to p stays."""
        probability = torch.tensor([[0.1, 0.5, 0.25, 0.15]])
        for p in (0.3, 0.6, 0.8, 0.95):
            check_nucleus(submission, probability.log(), p)

    @pytest.mark.points(2, "value")
    def test_p_of_zero(self, submission):
        """With p = 0 the most probable token stays, alone."""
        logits = torch.randn(5, 7)
        for p in (0.0, 0):
            got = submission.top_p_filter(logits.clone(), p)
            top = logits.argmax(-1)
            assert_close(
                got,
                only(logits, [[token] for token in top.tolist()]),
                axes=("row", "token"),
                what="with p = 0, the result",
                explain={
                    "with p = 0 every token is removed; the top one stays whatever p is": (
                        torch.full_like(logits, -math.inf)
                    ),
                    "with p = 0 nothing is removed": logits,
                },
            )

    @pytest.mark.points(2, "value")
    def test_p_of_one(self, submission):
        """With p = 1 all tokens stay."""
        logits = torch.randn(5, 31, dtype=torch.float64)
        for p in (1.0, 1):
            got = submission.top_p_filter(logits.clone(), p)
            assert_close(
                got,
                logits.clone(),
                axes=("row", "token"),
                what="with p = 1, the result",
                explain={
                    "with p = 1 the least probable token of each row is removed; it is needed to "
                    "bring the sum to 1": logits.masked_fill(
                        logits == logits.amin(-1, keepdim=True), -math.inf
                    )
                },
            )

    @pytest.mark.points(2, "value")
    def test_rows_are_independent(self, submission):
        """Each row is filtered as it would be alone."""
        logits = 2 * torch.randn(7, 11)
        logits[1] = 0.1 * torch.randn(11)  # a flat row keeps many tokens, a steep one few
        p = clear_p(logits, 0.3, 0.6)
        got = assert_tensor(submission.top_p_filter(logits.clone(), p))
        for row in range(7):
            alone = assert_tensor(submission.top_p_filter(logits[row : row + 1].clone(), p))
            assert_shape(alone, row=1, token=11)
            together = got[row : row + 1]
            expect(
                torch.equal(together, alone),
                f"row {row} keeps {int(together.isfinite().sum())} tokens among seven rows, and "
                f"{int(alone.isfinite().sum())} when it is the only row: the rows are summed or "
                "decided together",
                id="value.rows",
            )

    @pytest.mark.points(1, "value")
    def test_ties(self, submission):
        """Of equally probable tokens no more stay than needed."""
        for values, p, needed in (([0.0] * 5, 0.5, 3), ([1.0, 0.0, 1.0, 0.0, 1.0, 1.0], 0.3, 2)):
            logits = torch.tensor([values])
            first = assert_tensor(submission.top_p_filter(logits.clone(), p))
            second = assert_tensor(submission.top_p_filter(logits.clone(), p))
            count = int(first.isfinite().sum())
            expect(
                count == needed,
                f"of the logits {values} with p = {p}, {count} stay; {needed} reach p already. "
                "All tokens as probable as the last one that is needed were treated alike"
                if count > needed
                else f"of the logits {values} with p = {p}, {count} stay; p needs {needed}",
                id="value.ties",
            )
            expect(
                torch.equal(first, second),
                f"two calls with the logits {values} keep different tokens",
                id="value.ties_differ",
            )

    @pytest.mark.points(1, "value")
    def test_one_token(self, submission):
        """In a vocabulary of one token it stays."""
        for p in (0.0, 0.5, 1.0):
            logits = torch.randn(3, 1)
            got = submission.top_p_filter(logits.clone(), p)
            assert_close(got, logits, axes=("row", "token"), what=f"with p = {p}, the result")

    @pytest.mark.points(1, "value")
    def test_removed_before(self, submission):
        """Entries that come in as -inf stay so and disturb nothing."""
        logits = torch.randn(3, 7)
        logits[0, 2] = logits[0, 5] = logits[2, 0] = -math.inf
        check_nucleus(submission, logits, clear_p(logits))
        check_nucleus(submission, torch.tensor([[-math.inf, 0.5, -math.inf]]), 0.9)

    @pytest.mark.points(1, "structure")
    def test_leaves_logits_alone(self, submission):
        """logits come back unchanged."""
        assert_unchanged(submission.top_p_filter, torch.randn(3, 7), 0.6)

    @pytest.mark.points(1, "structure")
    def test_no_loop(self, submission):
        """More rows or tokens take no more operations."""
        for make in (
            lambda size: (torch.randn(size, 5), 0.7),
            lambda size: (torch.randn(3, size), 0.7),
        ):
            assert_no_python_loop(submission.top_p_filter, make)


# Softmax within segments.


def row_by_row(x: Tensor, seg: Tensor) -> Tensor:
    """Each row against all rows of its segment, from a table of all pairs."""
    strangers = seg[:, None] != seg
    pairs = x[None].expand(len(x), *x.shape).masked_fill(strangers[:, :, None], -math.inf)
    own = torch.arange(len(x))
    return pairs.softmax(1)[own, own]


def check_segments(submission, x: Tensor, seg: Tensor, n: int) -> None:
    """One segment softmax, with the known mistakes by name."""
    got = submission.segment_softmax(x.clone(), seg.clone(), n)
    expected = row_by_row(x.double(), seg)
    own = seg[:, None] == seg
    count = own.sum(1)[:, None]
    last = (own * torch.arange(len(x))).argmax(1)
    explain = {
        "each segment sums to its number of rows: the divisor is the mean of the segment, not the "
        "sum": expected * count,
        "the softmax runs over all rows; it should run over those of the same segment": (
            x.double().softmax(0)
        ),
        "the softmax runs over the heads of a row; it should run over the rows of a segment": (
            x.double().softmax(1)
        ),
        "each segment is divided by the last of its weights alone: `total[seg] += weight` reads "
        "every place once, adds, and writes": expected / expected[last],
        "this is the logarithm of the softmax": expected.log(),
        "the weights aren't divided by the sum of their segment": x.double().exp(),
    }
    assert_close(
        got,
        expected.to(x.dtype),
        axes=("row", "head"),
        what="the softmax",
        explain={said: tensor.to(x.dtype) for said, tensor in explain.items()},
    )


def check_far(submission, x: Tensor, seg: Tensor, n: int, where: str, why: str) -> None:
    """Values of ±1e4 in float32, which has steps of 0.001 there: looser, but finite."""
    got = assert_tensor(submission.segment_softmax(x.clone(), seg.clone(), n))
    assert_shape(got, row=x.shape[0], head=x.shape[1])
    if not got.isfinite().all():
        row, head = (~got.isfinite()).nonzero()[0].tolist()
        fail(
            f"{where}, entry [{row}, {head}] is {float(got[row, head])} for a value of "
            f"{float(x[row, head]):.0f}: {why}",
            id="value.unstable",
        )
    expected = row_by_row(x.double(), seg).float()
    assert_close(got, expected, rtol=5e-3, atol=1e-4, axes=("row", "head"), what=f"{where}, it")


SEGMENTS = (3, 0, 3, 1, 0, 3, 4, 1, 0, 3, 2)


@pytest.mark.task("segment_softmax")
class TestSegmentSoftmax:
    @pytest.mark.points(4, "value")
    def test_values(self, submission):
        """It is the softmax over the rows of each segment, head by head."""

        def check(case: dict) -> None:
            x = torch.randn(case["m"], case["heads"], dtype=case["dtype"])
            # Every segment has a row here; empty ones have a check of their own.
            seg = torch.arange(case["m"])[torch.randperm(case["m"])] % case["n"]
            check_segments(submission, x, seg, case["n"])

        sizes = ((3, 2, 2), (7, 3, 2), (11, 2, 5), (11, 2, 5), (31, 3, 7))
        cases = [{"m": m, "heads": h, "n": n, "dtype": torch.float64} for m, h, n in sizes]
        smallest(check, [*cases, {"m": 31, "heads": 3, "n": 7, "dtype": torch.float32}])

    @pytest.mark.points(2, "value")
    def test_sums(self, submission):
        """In each segment, every head sums to 1."""
        seg = torch.tensor(SEGMENTS)
        got = assert_tensor(submission.segment_softmax(torch.randn(11, 3), seg.clone(), 5))
        assert_shape(got, row=11, head=3)
        sums = {s: got[seg == s].sum(0) for s in sorted(set(SEGMENTS))}
        picture(
            "bars",
            "Sum of each segment",
            "The sum over the rows of each segment, head 0; each should be 1.",
            labels=[str(s) for s in sums],
            series=[{"label": "head 0", "values": [float(total[0]) for total in sums.values()]}],
            log=False,
            unit="",
            limit=1.0,
        )
        for s, total in sums.items():
            off = (total - 1).abs()
            head = int(off.argmax())
            rows = int((seg == s).sum())
            expect(
                bool((off < 1e-5).all()),
                f"segment {s}, of {rows} rows, sums to {float(total[head]):.4g} in head {head}; "
                "it should sum to 1",
                id="value.sums",
            )

    @pytest.mark.points(2, "value")
    def test_large(self, submission):
        """Values around 10,000 are no problem."""
        x = torch.randn(11, 2) + 1e4
        why = "exp of it is inf; subtract the maximum before exp"
        check_far(submission, x, torch.tensor(SEGMENTS), 5, "for values around 10,000", why)

    @pytest.mark.points(2, "value")
    def test_negative(self, submission):
        """Values around -10,000 are no problem."""
        x = torch.randn(11, 2) - 1e4
        why = (
            "every exp of the segment is 0, and 0 is divided by 0; the number to subtract is the "
            "maximum of the segment, and no 0 that stood in the table before may take part in it"
        )
        check_far(submission, x, torch.tensor(SEGMENTS), 5, "for values around -10,000", why)

    @pytest.mark.points(3, "value")
    @pytest.mark.after("test_large")
    def test_segments_far_apart(self, submission):
        """Segments around +10,000 and -10,000 stand side by side."""
        seg = torch.tensor(SEGMENTS)
        x = torch.randn(11, 2) + torch.where(seg % 2 == 0, 1e4, -1e4)[:, None]
        where = "for segments around 10,000 and -10,000 in one call"
        why = (
            "seen from the largest value of all, every exp of the segment is 0, and 0 is divided "
            "by 0; each segment has a maximum of its own"
        )
        check_far(submission, x, seg, 5, where, why)

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_large")
    def test_heads_far_apart(self, submission):
        """Heads around +10,000 and -10,000 stand side by side."""
        x = torch.randn(11, 3) + torch.tensor([1e4, -1e4, 0.0])
        where = "for heads around 10,000, -10,000 and 0 in one call"
        why = (
            "seen from the largest value of all heads, every exp of this head is 0, and 0 is "
            "divided by 0; each head has maxima of its own"
        )
        check_far(submission, x, torch.tensor(SEGMENTS), 5, where, why)

    @pytest.mark.points(2, "value")
    def test_empty_segments(self, submission):
        """Ids that don't occur change nothing."""
        smallest(
            lambda case: check_segments(
                submission,
                torch.randn(len(case["seg"]), 2, dtype=torch.float64),
                torch.tensor(case["seg"]),
                case["n"],
            ),
            [
                {"seg": [0], "n": 3},
                {"seg": [2, 2], "n": 3},
                {"seg": [0, 2, 0], "n": 3},
                {"seg": [5, 1, 5, 7, 1], "n": 11},
            ],
        )

    @pytest.mark.points(1, "value")
    def test_no_rows(self, submission):
        """Without rows the result has none."""
        got = submission.segment_softmax(torch.empty(0, 3), torch.empty(0, dtype=torch.int64), 5)
        assert_shape(got, row=0, head=3)

    @pytest.mark.points(2, "value")
    def test_order_of_the_rows(self, submission):
        """Rows in another order give the same results in that order."""
        x, seg = torch.randn(11, 2, dtype=torch.float64), torch.tensor(sorted(SEGMENTS))
        order = torch.randperm(11)
        straight = assert_tensor(submission.segment_softmax(x.clone(), seg.clone(), 5))
        shuffled = submission.segment_softmax(x[order], seg[order], 5)
        assert_shape(straight, row=11, head=2)
        assert_close(
            shuffled,
            straight[order],
            axes=("row", "head"),
            what="with the same rows in another order, the softmax",
        )

    @pytest.mark.points(3, "gradient")
    def test_gradient(self, submission):
        """The gradient of x is right, also for segments of one row."""
        seg = torch.tensor([3, 0, 3, 5, 0, 3, 0])
        assert_gradients_close(
            lambda x: submission.segment_softmax(x, seg.clone(), 7),
            lambda x: row_by_row(x, seg),
            torch.randn(7, 2, dtype=torch.float64),
            names=("x",),
        )
        assert_gradients(
            lambda x: submission.segment_softmax(x, seg[:3].clone(), 5),
            torch.randn(3, 2, dtype=torch.float64),
            names=("x",),
        )

    @pytest.mark.points(2, "structure")
    def test_no_loop(self, submission):
        """More rows or segments take no more operations."""
        for make in (
            lambda size: (torch.randn(3 * size, 2), torch.arange(3 * size) % 5, 5),
            lambda size: (torch.randn(41, 2), torch.arange(41) % size, size),
        ):
            assert_no_python_loop(submission.segment_softmax, make)

    @pytest.mark.points(3, "memory")
    def test_memory(self, submission):
        """What lives at once is at most eight times x."""
        m, n, heads = 2000, 512, 3
        x = torch.randn(m, heads)
        assert_peak_memory(
            8 * x.numel() * x.element_size(),
            submission.segment_softmax,
            x,
            rand_ints(m, high=n),
            n,
        )

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_values")
    def test_device(self, submission):
        """Everything it builds lives on the device of x."""
        assert_runs_on_meta(
            submission.segment_softmax, torch.randn(11, 2), torch.tensor(SEGMENTS), 5
        )

    @pytest.mark.points(1, "structure")
    def test_leaves_its_arguments_alone(self, submission):
        """x and seg come back unchanged."""
        assert_unchanged(submission.segment_softmax, torch.randn(11, 2), torch.tensor(SEGMENTS), 5)
