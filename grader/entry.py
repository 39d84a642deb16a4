"""The command's front door: asks the server if there is one, else becomes the whole command."""

import os
import sys


def main() -> int:
    """Run `grade` with the words of this process; its exit code."""
    argv = sys.argv[1:]
    from grader.server import client

    may_ask = client.can_ask(argv)
    if may_ask:
        code = client.ask(argv)
        if code is not None:
            # All is written already, and an interpreter takes 5 ms to end in good order.
            os._exit(code)
    from grader import cli

    code = cli.main(argv)
    if may_ask and code in (0, 1) and client.is_grading(argv):
        _start(argv)
    return code


def _start(argv: list[str]) -> None:
    """Leave a server running, so that the next answer comes at once."""
    from grader.server import place, start

    root = place.course_of(".")
    if root is not None and start.in_background(root) and "--json" not in argv:
        text = "grade: the next answers come at once, from a server (grade server stop ends it)"
        print(text, file=sys.stderr)  # noqa: T201
