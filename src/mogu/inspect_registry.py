"""What Inspect finds under `mogu/`: the model provider, the tasks and their scorers, the lab's among them.

The entry point of the group `inspect_ai`. It stands above evaluation and lab, neither of which knows it. Light: the provider, and
PyTorch with it, is imported when a model is asked for.
"""

from __future__ import annotations

from inspect_ai.model import ModelAPI, modelapi

from mogu.evaluation import scorers
from mogu.evaluation.tasks import over_refusal, safety, usability
from mogu.lab.inspect_task import lab, lab_verdict

__all__ = ["lab", "lab_verdict", "mogu", "over_refusal", "safety", "scorers", "usability"]


@modelapi(name="mogu")
def mogu() -> type[ModelAPI]:
    """A MoGU model, or a base model behind any defense: `--model mogu/PATH`."""
    from mogu.evaluation.inspect.provider import MoguAPI

    return MoguAPI
