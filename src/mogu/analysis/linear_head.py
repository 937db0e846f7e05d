"""A linear head: the probability that a prompt is malicious, from numbers that describe it, and the file with its weights.

Knows vectors and JSON; knows nothing of where the numbers come from, or of how the weights are fitted.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mogu.errors import DataError, ModelFileError
from mogu.files.atomic import atomic_file
from mogu.files.text_files import parse_json, read_whole

FORMAT = 1
_MOST_BYTES = 2**26


@dataclass(frozen=True)
class LinearHead:
    """``p = σ(w·x + c)`` of a prompt's features ``x [d]``.

    Args:
        weights: ``w [d]``.
        bias: ``c``.
    """

    weights: tuple[float, ...]
    bias: float

    def probabilities(self, features: Tensor) -> list[float]:
        """Score how malicious each prompt is, in [0, 1], from ``features [prompts, d]``."""
        logits = features.double() @ torch.tensor(self.weights, dtype=torch.float64) + self.bias
        return [float(score) for score in logits.sigmoid()]

    def save(self, file: Path, **about: Any) -> None:
        """Write the head as JSON, whole or not at all.

        Args:
            file: the target file.
            about: anything else that belongs to it, such as its accuracy.
        """
        with atomic_file(file) as scratch:
            scratch.write_text(json.dumps({"format": FORMAT, **about, **asdict(self)}, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> tuple[LinearHead, dict[str, Any]]:
        """Read a head that :meth:`save` wrote; return it with all that its file says.

        Raises:
            ModelFileError: the file holds none.
        """
        try:
            content = parse_json(read_whole(file, _MOST_BYTES))
            known = content["format"] == FORMAT
            head = cls(tuple(float(weight) for weight in content["weights"]), float(content["bias"]))
        except (DataError, ValueError, KeyError, TypeError) as error:
            raise broken(file, f"cannot be read: {type(error).__name__}: {error}") from error
        if not known or not all(map(math.isfinite, (*head.weights, head.bias))):
            raise broken(file, "has a format or a number that cannot be used")
        return head, content


def broken(file: Path, defect: str) -> ModelFileError:
    """Make the error for a file of a detector that cannot be used."""
    return ModelFileError(
        f"The detector {file} {defect}", expected=f"a detector in format {FORMAT}, as training writes it", action="train it again"
    )
