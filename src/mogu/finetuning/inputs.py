"""What a fine-tuning run starts from: conversations, pairs and tokenizer, checked and encoded before any weight is loaded.

Knows files, records and tokenizers; knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from mogu.data import Chat, Record, encode_records, hub_chats, naming_lines, read_chats, read_records, split_chats
from mogu.files.atomic import check_replaceable, check_writable
from mogu.files.disk_list import DiskList
from mogu.files.json_files import fingerprint
from mogu.finetuning.chat_examples import encode_chats
from mogu.finetuning.data_mix import mixed_in
from mogu.finetuning.recipe import FinetuneRecipe
from mogu.hub import load_tokenizer
from mogu.inference.padding import embedding_rows
from mogu.training.examples import AnyExample, TurnsExample, check_embedded, router_examples
from mogu.training.inputs import check_both_labels, with_dev
from mogu.training.workspace import MARKER

REPORT_FILE = "finetune_report.json"
Part = Literal["train", "dev"]


@dataclass(frozen=True)
class TuningInputs:
    """What a run starts from.

    Args:
        chats: train and dev conversations, including those dropped because of their length.
        encoded: the examples to learn from, and those held out.
        dropped: ids of the conversations that were left out because of their length.
        pairs: train and dev MoGU records; none without ``safety.pairs``.
        tokenizer: with the chat template in use.
    """

    chats: Mapping[Part, Sequence[Chat]]
    encoded: Mapping[Part, Sequence[TurnsExample]]
    dropped: list[str]
    pairs: Mapping[Part, Sequence[Record]]
    tokenizer: PreTrainedTokenizerBase

    def check_embedded(self, base: Any) -> None:
        """Refuse tokens that the base model has no embedding of.

        Raises:
            ModelFileError: a conversation has one.
        """
        examples = chain.from_iterable(self.encoded.values())
        named = ((f"conversation {example.record_id!r}", example.ids) for example in examples)
        check_embedded(self.tokenizer, embedding_rows(base), named)

    def examples(self, share: float, recipe: FinetuneRecipe) -> Sequence[AnyExample]:
        """The training conversations, with a share of MoGU pairs mixed in."""
        own = self.encoded["train"]
        if not share:
            return own
        chosen = mixed_in(self.pairs["train"], share, len(own), recipe.run.seed)
        with naming_lines(recipe.safety.pairs):
            mixed = router_examples(self.tokenizer, chosen, max_length=recipe.run.max_length, system_prompt=recipe.model.system_prompt)
            return DiskList(chain[AnyExample](own, mixed))

    @property
    def dev_fingerprint(self) -> str:
        """Fingerprint of everything that is measured on."""
        return fingerprint((example.ids for example in self.encoded["dev"]), (record.model_dump() for record in self.pairs["dev"]))


def read_tuning_inputs(
    recipe: FinetuneRecipe,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    chats: Mapping[Part, Sequence[Chat]] | None = None,
    pairs: Mapping[Part, Sequence[Record]] | None = None,
) -> TuningInputs:
    """Read and encode everything that a recipe names.

    Args:
        recipe: the recipe.
        tokenizer: in place of the base model's.
        chats: in place of the recipe's conversations.
        pairs: in place of the recipe's MoGU records.

    Raises:
        MoguError: a file, a record, the tokenizer or its chat template cannot be used.
    """
    section = recipe.model
    conversations, records = chats or _read_chats(recipe), pairs or _read_pairs(recipe)
    for part, of_part in records.items():
        if of_part or records["train"]:
            check_both_labels(of_part, f"{part} pairs'")
    tokenizer = tokenizer or load_tokenizer(
        section.base, revision=section.revision, chat_template=section.chat_template, trust_remote_code=section.trust_remote_code
    )
    encoded = {
        part: encode_chats(
            tokenizer,
            of_part,
            max_length=recipe.run.max_length,
            drop_long=recipe.data.drop_long,
            system_prompt=section.system_prompt,
        )
        for part, of_part in conversations.items()
    }
    with naming_lines(recipe.safety.pairs, recipe.safety.pairs_dev):
        for of_part in records.values():
            encode_records(tokenizer, of_part, section.system_prompt)  # refused now rather than when safety is measured
    dropped = [chat_id for of_part in encoded.values() for chat_id in of_part.dropped]
    return TuningInputs(conversations, {part: of_part.examples for part, of_part in encoded.items()}, dropped, records, tokenizer)


def check_tuning_folders(recipe: FinetuneRecipe) -> None:
    """Refuse an output or a working folder that mogu did not write or cannot write, before time goes into training.

    Raises:
        MoguError: one of the two exists and was not written by mogu, or may not be written.
    """
    check_replaceable(recipe.run.output, marker=REPORT_FILE)
    check_writable(recipe.run.output.parent)  # the model is written beside its place
    check_replaceable(recipe.run.work_folder, marker=MARKER)


def _read_chats(recipe: FinetuneRecipe) -> dict[Part, Sequence[Chat]]:
    data = recipe.data
    path = Path(data.train).expanduser()
    if path.suffix == ".jsonl" or path.is_file():
        chats = read_chats(path, column=data.messages_column, ignored=data.ignored_columns, limit=data.limit)
    else:
        chats = hub_chats(data.train, split=data.split, column=data.messages_column, ignored=data.ignored_columns, limit=data.limit)
    if data.dev is not None:
        return {"train": chats, "dev": read_chats(data.dev, column=data.messages_column, ignored=data.ignored_columns)}
    train, dev = split_chats(chats, data.dev_share, recipe.run.seed)
    return {"train": train, "dev": dev}


def _read_pairs(recipe: FinetuneRecipe) -> dict[Part, Sequence[Record]]:
    safety = recipe.safety
    if safety.pairs is None:
        return {"train": [], "dev": []}
    train, dev = with_dev(read_records(safety.pairs), safety.pairs_dev, share=recipe.data.dev_share, seed=recipe.run.seed)
    return {"train": train, "dev": dev}
