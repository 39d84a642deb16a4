"""A submission earns nothing by changing what judges it, or by looking at its caller."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest
import torch

from grader.guard import _JUDGES, Guard
from grader.model import Status, Verdict

BODY = "return x * 2"

PATCHES = [
    "import torch; torch.equal = lambda a, b: True",
    "import torch; torch.allclose = lambda *a, **k: True",
    "import torch.testing; torch.testing.assert_close = lambda *a, **k: None",
    "import torch.autograd; torch.autograd.gradcheck = lambda *a, **k: True",
    "import torch; torch.Tensor.__eq__ = lambda a, b: True",
    "import torch; torch.full = lambda *a, **k: torch.zeros(2)",
    "import time; time.perf_counter = lambda: 0.0",
    "import time; time.process_time = lambda: 0.0",
    "import builtins; builtins.abs = lambda x: 0",
    "import builtins; builtins.AssertionError = ValueError",
    "import _pytest.runner as r; r.CallInfo.from_call = classmethod(lambda *a, **k: None)",
    "import _pytest.reports as r; r.TestReport.passed = True",
    "import grader.testing as t; t.fail = lambda *a, **k: None",
    "import grader.testing._failure as t; t.CheckFailed.__init__ = lambda *a, **k: None",
    "import grader.plugin as p; p.describe = lambda *a, **k: {'status': 'passed'}",
    "import torch; torch.equal.__class__; torch.norm.__code__ = (lambda *a, **k: None).__code__",
    "import os; os._exit = lambda code: None",
    "import json; json.dumps = lambda *a, **k: '{}'",
    "import grader.guard as g, torch; g.Guard.take = lambda s: []; torch.equal = lambda *a: 1",
    "import grader.guard as g, torch; g.Guard.compare = lambda s: []; torch.equal = lambda *a: 1",
    "import grader.guard as g; g._comparer = lambda *a: list",
    "import grader.guard as g; g._mend = lambda space: []; g._EVENTS.clear; g._EVENTS = {}",
    "import operator; operator.is_ = lambda a, b: True",
    "import grader.testing as t; t.assert_close.__code__ = (lambda *a, **k: None).__code__",
    "import grader.testing as t; t.assert_close.__kwdefaults__ = {'atol': 9.0, 'rtol': 9.0}",
    "import grader.testing as t; t.assert_close.__kwdefaults__.update(atol=9.0, rtol=9.0)",
    "import grader.testing as t; t.expect.__defaults__ = (1,)",
    "import grader.testing._values as v\n"
    "v._TOLERANCES.update(dict.fromkeys(v._TOLERANCES, (9.0, 9.0)))",
    "import torch.testing._comparison as c; c._DTYPE_PRECISIONS.clear()",
    "import grader.plugin as p; p._limited.__closure__[0].cell_contents = print",
    "import grader.plugin as p; del p._limited.__closure__[0].cell_contents",
    "import grader.model as m; m.Status.earns.fget.__code__ = (lambda self: True).__code__",
    "import grader.model as m; m.Status._value2member_map_['failed'] = m.Status.PASSED",
    "import torch, types; f = property(lambda s: lambda a, b: True)\n"
    "torch.__class__ = type('T', (types.ModuleType,), {'equal': f})",
    "import _pytest.reports as r; r.TestReport.__bases__ = (type('B', (r.BaseReport,), {}),)",
    "import sys, types; sys.modules['torch'] = types.ModuleType('torch')",
    "import builtins, torch; builtins.id = lambda x: 0\n"
    "torch.norm.__code__ = (lambda *a, **k: None).__code__",
    "import sys; sys.modules['test_scaling'].fail = lambda *a, **k: None",
    "import sys; sys.modules['test_scaling'].TestDouble.test_doubles = lambda *a, **k: None",
    "import sys; sys.modules['test_scaling'].fail.__code__ = (lambda *a, **k: None).__code__",
    "import itertools; itertools.product = lambda *a, **k: iter(())",
    "import numpy; numpy.allclose = lambda *a, **k: True",
    "import torch; global L; L = torch.library.Library('aten', 'IMPL')\n"
    "L.impl('equal', lambda a, b: True, 'CPU')",
]

MODES = {
    "torch.overrides.TorchFunctionMode": "__torch_function__",
    "torch.utils._python_dispatch.TorchDispatchMode": "__torch_dispatch__",
}

LOOKS = [
    "import sys; sys._getframe(1)",
    "import inspect; inspect.currentframe()",
    "import inspect; inspect.stack()",
    "import gc; gc.get_objects()",
    "import gc; gc.get_referrers(x)",
    "import sys; sys.settrace(lambda *a: None)",
    "import sys; sys.setprofile(lambda *a: None)",
    "import sys; sys._current_frames()",
    "import logging; logging.currentframe()",
    "import traceback; list(traceback.walk_stack(None))",
    "try:\n        1 / 0\n    except ZeroDivisionError as error:\n"
    "        error.__traceback__.tb_frame",
]


@pytest.mark.parametrize("line", PATCHES)
def test_replacing_what_judges_at_import_earns_nothing(grade, reference, line):
    attempt = grade(f"{reference.replace(BODY, 'return x')}\n{line}\n")

    assert attempt.verdict is Verdict.ERROR
    assert attempt.score.earned == 0
    assert attempt.fault is not None
    assert attempt.fault.kind == "Tampered"
    assert "replaces" in attempt.fault.text


@pytest.mark.parametrize("line", PATCHES)
def test_replacing_what_judges_during_a_check_earns_nothing(grade, reference, line):
    within = line.replace("\n", "\n    ")
    attempt = grade(reference.replace(BODY, f"{within}\n    return x"))

    assert attempt.score.earned == 0
    assert attempt.outcomes[0].status is Status.FAILED
    assert "replaces" in attempt.outcomes[0].message.text


@pytest.mark.parametrize(("kind", "method"), MODES.items())
def test_a_mode_that_is_never_left_earns_nothing_and_is_named(grade, reference, kind, method):
    mode = (
        "import torch.overrides, torch.utils._python_dispatch\n"
        f"class Lenient({kind}):\n"
        f"    def {method}(self, function, types, args=(), kwargs=None):\n"
        "        return 'equal' in str(function) or function(*args, **(kwargs or {}))\n"
    )
    wrong = reference.replace(BODY, "return x").replace("double(x) + x", "x")
    imported = grade(f"{wrong}\n{mode}Lenient().__enter__()\n")
    during = grade(f"{mode}{wrong.replace('return x', 'Lenient().__enter__(); return x', 1)}")

    assert imported.fault is not None
    assert "leaves a mode of torch on (Lenient)" in imported.fault.text
    assert during.score.earned == 0
    assert "leaves a mode of torch on (Lenient)" in during.outcomes[0].message.text


def test_a_mode_that_is_left_again_is_no_finding(grade, reference):
    mode = (
        "import torch\nfrom torch.overrides import TorchFunctionMode\n"
        "class Counting(TorchFunctionMode):\n"
        "    def __torch_function__(self, function, types, args=(), kwargs=None):\n"
        "        return function(*args, **(kwargs or {}))\n"
        "torch.set_default_device('cpu')\ntorch.set_default_dtype(torch.float64)\n"
    )
    within = "with Counting():\n        return (x * 2).to(x)"
    attempt = grade(f"{mode}{reference.replace(BODY, within)}")

    assert attempt.fault is None
    assert attempt.verdict is Verdict.PASSED


@pytest.mark.parametrize("line", LOOKS)
def test_looking_at_the_caller_earns_nothing_and_is_named(grade, reference, line):
    attempt = grade(reference.replace(BODY, f"{line}\n    return x * 2"))
    first = attempt.outcomes[0]

    assert attempt.score.earned == 0
    assert first.status is Status.FAILED
    assert first.message is not None
    assert "cannot be judged, so it earns nothing" in first.message.text


def test_a_report_of_its_own_is_not_read(grade, reference):
    forged = (
        "import json\n"
        "for name in ('.report.json', 'report.json'):\n"
        "    open(name, 'w').write(json.dumps({'tests': [], 'exitcode': 0}))\n"
        "print(json.dumps({'event': 'done'}))\n"
    )
    attempt = grade(f"{reference.replace(BODY, 'return x')}\n{forged}")

    assert attempt.verdict is Verdict.FAILED
    assert attempt.score.earned == 0


def test_events_in_the_workers_name_are_not_read(grade, reference):
    nodes = ["TestDouble::test_doubles", "TestTriple::test_triples"]
    forged = (
        "import json, os\n"
        f"for name in {nodes}:\n"
        "    for folder in ('', 'solutions/day01/'):\n"
        "        entry = {'nodeid': f'{folder}test_scaling.py::{name}', 'outcome': 'passed'}\n"
        "        entry['metadata'] = {'status': 'passed', 'check': name}\n"
        "        line = json.dumps({'event': 'loaded', 'output': ''}) + chr(10)\n"
        "        line += json.dumps({'event': 'case', 'test': entry}) + chr(10)\n"
        "        for number in range(3, 40):\n"
        "            try: os.write(number, line.encode())\n"
        "            except OSError: pass\n"
        "os._exit(0)\n"
    )
    attempt = grade(f"{reference.replace(BODY, 'return x')}\n{forged}")

    assert attempt.score.earned == 0
    assert not any(outcome.status.earns for outcome in attempt.outcomes)


def test_every_room_that_a_verdict_passes_through_is_watched():
    code = "import grader.worker, grader.testing, sys; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rooms = {name for name in ran.stdout.split() if name.startswith("grader.")}

    assert rooms <= {name for name in rooms if name in _JUDGES or name.startswith("grader.testing")}


def test_honest_use_of_the_same_modules_is_no_finding(grade, reference):
    honest = (
        "import collections, dataclasses, enum, gc, inspect, logging, sys, time, typing, warnings\n"
        "import torch\n"
        "Point = collections.namedtuple('Point', 'x y')\n"
        "@dataclasses.dataclass\n"
        "class Config:\n    width: int = 3\n"
        "class Colour(enum.Enum):\n    RED = 1\n"
        "T = typing.TypeVar('T')\n"
        "torch.manual_seed(0); torch.set_default_dtype(torch.float32)\n"
        "torch.backends.cudnn.deterministic = True\n"
        "logging.getLogger(__name__).warning('hello')\n"
        "warnings.warn('careful', stacklevel=1)\n"
        "start = time.perf_counter(); gc.collect(); inspect.signature(double)\n"
        "import copy, pickle\n"
        "pickle.loads(pickle.dumps(torch.nn.Parameter(torch.ones(2))))\n"
        "copy.deepcopy(torch.nn.Linear(2, 2))\n"
        "torch.nn.Parameter.__annotations__\n"
        "import traceback\n"
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    traceback.format_exc()\n"
        "import torch.nn.functional as F\n"
        "class Doubler(torch.autograd.Function):\n"
        "    @staticmethod\n    def forward(ctx, x): return 2 * x\n"
        "    @staticmethod\n    def backward(ctx, g): return 2 * g\n"
    )

    attempt = grade(f"{reference}\n{honest}")

    assert attempt.fault is None
    assert attempt.verdict is Verdict.PASSED


def test_what_torch_wraps_when_dynamo_is_imported_is_nobodys_theft():
    guard = Guard()
    guard.snapshot()
    before = torch.manual_seed
    torch.manual_seed = torch._disable_dynamo(before)  # as `import torch._dynamo` does
    try:
        found = guard.compare()
    finally:
        torch.manual_seed = before

    assert found == []


@pytest.mark.parametrize("method", ["", "    def step(self): super().step()\n"])
def test_what_torch_wraps_when_an_optimizer_is_made_is_nobodys_theft(method):
    suite = ModuleType("suite_of_steps")
    base = "import torch\nclass Recording(torch.optim.SGD):\n    'Steps.'\n"
    exec(base + method, suite.__dict__)
    guard = Guard()
    guard.snapshot([suite])
    suite.Recording([torch.zeros(1, requires_grad=True)])
    assert guard.compare() == []

    suite.Recording.step = lambda self: None
    (found,) = guard.compare()
    assert found.text == "replaces suite_of_steps.Recording.step"
    assert suite.Recording.step is not None


def test_what_a_class_of_the_suite_keeps_is_its_state():
    suite = ModuleType("suite_that_counts")
    exec("class Counter:\n    calls = 0\n    def add(self): type(self).calls += 1", suite.__dict__)
    guard = Guard()
    guard.snapshot([suite])
    suite.Counter().add()
    assert guard.compare() == []

    suite.Counter.add = lambda self: None
    assert [found.text for found in guard.compare()] == ["replaces suite_that_counts.Counter.add"]
    assert suite.Counter.calls == 1


def test_a_wrapper_round_another_function_is_a_replacement():
    guard = Guard()
    guard.snapshot()
    before = torch.manual_seed
    torch.manual_seed = torch._disable_dynamo(lambda seed: None)
    found = guard.compare()

    assert [finding.text for finding in found] == ["replaces torch.manual_seed"]
    assert torch.manual_seed is before
