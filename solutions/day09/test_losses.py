"""Day 9 asks what each loss wants, for stable losses, and for one that never holds all logits."""

import itertools
import math
import warnings

import pytest
import torch
import torch._dynamo  # checkpointing imports it; a second that no check pays
from torch import Tensor
from torch.nn import functional as F

from grader.testing import (
    assert_close,
    assert_dtype,
    assert_finite,
    assert_gradients,
    assert_gradients_close,
    assert_independent,
    assert_no_tensor_of,
    assert_peak_memory,
    assert_runs_on_meta,
    assert_shape,
    assert_tensor,
    assert_unchanged,
    expect,
    fail,
    forbid,
    picture,
    rand_ints,
    randn,
    smallest,
)

# What each loss wants.

FUNCTIONS = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "bce": F.binary_cross_entropy_with_logits,
    "ce": F.cross_entropy,
    "nll": F.nll_loss,
    "seq_ce": F.cross_entropy,
}


def rows_of(loss: str, out: Tensor, target: Tensor) -> Tensor:
    """The loss by its definition, one element after the other."""
    if loss in ("mse", "l1", "bce"):
        losses = []
        for o, t in zip(out.flatten(), target.double().flatten().tolist(), strict=True):
            if loss == "mse":
                losses.append((o - t) ** 2)
            elif loss == "l1":
                losses.append((o - t).abs())
            else:
                losses.append(torch.log1p(torch.exp(-o)) if t else torch.log1p(torch.exp(o)))
        return torch.stack(losses).mean()
    if loss != "seq_ce" and target.ndim == 2:
        target = torch.tensor([[bool(t) for t in row].index(True) for row in target.tolist()])
    losses = []
    rows = out.reshape(-1, out.shape[-1])
    for row, t in zip(rows, target.flatten().tolist(), strict=True):
        losses.append(-row[t] if loss == "nll" else row.exp().sum().log() - row[t])
    return torch.stack(losses).mean()


def prepared(submission, loss: str, out: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """What the learner makes of them: two tensors."""
    pair = submission.prepare(loss, out, target)
    expect(
        isinstance(pair, tuple | list) and len(pair) == 2,
        f"prepare returns a {type(pair).__name__}; expected the tuple (out, target)",
        id="value.pair",
    )
    return assert_tensor(pair[0], "out"), assert_tensor(pair[1], "target")


def said(pair: tuple[Tensor, Tensor]) -> str:
    """Shapes and dtypes of out and target, in words."""
    out, target = pair
    return (
        f"out {tuple(out.shape)} {str(out.dtype)[6:]} and "
        f"target {tuple(target.shape)} {str(target.dtype)[6:]}"
    )


def check_prepared(submission, loss: str, out: Tensor, target: Tensor) -> None:
    """Torch's loss of the prepared pair, its gradient and its warnings."""
    leaf = out.clone().requires_grad_()
    pair = prepared(submission, loss, leaf, target.clone())
    name = FUNCTIONS[loss].__name__
    gradient = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            value = FUNCTIONS[loss](*pair)
            if value.requires_grad:
                (gradient,) = torch.autograd.grad(value, leaf, allow_unused=True)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            fail(f"{name} refuses {said(pair)}: {str(error).splitlines()[0]}", id="value.refused")
    if caught:
        sizes = tuple(pair[0].shape), tuple(pair[1].shape)
        fail(
            f"{name} warns, given {said(pair)}"
            + (
                (
                    ": it broadcasts them to a table of all pairs, and the mean of that is no loss "
                    "of rows; their shapes must be equal"
                    if max(out.numel(), target.numel()) > 1
                    else ": their shapes must be equal for a single row too"
                )
                if sizes[0] != sizes[1]
                else f": {str(caught[0].message).splitlines()[0]}"
            ),
            id="value.warning",
        )
    expected_leaf = out.clone().requires_grad_()
    expected = rows_of(loss, expected_leaf, target)
    (wanted,) = torch.autograd.grad(expected, expected_leaf)
    explain = {}
    if loss == "ce":
        explain[
            "softmax was applied to out; cross_entropy wants the logits, and normalises them itself"
        ] = rows_of(loss, out.softmax(1), target)
    if loss == "seq_ce":
        batch, seq, classes = out.shape
        explain[
            "the numbers of different positions were mixed: view or reshape keeps their order "
            "in memory; to put the classes on axis 1, swap the axes"
        ] = F.cross_entropy(out.reshape(batch, classes, seq), target.long())
    assert_close(value.detach(), expected.detach(), what=f"{name} of {said(pair)}", explain=explain)
    expect(
        gradient is not None,
        "no gradient goes back from the loss to `out`: return it or a view of it, not a copy "
        "that has left the graph",
        id="gradient.none",
    )
    assert_close(gradient, wanted, what=f"the gradient of {name} with respect to out")


def shapes(n: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(N,) and (N, 1), either way."""
    return list(itertools.product(((n,), (n, 1)), repeat=2))


def one_hot(index: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """(N,) to (N, classes)."""
    return (index[:, None] == torch.arange(classes)).to(dtype)


@pytest.mark.task("prepare")
class TestPrepare:
    @pytest.mark.points(1, "shape")
    def test_column_and_vector(self, submission):
        """A column against a vector gives mse and l1 of the rows."""

        def run(case):
            out, target = case["shapes"]
            check_prepared(submission, case["loss"], torch.randn(out), torch.randn(target))

        smallest(
            run,
            [
                {"loss": loss, "shapes": pair}
                for n in (2, 5)
                for loss in ("mse", "l1")
                for pair in shapes(n)
            ],
        )

    @pytest.mark.points(1, "value")
    def test_target_dtypes(self, submission):
        """Targets of any dtype give mse and l1 in the dtype of out."""

        def run(case):
            target = torch.tensor([0, 1, 1, 0, 1]).to(case["target"])
            check_prepared(submission, case["loss"], torch.randn(5), target)

        dtypes = (torch.int64, torch.int32, torch.uint8, torch.bool, torch.float64)
        smallest(
            run,
            [{"loss": loss, "target": dtype} for dtype in dtypes for loss in ("mse", "l1")],
        )

    @pytest.mark.points(1, "value")
    def test_binary(self, submission):
        """Binary targets of any shape and dtype give the loss of the logits."""

        def run(case):
            out, shape = case["shapes"]
            target = torch.tensor([0, 1, 1, 0, 1]).reshape(shape).to(case["target"])
            check_prepared(submission, "bce", torch.randn(out), target)

        dtypes = (torch.float32, torch.int64, torch.int32, torch.bool)
        smallest(run, [{"shapes": pair, "target": dtype} for dtype in dtypes for pair in shapes(5)])

    @pytest.mark.points(1, "value")
    def test_class_indices(self, submission):
        """Class indices in int32 and int64 give ce and nll."""

        def run(case):
            out, target = torch.randn(5, 3), torch.tensor([2, 0, 1, 1, 2])
            if case["loss"] == "nll":
                out = out.log_softmax(1)
            check_prepared(submission, case["loss"], out, target.to(case["target"]))

        dtypes = (torch.int64, torch.int32)
        smallest(
            run, [{"loss": loss, "target": dtype} for dtype in dtypes for loss in ("ce", "nll")]
        )

    @pytest.mark.points(2, "value")
    def test_one_hot(self, submission):
        """One-hot targets of any dtype give ce and nll."""

        def run(case):
            out, index = torch.randn(5, 3), torch.tensor([2, 0, 1, 1, 2])
            if case["loss"] == "nll":
                out = out.log_softmax(1)
            check_prepared(submission, case["loss"], out, one_hot(index, 3, case["target"]))

        dtypes = (torch.float32, torch.int64, torch.int32, torch.bool)
        smallest(
            run, [{"loss": loss, "target": dtype} for loss in ("ce", "nll") for dtype in dtypes]
        )

    @pytest.mark.points(2, "value")
    def test_sequence(self, submission):
        """The loss of a sequence belongs to the classes at each position."""

        def run(case):
            batch, seq, classes = case["out"]
            target = rand_ints(batch, seq, high=classes).to(case["target"])
            check_prepared(submission, "seq_ce", torch.randn(batch, seq, classes), target)

        sizes = ((2, 3, 5), (3, 7, 5), (3, 3, 3))
        dtypes = (torch.int64, torch.int32)
        smallest(run, [{"out": size, "target": dtype} for size in sizes for dtype in dtypes])

    @pytest.mark.points(1, "shape")
    def test_batch_of_one(self, submission):
        """A batch of one works for every loss."""

        def run(case):
            out, target = torch.randn(case["out"]), torch.ones(case["target"], dtype=torch.int32)
            if case["loss"] == "nll":
                out = out.log_softmax(1)
            if case["loss"] in ("ce", "nll") and target.ndim == 2:
                target[0, 0] = 0
            check_prepared(submission, case["loss"], out, target)

        cases = [
            {"loss": loss, "out": out, "target": target}
            for loss in ("mse", "l1", "bce")
            for out, target in shapes(1)
        ]
        for loss in ("ce", "nll"):
            cases += [{"loss": loss, "out": (1, 2), "target": size} for size in ((1,), (1, 2))]
        cases += [
            {"loss": "seq_ce", "out": (batch, seq, 3), "target": (batch, seq)}
            for batch, seq in ((1, 1), (1, 5), (5, 1))
        ]
        smallest(run, cases)

    @pytest.mark.points(1, "structure")
    def test_out_is_not_copied(self, submission):
        """What comes back of out is itself or a view, in its own dtype."""

        def run(case):
            out = torch.randn(case["out"])
            target = torch.ones(case["target"], dtype=case["dtype"])
            got, _ = assert_unchanged(submission.prepare, case["loss"], out, target)
            assert_dtype(got, torch.float32, "out")
            expect(
                got.untyped_storage().data_ptr() == out.untyped_storage().data_ptr(),
                f"the out that comes back for {case['loss']!r} is a copy; return it itself or a "
                "view of it",
                id="structure.copy",
            )

        column, vector = (5, 1), (5,)
        cases = [
            {"loss": loss, "out": out, "target": target, "dtype": dtype}
            for loss in ("mse", "l1", "bce")
            for out, target in ((column, vector), (vector, column), (vector, vector))
            for dtype in (torch.float64, torch.int64)
        ]
        cases += [
            {"loss": loss, "out": (5, 3), "target": (5,), "dtype": torch.int32}
            for loss in ("ce", "nll")
        ]
        cases.append({"loss": "seq_ce", "out": (2, 5, 3), "target": (2, 5), "dtype": torch.int32})
        smallest(run, cases)


# Binary cross-entropy of logits.

FORBIDDEN_BINARY = (
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "soft_margin_loss",
    "multilabel_soft_margin_loss",
    "cross_entropy",
    "nn.BCELoss",
    "nn.BCEWithLogitsLoss",
    "nn.SoftMarginLoss",
    "nn.MultiLabelSoftMarginLoss",
    "nn.CrossEntropyLoss",
)


def reduced(loss: Tensor, reduction: str) -> Tensor:
    """A reduction by name."""
    return {"none": loss, "sum": loss.sum(), "mean": loss.mean()}[reduction]


def bce_oracle(
    z: Tensor, y: Tensor, pos_weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Through logaddexp with 0, which is stable and has the right gradient."""
    zero = torch.zeros_like(z)
    weight = torch.ones_like(z) if pos_weight is None else pos_weight
    return reduced(
        weight * y * torch.logaddexp(zero, -z) + (1 - y) * torch.logaddexp(zero, z), reduction
    )


def check_bce(submission, z: Tensor, y: Tensor, pos_weight: Tensor | None, reduction: str) -> None:
    """The value, with the known mistakes by name."""
    weight = None if pos_weight is None else pos_weight.clone()
    got = submission.bce_with_logits(z.clone(), y.clone(), weight, reduction)
    explain = {
        "σ was applied twice; z is the logit, before any sigmoid": bce_oracle(
            z.sigmoid(), y, pos_weight, reduction
        ),
        "the labels were rounded to 0 and 1; a soft label shares the loss between both terms": (
            bce_oracle(z, (y > 0.5).to(y.dtype), pos_weight, reduction)
        ),
        "y and 1 - y are exchanged: y goes with log σ(z)": bce_oracle(-z, y, pos_weight, reduction),
    }
    if pos_weight is not None:
        explain |= {
            "pos_weight multiplies both terms; it belongs to the term with y alone": reduced(
                pos_weight * bce_oracle(z, y, None, "none"), reduction
            ),
            "pos_weight has no effect": bce_oracle(z, y, None, reduction),
            "the mean divides by the sum of the weights; it divides by the number of elements": (
                bce_oracle(z, y, pos_weight, "sum") / (1 + (pos_weight - 1) * y).sum()
            ),
            "pos_weight multiplies the term with 1 - y; it belongs to the one with y": reduced(
                y * F.softplus(-z) + pos_weight * (1 - y) * F.softplus(z), reduction
            ),
        }
    assert_close(got, bce_oracle(z, y, pos_weight, reduction), explain=explain)


def hard(*shape: int) -> Tensor:
    """Labels 0 and 1, the first two of them different."""
    labels = rand_ints(*shape, high=2).double()
    if labels.numel() > 1:
        labels.view(-1)[:2] = torch.tensor([1.0, 0.0])
    return labels


HUGE = (200.0, -200.0, 1e4, -1e4)


@pytest.mark.task("bce_with_logits")
class TestBceWithLogits:
    @pytest.mark.points(2, "value")
    def test_value(self, submission):
        """The mean over all elements is right."""

        def run(shape):
            check_bce(submission, randn(*shape, dtype=torch.float64), hard(*shape), None, "mean")
            z, y = randn(*shape), hard(*shape).float()
            check_bce(submission, z, y, None, "mean")

        smallest(run, ((), (2,), (2, 3), (2, 3, 5)))

    @pytest.mark.points(1, "value")
    def test_reductions(self, submission):
        """sum adds up, and none keeps every element."""

        def run(reduction):
            check_bce(submission, randn(2, 3, dtype=torch.float64), hard(2, 3), None, reduction)

        smallest(run, ("none", "sum", "mean"))
        assert_shape(
            submission.bce_with_logits(torch.randn(3), torch.ones(3), reduction="none"), n=3
        )

    @pytest.mark.points(1, "value")
    def test_soft_labels(self, submission):
        """Labels between 0 and 1 share the loss between both terms."""
        z, y = randn(3, 5, dtype=torch.float64), torch.rand(3, 5, dtype=torch.float64)
        check_bce(submission, z, y, None, "none")
        check_bce(submission, z, y, randn(5, dtype=torch.float64).exp(), "none")

    @pytest.mark.points(2, "value")
    def test_pos_weight(self, submission):
        """pos_weight broadcasts, and weights the positive part alone."""

        def run(case):
            z = randn(5, 3, dtype=torch.float64)
            weight = randn(*case["pos_weight"], dtype=torch.float64).exp()
            check_bce(submission, z, hard(5, 3), weight, case["reduction"])

        sizes = ((), (1,), (3,), (5, 1), (5, 3))
        smallest(
            run,
            [{"pos_weight": s, "reduction": r} for s in sizes for r in ("none", "sum", "mean")],
        )

    @pytest.mark.points(2, "gradient")
    def test_gradient(self, submission):
        """The gradient of an element is the sigmoid of z, minus y."""
        z, y = randn(2, 3, dtype=torch.float64, requires_grad=True), hard(2, 3)
        z_oracle, upstream = z.detach().clone(), torch.randn(2, 3, dtype=torch.float64)
        got = assert_tensor(submission.bce_with_logits(z, y, reduction="none"))
        expect(got.requires_grad, "the loss of logits that require grad does not require grad")
        (gradient,) = torch.autograd.grad(got, z, upstream)
        expected = upstream * (z_oracle.sigmoid() - y)
        assert_close(gradient, expected, what="the gradient with respect to z")

        def loss(z):
            return submission.bce_with_logits(z, y, weight)

        y, weight = torch.rand(2, 3, dtype=torch.float64), torch.rand(3, dtype=torch.float64) + 0.5
        assert_gradients(loss, randn(2, 3, dtype=torch.float64, away_from_zero=0.1))

    @pytest.mark.points(2, "value")
    def test_huge_logits(self, submission):
        """Logits of 200 and 10,000 in size give the right value."""
        points = torch.linspace(-200, 200, 41)
        label = torch.ones(41)
        curve = assert_tensor(submission.bce_with_logits(points.clone(), label, reduction="none"))
        picture(
            "curve",
            "The loss of a positive label, over the logit",
            "In float32 the sigmoid of -104 is 0 and its log -inf; the loss is about 104.",
            series=[
                {"label": "yours", "x": points, "y": curve.detach()},
                {"label": "-log(sigmoid(z))", "x": points, "y": -points.sigmoid().log()},
            ],
            x_label="z",
            y_label="loss",
            log_y=False,
            limit=None,
        )

        def run(case):
            z = torch.tensor([case["z"]], dtype=case["dtype"])
            y = torch.tensor([case["y"]], dtype=case["dtype"])
            got = assert_tensor(submission.bce_with_logits(z.clone(), y.clone()))
            expected = bce_oracle(z, y)
            expect(
                bool(got.isfinite().all()),
                f"the loss of logit {case['z']:g} with label {case['y']:g} is {got.item()}; "
                f"expected {expected.item():g}: exp of 200 is inf in float32, and a sigmoid that "
                "rounds to 0 has no log; take the log of the sigmoid in one step",
                id="value.overflow",
                expected=expected.item(),
                got=str(got.item()),
            )
            cut = (case["z"] if case["z"] > 0 else 0) - case["z"] * case["y"]
            if expected > 1 and got < 0.9 * expected:
                fail(
                    f"the loss of logit {case['z']:g} with label {case['y']:g} is {got.item():g}; "
                    f"expected {cut:g}: a clamp keeps it finite but makes it too small, and its "
                    "gradient 0",
                    id="value.clamped",
                    expected=cut,
                    got=got.item(),
                )
            assert_close(got, expected)

        smallest(
            run,
            [
                {"z": z, "y": y, "dtype": dtype}
                for dtype in (torch.float32, torch.float64)
                for z in HUGE
                for y in (1.0, 0.0, 0.25)
            ],
        )

    @pytest.mark.points(2, "gradient")
    def test_huge_gradients(self, submission):
        """Logits of 200 and 10,000 in size give the right gradient."""
        points = torch.linspace(-200, 200, 40)
        leaf = points.clone().requires_grad_()
        loss = assert_tensor(submission.bce_with_logits(leaf, torch.ones(40), reduction="sum"))
        expect(loss.requires_grad, "the loss of logits that require grad does not require grad")
        (gradient,) = torch.autograd.grad(loss, leaf)
        naive = points.clone().requires_grad_()
        (wrong,) = torch.autograd.grad(-naive.sigmoid().log().sum(), naive)
        picture(
            "curve",
            "The gradient for a positive label, over the logit",
            "Right is sigmoid(z) - 1: -1 far on the left, where the naive form has nan.",
            series=[
                {"label": "yours", "x": points, "y": gradient},
                {"label": "of -log(sigmoid(z))", "x": points, "y": wrong},
            ],
            x_label="z",
            y_label="gradient",
            log_y=False,
            limit=None,
        )

        def run(case):
            z = torch.tensor([case["z"]], dtype=case["dtype"], requires_grad=True)
            y = torch.tensor([case["y"]], dtype=case["dtype"])
            (got,) = torch.autograd.grad(submission.bce_with_logits(z, y.clone()), z)
            expected = z.detach().sigmoid() - y
            says = f"the gradient at logit {case['z']:g} with label {case['y']:g}"
            expect(
                bool(got.isfinite().all()),
                f"{says} is {got.item()}; expected {expected.item():g}",
                id="gradient.overflow",
            )
            if got == 0 and expected.abs() > 0.1:
                fail(
                    f"{says} is 0; expected {expected.item():g}: these examples are the most "
                    "wrong ones, and nothing is learned from them (a clamp does that)",
                    id="gradient.clamped",
                    expected=expected.item(),
                    got=0.0,
                )
            assert_close(got, expected, what=says)

        smallest(
            run,
            [
                {"z": z, "y": y, "dtype": dtype}
                for dtype in (torch.float32, torch.float64)
                for z in HUGE
                for y in (1.0, 0.0, 0.25)
            ],
        )

    @pytest.mark.points(1, "shape")
    def test_shape_mismatch(self, submission):
        """Logits and labels of different shapes raise a ValueError."""

        def run(case):
            z, y = torch.randn(case["z"]), torch.ones(case["y"])
            try:
                result = submission.bce_with_logits(z, y, reduction=case["reduction"])
            except ValueError:
                return
            except (RuntimeError, IndexError, TypeError, AssertionError) as error:
                fail(
                    f"z {case['z']} and y {case['y']} raise a {type(error).__name__}; expected a "
                    "ValueError",
                    id="raises.type",
                )
            fail(
                f"z {case['z']} and y {case['y']} give a result of shape {tuple(result.shape)} "
                "instead of a ValueError: they broadcast, and the loss pairs every logit with "
                "labels that are not its own",
                id="raises.nothing",
            )

        pairs = (((3, 1), (3,)), ((3,), (3, 1)), ((2, 3), (3,)), ((3,), ()), ((2, 3), (3, 2)))
        smallest(
            run, [{"z": z, "y": y, "reduction": r} for z, y in pairs for r in ("mean", "none")]
        )

    @pytest.mark.points(1, "structure")
    def test_forbidden(self, submission):
        """It uses none of the losses of torch."""
        with forbid(*FORBIDDEN_BINARY, why="write the loss yourself"):
            submission.bce_with_logits(torch.randn(2, 3), torch.ones(2, 3), torch.rand(3))
            submission.bce_with_logits(torch.randn(2, 3), torch.ones(2, 3))

    @pytest.mark.points(1, "structure")
    def test_arguments(self, submission):
        """The arguments stay as they were, and the result is where they are."""
        z, y, weight = torch.randn(2, 3), torch.rand(2, 3), torch.rand(3)
        got = assert_unchanged(submission.bce_with_logits, z, y, weight, "none")
        assert_dtype(got, torch.float32)
        assert_runs_on_meta(submission.bce_with_logits, z, y, weight)


# Cross-entropy of class indices.

FORBIDDEN_CROSS = ("cross_entropy", "nll_loss", "nn.CrossEntropyLoss", "nn.NLLLoss")

OPTIONS = tuple(
    {"weight": weight, "ignore_index": ignored, "label_smoothing": smoothing, "reduction": how}
    for how in ("none", "sum", "mean")
    for smoothing in (0.0, 0.1, 0.5, 1.0)
    for weight in (None, True)
    for ignored in (-100, -1, 0, 2, 99)
    if (smoothing, ignored) not in ((0.5, -1), (0.5, 99), (1.0, -1), (1.0, 99), (1.0, 0))
)


def distances(logits: Tensor) -> Tensor:
    """-log p over axis 1, by the definition with the largest logit taken out."""
    top = logits.amax(1, keepdim=True).detach()
    return top + (logits - top).exp().sum(1, keepdim=True).log() - logits


def known_mistakes(logits: Tensor, target: Tensor, **options) -> dict[str, Tensor]:
    """What the known mistakes give."""
    weight, ignored = options.get("weight"), options.get("ignore_index", -100)
    smoothing, how = options.get("label_smoothing", 0.0), options.get("reduction", "mean")
    classes = logits.shape[1]
    kept = target != ignored
    total = F.cross_entropy(logits, target, **{**options, "reduction": "sum"})
    found = {
        "softmax was applied before; the logits are not normalised yet": F.cross_entropy(
            logits.softmax(1), target, **options
        ),
    }
    if not kept.all():
        counted = {**options, "ignore_index": -100}
        found["the ignored targets count like others"] = F.cross_entropy(
            logits, target.clamp(0, classes - 1), **counted
        )
    if how == "mean":
        if not kept.all():
            found["the mean divides by all targets, the ignored ones included"] = (
                total / target.numel()
            )
        if weight is not None:
            found[
                "the mean divides by the number of targets; with weights it divides by the sum "
                "of the weights of the targets"
            ] = total / kept.sum()
        if weight is None and logits.ndim > 2:
            found["the mean divides by the batch; it divides by the number of targets"] = (
                total / len(target)
            )
    if smoothing and how != "mean":
        scale = torch.ones(classes).to(logits) if weight is None else weight
        spread = torch.einsum("bc...,c->b...", distances(logits), scale)
        hard = F.cross_entropy(
            logits, target, **{**options, "label_smoothing": 0.0, "reduction": "none"}
        )
        part = smoothing / classes * spread
        found["the ignored targets still have their smoothing part"] = reduced(
            (1 - smoothing) * hard + part, how
        )
        if weight is not None:
            even = smoothing / classes * distances(logits).sum(1) * kept
            own = scale[target.where(kept, 0)]
            found |= {
                "the smoothing part lacks the weights of the classes": reduced(
                    (1 - smoothing) * hard + even, how
                ),
                "the smoothing part has the weight of the target; each class has its own": reduced(
                    (1 - smoothing) * hard + even * own, how
                ),
            }
    if smoothing and classes > 1 and how != "mean" and weight is None:
        nll = F.cross_entropy(logits, target, ignore_index=ignored, reduction="none")
        whole = distances(logits).sum(1) * kept
        found |= {
            "the smoothing is shared among the classes - 1 others; it is shared among all classes, "
            "the target's included": reduced(
                (1 - smoothing) * nll + smoothing / (classes - 1) * (whole - nll), how
            ),
            "the smoothing part is the sum over the classes; it is 1 / classes of it": reduced(
                (1 - smoothing) * nll + smoothing * whole, how
            ),
            "the target's own part was not reduced to 1 - label_smoothing": reduced(
                nll + smoothing / classes * whole, how
            ),
        }
    return found


def check_cross_entropy(submission, logits: Tensor, target: Tensor, **options) -> None:
    """The value, with the known mistakes by name."""
    mine = {k: v.clone() if isinstance(v, Tensor) else v for k, v in options.items()}
    got = submission.cross_entropy(logits.clone(), target.clone(), **mine)
    expected = F.cross_entropy(logits, target, **options)
    mistakes = known_mistakes(logits, target, **options)
    assert_close(got, expected, explain=mistakes)


def two_ignored(*shape: int, high: int, ignored: int) -> Tensor:
    """Random targets; the first and the last are ignored, the second is not."""
    target = rand_ints(*shape, high=high)
    flat = target.view(-1)
    flat[flat == ignored] = (ignored + 1) % high
    flat[0] = flat[-1] = ignored
    return target


@pytest.mark.task("cross_entropy")
class TestCrossEntropy:
    @pytest.mark.points(2, "value")
    def test_value(self, submission):
        """The mean over a batch of rows is right."""

        def run(shape):
            for dtype in (torch.float64, torch.float32):
                logits = randn(*shape, dtype=dtype)
                check_cross_entropy(submission, logits, rand_ints(shape[0], high=shape[1]))

        smallest(run, ((1, 2), (2, 3), (5, 3), (3, 3)))

    @pytest.mark.points(2, "value")
    def test_more_axes(self, submission):
        """The classes are on axis 1, whatever follows."""

        def run(shape):
            logits = randn(*shape, dtype=torch.float64)
            target = rand_ints(shape[0], *shape[2:], high=shape[1])
            for how in ("none", "mean"):
                got = submission.cross_entropy(logits.clone(), target.clone(), reduction=how)
                explain = {
                    "the losses are normalised over the last axis; the classes are on axis 1": (
                        reduced(-logits.log_softmax(-1).gather(1, target[:, None]).squeeze(1), how)
                    )
                }
                if how == "mean":
                    explain |= known_mistakes(logits, target)
                expected = F.cross_entropy(logits, target, reduction=how)
                assert_close(got, expected, explain=explain)

        smallest(run, ((2, 3, 1), (2, 3, 5), (3, 3, 3), (2, 5, 3, 7), (1, 3, 2, 5)))

    @pytest.mark.points(1, "value")
    def test_reductions(self, submission):
        """sum adds up, and none keeps the shape of the targets."""

        def run(how):
            logits = randn(5, 3, dtype=torch.float64)
            check_cross_entropy(submission, logits, rand_ints(5, high=3), reduction=how)

        smallest(run, ("none", "sum", "mean"))

    @pytest.mark.points(2, "value")
    def test_weight(self, submission):
        """Weights multiply, and the mean divides by their sum."""

        def run(how):
            logits, target = randn(5, 3, dtype=torch.float64), torch.tensor([2, 0, 0, 1, 2])
            weight = torch.tensor([0.5, 3.0, 7.0], dtype=torch.float64)
            check_cross_entropy(submission, logits, target, weight=weight, reduction=how)
            logits, target = randn(2, 3, 5, dtype=torch.float64), rand_ints(2, 5, high=3)
            check_cross_entropy(submission, logits, target, weight=weight, reduction=how)

        smallest(run, ("none", "sum", "mean"))

    @pytest.mark.points(2, "value")
    def test_ignore_index(self, submission):
        """Ignored targets count neither in the sum nor in the denominator."""

        def run(case):
            ignored, how = case["ignore_index"], case["reduction"]
            logits = randn(7, 3, dtype=torch.float64)
            target = two_ignored(7, high=3, ignored=ignored)
            check_cross_entropy(submission, logits, target, ignore_index=ignored, reduction=how)

        smallest(
            run,
            [
                {"ignore_index": ignored, "reduction": how}
                for how in ("none", "sum", "mean")
                for ignored in (-100, -1, 1, 255)
            ],
        )

    @pytest.mark.points(1, "value")
    def test_all_ignored(self, submission):
        """If all targets are ignored, the mean is nan and the sum 0."""
        logits, target = torch.randn(3, 5), torch.full((3,), -100)
        got = assert_tensor(submission.cross_entropy(logits.clone(), target.clone()))
        expect(
            bool(got.isnan().all()),
            f"the mean over no target is {got.tolist()}; expected nan, as torch has it: a number "
            "would hide that the batch had nothing to learn from",
            id="value.empty_mean",
            got=str(got.tolist()),
        )
        check_cross_entropy(submission, logits, target, reduction="sum")
        check_cross_entropy(submission, logits, target, reduction="none")

    @pytest.mark.points(2, "value")
    def test_label_smoothing(self, submission):
        """Smoothing spreads its part over all classes evenly."""

        def run(case):
            logits, target = randn(5, 3, dtype=torch.float64), rand_ints(5, high=3)
            check_cross_entropy(submission, logits, target, **case)

        smallest(
            run,
            [
                {"label_smoothing": e, "reduction": how}
                for how in ("none", "sum", "mean")
                for e in (0.1, 0.5, 1.0)
            ],
        )

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_weight", "test_ignore_index", "test_label_smoothing")
    def test_options_together(self, submission):
        """Weights, ignored targets and smoothing work together."""
        weight = torch.tensor([0.5, 3.0, 7.0], dtype=torch.float64)

        def run(case):
            ignored = case["ignore_index"]
            for shape in ((7,), (2, 5)):
                logits = randn(shape[0], 3, *shape[1:], dtype=torch.float64)
                target = two_ignored(*shape, high=3, ignored=ignored)
                options = {**case, "weight": None if case["weight"] is None else weight}
                check_cross_entropy(submission, logits, target, **options)

        smallest(run, OPTIONS)

    @pytest.mark.points(1, "value")
    def test_huge_logits(self, submission):
        """Logits of 1000 in size give a finite value and gradient."""
        logits = 1000 * torch.tensor([[1.0, -1.0, 0.5], [-1.0, -0.5, -0.75], [0.0, 1.0, 1.0]])
        target = torch.tensor([1, 1, 2])
        leaf = logits.clone().requires_grad_()
        got = submission.cross_entropy(leaf, target.clone(), reduction="none")
        assert_finite(loss=got)
        expected = torch.tensor([2000.0, 0.0, math.log(2)])
        assert_close(got.detach(), expected, atol=1e-3)  # float32 has steps of 6e-5 at 1000
        (gradient,) = torch.autograd.grad(got.sum(), leaf)
        assert_finite(gradient=gradient)
        expected = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.5, -0.5]])
        assert_close(gradient, expected, atol=1e-3, what="the gradient of the sum")

    @pytest.mark.points(2, "gradient")
    def test_gradient(self, submission):
        """The gradient agrees with torch's, with every option."""
        weight = torch.tensor([0.5, 3.0, 7.0], dtype=torch.float64)

        def run(case):
            target = two_ignored(2, 5, high=3, ignored=-100)
            given = {**case, "weight": weight if case["weight"] else None}

            assert_gradients_close(
                lambda logits: submission.cross_entropy(logits, target.clone(), **given),
                lambda logits: F.cross_entropy(logits, target, **given),
                randn(2, 3, 5, dtype=torch.float64),
                names=("logits",),
            )

        smallest(
            run,
            [
                {"weight": weighted, "label_smoothing": e, "reduction": how}
                for weighted in (False, True)
                for e in (0.0, 0.25)
                for how in ("mean", "none")
            ],
        )
        target = rand_ints(3, high=5)
        assert_gradients(
            lambda logits: submission.cross_entropy(logits, target.clone()),
            randn(3, 5, dtype=torch.float64),
        )

    @pytest.mark.points(1, "gradient")
    def test_gradient_rows(self, submission):
        """Gradient rows sum to 0, and are 0 where ignored."""
        logits = randn(5, 3, dtype=torch.float64, requires_grad=True)
        target = torch.tensor([-100, 2, 0, 1, -100])
        loss = assert_tensor(submission.cross_entropy(logits, target.clone()))
        expect(loss.requires_grad, "the loss of logits that require grad does not require grad")
        (gradient,) = torch.autograd.grad(loss, logits)
        assert_finite(gradient=gradient)
        rows = gradient.sum(1).abs().max().item()
        expect(
            rows < 1e-12,
            f"a row of the gradient sums to {rows:g}; it is softmax minus one-hot, which sums to "
            "0: raising all logits of a row by the same number changes nothing",
            id="gradient.rows",
            expected=0.0,
            got=rows,
        )
        ignored = gradient[[0, 4]].abs().max().item()
        expect(
            ignored == 0,
            f"the logits of an ignored target get a gradient of {ignored:g}; expected 0",
            id="gradient.ignored",
        )

    @pytest.mark.points(1, "memory")
    @pytest.mark.after("test_value")
    def test_memory(self, submission):
        """Hard labels need no one-hot tensor."""
        logits, target = torch.randn(61, 509), rand_ints(61, high=509)
        assert_peak_memory(int(3.5 * 4 * logits.numel()), submission.cross_entropy, logits, target)

    @pytest.mark.points(1, "structure")
    def test_forbidden(self, submission):
        """It uses neither the cross_entropy nor the nll_loss of torch."""
        logits, target, weight = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0]), torch.rand(3)
        with forbid(*FORBIDDEN_CROSS, why="pick the log-probabilities yourself"):
            submission.cross_entropy(logits, target)
            submission.cross_entropy(logits, target, weight, 1, 0.1, "mean")

    @pytest.mark.points(1, "structure")
    def test_arguments(self, submission):
        """The arguments stay as they were, and the result is where they are."""
        logits, target, weight = torch.randn(5, 3), torch.tensor([0, -100, 2, 1, 0]), torch.rand(3)
        got = assert_unchanged(submission.cross_entropy, logits, target, weight)
        assert_dtype(got, torch.float32)
        assert_runs_on_meta(submission.cross_entropy, logits, target, weight)


# The loss of a language model.


def token_losses(logits: Tensor, tokens: Tensor) -> Tensor:
    """(batch, seq - 1): what each next token costs, one by one."""
    batch, seq, _ = logits.shape
    logp = distances(logits.transpose(1, 2))
    return torch.stack(
        [
            torch.stack([logp[b, int(tokens[b, t + 1]), t] for t in range(seq - 1)])
            for b in range(batch)
        ]
    )


def seq_mean(logits: Tensor, tokens: Tensor, pad: int) -> Tensor:
    """The mean of the next-token losses where the target is not pad."""
    kept = tokens[:, 1:] != pad
    return token_losses(logits, tokens)[kept].mean()


def check_seq(submission, logits: Tensor, tokens: Tensor, pad: int) -> None:
    """The value, with the known mistakes by name."""
    got = submission.seq_loss(logits.clone(), tokens.clone(), pad)
    losses, kept = token_losses(logits, tokens), tokens[:, 1:] != pad
    same = F.cross_entropy(logits.transpose(1, 2), tokens, ignore_index=pad)
    back = F.cross_entropy(logits[:, 1:].transpose(1, 2), tokens[:, :-1], ignore_index=pad)
    explain = {
        "the logits at position t are compared with token t; they predict token t + 1": same,
        "the shift goes the wrong way: the logits at position t are compared with token t - 1": (
            back
        ),
        "it is the sum over the targets; expected their mean": losses[kept].sum(),
        "the last position is compared with token 0: roll brings the first token to the end": (
            F.cross_entropy(logits.transpose(1, 2), tokens.roll(-1, 1), ignore_index=pad)
        ),
    }
    if not kept.all():
        explain |= {
            "pad counts in the denominator: divide by the number of targets that are not pad": (
                losses[kept].sum() / kept.numel()
            ),
            "pad targets count like all others": losses.mean(),
        }
    if kept.sum(1).unique().numel() > 1:
        rows = [row[k].mean() for row, k in zip(losses, kept, strict=True) if k.any()]
        explain[
            "it is the mean of the means of the sequences, so a token of a short one counts "
            "more; average over all target tokens of the batch"
        ] = torch.stack(rows).mean()
    by_input = tokens[:, :-1] != pad
    if not torch.equal(by_input, kept):
        explain[
            "the tokens that are put in were asked for pad; what counts is whether the target "
            "is pad"
        ] = losses[by_input].mean()
    assert_close(got, seq_mean(logits, tokens, pad), explain=explain)


PAD_LAST = 6


@pytest.mark.task("seq_loss")
class TestSeqLoss:
    @pytest.mark.points(3, "value")
    def test_value(self, submission):
        """The logits at position t are scored on token t + 1."""

        def run(shape):
            for _ in range(2):
                batch, seq, vocab = shape
                logits = randn(*shape, dtype=torch.float64)
                first = rand_ints(batch, 1, high=vocab)
                tokens = (first + torch.arange(seq)) % (vocab - 1) + 1  # neighbours differ
                check_seq(submission, logits, tokens, 0)

        smallest(run, ((1, 2, 3), (2, 3, 7), (3, 5, 7)))

    @pytest.mark.points(2, "gradient")
    def test_last_position(self, submission):
        """The logits at the last position are not used."""
        tokens = rand_ints(2, 5, high=6)
        assert_independent(
            lambda logits: submission.seq_loss(logits, tokens.clone(), PAD_LAST),
            randn(2, 5, 7, dtype=torch.float64),
            (),
            (slice(None), -1),
            what="the loss depends on the logits at the last position, which predict a token that "
            "isn't there",
        )

    @pytest.mark.points(3, "value")
    def test_short_and_long(self, submission):
        """A target token of a short sequence counts as any other."""
        tokens = torch.tensor([[1, 2, 3, 4, 5, 1, 2], [3, 1, 0, 0, 0, 0, 0]])
        check_seq(submission, 3 * randn(2, 7, 6, dtype=torch.float64), tokens, 0)

    @pytest.mark.points(2, "value")
    def test_pad_is_the_last_token(self, submission):
        """pad may be any token, the last of the vocabulary too."""
        tokens = torch.tensor([[0, 2, 0, 4, 0], [3, 0, 6, 6, 6], [5, 5, 1, 6, 6]])
        check_seq(submission, 3 * randn(3, 5, 7, dtype=torch.float64), tokens, PAD_LAST)
        tokens = torch.tensor([[0, 2, 0, 4, 0], [3, 0, 1, 1, 1]])
        check_seq(submission, 3 * randn(2, 5, 7, dtype=torch.float64), tokens, 1)

    @pytest.mark.points(1, "value")
    def test_pad_in_front(self, submission):
        """With pad in front, the first token after it is a target."""
        tokens = torch.tensor([[0, 0, 0, 4, 5], [1, 2, 3, 4, 5], [0, 1, 2, 3, 4]])
        check_seq(submission, 3 * randn(3, 5, 7, dtype=torch.float64), tokens, 0)

    @pytest.mark.points(2, "value")
    def test_row_of_pad(self, submission):
        """A row that is all pad changes nothing."""
        tokens = torch.tensor([[1, 2, 3, 0, 0], [0, 0, 0, 0, 0], [4, 5, 1, 2, 0]])
        logits = randn(3, 5, 7, dtype=torch.float64)
        got = submission.seq_loss(logits.clone(), tokens.clone(), 0)
        assert_finite(loss=got)
        check_seq(submission, logits, tokens, 0)

    @pytest.mark.points(1, "gradient")
    def test_gradient(self, submission):
        """The gradient is right, and 0 where the target is pad."""
        tokens = torch.tensor([[1, 2, 3, 0, 0], [4, 5, 1, 2, 6]])
        assert_gradients_close(
            lambda logits: submission.seq_loss(logits, tokens.clone(), 0),
            lambda logits: seq_mean(logits, tokens, 0),
            randn(2, 5, 7, dtype=torch.float64),
            names=("logits",),
        )

    @pytest.mark.points(1, "structure")
    def test_arguments(self, submission):
        """It takes non-contiguous logits, and changes no argument."""
        logits = randn(7, 5, 2, dtype=torch.float64).permute(2, 1, 0)
        tokens = torch.tensor([[1, 2, 3, 0, 0], [4, 5, 1, 2, 6]]).T.contiguous().T
        got = assert_unchanged(submission.seq_loss, logits, tokens, 0)
        assert_close(got, seq_mean(logits, tokens, 0))
        assert_runs_on_meta(submission.seq_loss, logits, tokens, 0)


# Divergences.


def kl_rows(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """KL(p || q) of each row, summed where p is not 0."""
    rows = []
    for logp, logq in zip(-distances(p_logits), -distances(q_logits), strict=True):
        kept = logp.exp() > 0
        rows.append((logp.exp()[kept] * (logp[kept] - logq[kept])).sum())
    return torch.stack(rows)


def js_rows(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """Jensen-Shannon, from probabilities; for logits of moderate size."""
    p, q = distances(p_logits).neg().exp(), distances(q_logits).neg().exp()
    middle = ((p + q) / 2).log()
    return (kl_rows(p_logits, middle) + kl_rows(q_logits, middle)) / 2


def with_impossible(*shape: int) -> Tensor:
    """Logits with a -inf in each row, on another class each, and two in the last row."""
    logits = randn(*shape, dtype=torch.float64)
    for i in range(shape[0]):
        logits[i, i % shape[1]] = -math.inf
    logits[-1, -1] = logits[-1, 0] = -math.inf
    return logits


def check_impossible_gradients(fn, oracle, names: tuple[str, str]) -> None:
    """Finite gradients with a probability of 0, and the right ones."""
    p, q = with_impossible(3, 5), randn(3, 5, dtype=torch.float64)
    leaves = [p.clone().requires_grad_(), q.clone().requires_grad_()]
    got = assert_tensor(fn(*leaves))
    expect(got.requires_grad, "the result for logits that require grad does not require grad")
    upstream = torch.randn(3, dtype=torch.float64)
    found = torch.autograd.grad(got, leaves, upstream, materialize_grads=True)
    for name, gradient in zip(names, found, strict=True):
        bad = int((~gradient.isfinite()).sum())
        expect(
            not bad,
            f"with a p logit of -inf, {bad} of the 15 gradients of {name} are not finite: "
            "backward goes through 0 * inf, even where the value is right; a `where` after the "
            "product comes too late",
            id="gradient.nan",
        )
    theirs = [p.clone().requires_grad_(), q.clone().requires_grad_()]
    wanted = torch.autograd.grad(oracle(*theirs), theirs, upstream)
    for name, gradient, right in zip(names, found, wanted, strict=True):
        assert_close(gradient, right, what=f"the gradient of {name}")


LOGIT_NAMES = ("p_logits", "q_logits")


@pytest.mark.task("kl_and_js")
class TestKlAndJs:
    @pytest.mark.points(1, "shape")
    def test_shape(self, submission):
        """Both have one number for each row."""
        for name in ("kl", "js"):
            got = getattr(submission, name)(torch.randn(3, 5), torch.randn(3, 5))
            if isinstance(got, Tensor) and got.shape == ():
                fail(
                    f"{name} is one number for the whole batch; expected one for each row, "
                    "of shape (3,)",
                    id="shape.scalar",
                )
            assert_shape(got, batch=3)
            assert_dtype(got, torch.float32)

    @pytest.mark.points(2, "value")
    def test_kl(self, submission):
        """kl is the divergence of p from q, row by row."""

        def run(shape):
            p, q = randn(*shape, dtype=torch.float64), randn(*shape, dtype=torch.float64)
            got = submission.kl(p.clone(), q.clone())
            p_given, q_given = (torch.distributions.Categorical(logits=x) for x in (p, q))
            expected = torch.distributions.kl_divergence(p_given, q_given)
            assert_close(
                got,
                expected,
                explain={
                    "p and q are exchanged: it is KL(q || p)": kl_rows(q, p),
                    "the sum over the classes was divided by their number": expected / shape[1],
                    "it is in bits; nats have the natural logarithm": expected / math.log(2),
                    "the sum over the classes lacks the weights p": (
                        p.log_softmax(1) - q.log_softmax(1)
                    ).sum(1),
                    "it is the cross-entropy of p and q; the entropy of p is to be taken off": (
                        -(p.softmax(1) * q.log_softmax(1)).sum(1)
                    ),
                },
            )

        smallest(run, ((1, 2), (2, 3), (5, 7)))

    @pytest.mark.points(1, "value")
    def test_direction(self, submission):
        """kl is weighted by its first argument."""
        narrow = torch.tensor([[0.98, 0.01, 0.01]], dtype=torch.float64).log()
        wide = torch.full((1, 3), 1 / 3, dtype=torch.float64).log()
        got = submission.kl(narrow.clone(), wide.clone())
        forward = 0.98 * math.log(2.94) + 0.02 * math.log(0.03)
        backward = (-math.log(2.94) - 2 * math.log(0.03)) / 3
        assert_close(
            got,
            torch.tensor([forward], dtype=torch.float64),
            what="kl of (0.98, 0.01, 0.01) from (1/3, 1/3, 1/3)",
            explain={
                "p and q are exchanged: p, the first argument, weights the sum": torch.tensor(
                    [backward], dtype=torch.float64
                )
            },
        )

    @pytest.mark.points(1, "value")
    def test_zero_and_shift(self, submission):
        """Equal distributions give 0, whatever constant the logits hold."""
        p = randn(3, 5, dtype=torch.float64)
        for name in ("kl", "js"):
            got = getattr(submission, name)(p.clone(), p + torch.tensor([[3.0], [-7.0], [11.0]]))
            assert_close(
                got, torch.zeros(3, dtype=torch.float64), what=f"{name} of equal distributions"
            )

    @pytest.mark.points(2, "value")
    def test_js(self, submission):
        """js is the mean divergence from the average of p and q."""

        def run(shape):
            p, q = (3 * randn(*shape, dtype=torch.float64) for _ in range(2))
            got = submission.js(p.clone(), q.clone())
            expected = js_rows(p, q)
            mixed = (p + q) / 2
            log_mixed = (p.log_softmax(1) + q.log_softmax(1)) / 2
            middle = ((p.softmax(1) + q.softmax(1)) / 2).log()
            assert_close(
                got,
                expected,
                explain={
                    "the logits were averaged; the average of the probabilities is another "
                    "distribution": (kl_rows(p, mixed) + kl_rows(q, mixed)) / 2,
                    "the log-probabilities were averaged; what is averaged is the probabilities": (
                        (p.softmax(1) - q.softmax(1)) * (p.log_softmax(1) - log_mixed)
                    ).sum(1)
                    / 2,
                    "it is the sum of the two divergences; expected their mean": 2 * expected,
                    "it is the mean of KL(p || q) and KL(q || p); both are to be taken to the "
                    "average distribution": (kl_rows(p, q) + kl_rows(q, p)) / 2,
                    "the divergences are those of the average from p and q; p and q come first": (
                        js_reversed(p, q)
                    ),
                    "it is its square root, the distance": expected.sqrt(),
                    "it is KL(p || m) alone; expected the mean of it and KL(q || m)": (
                        kl_rows(p, middle)
                    ),
                    "the average of p and q lacks its half, which is ln 2 in its log": (
                        expected - math.log(2)
                    ),
                },
            )

        smallest(run, ((1, 2), (2, 3), (5, 7)))

    @pytest.mark.points(1, "value")
    def test_bounds(self, submission):
        """kl is never negative; js is symmetric, and at most ln 2."""
        p, q = (5 * randn(31, 7, dtype=torch.float64) for _ in range(2))
        kl, js, turned = submission.kl(p, q), submission.js(p, q), submission.js(q, p)
        expect(kl.min() > -1e-9, f"kl of two distributions is {kl.min().item():g}, less than 0")
        expect(js.min() > -1e-9, f"js of two distributions is {js.min().item():g}, less than 0")
        expect(
            js.max() < math.log(2) + 1e-9,
            f"js of two distributions is {js.max().item():g}, more than ln 2 = 0.6931: the average "
            "has at least half of each probability",
            id="value.bound",
        )
        assert_close(js, turned, what="js(p, q), compared with js(q, p)")

    @pytest.mark.points(1, "value")
    def test_impossible_class(self, submission):
        """A class that p excludes adds nothing to kl."""
        p, q = with_impossible(3, 5), randn(3, 5, dtype=torch.float64)
        got = submission.kl(p.clone(), q.clone())
        expected = kl_rows(p, q)
        bad = int((~assert_tensor(got).isfinite()).sum())
        expect(
            not bad,
            f"with a p logit of -inf in each row, {bad} of the 3 divergences are not finite: "
            "0 * log 0 counts as 0, but 0 * -inf is nan",
            id="value.nan",
        )
        assert_close(got, expected)

    @pytest.mark.points(2, "gradient")
    def test_impossible_gradients(self, submission):
        """A class that p excludes leaves all gradients of kl finite."""
        check_impossible_gradients(submission.kl, kl_rows, LOGIT_NAMES)

    @pytest.mark.points(2, "gradient")
    def test_impossible_js(self, submission):
        """A class that p excludes leaves js and its gradients finite."""
        p, q = with_impossible(3, 5), randn(3, 5, dtype=torch.float64)
        got = submission.js(p.clone(), q.clone())
        assert_finite(js=got)
        assert_close(got, js_rows(p, q))
        check_impossible_gradients(submission.js, js_rows, LOGIT_NAMES)

    @pytest.mark.points(1, "gradient")
    def test_gradients(self, submission):
        """Both have the right gradients for p and for q."""
        inputs = [randn(2, 3, dtype=torch.float64) for _ in range(2)]
        for fn in (submission.kl, submission.js):
            assert_gradients(fn, *inputs, names=LOGIT_NAMES)
        assert_gradients_close(submission.kl, kl_rows, *inputs, names=LOGIT_NAMES)
        assert_gradients_close(submission.js, js_rows, *inputs, names=LOGIT_NAMES)

    @pytest.mark.points(1, "value")
    def test_huge_logits(self, submission):
        """Logits of 1000 in size give finite values and gradients."""
        p = torch.tensor([[1000.0, 0.0, -1000.0], [0.0, 1000.0, 1000.0]])
        q = torch.tensor([[0.0, 1000.0, -1000.0], [0.0, 1000.0, 1000.0]])
        expected = {"kl": torch.tensor([1000.0, 0.0]), "js": torch.tensor([math.log(2), 0.0])}
        for name, right in expected.items():
            leaves = [p.clone().requires_grad_(), q.clone().requires_grad_()]
            got = assert_tensor(getattr(submission, name)(*leaves))
            assert_finite(**{name: got})
            assert_close(got.detach(), right, atol=1e-3, what=name)
            expect(got.requires_grad, f"{name} of logits that require grad does not require grad")
            found = torch.autograd.grad(got.sum(), leaves, materialize_grads=True)
            assert_finite(**dict(zip(("grad_of_p", "grad_of_q"), found, strict=True)))


def js_reversed(p: Tensor, q: Tensor) -> Tensor:
    """The mean of the divergences of the average from p and from q."""
    middle = ((p.softmax(1) + q.softmax(1)) / 2).log()
    return (kl_rows(middle, p) + kl_rows(middle, q)) / 2


# A loss without all the logits.


def full_loss(h: Tensor, w: Tensor, target: Tensor) -> Tensor:
    """With all logits, from the definition."""
    kept = target != -100
    costs = distances(h @ w.T)[torch.arange(len(target)), target.where(kept, 0)]
    return costs[kept].mean()


def check_lm(submission, h: Tensor, w: Tensor, target: Tensor, chunk: int) -> None:
    """The value, with the known mistakes by name."""
    got = submission.chunked_lm_loss(h.clone(), w.clone(), target.clone(), chunk)
    expected = full_loss(h, w, target)
    if isinstance(got, Tensor) and got.isnan().any():
        fail(
            f"the loss of {len(h)} tokens in chunks of {chunk}, with target {target.tolist()}, is "
            "nan: the mean over a chunk without targets is 0 / 0; add up sums",
            id="value.nan",
        )
    kept = target != -100
    parts = list(zip(h.split(chunk), target.split(chunk), strict=True))
    means = [full_loss(a, w, b) for a, b in parts if (b != -100).any()]
    explain = {
        "it is the sum of the losses; expected their mean": expected * kept.sum(),
        "the number of tokens was not the divisor, but the number of chunks": (
            expected * kept.sum() / len(parts)
        ),
    }
    if len(parts) > 1:
        explain |= {
            "it is the mean of the means of the chunks, in which a token of a chunk with few "
            "targets counts more": torch.stack(means).mean(),
        }
    if not kept.all():
        explain["the mean divides by all tokens, the ignored ones included"] = (
            expected * kept.sum() / kept.numel()
        )
    rest = len(h) % chunk
    if rest and kept[:-rest].any():
        explain["the last chunk, which is not full, was left out"] = full_loss(
            h[:-rest], w, target[:-rest]
        )
    assert_close(got, expected, explain=explain)


def lm_inputs(
    tokens: int, vocab: int, d: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """h, w and a target without ignored tokens."""
    return (
        randn(tokens, d, dtype=dtype),
        randn(vocab, d, dtype=dtype),
        rand_ints(tokens, high=vocab),
    )


def lm_gradients(submission, target: Tensor, chunk: int, h: Tensor, w: Tensor, scale: float):
    """Gradients of the learner's loss and of the full one, both times `scale`."""
    mine = [h.clone().requires_grad_(), w.clone().requires_grad_()]
    loss = assert_tensor(submission.chunked_lm_loss(*mine, target.clone(), chunk))
    expect(loss.requires_grad, "the loss of h and w that require grad does not require grad")
    (loss * scale).backward()
    theirs = [h.clone().requires_grad_(), w.clone().requires_grad_()]
    (full_loss(*theirs, target) * scale).backward()
    return [leaf.grad for leaf in mine], [leaf.grad for leaf in theirs]


def check_lm_gradient(submission, which: int, scale: float) -> None:
    """One of the two gradients."""
    name = "hw"[which]

    def run(case):
        h, w, target = lm_inputs(case["tokens"], 11, 3)
        if case["tokens"] > 3:
            target[[2, 5]] = -100
        kept = int((target != -100).sum())
        found, wanted = lm_gradients(submission, target, case["chunk"], h, w, scale)
        got, expected = found[which], wanted[which]
        expect(
            got is not None,
            f"no gradient arrives at {name}: {name}.grad is None after backward",
            id="gradient.none",
        )
        explain = {
            f"the gradient of {name} is 0": torch.zeros_like(expected),
            f"the gradient of {name} is that of the sum of the losses, not of their mean": (
                expected * kept
            ),
        }
        if kept < len(target):
            explain |= {
                f"the gradient of {name} is divided by all tokens, the ignored ones included": (
                    expected * kept / len(target)
                ),
            }
        if scale != 1:
            explain[
                "the upstream gradient was not used: the loss may be a part of a larger one"
            ] = expected / scale
        assert_close(got, expected, what=f"the gradient of {name}", explain=explain)

    smallest(run, [{"tokens": 3, "chunk": 2}, {"tokens": 13, "chunk": 5}])


@pytest.mark.task("chunked_lm_loss")
class TestChunkedLmLoss:
    @pytest.mark.points(3, "value")
    def test_value(self, submission):
        """The value is that of the full loss."""

        def run(case):
            h, w, target = lm_inputs(case["tokens"], 7, 3)
            check_lm(submission, h, w, target, case["chunk"])

        smallest(run, [{"tokens": 2, "chunk": 1}, {"tokens": 6, "chunk": 2}])
        h, w, target = lm_inputs(6, 7, 3, torch.float32)
        check_lm(submission, h, w, target, 3)

    @pytest.mark.points(3, "value")
    def test_ragged(self, submission):
        """The last chunk may be smaller, and a chunk larger than all tokens."""

        def run(case):
            h, w, target = lm_inputs(case["tokens"], 7, 3)
            check_lm(submission, h, w, target, case["chunk"])

        cases = ((3, 2), (5, 3), (13, 5), (3, 3), (3, 7))
        smallest(run, [{"tokens": tokens, "chunk": chunk} for tokens, chunk in cases])

    @pytest.mark.points(3, "value")
    def test_ignored(self, submission):
        """Ignored tokens count nowhere, whole chunks of them neither."""
        ignored = (
            [1],
            [0, 1, 3],
            [2, 3],
            [0, 1, 2, 3],
            [4, 5],
        )

        def run(places):
            h, w, target = lm_inputs(6, 7, 3)
            target[places] = -100
            check_lm(submission, h, w, target, 2)

        smallest(run, ignored)

    @pytest.mark.points(3, "gradient")
    def test_gradient_of_h(self, submission):
        """The gradient of h is that of the full loss."""
        check_lm_gradient(submission, 0, 1.0)

    @pytest.mark.points(3, "gradient")
    def test_gradient_of_w(self, submission):
        """The gradient of w is that of the full loss."""
        check_lm_gradient(submission, 1, 1.0)

    @pytest.mark.points(2, "gradient")
    @pytest.mark.after("test_gradient_of_h", "test_gradient_of_w")
    def test_upstream(self, submission):
        """The upstream gradient multiplies both."""
        check_lm_gradient(submission, 0, -3.0)
        check_lm_gradient(submission, 1, -3.0)

    @pytest.mark.points(1, "gradient")
    def test_finite_differences(self, submission):
        """Finite differences of the loss agree with the gradients."""
        h, w, target = lm_inputs(5, 3, 2)
        target[1] = -100
        leaves = [h.clone().requires_grad_(), w.clone().requires_grad_()]
        loss = assert_tensor(submission.chunked_lm_loss(*leaves, target.clone(), 2))
        expect(loss.requires_grad, "the loss of h and w that require grad does not require grad")
        loss.backward()
        for name, leaf in zip("hw", leaves, strict=True):
            expect(leaf.grad is not None, f"no gradient arrives at {name}: {name}.grad is None")
            step = 1e-5 * torch.randn_like(leaf)
            values = []
            for sign in (1, -1):
                moved = [(x + sign * step).detach() if x is leaf else x.detach() for x in leaves]
                values.append(submission.chunked_lm_loss(*moved, target.clone(), 2).detach())
            assert_close(
                (leaf.grad * step).sum() / 1e-5,
                (values[0] - values[1]) / 2e-5,
                rtol=1e-6,
                atol=1e-8,
                what=f"the slope along a random direction that the gradient of {name} gives",
            )

    @pytest.mark.points(3, "memory")
    @pytest.mark.after("test_value")
    def test_no_full_logits(self, submission):
        """No tensor has all the logits, forward or backward."""
        h, w, target = lm_inputs(29, 31, 5, torch.float32)

        def both(h, w):
            submission.chunked_lm_loss(h, w, target, 7).backward()

        assert_no_tensor_of(29 * 31, both, h.requires_grad_(), w.requires_grad_())

    @pytest.mark.points(4, "memory")
    @pytest.mark.after("test_value")
    def test_peak(self, submission):
        """Forward and backward hold less than the logits would take."""
        h, w, target = lm_inputs(512, 2048, 64, torch.float32)
        h, w = (h / 8).requires_grad_(), w.requires_grad_()

        def both(h, w, target):
            submission.chunked_lm_loss(h, w, target, 64).backward()

        assert_peak_memory(4 * 512 * 2048, both, h, w, target)
