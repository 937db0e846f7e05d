"""JSON files of ours: written whole or not at all, read back, and fingerprints of plain data. Knows nothing of what is in them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mogu.files.atomic import atomic_file


def fingerprint(*parts: Any) -> str:
    """SHA-256 of plain data: equal settings and equal data have equal fingerprints."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def read_json(file: Path) -> dict[str, Any] | None:
    """A JSON object of ours, or ``None`` where there is none."""
    if not file.is_file():
        return None
    record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return record


def write_json(file: Path, content: Any) -> None:
    """Write JSON in one step."""
    with atomic_file(file) as scratch:
        scratch.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
