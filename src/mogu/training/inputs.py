"""What a run starts from: records, tokenizer and the examples made of them, checked before any weight is loaded.

Knows files, records and tokenizers; knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from transformers import PreTrainedTokenizerBase

from mogu.data import Label, Record, read_published, read_records, split_records
from mogu.errors import DataError
from mogu.files.atomic import check_replaceable
from mogu.files.json_files import fingerprint
from mogu.hub import load_tokenizer
from mogu.inference.padding import padding_id
from mogu.inference.prompts import encode_marker
from mogu.modeling.checkpoint import CONFIG_FILE
from mogu.training.examples import Example, responder_examples, router_examples
from mogu.training.recipe import Recipe
from mogu.training.workspace import MARKER

StageName = Literal["glad", "unwill", "router"]
ResponderName = Literal["glad", "unwill"]
RESPONDER_DATA: dict[ResponderName, tuple[Label, str]] = {"glad": ("malicious", "affirm"), "unwill": ("benign", "reject")}
"""The label whose records a responder learns from, and the answer it is to give (MoGU, section 3.1)."""


@dataclass(frozen=True)
class Inputs:
    """What a run starts from.

    Args:
        train: the records that are learned from.
        dev: those that choose among candidates.
        tokenizer: with the chat template in use.
        examples: of each stage, encoded.
    """

    train: list[Record]
    dev: list[Record]
    tokenizer: PreTrainedTokenizerBase
    examples: dict[StageName, list[Example]]

    @property
    def pad_token_id(self) -> int:
        """What fills rows up."""
        return padding_id(self.tokenizer)

    @cached_property
    def train_print(self) -> str:
        """Fingerprint of what is learned from, down to the tokens."""
        return fingerprint([[example.prompt, example.answers, example.malicious] for one in self.examples.values() for example in one])

    @cached_property
    def dev_print(self) -> str:
        """Fingerprint of the dev records."""
        return fingerprint([record.model_dump() for record in self.dev])


def read_inputs(
    recipe: Recipe, *, tokenizer: PreTrainedTokenizerBase | None = None, records: dict[str, list[Record]] | None = None
) -> Inputs:
    """Read and encode all that a recipe names.

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
        encode_marker(tokenizer, recipe.mogu.answer_marker)  # refused now, and not when the first model is tried out
    max_length, system_prompt = recipe.run.max_length, recipe.model.system_prompt
    train = records["train"]
    examples: dict[StageName, list[Example]] = {
        "router": router_examples(tokenizer, train, max_length=max_length, system_prompt=system_prompt)
    }
    names: tuple[ResponderName, ...] = ("glad", "unwill")
    for name in names:
        label, wanted = RESPONDER_DATA[name]
        some = [record for record in train if record.label == label]
        examples[name] = responder_examples(tokenizer, some, wanted=wanted, max_length=max_length, system_prompt=system_prompt)
    return Inputs(train, records["dev"], tokenizer, examples)


def recipe_tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase:
    """The tokenizer of a recipe's base model, with the recipe's chat template where it names one.

    Raises:
        ModelFileError: there is none, or the template cannot be read.
    """
    model = recipe.model
    return load_tokenizer(model.base, chat_template=model.chat_template, trust_remote_code=model.trust_remote_code)


def load_records(recipe: Recipe) -> dict[str, list[Record]]:
    """The training and dev records that a recipe names.

    Raises:
        DataError: a file cannot be used.
    """
    source = recipe.data.train
    train = read_published(source) if source.is_dir() else read_records(source)
    train, dev = with_dev(train, recipe.data.dev, share=recipe.data.dev_share, seed=recipe.run.seed)
    return {"train": train, "dev": dev}


def with_dev(train: list[Record], dev: Path | None, *, share: float, seed: int) -> tuple[list[Record], list[Record]]:
    """Training records beside the dev records of a file or, without one, beside a share of their own instructions.

    Raises:
        DataError: the file cannot be used.
    """
    if dev is not None:
        return train, read_records(dev)
    splits = split_records(train, dev=share, test=0.0, seed=seed)
    return splits["train"], splits["dev"]


def check_labels(records: dict[str, list[Record]]) -> None:
    """Refuse records without both labels.

    Raises:
        DataError: a label is missing.
    """
    for split in ("train", "dev"):
        check_both_labels(records.get(split, []), split)


def check_both_labels(records: Sequence[Record], what: str) -> None:
    """Refuse records of which one label is missing; ``what`` says which records they are.

    Raises:
        DataError: a label is missing.
    """
    labels = {record.label for record in records}
    if labels != {"benign", "malicious"}:
        raise DataError(
            f"The {what} records have {'no labels' if not labels else 'only the label ' + ', '.join(labels)}",
            expected="both benign and malicious records",
            action="add records of the other label: without both there is nothing to tell apart",
        )


def check_places(recipe: Recipe) -> None:
    """Refuse an output or a working folder that is somebody else's, before time goes into training.

    Raises:
        MoguError: one of the two exists and was not written by us.
    """
    check_replaceable(recipe.run.output, marker=CONFIG_FILE)
    check_replaceable(recipe.run.work_folder, marker=MARKER)
