"""The one family of errors that MoGU raises on bad input.

Every message says what was found, what was expected and what to do; the command line prints it without a traceback and exits with code 2.
"""

from __future__ import annotations

from functools import partial
from typing import Any


class MoguError(Exception):
    """Bad input, described for the person who can mend it.

    Args:
        found: what was found, as a sentence without its full stop.
        expected: what would have been right.
        action: what the reader can do about it.
    """

    def __init__(self, found: str, *, expected: str, action: str) -> None:
        self.found = found
        self.expected = expected
        self.action = action
        super().__init__(f"{found}. Expected: {expected}. What to do: {action}.")

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are pickled with what they were made of by position alone: one process has to tell others of its errors.
        return partial(type(self), **vars(self)), ()


class DataError(MoguError):
    """A data file or record that cannot be used."""


class RecordError(DataError):
    """One of many records that cannot be used.

    Args:
        found: as for every :class:`MoguError`, as are ``expected`` and ``action``.
        record_id: which one.
    """

    def __init__(self, found: str, *, expected: str, action: str, record_id: str) -> None:
        super().__init__(found, expected=expected, action=action)
        self.record_id = record_id


class ModelFileError(MoguError):
    """A saved model, adapter or router that is missing, broken, hostile or does not fit."""


class ArchitectureError(MoguError):
    """A base model in which the modules to route cannot be found."""


class ConfigError(MoguError):
    """A recipe or an option with a value that cannot be used."""


class ChatTemplateError(MoguError):
    """A tokenizer that cannot turn a conversation into a prompt."""


class TrainingError(MoguError):
    """A training run that cannot go on, such as one whose loss is no longer a number."""


class LockedError(MoguError):
    """A request that a locked server does not answer.

    Args:
        found: as for every :class:`MoguError`, as are ``expected`` and ``action``.
        parameter: what of the request is not accepted, where it is one field.
    """

    def __init__(self, found: str, *, expected: str, action: str, parameter: str | None = None) -> None:
        super().__init__(found, expected=expected, action=action)
        self.parameter = parameter
