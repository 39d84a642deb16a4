"""Whether the submission raises what the statement asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grader.testing import _words
from grader.testing._failure import CheckFailed, fail


def assert_raises(
    exception: type[Exception] | tuple[type[Exception], ...],
    fn: Callable[..., Any],
    *args: Any,
    text: str | tuple[str, ...] = "",
    **kwargs: Any,
) -> Exception:
    """Call `fn` and hold it to raising the exception, with a message that contains `text`.

    Args:
        exception: the class, or a tuple of alternatives.
        fn: called with the other arguments.
        text: what the message must contain, or a tuple of alternatives; case is ignored.

    Returns:
        The exception.
    """
    __tracebackhide__ = True
    wanted = exception if isinstance(exception, tuple) else (exception,)
    name = _words.listed((_words.article(kind.__name__) for kind in wanted), "or")
    try:
        result = fn(*args, **kwargs)
    except CheckFailed:
        raise
    except wanted as error:
        # What an open task raises is a RuntimeError too.
        if isinstance(error, NotImplementedError) and NotImplementedError not in wanted:
            raise
        raised = error
    except NotImplementedError:
        raise
    except Exception as error:
        fail(
            f"{_words.article(type(error).__name__)} was raised ({_said(error)}); expected {name}",
            id="raises.other",
            expected=name,
            got=type(error).__name__,
        )
    else:
        fail(
            f"nothing was raised, and {_words.kind(result)} came back; expected {name}",
            id="raises.nothing",
            expected=name,
        )
    texts = (text,) if isinstance(text, str) else text
    message = _said(raised, whole=True)
    if not any(part.lower() in message.lower() for part in texts):
        asked = _words.listed((repr(part) for part in texts), "or")
        fail(
            f"the message of the {type(raised).__name__} is {_said(raised)!r}; "
            f"it must contain {asked}",
            id="raises.text",
            expected=list(texts),
            got=message[:500],
        )
    return raised


def _said(error: BaseException, *, whole: bool = False) -> str:
    try:
        # `str` of a KeyError is the repr of its key.
        message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    except Exception:  # a `__str__` of the learner's own
        message = ""
    return message if whole or len(message) <= 120 else message[:119] + "…"
