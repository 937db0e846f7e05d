"""Turn our errors into Inspect's own kind, so that `inspect eval` ends with their message and no traceback.

Knows both families of errors; knows nothing of what went wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from inspect_ai._util.error import PrerequisiteError
from rich.markup import escape

from mogu.errors import MoguError


@contextmanager
def as_inspect_error() -> Iterator[None]:
    """Raise our errors from this block as instances of both their own class and Inspect's ``PrerequisiteError``.

    For code that Inspect calls before any sample runs. Inspect's command line prints a ``PrerequisiteError`` as it is and any other
    error with a long traceback; Python callers can still catch :class:`~mogu.errors.MoguError`.
    """
    try:
        yield
    except MoguError as error:
        if isinstance(error, PrerequisiteError):
            raise
        text = str(error)
        kind = type(type(error).__name__, (type(error), PrerequisiteError), {"__str__": lambda _: text})
        both = kind(error.found, expected=error.expected, action=error.action)
        both.message = escape(text)  # Inspect prints it as markup
        raise both from None
