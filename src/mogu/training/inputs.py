"""What a run starts from: records, tokenizer and the examples made from them, checked before any weight is loaded.

Knows files, records and tokenizers; knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from mogu.data import Label, Record, encode_records, naming_lines, read_published, read_records, split_records
from mogu.data.starter import STARTER, dev_pairs
from mogu.errors import DataError
from mogu.files.atomic import check_replaceable, check_writable
from mogu.files.disk_list import pick
from mogu.files.json_files import fingerprint
from mogu.hub import load_tokenizer
from mogu.inference.padding import embedding_rows
from mogu.inference.prompts import encode_marker, template_fingerprint
from mogu.modeling.checkpoint import CONFIG_FILE
from mogu.training.examples import Example, check_embedded, responder_examples, router_examples
from mogu.training.gated.recovery import expert_examples
from mogu.training.recipe import Recipe
from mogu.training.starter import planned_pairs
from mogu.training.workspace import MARKER

StageName = Literal["glad", "unwill", "router", "gate", "listen", "careful"]
ResponderName = Literal["glad", "unwill"]
RESPONDER_DATA: dict[ResponderName, tuple[Label, str]] = {"glad": ("malicious", "affirm"), "unwill": ("benign", "reject")}
"""The label of the records that a responder learns from, and the answer that it learns to give (MoGU, section 3.1)."""


@dataclass(frozen=True)
class Inputs:
    """What a run starts from.

    Args:
        train: the records to learn from.
        dev: the records that choose among trials.
        tokenizer: with the chat template in use.
        examples: encoded examples of each stage.
        dev_prompts: encoded prompts of the dev records.
    """

    train: Sequence[Record]
    dev: Sequence[Record]
    tokenizer: PreTrainedTokenizerBase
    examples: dict[StageName, Sequence[Example]]
    dev_prompts: Sequence[list[int]]

    def check_embedded(self, base: Any) -> None:
        """Refuse tokens that the base model has no embedding of.

        Raises:
            ModelFileError: a record has one.
        """
        examples = chain.from_iterable(self.examples.values())
        encoded = ((f"record {example.record_id!r}", [*example.prompt, *chain(*example.answers)]) for example in examples)
        dev = ((f"record {record.id!r}", prompt) for record, prompt in zip(self.dev, self.dev_prompts, strict=True))
        check_embedded(self.tokenizer, embedding_rows(base), chain(encoded, dev))

    @cached_property
    def train_fingerprint(self) -> str:
        """Fingerprint of what is learned from, down to the tokens."""
        examples = chain.from_iterable(self.examples.values())
        return fingerprint([example.prompt, example.answers, example.malicious] for example in examples)

    @cached_property
    def dev_fingerprint(self) -> str:
        """Fingerprint of the dev records."""
        return fingerprint(record.model_dump() for record in self.dev)


def common_fingerprint(recipe: Recipe, inputs: Inputs) -> list[Any]:
    """What every part of a run depends on. What changes no number is left out: devices, how often checkpoints are saved."""
    return [inputs.train_fingerprint, template_fingerprint(inputs.tokenizer), recipe.model.that_counts]


def metrics_fingerprint(recipe: Recipe, inputs: Inputs) -> str:
    """What the dev metrics of a model depend on."""
    mogu = recipe.mogu
    return fingerprint(inputs.dev_fingerprint, recipe.choice.max_new_tokens, mogu.tokens_to_route, mogu.handoff, mogu.answer_marker)


def read_inputs(
    recipe: Recipe, *, tokenizer: PreTrainedTokenizerBase | None = None, records: Mapping[str, Sequence[Record]] | None = None
) -> Inputs:
    """Read and encode everything that a recipe names.

    Args:
        recipe: the recipe.
        tokenizer: in place of the base model's.
        records: ``{"train": …, "dev": …}``, in place of the recipe's files.

    Raises:
        MoguError: a file, a record, the tokenizer or its chat template cannot be used.
    """
    records = records or load_records(recipe)
    check_labels(records)
    tokenizer = tokenizer or recipe_tokenizer(recipe)
    if recipe.mogu.answer_marker is not None:
        encode_marker(tokenizer, recipe.mogu.answer_marker)  # refused now rather than when the first model is measured
    with naming_lines(recipe.data.train, recipe.data.dev):
        examples = (_gated_examples if recipe.method == "gated" else _routed_examples)(recipe, tokenizer, records["train"])
        dev_prompts = encode_records(tokenizer, records["dev"], recipe.model.system_prompt)
    return Inputs(records["train"], records["dev"], tokenizer, examples, dev_prompts)


def _routed_examples(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, train: Sequence[Record]) -> dict[StageName, Sequence[Example]]:
    max_length, system_prompt = recipe.run.max_length, recipe.model.system_prompt
    examples: dict[StageName, Sequence[Example]] = {
        "router": router_examples(tokenizer, train, max_length=max_length, system_prompt=system_prompt)
    }
    names: tuple[ResponderName, ...] = ("glad", "unwill")
    for name in names:
        label, answer = RESPONDER_DATA[name]
        labeled = pick(train, (index for index, record in enumerate(train) if record.label == label))
        examples[name] = responder_examples(tokenizer, labeled, answer=answer, max_length=max_length, system_prompt=system_prompt)
    return examples


def _gated_examples(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, train: Sequence[Record]) -> dict[StageName, Sequence[Example]]:
    options: Any = {
        "refusals": recipe.gate.refusals,
        "max_length": recipe.run.max_length,
        "system_prompt": recipe.model.system_prompt,
        "seed": recipe.run.seed,
    }
    examples: dict[StageName, Sequence[Example]] = {"unwill": expert_examples("unwill", tokenizer, train, **options)}
    if recipe.gate.second_opinions:
        examples["careful"] = expert_examples("careful", tokenizer, train, **options)
    return examples


def recipe_tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a recipe's base model, with the recipe's chat template if it names one.

    Raises:
        ModelFileError: there is none, or the template cannot be read.
    """
    model = recipe.model
    return load_tokenizer(model.base, revision=model.revision, chat_template=model.chat_template, trust_remote_code=model.trust_remote_code)


def load_records(recipe: Recipe, *, answered: Sequence[Record] | None = None) -> dict[str, Sequence[Record]]:
    """Read the training and dev records that a recipe names.

    Args:
        recipe: the recipe.
        answered: the starter set's training records once the base model has answered them; before that, where the recipe names
            it, stand-ins take the place of the answers, so that all else can be checked.

    Raises:
        DataError: a file cannot be used.
    """
    data = recipe.data
    dev = data.dev
    if data.train == STARTER:
        train: Sequence[Record] = planned_pairs(recipe) if answered is None else answered
        dev = dev or STARTER
    else:
        train = read_published(data.train) if data.train.is_dir() else read_records(data.train)
    if dev == STARTER:
        return {"train": train, "dev": dev_pairs(limit=data.limit)}
    train, held_out = with_dev(train, dev, share=data.dev_share, seed=recipe.run.seed)
    return {"train": train, "dev": held_out}


def with_dev(train: Sequence[Record], dev: Path | None, *, share: float, seed: int) -> tuple[Sequence[Record], Sequence[Record]]:
    """Pair training records with the dev records of a file or, without one, split a share of their own instructions off.

    Raises:
        DataError: the file cannot be used.
    """
    if dev is not None:
        return train, read_records(dev)
    splits = split_records(train, dev=share, test=0.0, seed=seed)
    return splits["train"], splits["dev"]


def check_labels(records: Mapping[str, Sequence[Record]]) -> None:
    """Refuse records that do not have both labels.

    Raises:
        DataError: a label is missing.
    """
    for split in ("train", "dev"):
        check_both_labels(records.get(split, []), split)


def check_both_labels(records: Sequence[Record], what: str) -> None:
    """Refuse records that do not have both labels, or no benign ones but borderline; ``what`` names the records in the error.

    Raises:
        DataError: a label or ordinary benign records are missing.
    """
    labels = {record.label for record in records}
    if labels != {"benign", "malicious"}:
        raise DataError(
            f"The {what} records have {'no labels' if not labels else 'only the label ' + ', '.join(labels)}",
            expected="both benign and malicious records",
            action="add records of the other label: with one label there is nothing to tell apart",
        )
    if all(record.kind != "benign" for record in records):
        raise DataError(
            f"All benign ones of the {what} records are borderline",
            expected="ordinary benign records as well",
            action="add some: what becomes of ordinary requests would go unseen",
        )


def check_output_folders(recipe: Recipe) -> None:
    """Refuse an output or a working folder that mogu did not write or cannot write, before time goes into training.

    Raises:
        MoguError: one of the two exists and was not written by mogu, or may not be written.
    """
    check_replaceable(recipe.run.output, marker=CONFIG_FILE)
    check_writable(recipe.run.output.parent)  # the model is written beside its place
    check_replaceable(recipe.run.work_folder, marker=MARKER)
