"""What a person can put right: each error is one clear line and an exit code."""


class GraderError(Exception):
    """Something a person can put right; the message says what happened, where and what to do."""

    exit_code = 2


class UsageError(GraderError):
    """The command was called with a word or an option it does not know."""


class CourseError(GraderError):
    """The course is in disorder: a suite, a reference or a `.toml` file is at fault."""

    exit_code = 3


class EnvironmentFault(GraderError):
    """The machine lacks what was asked for: torch, a device, room on the disk."""

    exit_code = 4
