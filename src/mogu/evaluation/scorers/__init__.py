"""Scorers for Inspect: refusals by their text, harm and usefulness by a judge model, safety by a guard model.

Knows Inspect; PyTorch is imported only by the provider of a local judge or guard.
"""

from mogu.evaluation.scorers.guard import guard
from mogu.evaluation.scorers.harmfulness import harmfulness
from mogu.evaluation.scorers.refusal import refusal, refusal_strings
from mogu.evaluation.scorers.usability import usability, usability_by_turn

__all__ = ["guard", "harmfulness", "refusal", "refusal_strings", "usability", "usability_by_turn"]
