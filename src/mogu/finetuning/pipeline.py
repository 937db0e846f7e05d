"""From a recipe to a tuned model: measure, tune by each strategy, choose, save.

Knows the order of the steps; each step itself is elsewhere in this package.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.data import Chat, Record
from mogu.files.atomic import atomic_folder
from mogu.files.json_files import fingerprint, write_json
from mogu.finetuning.alignment import Alignment, repair
from mogu.finetuning.evaluate import SafetyScore, Score, TaskScore, safety_score, task_score
from mogu.finetuning.inputs import REPORT_FILE, Part, TuningInputs, check_tuning_folders, read_tuning_inputs
from mogu.finetuning.recipe import FinetuneRecipe, check_tunable
from mogu.finetuning.rehardening import BASE_FOLDER, HardenedModel, rehardening_modes, resolved
from mogu.finetuning.report import card, finetune_report
from mogu.finetuning.report_page import PAGE_FILE, page
from mogu.finetuning.robust_modules import RobustModules, robust_modules
from mogu.finetuning.selection import TuningTrial, safest
from mogu.finetuning.sharded import check_sharded
from mogu.finetuning.strategies import Repair, Strategy, strategies_of
from mogu.finetuning.tuner import Tuner, disk_errors
from mogu.hub import load_config
from mogu.hub.quantization import quantization_of, saved_quantization, settle
from mogu.hub.saved_models import CARD_FILE
from mogu.inference.padding import padding_id
from mogu.inference.prompts import fixed_date, template_fingerprint
from mogu.modeling.model import MoguModel
from mogu.processes import joined, on_main
from mogu.progress import quiet_transformers
from mogu.training.examples import AnyExample
from mogu.training.loss_curve import LossCurve
from mogu.training.loss_history import HISTORY_FILE
from mogu.training.merged_base import with_merged_base
from mogu.training.pipeline import load_recipe_base
from mogu.training.trackers import check_trackers
from mogu.training.workspace import Workspace, date_of_run

logger = logging.getLogger(__name__)


def finetune(
    recipe: FinetuneRecipe,
    *,
    base: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    chats: Mapping[Part, Sequence[Chat]] | None = None,
    pairs: Mapping[Part, Sequence[Record]] | None = None,
    resume: bool = False,
    restart: bool = False,
) -> dict[str, Any]:
    """Fine-tune a model on conversations, safely if ``recipe.safety`` says how, and save it to ``recipe.run.output``.

    Strategies that an earlier run finished are reused; on a CPU the same seed gives the same weights. The loss of an example is the
    mean over the tokens of the assistant's turns, that of a step the mean over its examples. Progress is logged under the name
    ``mogu.finetuning``.

    Args:
        recipe: all settings.
        base: the base model, if it is loaded already; it is left as it was.
        tokenizer: its tokenizer, if it is loaded already.
        chats: ``{"train": …, "dev": …}``, in place of the files that the recipe names.
        pairs: MoGU records, likewise.
        resume: resume from the last checkpoint of a run that was stopped.
        restart: discard what an earlier run left.

    Returns:
        The report, as ``finetune_report.json`` holds it.

    Raises:
        MoguError: settings, data or model cannot be used, an earlier run's work is in the way, another process trains in the same
            working folder, or the loss is no longer a number.
    """
    with joined():
        return _finetune(recipe, base, tokenizer, chats, pairs, resume, restart)


def _finetune(
    recipe: FinetuneRecipe,
    base: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
    chats: Mapping[Part, Sequence[Chat]] | None,
    pairs: Mapping[Part, Sequence[Record]] | None,
    resume: bool,
    restart: bool,
) -> dict[str, Any]:
    check_tuning_folders(recipe)
    check_trackers(recipe.run.report_to)
    named = recipe = on_main(lambda: with_merged_base(recipe))
    recipe, hardened = resolved(named)
    check_sharded(recipe, hardened=hardened is not None)
    section = recipe.model
    if base is None:  # what is wrong with the model comes to light before any of it is downloaded
        config = load_config(section.base, revision=section.revision, trust_remote_code=section.trust_remote_code)
        check_tunable(recipe, section.quantization or saved_quantization(config))
    else:
        check_tunable(recipe, quantization_of(base))
    date = on_main(datetime.now) if restart else date_of_run(recipe.run.work_folder)
    with quiet_transformers(), fixed_date(date):
        inputs = read_tuning_inputs(recipe, tokenizer=tokenizer, chats=chats, pairs=pairs)
        base = base or load_recipe_base(section)
        settle(base, for_training=True)
        recipe = recipe.model_copy(update={"model": section.as_loaded(quantization_of(base))})
        inputs.check_embedded(base)
        workspace = Workspace(recipe.run.work_folder, command="mogu finetune", date=date)
        with workspace.locked():
            if restart:
                for part in on_main(lambda: [entry.name for entry in workspace.folder.iterdir() if entry.is_dir()]):
                    workspace.discard(part)
            return _Run(named, recipe, hardened, base, inputs, workspace, resume).run()


@dataclass
class _Run:
    named: FinetuneRecipe
    """The recipe as it was given, which may name a hardened model; ``recipe`` names that model's base."""
    recipe: FinetuneRecipe
    hardened: HardenedModel | None
    base: PreTrainedModel
    inputs: TuningInputs
    workspace: Workspace
    resume: bool
    encoded: dict[float, Sequence[AnyExample]] = field(default_factory=dict)
    robust: RobustModules = field(default_factory=dict)
    alignment: Alignment | None = None

    def run(self) -> dict[str, Any]:
        recipe = self.recipe
        self.base.train(False)
        before = self._score_before()
        strategies = strategies_of(recipe.safety)
        if any(strategy.needs_robust_modules for strategy in strategies):
            self.robust = on_main(lambda: robust_modules(recipe, self.base, self.inputs, self.workspace.folder / "robustness"))
        if any(strategy.repair is not None for strategy in strategies):
            section = self.recipe.model.model_copy(update={"base": recipe.safety.unaligned, "revision": None})
            self.alignment = Alignment.between(self.base, load_recipe_base(section))
        tuner = Tuner(self.base, recipe.tune, recipe.run.seed)
        try:
            trials = [TuningTrial(strategy, self._tuned(tuner, strategy)) for strategy in strategies]
            chosen = safest(trials, before, **self._limits())
            if len(trials) > 1:
                logger.info("Chosen: %s.", chosen.strategy)
            chosen_strategy = strategies[trials.index(chosen)]
            tuner.read_state(self._folder(chosen_strategy))
            rehardened = self._rehardened(tuner, chosen_strategy)
            after = safest([trial for trial, _ in rehardened], before, **self._limits()) if rehardened else chosen
            loss_curve = LossCurve.of([self._folder(strategy) / HISTORY_FILE for strategy in strategies])
            report = finetune_report(
                self.named,
                self.inputs,
                trained_parameters=sum(parameter.numel() for parameter in tuner.trained().values()),
                before=before,
                trials=trials,
                chosen=chosen,
                mixed={str(strategy): len(self._examples(strategy)) - len(self.inputs.encoded["train"]) for strategy in strategies},
                robust={str(strategy): self._robust(strategy) for strategy in strategies if strategy.needs_robust_modules},
                repaired={str(strategy): self._record(strategy)["repaired"] for strategy in strategies if strategy.repair is not None},
                seconds={str(strategy): self._record(strategy)["seconds"] for strategy in strategies},
                rehardened=[trial for trial, _ in rehardened],
                keep=str(after.strategy) if rehardened else None,
                after=after.score,
                loss_curve=loss_curve,
            )
            on_main(lambda: self._save(tuner, report, loss_curve, next((folder for trial, folder in rehardened if trial is after), None)))
        finally:
            tuner.close()
        return report

    def _limits(self) -> dict[str, float]:
        safety = self.recipe.safety
        return {"max_task_loss": safety.max_task_loss, "max_benign_loss": safety.max_benign_loss}

    def _score_before(self) -> Score:
        if self.hardened is None:
            model: Any = self.base
        else:
            model = self.hardened.on_base(self.base)
        try:
            score = self._measured("before", self._metrics_fingerprint("before"), model)
        finally:
            if isinstance(model, MoguModel):
                model.detach()
        _log_score("before", score)
        return score

    def _tuned(self, tuner: Tuner, strategy: Strategy) -> Score:
        """Tune by one strategy, unless that is done already, and measure what came of it."""
        settings, part = self._strategy_fingerprint(strategy), strategy.folder_name
        if self.workspace.finished(part, settings) is None:
            folder = self.workspace.begin(part, settings, resume=self.resume)
            started = time.monotonic()
            repaired = None
            if strategy.repair is None:
                self._train(tuner, strategy, folder)
            else:
                repaired = self._repair(tuner, strategy.repair, strategy.threshold)
            on_main(lambda: tuner.write_state(folder))
            self.workspace.finish(part, settings, seconds=time.monotonic() - started, repaired=repaired)
        else:
            logger.info("Tuned already: %s.", strategy)
        tuner.read_state(self._folder(strategy))
        score = self._measured(part, fingerprint(settings, self._metrics_fingerprint("measure")), tuner.model)
        _log_score(str(strategy), score)
        return score

    def _train(self, tuner: Tuner, strategy: Strategy, folder: Path) -> None:
        tuner.reset()
        tuner.train(
            self._examples(strategy),
            self.recipe.run,
            folder,
            title=str(strategy),
            pad_token_id=padding_id(self.inputs.tokenizer, self.base),
            rates=tuner.rates_for(self._robust(strategy), strategy.slow_factor) if strategy.slow_factor is not None else None,
            warm_up=tuner.warm_up_of(self._robust(strategy), strategy.warm_up) if strategy.warm_up is not None else None,
        )

    def _repair(self, tuner: Tuner, how: Repair, threshold: float) -> dict[str, float]:
        """Repair the plainly tuned model, which was tried before; return the similarities of what was repaired."""
        assert self.alignment is not None  # some strategy repairs
        tuner.read_state(self._folder(Strategy()))
        return repair(tuner, self.alignment, how, threshold, self.recipe.safety.merge_weight)

    def _measured(self, part: str, measured_with: str, model: Any) -> Score:
        record = self.workspace.measured(part, measured_with)
        if record is None:
            record = self.workspace.measure(part, measured_with, **self._score(model, part).as_json())
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
            pad_token_id=padding_id(inputs.tokenizer, self.base),
            system_prompt=prompt,
            title=f"{title}: task",
        )
        dev = inputs.pairs["dev"]
        title = f"{title}: safety"
        safety = safety_score(model, inputs.tokenizer, dev, recipe.safety, system_prompt=prompt, title=title) if dev else None
        return Score(task, safety)

    def _rehardened(self, tuner: Tuner, strategy: Strategy) -> list[tuple[TuningTrial, Path]]:
        """Each way of updating routers and responders to the tuned base: what came of it, and the folder of the model."""
        if self.hardened is None:
            return []
        base = tuner.merged()
        self.tuned_base = base
        trials = []
        for mode in rehardening_modes(self.recipe):
            part = f"{strategy.folder_name}-{mode}"
            train_pairs = (record.model_dump() for record in self.inputs.pairs["train"])
            settings = fingerprint(self._strategy_fingerprint(strategy), mode, self.recipe.keep.epochs_share, train_pairs)
            folder = self.hardened.folder
            if mode == "carry":
                model = self.hardened.on_base(base)
            else:
                folder = self.workspace.folder / part / "model"
                chats, pairs = self.inputs.chats["train"], self.inputs.pairs
                model = self.hardened.retrained(mode, self.recipe, base, self.inputs.tokenizer, pairs, chats, folder)
            try:
                score = self._measured(part, fingerprint(settings, self._metrics_fingerprint("measure")), model)
            finally:
                model.detach()
            _log_score(f"{strategy}, {mode}", score)
            trials.append((TuningTrial(mode, score), folder))
        return trials

    def _save_hardened(self, source: Path, report: dict[str, Any], loss_curve: LossCurve) -> None:
        output = self.recipe.run.output
        model = MoguModel.from_pretrained(source, base_model=self.tuned_base)
        try:
            model.mogu_config.base_model = str((output / BASE_FOLDER).absolute())
            model.mogu_config.base_revision = model.mogu_config.base_quantization = None
            with disk_errors(output), atomic_folder(output, marker=REPORT_FILE) as folder:
                model.save_pretrained(folder, card=card(self.named, report, self.recipe.model.base))
                loss_curve.save(folder)
                self._write_report(folder, report, loss_curve)
                plain = model.detach()
                plain.save_pretrained(folder / BASE_FOLDER)
                self.inputs.tokenizer.save_pretrained(folder / BASE_FOLDER)
        finally:
            model.detach()

    def _save(self, tuner: Tuner, report: dict[str, Any], loss_curve: LossCurve, rehardened: Path | None) -> None:
        if rehardened is not None:
            self._save_hardened(rehardened, report, loss_curve)
            return
        output = self.recipe.run.output
        with disk_errors(output), atomic_folder(output, marker=REPORT_FILE) as folder:
            tuner.save(folder, self.inputs.tokenizer, self.recipe.model.base)
            loss_curve.save(folder)
            (folder / CARD_FILE).write_text(card(self.recipe, report, self.recipe.model.base), encoding="utf-8")
            self._write_report(folder, report, loss_curve)

    def _write_report(self, folder: Path, report: dict[str, Any], loss_curve: LossCurve) -> None:
        write_json(folder / REPORT_FILE, report)
        (folder / PAGE_FILE).write_text(page(report, loss_curve.rows, model=self.recipe.run.output.name), encoding="utf-8")

    def _examples(self, strategy: Strategy) -> Sequence[AnyExample]:
        if strategy.share not in self.encoded:
            self.encoded[strategy.share] = self.inputs.examples(strategy.share, self.recipe)
        return self.encoded[strategy.share]

    def _robust(self, strategy: Strategy) -> list[str]:
        return self.robust[strategy.tolerance]

    def _folder(self, strategy: Strategy) -> Path:
        return self.workspace.folder / strategy.folder_name

    def _record(self, strategy: Strategy) -> dict[str, Any]:
        record = self.workspace.finished(strategy.folder_name, self._strategy_fingerprint(strategy))
        assert record is not None  # every strategy has been tuned
        return record

    def _metrics_fingerprint(self, what: str) -> str:
        """Fingerprint of the model and of everything it is measured with."""
        section, safety = self.recipe.model, self.recipe.safety
        # What changes no number is left out: the device, how often the model is saved.
        measure = [safety.max_new_tokens, self.recipe.task.model_dump(), self.inputs.dev_fingerprint]
        return fingerprint(what, section.that_counts, template_fingerprint(self.inputs.tokenizer), measure)

    def _strategy_fingerprint(self, strategy: Strategy) -> str:
        run, model = self.recipe.run, self.recipe.model.that_counts
        robust = sorted(self._robust(strategy)) if strategy.needs_robust_modules else None
        tune, safety = self.recipe.tune.model_dump(), self.recipe.safety
        repaired_with = [safety.unaligned, safety.merge_weight] if strategy.repair is not None else None
        examples = self._examples(strategy)
        return fingerprint(model, examples, asdict(strategy), robust, repaired_with, tune, run.seed, run.micro_batch_size)


def _log_score(name: str, score: Score) -> None:
    safety = score.safety
    line = f"task loss {score.task.loss:.3f}, accuracy {score.task.accuracy:.1%}"
    if safety is not None:
        refused = (safety.direct_refused, safety.jailbroken_refused, safety.benign_refused)
        line += "; refused: direct {:.0%}, jailbroken {:.0%}, benign {:.0%}".format(*refused)
        line += "" if safety.borderline_refused is None else f", borderline {safety.borderline_refused:.0%}"
    logger.info("%s: %s", name, line)
