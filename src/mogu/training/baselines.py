"""What the trained baselines need: a fine-tuned model, a safety expert and detectors, all from the data that MoGU learns from.

Knows recipes, records and the order of the steps; does not know how a defense answers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.analysis.detector_fit import fit_detector, fit_minilm_detector
from mogu.analysis.minilm import MiniLM
from mogu.data import Record, conversation_of, user_text
from mogu.files.atomic import check_replaceable, discard
from mogu.files.json_files import fingerprint
from mogu.hub.named_models import MINILM
from mogu.inference.padding import padding_id
from mogu.inference.prompts import as_conversation, encode_prompts, fixed_date, template_fingerprint
from mogu.modeling.config import MoguConfig
from mogu.progress import quiet_transformers
from mogu.training.examples import Example, router_examples
from mogu.training.gated.prompts import GatePrompt, gate_prompts
from mogu.training.inputs import check_both_labels
from mogu.training.losses import answer_losses
from mogu.training.recipe import Recipe, ResponderStage
from mogu.training.search import routed_config
from mogu.training.stages import ADAPTER_MARKER, StageSetting, train_lora
from mogu.training.training_state import last_checkpoint
from mogu.training.workspace import Workspace, date_of_run

Part = Literal["sft", "expert", "detector", "minilm"]
PARTS: tuple[Part, ...] = ("sft", "expert", "detector", "minilm")
OWN_PARTS: tuple[Part, ...] = ("sft", "expert", "detector")
"""Those that are made of the base model and the records alone."""

_LORAS = ("sft", "expert")
"""Parts that are folders of adapters; the others are JSON files."""

WORK = "training"
"""The folder beside the baselines for checkpoints and for what was trained with which settings."""

EXPERT_LEARNING_RATE, EXPERT_EPOCHS = 2e-3, 2.0
"""Of SafeDecoding's expert, as in its published training script (Xu et al., ACL 2024)."""

logger = logging.getLogger(__name__)


def train_baselines(
    recipe: Recipe,
    folder: Path,
    *,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    parts: Sequence[Part] = OWN_PARTS,
    learning_rates: Mapping[Part, float] | None = None,
    resume: bool = False,
) -> dict[str, dict[str, Any]]:
    """Train what ``sft``, ``safe_decoding``, ``detect_inp`` and ``minilm`` need, into a folder for :class:`mogu.defenses.TargetModel`.

    - ``sft``: benign prompts answered and malicious ones refused. One LoRA on MoGU's projections with as many parameters as
      both responders together (rank ``2r``, the same scaling), and as many passes over the data as the router stage.
    - ``expert``: malicious prompts refused, nothing else; the same LoRA, with SafeDecoding's learning rate and epochs. Its
      authors used 36 prompts and the model's own refusals; here it is the malicious records.
    - ``detector.json``: a logistic regression on a hidden state of the base model.
    - ``minilm.json``: a logistic regression on MiniLM's embeddings of what the user says; the base model has no part in it.

    A malicious affirmative is never trained on. Parts that are finished are not trained again; on a CPU the same seed gives the
    same weights. Progress is logged under the name ``mogu.training``.

    Args:
        recipe: MoGU's; its projections, rank, stages and run settings are used here as well.
        folder: the folder for the baselines.
        base: the base model, plain; it is left as it was.
        tokenizer: its tokenizer.
        records: the training records.
        parts: the parts to train; by default all but ``"minilm"``, which needs the extra ``minilm`` and the package index.
        learning_rates: by part; by default that of the recipe's glad stage for ``sft``, and the published one for ``expert``.
        resume: resume from the last checkpoint of a part that was stopped.

    Returns:
        What was recorded of each part: seconds of training; for detectors also their cross-validation, and the layer if there is one.

    Raises:
        MoguError: records or folder cannot be used, a part was trained with other settings or other data, MiniLM cannot be had, or
            the loss is no longer a number.
    """
    check_both_labels(records, "training")
    base.train(False)
    run = _Run(recipe, folder, base, tokenizer, records, learning_rates or {}, resume)
    with quiet_transformers(), run.workspace.locked(), fixed_date(date_of_run(run.workspace.folder)):
        # MiniLM has to be fetched: if it cannot be, better before hours of training than after.
        return {part: run.run(part) for part in sorted(parts, key=lambda part: part != "minilm")}


@dataclass
class _Run:
    recipe: Recipe
    folder: Path
    base: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    records: Sequence[Record]
    learning_rates: Mapping[Part, float]
    resume: bool

    def __post_init__(self) -> None:
        work = self.folder / WORK
        self.workspace = Workspace(
            work,
            how_to_resume=f"train with resume=True to go on from there, or delete {work}",
            how_to_restart=f"name another folder for the baselines, or delete {work} to train them again",
        )
        mogu = self.recipe.mogu
        doubled = {"rank": 2 * mogu.rank, "lora_alpha": 2 * mogu.lora_alpha}
        self.config: MoguConfig = routed_config(self.recipe, self.tokenizer).model_copy(update=doubled)

    def run(self, part: Part) -> dict[str, Any]:
        target = self.folder / (part if part in _LORAS else f"{part}.json")
        settings = self._fingerprint(part)
        record = self.workspace.finished(part, settings) if target.exists() else None
        if record is not None:
            logger.info("The baselines' %s is trained already.", part)
            return record
        if part in _LORAS:
            check_replaceable(target, marker=ADAPTER_MARKER)
        work = self.workspace.begin(part, settings, resume=self.resume)
        if last_checkpoint(work) is None:
            discard(target)  # a leftover with other settings must not be taken for this one
        started = time.monotonic()
        about: dict[str, Any] = {}
        if part == "detector":
            about = self._detector(target)
        elif part == "minilm":
            about = self._minilm(target)
        else:
            self._lora(part, target, work)
        files = sorted(file for file in target.rglob("*") if file.is_file()) if target.is_dir() else [target]
        record = self.workspace.finish(part, settings, elsewhere=files, seconds=time.monotonic() - started, **about)
        logger.info("The baselines' %s is trained.", part)
        return record

    def _lora(self, part: Part, target: Path, work: Path) -> None:
        # With one answer per prompt there is nothing for a row to share.
        setting = StageSetting(self.recipe.run, self.config, "separate", padding_id(self.tokenizer, self.base))
        examples, stage = self._examples(part), self._stage(part)
        train_lora(
            f"baseline {part}", self.base, examples, answer_losses, stage, setting, work, shares=[1.0], adapter_folder=lambda _: target
        )

    def _detector(self, target: Path) -> dict[str, Any]:
        prompts = encode_prompts(self.tokenizer, [prompt.prompt for prompt in self._prompts])
        detector, about = fit_detector(
            self.base,
            prompts,
            self._malicious(),
            pad_token_id=padding_id(self.tokenizer, self.base),
            batch_size=self.recipe.choice.batch_size,
        )
        detector.save(target, **about)
        return {"layer": detector.layer, **about}

    def _minilm(self, target: Path) -> dict[str, Any]:
        detector, about = fit_minilm_detector(MiniLM.load(), self._user_texts(), self._malicious())
        detector.save(target, **about)
        return about

    @cached_property
    def _prompts(self) -> list[GatePrompt]:
        """What detectors learn from: beside a gate, all that it learns from."""
        if self.recipe.method == "gated":
            return gate_prompts(self.recipe, self.records, "train")
        return [GatePrompt(conversation_of(record, self.recipe.model.system_prompt), record.kind) for record in self.records]

    def _user_texts(self) -> list[str]:
        return [user_text(as_conversation(prompt.prompt)) for prompt in self._prompts]

    def _malicious(self) -> list[bool]:
        return [prompt.malicious for prompt in self._prompts]

    def _examples(self, part: Part) -> Sequence[Example]:
        records = [record for record in self.records if part != "expert" or record.label == "malicious"]
        return router_examples(
            self.tokenizer, records, max_length=self.recipe.run.max_length, system_prompt=self.recipe.model.system_prompt
        )

    def _stage(self, part: Part) -> ResponderStage:
        recipe = self.recipe
        # A recipe says how its own responders are trained; what is fine-tuned plainly learns at the pace of those nearest to it.
        like, passes = (recipe.careful, recipe.careful) if recipe.method == "gated" else (recipe.glad, recipe.router)
        if part == "expert":
            rate = self.learning_rates.get(part, EXPERT_LEARNING_RATE)
            return ResponderStage(learning_rate=rate, epochs=EXPERT_EPOCHS, batch_size=like.batch_size, dropout=like.dropout)
        return ResponderStage(
            learning_rate=self.learning_rates.get(part, like.learning_rate),
            epochs=passes.epochs,
            batch_size=passes.batch_size,
            warmup_steps=like.warmup_steps,
            decay=like.decay,
            dropout=like.dropout,
        )

    def _fingerprint(self, part: Part) -> str:
        """Fingerprint of everything that decides what a part becomes."""
        if part == "minilm":
            return fingerprint(part, MINILM.sha256, self._user_texts(), self._malicious())
        model = self.recipe.model.that_counts
        examples = [[example.prompt, example.answers, example.malicious] for example in self._examples(part)]
        common = [part, model, template_fingerprint(self.tokenizer), examples]
        if part == "detector":
            if self.recipe.method != "gated":
                return fingerprint(common)
            encoded = encode_prompts(self.tokenizer, [prompt.prompt for prompt in self._prompts])
            return fingerprint(common, [[ids, prompt.malicious] for ids, prompt in zip(encoded, self._prompts, strict=True)])
        run, config = self.recipe.run, self.config
        lora = [config.output_projection, config.layers, config.rank, config.lora_alpha]
        return fingerprint(common, lora, self._stage(part).model_dump(), run.seed, run.micro_batch_size)
