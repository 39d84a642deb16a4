"""Functions that a statement takes away: seen when they are called, under any of their names.

Three watchers share the work. A function mode sees what acts on tensors, however it was
imported: `x.softmax`, `F.softmax`, `nn.Softmax`, `x @ y`. A hook sees modules. A profile
function sees Python functions that the mode is blind to, such as those of `torch.func`. None of
them sees what one operator does inside C++.
"""

from __future__ import annotations

import ast
import functools
import linecache
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.overrides import get_ignored_functions as _ignored_functions

from grader.testing._failure import CheckFailed

_getframe, _setprofile, _getprofile = sys._getframe, sys.setprofile, sys.getprofile
_pre_hook = register_module_forward_pre_hook
_TORCH = str(Path(torch.__file__).parent)
_HERE = str(Path(__file__).parent)

# One function, several names. The first is the name that the others are known by.
_SAME = (
    ("softmax", "special.softmax"),
    ("log_softmax", "special.log_softmax"),
    ("sigmoid", "special.expit"),
    ("logsumexp", "special.logsumexp"),
    ("matmul", "@", "__matmul__", "__rmatmul__", "__imatmul__", "linalg.matmul"),
    ("add", "+", "__add__", "__radd__", "__iadd__"),
    ("sub", "-", "__sub__", "__rsub__", "__isub__", "subtract", "rsub"),
    ("mul", "*", "__mul__", "__rmul__", "__imul__", "multiply"),
    ("div", "/", "__div__", "__truediv__", "__rtruediv__", "__itruediv__", "divide", "true_divide"),
    ("pow", "**", "__pow__", "__rpow__", "__ipow__"),
    ("floor_divide", "//", "__floordiv__", "__rfloordiv__", "__ifloordiv__"),
    ("remainder", "%", "__mod__", "__rmod__", "__imod__"),
    ("neg", "negative", "__neg__"),
    ("abs", "absolute", "__abs__"),
    ("eq", "==", "__eq__"),
    ("ne", "!=", "__ne__", "not_equal"),
    ("lt", "<", "__lt__", "less"),
    ("le", "<=", "__le__", "less_equal"),
    ("gt", ">", "__gt__", "greater"),
    ("ge", ">=", "__ge__", "greater_equal"),
    ("cat", "concat", "concatenate"),
    ("transpose", "swapaxes", "swapdims"),
    ("movedim", "moveaxis"),
    ("clamp", "clip"),
    ("outer", "ger"),
    ("round", "special.round"),
    ("exp2", "special.exp2"),
    ("expm1", "special.expm1"),
    ("log1p", "special.log1p"),
    ("xlogy", "special.xlogy"),
    ("erf", "special.erf"),
    ("erfc", "special.erfc"),
    ("erfinv", "special.erfinv"),
    ("lgamma", "special.gammaln"),
    ("digamma", "special.psi", "special.digamma"),
    ("logit", "special.logit"),
    ("i0", "special.i0"),
    ("sinc", "special.sinc"),
    ("linalg.det", "det"),
    ("linalg.inv", "inverse", "linalg.inverse"),
    ("linalg.pinv", "pinverse"),
    ("linalg.slogdet", "slogdet"),
    ("linalg.matrix_power", "matrix_power"),
    ("linalg.matrix_exp", "matrix_exp"),
    ("linalg.multi_dot", "chain_matmul"),
    ("linalg.diagonal", "diagonal"),
    ("vstack", "row_stack"),
    ("trunc", "fix"),
    ("acos", "arccos"),
    ("asin", "arcsin"),
    ("atan", "arctan"),
    ("atan2", "arctan2"),
    ("acosh", "arccosh"),
    ("asinh", "arcsinh"),
    ("atanh", "arctanh"),
    ("numpy", "__array__"),
    ("item", "__float__", "__int__", "__index__", "__complex__"),
    ("autograd.backward", "backward"),
    ("adjoint", "mH"),
    ("where", "_s_where"),
    ("sum", "_sum"),
)
_FIRST = {name: names[0] for names in _SAME for name in names}

# Where a function that the mode reports has its home, as a prefix of its name.
_HOMES = {
    "torch._C._linalg": "linalg.",
    "torch._C._special": "special.",
    "torch._C._fft": "fft.",
    "torch._C._sparse": "sparse.",
    "torch.autograd": "autograd.",
    "torch.nn.init": "nn.init.",
}
_SPACES: dict[str, Any] = {
    "": torch,
    "linalg.": torch.linalg,
    "special.": torch.special,
    "fft.": torch.fft,
    "autograd.": torch.autograd,
    "nn.init.": nn.init,
    "nn.functional.": functional,
}
_WRAPPERS = frozenset({"decorate_context", "wrapper", "wrapped", "inner", "fn", "_fn"})
_PREFIXES = ("torch.", "Tensor.", "F.", "nn.functional.", "functional.")


@contextmanager
def forbid(*names: str, why: str = "", allow: Iterable[str] = ()) -> Iterator[None]:
    """Fail where one of these functions is called while the context is open.

    The failure is raised at the call, and once more when the context closes, so that an
    `except` in the submission cannot swallow it.

    Args:
        names: `"softmax"`, `"torch.outer"`, `"F.normalize"`, `"linalg.norm"`, `"@"`: the function
            under all of its names (method, operator, in place, alias), and no other whose
            name it is part of. `"nn.Linear"`: modules of this class. `"linalg"`, `"torch.func"`,
            `"autograd"`: everything in it. `"autograd.Function"`, `"torch.func.vjp"`: also what no
            operator stands for.
        why: what to do instead, as the end of the sentence.
        allow: names that stay, though they are other names of a forbidden function.

    Raises:
        ValueError: torch has no function of such a name.
    """
    __tracebackhide__ = True
    ban = _Ban(names, why, frozenset(allow))
    with _watched(ban):
        yield


@contextmanager
def forbid_torch(*, why: str = "pure Python is asked for") -> Iterator[None]:
    """Fail where anything of torch is called while the context is open."""
    __tracebackhide__ = True
    with _watched(_Ban((), why, frozenset(), everything=True)):
        yield


def names_used(source: str, function: str = "") -> frozenset[str]:
    """The names that the text of one function or class uses.

    Args:
        source: the text of the module.
        function: `"attention"`, `"Block"`, `"Block.forward"`; the whole module where empty.

    Returns:
        Plain and dotted names (`"F.softmax"` and `"softmax"`), names of keyword arguments not
        among them; `"for"` and `"while"` for loops, comprehensions too; operators such as
        `"@"`. Empty where there is no such function.
    """
    found = _definition(ast.parse(source), function)
    if found is None:
        return frozenset()
    names: set[str] = set()
    for node in ast.walk(found):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            names.update((node.attr, ast.unparse(node)))
        elif isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
            names.add("for")
        elif isinstance(node, ast.While):
            names.add("while")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.name for alias in node.names)
            if isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module)
        elif isinstance(node, ast.MatMult):
            names.add("@")
        elif isinstance(node, ast.Pow):
            names.add("**")
    return frozenset(names)


class _Ban:
    """What is forbidden, and the first use of it."""

    def __init__(
        self, names: Iterable[str], why: str, allow: frozenset[str], everything: bool = False
    ) -> None:
        self.everything = everything
        self.failure: CheckFailed | None = None
        self.functions: dict[str, str] = {}  # first name -> as the author wrote it
        self.spaces: dict[str, str] = {}  # "linalg." -> as the author wrote it
        self.modules: dict[Any, str] = {}  # a `forward` -> as the author wrote it
        self.codes: dict[types.CodeType, str] = {}
        self.builtins: dict[Any, str] = {}
        self._why = why
        self._allow = frozenset(_stripped(name) for name in allow)
        for name in names:
            self._resolve(name)

    def _resolve(self, written: str) -> None:
        name = _stripped(written)
        first = _FIRST.get(name, name)
        if name.startswith("nn.") and isinstance(getattr(nn, name[3:], None), type):
            self.modules[getattr(nn, name[3:]).forward] = written
            return
        if f"{name}." in _SPACES:
            self.spaces[f"{name}."] = written
            return
        found = _looked_up(name)
        is_operator = first in _FIRST or _is_tensor_function(name)
        if is_operator:
            self.functions[first] = written
            if found is None or found not in _ignored_functions():
                return
        codes = set(_codes_of(found))
        if isinstance(found, types.BuiltinFunctionType):
            self.builtins[found] = written
        elif not codes and not is_operator:
            raise ValueError(f"torch has no function {written!r} that can be forbidden")
        self.codes.update(dict.fromkeys(codes, written))

    def of_function(self, func: Any) -> str | None:
        """The forbidden name that the function goes by, if it is forbidden."""
        names = _names_of(func)
        if self.everything:
            return f"torch's {names[0]}"
        for name in names:
            if name in self._allow:
                return None
        for name in names:
            first = _FIRST.get(name, name)
            if first in self.functions:
                return self.functions[first]
            for space, written in self.spaces.items():
                if first.startswith(space):
                    return written
        return None

    def use(self, written: str, frame: types.FrameType | None) -> None:
        """Record the use and fail."""
        __tracebackhide__ = True
        site = _site(frame)
        line = _expression(site)
        said = f"`{line}` calls {written}, which is" if line else f"{written} is"
        why = f": {self._why}" if self._why else ""
        place = f"{Path(site.f_code.co_filename).name}:{site.f_lineno}" if site else ""
        failure = CheckFailed(
            f"{said} forbidden here{why}",
            id="forbidden",
            args={"name": written, "call": line},
            details=(place,) if place else (),
        )
        if self.failure is None:
            self.failure = failure
        raise failure


@contextmanager
def _watched(ban: _Ban) -> Iterator[None]:
    __tracebackhide__ = True
    try:
        with ExitStack() as stack:
            if ban.modules or ban.everything:
                handle = _pre_hook(_module_watcher(ban))
                stack.callback(handle.remove)
            if ban.functions or ban.spaces or ban.everything:
                stack.enter_context(_Watcher(ban))
            # Last in, first out: so it sees nothing of the others' coming and going.
            if ban.codes or ban.builtins or ban.everything:
                stack.enter_context(_profiled(ban))
            yield
    except BaseException as error:
        if ban.failure is None or error is ban.failure or not isinstance(error, Exception):
            raise
        raise ban.failure from None
    if ban.failure is not None:
        raise ban.failure


class _Watcher(TorchFunctionMode):
    """Sees every function that acts on tensors or makes them."""

    def __init__(self, ban: _Ban) -> None:
        super().__init__()
        self._ban = ban

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        __tracebackhide__ = True
        written = self._ban.of_function(func)
        if written is not None and not _is_ours(_getframe(1)):
            self._ban.use(written, _getframe(1))
        return func(*args, **(kwargs or {}))


def _module_watcher(ban: _Ban) -> Callable[[nn.Module, Any], None]:
    def before_forward(module: nn.Module, _: Any) -> None:
        __tracebackhide__ = True
        forward = type(module).forward
        if ban.everything:
            ban.use(f"torch's {type(module).__name__}", _getframe(1))
        if forward in ban.modules:
            ban.use(ban.modules[forward], _getframe(1))

    return before_forward


@contextmanager
def _profiled(ban: _Ban) -> Iterator[None]:
    def watch(frame: types.FrameType, event: str, arg: Any) -> None:
        __tracebackhide__ = True
        if event == "call":
            code, caller = frame.f_code, frame.f_back
            written = ban.codes.get(code)
            if ban.everything and code.co_filename.startswith(_TORCH):
                written = f"torch's {code.co_name}"
        elif event == "c_call":
            caller = frame
            written = _of_builtin(ban, arg)
        else:
            return
        if written is not None and _is_called_outside_of_torch(caller) and not _is_ours(caller):
            # A profile function that raises is switched off by the interpreter, which looks as if
            # the submission had done it; the end of the context raises what was found.
            with suppress(CheckFailed):
                ban.use(written, caller)

    before = _getprofile()
    _setprofile(watch)
    try:
        yield
    finally:
        _setprofile(before)


def _of_builtin(ban: _Ban, function: Any) -> str | None:
    try:
        written = ban.builtins.get(function)
    except TypeError:  # a method of something that cannot be hashed
        return None
    home = str(getattr(function, "__module__", None) or "")
    if ban.everything and home.partition(".")[0] == "torch":
        return f"torch's {function.__name__}"
    return written


def _stripped(name: str) -> str:
    """The name without the prefixes that say where it was found."""
    for prefix in _PREFIXES * 2:
        rest = name.removeprefix(prefix)
        if rest and rest != name and f"{name}." not in _SPACES:
            name = rest
    return name


def _is_tensor_function(name: str) -> bool:
    """Whether a function mode sees the function of that name."""
    space, _, last = name.rpartition(".")
    home = _SPACES.get(f"{space}." if space else "")
    if home is None:
        return False
    if space == "autograd":
        return last in ("grad", "backward")
    homes = (home, torch.Tensor, functional) if home is torch else (home,)
    for place in homes:
        found = getattr(place, last, None)
        if found is not None and not isinstance(found, type | types.ModuleType):
            return True
    return False


def _looked_up(name: str) -> Any:
    """The object of that dotted name in torch; None if there is none."""
    found: Any = torch
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _codes_of(value: Any) -> Iterator[types.CodeType]:
    """The code of a Python function, of the public functions of a module, of a class."""
    if isinstance(value, types.ModuleType):
        for name, item in vars(value).items():
            if not name.startswith("_") and isinstance(item, types.FunctionType):
                yield from _codes_of(item)
    elif isinstance(value, type):
        for name in ("apply", "__init__", "__call__"):
            yield from _codes_of(getattr(value, name, None))
    else:
        while hasattr(value, "__wrapped__"):
            value = value.__wrapped__
        code = getattr(value, "__code__", None)
        if isinstance(code, types.CodeType):
            yield code


def _names_of(func: Any) -> tuple[str, ...]:
    """The names that a function of torch goes by, without the place it was found in."""
    name = getattr(func, "__name__", "")
    if name in ("__get__", "__set__"):  # a property such as `T`
        name = getattr(getattr(func, "__self__", None), "__name__", name)
        return (name,)
    if isinstance(func, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        name = name.partition(".")[0].removeprefix("_")
        for space in ("linalg", "special", "fft"):
            name = (
                name.replace(f"{space}_", f"{space}.", 1) if name.startswith(f"{space}_") else name
            )
    else:
        home = _HOMES.get(getattr(func, "__module__", None) or "", "")
        if home:  # the functions of torch.linalg are called linalg_norm inside
            name = home + name.removeprefix(home.rstrip(".") + "_")
        if func in _functional():
            return (name, f"nn.functional.{name}")
    if name.endswith("_") and not name.endswith("__"):
        return (name, name[:-1])
    return (name,)


@functools.cache
def _functional() -> frozenset[Any]:
    """The functions of torch.nn.functional, its own and those from C++."""
    return frozenset(
        value
        for name, value in vars(functional).items()
        if not name.startswith("_") and callable(value)
    )


def _is_called_outside_of_torch(frame: types.FrameType | None) -> bool:
    """Whether at most the wrappers of decorators stand between the call and the submission.

    As with the mode, what a function of torch uses inside itself is not the submission's use.
    """
    while frame is not None and frame.f_code.co_filename.startswith(_TORCH):
        if frame.f_code.co_name not in _WRAPPERS:
            return False
        frame = frame.f_back
    return True


def _is_ours(frame: types.FrameType | None) -> bool:
    """Whether a check of this package calls torch, and not the submission by way of it."""
    while frame is not None and frame.f_code.co_filename.startswith((_TORCH, "<frozen")):
        frame = frame.f_back
    if frame is None or not frame.f_code.co_filename.startswith(_HERE):
        return False
    # What a check was given to call, it calls by these names.
    return not _expression(frame).startswith(("fn(", "moved("))


def _site(frame: types.FrameType | None) -> types.FrameType | None:
    """The innermost frame outside of torch and this package."""
    while frame is not None:
        if not frame.f_code.co_filename.startswith((_TORCH, _HERE, "<frozen")):
            return frame
        frame = frame.f_back
    return None


def _expression(frame: types.FrameType | None) -> str:
    """The call as it stands in the file; empty where the text cannot be read."""
    if frame is None:
        return ""
    try:
        positions = list(frame.f_code.co_positions())[frame.f_lasti // 2]
    except IndexError:
        return ""
    line, end_line, start, end = positions
    if line is None or start is None or end is None:
        return ""
    text = linecache.getline(frame.f_code.co_filename, line)
    if end_line != line:
        cut = text.encode()[start:].decode(errors="replace").strip()
    else:
        cut = text.encode()[start:end].decode(errors="replace").strip()
    return cut if len(cut) <= 60 else cut[:59] + "…"


def _definition(tree: ast.Module, name: str) -> ast.AST | None:
    found: ast.AST | None = tree
    for part in name.split(".") if name else ():
        found = next(
            (
                node
                for node in ast.iter_child_nodes(found)
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
                and node.name == part
            )
            if found is not None
            else iter(()),
            None,
        )
    return found
