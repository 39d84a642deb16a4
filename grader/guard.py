"""What a submission must not touch: the functions that judge it, and the frames that call it.

One interpreter runs the suite and the submission, so this is a fence, not a wall: names are
compared with a snapshot taken before the submission was loaded, and the interpreter's own audit
events tell when the submission's code reaches for frames, traces or the collector, or gives what
judges another code, default, class or base, which is refused. An attempt that does earns nothing
and says why. What must be proof against malice is graded in a process
and a sandbox of its own.
"""

from __future__ import annotations

import itertools
import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import CellType, FunctionType, ModuleType
from typing import Any, NamedTuple

_PLAIN = (
    "builtins",  # first: mending the others calls them
    "torch",
    "torch.nn.functional",
    "torch.nn",
    "torch.linalg",
    "torch.autograd",
    "torch.autograd.gradcheck",
    "torch.testing",
    "torch.testing._comparison",
    "torch.utils._python_dispatch",
    "torch.overrides",
    "torch.optim",
    "time",
    "gc",
    "math",
    "os",
    "json",
    "signal",
    "operator",
    "itertools",
    "functools",
    "contextlib",
    "copy",
    "re",
    "types",
    "random",
    "numpy",
    "inspect",
    "pytest",
    "_pytest.runner",
    "_pytest.reports",
    "_pytest.python",
    "_pytest.outcomes",
    "_pytest.main",
    "_pytest.raises",
    "pluggy._callers",
    "pluggy._hooks",
    "pytest_jsonreport.plugin",
)
_CLASSES = (
    "torch.Tensor",
    "torch.nn.Module",
    "torch.nn.Parameter",
    "torch.autograd.Function",
    "torch.optim.Optimizer",
    "torch.utils._device.DeviceContext",
    "_pytest.runner.CallInfo",
    "_pytest.reports.TestReport",
    "_pytest.python.Function",
    "pytest_jsonreport.plugin.JSONReport",
    "pytest_jsonreport.plugin.JSONReportBase",
)
# Beside `grader.testing`. The server has more rooms in memory, which no verdict passes through.
_JUDGES = frozenset(
    {
        "grader.exercise_file",
        "grader.guard",
        "grader.loading",
        "grader.model",
        "grader.plugin",
        "grader.processes",
        "grader.worker",
        "__main__",  # the worker itself, where it was started as a program
    }
)
# `torch.cuda` and friends fill themselves in on first use; a name that is new is nobody's theft.
# `torch.Storage` follows the default dtype.
_LAZY = frozenset({"__warningregistry__", "__builtins__", "_", "Storage"})
# Python keeps these on a class at first use: pickling the first, looking at annotations the others.
_CACHES = frozenset({"__slotnames__", "__annotations__", "__annotations_cache__"})

# What makes a function or a class what it is, beside the names in it. Assigning it is refused.
_OF_FUNCTIONS = frozenset({"__code__", "__defaults__", "__kwdefaults__"})
_OF_OTHERS = frozenset({"__class__", "__bases__"})
# Whose classes keep nothing that changes; those of a suite may count or remember.
_ENGINE = ("grader.", "torch.", "_pytest.", "pytest_jsonreport.")
# Whose tables and closures nobody has to change.
_SETTLED = ("grader", "torch.testing", "torch.autograd.gradcheck")

_EVENTS = {
    "sys._getframe": "reads the frames of its caller (sys._getframe)",
    "sys._current_frames": "reads the frames of other code (sys._current_frames)",
    "sys._current_exceptions": "reads the exceptions of other code (sys._current_exceptions)",
    "sys.settrace": "sets a trace function (sys.settrace)",
    "sys.setprofile": "sets a profile function (sys.setprofile)",
    "sys.monitoring.register_callback": "registers a monitoring callback",
    "gc.get_objects": "searches the memory of the checks (gc.get_objects)",
    "gc.get_referrers": "searches the memory of the checks (gc.get_referrers)",
    "gc.get_referents": "searches the memory of the checks (gc.get_referents)",
    "sys.addaudithook": "adds an audit hook",
    "code.__new__": "builds code objects",
}
_ATTRIBUTES = frozenset({"tb_frame", "gi_frame", "cr_frame", "ag_frame", "f_code", "f_locals"})
# Reading a frame through these is still the submission's reading.
_MIDDLEMEN = ("inspect.py", "traceback.py", "logging/__init__.py")


@dataclass
class Finding:
    """One thing a submission did that no answer needs."""

    text: str
    line: int | None = None


@dataclass
class Guard:
    """A snapshot of what judges, and the audit events of one submission's file."""

    file: str = ""  # the submission's, once it is loaded; "" switches the audit off
    findings: list[Finding] = field(default_factory=list)
    _compare: Callable[[], list[Finding]] = list  # before the snapshot there is nothing to find
    _is_judge: Callable[[Any], bool] = bool

    def snapshot(self, suites: Iterable[ModuleType] = ()) -> None:
        """Remember the identity of every public name that judges or measures.

        Args:
            suites: modules that judge besides those of the engine and its libraries.
        """
        computes = _computing()
        spaces = [_space(name, space) for name, space in _spaces(suites)]
        compare = _comparer(spaces, list(_tables(spaces)), list(_cells(spaces)))
        self._compare = lambda: [*computes(), *compare()]
        self._is_judge = _judges(spaces)

    def compare(self) -> list[Finding]:
        """Put back every name that was replaced and say which ones they were."""
        return self._compare()

    def take(self) -> list[Finding]:
        """Return what was found since the last call: replaced names and audit events."""
        return self.sealed()()

    def sealed(self) -> Callable[[], list[Finding]]:
        """`take` as a function that whoever changes this class or this module does not reach."""
        findings, compare = self.findings, self._compare

        def take() -> list[Finding]:
            found = [*findings, *compare()]
            findings.clear()
            return found

        return take

    def watch(self) -> None:
        """Listen to the interpreter's audit events from now on; there is no way back."""
        getframe = sys._getframe
        findings, is_judge = self.findings, self._is_judge
        insides = _OF_FUNCTIONS | _OF_OTHERS

        def hook(event: str, args: tuple[Any, ...]) -> None:
            if event == "object.__setattr__" and args[1] in insides and is_judge(args[0]):
                what = f"replaces {args[1]} of {getattr(args[0], '__name__', args[0])}"
                findings.append(Finding(what))
                raise PermissionError(f"a submission that {what} is not judged")
            if not self.file:
                return
            what = _EVENTS.get(event, "")
            if event == "object.__getattr__":
                if args[1] in _ATTRIBUTES:
                    what = f"reads the frames of its caller ({args[1]})"
                elif args[1] == "__kwdefaults__" and is_judge(args[0]):
                    what = f"reads or replaces defaults of {args[0].__name__}"
            if not what:
                return
            file, self.file = self.file, ""  # our own reading of frames is no finding
            try:
                line = _line_in(getframe(1), file)
                if line is not None and len(findings) < 20:
                    findings.append(Finding(what, line))
            finally:
                self.file = file

        sys.addaudithook(hook)


_GONE = object()


@dataclass(frozen=True, slots=True)
class _Space:
    """A module or a class as it was."""

    name: str
    it: Any
    now: Mapping[str, Any]  # its names, whenever one looks
    keys: tuple[str, ...]
    values: tuple[Any, ...]
    is_class: bool  # in a module, new names are nobody's theft


class _Cell(NamedTuple):
    """What a function closes over, as it was."""

    name: str  # of the function
    it: CellType
    content: Any


def _space(name: str, it: Any) -> _Space:
    now = vars(it)
    return _Space(name, it, now, tuple(now), tuple(now.values()), isinstance(it, type))


def _judges(spaces: Sequence[_Space]) -> Callable[[Any], bool]:
    """A function that knows the spaces, and every function that was defined in one."""
    identity, kind, function = id, type, FunctionType
    ids = {id(space.it) for space in spaces}
    # Which module a function belongs to can't be changed, and reading it is no audit event.
    for space in spaces:
        ids |= {id(value.__globals__) for value in space.values if type(value) is function}
    return lambda it: identity(it.__globals__ if kind(it) is function else it) in ids


def _tables(spaces: Sequence[_Space]) -> Iterator[_Space]:
    """The dictionaries in settled modules and classes: tolerances, say."""
    for space in spaces:
        for key, value in zip(space.keys, space.values, strict=True):
            if space.name.startswith(_SETTLED) and type(value) is dict and key[:2] != "__":
                keys, values = tuple(value), tuple(value.values())
                name = f"{space.name}.{key}"
                yield _Space(name, value, value, keys, values, is_class=False)


def _cells(spaces: Sequence[_Space]) -> Iterator[_Cell]:
    """What the closures of settled functions hold: the function that a decorator wraps, say."""
    for space in spaces:
        for key, value in zip(space.keys, space.values, strict=True):
            if isinstance(value, FunctionType) and value.__module__.startswith(_SETTLED):
                for cell in value.__closure__ or ():
                    yield _Cell(f"{space.name}.{key}", cell, cell.cell_contents)


def _comparer(
    spaces: Sequence[_Space], tables: Sequence[_Space], closures: Sequence[_Cell]
) -> Callable[[], list[Finding]]:
    """A function that puts back what was replaced; it looks up no name that could be replaced.

    Thousands of names are compared after every check, so the loop over them is the interpreter's.
    """
    every, over, same, count, whole = all, map, operator.is_, len, tuple
    each, backwards, last = itertools.chain.from_iterable, reversed, next
    values_of = operator.methodcaller("values")
    content_of, emptied = operator.attrgetter("cell_contents"), ValueError
    nows: list[Any] = [space.now for space in (*spaces, *tables) if space.now]
    cells = tuple(cell.it for cell in closures)
    contents = tuple(cell.content for cell in closures)
    loaded = sys.modules
    modules = {
        space.name: space.it
        for space in spaces
        if isinstance(space.it, ModuleType) and loaded.get(space.name) is space.it
    }
    names, places = tuple(modules), tuple(modules.values())
    mend, refill, reclose, reload = _mend, _refill, _reclose, _reload

    # Names keep their order and new ones come last. So where as many names as before have the same
    # values in the same order, only the last one can be another.
    def look() -> tuple[tuple[int, ...], tuple[str, ...], tuple[Any, ...]]:
        lasts = whole(over(last, over(backwards, nows)))
        return whole(over(count, nows)), lasts, whole(each(over(values_of, nows)))

    seen = look()

    def compare() -> list[Finding]:
        nonlocal seen
        found: list[Finding] = []
        sizes, lasts, values = seen
        if not (
            whole(over(count, nows)) == sizes
            and every(over(same, over(last, over(backwards, nows)), lasts))
            and every(over(same, each(over(values_of, nows)), values))
        ):
            for space in spaces:
                found += mend(space)
            for table in tables:
                found += refill(table)
            seen = look()
        try:
            is_same = every(over(same, over(content_of, cells), contents))
        except emptied:
            is_same = False
        if not is_same:
            found += reclose(closures)
        if not every(over(same, over(loaded.get, names), places)):
            found += reload(modules)
        return found

    return compare


def _computing() -> Callable[[], list[Finding]]:
    """A function that says whether torch still compares as it did.

    A mode that is entered and never left changes no name, nor does an operator's other kernel.
    """
    import torch
    from torch.utils._device import DeviceContext  # `torch.set_default_device` enters it

    one, other = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])
    equal, allclose, count, kind, flip = torch.equal, torch.allclose, len, type, reversed
    pop_dispatch = torch._C._pop_torch_dispatch_stack
    stacks: tuple[tuple[Callable[[], int], Callable[[], Any]], ...] = (
        (torch._C._len_torch_function_stack, torch._C._pop_torch_function_stack),
        (torch._C._len_torch_dispatch_stack, lambda: pop_dispatch(None)),
    )
    push = torch._C._push_on_torch_function_stack
    depths = [depth() for depth, _ in stacks]

    def left_on() -> list[Finding]:
        modes = []
        for (depth, pop), before in zip(stacks, depths, strict=True):
            while depth() > before:
                modes.append(pop())
        for mode in flip(modes):
            if kind(mode) is DeviceContext:
                push(mode)
        names = [kind(mode).__name__ for mode in modes if kind(mode) is not DeviceContext]
        if not count(names):
            return []
        return [Finding(f"leaves a mode of torch on ({names[0]}), where `with` would leave it")]

    def computes() -> list[Finding]:
        found = left_on()
        try:
            is_right = (
                equal(one, one) is True
                and equal(one, other) is False
                and allclose(one, other) is False
                and (one == other).tolist() == [True, False]
                and (one - other).abs().max().item() == 2.0
            )
        except Exception:
            is_right = False
        return found if is_right else [*found, Finding("replaces what torch computes")]

    return computes


def _refill(table: _Space) -> list[Finding]:
    """Put back what a dictionary held."""
    before = dict(zip(table.keys, table.values, strict=True))
    is_same = all(table.it.get(key, _GONE) is value for key, value in before.items())
    if is_same and len(table.it) == len(before):
        return []
    table.it.clear()
    table.it.update(before)
    return [Finding(f"replaces entries of {table.name}")]


def _reclose(closures: Sequence[_Cell]) -> list[Finding]:
    """Put back what functions closed over."""
    found = []
    for name, cell, content in closures:
        try:
            is_same = cell.cell_contents is content
        except ValueError:  # emptied
            is_same = False
        if not is_same:
            cell.cell_contents = content
            found.append(Finding(f"replaces what {name} closes over"))
    return found


def _reload(modules: Mapping[str, ModuleType]) -> list[Finding]:
    """Put back what `import` finds."""
    found = []
    for name, module in modules.items():
        if sys.modules.get(name) is not module:
            sys.modules[name] = module
            found.append(Finding(f"replaces the module {name}"))
    return found


def _mend(space: _Space) -> list[Finding]:
    """Put back what is not as it was in one module or class."""
    found = []
    for key, value in zip(space.keys, space.values, strict=True):
        now = space.now.get(key, _GONE)
        if now is value or key in _LAZY or _is_torchs(now, value):
            continue
        if not space.is_class or space.name.startswith(_ENGINE) or _is_code(value):
            setattr(space.it, key, value)
            found.append(Finding(f"replaces {space.name}.{key}"))
    if space.is_class:
        for key in sorted(set(space.now) - set(space.keys) - _CACHES):
            inherited = [vars(base)[key] for base in space.it.__mro__[1:] if key in vars(base)]
            if inherited and not _is_torchs(space.now[key], inherited[0]):
                delattr(space.it, key)
                found.append(Finding(f"replaces {space.name}.{key}"))
    return found


def _is_code(value: Any) -> bool:
    return callable(value) or isinstance(value, staticmethod | classmethod | property)


def _is_torchs(new: Any, value: Any) -> bool:
    """Whether `new` is the wrapper that torch itself puts round a function.

    At its first import, by an optimizer's first step or by a division on the meta device,
    `torch._dynamo` wraps `torch.manual_seed`; the first optimizer of a class wraps its `step`.
    """
    compiler, optim = sys.modules.get("torch._compile"), sys.modules.get("torch.optim")
    if compiler is None or optim is None:
        return False
    if not isinstance(new, FunctionType) or not callable(value):
        return False
    wrappers = (compiler._disable_dynamo, optim.Optimizer.profile_hook_step)
    codes = [wrap(value).__code__ for wrap in wrappers]
    cells = [cell.cell_contents for cell in new.__closure__ or ()]
    return new.__code__ in codes and any(cell is value for cell in cells)


def _line_in(frame: Any, file: str) -> int | None:
    """The line of `file` that asked, directly or by one call of a reader of frames.

    Deeper calls are the library's own business: `traceback.print_exc` reads frames too.
    """
    if frame.f_code.co_filename.endswith(_MIDDLEMEN):
        frame = frame.f_back
    if frame is not None and frame.f_code.co_filename == file:
        return int(frame.f_lineno)
    return None


def _spaces(suites: Iterable[ModuleType]) -> Iterator[tuple[str, Any]]:
    for name in _PLAIN:
        if isinstance(module := sys.modules.get(name), ModuleType):
            yield name, module
    for path in _CLASSES:
        module_name, _, name = path.rpartition(".")
        space = getattr(sys.modules.get(module_name), name, None)
        if space is not None:
            yield path, space
    rooms = [
        (name, module)
        for name, module in sorted(sys.modules.items())
        if name in _JUDGES or name.startswith("grader.testing")
    ]
    for name, module in (*rooms, *((suite.__name__, suite) for suite in suites)):
        yield name, module
        for key, value in sorted(vars(module).items()):
            if isinstance(value, type) and value.__module__ == name:
                yield f"{name}.{key}", value
