"""What a fine-tuning run will do, before it starts: examples, pairs, steps, trained parameters; no weight is loaded.

Knows shapes and counts, on PyTorch's meta device; trains nothing and writes nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from mogu import processes
from mogu.finetuning.inputs import TuningInputs, check_tuning_folders, read_tuning_inputs
from mogu.finetuning.recipe import FinetuneRecipe, check_tunable
from mogu.finetuning.rehardening import resolved
from mogu.finetuning.sharded import check_sharded
from mogu.finetuning.strategies import strategies_of
from mogu.finetuning.tuner import with_lora
from mogu.inference.padding import embedding_rows, padding_problem
from mogu.modeling.sharding import bytes_per_process, check_quantization
from mogu.progress import quiet_transformers
from mogu.training.dry_run import BYTES_PER_TRAINED_PARAMETER, model_on_meta
from mogu.training.memory import largest_pass, pass_bytes
from mogu.training.merged_base import before_merging
from mogu.training.quantized_shape import QuantizedShape
from mogu.training.sampler import StepBatches
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
        memory_bytes: the most that weights, trained parameters and activations take together.
        strategies: what is tried.
        notes: what was found and worked around.
    """

    base_model: str
    base_parameters: int
    trained_parameters: int
    conversations: int
    held_out: int
    dropped: int
    learned_tokens: int
    longest: int
    memory_bytes: int
    strategies: tuple[StrategyPlan, ...]
    notes: tuple[str, ...]

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
    recipe, hardened = resolved(before_merging(recipe))
    check_sharded(recipe, hardened=hardened is not None)
    inputs = read_tuning_inputs(recipe)
    notes: list[str] = []
    with quiet_transformers():
        base = model_on_meta(recipe.model, notes)
        inputs.check_embedded(base)
        problem = padding_problem(inputs.tokenizer, embedding_rows(base))
        notes += [problem] if problem is not None else []
        parameters = sum(parameter.numel() for parameter in base.parameters())
        model: Any = base
        if recipe.tune.method == "full":
            model = model.float()
        quantized = QuantizedShape.of(base, recipe.model)
        weights = bytes_per_process(model)
        if quantized is not None:
            check_tunable(recipe, quantized.quantization)
            check_quantization(quantized.quantization)
            weights -= quantized.saved_bytes
        if recipe.tune.method == "lora":
            with torch.device("meta"):
                model = with_lora(base, recipe.tune, recipe.run.seed)
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        in_training = _training_bytes(recipe, inputs, model, base, trained, quantized)
    in_scoring = _scoring_bytes(recipe, inputs, base)
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
        memory_bytes=weights + max(in_training, in_scoring),
        notes=tuple(notes),
        strategies=tuple(
            StrategyPlan(str(strategy), own, count - own, 0 if strategy.repair is not None else steps_of(recipe.tune, count))
            for strategy, count in counts
        ),
    )


_KEPT_START = 4
"""Bytes of a trained parameter's first value, which is kept on the CPU, since each strategy begins there."""

_SCORED_LOGIT = 12
"""Bytes of a logit while held-out answers are scored: in the model's type, in float32, and its logarithmic softmax."""


def _training_bytes(
    recipe: FinetuneRecipe,
    inputs: TuningInputs,
    model: nn.Module,
    base: PreTrainedModel,
    trained: int,
    quantized: QuantizedShape | None,
) -> int:
    """The most that training takes beside the weights."""
    examples, run = inputs.encoded["train"], recipe.run
    batches = StepBatches(map(len, examples), recipe.tune.batch_size, run.micro_batch_size, run.seed, processes.count())
    longest = largest_pass(examples, batches, recipe.tune.epochs, "separate")
    per_parameter = BYTES_PER_TRAINED_PARAMETER + (0 if torch.accelerator.is_available() else _KEPT_START)
    if recipe.tune.method == "full":
        per_parameter -= 4  # the weights themselves
    return per_parameter * trained + pass_bytes(model, base, *longest, run, quantized)


def _scoring_bytes(recipe: FinetuneRecipe, inputs: TuningInputs, base: PreTrainedModel) -> int:
    """The most that the logits of held-out answers take."""
    scored = sorted((len(example.learned) for example in inputs.encoded["dev"]), reverse=True)[: recipe.safety.batch_size]
    return _SCORED_LOGIT * sum(scored) * int(base.config.get_text_config().vocab_size)
