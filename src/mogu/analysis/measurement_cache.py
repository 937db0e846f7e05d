"""What was measured of each thing, kept in a file that only grows, so that a run goes on after a kill.

Knows one file; knows nothing of what is measured, nor how. A line that a kill cut off is dropped.
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

MEASURED_FILE = "measured.jsonl"


Measurable = tuple[Any, ...]
"""What names a thing that is measured, such as a :class:`~mogu.analysis.tendency.Question`: plain data, as JSON can hold it."""


class Measured:
    """The file of a folder; it appears with the first line that is added.

    Args:
        folder: where it lies.
        made_with: fingerprint of the model and its settings; what was measured with others is left alone and of no account.

    Raises:
        MoguError: the file cannot be read.
    """

    def __init__(self, folder: Path, made_with: str) -> None:
        self.file, self.made_with = folder / MEASURED_FILE, made_with
        self._found: dict[str, tuple[float, ...]] = {}
        self._whole = 0  # bytes of whole lines
        if self.file.exists():
            self._read()

    def find(self, thing: Measurable) -> tuple[float, ...] | None:
        """What was measured of a thing; ``None`` if nothing was."""
        return self._found.get(self._key(thing))

    def add(self, found: Sequence[tuple[Measurable, tuple[float, ...]]]) -> None:
        """Keep what was measured of some things.

        Raises:
            MoguError: the file cannot be written; what was kept before is still there.
        """
        new = {self._key(thing): values for thing, values in found}
        text = "".join(json.dumps({"key": key, "values": values}) + "\n" for key, values in new.items()).encode()
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("ab") as file:
                file.truncate(self._whole)
                file.write(text)
        except OSError as error:
            raise self._fault("written", error) from error
        self._whole += len(text)
        self._found |= new

    def _read(self) -> None:
        try:
            content = self.file.read_bytes()
        except OSError as error:
            raise self._fault("read", error) from error
        self._whole = content.rfind(b"\n") + 1
        for line in content[: self._whole].splitlines():
            try:
                kept = json.loads(line)
                self._found[str(kept["key"])] = tuple(float(value) for value in kept["values"])
            except (ValueError, KeyError, TypeError):
                continue  # measured anew

    def _key(self, thing: Measurable) -> str:
        return hashlib.sha256(json.dumps([self.made_with, *thing]).encode()).hexdigest()

    def _fault(self, what: str, error: OSError) -> MoguError:
        return MoguError(
            f"{self.file} could not be {what}: {error.strerror or error}",
            expected="a place with enough space that you may write to",
            action="free space, or choose another output path; the same command then goes on from there",
        )


def fingerprint_of(model: Any) -> str:
    """SHA-256 of what a model would measure with: its weights and, if routed, its settings."""
    digest = hashlib.sha256(type(model).__name__.encode())
    if isinstance(model, MoguModel):
        config = model.mogu_config
        settings = [model.routing_mode, *((config.dial, config.routed_tokens, config.handoff) if model.routing_mode == "on" else ())]
        digest.update(json.dumps(settings).encode())
    digest_weights(digest, model)
    return digest.hexdigest()
