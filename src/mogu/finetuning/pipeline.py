"""From a recipe to a tuned model: measure, tune each way, choose, save.

Knows the order of things; each thing itself is done elsewhere in this package.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.data import Chat, Record
from mogu.files.atomic import atomic_folder, discard
from mogu.files.json_files import fingerprint, write_json
from mogu.finetuning.evaluate import SafetyScore, Score, TaskScore, safety_score, task_score
from mogu.finetuning.inputs import REPORT_FILE, Part, TuningInputs, check_tuning_places, read_tuning_inputs
from mogu.finetuning.recipe import FinetuneRecipe
from mogu.finetuning.rehardening import BASE_FOLDER, Hardened, keeps, resolved
from mogu.finetuning.report import card, finetune_report
from mogu.finetuning.robust_modules import Robust, robust_modules
from mogu.finetuning.selection import Tried, safest
from mogu.finetuning.strategies import Way, ways_of
from mogu.finetuning.tuner import Tunable, whole_or_not
from mogu.hub import load_config
from mogu.inference.prompts import template_fingerprint
from mogu.modeling.checkpoint import CARD_FILE
from mogu.modeling.model import MoguModel
from mogu.progress import quiet_transformers
from mogu.training.examples import AnyExample
from mogu.training.pipeline import check_one_process, load_base_of
from mogu.training.search import Tell
from mogu.training.workspace import Workspace


def finetune(
    recipe: FinetuneRecipe,
    *,
    base: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    chats: Mapping[Part, Sequence[Chat]] | None = None,
    pairs: Mapping[Part, Sequence[Record]] | None = None,
    resume: bool = False,
    restart: bool = False,
    tell: Tell = print,
) -> dict[str, Any]:
    """Fine-tune a model on conversations, safely where ``recipe.safety`` says how, and save it to ``recipe.run.output``.

    Ways that an earlier run finished are taken over; the same seed gives the same weights on a CPU. The loss of an example is the
    mean over the tokens of the assistant's turns, that of a step the mean over its examples.

    Args:
        recipe: everything there is to set.
        base: the base model, if it is loaded already; it is left as it was.
        tokenizer: its tokenizer, likewise.
        chats: ``{"train": …, "dev": …}``, in place of the files that the recipe names.
        pairs: MoGU records, likewise.
        resume: go on from the last checkpoint of a run that was stopped.
        restart: throw away what an earlier run left.
        tell: is told what happens, a line at a time.

    Returns:
        The report, as ``finetune_report.json`` holds it.

    Raises:
        MoguError: settings, data or model cannot be used, an earlier run's work is in the way, or the loss is no longer
            a number.
    """
    check_one_process()
    check_tuning_places(recipe)
    asked = recipe
    recipe, hardened = resolved(asked)
    section = recipe.model
    if base is None:  # what is wrong with the model comes to light before any of it is downloaded
        load_config(section.base, revision=section.revision, trust_remote_code=section.trust_remote_code)
    inputs = read_tuning_inputs(recipe, tokenizer=tokenizer, chats=chats, pairs=pairs)
    with quiet_transformers():
        base = base or load_base_of(section)
        workspace = Workspace(recipe.run.work_folder, what="mogu finetune")
        if restart:
            for part in list(workspace.folder.iterdir()):
                if part.is_dir():
                    discard(part)
        return _Run(asked, recipe, hardened, base, inputs, workspace, resume, tell).carry_out()


@dataclass
class _Run:
    asked: FinetuneRecipe
    recipe: FinetuneRecipe
    hardened: Hardened | None
    base: PreTrainedModel
    inputs: TuningInputs
    workspace: Workspace
    resume: bool
    tell: Tell
    encoded: dict[float, list[AnyExample]] = field(default_factory=dict)
    robust: Robust = field(default_factory=dict)

    def carry_out(self) -> dict[str, Any]:
        recipe = self.recipe
        self.base.train(False)
        before = self._before()
        ways = ways_of(recipe.safety)
        if recipe.safety.method == "ml-lr":
            self.robust = robust_modules(recipe, self.base, self.inputs, self.workspace.folder / "robustness")
        tunable = Tunable(self.base, recipe.tune, recipe.run.seed)
        try:
            tried = [Tried(way, self._tuned(tunable, way)) for way in ways]
            chosen = safest(tried, before, **self._limits())
            if len(tried) > 1:
                self.tell(f"Chosen: {chosen.way}.")
            tunable.read_state(self._folder(chosen.way))
            kept = self._kept(tunable, chosen.way)
            after = safest([one for one, _ in kept], before, **self._limits()) if kept else chosen
            report = finetune_report(
                self.asked,
                self.inputs,
                trained_parameters=sum(parameter.numel() for parameter in tunable.trained().values()),
                before=before,
                tried=tried,
                chosen=chosen,
                mixed={str(way): len(self._examples(way)) - len(self.inputs.encoded["train"]) for way in ways},
                robust={str(way): self._robust(way) for way in ways if way.slow_factor is not None},
                seconds=self._seconds(ways),
                kept=[one for one, _ in kept],
                keep=after.way if kept else None,
                after=after.score,
            )
            if kept:
                self._save_hardened(next(place for one, place in kept if one is after), report)
            else:
                self._save(tunable, report)
        finally:
            tunable.close()
        return report

    def _limits(self) -> dict[str, float]:
        safety = self.recipe.safety
        return {"max_task_loss": safety.max_task_loss, "max_benign_loss": safety.max_benign_loss}

    def _before(self) -> Score:
        if self.hardened is None:
            model: Any = self.base
        else:
            model = self.hardened.on_base(self.base)
        try:
            score = self._measured("before", self._print("before"), model)
        finally:
            if isinstance(model, MoguModel):
                model.detach()
        self._told("before", score)
        return score

    def _tuned(self, tunable: Tunable, way: Way) -> Score:
        """Tune one way, unless it is tuned already, and measure what came of it."""
        made_with = self._way_print(way)
        part = way.folder_name
        if self.workspace.finished(part, made_with) is None:
            folder = self.workspace.begin(part, made_with, resume=self.resume)
            started = time.monotonic()
            tunable.put_back()
            rates = tunable.rates_for(self._robust(way), way.slow_factor) if way.slow_factor is not None else None
            pad = self.inputs.pad_token_id
            tunable.train(self._examples(way), self.recipe.run, folder, title=str(way), pad_token_id=pad, rates=rates)
            tunable.write_state(folder)
            self.workspace.finish(part, made_with, seconds=time.monotonic() - started)
        else:
            self.tell(f"Tuned already: {way}.")
        tunable.read_state(self._folder(way))
        score = self._measured(part, fingerprint(made_with, self._print("measure")), tunable.model)
        self._told(str(way), score)
        return score

    def _measured(self, part: str, measured_with: str, model: Any) -> Score:
        record = self.workspace.measured(part, measured_with)
        if record is None:
            record = self.workspace.measure(part, measured_with, **asdict(self._score(model, part)))
        safety = record["safety"]
        return Score(TaskScore(**record["task"]), SafetyScore(**safety) if safety is not None else None)

    def _score(self, model: Any, title: str) -> Score:
        recipe, inputs = self.recipe, self.inputs
        prompt = recipe.model.system_prompt
        task = task_score(
            model,
            inputs.tokenizer,
            inputs.chats["dev"],
            inputs.encoded["dev"],
            recipe.task,
            batch_size=recipe.safety.batch_size,
            pad_token_id=inputs.pad_token_id,
            system_prompt=prompt,
            title=f"{title}: task",
        )
        dev = inputs.pairs["dev"]
        title = f"{title}: safety"
        safety = safety_score(model, inputs.tokenizer, dev, recipe.safety, system_prompt=prompt, title=title) if dev else None
        return Score(task, safety)

    def _told(self, name: str, score: Score) -> None:
        safety = score.safety
        seen = f"task loss {score.task.loss:.3f}, accuracy {score.task.accuracy:.1%}"
        if safety is not None:
            refused = (safety.direct_refused, safety.jailbroken_refused, safety.benign_refused)
            seen += "; refused: direct {:.0%}, jailbroken {:.0%}, benign {:.0%}".format(*refused)
        self.tell(f"{name}: {seen}")

    def _kept(self, tunable: Tunable, way: Way) -> list[tuple[Tried, Path]]:
        """Each way of keeping routers and responders in step with the tuned base: what came of it, and where it is."""
        if self.hardened is None:
            return []
        base = tunable.merged()
        self.tuned_base = base
        kept = []
        for keep in keeps(self.recipe):
            part = f"{way.folder_name}-{keep}"
            pairs = [record.model_dump() for record in self.inputs.pairs["train"]]
            made_with = fingerprint(self._way_print(way), keep, self.recipe.keep.epochs_share, pairs)
            place = self.hardened.folder
            if keep == "carry":
                model = self.hardened.on_base(base)
            else:
                place = self.workspace.folder / part / "model"
                chats, pairs_of = self.inputs.chats["train"], self.inputs.pairs
                model = self.hardened.retrained(self.recipe, base, self.inputs.tokenizer, pairs_of, chats, place, self.tell)
            try:
                score = self._measured(part, fingerprint(made_with, self._print("measure")), model)
            finally:
                model.detach()
            self._told(f"{way}, {keep}", score)
            kept.append((Tried(keep, score), place))
        return kept

    def _save_hardened(self, place: Path, report: dict[str, Any]) -> None:
        output = self.recipe.run.output
        model = MoguModel.from_pretrained(place, base_model=self.tuned_base)
        try:
            model.mogu_config.base_model = str((output / BASE_FOLDER).absolute())
            model.mogu_config.base_revision = None
            with whole_or_not(output), atomic_folder(output, marker=REPORT_FILE) as folder:
                model.save_pretrained(folder, card=card(self.asked, report, self.recipe.model.base))
                write_json(folder / REPORT_FILE, report)
                plain = model.detach()
                plain.save_pretrained(folder / BASE_FOLDER)
                self.inputs.tokenizer.save_pretrained(folder / BASE_FOLDER)
        finally:
            model.detach()

    def _save(self, tunable: Tunable, report: dict[str, Any]) -> None:
        output = self.recipe.run.output
        with whole_or_not(output), atomic_folder(output, marker=REPORT_FILE) as folder:
            tunable.save(folder, self.inputs.tokenizer, self.recipe.model.base)
            (folder / CARD_FILE).write_text(card(self.recipe, report, self.recipe.model.base), encoding="utf-8")
            write_json(folder / REPORT_FILE, report)

    def _examples(self, way: Way) -> list[AnyExample]:
        if way.share not in self.encoded:
            self.encoded[way.share] = self.inputs.examples(way.share, self.recipe)
        return self.encoded[way.share]

    def _robust(self, way: Way) -> list[str]:
        return self.robust[way.tolerance]

    def _folder(self, way: Way) -> Path:
        return self.workspace.folder / way.folder_name

    def _seconds(self, ways: Sequence[Way]) -> dict[str, float]:
        found = {str(way): self.workspace.finished(way.folder_name, self._way_print(way)) for way in ways}
        return {way: record["seconds"] for way, record in found.items() if record is not None}

    def _print(self, what: str) -> str:
        """Fingerprint of model and measure."""
        section, safety = self.recipe.model, self.recipe.safety
        # What changes no number is left out: where the model lies on this machine's devices, how often it is saved.
        model = section.that_counts
        measure = [safety.max_new_tokens, self.recipe.task.model_dump(), self.inputs.dev_print]
        return fingerprint(what, model, template_fingerprint(self.inputs.tokenizer), measure)

    def _way_print(self, way: Way) -> str:
        run = self.recipe.run
        model = self.recipe.model.that_counts
        robust = sorted(self._robust(way)) if way.slow_factor is not None else None
        return fingerprint(model, self._examples(way), asdict(way), robust, self.recipe.tune.model_dump(), run.seed, run.micro_batch_size)
