"""Register the lab with evaluation: its prompts, their judge, its models and its training records, each as ``lab``.

Importing :mod:`mogu.lab` does it. Knows what the lab offers; what is heavy is imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from mogu.data.records import Record
from mogu.evaluation.prompts import JUDGES
from mogu.evaluation.sources import MODEL_SOURCES, PROMPT_SOURCES, RECORD_SOURCES
from mogu.lab.grading import judge
from mogu.lab.splits import LAB, LAB_BORDERLINE_RECORDS, LAB_RECORDS, prompts

if TYPE_CHECKING:
    from mogu.evaluation.compare.config import Comparison
    from mogu.evaluation.compare.hardened import HardenedModel


def register() -> None:
    """Make the lab known to evaluation."""
    PROMPT_SOURCES.register(LAB, lambda: prompts("test"))
    JUDGES.register(LAB, judge)
    MODEL_SOURCES.register(LAB, _models)
    RECORD_SOURCES.register(LAB_RECORDS, _records)
    RECORD_SOURCES.register(LAB_BORDERLINE_RECORDS, partial(_records, borderline=300))


def _models(comparison: Comparison) -> Sequence[HardenedModel]:
    from mogu.lab.compared import LabModel

    return [LabModel(comparison, method) for method in ("v1", "v2", "gated")]


def _records(*, borderline: int = 0) -> dict[str, Sequence[Record]]:
    from mogu.lab.demo import lab_data

    return lab_data(borderline=borderline)
