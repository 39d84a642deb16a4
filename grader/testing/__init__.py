"""What a suite may say about a submission; sorted by what each function looks at.

Every function raises `CheckFailed`, an `AssertionError` with a sentence for the learner, when
the submission is wrong, and anything else only when the suite is.
"""

from grader.testing._failure import CheckFailed, expect, fail, smallest
from grader.testing._record import measured, picture

__all__ = [
    "CheckFailed",
    "expect",
    "fail",
    "measured",
    "picture",
    "smallest",
]
