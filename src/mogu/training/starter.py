"""The starter set as a run's training records: answered by the base model once, and kept in the working folder.

Knows the starter set, the base model and the working folder; does not know what is trained on the records.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.analysis.weight_digest import digest_weights
from mogu.data import KINDS, REFUSALS, ModelAnswers, Record, opened, read_records, write_record_files
from mogu.data.build import Answerer
from mogu.data.starter import STARTER, TRAIN_WRAPPERS, candidates, dev_pairs, train_pairs
from mogu.files.json_files import fingerprint
from mogu.inference.prompts import Conversation, encode_prompts
from mogu.processes import on_main
from mogu.training.recipe import Recipe
from mogu.training.workspace import Workspace

logger = logging.getLogger(__name__)


def planned_pairs(recipe: Recipe) -> Sequence[Record]:
    """Build the training records with stand-ins for the base model's answers: ``data.max_new_tokens`` words each, none refused."""
    stand_in = " ".join(["the"] * recipe.data.max_new_tokens)
    return _pairs(recipe, lambda instructions: [stand_in] * len(instructions))


def answered_pairs(recipe: Recipe, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, workspace: Workspace) -> Sequence[Record]:
    """Build the training records with the base model's answers, or read those that an earlier run built with the same model and settings.

    They are kept as ``starter/train.jsonl`` in the working folder, with the dev records as ``starter/dev.jsonl`` beside them.

    Raises:
        MoguError: the model answers nothing, or the folder is not writable.
    """
    files = {split: workspace.folder / STARTER / f"{split}.jsonl" for split in ("train", "dev")}
    built_with = _fingerprint(recipe, base, tokenizer)
    record = workspace.measured(STARTER, built_with)
    if record is not None and record["files"] == on_main(lambda: _digests(files)):
        return read_records(files["train"])
    data = recipe.data
    base.train(False)
    answers = ModelAnswers(base, tokenizer, max_new_tokens=data.max_new_tokens, batch_size=recipe.choice.batch_size)
    asked = 0

    def answer(instructions: list[str]) -> list[str]:
        nonlocal asked
        asked += len(instructions)
        return answers(_conversations(instructions, recipe.model.system_prompt))

    logger.info("The base model answers the benign instructions of the starter set.")
    pairs = _pairs(recipe, answer)
    on_main(lambda: write_record_files({files["train"]: pairs, files["dev"]: dev_pairs(limit=data.limit)}))
    workspace.measure(STARTER, built_with, files=_digests(files))
    counts = Counter(pair.kind for pair in pairs)
    refused = asked - counts["benign"] - counts["borderline"]
    counted = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS)
    logger.info("The starter set: %s records; %d instructions that the base model refuses were left out.", counted, refused)
    return pairs


def _pairs(recipe: Recipe, answer: Answerer) -> Sequence[Record]:
    data = recipe.data
    return train_pairs(answer, limit=data.limit, augment=data.augment, refusals=data.refusals or REFUSALS)


def _fingerprint(recipe: Recipe, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """What the records depend on: the prompts down to the tokens, the model, the settings."""
    drawn = candidates("train")
    asked = [instruction.text for kind in ("benign", "borderline") for instruction in drawn[kind]]
    prompts = encode_prompts(tokenizer, _conversations(asked, recipe.model.system_prompt))
    refused = [instruction.text for instruction in drawn["malicious"]]
    weights = hashlib.sha256()
    digest_weights(weights, base)
    data = recipe.data
    wrappers = [[template.name, template.text] for template in TRAIN_WRAPPERS]
    settings = [data.limit, data.augment, data.max_new_tokens, data.refusals, wrappers]
    return fingerprint(prompts, refused, weights.hexdigest(), recipe.model.that_counts, settings)


def _conversations(instructions: Sequence[str], system_prompt: str | None) -> list[Conversation]:
    return [opened([{"role": "user", "content": text}], system_prompt) for text in instructions]


def _digests(files: dict[str, Path]) -> dict[str, str]:
    return {split: hashlib.sha256(file.read_bytes()).hexdigest() for split, file in files.items() if file.is_file()}
