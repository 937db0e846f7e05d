"""What a training run will need, before it starts: trained parameters, steps, memory, disk; no weight is loaded.

Knows shapes and sizes, on PyTorch's meta device; trains nothing and writes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from mogu import processes
from mogu.data import Label
from mogu.data.starter import STARTER
from mogu.errors import ConfigError, ModelFileError
from mogu.hub import load_config
from mogu.inference.padding import embedding_rows, padding_problem
from mogu.inference.turns import TurnMarks
from mogu.modeling.architectures import Projection, find_output_projections
from mogu.modeling.config import MoguConfig
from mogu.modeling.gated.gate import ENDS, STREAM_READINGS
from mogu.modeling.gated.injection import expert_shape, find_expert_modules
from mogu.modeling.model import MoguModel
from mogu.modeling.sharding import bytes_per_process, check_quantization
from mogu.progress import quiet_transformers
from mogu.recipes import find_template, model_shape
from mogu.recipes.settings import Quantization
from mogu.training.attention_layout import likely_layout
from mogu.training.collator import Collator, Layout
from mogu.training.examples import Example
from mogu.training.gated.fit import default_taps
from mogu.training.gated.pipeline import gated_config
from mogu.training.inputs import (
    RESPONDER_DATA,
    Inputs,
    StageName,
    check_labels,
    check_output_folders,
    load_records,
    read_inputs,
    recipe_tokenizer,
)
from mogu.training.layer_sets import top_counts
from mogu.training.memory import largest_pass, pass_bytes
from mogu.training.merged_base import before_merging
from mogu.training.quantized_shape import QuantizedShape
from mogu.training.recipe import ModelSection, Recipe, Stage
from mogu.training.sampler import StepBatches
from mogu.training.search import routed_config
from mogu.training.trackers import check_trackers
from mogu.training.trainer import steps_of

STAND_INS = {"baichuan": LlamaConfig}
"""Families whose code is in their own repositories, each with a family of transformers that has the same shapes: Baichuan's
fused ``W_pack [3h, h]`` holds what Llama keeps as q, k and v. So counting needs no remote code."""

BYTES_PER_TRAINED_PARAMETER = 16
"""float32 parameter, gradient and AdamW's two moments."""

BYTES_ON_DISK = 2 * 12
"""float32 parameter and AdamW's two moments, in the last checkpoint and in the one that is being written beside it."""


@dataclass(frozen=True)
class StagePlan:
    """What one stage needs.

    Args:
        name: ``"glad"``, ``"unwill"`` or ``"router"``.
        trained_parameters: parameters that are trained at a time.
        examples: pairs or records.
        steps: optimizer steps of one run.
        runs: how often the stage runs: the router stage once per trial, every stage once per set of layers.
        memory_bytes: the most that weights, trained parameters and activations take together, in each process.
        disk_bytes: the most that checkpoints and kept activations take together in the working folder, while the stage runs.
    """

    name: StageName
    trained_parameters: int
    examples: int
    steps: int
    runs: int
    memory_bytes: int
    disk_bytes: int


@dataclass(frozen=True)
class Plan:
    """What a run needs.

    Args:
        base_model: name of the base model.
        model_type: its architecture.
        dtype: floating-point type it is loaded in.
        quantization: the bits of its linear layers; ``None`` where they are not quantized.
        base_parameters: parameters of the base model.
        base_bytes: bytes of its weights, as they are loaded.
        added_parameters: what the saved model adds: both responders and the folded routers.
        dev_records: prompts that each trial replies to.
        stages: in order.
        notes: what could not be looked up, and what was assumed instead.
    """

    base_model: str
    model_type: str
    dtype: str
    quantization: Quantization | None
    base_parameters: int
    base_bytes: int
    added_parameters: int
    dev_records: int
    stages: tuple[StagePlan, ...]
    notes: tuple[str, ...]

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole grid."""
        return sum(stage.steps * stage.runs for stage in self.stages)

    @property
    def memory_bytes(self) -> int:
        """The most that any stage needs."""
        return max(stage.memory_bytes for stage in self.stages)

    @property
    def disk_bytes(self) -> int:
        """The most that any stage needs; one runs at a time."""
        return max(stage.disk_bytes for stage in self.stages)

    def as_json(self) -> dict[str, Any]:
        """All numbers, sums included."""
        return {**asdict(self), "steps": self.steps, "memory_bytes": self.memory_bytes, "disk_bytes": self.disk_bytes}


def plan(recipe: Recipe) -> Plan:
    """Check a recipe, its data and its model, and count what training will need.

    Raises:
        MoguError: whatever :func:`~mogu.training.harden` would raise for the same recipe before its first step.
    """
    check_output_folders(recipe)
    check_trackers(recipe.run.report_to)
    recipe = before_merging(recipe)
    records = load_records(recipe)
    check_labels(records)
    if recipe.model.chat_template is not None:
        find_template(recipe.model.chat_template)
    notes: list[str] = []
    if recipe.data.train == STARTER:
        longest = f"data.max_new_tokens = {recipe.data.max_new_tokens} words long"
        notes.append(f"the base model has yet to answer the starter set: its answers are taken to be {longest}, and none to be a refusal")
    with quiet_transformers():
        base = model_on_meta(recipe.model, notes)
        inputs: Inputs | None = None
        tokenizer = _tokenizer(recipe)
        if tokenizer is None:
            notes.append(f"no tokenizer was found: every row is taken to be run.max_length = {recipe.run.max_length} tokens long")
        else:
            inputs = read_inputs(recipe, tokenizer=tokenizer, records=records)
            inputs.check_embedded(base)
            problem = padding_problem(tokenizer, embedding_rows(base))
            notes += [problem] if problem is not None else []
    base_parameters = sum(parameter.numel() for parameter in base.parameters())
    quantized = QuantizedShape.of(base, recipe.model)
    base_bytes = sum(parameter.numel() * parameter.itemsize for parameter in base.parameters())
    held_bytes = bytes_per_process(base)
    if quantized is not None:
        check_quantization(quantized.quantization)
        base_bytes, held_bytes = base_bytes - quantized.saved_bytes, held_bytes - quantized.saved_bytes
    if processes.shards():
        notes.append(f"each of {processes.count()} processes holds its part of the base model's layers")
    projections = find_output_projections(base, recipe.mogu.output_projection, recipe.mogu.layers)
    if recipe.mogu.layers is None and len(projections) < (layers := int(base.config.get_text_config().num_hidden_layers)):
        routed = ", ".join(str(projection.layer) for projection in projections)
        notes.append(f"of {layers} layers, only those with attention can be routed: {routed}")
    labels = Counter(record.label for record in records["train"])
    added, counted, trained_in = (_gated_stages if recipe.method == "gated" else _routed_stages)(recipe, base, labels, notes)

    # Which layers V2 trains is known once they are probed; the layout that takes more room is the one with a row for each answer.
    keeps_activations = recipe.run.cache_activations and (recipe.method == "v2" or projections[0].layer > 0)
    in_rows = Collator(0, "separate")

    def stage_plan(name: StageName, count: int, trained: int, runs: int) -> StagePlan:
        stage: Stage = getattr(recipe, name)
        examples = inputs.examples[name] if inputs is not None else None
        with trained_in[name]() as model:
            activations = pass_bytes(model, base, *_longest_pass(recipe, stage, name, count, examples, base), recipe.run, quantized)
        memory = held_bytes + BYTES_PER_TRAINED_PARAMETER * trained + activations
        disk = BYTES_ON_DISK * trained
        if keeps_activations and stage.epochs > 1:
            answers = _answers(recipe, name)
            tokens = count * answers * recipe.run.max_length
            if examples is not None:
                tokens = sum(sum(in_rows.row_lengths(example)) for example in examples)
            disk += tokens * int(base.config.get_text_config().hidden_size) * base.dtype.itemsize
        return StagePlan(name, trained, count, steps_of(stage, count), runs, memory, disk)

    return Plan(
        base_model=recipe.model.base,
        model_type=str(base.config.model_type),
        dtype=str(base.dtype).removeprefix("torch."),
        quantization=quantized.quantization if quantized is not None else None,
        base_parameters=base_parameters,
        base_bytes=base_bytes,
        added_parameters=added,
        dev_records=len(records["dev"]),
        stages=tuple(stage_plan(*stage) for stage in counted),
        notes=tuple(notes),
    )


_Stage = tuple[StageName, int, int, int]
"""A stage: its name, its examples, the parameters it trains, and how often it runs."""

_TrainedIn = dict[StageName, Callable[[], AbstractContextManager[nn.Module]]]
"""Of each stage, the model with what it trains in it."""


def _routed_stages(recipe: Recipe, base: PreTrainedModel, labels: Counter[Label], notes: list[str]) -> tuple[int, list[_Stage], _TrainedIn]:
    """The parameters that V1 or V2 adds to a model, and the stages that train them."""
    projections = find_output_projections(base, recipe.mogu.output_projection, recipe.mogu.layers)
    sets, largest = _layer_sets(recipe, [projection.layer for projection in projections], notes)
    config = routed_config(recipe, layers=largest)
    with _routers_in(base, config) as model:
        added = model.added_parameters()
        routers = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        lora = sum(recipe.mogu.rank * (layer.in_features + layer.out_features) for layer in model.routed_layers)
    responder = partial(_lora_in, base, find_output_projections(base, recipe.mogu.output_projection, config.layers), recipe.mogu.rank)
    grid = sets * len(dict.fromkeys(recipe.choice.checkpoints)) * len(dict.fromkeys(recipe.choice.weight_penalties))
    stages: list[_Stage] = [
        ("glad", labels[RESPONDER_DATA["glad"][0]], lora, sets),
        ("unwill", labels[RESPONDER_DATA["unwill"][0]], lora, sets),
        ("router", labels.total(), routers, grid),
    ]
    return added, stages, {"glad": responder, "unwill": responder, "router": partial(_routers_in, base, config)}


@contextmanager
def _routers_in(base: PreTrainedModel, config: MoguConfig) -> Iterator[MoguModel]:
    with torch.device("meta"):
        model = MoguModel.from_base(base, config)
        model.injected.start_router_training()
    try:
        yield model
    finally:
        model.detach()


@contextmanager
def _lora_in(base: PreTrainedModel, projections: Sequence[Projection], rank: int) -> Iterator[nn.Module]:
    with torch.device("meta"):
        names = [projection.name for projection in projections]
        model: Any = get_peft_model(base, LoraConfig(r=rank, lora_dropout=0.05, target_modules=names))
    try:
        yield model
    finally:
        model.unload()


def _gated_stages(recipe: Recipe, base: PreTrainedModel, labels: Counter[Label], notes: list[str]) -> tuple[int, list[_Stage], _TrainedIn]:
    """The parameters that a gate and its experts add to a model, and the stages that train the experts; a gate is fitted at once."""
    config = gated_config(recipe, TurnMarks())
    text_config = base.config.get_text_config()
    taps = recipe.gate.taps or default_taps(text_config.num_hidden_layers)
    modules = find_expert_modules(base, config)
    ranks = {name: expert_shape(config, name)[0] for name in modules}
    sizes = {name: sum(module.in_features + module.out_features for module in beside) * ranks[name] for name, beside in modules.items()}
    notes.append(f"the gate reads the layers {', '.join(map(str, taps))} of every prompt once, and is fitted in seconds")
    vectors = ENDS + 2 * recipe.gate.heads * recipe.gate.members + (len(STREAM_READINGS) if recipe.gate.listen else 0)
    gate = vectors * len(taps) * int(text_config.hidden_size)
    stages: list[_Stage] = [("unwill", labels.total(), sizes["unwill"], 1)]
    if "careful" in sizes:
        stages.append(("careful", labels.total(), sizes["careful"], 1))
    trained_in: _TrainedIn = {name: partial(_lora_in, base, modules[name], ranks[name]) for name, *_ in stages}  # type: ignore[index]
    return sum(sizes.values()) + gate, stages, trained_in


def _answers(recipe: Recipe, name: StageName) -> int:
    """How many answers each example of a stage has."""
    return 1 if recipe.method == "gated" or name == "router" else 2


def _layer_sets(recipe: Recipe, layers: list[int], notes: list[str]) -> tuple[int, tuple[int, ...] | None]:
    """How many sets of layers will be trained, and one that is as large as the largest of them; ``None`` is the recipe's own set."""
    if recipe.method == "v1":
        return 1, None
    counts, thresholds = top_counts(recipe.probe, len(layers)), recipe.probe.thresholds
    largest = len(layers) if thresholds else max(counts)
    if largest > len(layers):
        raise ConfigError(
            f"The {largest} best layers were asked for", expected=f"a number from 1 to {len(layers)}", action="correct probe.top"
        )
    notes.append(f"the probe chooses the layers: counted for {'all' if thresholds else largest} of {len(layers)}")
    return len(set(counts)) + len(set(thresholds)), tuple(layers[:largest])


def _longest_pass(
    recipe: Recipe, stage: Stage, name: StageName, count: int, examples: Sequence[Example] | None, base: PreTrainedModel
) -> tuple[int, int, int]:
    """Rows, tokens of each row and answer tokens of the longest pass; without examples, as long as they may be."""
    lengths = map(len, examples) if examples is not None else repeat(0, count)
    batches = StepBatches(lengths, stage.batch_size, recipe.run.micro_batch_size, recipe.run.seed, processes.count())
    answers = _answers(recipe, name)
    if examples is None:
        rows = batches.in_a_pass * answers
        return rows, recipe.run.max_length, rows * recipe.run.max_length
    layout: Layout = "separate"
    if answers > 1 and not recipe.model.trust_remote_code:  # own code may do anything with a mask
        layout = likely_layout(base, 2 * recipe.run.max_length)
    return largest_pass(examples, batches, stage.epochs, layout)


def _tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase | None:
    folder = Path(recipe.model.base).expanduser()
    if folder.is_dir() and not any(file.name.startswith(("tokenizer", "vocab")) for file in folder.iterdir()):
        return None  # transformers makes an empty tokenizer for some families
    try:
        return recipe_tokenizer(recipe)
    except ModelFileError:
        return None


def model_on_meta(section: ModelSection, notes: list[str]) -> PreTrainedModel:
    """Build the base model that a recipe names, without any weights; what was assumed is added to ``notes``.

    Raises:
        ModelFileError: there is no such model, or none that this release of transformers can make of its config.
    """
    config = _base_config(section, notes)
    dtype = (getattr(config, "dtype", None) or torch.float32) if section.dtype == "auto" else getattr(torch, section.dtype)
    try:
        with torch.device("meta"):
            auto: Any = AutoModelForCausalLM
            model = auto.from_config(config, dtype=dtype, trust_remote_code=section.trust_remote_code)
    except (ValueError, TypeError, ImportError, AttributeError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise ModelFileError(
            f"No causal language model can be made of the config of {section.base}: {first_line}",
            expected="a causal language model that this release of transformers knows",
            action="check model.base, or upgrade transformers",
        ) from error
    assert isinstance(model, PreTrainedModel)
    return model


def _base_config(section: ModelSection, notes: list[str]) -> PreTrainedConfig:
    """The config of the base model; for a shipped recipe's model it is at hand, so that counting waits for no hub and no access."""
    shape = model_shape(section.base) if section.revision is None and not Path(section.base).exists() else None
    if shape is not None:
        notes.append(f"counted from the config of {section.base} that ships with mogu")
        section = section.model_copy(update={"base": str(shape)})
    return _stand_in(section, notes) or load_config(section.base, revision=section.revision, trust_remote_code=section.trust_remote_code)


def _stand_in(section: ModelSection, notes: list[str]) -> PreTrainedConfig | None:
    try:
        fields, _ = PreTrainedConfig.get_config_dict(section.base, revision=section.revision or "main")
    except (OSError, ValueError):
        return None  # load_config has a better error
    family = STAND_INS.get(str(fields.get("model_type")))
    if family is None:
        return None
    notes.append(f"a {fields['model_type']} model is counted as a {family.model_type} of the same shapes: its own code is not run")
    plain = {name: value for name, value in fields.items() if name not in ("model_type", "auto_map", "architectures")}
    return family(**plain)
