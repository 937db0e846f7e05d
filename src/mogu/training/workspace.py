"""The working folder of a training run: what is finished, and with which settings.

Knows files; knows nothing of models. Every file here appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from mogu.atomic import atomic_file, check_replaceable
from mogu.errors import ConfigError

MARKER = "mogu_training.json"
DONE = "done.json"


def fingerprint(*parts: Any) -> str:
    """SHA-256 of plain data: equal settings and equal data have equal fingerprints."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


class Workspace:
    """The working folder.

    Args:
        folder: made if it is missing.
        restart: throw away what an earlier run left there.

    Raises:
        MoguError: the folder exists and is not ours.
    """

    def __init__(self, folder: Path, *, restart: bool) -> None:
        check_replaceable(folder, marker=MARKER)
        self.folder = folder
        if restart:
            shutil.rmtree(folder, ignore_errors=True)
        write_json(folder / MARKER, {"what": "working folder of `mogu train`; may be deleted when the model is saved"})

    def finished(self, part: str, wanted: str) -> dict[str, Any] | None:
        """What a finished part recorded, or ``None`` where it is not finished.

        Args:
            part: a stage or candidate: a folder below the working folder.
            wanted: fingerprint of its settings and data now.

        Raises:
            ConfigError: it was finished with other settings or data.
        """
        file = self.folder / part / DONE
        if not file.is_file():
            return None
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if record.get("fingerprint") != wanted:
            raise ConfigError(
                f"{self.folder / part} was trained with other settings or other data",
                expected="the settings and data it was trained with",
                action="choose another run.work, or pass --restart to train it anew",
            )
        return record

    def finish(self, part: str, made_with: str, **record: Any) -> dict[str, Any]:
        """Record that a part is finished; returns the record."""
        whole = {"fingerprint": made_with, **record}
        write_json(self.folder / part / DONE, whole)
        return whole


def write_json(file: Path, content: Any) -> None:
    """Write JSON in one step."""
    with atomic_file(file) as scratch:
        scratch.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
