"""Bundles: all that a released exercise needs besides what the learner sees, in one file.

`exercises/day23/day23.bundle` is a zip of the suite, `exercise.toml`, the statement, the data and,
under `stub/`, the pristine files a learner starts from. The same contents make the same bytes. To
be used, a bundle is unpacked once into the user's cache, so that no suite lies in the course.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import string
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from grader.errors import CourseError, EnvironmentFault

STUB = "stub"
"""The folder inside a bundle, and of an unpacked one, with the pristine files."""

_DIGEST = 64  # hex digits; the zip's comment, so that nothing is read twice to know them


def path_of(exercises: Path, id: str) -> Path:
    """Where an exercise's bundle lies under `exercises/`."""
    return exercises / id / f"{id}.bundle"


def paths(exercises: Path) -> Iterator[Path]:
    """All bundles under `exercises/`."""
    return (path for path in exercises.glob("*/*.bundle") if path.stem == path.parent.name)


def pack(files: Mapping[str, bytes]) -> bytes:
    """A bundle of some files, by their names inside it."""
    import zipfile

    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in sorted(files):
            # The format's first day: the time of packing must not show.
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Unix, wherever it is packed
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[name], compresslevel=9)
        archive.comment = _digest(files).encode("ascii")
    return content.getvalue()


def unpack(path: Path) -> dict[str, bytes]:
    """The files of a bundle, by their names inside it.

    Raises:
        CourseError: it cannot be read, or is not what was packed.
    """
    import zipfile
    import zlib

    try:
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
            packed = archive.comment.decode("ascii", "replace")
    except (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        raise _damaged(path) from None
    if packed != _digest(files) or not all(map(_stays_inside, files)):
        raise _damaged(path)
    return files


def folder(path: Path) -> Path:
    """The folder that a bundle is unpacked in; quick from the second time on.

    Raises:
        CourseError: the bundle is damaged.
        EnvironmentFault: there is nowhere to unpack it.
    """
    target = cache() / _stated_digest(path)
    if not (target / "exercise.toml").is_file():
        _write(target, unpack(path))
    return target


def cache() -> Path:
    """The user's own folder for unpacked bundles.

    Raises:
        EnvironmentFault: there is none that others can't write to.
    """
    parent = os.environ.get("XDG_CACHE_HOME") or ""
    user = str(os.getuid()) if hasattr(os, "getuid") else "user"
    homes = [Path(parent)] if Path(parent).is_absolute() else []
    with contextlib.suppress(RuntimeError):  # no home
        homes += [Path.home() / ".cache"]
    candidates = [home / "torch28" / "bundles" for home in homes]
    candidates += [Path(tempfile.gettempdir()) / f"torch28-bundles-{user}"]
    for place in candidates:
        with contextlib.suppress(OSError):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.access(place, os.W_OK) and _is_own(place):
                return place
    raise EnvironmentFault(
        f"the checks can't be unpacked: neither {candidates[0]} nor {candidates[-1]} can be written"
    )


def _is_own(place: Path) -> bool:
    # What lies there is run, so nobody else may have put it there.
    status = place.stat()
    return not hasattr(os, "getuid") or (
        status.st_uid == os.getuid() and not status.st_mode & 0o022
    )


def _write(target: Path, files: Mapping[str, bytes]) -> None:
    try:
        # Beside its place first: whoever sees the folder sees it whole.
        making = Path(tempfile.mkdtemp(prefix=".", dir=target.parent))
        try:
            for name, content in files.items():
                file = making / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
            with contextlib.suppress(FileNotFoundError):
                target.rename(making / ".old")  # what a cleaner of caches has left of it
            try:
                making.rename(target)
            except OSError:
                if not target.is_dir():  # another process was quicker
                    raise
        finally:
            shutil.rmtree(making, ignore_errors=True)
    except OSError as error:
        raise EnvironmentFault(
            f"{target}: the checks can't be unpacked there ({error.strerror or error})"
        ) from None


def _stated_digest(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            stream.seek(-_DIGEST, os.SEEK_END)
            digest = stream.read().decode("ascii", "replace")
    except OSError:
        raise _damaged(path) from None
    if not set(digest) <= set(string.hexdigits):
        raise _damaged(path)
    return digest


def _digest(files: Mapping[str, bytes]) -> str:
    import hashlib

    sha = hashlib.sha256()
    for name in sorted(files):
        sha.update(f"{name}\0{len(files[name])}\0".encode() + files[name])
    return sha.hexdigest()


def _stays_inside(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts and "\\" not in name


def _damaged(path: Path) -> CourseError:
    return CourseError(f"{path}: is damaged, or no bundle; take it from the release again")
