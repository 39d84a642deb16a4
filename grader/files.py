"""Files that may hold someone's work: read without loss, replaced as a whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from grader.errors import EnvironmentFault


def read(path: Path) -> str:
    """The text of a file, byte for byte: newlines as they are, bytes outside UTF-8 as surrogates.

    Raises:
        EnvironmentFault: the file can't be read.
    """
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise EnvironmentFault(f"{path}: can't be read ({error.strerror or error})") from error


def replace(path: Path, text: str) -> None:
    """Put `text` in the place of a file, so that at every moment the old or the new is there.

    A link stays a link: the file it leads to is replaced. Permissions are kept.

    Raises:
        EnvironmentFault: the file can't be written; the old one is untouched.
    """
    content = _encoded(text)
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask()
            Path(name).chmod(mode)
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        message = f"{path}: can't be written ({error.strerror or error}); nothing was changed"
        raise EnvironmentFault(message) from error


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # surrogates that stand for no byte
        return text.encode("utf-8", "surrogatepass")


def _umask() -> int:
    # The only way to read it is to set it.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
