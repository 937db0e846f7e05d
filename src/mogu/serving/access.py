"""What the callers of a server may do: whether it is locked, which settings they may change, what they see of a score.

Knows environment variables and numbers; knows nothing of what a locked server refuses, of HTTP or of vLLM.
"""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

from mogu.errors import ConfigError, LockedError
from mogu.modeling.config import MoguConfig

LOCKED = "MOGU_LOCKED"
"""The environment variable that says whether a server is locked; `mogu serve` sets it."""
SETTINGS = "MOGU_ALLOW_SETTINGS"
SETTINGS_KEYS = "MOGU_SETTINGS_KEYS"
ALSO_SERVED = "MOGU_ALSO_SERVED"
SCORES = "MOGU_SCORES"

BASE = "base"
"""In the list of what is served beside MoGU models: the base model."""

Shown = Literal["none", "coarse", "exact"]

ADMITTED: ContextVar[bool] = ContextVar("mogu_admitted", default=False)
"""Whether the current request arrived at an endpoint where a locked server has checked it."""

HOLDS_KEY: ContextVar[bool] = ContextVar("mogu_holds_key", default=False)
"""Whether the current request came with one of the API keys whose holders may change settings."""

_TRUE = ("1", "true", "yes", "on", "y", "t")
_FALSE = ("0", "false", "no", "off", "n", "f", "")
_RANGE = re.compile(r"dial:(?P<low>[-+.\deE]+)\.\.(?P<high>[-+.\deE]+)")


@dataclass(frozen=True)
class Access:
    """What callers may do.

    Args:
        locked: whether only MoGU models answer, and only conversations whose replies are left to them.
        dial: on a locked server, the dials that a request may choose, from the lowest to the highest; ``None`` where it may not.
        settings: on a locked server, the other settings that a request may choose.
        also: names of the plain adapters that a locked server answers with as well; :data:`BASE` is the base model.
        scores: what callers see of a prompt's score.
        keys: a file of API keys, one a line, whose holders alone may change settings; ``None`` where all callers may.
    """

    locked: bool = False
    dial: tuple[float, float] | None = None
    settings: frozenset[str] = frozenset()
    also: frozenset[str] = frozenset()
    scores: Shown = "exact"
    keys: Path | None = None

    def allows(self, name: str, value: object, config: MoguConfig) -> bool:
        """Whether a request may choose a setting: what makes it stricter always, all else where the operator has said so.

        Args:
            name: of the setting.
            value: what the request asks for.
            config: of the saved model.
        """
        if not self.locked or value == getattr(config, name) or _is_stricter(name, value, config):
            return True
        if self.keys is not None and not HOLDS_KEY.get():
            return False
        if name == "dial":
            return self.dial is not None and self.dial[0] <= cast(float, value) <= self.dial[1]
        return name in self.settings

    def check_settings(self, given: Mapping[str, Any], config: MoguConfig) -> None:
        """Refuse settings that a request may not choose.

        Raises:
            LockedError: the server is locked, and the operator has not opened one of them.
        """
        for name, value in given.items():
            if not self.allows(name, value, config):
                saved = getattr(config, name)
                opened = f", or within {self.dial[0]:g} to {self.dial[1]:g}" if name == "dial" and self.dial is not None else ""
                raise LockedError(
                    f"This server is locked, and the request sets mogu.{name} to {value!r:.80}",
                    expected=f"what makes the model no less strict than it was saved ({saved!r}){opened}",
                    action=f"leave it out; the operator can allow it with --allow-request-settings {name}",
                    parameter=f"mogu.{name}",
                )


def _is_stricter(name: str, value: object, config: MoguConfig) -> bool:
    if name == "dial":
        return cast(float, value) >= config.dial
    if name == "routed_tokens":
        return value in ("all", None) or (config.routed_tokens != "all" and int(cast(int, value)) >= config.routed_tokens)
    return False


def access() -> Access:
    """What the environment of this process says.

    Raises:
        ConfigError: one of the variables has a value that cannot be used. The caller must not reply to requests then.
    """
    variables = (LOCKED, SETTINGS, SETTINGS_KEYS, ALSO_SERVED, SCORES)
    return _access(*(os.environ.get(name, "").strip() for name in variables))


@lru_cache(maxsize=8)
def _access(locked: str, settings: str, keys: str, also: str, scores: str) -> Access:
    dial, others = parse_settings(settings)
    is_locked = _truth(locked)
    shown = scores or ("none" if is_locked else "exact")
    if shown not in get_args(Shown):
        raise ConfigError(f"{SCORES} is {scores!r:.80}", expected=" or ".join(get_args(Shown)), action="correct it, or unset it")
    return Access(
        locked=is_locked,
        dial=dial,
        settings=others,
        also=frozenset(filter(None, also.split(","))),
        scores=cast(Shown, shown),
        keys=Path(keys) if keys else None,
    )


def _truth(value: str) -> bool:
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise ConfigError(
        f"The environment variable {LOCKED} is {value!r:.80}",
        expected="1, true, yes or on for a locked server; 0, false, no, off or nothing for an open one",
        action="correct it, or unset it and start with `mogu serve`, which locks the server",
    )


def parse_settings(text: str) -> tuple[tuple[float, float] | None, frozenset[str]]:
    """Read which settings requests may choose: ``"dial:0..2,routed_tokens,handoff"``.

    Returns:
        The range of the dial, ``None`` where it is not among them, and the other settings.

    Raises:
        ConfigError: it says something else.
    """
    dial: tuple[float, float] | None = None
    others = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        if part in ("routed_tokens", "handoff"):
            others.add(part)
        elif part == "dial":
            dial = (float("-inf"), float("inf"))
        else:
            dial = _range(part)
    return dial, frozenset(others)


def _range(part: str) -> tuple[float, float]:
    found = _RANGE.fullmatch(part)
    try:
        low, high = (float(found["low"]), float(found["high"])) if found else (1.0, 0.0)
    except ValueError:
        low, high = 1.0, 0.0
    if not low <= high:
        raise ConfigError(
            f"The settings that requests may choose name {part!r:.80}",
            expected="dial, a range of it such as dial:0..2, routed_tokens or handoff, separated by commas",
            action="correct --allow-request-settings",
        )
    return low, high


def holds_key(authorization: str) -> bool:
    """Whether a request's ``Authorization`` header has one of the API keys whose holders may change settings.

    Raises:
        ConfigError: the file of keys cannot be read.
    """
    file = access().keys
    if file is None:
        return True
    given = authorization.removeprefix("Bearer ").strip().encode()
    right = [hmac.compare_digest(given, key) for key in read_keys(file)]  # all of them, so that the time tells nothing of a key
    return any(right)


def read_keys(file: Path) -> list[bytes]:
    """The API keys of a file, one a line.

    Raises:
        ConfigError: there is none, or the file cannot be read.
    """
    try:
        keys = [line.strip() for line in file.read_bytes().splitlines() if line.strip()]
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror})", expected="a file of API keys", action="name another one") from error
    if not keys:
        raise ConfigError(f"{file} has no key", expected="API keys, one a line", action="put them in, or leave --settings-keys out")
    return keys
