"""Day 00 asks for the toolkit of all later days: device, seeds, inspect, a timer, the checklist."""

import inspect as signatures
import json
import platform
import random
import re
import sys
import time
import timeit
import types
import warnings
from contextlib import contextmanager, redirect_stdout
from io import StringIO

import numpy as np
import pytest
import torch

from grader.testing import (
    assert_equal,
    assert_ops_at_most,
    assert_unchanged,
    expect,
    fail,
    measured,
    picture,
)

SEED = 277527


# --- a machine with and without CUDA ----------------------------------------------------------


class Cuda:
    """What `torch.cuda` says and does, on a machine that may have none.

    Kernels are modelled by the time they still need: `synchronize` is what lets it pass.
    """

    def __init__(self, clock=None):
        self.there = False
        self.pending = 0.0
        self.synchronized = 0
        self.seeds = []
        self._clock = clock

    def is_available(self):
        return self.there

    def device_count(self):
        return 2 if self.there else 0

    def synchronize(self, device=None):
        self.synchronized += 1
        if self._clock is not None:
            self._clock.now += self.pending
        self.pending = 0.0

    def manual_seed_all(self, seed):
        self.seeds.append(seed)


@contextmanager
def pretended(monkeypatch, cuda):
    """Put `cuda` in place of the functions of `torch.cuda` that ask or wait for the device."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", cuda.is_available)
        patch.setattr(torch.cuda, "device_count", cuda.device_count)
        patch.setattr(torch.cuda, "synchronize", cuda.synchronize)
        yield


def device_type(value):
    """`cuda` or `cpu`, of a `torch.device` or of a text that names one."""
    return torch.device(value).type if isinstance(value, str) else getattr(value, "type", None)


def shown(value):
    """A value as a message quotes it, on one line."""
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 80 else text[:77] + "..."


@pytest.mark.task("pick_device")
class TestPickDevice:
    @pytest.mark.points(2, "value")
    def test_cuda_when_there(self, fresh_submission, monkeypatch):
        """Without a preference the device is CUDA once torch.cuda.is_available() says True."""
        cuda = Cuda()
        with pretended(monkeypatch, cuda):
            module = fresh_submission()
            module.pick_device()
            cuda.there = True
            got = module.pick_device()
        expect(
            device_type(got) == "cuda",
            f"torch.cuda.is_available() says True at the time of the call, and pick_device() gives "
            f"{shown(got)}; it said False before, so an answer kept from then is out of date",
            expected="cuda",
            got=shown(got),
        )

    @pytest.mark.points(1, "value")
    def test_cpu_otherwise(self, fresh_submission, monkeypatch):
        """Without a preference and without CUDA the device is the CPU."""
        cuda = Cuda()
        with pretended(monkeypatch, cuda):
            module = fresh_submission()
            got = module.pick_device()
        expect(
            device_type(got) == "cpu",
            f"torch.cuda.is_available() says False, and pick_device() gives {shown(got)}; "
            "the CPU is always there",
            expected="cpu",
            got=shown(got),
        )

    @pytest.mark.points(2, "value")
    @pytest.mark.parametrize("prefer", ["cpu", "cuda:1"])
    def test_a_preference_wins(self, fresh_submission, monkeypatch, prefer):
        """On a machine with CUDA the preference decides, with its number."""
        cuda = Cuda()
        with pretended(monkeypatch, cuda):
            module = fresh_submission()
            cuda.there = True
            got = module.pick_device(prefer)
        expect(
            str(got) == prefer,
            f"there is CUDA, and pick_device({prefer!r}) gives {shown(got)}; a preference that is "
            "available comes back as it was asked for",
            expected=prefer,
            got=str(got),
            minimal=f"pick_device({prefer!r})",
        )

    @pytest.mark.points(2, "value")
    @pytest.mark.parametrize("prefer", ["cuda", "cuda:1"])
    def test_falls_back_to_the_cpu(self, fresh_submission, monkeypatch, prefer):
        """Without CUDA a preference for it gives the CPU, not an error."""
        cuda = Cuda()
        with pretended(monkeypatch, cuda), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = fresh_submission()
            try:
                got = module.pick_device(prefer)
            except NotImplementedError:
                raise
            except Exception as error:
                fail(
                    f"without CUDA, pick_device({prefer!r}) raises {type(error).__name__}: {error}"
                    "; it gives a UserWarning and the CPU",
                    minimal=f"pick_device({prefer!r})",
                )
        expect(
            device_type(got) == "cpu",
            f"without CUDA, pick_device({prefer!r}) gives {shown(got)}; the first tensor sent "
            "there would fail, so it is the CPU",
            expected="cpu",
            got=shown(got),
            minimal=f"pick_device({prefer!r})",
        )

    @pytest.mark.points(2, "value")
    @pytest.mark.parametrize("prefer", ["cuda", "cuda:1", "cpu"])
    def test_warns_once(self, fresh_submission, monkeypatch, prefer):
        """A preference that is not available gives one UserWarning; the CPU gives none."""
        cuda = Cuda()
        with pretended(monkeypatch, cuda), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            module = fresh_submission()
            caught.clear()
            module.pick_device(prefer)
        mine = [w for w in caught if issubclass(w.category, UserWarning)]
        others = sorted({w.category.__name__ for w in caught} - {w.category.__name__ for w in mine})
        note = f" (but {', '.join(others)})" if others else ""
        wanted = 0 if prefer == "cpu" else 1
        expect(
            len(mine) == wanted,
            f"without CUDA, pick_device({prefer!r}) gives {len(mine)} UserWarning{note}; "
            + ("one is asked for: warnings.warn" if wanted else "the CPU is there, so none"),
            expected=wanted,
            got=len(mine),
            minimal=f"pick_device({prefer!r})",
        )

    @pytest.mark.points(1, "structure")
    def test_is_a_device(self, fresh_submission, monkeypatch):
        """The result is a torch.device in every case, never a string."""
        cuda = Cuda()
        with pretended(monkeypatch, cuda), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = fresh_submission()
            results = []
            for there, prefer in [(False, None), (False, "cpu"), (False, "cuda"), (True, None)]:
                cuda.there = there
                results.append((there, prefer, module.pick_device(prefer)))
        for there, prefer, got in results:
            expect(
                isinstance(got, torch.device),
                f"pick_device({prefer!r}) {'with' if there else 'without'} CUDA gives the "
                f"{type(got).__name__} {shown(got)}; a torch.device is asked for"
                + (", since a string has no .type" if isinstance(got, str) else ""),
                expected="torch.device",
                got=type(got).__name__,
            )


# --- random generators ------------------------------------------------------------------------

GENERATORS = ("torch", "random", "NumPy")


def draws():
    """One number of each global generator, in the order of `GENERATORS`."""
    return [torch.rand(1).item(), random.random(), float(np.random.rand())]


def disturb(steps):
    """Move every global generator on by `steps` numbers."""
    torch.rand(steps)
    np.random.rand(steps)
    for _ in range(steps):
        random.random()


def which(flags):
    """The names of the generators whose flag is set, as words."""
    names = [name for name, flag in zip(GENERATORS, flags, strict=True) if flag]
    return " and ".join(names) if len(names) < 3 else "all three generators"


@pytest.fixture
def cudnn_restored():
    """Leave the two cuDNN flags as they were found."""
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    yield
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


@pytest.mark.task("seed_everything")
@pytest.mark.usefixtures("cudnn_restored")
class TestSeedEverything:
    @pytest.mark.points(4, "value")
    def test_same_seed_same_numbers(self, submission):
        """After the same seed torch, random and NumPy draw the same numbers again."""
        submission.seed_everything(11)
        first = draws()
        disturb(7)
        submission.seed_everything(11)
        second = draws()
        differ = [a != b for a, b in zip(first, second, strict=True)]
        expect(
            not any(differ),
            f"seed_everything(11) twice, and {which(differ)} did not start "
            "again: shuffling and augmentation draw from all three",
            expected=first,
            got=second,
        )

    @pytest.mark.points(2, "value")
    def test_default_seed(self, submission):
        """Without an argument the seed is 277527."""
        submission.seed_everything()
        default = draws()
        disturb(5)
        submission.seed_everything(SEED)
        asked = draws()
        signature = signatures.signature(submission.seed_everything)
        given = [p.default for p in signature.parameters.values() if p.default is not p.empty]
        expect(
            default == asked,
            f"seed_everything() and seed_everything({SEED}) draw different numbers"
            + (f"; the default is {given[0]!r}" if given and given[0] != SEED else ""),
            expected=asked,
            got=default,
        )

    @pytest.mark.points(2, "value")
    def test_another_seed_other_numbers(self, submission):
        """Another seed gives other numbers in torch, random and NumPy."""
        submission.seed_everything(3)
        first = draws()
        submission.seed_everything(seed=5)
        second = draws()
        same = [a == b for a, b in zip(first, second, strict=True)]
        expect(
            not any(same),
            f"the seeds 3 and 5 give the same numbers in {which(same)}; the seed is the argument",
            got=second,
        )

    @pytest.mark.points(3, "structure")
    def test_cudnn_flags(self, submission):
        """cuDNN is deterministic, and its benchmark mode is off."""
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
        submission.seed_everything(2)
        got = {
            "deterministic": torch.backends.cudnn.deterministic,
            "benchmark": torch.backends.cudnn.benchmark,
        }
        wanted = {"deterministic": True, "benchmark": False}
        wrong = [name for name in wanted if got[name] is not wanted[name]]
        expect(
            not wrong,
            " and ".join(
                f"torch.backends.cudnn.{name} is {got[name]}, not {wanted[name]}" for name in wrong
            )
            + ": cuDNN may then choose another algorithm in each run",
            expected=wanted,
            got=got,
        )

    @pytest.mark.points(2, "structure")
    def test_seeds_every_cuda_device(self, fresh_submission, monkeypatch):
        """All CUDA devices are seeded, directly or by torch.manual_seed."""
        cuda = Cuda()
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "manual_seed_all", cuda.manual_seed_all)
            module = fresh_submission()
            cuda.seeds.clear()
            module.seed_everything(13)
        expect(
            13 in cuda.seeds,
            "torch.cuda.manual_seed_all was "
            + (f"called with {cuda.seeds}, not with 13" if cuda.seeds else "never called")
            + ": the generators of the CUDA devices keep their own states",
            expected=[13],
            got=cuda.seeds,
        )

    @pytest.mark.points(2, "value")
    def test_works_without_cuda(self, fresh_submission, monkeypatch):
        """Without CUDA torch, random and NumPy are seeded all the same."""
        with pretended(monkeypatch, Cuda()):
            module = fresh_submission()
            try:
                module.seed_everything(17)
                first = draws()
                disturb(3)
                module.seed_everything(17)
                second = draws()
            except NotImplementedError:
                raise
            except Exception as error:
                fail(
                    f"without CUDA, seed_everything(17) raises {type(error).__name__}: {error}; it "
                    "seeds what there is"
                )
        differ = [a != b for a, b in zip(first, second, strict=True)]
        expect(
            not any(differ),
            f"without CUDA, the seed does not reach {which(differ)}; these generators are there on "
            "every machine",
            expected=first,
            got=second,
        )


# --- inspect ----------------------------------------------------------------------------------


def card(name, shape, *, dtype="torch.float32", device="cpu", grad="False (Grad Fn: False)"):
    """The six lines that are asked for, from texts."""
    return (
        f"[Inspect] {name}: \n"
        f"   Shape:  {shape}\n"
        f"   Dtype:  {dtype}\n"
        f"   Device: {device}\n"
        f"   Grad:   {grad}\n"
        "------------------------------\n"
    )


def difference(number, wanted, got):
    """What is wrong with line `number`, in words, where it is a mistake that is known."""
    if got.rstrip() == wanted.rstrip():
        if len(got) < len(wanted):
            return f"line {number} ends with the colon; one space follows it"
        return f"line {number} ends with {len(got) - len(got.rstrip())} spaces"
    if "torch.Size" in got:
        return f"line {number} shows the shape as a torch.Size; it is shown as a plain tuple"
    if set(got) == {"-"}:
        return f"the rule in line {number} has {len(got)} hyphens; 30 are asked for"
    if "Grad Fn:" in got and ("<" in got or "Fn: None" in got or "object" in got):
        return f"line {number} shows what grad_fn is; asked is whether there is one, True or False"
    if got.split() == wanted.split():
        return f"line {number} has the right words and other spaces between them"
    for flag, what in ((r"Grad: +(\w+)", "requires_grad"), (r"Grad Fn: (\w+)", "Grad Fn")):
        asked, said = re.search(flag, wanted), re.search(flag, got)
        if asked and said and asked[1] != said[1]:
            return f"line {number} says that {what} is {said[1]}; here it is {asked[1]}"
    label, value = wanted[:11], wanted[11:]
    if number in (2, 3, 4) and got.startswith(label):
        what = label.strip(" :").lower()
        return f"line {number} shows {got[11:]} as the {what}; here it is {value}"
    return f"line {number} is {got!r}"


def assert_printed(got, wanted, call, *, returned=None):
    """The text on standard output, byte for byte; draws both as terminals."""
    lines, goal = got.split("\n")[:-1], wanted.split("\n")[:-1]
    if got and not got.endswith("\n"):
        lines.append(got.rpartition("\n")[2])
    length = max(len(lines), len(goal))
    padded = [*lines, *[""] * (length - len(lines))], [*goal, *[""] * (length - len(goal))]
    marked = [i for i, (mine, asked) in enumerate(zip(*padded, strict=True)) if mine != asked]
    picture(
        "text",
        f"What {call} prints",
        "Every line is as asked for."
        if got == wanted
        else "Marked lines differ; spaces are drawn as dots.",
        panels=[
            {
                "label": "expected",
                "lines": visible(goal),
                "marked": [i for i in marked if i < len(goal)],
            },
            {
                "label": "printed",
                "lines": visible(lines),
                "marked": [i for i in marked if i < len(lines)],
            },
        ],
    )
    if got == wanted:
        return
    if not got:
        text = f"{call} prints nothing to standard output"
        if isinstance(returned, str):
            text += "; it returns a text, and should print it"
    elif len(lines) != len(goal):
        text = f"{call} prints {lines_of(len(lines))}; {len(goal)} are asked for"
    elif marked:
        text = f"{call}: {difference(marked[0] + 1, goal[marked[0]], lines[marked[0]])}"
    else:
        text = f"{call}: the last line does not end with a line break"
    first = marked[0] if marked else length - 1
    fail(
        text,
        id="inspect.text",
        expected=wanted,
        got=got,
        minimal=call,
        details=(
            f"expected line {first + 1}: {padded[1][first]!r}",
            f"printed  line {first + 1}: {padded[0][first]!r}",
        ),
    )


def lines_of(count):
    """The number with its noun."""
    return f"{count} line" if count == 1 else f"{count} lines"


def visible(lines):
    """Lines with their spaces at the end drawn as dots."""
    return [line.rstrip(" ") + "·" * (len(line) - len(line.rstrip(" "))) for line in lines]


def printed(capsys, inspect, *args, **kwargs):
    """What a call of `inspect` writes to standard output, and what it returns."""
    capsys.readouterr()
    returned = inspect(*args, **kwargs)
    return capsys.readouterr().out, returned


def standing(tensor):
    """What a tensor is, besides its values."""
    return {
        "the shape": tuple(tensor.shape),
        "requires_grad": tensor.requires_grad,
        "having a grad_fn": tensor.grad_fn is not None,
    }


@pytest.mark.task("inspect")
class TestInspect:
    @pytest.mark.points(6, "value")
    def test_example(self, submission, capsys, device):
        """A (3, 4) tensor that requires a gradient prints exactly as in the example."""
        x = torch.randn(3, 4, device=device, requires_grad=True)
        got, returned = printed(capsys, submission.inspect, x, "Input Tensor")
        wanted = card("Input Tensor", "(3, 4)", device=str(x.device), grad="True (Grad Fn: False)")
        assert_printed(got, wanted, 'inspect(x, "Input Tensor")', returned=returned)

    @pytest.mark.points(3, "value")
    @pytest.mark.after("test_example")
    @pytest.mark.hint("`requires_grad` and `grad_fn` answer two questions; `.grad` is a third one.")
    def test_result_of_an_operation(self, submission, capsys):
        """A result of an operation has a Grad Fn."""
        x = torch.randn(2, 3, requires_grad=True) * 5
        got, _ = printed(capsys, submission.inspect, x, "y")
        wanted = card("y", "(2, 3)", grad="True (Grad Fn: True)")
        assert_printed(got, wanted, 'inspect(x * 5, "y")')

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_example")
    def test_no_gradient(self, submission, capsys):
        """A tensor that requires no gradient says False twice."""
        got, _ = printed(capsys, submission.inspect, torch.randn(2, 5), "data")
        assert_printed(got, card("data", "(2, 5)"), 'inspect(torch.randn(2, 5), "data")')

    @pytest.mark.points(2, "shape")
    @pytest.mark.after("test_example")
    def test_no_axis(self, submission, capsys):
        """The shape of a single number is ()."""
        got, _ = printed(capsys, submission.inspect, torch.tensor(2.5), "loss")
        assert_printed(got, card("loss", "()"), 'inspect(torch.tensor(2.5), "loss")')

    @pytest.mark.points(2, "shape")
    @pytest.mark.after("test_example")
    def test_one_axis(self, submission, capsys):
        """The shape of three numbers is (3,), with a comma."""
        got, _ = printed(capsys, submission.inspect, torch.randn(3), "bias")
        assert_printed(got, card("bias", "(3,)"), 'inspect(torch.randn(3), "bias")')

    @pytest.mark.points(1, "shape")
    @pytest.mark.after("test_example")
    def test_empty(self, submission, capsys):
        """A tensor without an element prints like any other."""
        got, _ = printed(capsys, submission.inspect, torch.empty(0, 5), "rest")
        assert_printed(got, card("rest", "(0, 5)"), 'inspect(torch.empty(0, 5), "rest")')

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_example")
    @pytest.mark.parametrize("dtype", ["torch.bool", "torch.bfloat16", "torch.int64"])
    def test_other_dtypes(self, submission, capsys, dtype):
        """bool, bfloat16 and int64 are named as torch names them."""
        x = torch.zeros(2, 3, 5, dtype=getattr(torch, dtype.removeprefix("torch.")))
        got, _ = printed(capsys, submission.inspect, x, "mask")
        call = f'inspect(torch.zeros(2, 3, 5, dtype={dtype}), "mask")'
        assert_printed(got, card("mask", "(2, 3, 5)", dtype=dtype), call)

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_example")
    def test_meta_device(self, submission, capsys):
        """A tensor on the meta device, which has no values at all, prints too."""
        x = torch.empty(7, 2, device="meta")
        got, _ = printed(capsys, submission.inspect, x, "plan")
        call = 'inspect(torch.empty(7, 2, device="meta"), "plan")'
        assert_printed(got, card("plan", "(7, 2)", device="meta"), call)

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_example")
    def test_default_name(self, submission, capsys):
        """Without a name it says Tensor."""
        got, _ = printed(capsys, submission.inspect, torch.randn(2, 7))
        assert_printed(got, card("Tensor", "(2, 7)"), "inspect(torch.randn(2, 7))")

    @pytest.mark.points(2, "structure")
    def test_leaves_the_tensor_alone(self, submission):
        """The tensor is the same afterwards: values, shape, and its place in the graph."""
        leaf = torch.randn(3, 1, 5, requires_grad=True)
        for what, x in (("data", torch.randn(1, 7)), ("a result", leaf * 2), ("a leaf", leaf)):
            before = standing(x)
            with redirect_stdout(StringIO()):
                assert_unchanged(submission.inspect, x, "x")
            after = standing(x)
            for name, old in before.items():
                expect(
                    old == after[name],
                    f"inspect changes {what}: {name} was {old} and is {after[name]} afterwards",
                    expected=shown(old),
                    got=shown(after[name]),
                )

    @pytest.mark.points(1, "value")
    def test_six_lines(self, submission, capsys):
        """It prints six lines for a large tensor as for a small one."""
        for shape in ((2, 3), (40, 50)):
            got, _ = printed(capsys, submission.inspect, torch.randn(shape), "x")
            count = got.count("\n")
            expect(
                count == 6,
                f"inspect of a {shape} tensor prints {lines_of(count)}; six are asked for",
                expected=6,
                got=count,
                minimal=f'inspect(torch.randn{shape}, "x")',
            )

    @pytest.mark.points(1, "value")
    def test_prints_no_value(self, submission, capsys):
        """No value of the tensor is printed."""
        x = torch.full((2, 3), 8191.0)
        got, _ = printed(capsys, submission.inspect, x, "secret")
        found = next((line for line in got.splitlines() if "8191" in line), None)
        expect(
            found is None,
            f"a value is printed, in the line {shown(found)}; inspect shows what a tensor is, "
            "not what is in it",
            got=found,
            minimal='inspect(torch.full((2, 3), 8191.0), "secret")',
        )
        expect("Shape:" in got, "inspect prints no line with Shape:", got=got)

    @pytest.mark.points(1, "structure")
    def test_runs_no_operation(self, submission):
        """No torch operation runs, so that nothing waits for the device."""
        with redirect_stdout(StringIO()):
            assert_ops_at_most(0, submission.inspect, torch.randn(3, 5), "x")


# --- time_block -------------------------------------------------------------------------------

LINE = re.compile(r"^\[Time\] (.+) cost: (\d+\.\d{6}) sec\n\Z")


class Clock:
    """A clock that moves only when it is told to."""

    def __init__(self):
        self.now = 64.0  # so that sums of quarters are exact
        self.readings = 0

    def seconds(self):
        self.readings += 1
        return self.now

    def nanoseconds(self):
        self.readings += 1
        return int(self.now * 1e9)


@contextmanager
def stopped(monkeypatch, clock):
    """Let `clock` tell the time to whoever asks `perf_counter`; the time of day stands still."""
    with monkeypatch.context() as patch:
        patch.setattr(time, "perf_counter", clock.seconds)
        patch.setattr(time, "perf_counter_ns", clock.nanoseconds)
        patch.setattr(timeit, "default_timer", clock.seconds)
        patch.setattr(time, "time", lambda: 1_000_000.0)
        patch.setattr(time, "time_ns", lambda: 10**15)
        yield


def costs(text):
    """The label and the seconds of each line of a timer; fails on any other text."""
    expect(text, "nothing was printed to standard output when the block ended")
    found = [LINE.match(line) for line in text.splitlines(keepends=True)]
    for line, match in zip(text.splitlines(), found, strict=True):
        if match is None:
            fail(f"printed {shown(line)}; {wrong_line(line)}", id="time.line", got=line)
    return [(match[1], float(match[2])) for match in found]


def wrong_line(line):
    """In words, what the line of a timer lacks."""
    number = re.search(r"cost: (\d+\.?(\d*))", line)
    if number and len(number[2]) != 6:
        return f"the seconds have {len(number[2])} decimals; six are asked for"
    return 'a line looks like "[Time] Block cost: 0.100452 sec"'


def run_block(submission, capsys, body, *args, **kwargs):
    """Run `body` inside a `time_block` and return what was printed."""
    capsys.readouterr()
    with submission.time_block(*args, **kwargs):
        body()
    return capsys.readouterr().out


@pytest.mark.task("time_block")
class TestTimeBlock:
    @pytest.mark.points(3, "value")
    @pytest.mark.parametrize("label", ["Matrix Multiplication", "矩阵乘法"])
    def test_line(self, submission, capsys, label):
        """It prints one line: the label, the seconds with six decimals, sec."""
        names = [name for name, _ in costs(run_block(submission, capsys, lambda: None, label))]
        expect(
            names == [label],
            f"time_block({label!r}) prints {lines_of(len(names))}, for {names}; one line with the "
            "label is asked for",
            expected=[label],
            got=names,
        )

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_line")
    def test_default_label(self, submission, capsys):
        """Without a label it says Block."""
        found = costs(run_block(submission, capsys, lambda: None))
        names = [name for name, _ in found]
        expect(
            names == ["Block"],
            f"time_block() prints the label {shown(names[0])}; without a label it is 'Block'",
            expected=["Block"],
            got=names,
        )

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_line")
    def test_measures_a_sleep(self, submission, capsys):
        """A sleep of 50 ms takes at least 0.05 s, and not more than the block took in all."""
        began = time.perf_counter()
        text = run_block(submission, capsys, lambda: time.sleep(0.05), "sleep")
        around = time.perf_counter() - began
        cost = costs(text)[0][1]
        measured(f"{cost:.3f} s")
        expect(
            cost >= 0.0499,
            f"a body that sleeps 50 ms is said to cost {cost:.6f} sec; a process that sleeps uses "
            "no CPU, but its time passes",
            got=cost,
        )
        expect(
            cost <= around + 1e-6,
            f"a body that sleeps 50 ms is said to cost {cost:.6f} sec, while {around:.6f} s passed "
            "around the whole block; the unit is seconds",
            got=cost,
        )

    @pytest.mark.points(4, "value")
    @pytest.mark.after("test_line")
    def test_reads_perf_counter(self, fresh_submission, capsys, monkeypatch):
        """The time is that of time.perf_counter, to the last digit."""
        clock = Clock()
        with stopped(monkeypatch, clock), pretended(monkeypatch, Cuda()):
            module = fresh_submission()

            def body():
                clock.now += 1.5

            clock.readings = 0
            text = run_block(module, capsys, body, "clock")
        cost = costs(text)[0][1]
        expect(
            cost == 1.5,
            f"time.perf_counter went on by 1.5 s during the block, which is said to cost "
            f"{cost:.6f} sec"
            + ("; time.perf_counter was never read" if clock.readings == 0 else ""),
            expected=1.5,
            got=cost,
        )

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_reads_perf_counter")
    def test_nested_blocks(self, fresh_submission, capsys, monkeypatch):
        """Of two nested blocks the inner one prints first, each with its own time."""
        clock = Clock()
        with stopped(monkeypatch, clock), pretended(monkeypatch, Cuda()):
            module = fresh_submission()
            capsys.readouterr()
            with module.time_block("outer"):
                clock.now += 1.0
                with module.time_block("inner"):
                    clock.now += 0.25
                clock.now += 0.5
            text = capsys.readouterr().out
        found = costs(text)
        expect(
            [name for name, _ in found] == ["inner", "outer"],
            f"the lines are for {[name for name, _ in found]}; the inner block ends first",
            expected=["inner", "outer"],
            got=[name for name, _ in found],
        )
        inner, outer = (cost for _, cost in found)
        expect(
            (inner, outer) == (0.25, 1.75),
            f"1 s, then 0.25 s in an inner block, then 0.5 s: the inner block is said to cost "
            f"{inner:.6f} and the outer one {outer:.6f} sec"
            + ("; the inner one overwrote the start of the outer one" if outer == 0.75 else ""),
            expected=[0.25, 1.75],
            got=[inner, outer],
        )

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_line")
    def test_prints_when_the_body_raises(self, submission, capsys):
        """A body that raises is timed and printed all the same."""
        text, _ = broken_block(submission, capsys)
        expect(
            text != "",
            "the body raised, and nothing was printed: a line after the body is not reached then",
        )
        names = [name for name, _ in costs(text)]
        expect(
            names == ["broken"],
            f"the body raised, and the lines printed are for {names}; one line is asked for",
            expected=["broken"],
            got=names,
        )

    @pytest.mark.points(2, "value")
    def test_lets_the_exception_through(self, submission, capsys):
        """An exception of the body comes out as it was."""
        _, error = broken_block(submission, capsys)
        expect(
            error is not None,
            "the body raised a ValueError, and the with statement swallowed it: the program would "
            "go on as if nothing had happened",
        )
        expect(
            isinstance(error, ValueError) and error.args == ("from the body",),
            f"the body raised ValueError('from the body'), and {shown(error)} came out",
            got=shown(error),
        )

    @pytest.mark.points(2, "value")
    @pytest.mark.after("test_reads_perf_counter")
    @pytest.mark.hint(
        "A kernel runs on after the line that launched it; wait, then read the clock."
    )
    def test_waits_for_the_kernels_of_the_body(self, fresh_submission, capsys, monkeypatch):
        """With CUDA, the kernels that the body launched have ended before the clock is read."""
        cost, cuda = cost_on_cuda(fresh_submission, capsys, monkeypatch, before=0.0, body=1.5)
        expect(
            cost == 1.5,
            f"the body launched a kernel of 1.5 s, and the block is said to cost {cost:.6f} sec"
            + ("" if cuda.synchronized else "; torch.cuda.synchronize was never called")
            + ("; the clock was read before the kernel had ended" if cost == 0 else ""),
            expected=1.5,
            got=cost,
        )

    @pytest.mark.points(1, "value")
    @pytest.mark.after("test_reads_perf_counter")
    def test_waits_for_earlier_kernels(self, fresh_submission, capsys, monkeypatch):
        """With CUDA, kernels launched before the block are not counted."""
        cost, _ = cost_on_cuda(fresh_submission, capsys, monkeypatch, before=2.0, body=0.25)
        expect(
            cost == 0.25,
            f"2 s of kernels were still running when the block began, its own took 0.25 s, and it "
            f"is said to cost {cost:.6f} sec"
            + ("; the first reading of the clock has to wait too" if cost == 2.25 else ""),
            expected=0.25,
            got=cost,
        )

    @pytest.mark.points(1, "value")
    def test_no_waiting_without_cuda(self, fresh_submission, monkeypatch):
        """Without CUDA nothing is synchronized."""
        cuda = Cuda()
        with pretended(monkeypatch, cuda), redirect_stdout(StringIO()):
            module = fresh_submission()
            with module.time_block("cpu"):
                pass
        expect(
            cuda.synchronized == 0,
            "torch.cuda.is_available() says False, and torch.cuda.synchronize was called; without "
            "CUDA it raises",
            expected=0,
            got=cuda.synchronized,
        )


def broken_block(submission, capsys):
    """What a block prints whose body raises, and the exception that comes out of it."""
    capsys.readouterr()
    error = None
    try:
        with submission.time_block("broken"):
            raise ValueError("from the body")
    except NotImplementedError:
        raise
    except Exception as raised:
        error = raised
    return capsys.readouterr().out, error


def cost_on_cuda(fresh_submission, capsys, monkeypatch, before, body):
    """The cost of a block around kernels of `body` seconds, with `before` seconds still running."""
    clock = Clock()
    cuda = Cuda(clock)
    with stopped(monkeypatch, clock), pretended(monkeypatch, cuda):
        module = fresh_submission()
        cuda.there = True
        # A toolkit may have remembered its device at import, where there was no CUDA yet.
        monkeypatch.setitem(vars(module), "DEVICE", torch.device("cuda"))
        cuda.pending, cuda.synchronized = before, 0

        def launch():
            cuda.pending += body

        text = run_block(module, capsys, launch, "kernels")
    return costs(text)[0][1], cuda


# --- what the import does ---------------------------------------------------------------------

PROMISED = ("DEVICE", "pick_device", "seed_everything", "inspect", "time_block", "torch", "time")


def star(module):
    """What `from module import *` gives: its names, the promised ones that are not what they say,
    the ones that the module only imported, and the ones that `__all__` lists in vain."""
    listed = vars(module).get("__all__")
    in_vain = [name for name in listed or () if name not in vars(module)]
    if in_vain:
        return {"in_vain": in_vain}
    given: dict[str, object] = {}
    sys.modules["freshly_imported"] = module
    exec("from freshly_imported import *", given)
    given.pop("__builtins__", None)
    real = {"torch": torch, "time": time}
    imported = types.ModuleType, types.FunctionType, types.BuiltinFunctionType, type
    return {
        "in_vain": [],
        "names": sorted(given),
        "replaced": [name for name in real if name in given and given[name] is not real[name]],
        "strangers": sorted(
            name
            for name, value in given.items()
            if name not in PROMISED
            and isinstance(value, imported)
            and getattr(value, "__module__", "") != module.__name__
        ),
        "declared": listed is not None,
    }


def names_given(fresh_process):
    """What `star` says in a fresh process; fails where the star import would raise."""
    found = fresh_process(star)
    expect(
        not found["in_vain"],
        f"from torch_playground import * raises: __all__ lists {', '.join(found['in_vain'])}, "
        "which the module does not define",
        got=found["in_vain"],
    )
    return found


def environment():
    """The lines of the environment card."""
    available = torch.cuda.is_available()
    kind = "cuda" if available else "cpu"
    half = [
        name
        for name, ok in (
            ("bfloat16", torch.cuda.is_bf16_supported() if available else True),
            ("float16", True),
        )
        if ok and torch.amp.is_autocast_available(kind)
    ]
    return [
        f"Python   {platform.python_version()}",
        f"torch    {torch.__version__}",
        f"NumPy    {np.__version__}",
        f"device   {torch.cuda.get_device_name() if available else 'cpu'}",
        f"CUDA     {torch.version.cuda or 'not in this build'}",
        f"threads  {torch.get_num_threads()}",
        f"autocast {', '.join(half) or 'not available'}",
    ]


@pytest.mark.task("import_side_effects")
class TestImportSideEffects:
    @pytest.mark.points(3, "structure")
    def test_promised_names(self, fresh_process):
        """`import *` gives all seven names: DEVICE, your four functions, torch and time."""
        found = names_given(fresh_process)
        missing = [name for name in PROMISED if name not in found["names"]]
        expect(
            not missing,
            f"after `from torch_playground import *` there is no {', '.join(missing)}"
            + ("; __all__ does not list it" if found["declared"] else ""),
            expected=sorted(PROMISED),
            got=found["names"],
        )
        expect(
            not found["replaced"],
            f"after `from torch_playground import *`, {', '.join(found['replaced'])} is not the "
            "module of that name",
        )

    @pytest.mark.points(2, "structure")
    def test_device(self, fresh_process):
        """DEVICE is a torch.device: CUDA where there is CUDA, else the CPU."""
        picture(
            "text",
            "Your environment",
            "Versions, device, threads and the dtypes that autocast supports here.",
            panels=[{"label": "environment", "lines": environment(), "marked": []}],
        )

        def look(module):
            device = vars(module).get("DEVICE")
            return {
                "kind": type(device).__name__,
                "is_device": isinstance(device, torch.device),
                "type": device_type(device),
                "text": shown(device),
                "there": torch.cuda.is_available(),
            }

        found = fresh_process(look)
        expect(
            found["is_device"],
            f"DEVICE is the {found['kind']} {found['text']}; a torch.device is asked for, which is "
            "what pick_device() gives"
            if found["kind"] != "NoneType"
            else "the module has no global DEVICE after its import",
            expected="torch.device",
            got=found["text"],
        )
        wanted = "cuda" if found["there"] else "cpu"
        assert_equal(found["type"], wanted, what="the type of DEVICE")

    @pytest.mark.points(3, "value")
    def test_same_numbers_in_every_process(self, fresh_process):
        """Two fresh processes draw the numbers of the seed 277527 from torch, random and NumPy."""

        def look(module):
            after_import = draws()
            disturb(3)
            module.seed_everything(277527)
            return {"drawn": after_import, "asked": draws()}

        first, second = fresh_process(look), fresh_process(look)
        differ = [a != b for a, b in zip(first["drawn"], second["drawn"], strict=True)]
        expect(
            not any(differ),
            f"two fresh processes imported the file, and {which(differ)} drew "
            "different numbers in them: the import does not seed, or not with a fixed number",
            expected=first["drawn"],
            got=second["drawn"],
        )
        other = [a != b for a, b in zip(first["drawn"], first["asked"], strict=True)]
        expect(
            not any(other),
            f"the import leaves {which(other)} with other numbers than after "
            "seed_everything(277527)",
            expected=first["asked"],
            got=first["drawn"],
        )

    @pytest.mark.points(1, "structure")
    @pytest.mark.hint("A module with an `__all__` gives the names on that list, and no others.")
    def test_no_stranger_comes_along(self, fresh_process):
        """`import *` gives nothing that the module imports only for itself."""
        found = names_given(fresh_process)
        expect(
            not found["strangers"],
            f"`import *` also gives {', '.join(found['strangers'][:6])}, which the module imports "
            "for itself; in a script they would hide names of its own",
            got=found["strangers"],
        )

    @pytest.mark.points(1, "structure")
    @pytest.mark.after("test_device")
    def test_prints_one_line_at_most(self, fresh_process):
        """The import prints one line at most."""
        fresh_process(lambda module: None)
        lines = fresh_process.output.splitlines()
        expect(
            len(lines) <= 1,
            f"the import prints {len(lines)} lines, beginning with {shown(lines[:1])}; "
            "every script that imports the toolkit would print them",
            got=lines[:6],
        )


# --- find_first -------------------------------------------------------------------------------

CHECKLIST = """\
# Notes of a debugger

Some prose before the first group. nan and inf are explained below.

## Shapes
Keywords: shape, mat1 and mat2, size of tensor, must match, dimension, 形状, 维度

- [ ] SHAPE-1 Print the shapes of both operands.
- [ ] SHAPE-2 Name every axis.
- [ ] SHAPE-3 Compare with the statement of the layer, see DTYPE-1.

## Data types
Keywords: dtype, scalar type, expected target, but found Float, but got Float, 类型
- [ ] DTYPE-1 Class indices are integers.
- [ ] DTYPE-2 NumPy makes float64.

## Device
Keywords: same device, two devices, cuda:0, expected device, 设备

- [ ] DEVICE-1 Where is the model?

## Memory
Keywords: out of memory, tried to allocate, CUDA, 显存, 内存

- [ ] MEM-1 Smaller batches.
- [ ] MEM-2 Keep numbers, not graphs.

## No gradient
Keywords: does not require grad, grad_fn, scalar outputs, 梯度
- [ ] GRAD-1 Follow the graph back.
- [ ] GRAD-2 Look for detach and item.

## Changed in place
Keywords: inplace operation, in-place, expected version, second time
- [ ] INPLACE-1 Write a new tensor.

## Not a number
Keywords: nan, inf, 爆炸, overflow

- [ ] NAN-1 Look at the data.
- [ ] NAN-2 Lower the learning rate.
- [ ] NAN-3 Look for log(0).

## The loss does not fall
Keywords: not decreasing, plateau, loss stays, 不下降
- [ ] FIT-1 One batch.
- [ ] FIT-2 The first loss.

## Loading data
Keywords: dataloader, worker, collate, batch must contain, 数据加载
- [ ] DATA-1 No workers.
"""

SHAPE = ["SHAPE-1", "SHAPE-2", "SHAPE-3"]
DTYPE = ["DTYPE-1", "DTYPE-2"]
DEVICES = ["DEVICE-1"]
MEMORY = ["MEM-1", "MEM-2"]
GRAD = ["GRAD-1", "GRAD-2"]
INPLACE = ["INPLACE-1"]
NAN = ["NAN-1", "NAN-2", "NAN-3"]
FIT = ["FIT-1", "FIT-2"]
DATA = ["DATA-1"]

BANK = [
    ("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)", SHAPE),
    (
        "The size of tensor a (4) must match the size of tensor b (5) at non-singleton dimension 1",
        SHAPE,
    ),
    ("shape '[5, 3]' is invalid for input of size 12", SHAPE),
    ("expected scalar type Long but found Float", DTYPE),
    ("expected target dtype to be Long or Byte, but got Float", DTYPE),
    (
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and "
        "cpu!",
        DEVICES,
    ),
    ("Tensor on device cpu is not on the expected device meta!", DEVICES),
    ("CUDA out of memory. Tried to allocate 2.00 GiB.", MEMORY),
    ("element 0 of tensors does not require grad and does not have a grad_fn", GRAD),
    ("grad can be implicitly created only for scalar outputs", GRAD),
    (
        "one of the variables needed for gradient computation has been modified by an inplace "
        "operation: [torch.FloatTensor [3]], which is output 0 of Exp, is at version 1; expected "
        "version 0 instead.",
        INPLACE,
    ),
    ("a leaf Variable that requires grad is being used in an in-place operation.", INPLACE),
    ("Trying to backward through the graph a second time", INPLACE),
    ("Function 'SqrtBackward0' returned nan values in its 0th output.", NAN),
    ("after 300 steps the loss is not decreasing any more: a plateau", FIT),
    ("Caught ValueError in DataLoader worker process 0.", DATA),
    ("default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists", DATA),
]


def written(folder, text, name="checklist.md"):
    """A checklist of that text in `folder`."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def matches(text, symptom):
    """Of each group: its heading, its ids and the keywords that occur in the symptom."""
    found = []
    for line in text.splitlines():
        if line.startswith("## "):
            found.append((line[3:], [], []))
        elif found and line.startswith("Keywords:"):
            words = [word.strip() for word in line.removeprefix("Keywords:").split(",")]
            found[-1][2].extend(w for w in words if w and w.lower() in symptom.lower())
        elif found and line.startswith(("- [ ] ", "- [x] ")):
            found[-1][1].append(line.split()[3 if line.startswith("- [ ]") else 2])
    return found


def assert_finds(got, wanted, text, symptom, explain=None):
    """The ids of the group that fits best; says which groups match, and with what.

    `explain`: a sentence about a known mistake -> the ids that it gives.
    """
    if got == wanted and isinstance(got, list):
        return
    groups = matches(text, symptom)
    by_ids = {tuple(ids): heading for heading, ids, _ in groups}
    items = {id for _, ids, _ in groups for id in ids}
    strangers = [id for id in got if id not in items] if isinstance(got, list | tuple) else []
    if not isinstance(got, list):
        said = f"gives the {type(got).__name__} {shown(got)}; a list of ids is asked for"
    elif tuple(got) in by_ids:
        said = f"gives the items of the group {by_ids[tuple(got)]!r}"
    elif not got:
        said = "gives no item"
    elif strangers:
        said = f"gives {shown(strangers[0])}, which is no item of a group in the file at path"
    elif set(got) < set(wanted):
        said = f"gives {len(got)} of the group's {len(wanted)} items: {shown(got)}"
    elif sorted(got) == sorted(wanted):
        said = f"gives the right items in another order: {shown(got)}"
    else:
        said = f"gives {shown(got)}"
    known = [sentence for sentence, ids in (explain or {}).items() if got == ids]
    if len(known) == 1:
        said += f"; {known[0]}"
    elif not wanted:
        said += "; no keyword of any group occurs in it, so it is []"
    details = [
        f"{heading}: {len(words)} matching ({', '.join(words)})"
        for heading, _, words in groups
        if words
    ]
    fail(
        f"find_first({shown(symptom)}) {said}",
        id="find.group",
        expected=wanted,
        got=shown(got),
        minimal=f"find_first({json.dumps(symptom, ensure_ascii=False)}, path)",
        details=details or ["no keyword of any group occurs in the symptom"],
    )


@pytest.mark.task("find_first")
class TestFindFirst:
    @pytest.mark.points(4, "value")
    def test_messages_of_pytorch(self, submission, tmp_path):
        """Messages of PyTorch lead to the items of their own group, and to no others."""
        path = written(tmp_path, CHECKLIST)
        for symptom, wanted in BANK:
            got = submission.find_first(symptom, path)
            assert_finds(got, wanted, CHECKLIST, symptom)

    @pytest.mark.points(1, "value")
    @pytest.mark.parametrize(
        ("symptom", "wanted"),
        [
            ("LOSS IS NAN AFTER 7 STEPS", NAN),
            ("cuda error", MEMORY),
            ("Expected Scalar Type long BUT FOUND FLOAT", DTYPE),
        ],
    )
    def test_ignores_case(self, submission, tmp_path, symptom, wanted):
        """Capital letters don't matter, neither in the symptom nor in a keyword."""
        got = submission.find_first(symptom, written(tmp_path, CHECKLIST))
        known = {"a keyword and the symptom are compared in the same case of letters": []}
        assert_finds(got, wanted, CHECKLIST, symptom, known)

    @pytest.mark.points(2, "value")
    @pytest.mark.parametrize(
        ("symptom", "wanted"),
        [("显存一直在涨", MEMORY), ("loss不下降", FIT), ("训练到一半梯度爆炸, loss=nan.", NAN)],
    )
    def test_anywhere_in_the_symptom(self, submission, tmp_path, symptom, wanted):
        """A keyword matches inside a word too, so Chinese keywords work."""
        got = submission.find_first(symptom, written(tmp_path, CHECKLIST))
        known = {"a keyword may stand inside a word, and Chinese has no spaces": []}
        assert_finds(got, wanted, CHECKLIST, symptom, known)

    @pytest.mark.points(2, "value")
    @pytest.mark.parametrize("symptom", ["everything works", "", "ahpe d"])
    def test_unknown_symptom(self, submission, tmp_path, symptom):
        """A symptom without any keyword gives an empty list."""
        got = submission.find_first(symptom, written(tmp_path, CHECKLIST))
        assert_finds(got, [], CHECKLIST, symptom)

    @pytest.mark.points(2, "value")
    def test_most_matches_win(self, submission, tmp_path):
        """The group with the most matching keywords wins, wherever it stands."""
        text = (
            "## One\nKeywords: loss\n- [ ] ONE-1 a\n\n"
            "## Two\nKeywords: loss, nan, step\n- [ ] TWO-1 b\n- [ ] TWO-2 c\n\n"
            "## Three\nKeywords: loss, nan\n- [ ] THREE-1 d\n\n"
            "## Four\nKeywords: slow, memory\n- [ ] FOUR-1 e\n"
        )
        path = written(tmp_path, text)
        symptom = "loss is nan at step 3"
        got = submission.find_first(symptom, path)
        known = {"the first group with a match need not be the one with the most": ["ONE-1"]}
        assert_finds(got, ["TWO-1", "TWO-2"], text, symptom, known)
        symptom = "loss, loss and loss again: slow, little memory"
        got = submission.find_first(symptom, path)
        known = {"a keyword counts once, however often it occurs": ["ONE-1"]}
        assert_finds(got, ["FOUR-1"], text, symptom, known)

    @pytest.mark.points(1, "value")
    def test_a_tie_goes_to_the_earlier_group(self, submission, tmp_path):
        """Of two groups with as many matches, the earlier one wins."""
        text = (
            "## None\nKeywords: zebra\n- [ ] NONE-1 a\n\n"
            "## Early\nKeywords: loss, slow\n- [ ] EARLY-1 b\n\n"
            "## Late\nKeywords: nan, loss\n- [ ] LATE-1 c\n"
        )
        got = submission.find_first("the loss rises", written(tmp_path, text))
        known = {"both match once, and on a tie the earlier one wins": ["LATE-1"]}
        assert_finds(got, ["EARLY-1"], text, "the loss rises", known)

    @pytest.mark.points(1, "value")
    def test_an_empty_keyword_matches_nothing(self, submission, tmp_path):
        """An empty keyword between two commas matches nothing."""
        text = (
            "## Gap\nKeywords: nan, , inf,\n- [ ] GAP-1 a\n\n"
            "## Bare\nKeywords:\n- [ ] BARE-1 b\n\n"
            "## Whole\nKeywords: shape\n- [ ] WHOLE-1 c\n"
        )
        path = written(tmp_path, text)
        for symptom, wanted in (("a wrong shape", ["WHOLE-1"]), ("nothing of it", [])):
            got = submission.find_first(symptom, path)
            known = {"the empty text occurs in every text, so it does not count": ["GAP-1"]}
            assert_finds(got, wanted, text, symptom, known)

    @pytest.mark.points(2, "value")
    def test_ticked_items_count(self, submission, tmp_path):
        """Ticked items are in the answer, in the order of the file."""
        text = (
            "## Shapes\nKeywords: shape\n\n- [x] S-3 done\n- [ ] S-1 open\n- [x] S-2 done\n\n"
            "## Other\nKeywords: other\n\n- [x] O-1 done\n"
        )
        symptom = "a wrong shape"
        got = submission.find_first(symptom, written(tmp_path, text))
        known = {"a tick takes no item off the list": ["S-1"]}
        assert_finds(got, ["S-3", "S-1", "S-2"], text, symptom, known)

    @pytest.mark.points(1, "value")
    def test_other_lines_say_nothing(self, submission, tmp_path):
        """Prose, other lists and a second heading level belong to no item."""
        text = (
            "# Title: nan\n- [ ] TITLE-1 before the first group\n\n"
            "## Numbers with a nan in the heading\n"
            "Keywords: overflow\n"
            "Keep calm: a loss of 3 is no reason to worry about `- [ ] FAKE-1`.\n"
            "- [ ] N-1 first, see N-9\n"
            "- an item without a box\n"
            "### loss\n"
            "- [ ] N-2 second\n\n"
            "## Loss\nKeywords: loss\n- [ ] L-1 third\n"
        )
        path = written(tmp_path, text)
        for symptom, wanted in (
            ("overflow in step 3", ["N-1", "N-2"]),
            ("nan", []),
            ("loss", ["L-1"]),
        ):
            got = submission.find_first(symptom, path)
            known = {"the words of a heading are no keywords": [] if wanted else ["N-1", "N-2"]}
            assert_finds(got, wanted, text, symptom, known)

    @pytest.mark.points(2, "value")
    @pytest.mark.parametrize("kind", ["Path", "str"])
    def test_reads_the_file_at_path(self, submission, tmp_path, kind):
        """Another checklist, given as a Path or as text, is read, with its own groups."""
        text = CHECKLIST + (
            "\n## Tokenizer\nKeywords: tokenizer, vocabulary, 分词\n"
            "- [ ] TOK-1 One.\n- [ ] TOK-2 Two.\n"
        )
        path = written(tmp_path, text, "mine.md")
        path = str(path) if kind == "str" else path
        for symptom, wanted in (
            ("the tokenizer has another vocabulary", ["TOK-1", "TOK-2"]),
            ("分词", ["TOK-1", "TOK-2"]),
            ("loss is nan", NAN),
        ):
            got = submission.find_first(symptom, path=path)
            assert_finds(got, wanted, text, symptom)

    @pytest.mark.points(1, "value")
    def test_reads_it_on_every_call(self, submission, tmp_path):
        """A checklist that changes between two calls is read again."""
        before = "## A\nKeywords: nan\n- [ ] OLD-1 a\n"
        after = "## A\nKeywords: nan\n- [ ] NEW-1 a\n"
        path = written(tmp_path, before)
        got = submission.find_first("nan", path)
        assert_finds(got, ["OLD-1"], before, "nan")
        written(tmp_path, after)
        got = submission.find_first("nan", path)
        known = {"the file was changed after the first call": ["OLD-1"]}
        assert_finds(got, ["NEW-1"], after, "nan", known)

    @pytest.mark.points(1, "value")
    def test_default_path(self, submission, scratch):
        """Without a path it reads the debug_checklist.md beside the module."""
        path = scratch / "debug_checklist.md"
        mine = path.read_text(encoding="utf-8") if path.exists() else None
        written(scratch, CHECKLIST, path.name)
        try:
            got = submission.find_first("显存 out of memory")
        finally:
            if mine is None:
                path.unlink()
            else:
                path.write_text(mine, encoding="utf-8")
        assert_finds(got, MEMORY, CHECKLIST, "显存 out of memory")
