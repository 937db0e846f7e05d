"""Inspect tasks: `mogu/safety`, `mogu/over_refusal` and `mogu/usability`."""

from mogu.evaluation.tasks.over_refusal import over_refusal
from mogu.evaluation.tasks.safety import safety
from mogu.evaluation.tasks.usability import usability

__all__ = ["over_refusal", "safety", "usability"]
