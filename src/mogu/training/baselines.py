"""What the trained baselines need: a fine-tuned model, a safety expert, a detector, all from the data that MoGU learns from.

Knows recipes, records and the order of things; knows nothing of how a defense answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.analysis.detector_fit import fit_detector
from mogu.data import Record, conversation_of
from mogu.files.atomic import check_replaceable, discard
from mogu.files.json_files import fingerprint
from mogu.inference.padding import padding_id
from mogu.inference.prompts import encode_prompt, template_fingerprint
from mogu.modeling.config import MoguConfig
from mogu.progress import quiet_transformers
from mogu.training.examples import Example, router_examples
from mogu.training.inputs import check_both_labels
from mogu.training.losses import answer_losses
from mogu.training.recipe import Recipe, ResponderStage
from mogu.training.search import routed_config
from mogu.training.stages import ADAPTER_MARKER, StageSetting, train_lora
from mogu.training.training_state import last_checkpoint
from mogu.training.workspace import Workspace

Part = Literal["sft", "expert", "detector"]
PARTS: tuple[Part, ...] = ("sft", "expert", "detector")

WORK = "training"
"""The folder, among the baselines, for checkpoints and for what was trained with which settings."""

EXPERT_LEARNING_RATE, EXPERT_EPOCHS = 2e-3, 2.0
"""Of SafeDecoding's expert, as in its published training script (Xu et al., ACL 2024)."""


def train_baselines(
    recipe: Recipe,
    folder: Path,
    *,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Record],
    parts: Sequence[Part] = PARTS,
    learning_rates: Mapping[Part, float] | None = None,
    tell: Callable[[str], None] = print,
    resume: bool = False,
) -> dict[str, dict[str, Any]]:
    """Train what the defenses ``sft``, ``safe_decoding`` and ``detect_inp`` need, in a folder for :class:`mogu.defenses.Subject`.

    - ``sft``: benign prompts answered and malicious ones refused. One LoRA on MoGU's projections with as many parameters as
      both responders together (rank ``2r``, the same scaling), as many passes over the data as the router stage makes.
    - ``expert``: malicious prompts refused, nothing else; the same LoRA, SafeDecoding's learning rate and epochs. Its
      authors took 36 prompts and the model's own refusals; here it is the malicious records.
    - ``detector.json``: a logistic regression on a hidden state of the base model.

    A malicious affirmative is never trained on. Parts that are finished are not trained again; the same seed gives the same
    weights on a CPU.

    Args:
        recipe: MoGU's; what it says of projections, rank, stages and run holds here as well.
        folder: the baselines' folder.
        base: the base model, plain; it is left as it was.
        tokenizer: its tokenizer.
        records: the training records.
        parts: which to train.
        learning_rates: by part; by default the recipe's glad stage's for ``sft``, and the published one for ``expert``.
        tell: is told what happens, a line at a time.
        resume: go on from the last checkpoint of a part that was stopped.

    Returns:
        What was recorded of each part: seconds of training; of the detector its layer and how it did in cross-validation.

    Raises:
        MoguError: records or folder cannot be used, a part was trained with other settings or other data, or the loss is
            no longer a number.
    """
    check_both_labels(records, "training")
    base.train(False)
    run = _Run(recipe, folder, base, tokenizer, records, learning_rates or {}, resume, tell)
    with quiet_transformers():
        return {part: run.carry_out(part) for part in parts}


@dataclass
class _Run:
    recipe: Recipe
    folder: Path
    base: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    records: Sequence[Record]
    learning_rates: Mapping[Part, float]
    resume: bool
    tell: Callable[[str], None]

    def __post_init__(self) -> None:
        work = self.folder / WORK
        self.workspace = Workspace(
            work,
            go_on=f"train with resume=True to go on from there, or delete {work}",
            anew=f"name another folder for the baselines, or delete {work} to train them anew",
        )
        mogu = self.recipe.mogu
        doubled = {"rank": 2 * mogu.rank, "lora_alpha": 2 * mogu.lora_alpha}
        self.config: MoguConfig = routed_config(self.recipe, self.tokenizer).model_copy(update=doubled)

    def carry_out(self, part: Part) -> dict[str, Any]:
        target = self.folder / ("detector.json" if part == "detector" else part)
        made_with = self._print(part)
        record = self.workspace.finished(part, made_with)
        if record is not None and target.exists():
            self.tell(f"The baselines' {part} is trained already.")
            return record
        if part != "detector":
            check_replaceable(target, marker=ADAPTER_MARKER)
        work = self.workspace.begin(part, made_with, resume=self.resume)
        if last_checkpoint(work) is None:
            discard(target)  # what was made with other settings must not pass for this one
        started = time.monotonic()
        about: dict[str, Any] = {}
        if part == "detector":
            about = self._detector(target)
        else:
            self._lora(part, target, work)
        record = self.workspace.finish(part, made_with, seconds=time.monotonic() - started, **about)
        self.tell(f"The baselines' {part} is trained.")
        return record

    def _lora(self, part: Part, target: Path, work: Path) -> None:
        # With one answer a prompt there is nothing that a row could share.
        setting = StageSetting(self.recipe.run, self.config, "separate", padding_id(self.tokenizer))
        examples, stage = self._examples(part), self._stage(part)
        train_lora(f"baseline {part}", self.base, examples, answer_losses, stage, setting, work, shares=[1.0], place=lambda _: target)

    def _detector(self, target: Path) -> dict[str, Any]:
        prompts = [encode_prompt(self.tokenizer, conversation_of(record, self.recipe.model.system_prompt)) for record in self.records]
        malicious = [record.label == "malicious" for record in self.records]
        detector, about = fit_detector(
            self.base, prompts, malicious, pad_token_id=padding_id(self.tokenizer), batch_size=self.recipe.choice.batch_size
        )
        detector.save(target, **about)
        return {"layer": detector.layer, **about}

    def _examples(self, part: Part) -> list[Example]:
        wanted = [record for record in self.records if part != "expert" or record.label == "malicious"]
        return router_examples(self.tokenizer, wanted, max_length=self.recipe.run.max_length, system_prompt=self.recipe.model.system_prompt)

    def _stage(self, part: Part) -> ResponderStage:
        glad, router = self.recipe.glad, self.recipe.router
        if part == "expert":
            rate = self.learning_rates.get(part, EXPERT_LEARNING_RATE)
            return ResponderStage(learning_rate=rate, epochs=EXPERT_EPOCHS, batch_size=glad.batch_size, dropout=glad.dropout)
        return ResponderStage(
            learning_rate=self.learning_rates.get(part, glad.learning_rate),
            epochs=router.epochs,
            batch_size=router.batch_size,
            warmup_steps=glad.warmup_steps,
            dropout=glad.dropout,
        )

    def _print(self, part: Part) -> str:
        """Fingerprint of all that decides what a part becomes."""
        model = self.recipe.model.that_counts
        examples = [[example.prompt, example.answers, example.malicious] for example in self._examples(part)]
        common = [part, model, template_fingerprint(self.tokenizer), examples]
        if part == "detector":
            return fingerprint(common)
        run, config = self.recipe.run, self.config
        lora = [config.output_projection, config.layers, config.rank, config.lora_alpha]
        return fingerprint(common, lora, self._stage(part).model_dump(), run.seed, run.micro_batch_size)
