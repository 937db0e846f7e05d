"""Measurements in a file that only grows, so that a run resumes after it was killed.

Knows one file; knows nothing of what is measured, or how. A line that was cut off when a run was killed, or that a disk
has changed, is dropped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mogu.analysis.weight_digest import digest_weights
from mogu.errors import MoguError
from mogu.modeling.model import MoguModel

MEASUREMENTS_FILE = "measured.jsonl"


Measurable = tuple[Any, ...]
"""Identifies a thing that is measured, such as a :class:`~mogu.analysis.tendency.PromptWithOpenings`: plain data that JSON can hold."""


class MeasurementCache:
    """The measurements in a folder's file, which appears with the first line that is added.

    Args:
        folder: the folder of the file.
        fingerprint: of the model and its settings; measurements with other fingerprints stay in the file but do not count.

    Raises:
        MoguError: the file cannot be read.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.file, self.fingerprint = folder / MEASUREMENTS_FILE, fingerprint
        self._values_of: dict[str, tuple[float, ...]] = {}
        self._complete_bytes = 0  # length of the file up to the end of its last complete line
        if self.file.exists():
            self._read()

    def find(self, thing: Measurable) -> tuple[float, ...] | None:
        """Return the measurements of a thing; ``None`` if there are none."""
        return self._values_of.get(self._key(thing))

    def add(self, measurements: Sequence[tuple[Measurable, tuple[float, ...]]]) -> None:
        """Append the measurements of several things.

        Raises:
            MoguError: the file cannot be written; earlier measurements are still there.
        """
        new = {self._key(thing): values for thing, values in measurements}
        lines = ({"key": key, "values": values, "check": _check(key, values)} for key, values in new.items())
        text = "".join(json.dumps(line) + "\n" for line in lines).encode()
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("ab") as file:
                file.truncate(self._complete_bytes)
                file.write(text)
        except OSError as error:
            raise self._error("written", error) from error
        self._complete_bytes += len(text)
        self._values_of |= new

    def _read(self) -> None:
        try:
            content = self.file.read_bytes()
        except OSError as error:
            raise self._error("read", error) from error
        self._complete_bytes = content.rfind(b"\n") + 1
        for line in content[: self._complete_bytes].splitlines():
            try:
                entry = json.loads(line)
                key, values = str(entry["key"]), tuple(float(value) for value in entry["values"])
                if entry["check"] == _check(key, values):
                    self._values_of[key] = values
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                continue  # damaged: it is measured again

    def _key(self, thing: Measurable) -> str:
        return hashlib.sha256(json.dumps([self.fingerprint, *thing]).encode()).hexdigest()

    def _error(self, action: str, error: OSError) -> MoguError:
        return MoguError(
            f"{self.file} could not be {action}: {error.strerror or error}",
            expected="a folder with enough space that you may write to",
            action="free space, or choose another output path; the same command then resumes from there",
        )


def _check(key: str, values: Sequence[float]) -> str:
    """Tells a line that a disk has changed from the one that was written."""
    return hashlib.sha256(json.dumps([key, [float(value) for value in values]]).encode()).hexdigest()[:16]


def model_fingerprint(model: Any) -> str:
    """Return a SHA-256 of everything in a model that decides its measurements: its weights and, if it is routed, its settings."""
    digest = hashlib.sha256(type(model).__name__.encode())
    if isinstance(model, MoguModel):
        config = model.mogu_config
        settings = [model.routing_mode, *((config.dial, config.routed_tokens, config.handoff) if model.routing_mode == "on" else ())]
        digest.update(json.dumps(settings).encode())
    digest_weights(digest, model)
    return digest.hexdigest()
