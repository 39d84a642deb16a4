"""Where a course's server listens: one folder a user, one socket a course and interpreter.

The client imports this before anything else, so it imports next to nothing itself.
"""

from __future__ import annotations

import os
import sys
import zlib

import grader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket


LONGEST = 56
"""Bytes that the folder's name may have: a socket's whole path ends at 104 on some systems."""


class Unsafe(Exception):
    """The folder for sockets belongs to someone else, or others may write there."""


def folder() -> str:
    """The folder of sockets, made if it is missing; its mode is 0700 and it is ours.

    Raises:
        Unsafe: it is not.
    """
    parent = os.environ.get("XDG_RUNTIME_DIR")
    user = os.getuid()
    path = f"{parent}/torch28"
    if not parent or len(os.fsencode(path)) > LONGEST:
        path = f"/tmp/torch28-server-{user}"
    try:
        os.mkdir(path, 0o700)  # noqa: PTH102 (pathlib's import would cost every client)
    except FileExistsError:
        pass
    except OSError as error:
        raise Unsafe(f"{path}: {error.strerror}") from None
    found = os.lstat(path)
    if found.st_uid != user or found.st_mode & 0o170777 != 0o40700:
        raise Unsafe(f"{path} is not a folder of this user alone (mode 0700)")
    return path


def name(root: str) -> str:
    """What the files of a course's server are called, without the folder and the ending."""
    key = f"{sys.prefix}\0{sys.version}\0{grader.__version__}\0{root}"
    return f"{zlib.crc32(key.encode('utf-8', 'surrogateescape')):08x}{len(key):04x}"


def socket_of(root: str) -> str:
    """The socket a course's server listens on."""
    return f"{folder()}/{name(root)}.sock"


def spare_of(root: str) -> str:
    """The socket on which the keeper of spare workers listens."""
    return f"{folder()}/{name(root)}.spare"


def is_mine(connection: socket) -> bool:
    """Whether the other end is a process of the same user, as far as the system tells."""
    if sys.platform != "linux":
        return True  # the folder's mode has kept others out
    import _socket

    # pid, uid, gid: three C ints
    data = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    return int.from_bytes(data[4:8], sys.byteorder) == os.getuid()


def course_of(directory: str) -> str | None:
    """The nearest parent with a `course.toml`, as `course.find` finds it."""
    path = os.path.realpath(directory)
    while True:
        if os.path.isfile(f"{path}/course.toml"):  # noqa: PTH113
            return path
        parent = os.path.dirname(path)  # noqa: PTH120
        if parent == path:
            return None
        path = parent
