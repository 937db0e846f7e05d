"""Measuring defenses: Inspect AI's provider, tasks, scorers and data sets; statistics, comparisons and their reports.

Importing this package imports neither Inspect nor PyTorch.
"""

from mogu.refusals import RefusalVerdict, classify_refusal

__all__ = ["RefusalVerdict", "classify_refusal"]
