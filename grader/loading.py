"""Turning a submission's text into a module, without a file on any import path.

Only the text that was read, stored and shown is compiled; neighbours of the learner's file
(`torch.py`, `random.py`, `conftest.py`) are never on the path.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from grader.testing._failure import CheckFailed


class MissingNameError(CheckFailed, AttributeError):
    """The submission does not define a name that a check asks for."""


@dataclass(frozen=True)
class Source:
    """What is graded: the module's text, under the name the learner knows the file by."""

    name: str  # of the module: "self_attention"
    file: str  # as tracebacks show it: "exercises/day23/self_attention.py"
    text: str
    path: str = ""  # the copy in the scratch folder, the module's `__file__`
    modules: Mapping[str, str] = field(default_factory=dict)  # importable beside it, by name


def load(source: Source) -> ModuleType:
    """Run the submission's text and return it as a module; whatever it raises, it raises."""
    for name, text in source.modules.items():
        _execute(name, f"{name}.py", text, "")
    return _execute(source.name, source.file, source.text, source.path)


def _execute(name: str, file: str, text: str, path: str) -> ModuleType:
    module = ModuleType(name)
    module.__file__ = path or file
    # Tracebacks read their lines from here, whatever happens to the file meanwhile.
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    code = compile(text, file, "exec", dont_inherit=True)
    before = sys.modules.get(name)
    # Pickle, dataclasses and DataLoader workers look a module up by its name.
    sys.modules[name] = module
    try:
        exec(code, module.__dict__)
    except BaseException:
        if before is None:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = before
        raise
    module.__dict__.setdefault("__getattr__", _missing(file))
    return module


def _missing(file: str) -> Any:
    def __getattr__(name: str) -> Any:  # noqa: N807
        if name.startswith("__"):
            raise AttributeError(name)
        raise MissingNameError(
            f"{file} defines no `{name}`; the checks call it under this name",
            id="missing.name",
            args={"name": name},
        )

    return __getattr__
