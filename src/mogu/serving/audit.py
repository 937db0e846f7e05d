"""The audit log of a server: one JSON line for each answer of a MoGU model, with what was decided and by which weights.

Knows files and saved models; knows nothing of HTTP or engines.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from mogu.errors import ConfigError
from mogu.modeling.checkpoint import CONFIG_FILE
from mogu.modeling.config import Decision
from mogu.serving.packed_adapter import served_config
from mogu.serving.request_settings import FIELD

AUDIT = "MOGU_AUDIT"
"""The environment variable that names the file."""
AUDIT_TEXT = "MOGU_AUDIT_TEXT"
"""The environment variable that asks for the texts of prompts as well."""

Answering = Decision | Literal["routed"]


def audit_line(
    *,
    request: str,
    model: str,
    folder: Path,
    score: float,
    listened: float | None = None,
    taken_back: bool = False,
    overrides: object = None,
    text: str | None = None,
    now: datetime | None = None,
) -> dict[str, Any]:
    """What the log says of a request.

    Args:
        request: its identifier.
        model: the name that it asked for.
        folder: of the saved model behind that name.
        score: how malicious the model found the prompt, from 0 to 1; not a number where nobody could tell.
        listened: the highest that a stream head said of the answer, from 0 to 1; ``None`` where nobody listened.
        taken_back: whether the answer was.
        overrides: the settings that the request gave.
        text: the prompt, where the log is to have it.
        now: the time; by default what the clock says.

    Returns:
        ``decision`` is ``refuse``, ``careful`` or ``base`` for a gated model, whose ``threshold`` the score was held against, and a lower
        one, ``careful``, where it has one; the score includes the dial. A routed model mixes both responders: ``routed``. ``config`` and
        ``weights`` are SHA-256 digests.
    """
    gate = served_config(folder).gate
    line: dict[str, Any] = {
        "time": (now or datetime.now(UTC)).isoformat(timespec="milliseconds"),
        "request": request,
        "model": model,
        "score": score if score == score else None,  # not a number has no JSON
        "threshold": None if gate is None else gate.refuse,
        "decision": decision_of(folder, score),
        **_digests(folder, (folder / CONFIG_FILE).stat().st_mtime_ns),
    }
    if gate is not None and gate.careful is not None:
        line["careful"] = gate.careful
    if listened is not None:
        line |= {"listened": listened, "taken_back": taken_back}
    if overrides is not None:
        line[FIELD] = json.loads(overrides) if isinstance(overrides, str) else overrides
    return line if text is None else line | {"text": text}


def decision_of(folder: Path, score: float) -> Answering:
    """Who answers a request: see :func:`audit_line`."""
    gate = served_config(folder).gate
    return "routed" if gate is None else gate.decision(score)


@lru_cache(maxsize=64)
def _digests(folder: Path, modified: int) -> dict[str, str]:
    weights = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        weights.update(file.relative_to(folder).as_posix().encode() + b"\0")
        with file.open("rb") as content:
            weights.update(hashlib.file_digest(content, "sha256").digest())
    config = hashlib.sha256((folder / CONFIG_FILE).read_bytes()).hexdigest()
    return {"config": config, "weights": weights.hexdigest()}


def write_line(line: Mapping[str, Any]) -> None:
    """Append a line to the file that the environment names; nothing where it names none."""
    name = os.environ.get(AUDIT)
    if name:
        # In one call to a file that is open for appending, lines of several processes do not mix.
        with Path(name).open("ab", buffering=0) as file:
            file.write(json.dumps(line).encode() + b"\n")


def check_file(file: Path) -> None:
    """Refuse a file that cannot be appended to, before a server starts.

    Raises:
        ConfigError: it cannot.
    """
    try:
        with file.open("ab"):
            pass
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be written ({error.strerror})", expected="a file for the audit log", action="name another one"
        ) from error


def wants_text() -> bool:
    """Whether the log is to have the texts of prompts."""
    return os.environ.get(AUDIT_TEXT) == "1"


def is_on() -> bool:
    """Whether there is a log."""
    return bool(os.environ.get(AUDIT))
