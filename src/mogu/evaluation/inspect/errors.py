"""Our errors as Inspect's own kind, so that `inspect eval` ends with their message and no traceback.

Knows both families of errors; knows nothing of what went wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from inspect_ai._util.error import PrerequisiteError
from rich.markup import escape

from mogu.errors import MoguError


@contextmanager
def explained() -> Iterator[None]:
    """Around what Inspect calls before any sample runs: an error of ours comes out as its own class and as Inspect's at once.

    Inspect's command line prints a ``PrerequisiteError`` as it is and any other with pages of traceback; Python callers go on
    catching :class:`~mogu.errors.MoguError`.
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
