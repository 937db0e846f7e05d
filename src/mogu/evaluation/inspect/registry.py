"""What Inspect finds under `mogu/`: the model provider, the tasks, their scorers. The entry point of the group `inspect_ai`.

Light: the provider, and PyTorch with it, is imported when a model is asked for.
"""

from __future__ import annotations

from inspect_ai.model import ModelAPI, modelapi

from mogu.evaluation import scorers
from mogu.evaluation.tasks import lab, over_refusal, safety, usability

__all__ = ["lab", "mogu", "over_refusal", "safety", "scorers", "usability"]


@modelapi(name="mogu")
def mogu() -> type[ModelAPI]:
    """A MoGU model, or a base model behind any defense: `--model mogu/PATH`."""
    from mogu.evaluation.inspect.provider import MoguAPI

    return MoguAPI
