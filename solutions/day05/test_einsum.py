"""Day 5 asks for index expressions, for what is behind them, and for the order that is cheap."""

import random
import re
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise

import pytest
import torch
import torch._dynamo  # a comparison on the meta device imports it; a second that no check pays
from torch import Tensor

from grader.testing import (
    assert_close,
    assert_dtype,
    assert_equal,
    assert_finite,
    assert_gradients,
    assert_gradients_close,
    assert_independent,
    assert_no_python_loop,
    assert_no_tensor_of,
    assert_peak_memory,
    assert_raises,
    assert_runs_on_meta,
    assert_shape,
    assert_speed,
    assert_tensor,
    assert_unchanged,
    count_ops,
    expect,
    fail,
    forbid,
    loop_oracle,
    picture,
    smallest,
)

Shape = tuple[int, ...]


# Ten strings.

KEYS = (
    "trace",
    "transpose",
    "batch_matmul",
    "row_sums",
    "outer",
    "bilinear",
    "batch_diagonal",
    "attention_scores",
    "attention_output",
    "contraction",
)


def string_of(submission, key: str) -> str:
    """The learner's string for a key."""
    table = getattr(submission, "EXPRESSIONS", None)
    expect(isinstance(table, dict), "EXPRESSIONS should be a dict from keys to strings")
    expect(key in table, f'EXPRESSIONS has no key "{key}"', id="value.key")
    spec = table[key]
    expect(
        isinstance(spec, str),
        f'EXPRESSIONS["{key}"] is a {type(spec).__name__}; expected a string',
        id="value.type",
    )
    return spec


def reading(spec: str) -> str:
    """What a string makes of its letters, in words."""
    inputs, arrow, output = spec.replace(" ", "").partition("->")
    letters = sorted(set(inputs) - set(",."))
    said = []
    if not arrow:
        output = "".join(letter for letter in letters if inputs.count(letter) == 1)
        said.append(
            "without an arrow the result has the letters that occur once, in alphabetical order: "
            f"here `{output}`"
        )
    for letter in letters:
        if any(term.count(letter) > 1 for term in inputs.split(",")):
            said.append(f"{letter} stands twice in one operand: its diagonal")
    summed = [letter for letter in letters if letter not in output]
    if summed:
        named = " and ".join(filter(None, (", ".join(summed[:-1]), summed[-1])))
        verb = "is" if len(summed) == 1 else "are"
        said.append(f"{named} {verb} missing on the right, so summed over")
    else:
        said.append("every letter stands on the right, so nothing is summed")
    return "; ".join(said)


def check_string(
    submission,
    key: str,
    shapes: Sequence[Shape],
    shape: Shape,
    element: Callable[..., float],
) -> None:
    """Run one string on random operands; `element(operands, *index)` is the oracle."""
    spec = string_of(submission, key)
    for _ in range(2):
        operands = [torch.randn(size, dtype=torch.float64) for size in shapes]
        try:
            got = torch.einsum(spec, *(operand.clone() for operand in operands))
        except (RuntimeError, ValueError) as error:
            said = " and ".join(map(str, shapes))
            reason = str(error).strip().splitlines()[0]
            fail(
                f"{key}: torch refuses `{spec}` for operands of shape {said} ({reason})",
                id="value.refused",
            )
        lists = [operand.tolist() for operand in operands]
        expected = loop_oracle(shape, lambda *index, lists=lists: element(lists, *index))
        size = tuple(got.shape)
        result = f"shape {size}; expected {shape}" if size != shape else "the wrong values"
        assert_close(
            got,
            expected,
            what=key,
            explain={f"{key}: `{spec}` gives {result}: {reading(spec)}": got},
        )


@pytest.mark.task("ten_einsums")
class TestTenEinsums:
    @pytest.mark.points(1, "structure")
    def test_ten_strings(self, submission):
        """There are ten strings of letters, commas, an arrow and dots."""
        for key in KEYS:
            spec = string_of(submission, key)
            odd = re.sub(r"->|\.\.\.|[A-Za-z, ]", "", spec)
            expect(
                not odd and spec.count("->") <= 1,
                f'EXPRESSIONS["{key}"] is {spec!r}: only letters, commas, one `->`, `...` and '
                "spaces make an einsum string",
                id="value.characters",
            )

    @pytest.mark.points(1, "value")
    def test_trace(self, submission):
        """The trace sums the diagonal."""
        check_string(
            submission, "trace", [(3, 3)], (), lambda ops: sum(ops[0][i][i] for i in range(3))
        )

    @pytest.mark.points(1, "value")
    def test_transpose(self, submission):
        """The transpose swaps rows and columns."""
        check_string(submission, "transpose", [(2, 3)], (3, 2), lambda ops, j, i: ops[0][i][j])

    @pytest.mark.points(1, "value")
    def test_batch_matmul(self, submission):
        """Each pair of matrices of the batch is multiplied."""
        check_string(
            submission,
            "batch_matmul",
            [(2, 3, 5), (2, 5, 7)],
            (2, 3, 7),
            lambda ops, b, i, k: sum(ops[0][b][i][j] * ops[1][b][j][k] for j in range(5)),
        )

    @pytest.mark.points(1, "value")
    def test_row_sums(self, submission):
        """There is one sum for each row."""
        check_string(submission, "row_sums", [(2, 3)], (2,), lambda ops, i: sum(ops[0][i]))

    @pytest.mark.points(1, "value")
    def test_outer(self, submission):
        """The outer product has every product of two entries."""
        check_string(
            submission, "outer", [(2,), (3,)], (2, 3), lambda ops, i, j: ops[0][i] * ops[1][j]
        )

    @pytest.mark.points(2, "value")
    def test_bilinear(self, submission):
        """The bilinear form gives one number for each row of the batch."""
        check_string(
            submission,
            "bilinear",
            [(2, 3), (3, 5), (2, 5)],
            (2,),
            lambda ops, b: sum(
                ops[0][b][i] * ops[1][i][j] * ops[2][b][j] for i in range(3) for j in range(5)
            ),
        )

    @pytest.mark.points(1, "value")
    def test_batch_diagonal(self, submission):
        """Each matrix of the batch gives its diagonal."""
        check_string(
            submission, "batch_diagonal", [(2, 3, 3)], (2, 3), lambda ops, b, i: ops[0][b][i][i]
        )

    @pytest.mark.points(2, "value")
    def test_attention_scores(self, submission):
        """Every query meets every key of its batch and head."""
        shapes = [(2, 3, 5, 11), (2, 3, 7, 11)]
        check_string(
            submission,
            "attention_scores",
            shapes,
            (2, 3, 5, 7),
            lambda ops, b, h, q, k: sum(
                x * y for x, y in zip(ops[0][b][h][q], ops[1][b][h][k], strict=True)
            ),
        )
        spec = string_of(submission, "attention_scores")
        operands = [torch.randn(shape) for shape in shapes]
        log = count_ops(torch.einsum, spec, *operands)
        picture(
            "text",
            "What torch does for it",
            "Einsum has no kernel of its own: axes are permuted and reshaped, which moves no "
            "data, and one product of batches of matrices does the work.",
            panels=[
                {
                    "label": "operators",
                    "lines": [f"{op.name}  {tuple(op.shapes[0])}" for op in log.ops],
                    "marked": [i for i, op in enumerate(log.ops) if not op.is_view],
                }
            ],
        )

    @pytest.mark.points(2, "value")
    def test_attention_output(self, submission):
        """The values are summed with the weights of their keys."""
        check_string(
            submission,
            "attention_output",
            [(2, 3, 5, 7), (2, 3, 7, 11)],
            (2, 3, 5, 11),
            lambda ops, b, h, q, d: sum(ops[0][b][h][q][k] * ops[1][b][h][k][d] for k in range(7)),
        )

    @pytest.mark.points(2, "value")
    def test_contraction(self, submission):
        """A matrix is applied to the last axis, and the others stay."""
        check_string(
            submission,
            "contraction",
            [(2, 3, 5, 7), (7, 11)],
            (2, 3, 5, 11),
            lambda ops, b, i, j, m: sum(ops[0][b][i][j][k] * ops[1][k][m] for k in range(7)),
        )


# Einsum by hand.

FORBIDDEN_PRODUCTS = (
    "einsum",
    "tensordot",
    "matmul",
    "mm",
    "bmm",
    "mv",
    "dot",
    "vdot",
    "inner",
    "outer",  # and its older name, ger
    "addmm",
    "addmv",
    "addr",
    "baddbmm",
    "addbmm",
    "kron",
    "linalg.multi_dot",
    "linalg.vecdot",
    "nn.functional.linear",
    "nn.functional.bilinear",
)


def random_spec(count: int, repeats: bool = False) -> str:
    """A spec of so many operands over the letters a, b, c, d, or with a repeat in each operand."""
    terms = []
    for _ in range(count):
        term = random.sample("abcd", random.randint(1, 3))
        if repeats:
            term.insert(random.randint(0, len(term)), random.choice(term))
        terms.append("".join(term))
    letters = sorted(set("".join(terms)))
    output = random.sample(letters, random.randint(1, len(letters)))
    return f"{','.join(terms)}->{''.join(output)}"


def operands_of(spec: str, dtype: torch.dtype = torch.float64, **sizes: int) -> list[Tensor]:
    """Random operands for a spec; the letters' sizes are prime and different."""
    sizes = {"a": 2, "b": 3, "c": 5, "d": 7, "i": 2, "j": 3, "k": 5, "l": 7} | sizes
    return [
        torch.randn([sizes[letter] for letter in term], dtype=dtype)
        for term in spec.partition("->")[0].split(",")
    ]


def mistakes(spec: str, ops: Sequence[Tensor]) -> dict[str, Callable[[], Tensor]]:
    """What the known mistakes make of a spec; those that change nothing here are left out."""
    inputs, _, output = spec.partition("->")
    terms = inputs.split(sep=",")
    in_order = "".join(sorted(output, key=inputs.index))
    by_alphabet = "".join(sorted(output))
    fresh = iter("uvwxyz")
    loose = []  # every letter once in a term
    for term in terms:
        seen = ""
        for letter in term:
            seen += next(fresh) if letter in seen else letter
        loose.append(seen)
    read = {
        "the axes stand in the order of the operands; the output says their order": (
            f"{inputs}->{in_order}" if in_order != output else ""
        ),
        "the axes stand in alphabetical order; the output says their order": (
            f"{inputs}->{by_alphabet}" if by_alphabet not in (output, in_order) else ""
        ),
        "everything was summed; a letter of the output is not (`x.sum(())` sums over every axis)": (
            f"{inputs}->" if output else ""
        ),
        "a letter twice in one operand means its diagonal; here its second axis was summed over": (
            f"{','.join(loose)}->{output}" if loose != terms else ""
        ),
    }
    found: dict[str, Callable[[], Tensor]] = {
        f"einsum_lite({spec!r}): {said}": lambda wrong=wrong: torch.einsum(wrong, *ops)
        for said, wrong in read.items()
        if wrong
    }
    if len(terms) == 3 and set(terms[0] + terms[1]) & set(terms[2]) - set(output):
        kept = "".join(x for x in dict.fromkeys(terms[0] + terms[1]) if x in output)

        def too_early() -> Tensor:
            early = torch.einsum(f"{terms[0]},{terms[1]}->{kept}", *ops[:2])
            return torch.einsum(f"{kept},{terms[2]}->{output}", early, ops[2])

        found[
            f"einsum_lite({spec!r}): a letter that the third operand has was summed over before it "
            "came"
        ] = too_early
    return found


def check_spec(submission, spec: str, dtype: torch.dtype = torch.float64) -> None:
    """One spec with random operands."""
    ops = operands_of(spec, dtype)
    got = submission.einsum_lite(spec, *(op.clone() for op in ops))
    expected = torch.einsum(spec, *ops)
    assert_close(
        got,
        expected,
        atol=1e-4 if dtype is torch.float32 else None,
        axes=tuple(spec.partition("->")[2]),
        what=f"einsum_lite({spec!r})",
        explain=mistakes(spec, ops),
    )


def says_letter(error: Exception, letter: str) -> bool:
    """Whether the message has the letter, and not as a part of a word."""
    return bool(re.search(rf"(?<![A-Za-z]){letter}(?![A-Za-z])", str(error)))


def check_refused(submission, case: tuple[str, str, tuple[Shape, ...]]) -> None:
    """Operands whose sizes disagree at one letter are refused, and the letter named."""
    spec, letter, shapes = case
    ops = [torch.randn(shape) for shape in shapes]
    error = assert_raises(ValueError, submission.einsum_lite, spec, *ops)
    expect(
        says_letter(error, letter),
        f"einsum_lite({spec!r}) with operands of shape {' and '.join(map(str, shapes))} says "
        f"{str(error)[:80]!r}; the message must contain the letter {letter}, standing by itself",
        id="raises.letter",
    )


@pytest.mark.task("einsum_lite")
class TestEinsumLite:
    @pytest.mark.points(3, "value")
    def test_one_operand(self, submission):
        """One operand is permuted and summed."""
        specs = ["a->a", "ba->b", "ba->a", "ba->ab", "ba->ba", "cab->bc"]
        specs += sorted((random_spec(1) for _ in range(15)), key=len)
        smallest(lambda spec: check_spec(submission, spec), specs)

    @pytest.mark.points(3, "value")
    def test_two_operands(self, submission):
        """Two operands are multiplied where their letters agree."""
        specs = [
            "a,a->a",
            "a,b->ab",
            "a,b->ba",
            "ab,b->a",
            "ab,b->a",
            "ab,bc->ac",
            "ab,bc->ca",
            "abc,ad->dcb",
        ]
        specs += sorted((random_spec(2) for _ in range(15)), key=len)
        smallest(lambda spec: check_spec(submission, spec), specs)
        smallest(lambda spec: check_spec(submission, spec, torch.float32), specs[:4])

    @pytest.mark.points(3, "value")
    def test_three_operands(self, submission):
        """Three operands are multiplied, and every letter lives until its last use."""
        specs = ["a,a,a->a", "a,b,c->cab", "ab,bc,cd->ad", "a,ab,b->b", "ab,bc,bd->acd"]
        specs += sorted((random_spec(3) for _ in range(15)), key=len)
        smallest(lambda spec: check_spec(submission, spec), specs)

    @pytest.mark.points(3, "value")
    @pytest.mark.hint("An operand with a repeated letter has more axes than letters: which two go?")
    def test_diagonal(self, submission):
        """A letter that repeats within one operand walks along the diagonal."""
        specs = ["aa->a", "aab->ba", "aba->ab", "baa->b", "aaa->a", "abab->ba", "aa,ab->b"]
        specs += sorted((random_spec(random.randint(1, 3), True) for _ in range(10)), key=len)
        smallest(lambda spec: check_spec(submission, spec), specs)

    @pytest.mark.points(1, "value")
    def test_no_output(self, submission):
        """With nothing on the right the result is one number."""
        specs = ["a->", "ab->", "aa->", "a,a->", "ab,ba->", "a,ab,b->"]
        smallest(lambda spec: check_spec(submission, spec), specs)

    @pytest.mark.points(1, "shape")
    def test_axes_of_size_one(self, submission):
        """Axes of size 1 stay where the output names them."""

        def check(spec: str) -> None:
            ops = operands_of(spec, a=1)
            got = submission.einsum_lite(spec, *(op.clone() for op in ops))
            what = f"with an a of size 1, einsum_lite({spec!r})"
            assert_close(got, torch.einsum(spec, *ops), what=what)

        smallest(check, ["a->a", "ab->ba", "aab->ab", "ab,bc->ac", "ab,a,bc->ca"])

    @pytest.mark.points(1, "value")
    def test_sizes_that_disagree(self, submission):
        """Two operands that disagree about a letter are refused, and the letter is named."""
        smallest(
            lambda case: check_refused(submission, case),
            [
                ("j,j->j", "j", ((2,), (3,))),
                ("pq,qr->pr", "q", ((5, 2), (3, 7))),
                ("pk,rp,rk->p", "k", ((5, 2), (7, 5), (7, 3))),
            ],
        )

    @pytest.mark.points(1, "value")
    def test_diagonal_of_an_oblong(self, submission):
        """One operand that disagrees with itself about a letter is refused too."""
        smallest(
            lambda case: check_refused(submission, case),
            [("jj->j", "j", ((2, 3),)), ("pqp,r->qr", "p", ((5, 7, 2), (3,)))],
        )

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_two_operands")
    def test_gradient(self, submission):
        """The gradients reach all operands."""
        spec = "ab,bcb,ca->ac"
        ops = operands_of(spec)
        assert_gradients_close(
            lambda *ops: submission.einsum_lite(spec, *ops),
            lambda *ops: torch.einsum(spec, *ops),
            *ops,
            names=("operand 1", "operand 2", "operand 3"),
        )
        spec = "ab,bc->ca"
        assert_gradients(
            lambda *ops: submission.einsum_lite(spec, *ops), *operands_of(spec, b=2, c=3)
        )

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_two_operands")
    def test_forbidden(self, submission):
        """It broadcasts, multiplies and sums, without a product of matrices."""
        cases = [
            (spec, operands_of(spec))
            for spec in ("a,a->", "ab,b->a", "ab,b->a", "ab,bc->ac", "a,b->ab")
        ]
        cases += [(spec, operands_of(spec)) for spec in ("abc,acd->abd", "ab,bc,cd->ad")]
        with forbid(*FORBIDDEN_PRODUCTS, why="broadcast, multiply and sum"):
            for spec, ops in cases:
                submission.einsum_lite(spec, *ops)

    @pytest.mark.points(1, "structure")
    def test_leaves_its_operands_alone(self, submission):
        """The operands come back unchanged."""
        for spec in ("ab,ab->ab", "ab,bc,aac->ac"):
            assert_unchanged(submission.einsum_lite, spec, *operands_of(spec))

    @pytest.mark.points(1, "structure")
    def test_device(self, submission):
        """Everything it builds lives on the device of the operands."""
        for spec in ("ab,bc->ca", "aab->ab"):
            assert_runs_on_meta(submission.einsum_lite, spec, *operands_of(spec))


# Grouped queries.


def repeated(q: Tensor, k: Tensor) -> Tensor:
    """The definition: each kv head repeated for its group."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    return q @ k.mT / q.shape[-1] ** 0.5


def heads_of(
    heads: int = 6,
    kv_heads: int = 2,
    seq_q: int = 5,
    seq_k: int = 7,
    dim: int = 11,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """Random queries and keys, of a batch of 3."""
    q = torch.randn(3, heads, seq_q, dim, dtype=dtype)
    return q, torch.randn(3, kv_heads, seq_k, dim, dtype=dtype)


def check_scores(submission, q: Tensor, k: Tensor) -> None:
    """The scores, with the known mistakes by name."""
    got = submission.gqa_scores(q.clone(), k.clone())
    expected = repeated(q, k)
    heads, dim = q.shape[1], q.shape[-1]
    group = heads // k.shape[1]
    plain = q @ k.repeat_interleave(group, 1).mT
    explain = {
        "the scores are not divided by sqrt(dim)": plain,
        "the scores are divided by sqrt(heads); dim is the number of products in a score": (
            plain / heads**0.5
        ),
        "the scores are divided by the root of heads * dim; it is sqrt(dim)": (
            plain / (heads * dim) ** 0.5
        ),
        "the scores are divided by dim; it is sqrt(dim)": plain / dim,
        "the scores are multiplied by sqrt(dim); divide by it": plain * dim**0.5,
    }
    if 1 < k.shape[1] < heads:
        tiled = q @ k.repeat(1, group, 1, 1).mT / dim**0.5
        explain[
            "query heads take the kv heads by turns (0, 1, 0, 1); neighbours share one (0, 0, 1, 1)"
        ] = tiled
        first = q @ k[:, :1].mT / dim**0.5
        explain["all query heads use kv head 0"] = first
    assert_close(
        got,
        expected,
        rtol=1e-4 if q.dtype is torch.float32 else None,
        atol=1e-4 if q.dtype is torch.float32 else None,
        axes=("batch", "head", "query", "key"),
        explain=explain,
    )


@pytest.mark.task("gqa_scores")
class TestGqaScores:
    @pytest.mark.points(1, "shape")
    def test_shape(self, submission):
        """There is a table of queries by keys for each query head."""
        q, k = heads_of(dtype=torch.float32)
        got = submission.gqa_scores(q=q, k=k)
        assert_shape(got, batch=3, heads=6, seq_q=5, seq_k=7)
        assert_dtype(got, torch.float32)

    @pytest.mark.points(3, "value")
    def test_scores(self, submission):
        """Neighbouring query heads share a kv head, and scores are scaled by the root of dim."""
        for dtype in (torch.float64, torch.float32):
            for heads, kv_heads in ((4, 2), (4, 2), (6, 2), (6, 3)):
                check_scores(submission, *heads_of(heads, kv_heads, dtype=dtype))

    @pytest.mark.points(1, "value")
    def test_one_kv_head(self, submission):
        """One kv head serves all query heads."""
        check_scores(submission, *heads_of(2, 1))
        check_scores(submission, *heads_of(5, 1))

    @pytest.mark.points(1, "value")
    def test_as_many_kv_heads(self, submission):
        """With as many kv heads as query heads each has its own."""
        check_scores(submission, *heads_of(1, 1))
        check_scores(submission, *heads_of(5, 5))

    @pytest.mark.points(3, "memory")
    @pytest.mark.after("test_shape")
    def test_memory(self, submission):
        """The keys are not repeated in memory."""
        heads, kv_heads, seq_k, dim = 8, 2, 1024, 32
        q, k = torch.randn(1, heads, 1, dim), torch.randn(1, kv_heads, seq_k, dim)
        output = heads * seq_k * 4
        picture(
            "bars",
            "Bytes for one query and 1024 keys",
            f"{heads} query heads share {kv_heads} kv heads; repeated for every query head, the "
            f"keys alone take {dim} times the memory of the scores.",
            labels=["scores", "keys", "keys repeated"],
            series=[{"label": "bytes", "values": [output, 4 * k.numel(), dim * output]}],
            log=False,
            unit="B",
            limit=4 * output,
        )
        assert_peak_memory(4 * output, submission.gqa_scores, q, k)

    @pytest.mark.points(1, "structure")
    def test_forbidden(self, submission):
        """It does without repeat and repeat_interleave."""
        q, k = heads_of()
        with forbid("repeat_interleave", "repeat", why="let a group be an axis of its own"):
            submission.gqa_scores(q, k)

    @pytest.mark.points(2, "gradient")
    @pytest.mark.after("test_shape")
    def test_gradient(self, submission):
        """The gradients of q and k are right; a kv head gets those of its whole group."""
        assert_gradients_close(submission.gqa_scores, repeated, *heads_of(), names=("q", "k"))
        q, k = heads_of(4, 2, 1, 2, 3)
        assert_gradients(submission.gqa_scores, q[:1], k[:1], names=("q", "k"))

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_scores")
    def test_transposed_views(self, submission):
        """q and k may be transposed views, as projections leave them."""
        q, k = heads_of()
        q, k = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k))
        got = submission.gqa_scores(q, k)
        axes = ("batch", "head", "query", "key")
        assert_close(got, repeated(q, k), axes=axes, what="with transposed views, the score")

    @pytest.mark.points(1, "structure")
    def test_leaves_its_arguments_alone(self, submission):
        """q and k come back unchanged."""
        assert_unchanged(submission.gqa_scores, *heads_of())

    @pytest.mark.points(1, "structure")
    def test_device(self, submission):
        """Everything it builds lives on the device of q and k."""
        assert_runs_on_meta(submission.gqa_scores, *heads_of())


# Chains of matrices.

Chain = list[tuple[int, int]]


def random_chain(count: int) -> Chain:
    """Shapes of so many matrices that fit."""
    sizes = [random.choice((1, 2, 3, 5, 7, 11, 13)) for _ in range(count + 1)]
    return list(pairwise(sizes))


def cheapest(shapes: Sequence[tuple[int, int]]) -> int:
    """The least cost of all: try every pair of neighbours first."""
    if len(shapes) == 1:
        return 0
    costs = []
    for i in range(len(shapes) - 1):
        (r, c), (_, k) = shapes[i : i + 2]
        costs.append(r * c * k + cheapest([*shapes[:i], (r, k), *shapes[i + 2 :]]))
    return min(costs)


def cheapest_of_many(sizes: Sequence[int]) -> int:
    """The least cost of a long chain of size sizes[i] x sizes[i + 1]: the two ends stay, and each
    inner size disappears by one product; a table by intervals of sizes, longest last."""
    table = {(i, i + 1): 0 for i in range(len(sizes) - 1)}
    for i, j in sorted(combinations(range(len(sizes)), 2), key=lambda pair: pair[1] - pair[0]):
        if j - i > 1:
            table[i, j] = min(
                table[i, k] + table[k, j] + sizes[i] * sizes[k] * sizes[j] for k in range(i + 1, j)
            )
    return table[0, len(sizes) - 1]


def left_to_right(shapes: Chain) -> int:
    """The cost of the order that `@` without parentheses has."""
    return sum(shapes[0][0] * c * k for c, k in shapes[1:])


def greedy(shapes: Chain) -> int:
    """The cost of taking the cheapest product each time."""
    rest, total = list(shapes), 0
    while len(rest) > 1:
        cost, i = min((rest[i][0] * rest[i][1] * rest[i + 1][1], i) for i in range(len(rest) - 1))
        total += cost
        rest[i : i + 2] = [(rest[i][0], rest[i + 1][1])]
    return total


# Of these the greedy choice is not the cheapest, nor is left to right.
TRAPS: list[Chain] = [
    [(2, 3), (3, 5), (5, 2), (2, 2)],
    [(3, 2), (2, 3), (3, 3), (3, 2)],
]


def answer_of(submission, shapes: Chain) -> tuple[int, list[tuple[int, int]]]:
    """The learner's cost and order, with the types that are asked for."""
    answer = submission.chain_cost(list(shapes))
    expect(
        isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], list),
        "the result should be a tuple of the cost and a list of pairs",
        id="value.type",
    )
    cost, order = answer
    expect(
        isinstance(cost, int) and not isinstance(cost, bool),
        f"the cost is a {type(cost).__name__}; expected an int",
        id="value.type",
    )
    return cost, order


def check_cost(submission, shapes: Chain, expected: Callable[[Chain], int]) -> None:
    """The cost of one chain, with the known mistakes by name."""
    cost, _ = answer_of(submission, shapes)
    least = expected(shapes)
    assert_equal(
        cost,
        least,
        what=f"the cost of {shapes}",
        explain={
            f"{cost} is the cost from left to right; another order takes {least}": (
                left_to_right(shapes)
            ),
            f"{cost} comes of taking the cheapest product each time; the cheapest whole takes "
            f"{least}, with a dearer product first": greedy(shapes),
            f"{cost} counts multiplications and additions by themselves: a multiply-add is one, "
            f"r * c * k in a product, {least} in all": 2 * least,
        },
    )


def draw_chain(steps: Sequence[tuple[str, str, str, int, int]], chain: Chain, claim: int) -> None:
    """Attach the tree of products: (result, left, right, summed size, multiply-adds) per step."""
    names = {chr(ord("A") + i): f"{r} × {c}" for i, (r, c) in enumerate(chain)}
    total = sum(step[-1] for step in steps)
    nodes = [{"id": name, "label": name, "note": note} for name, note in names.items()]
    edges = []
    for name, left, right, size, cost in steps:
        nodes.append({"id": name, "label": name, "note": f"{cost} multiply-adds"})
        edges += [{"from": part, "to": name, "label": str(size)} for part in (left, right)]
    picture(
        "graph",
        "Who is multiplied with whom",
        f"The arrows carry the size that is summed over. In all {total} multiply-adds; "
        f"you say {claim}, and from left to right it would be {left_to_right(chain)}.",
        nodes=nodes,
        edges=edges,
    )


def check_order(submission, chain: Chain, is_drawn: bool = False) -> None:
    """Multiply real matrices in the learner's order, and count what that takes."""
    claim, order = answer_of(submission, chain)
    matrices = [torch.randn(shape, dtype=torch.float64) for shape in chain]
    names = [chr(ord("A") + i) for i in range(len(chain))]
    steps: list[tuple[str, str, str, int, int]] = []
    for number, pair in enumerate(order, start=1):
        well_formed = isinstance(pair, tuple) and len(pair) == 2
        expect(
            well_formed and all(type(i) is int for i in pair) and pair[0] + 1 == pair[1],
            f"step {number} of the order is {pair!r}; expected a tuple (i, i + 1) of neighbours "
            "in the current list",
            id="value.pair",
        )
        i = pair[0]
        expect(
            0 <= i < len(matrices) - 1,
            f"step {number} of the order is {pair}, and the list has {len(matrices)} matrices by "
            "then: a product takes the place of its two factors, so later positions move up",
            id="value.position",
        )
        left, right = matrices[i : i + 2]
        log = count_ops(torch.mm, left, right)
        (rows, columns), inner = log.ops[-1].shapes[0], left.shape[1]
        name = names[i] + names[i + 1]
        steps.append((name, names[i], names[i + 1], inner, rows * inner * columns))
        matrices[i : i + 2], names[i : i + 2] = [log.result], [name]
    expect(
        len(matrices) == 1,
        f"after the {len(order)} steps of the order {len(matrices)} matrices are left; "
        f"a chain of {len(chain)} takes {len(chain) - 1} products",
        id="value.steps",
    )
    taken = sum(step[-1] for step in steps)
    if is_drawn or taken != claim:
        draw_chain(steps, chain, claim)
    expect(
        taken == claim,
        f"carried out, the order {order} takes {taken} multiply-adds, and the cost is said to be "
        f"{claim}: the positions count in the list as it is by then",
        id="value.order",
        expected=claim,
        got=taken,
    )


@pytest.mark.task("chain_cost")
class TestChainCost:
    @pytest.mark.points(1, "shape")
    def test_types(self, submission):
        """The result is an int and a list of pairs, and the shapes come back unchanged."""
        chain = [(2, 3), (3, 5), (5, 7)]
        given = list(chain)
        answer = submission.chain_cost(shapes=given)
        expect(
            given == chain,
            f"after the call the list of shapes is {given}; it was {chain}: work on a copy",
            id="argument.changed",
        )
        answer_of(submission, chain)
        expect(
            all(isinstance(pair, tuple) and len(pair) == 2 for pair in answer[1]),
            f"the order is {answer[1]}; expected a list of pairs",
            id="value.type",
        )

    @pytest.mark.points(4, "value")
    def test_cost(self, submission):
        """The cost is the least of all orders, for three to six matrices."""
        chains = [random_chain(count) for count in (3, 4, 5, 6) for _ in range(6)]
        smallest(lambda chain: check_cost(submission, chain, cheapest), [*TRAPS, *chains])

    @pytest.mark.points(5, "value")
    @pytest.mark.hint("Write the list down after each step. Where is the right part by then?")
    def test_order(self, submission):
        """Carried out, the order takes as many multiply-adds as the cost says."""
        chains = [random_chain(count) for count in (3, 4, 5, 6, 7) for _ in range(4)]
        trees = [[(5, 3), (3, 2), (2, 7), (7, 3), (3, 1)], [(2, 7), (7, 2), (2, 11), (11, 3)]]
        smallest(lambda chain: check_order(submission, chain), [*TRAPS, *trees, *chains])
        check_order(submission, trees[-1], is_drawn=True)

    @pytest.mark.points(1, "value")
    def test_one_matrix(self, submission):
        """One matrix costs nothing and takes no step."""
        assert_equal(answer_of(submission, [(2, 3)]), (0, []), what="chain_cost([(2, 3)])")

    @pytest.mark.points(1, "value")
    def test_two_matrices(self, submission):
        """Two matrices leave no choice."""
        got = answer_of(submission, [(2, 3), (3, 5)])
        assert_equal(
            got,
            (30, [(0, 1)]),
            what="chain_cost([(2, 3), (3, 5)])",
            explain={
                "2 · 3 · 5 multiply-adds are 30; multiplications and additions were counted by "
                "themselves": (60, [(0, 1)])
            },
        )

    @pytest.mark.points(3, "value")
    @pytest.mark.after("test_cost")
    def test_longer_chains(self, submission):
        """It finds the least cost for seven and eight matrices too."""
        chains = [random_chain(count) for count in (7, 8) for _ in range(6)]

        def least(chain: Chain) -> int:
            return cheapest_of_many([chain[0][0], *(columns for _, columns in chain)])

        smallest(lambda chain: check_cost(submission, chain, least), chains)


# Linear attention.


def phi(x: Tensor) -> Tensor:
    """elu + 1, from its definition."""
    return torch.where(x > 0, x + 1, x.clamp(max=0).exp())


def quadratic(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """The same by the table of all pairs."""
    weights = phi(q) @ phi(k).mT
    if causal:
        weights = weights.tril()
    return (weights / weights.sum(-1, keepdim=True)) @ v


def tokens(
    batch: int = 2,
    heads: int = 3,
    seq: int = 7,
    dim: int = 5,
    dim_v: int = 11,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor, Tensor]:
    """Random q, k and v."""
    q, k = (torch.randn(batch, heads, seq, dim, dtype=dtype) for _ in range(2))
    return q, k, torch.randn(batch, heads, seq, dim_v, dtype=dtype)


def known(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> dict[str, Callable[[], Tensor]]:
    """What the known mistakes give; computed only where a result is wrong."""
    scale = q.shape[-1] ** -0.5

    def cut(weights: Tensor) -> Tensor:
        return weights.tril() if causal else weights

    def form(weights: Tensor, values: Tensor = v) -> Tensor:
        return cut(weights) / cut(weights).sum(-1, keepdim=True) @ values

    def pairs() -> Tensor:
        return phi(q) @ phi(k).mT

    found: dict[str, Callable[[], Tensor]] = {
        "the sum is not divided by φ(q_n) · Σ φ(k_t): the weights don't sum to 1": (
            lambda: cut(pairs()) @ v
        ),
        "the sum is divided by the number of steps; divide by φ(q_n) · Σ φ(k_t)": (
            lambda: cut(pairs()) @ v / q.shape[2]
        ),
        "an epsilon of 1e-6 was added below the line; the quotient needs none": (
            lambda: cut(pairs()) @ v / (cut(pairs()).sum(-1, keepdim=True) + 1e-6)
        ),
        "the feature map belongs on q and k, not on v": lambda: form(pairs(), phi(v)),
        "the feature map is missing on q and k": lambda: form(q @ k.mT),
        "the feature map is on q alone": lambda: form(phi(q) @ k.mT),
        "the feature map is on k alone": lambda: form(q @ phi(k).mT),
        "q was scaled; linear attention has no scale": lambda: form(phi(q * scale) @ phi(k).mT),
        "this is softmax attention": lambda: form((q @ k.mT * scale).exp()),
        "this is softmax attention without a scale": lambda: form((q @ k.mT).exp()),
        "the feature map is relu; it is elu + 1": lambda: form(q.relu() @ k.relu().mT),
        "the feature map is elu without the + 1": lambda: form((phi(q) - 1) @ (phi(k) - 1).mT),
        "the feature map is exp; it is elu + 1": lambda: form(q.exp() @ k.exp().mT),
        "the sum Σ φ(k_t) v_tᵀ runs over the batch too: a letter is missing on the right": (
            lambda: batch_summed(q, k, v, causal)
        ),
    }
    if causal:
        found |= {
            "`causal` makes no difference: output n still uses what comes after n": (
                lambda: pairs() / pairs().sum(-1, keepdim=True) @ v
            ),
            "above the line the sum runs to n, below it over all t; both run to n": (
                lambda: pairs().tril() @ v / pairs().sum(-1, keepdim=True)
            ),
            "below the line the sum runs to n, above it over all t; both run to n": (
                lambda: pairs() @ v / pairs().tril().sum(-1, keepdim=True)
            ),
            "output n sees the steps before n, and not n itself": (
                lambda: pairs().tril(-1) / pairs().tril(-1).sum(-1, keepdim=True) @ v
            ),
        }
    else:
        found["this is the causal form; `causal` is False"] = lambda: (
            pairs().tril() / pairs().tril().sum(-1, keepdim=True) @ v
        )
    return found


def batch_summed(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """The state above the line summed over the batch, the normaliser not."""
    table = torch.einsum("bhnd,chtd->bhcnt", phi(q), phi(k))
    below = (phi(q) @ phi(k).mT).tril() if causal else phi(q) @ phi(k).mT
    table = table.tril() if causal else table
    return torch.einsum("bhcnt,chte->bhne", table, v) / below.sum(-1, keepdim=True)


AXES = ("batch", "head", "step", "dim_v")


def check_attention(submission, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> None:
    """The values, with the known mistakes by name."""
    args = tuple(x.clone() for x in (q, k, v))
    # The default is part of the signature.
    got = (
        submission.linear_attention(*args, causal=True)
        if causal
        else (submission.linear_attention(*args))
    )
    expected = quadratic(q.double(), k.double(), v.double(), causal).to(v.dtype)
    single = v.dtype is torch.float32
    assert_close(
        got,
        expected,
        rtol=1e-4 if single else None,
        atol=1e-5 if single else None,
        axes=AXES,
        explain=known(q, k, v, causal),
    )


def attention_of(submission, causal: bool) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The learner's attention, as a function of the three tensors."""
    return lambda q, k, v: submission.linear_attention(q, k, v, causal)


@pytest.mark.task("linear_attention")
class TestLinearAttention:
    @pytest.mark.points(1, "shape")
    def test_shape(self, submission):
        """The result has one row of dim_v for each step."""
        q, k, v = tokens(dtype=torch.float32)
        for causal in (False, True):
            got = submission.linear_attention(q=q, k=k, v=v, causal=causal)
            assert_shape(got, batch=2, heads=3, seq=7, dim_v=11)
            assert_dtype(got, torch.float32)

    @pytest.mark.points(4, "value")
    def test_values(self, submission):
        """Each output is the mean of all values by the weights of the feature map."""
        for dtype in (torch.float64, torch.float32):
            for sizes in ((1, 1, 2, 3, 5), (2, 3, 7, 5, 11), (2, 3, 7, 5, 11), (3, 2, 5, 11, 2)):
                check_attention(submission, *tokens(*sizes, dtype=dtype), causal=False)

    @pytest.mark.points(4, "value")
    def test_causal_values(self, submission):
        """With causal, output n is the mean of the values up to n."""
        for dtype in (torch.float64, torch.float32):
            for sizes in ((1, 1, 2, 3, 5), (2, 3, 7, 5, 11), (2, 3, 7, 5, 11), (1, 2, 131, 7, 3)):
                check_attention(submission, *tokens(*sizes, dtype=dtype), causal=True)

    @pytest.mark.points(2, "value")
    def test_small_features(self, submission):
        """Nothing is added below the line, which shows where the features are small."""
        q, k, v = tokens()
        q, k = q - 8, k - 8
        for causal in (False, True):
            got = submission.linear_attention(q.clone(), k.clone(), v.clone(), causal)
            weights = phi(q) @ phi(k).mT
            weights = weights.tril() if causal else weights
            above, below = weights @ v, weights.sum(-1, keepdim=True)
            explain = {
                f"an epsilon of {epsilon:g} was added below the line; the quotient needs none": (
                    above / (below + epsilon)
                )
                for epsilon in (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12)
            }
            what = "with features of about 0.0003, the result"
            assert_close(got, above / below, axes=AXES, what=what, explain=explain)

    @pytest.mark.points(2, "gradient")
    @pytest.mark.after("test_shape")
    def test_rows_are_apart(self, submission):
        """Neither batch rows nor heads reach each other."""
        q, k, v = tokens()
        for causal in (False, True):
            for place, name in ((0, "batch row"), (1, "head")):
                other = (1,) if place == 0 else (slice(None), 1)
                own = (0,) if place == 0 else (slice(None), 0)
                for x, run in (
                    (k, lambda x, c=causal: submission.linear_attention(q, x, v, c)),
                    (v, lambda x, c=causal: submission.linear_attention(q, k, x, c)),
                ):
                    assert_independent(
                        run, x, own, other, what=f"{name} 0 of the result looks at {name} 1"
                    )

    @pytest.mark.points(3, "gradient")
    @pytest.mark.after("test_shape")
    def test_future(self, submission):
        """With causal, no output depends on a later key or value."""
        q, k, v = tokens()
        for step in (0, 2, 5):
            own, later = (..., step, slice(None)), (..., slice(step + 1, None), slice(None))
            for x, name, run in (
                (k, "key", lambda x: submission.linear_attention(q, x, v, True)),
                (v, "value", lambda x: submission.linear_attention(q, k, x, True)),
            ):
                what = f"output {step} depends on a {name} after step {step}"
                if step == 0 and name == "key":
                    # One step alone has weight 1 whatever its key.
                    continue
                assert_independent(run, x, own, later, what=what)

    @pytest.mark.points(4, "memory")
    @pytest.mark.after("test_shape")
    def test_no_square(self, submission):
        """Without causal, no tensor has a place for each pair of steps."""
        args = tokens(1, 1, 512, 7, 5, torch.float32)
        log = count_ops(submission.linear_attention, *args)
        labels = ["q", "dim × dim_v", "largest you make", "seq × seq"]
        picture(
            "bars",
            "Elements, for 512 steps",
            "Associating the products the other way, nothing grows with the square of the steps.",
            labels=labels,
            series=[{"label": "elements", "values": [512 * 7, 35, log.largest, 512 * 512]}],
            log=True,
            unit="",
            limit=512 * 512,
        )
        assert_no_tensor_of(512 * 512, submission.linear_attention, *args)

    @pytest.mark.points(2, "memory")
    @pytest.mark.after("test_shape")
    def test_no_square_with_causal(self, submission):
        """With causal neither."""
        args = tokens(1, 1, 512, 7, 5, torch.float32)
        assert_no_tensor_of(512 * 512, submission.linear_attention, *args, causal=True)

    @pytest.mark.points(2, "structure")
    def test_no_loop(self, submission):
        """Without causal the number of operations doesn't grow with any size."""
        for place in range(5):

            def make(size: int, place: int = place) -> tuple[Tensor, ...]:
                sizes = [2, 3, 7, 5, 11]
                sizes[place] = size
                return tokens(*sizes)

            assert_no_python_loop(submission.linear_attention, make)

    @pytest.mark.points(2, "gradient")
    @pytest.mark.after("test_values")
    def test_gradient(self, submission):
        """The gradients of q, k and v are right."""
        run = attention_of(submission, False)
        assert_gradients_close(run, quadratic, *tokens(), names=("q", "k", "v"))
        assert_gradients(run, *tokens(1, 2, 3, 2, 2), names=("q", "k", "v"), fast=True)

    @pytest.mark.points(1, "gradient")
    @pytest.mark.after("test_causal_values")
    def test_causal_gradient(self, submission):
        """With causal the gradients are right too."""
        run = attention_of(submission, True)
        assert_gradients_close(
            run,
            lambda q, k, v: quadratic(q, k, v, True),
            *tokens(1, 2, 131, 3, 5),
            names=("q", "k", "v"),
        )
        assert_gradients(run, *tokens(1, 2, 3, 2, 2), names=("q", "k", "v"), fast=True)

    @pytest.mark.points(1, "value")
    def test_one_step(self, submission):
        """A sequence of one step gives back its value."""
        for causal in (False, True):
            q, k, v = tokens(seq=1)
            got = submission.linear_attention(q.clone(), k.clone(), v.clone(), causal)
            assert_close(got, v, axes=AXES, what="for one step, the result")

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_values")
    def test_large_queries(self, submission):
        """For q up to 10,000 the result is right and its gradients are finite."""
        q, k, v = tokens(dtype=torch.float32)
        q[..., 0] *= 1e4
        q[..., 1] = 1e4
        for causal in (False, True):
            leaves = [x.clone().requires_grad_() for x in (q, k, v)]
            got = assert_tensor(submission.linear_attention(*leaves, causal))
            assert_finite(the_result=got)
            upstream = torch.randn(got.shape)
            gradients = torch.autograd.grad(got, leaves, upstream)
            expected = quadratic(q.double(), k.double(), v.double(), causal).float()
            what = "for q up to 10,000 the result"
            assert_close(got, expected, rtol=1e-4, atol=1e-4, axes=AXES, what=what)
            if any(bool(gradient.isnan().any()) for gradient in gradients):
                fail(
                    "for q up to 10,000 a gradient is nan: exp of a large number is infinite, and "
                    "a `where` that does not take it still multiplies its gradient by 0",
                    id="gradient.nan",
                )
            assert_finite(**dict(zip(("gradient_of_q", "of_k", "of_v"), gradients, strict=True)))

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_values")
    def test_transposed_views(self, submission):
        """q, k and v may be transposed views, as projections leave them."""
        q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in tokens())
        for causal in (False, True):
            got = submission.linear_attention(q, k, v, causal)
            what = "with transposed views, the result"
            assert_close(got, quadratic(q, k, v, causal), axes=AXES, what=what)

    @pytest.mark.points(1, "structure")
    def test_leaves_its_arguments_alone(self, submission):
        """q, k and v come back unchanged."""
        for causal in (False, True):
            assert_unchanged(submission.linear_attention, *tokens(), causal)

    @pytest.mark.points(1, "structure")
    def test_device(self, submission):
        """Everything it builds lives on the device of its arguments."""
        for causal in (False, True):
            assert_runs_on_meta(submission.linear_attention, *tokens(), causal)

    @pytest.mark.points(2, "speed")
    @pytest.mark.after("test_values")
    def test_speed(self, submission):
        """It takes at most 0.3 of the time of the quadratic form."""

        def make(generator: torch.Generator, device: str) -> tuple[Tensor, Tensor, Tensor]:
            q, k, v = torch.randn(3, 1, 1, 1280, 16, generator=generator, device=device)
            return q, k, v

        assert_speed(
            submission.linear_attention,
            quadratic,
            make,
            limit=0.3,
            what="linear_attention (the model solution is the quadratic form)",
        )
