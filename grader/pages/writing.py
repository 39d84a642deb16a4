"""From a view to a file: Jinja2 with everything escaped, one style, one script, their hashes."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grader.pages import charts, text

if TYPE_CHECKING:
    from jinja2 import Environment
    from jinja2.bccache import Bucket
    from markupsafe import Markup


def write(template: str, to: Path, **values: object) -> Path:
    """Write ``template`` filled with ``values`` to ``to``, unless it already says the same.

    The file is replaced at once: a browser never reads half a page.
    """
    page = _environment().get_template(template).render(values).encode("utf-8")
    if to.is_file() and to.read_bytes() == page:
        return to
    _replace(to, page)
    return to


def _replace(to: Path, content: bytes) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=to.parent, prefix=f".{to.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        # mkstemp makes a file for its owner alone; a page is as readable as its folder.
        Path(name).chmod(0o644)
        Path(name).replace(to)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def templates_folder() -> Path:
    """Where the templates are: inside an installed package, else beside it in the repository."""
    package = Path(__file__).parent.parent
    inside = package / "_templates"
    return inside if inside.is_dir() else package.parent / "templates"


@cache
def _environment() -> Environment:
    from jinja2 import BytecodeCache, Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def finish(value: Any) -> Any:
        # Every text that a template writes passes here; Markup was made of texts that did.
        if isinstance(value, str) and not isinstance(value, Markup):
            return text.clean(value)
        return value

    folder = templates_folder()

    class Compiled(BytecodeCache):
        """Keeps compiled templates as Python keeps modules: compiling costs most of a page."""

        def load_bytecode(self, bucket: Bucket) -> None:
            with contextlib.suppress(OSError):
                bucket.bytecode_from_string(self._file(bucket).read_bytes())

        def dump_bytecode(self, bucket: Bucket) -> None:
            # A folder that can't be written to only costs the time.
            if not sys.dont_write_bytecode:
                with contextlib.suppress(OSError):
                    _replace(self._file(bucket), bucket.bytecode_to_string())

        def _file(self, bucket: Bucket) -> Path:
            return folder / "__pycache__" / f"{bucket.key}.{sys.implementation.cache_tag}.jinja"

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finish,
        loader=FileSystemLoader(folder),
        bytecode_cache=Compiled(),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = _small((folder / "style.css").read_text(encoding="utf-8"))
    script = (folder / "script.js").read_text(encoding="utf-8").strip()
    environment.filters.update(n=charts.number, code=_code, sha256=_sha256)
    environment.globals.update(style=Markup(style), script=Markup(script))
    return environment


def _small(style: str) -> str:
    """A style sheet without comments, line breaks and indents."""
    style = re.sub(r"/\*.*?\*/", "", style, flags=re.DOTALL)
    return re.sub(r"\s*\n\s*", "", style)


def _sha256(content: str) -> str:
    """The hash of a style or script as a Content-Security-Policy names it."""
    digest = hashlib.sha256(content.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _code(sentence: str) -> Markup:
    """``sentence`` escaped, with what stands between backquotes as code."""
    from markupsafe import Markup, escape

    parts = text.clean(sentence).split("`")
    if len(parts) % 2 == 0:
        # An odd backquote closes nothing: it stays as it is.
        parts[-2:] = ["`".join(parts[-2:])]
    pieces = [
        Markup("<code>{}</code>").format(part) if i % 2 else escape(part)
        for i, part in enumerate(parts)
    ]
    return Markup("").join(pieces)
