"""Where prompts, hardened models and training records come from that no file and no hub holds.

Whoever has something to offer registers it here; the lab does so when :mod:`mogu.lab` is imported, and
:mod:`mogu.evaluation.prompt_sources` registers the starter set. Imports neither Inspect nor PyTorch, so that registering stays cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from mogu.evaluation.registry import Registry

if TYPE_CHECKING:
    from mogu.data import Record
    from mogu.evaluation.compare.config import Comparison
    from mogu.evaluation.compare.hardened import HardenedModel
    from mogu.evaluation.prompts import EvalPrompt

PROMPT_SOURCES: Registry[Callable[[], list[EvalPrompt]]] = Registry("source of prompts")
"""Prompts to evaluate with, where a word stands in place of a data set or a file."""

MODEL_SOURCES: Registry[Callable[[Comparison], Sequence[HardenedModel]]] = Registry("source of models")
"""Hardened models for a comparison, where a word stands in place of a saved model."""

RECORD_SOURCES: Registry[Callable[[], Mapping[str, Sequence[Record]]]] = Registry("source of training records")
"""Training records by split, where a word stands in a recipe in place of a file."""
