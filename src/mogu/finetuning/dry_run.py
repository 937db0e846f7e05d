"""What a fine-tuning run will do, before it starts: examples, pairs, steps, trained parameters; no weight is loaded.

Knows shapes and counts, on PyTorch's meta device; trains nothing and writes nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from mogu.finetuning.inputs import check_tuning_folders, read_tuning_inputs
from mogu.finetuning.recipe import FinetuneRecipe
from mogu.finetuning.rehardening import resolved
from mogu.finetuning.strategies import strategies_of
from mogu.finetuning.tuner import with_lora
from mogu.progress import quiet_transformers
from mogu.training.dry_run import model_on_meta
from mogu.training.merged_base import before_merging
from mogu.training.trackers import check_trackers
from mogu.training.trainer import steps_of


@dataclass(frozen=True)
class StrategyPlan:
    """What one strategy will do.

    Args:
        name: as the report names it.
        examples: examples of the user's conversations.
        pairs: MoGU pairs mixed in.
        steps: optimizer steps; none where the plainly tuned model is repaired.
    """

    name: str
    examples: int
    pairs: int
    steps: int


@dataclass(frozen=True)
class TuningPlan:
    """What a run will do.

    Args:
        base_model: name of the base model.
        base_parameters: its parameters.
        trained_parameters: the parameters that are trained.
        conversations: conversations to learn from.
        held_out: held-out conversations.
        dropped: conversations left out because of their length.
        learned_tokens: tokens of the assistant's turns per epoch.
        longest: tokens of the longest example.
        strategies: what is tried.
    """

    base_model: str
    base_parameters: int
    trained_parameters: int
    conversations: int
    held_out: int
    dropped: int
    learned_tokens: int
    longest: int
    strategies: tuple[StrategyPlan, ...]

    def as_json(self) -> dict[str, Any]:
        """All numbers."""
        return asdict(self)


def plan_tuning(recipe: FinetuneRecipe) -> TuningPlan:
    """Check a recipe, its data and its model, and count what tuning will do.

    Raises:
        MoguError: whatever :func:`~mogu.finetuning.finetune` would raise for the same recipe before its first step.
    """
    check_tuning_folders(recipe)
    check_trackers(recipe.run.report_to)
    recipe, _ = resolved(before_merging(recipe))
    inputs = read_tuning_inputs(recipe)
    with quiet_transformers():
        base = model_on_meta(recipe.model, [])
        inputs.check_embedded(base)
        parameters = trained = sum(parameter.numel() for parameter in base.parameters())
        if recipe.tune.method == "lora":
            with torch.device("meta"):
                adapted = with_lora(base, recipe.tune, recipe.run.seed)
            trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    own = len(inputs.encoded["train"])
    counts = [(strategy, len(inputs.examples(strategy.share, recipe))) for strategy in strategies_of(recipe.safety)]
    return TuningPlan(
        base_model=recipe.model.base,
        base_parameters=parameters,
        trained_parameters=trained,
        conversations=len(inputs.chats["train"]),
        held_out=len(inputs.chats["dev"]),
        dropped=len(inputs.dropped),
        learned_tokens=sum(len(example.learned) for example in inputs.encoded["train"]),
        longest=max(len(example) for examples in inputs.encoded.values() for example in examples),
        strategies=tuple(
            StrategyPlan(str(strategy), own, count - own, 0 if strategy.repair is not None else steps_of(recipe.tune, count))
            for strategy, count in counts
        ),
    )
