"""The recipe of a fine-tuning run: what ``mogu finetune CONFIG.toml`` reads.

Knows settings and where they come from; knows nothing of models, data or devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from mogu.errors import ConfigError
from mogu.recipes.settings import Quantization, Section, checked, read_tree
from mogu.training.recipe import ModelSection, RunSection, Stage

SafetyMethod = Literal["none", "data-mix", "ml-lr", "swat", "safe-lora", "safe-merge"]
Keep = Literal["carry", "routers", "retrain"]

_Share = Annotated[float, Field(ge=0, lt=1)]
_Factor = Annotated[float, Field(ge=0, le=1)]


class TuningDataSection(Section):
    """``[data]``: the conversations.

    Args:
        train: a JSONL file with one ``{"messages": [...]}`` per line, a data set of the hub, or a folder that ``datasets`` reads.
        split: the split of a data set of the hub.
        dev: JSONL file of held-out conversations; by default a share of the training conversations.
        dev_share: that share; the same share of the MoGU pairs is held out if no file of dev pairs is named.
        messages_column: the column that holds the messages.
        ignored_columns: columns that training ignores; any other is an error.
        limit: read this many conversations from the beginning; ``None`` is all.
        drop_long: leave out conversations of more than ``run.max_length`` tokens instead of raising an error.
    """

    train: str = Field(min_length=1)
    split: str = "train"
    dev: Path | None = None
    dev_share: float = Field(default=0.1, gt=0, lt=0.5)
    messages_column: str = "messages"
    ignored_columns: list[str] = []
    limit: int | None = Field(default=None, ge=2)
    drop_long: bool = False


class TuneSection(Stage):
    """``[tune]``: how the model learns. The optimizer is AdamW without weight decay.

    Args:
        method: ``"lora"`` trains an adapter (PEFT), ``"full"`` every parameter.
        rank: of the LoRA.
        lora_alpha: of the LoRA; its scaling is ``lora_alpha / rank``.
        dropout: of the LoRA.
        modules: names, or ends of names, of the modules that get a LoRA; ``None`` is every linear layer except the output head.
    """

    method: Literal["lora", "full"] = "lora"
    learning_rate: float = Field(default=2e-4, gt=0)
    epochs: float = Field(default=3.0, gt=0)
    batch_size: int = Field(default=16, ge=1)
    rank: int = Field(default=16, ge=1)
    lora_alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.05, ge=0, lt=1)
    modules: list[str] | None = Field(default=None, min_length=1)


class SafetySection(Section):
    """``[safety]``: how to keep the model as safe as it was.

    Args:
        method: ``"none"``, ``"data-mix"`` (a share of the data is MoGU pairs), ``"ml-lr"`` (the whole learning rate for a robust subset
            of the modules, a small one elsewhere), ``"swat"`` (the robust modules are trained alone at first, then everything),
            ``"safe-lora"`` (what was learned is projected onto what alignment changed, where the two differ) or ``"safe-merge"`` (there,
            it is merged with the model before tuning).
        pairs: MoGU records to mix in, to find the robust modules with and to measure safety with.
        pairs_dev: held-out records to measure safety on; by default a share of ``pairs``.
        shares: MoGU pairs as shares of the data, tried one after the other; 0 is plain tuning.
        slow_factors: shares of the learning rate for modules that are not robust, tried one after the other; 1 is plain tuning, 0
            leaves them as they are.
        warm_ups: shares of the optimizer steps in which the robust modules are trained alone, tried one after the other; 0 is plain
            tuning, 1 never trains anything else.
        tolerances: tolerances of the search for robust modules, as in `mogu robustness`, each tried with each slow factor or warm-up.
        robust_modules: a robustness.json of `mogu robustness`; without it, that analysis is run on ``pairs``.
        unaligned: for ``"safe-lora"`` and ``"safe-merge"``, the model before it was aligned: the pre-trained model of a chat model.
        thresholds: similarities of an update and its projection, from 0 to 1, below which a module is repaired, each tried beside plain
            tuning; 1 repairs every module.
        merge_weight: for ``"safe-merge"``, the share of the update that is kept.
        max_task_loss: how far the task's accuracy may be below the best that was tried, from 0 to 1.
        max_benign_loss: how many more of the benign dev pairs may be refused than before tuning, and of the borderline ones, from 0
            to 1.
        max_new_tokens: tokens of each reply that is judged.
        batch_size: replies generated at a time, at most; fewer where memory is short.
    """

    method: SafetyMethod = "none"
    pairs: Path | None = None
    pairs_dev: Path | None = None
    shares: list[_Share] = Field(default=[0.0, 0.05, 0.1, 0.2], min_length=1)
    slow_factors: list[_Factor] = Field(default=[1.0, 0.1], min_length=1)
    warm_ups: list[_Factor] = Field(default=[0.0, 0.1, 0.3], min_length=1)
    tolerances: list[Annotated[float, Field(gt=0, lt=1)]] = Field(default=[0.25], min_length=1)
    robust_modules: Path | None = None
    unaligned: str | None = Field(default=None, min_length=1)
    thresholds: list[Annotated[float, Field(gt=0, le=1)]] = Field(default=[0.3, 0.6, 1.0], min_length=1)
    merge_weight: _Factor = 0.5
    max_task_loss: float = Field(default=0.02, ge=0, le=1)
    max_benign_loss: float = Field(default=0.05, ge=0, le=1)
    max_new_tokens: int = Field(default=32, ge=1)
    batch_size: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _has_pairs(self) -> Self:
        if self.method != "none" and self.pairs is None:
            raise ValueError(f"method {self.method!r} needs pairs: records of both labels, as `mogu data build` writes them")
        if self.method in ("safe-lora", "safe-merge") and self.unaligned is None:
            raise ValueError(f"method {self.method!r} needs unaligned: the model before it was aligned")
        return self


class KeepSection(Section):
    """``[keep]``: for a model that MoGU hardened, how to update routers and responders to its tuned base.

    Args:
        ways: what to try, one after the other, and measure on the dev pairs: ``"carry"`` leaves them as they are, ``"retrain"`` trains
            them on the tuned base, with the pairs, as many of the conversations, and the settings that the model was hardened with, and
            ``"routers"`` trains routers or gate alone in that way, and leaves the responders as they are.
        epochs_share: for ``"retrain"`` and ``"routers"``, the share of the epochs that the model was hardened with.
    """

    ways: list[Keep] = Field(default=["carry"], min_length=1)
    epochs_share: float = Field(default=1.0, gt=0, le=1)


class TaskSection(Section):
    """``[task]``: how to measure the task on the held-out conversations.

    Args:
        short_answer: the most tokens an answer may have to be graded by exact match.
        prompts: the most held-out conversations that are answered for exact match.
    """

    short_answer: int = Field(default=32, ge=1)
    prompts: int = Field(default=200, ge=1)


class FinetuneRecipe(Section):
    """A whole fine-tuning run."""

    model: ModelSection
    data: TuningDataSection
    run: RunSection
    tune: TuneSection = TuneSection()
    safety: SafetySection = SafetySection()
    task: TaskSection = TaskSection()
    keep: KeepSection = KeepSection()


def check_tunable(recipe: FinetuneRecipe, quantization: Quantization | None) -> None:
    """Refuse what cannot be done to a base model in 4 or 8 bits.

    Args:
        recipe: what is to be done.
        quantization: of the base model, by the recipe or because it was saved so.

    Raises:
        ConfigError: every parameter of a quantized model would be tuned, or its weights measured or compared.
    """
    if quantization is None:
        return
    bits, safety = quantization.removesuffix("bit"), recipe.safety
    if recipe.tune.method == "full":
        found, expected = 'tune.method = "full"', 'tune.method = "lora", beside weights that stay as they are'
    elif safety.method in ("safe-lora", "safe-merge"):
        found, expected = f'safety.method = "{safety.method}", which compares weights', "the weights of a model that is not quantized"
    elif safety.method in ("ml-lr", "swat") and safety.robust_modules is None:
        found, expected = f'safety.method = "{safety.method}", which adds noise to weights', "safety.robust_modules, from `mogu robustness`"
    else:
        return
    action = "correct that setting, or leave model.quantization out and name a base model that is not quantized"
    raise ConfigError(f"The base model is in {bits} bits, with {found}", expected=expected, action=action)


def read_finetune_recipe(path: Path, settings: Sequence[str] = ()) -> FinetuneRecipe:
    """Read a recipe from TOML; see :func:`mogu.training.read_recipe`.

    Raises:
        ConfigError: the file is missing or not TOML, or a setting is unknown or out of range.
    """
    return finetune_recipe_from(read_tree(path, settings), source=str(path))


def finetune_recipe_from(tree: dict[str, Any], *, source: str) -> FinetuneRecipe:
    """Make a recipe from nested dictionaries; ``source`` names them in errors.

    Raises:
        ConfigError: a setting is unknown, missing or out of range.
    """
    return checked(FinetuneRecipe, tree, source=source, page="docs/reference/recipes.md")
