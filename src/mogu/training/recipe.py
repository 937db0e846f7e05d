"""The recipe of a training run: what ``mogu train CONFIG.toml`` reads.

Knows settings; knows nothing of models, data or devices, nor of how a file is read, which is :mod:`mogu.recipes.settings`. What a saved
model records as well has its default and its bounds in :mod:`mogu.modeling.config` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, Field, model_validator

from mogu.data.refusal_bank import PLAIN_REFUSAL
from mogu.data.starter import AUGMENT, LIMIT, STARTER
from mogu.modeling.config import BackboneConfig, Handoff, Method, MoguConfig, RoutedTokens, RouterKind
from mogu.recipes.settings import Quantization, Section, checked, read_tree

Penalty = Literal["l1", "l2"]


def _as_in(config: type[BaseModel], name: str) -> Any:
    """A setting with the default and the bounds of a config's field."""
    return copy(config.model_fields[name])


class ModelSection(Section):
    """``[model]``: the base model.

    Args:
        base: a folder, a GGUF file, a hub id, or a name that ``mogu models ls`` lists, such as ``"smollm2"``.
        gguf_file: the GGUF file to take, where ``base`` is a repository of the hub, or a folder, that holds one;
            ``base = "owner/repository/file.gguf"`` says the same.
        merge_adapter: merge the base, which is then the folder of a PEFT adapter, into one model, kept in ``<output>-base``.
        revision: commit on the hub.
        dtype: floating-point type to load it in; ``"auto"`` is the one it was saved in.
        quantization: load its linear layers in ``"4bit"`` (NF4 with double quantization) or ``"8bit"`` (LLM.int8), by bitsandbytes; they
            compute in ``dtype``.
        device_map: as ``from_pretrained`` takes it, such as ``"auto"``; by default a GPU if there is one.
        trust_remote_code: whether the model's own code may run.
        chat_template: a Jinja file, or the name of a shipped template, in place of the tokenizer's.
        system_prompt: a system message put before conversations that have none.
    """

    base: str = Field(min_length=1)
    gguf_file: str | None = None
    merge_adapter: bool = False
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Quantization | None = None
    device_map: str | None = None
    trust_remote_code: bool = False
    chat_template: Path | None = None
    system_prompt: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _join_gguf_file(cls, values: Any) -> Any:
        """One name says which file it is, so that nothing else has to know of two."""
        if not isinstance(values, dict) or not values.get("gguf_file"):
            return values
        return {**values, "base": f"{values.get('base')}/{values['gguf_file']}", "gguf_file": None}

    def as_loaded(self, quantization: Quantization | None) -> Self:
        """The section with the quantization that the base model turned out to have: it may have been saved so, or given as an object."""
        return self.model_copy(update={"quantization": quantization})

    @property
    def that_counts(self) -> dict[str, Any]:
        """The settings that change a number, for fingerprints: not the device, nor the template, which has a fingerprint of its own."""
        count = self.model_dump(exclude={"device_map", "chat_template", "trust_remote_code", "gguf_file", "merge_adapter", "quantization"})
        return count if self.quantization is None else count | {"quantization": self.quantization}


class DataSection(Section):
    """``[data]``: the records.

    Args:
        train: JSONL file of records, a folder in the published six-file layout, or ``"starter"``: the starter set, whose benign
            instructions the base model answers when the run begins.
        dev: JSONL file of held-out records, or ``"starter"``; by default a share of the training file, split off by instruction, or
            the held-out topics of the starter set where that is trained on.
        dev_share: the share that is split off.
        limit: of the starter set, the most training records of each label.
        augment: of the starter set, the share of the training instructions that are put into wrappers.
        max_new_tokens: of the starter set, tokens of the base model's answers.
        refusals: of the starter set, the refusals to learn, taken at random; ``{subject}`` in one stands for what was asked for. By
            default those of the bank, :data:`mogu.data.REFUSALS`.
    """

    train: Literal["starter"] | Path
    dev: Literal["starter"] | Path | None = None
    dev_share: float = Field(default=0.1, gt=0, lt=0.5)
    limit: int = Field(default=LIMIT, ge=2)
    augment: float = Field(default=AUGMENT, ge=0, le=1)
    max_new_tokens: int = Field(default=64, ge=1)
    refusals: Annotated[list[Annotated[str, Field(pattern=r"\S")]], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _settings_of_the_starter_set(self) -> Self:
        unused = ("dev_share",) if self.train == STARTER else ("limit", "augment", "max_new_tokens", "refusals")
        if given := [name for name in unused if getattr(self, name) != type(self).model_fields[name].default]:
            rule = 'train = "starter" has a dev split of its own' if self.train == STARTER else 'it is for train = "starter"'
            raise ValueError(f"{given[0]} has no effect here: {rule}")
        return self


class MoguSection(Section):
    """``[mogu]``: the routed model; see :class:`mogu.MoguConfig` for each field and its default.

    With ``method = "v2"``, ``layers`` are those that the probe chooses from. ``routed_tokens`` is a number or ``"all"``, which is
    every token of an answer; ``None`` is the default.
    """

    output_projection: str | None = _as_in(MoguConfig, "output_projection")
    layers: list[int] | None = _as_in(MoguConfig, "layers")
    rank: int = _as_in(MoguConfig, "rank")
    lora_alpha: float = _as_in(MoguConfig, "lora_alpha")
    router: RouterKind = _as_in(MoguConfig, "router")
    router_hidden: int = _as_in(MoguConfig, "router_hidden")
    routed_tokens: Annotated[int, Field(ge=1)] | Literal["all"] | None = None
    answer_marker: str | None = _as_in(MoguConfig, "answer_marker")
    handoff: Handoff = _as_in(MoguConfig, "handoff")

    @property
    def tokens_to_route(self) -> RoutedTokens:
        """``routed_tokens``, or the default of :class:`mogu.MoguConfig`, which is that of V1 and V2."""
        if self.routed_tokens is not None:
            return self.routed_tokens
        default: RoutedTokens = MoguConfig.model_fields["routed_tokens"].default
        return default


class BackboneSection(Section):
    """``[backbone]``: the LoRA that ``method = "v2"`` trains together with the routers.

    See :class:`mogu.modeling.config.BackboneConfig` for the other fields and their defaults.

    Args:
        learning_rate: of this LoRA; the routers have their own.
    """

    modules: list[str] | None = _as_in(BackboneConfig, "modules")
    rank: int = _as_in(BackboneConfig, "rank")
    lora_alpha: float = _as_in(BackboneConfig, "lora_alpha")
    learning_rate: float = Field(default=5e-5, gt=0)


class ProbeSection(Section):
    """``[probe]``: how ``method = "v2"`` chooses the layers that are routed; see :func:`mogu.analysis.choose_layers`.

    Every set of layers that ``top`` and ``thresholds`` describe is trained, and the dev records decide among them.

    Args:
        top: how many of the best layers, one set for each number; by default an eighth and a quarter, unless ``thresholds`` are given.
        thresholds: AUROCs; the layers that reach one form a set.
        by: the activations to probe: those of the last prompt token, or their mean over the prompt.
        folds: folds of the cross-validation.
        batch_size: prompts read at a time.
    """

    top: list[Annotated[int, Field(ge=1)]] | None = Field(default=None, min_length=1)
    thresholds: list[Annotated[float, Field(gt=0.5, le=1)]] = []
    by: Literal["last", "mean"] = "last"
    folds: int = Field(default=5, ge=2)
    batch_size: int = Field(default=16, ge=1)


class Stage(Section):
    """What all three stages have in common. The optimizer is AdamW without weight decay.

    Args:
        learning_rate: reached after ``warmup_steps``, and constant from there on, unless it decays.
        epochs: passes over the data.
        batch_size: pairs (for the router: records) per optimizer step.
        warmup_steps: steps over which the learning rate rises to its value.
        decay: whether it falls from there to 0, in a straight line to the end of the stage.
    """

    learning_rate: float = Field(gt=0)
    epochs: float = Field(default=10.0, gt=0)
    batch_size: int = Field(ge=1)
    warmup_steps: int = Field(default=0, ge=0)
    decay: bool = False


class ResponderStage(Stage):
    """A LoRA that learns answers.

    Args:
        dropout: LoRA dropout.
    """

    learning_rate: float = Field(default=5e-5, gt=0)
    batch_size: int = Field(default=8, ge=1)
    dropout: float = Field(default=0.05, ge=0, lt=1)


class ContrastiveStage(ResponderStage):
    """``[glad]`` and ``[unwill]``.

    Args:
        loss: ``"ratio"``, as published: the cross-entropy of the answer to learn over that of the other answer; or ``"plain"``, the
            former alone. For ``method = "gated"`` it is plain in any case.
    """

    loss: Literal["ratio", "plain"] = "ratio"


class RouterStage(Stage):
    """``[router]``.

    Args:
        penalty: how far a routing weight is from its target: ``"l2"``, its square, as the published code has it; or ``"l1"``, its
            absolute value, as the paper's text does.
    """

    learning_rate: float = Field(default=5e-4, gt=0)
    batch_size: int = Field(default=16, ge=1)
    penalty: Penalty = "l2"


class GateSection(Section):
    """``[gate]``: the gate of ``method = "gated"``, and from which probabilities on it acts.

    Args:
        taps: indices of the decoder layers that are read; by default one in the middle, and one after four fifths.
        heads: kinds of tokens that each member looks for, wherever in a prompt they are.
        members: how many gates are fitted side by side; their mean is one gate with all of their heads.
        l2: strength of the penalty on the gate's weights.
        false_alarms: shares of the benign dev prompts of all kinds, borderline and wrapped ones among them, that may reach the
            probability from which on ``unwill`` answers; each is tried.
        second_opinions: the share that may reach the lower probability from which on the careful responder answers; 0 trains none.
        listen: the share of the base model's answers to benign dev prompts that may be taken back by a stream head, which goes on
            hearing the taps while the base model answers; 0 fits none.
        refusals: what ``unwill`` says, one of them a prompt.
        batch_size: prompts read at a time.
    """

    taps: list[Annotated[int, Field(ge=0)]] | None = Field(default=None, min_length=1)
    heads: int = Field(default=8, ge=1)
    members: int = Field(default=5, ge=1)
    l2: float = Field(default=0.01, ge=0)
    false_alarms: list[Annotated[float, Field(ge=0, lt=1)]] = Field(default=[0.01, 0.02, 0.03, 0.05], min_length=1)
    second_opinions: float = Field(default=0.0, ge=0, lt=1)
    listen: float = Field(default=0.0, ge=0, lt=1)
    refusals: list[Annotated[str, Field(pattern=r"\S")]] = Field(default=[PLAIN_REFUSAL], min_length=1)
    batch_size: int = Field(default=32, ge=1)


class CarefulStage(ResponderStage):
    """``[careful]``: the responder of ``method = "gated"`` that judges for itself; see :class:`mogu.modeling.config.BackboneConfig`."""

    modules: list[str] | None = _as_in(BackboneConfig, "modules")
    rank: int = _as_in(BackboneConfig, "rank")
    lora_alpha: float = _as_in(BackboneConfig, "lora_alpha")


class ChoiceSection(Section):
    """``[choice]``: the combinations to try; what the routed model does on the dev records chooses among them.

    Args:
        checkpoints: responder checkpoints, as shares of their training; 1 is its end.
        weight_penalties: values of ``λ``.
        unwill_offsets: numbers to add to the unwill logits of each trained router, one at a time: how ready it is to refuse. The
            chosen one becomes part of the saved routers.
        dials: values of ``δ`` to try each trained router at.
        max_benign_loss: how far the share of benign dev prompts answered may fall below the base model's, and likewise that of
            borderline ones; within this bound, the trial that refuses most malicious prompts is kept. ``None`` weighs refusing and
            answering the same.
        max_new_tokens: tokens of each reply that is judged.
        batch_size: replies generated at a time, at most; fewer where memory is short.
    """

    checkpoints: list[float] = Field(default=[0.5, 1.0], min_length=1)
    weight_penalties: list[float] = Field(default=[1.0, 2.0], min_length=1)
    unwill_offsets: list[Annotated[float, Field(allow_inf_nan=False)]] = Field(default=[0.0], min_length=1)
    dials: list[Annotated[float, Field(allow_inf_nan=False)]] = Field(default=[0.0], min_length=1)
    max_benign_loss: float | None = Field(default=None, ge=0, le=1)
    max_new_tokens: int = Field(default=32, ge=1)
    batch_size: int = Field(default=64, ge=1)

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        if any(not 0 < share <= 1 for share in self.checkpoints):
            raise ValueError("checkpoints are shares of a stage, above 0 and at most 1")
        if any(penalty < 0 for penalty in self.weight_penalties):
            raise ValueError("weight_penalties are 0 or more")
        return self


class RunSection(Section):
    """``[run]``: how the run is carried out.

    Args:
        output: folder of the hardened model.
        work: folder for checkpoints and trials; by default ``<output>-training``.
        seed: of everything random.
        max_length: the most tokens of a prompt and one answer; a longer answer is cut.
        micro_batch_size: examples per pass; a step accumulates as many passes as its batch size needs.
        save_steps: optimizer steps between checkpoints, which is what a kill can lose.
        gradient_checkpointing: trade time for memory.
        cache_activations: keep what enters the first trained decoder layer in a file of the working folder, so that the layers below
            compute once for each example rather than in every epoch; only where it gives the same losses, and where the disk has room.
        report_to: experiment trackers that get the loss of every step, named as for ``report_to`` of
            ``transformers.TrainingArguments``, such as ``["tensorboard"]``. ``loss_history.jsonl`` is always written.
    """

    output: Path
    work: Path | None = None
    seed: int = 0
    max_length: int = Field(default=1024, ge=8)
    micro_batch_size: int = Field(default=8, ge=1)
    save_steps: int = Field(default=50, ge=1)
    gradient_checkpointing: bool = False
    cache_activations: bool = True
    report_to: list[str] = []

    @model_validator(mode="after")
    def _apart(self) -> Self:
        output, work = self.output.absolute(), self.work_folder.absolute()
        if output == work or output in work.parents or work in output.parents:
            raise ValueError(f"the output {self.output} and the working folder {self.work_folder} must not lie inside one another")
        return self

    @property
    def work_folder(self) -> Path:
        """Where checkpoints and trials are."""
        return self.work or self.output.with_name(self.output.name + "-training")


_SECTIONS_OF: dict[str, tuple[Method, ...]] = {
    "backbone": ("v2",),
    "probe": ("v2",),
    "glad": ("v1", "v2"),
    "router": ("v1", "v2"),
    "gate": ("gated",),
    "careful": ("gated",),
}
"""Sections that only some methods have."""


def has_section(method: Method, section: str) -> bool:
    """Whether a method's recipes have a section."""
    return method in _SECTIONS_OF.get(section, get_args(Method))


class Recipe(Section):
    """A whole training run; the defaults of responders and routers are the published ones (MoGU, section 4.1 and appendix).

    Args:
        method: ``"gated"`` has one gate for the whole prompt in the place of routers; ``"v1"`` is MoGU as published at NeurIPS 2024;
            ``"v2"`` routes the layers that a probe chooses and trains a LoRA on their backbone together with the routers.
    """

    method: Method = "gated"
    model: ModelSection
    data: DataSection
    run: RunSection
    mogu: MoguSection = MoguSection()
    backbone: BackboneSection = BackboneSection()
    probe: ProbeSection = ProbeSection()
    glad: ContrastiveStage = ContrastiveStage()
    unwill: ContrastiveStage = ContrastiveStage()
    router: RouterStage = RouterStage()
    gate: GateSection = GateSection()
    careful: CarefulStage = CarefulStage()
    choice: ChoiceSection = ChoiceSection()

    @model_validator(mode="after")
    def _sections_of_the_method(self) -> Self:
        for name, methods in _SECTIONS_OF.items():
            if not has_section(self.method, name) and getattr(self, name) != type(getattr(self, name))():
                raise ValueError(f"[{name}] is for method = " + " or ".join(f'"{method}"' for method in methods))
        return self


def read_recipe(path: Path, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe from TOML; relative paths in it are relative to the current folder.

    Args:
        path: the file, or the name of a shipped recipe.
        settings: ``section.key=value`` overrides; a value is TOML, or plain text if it is not valid TOML.

    Raises:
        ConfigError: the file is missing or not TOML, or a setting is unknown or out of range.
    """
    return recipe_from(read_tree(path, settings), source=str(path))


def recipe_from(tree: dict[str, Any], *, source: str) -> Recipe:
    """Make a recipe from nested dictionaries; ``source`` names them in errors.

    Raises:
        ConfigError: a setting is unknown, missing or out of range.
    """
    return checked(Recipe, tree, source=source, page="docs/reference/recipes.md")
