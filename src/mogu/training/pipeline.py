"""From a recipe to a hardened model: glad, unwill, router, choice, save.

Knows the order of the steps; each step itself is elsewhere in this package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.data import Record
from mogu.data.starter import STARTER
from mogu.errors import ConfigError
from mogu.files.json_files import write_json
from mogu.hub import load_base, load_config
from mogu.hub.quantization import quantization_of, settle
from mogu.inference.prompts import fixed_date
from mogu.modeling.architectures import find_output_projections
from mogu.modeling.model import MoguModel
from mogu.modeling.sharding import check_quantization, shard
from mogu.processes import count, joined, on_main, shards
from mogu.progress import quiet_transformers
from mogu.training.attention_layout import choose_layout
from mogu.training.gated.pipeline import GATED_STAGES, GatedRun
from mogu.training.inputs import (
    RESPONDER_DATA,
    Inputs,
    StageName,
    check_output_folders,
    load_records,
    read_inputs,
)
from mogu.training.layer_sets import probed_layer_sets
from mogu.training.loss_curve import LossCurve
from mogu.training.merged_base import with_merged_base
from mogu.training.recipe import ModelSection, Recipe
from mogu.training.report import save_with_report
from mogu.training.search import LayerSetSearch, base_on_dev
from mogu.training.selection import best_trial
from mogu.training.starter import answered_pairs
from mogu.training.trackers import check_trackers
from mogu.training.workspace import Workspace, date_of_run


def harden(
    recipe: Recipe,
    *,
    base: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    records: Mapping[str, Sequence[Record]] | None = None,
    responders: Path | None = None,
    stage: StageName | None = None,
    resume: bool = False,
    restart: bool = False,
) -> MoguModel | None:
    """Train a MoGU model and save it to ``recipe.run.output``.

    Stages and candidates that an earlier run finished are reused; on a CPU the same seed gives the same weights. Progress is logged
    under the name ``mogu.training``.

    Args:
        recipe: all settings.
        base: the base model, if it is loaded already; it is trained on the devices it is on.
        tokenizer: its tokenizer, if it is loaded already.
        records: ``{"train": …, "dev": …}``, in place of the files that the recipe names.
        responders: folder of a saved model of the same shape, whose responders are taken over instead of trained.
        stage: run this stage alone; the model is saved after the router stage.
        resume: resume from the last checkpoint of a stage that was stopped.
        restart: discard what an earlier run left, of ``stage`` or of everything.

    Returns:
        The hardened model, or ``None`` after a responder stage alone.

    Raises:
        MoguError: settings, data or model cannot be used, an earlier run's work is in the way, another process trains in the same
            working folder, or the loss is no longer a number.
    """
    with joined():
        return _harden(recipe, base, tokenizer, records, responders, stage, resume, restart)


def _harden(
    recipe: Recipe,
    base: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
    records: Mapping[str, Sequence[Record]] | None,
    responders: Path | None,
    stage: StageName | None,
    resume: bool,
    restart: bool,
) -> MoguModel | None:
    check_stage(recipe, stage)
    check_output_folders(recipe)
    check_trackers(recipe.run.report_to)
    recipe = on_main(lambda: with_merged_base(recipe))
    if base is None:  # what is wrong with the model comes to light before any of it is downloaded
        load_config(recipe.model.base, revision=recipe.model.revision, trust_remote_code=recipe.model.trust_remote_code)
    date = on_main(datetime.now) if restart and stage is None else date_of_run(recipe.run.work_folder)
    with quiet_transformers(), fixed_date(date):
        inputs = read_inputs(recipe, tokenizer=tokenizer, records=records)
        base = base or load_recipe_base(recipe.model)
        settle(base, for_training=True)
        recipe = recipe.model_copy(update={"model": recipe.model.as_loaded(quantization_of(base))})
        inputs.check_embedded(base)
        find_output_projections(base, recipe.mogu.output_projection, recipe.mogu.layers)
        workspace = Workspace(recipe.run.work_folder, date=date)
        with workspace.locked():
            if restart:
                for part in (stage,) if stage else ("glad", "unwill", "router", "probe", "gate", "listen", "careful", STARTER):
                    workspace.discard(part)
            if records is None and recipe.data.train == STARTER and _learns_answers(recipe):
                answered = answered_pairs(recipe, base, inputs.tokenizer, workspace)
                inputs = read_inputs(recipe, tokenizer=inputs.tokenizer, records=load_records(recipe, answered=answered))
            if recipe.method == "gated":
                return GatedRun(recipe, base, inputs, workspace, resume, responders).run(stage)
            return _Run(recipe, base, inputs, workspace, resume, responders).run(stage)


def _learns_answers(recipe: Recipe) -> bool:
    """Whether anything is trained on the answers to benign prompts; a gate needs the prompts alone, and unwill refuses them all."""
    return recipe.method != "gated" or recipe.gate.second_opinions > 0


def check_stage(recipe: Recipe, stage: StageName | None) -> None:
    """Refuse a stage that a recipe's method does not have.

    Raises:
        ConfigError: it has others.
    """
    stages = GATED_STAGES if recipe.method == "gated" else (*RESPONDER_DATA, "router")
    if stage is not None and stage not in stages:
        raise ConfigError(
            f"The method {recipe.method} has no stage {stage}",
            expected=f"one of {', '.join(stages)}",
            action="choose one of these, or none",
        )


def load_recipe_base(model: ModelSection) -> PreTrainedModel:
    """Load the base model that a recipe names, onto the GPU if there is one; each of several processes onto its own, all or part of it.

    Raises:
        ConfigError: it is to be spread over devices by one of several processes, or bitsandbytes is missing.
        ModelFileError: it cannot be loaded.
    """
    if model.device_map is not None and count() > 1:
        raise ConfigError(
            f"model.device_map = {model.device_map!r} in a run of {count()} processes",
            expected="several processes that each hold the whole base model, or one that spreads it over devices",
            action="leave model.device_map out, or start one process",
        )
    check_quantization(model.quantization)
    base = load_base(
        model.base,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        dtype=model.dtype if model.dtype == "auto" else getattr(torch, model.dtype),
        quantization=model.quantization,
        device_map=model.device_map,
    )
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if shards():
        shard(base, device or torch.device("cpu"))
    elif model.device_map is None and device is not None and quantization_of(base) is None:  # quantizing moves a model by itself
        base.to(device)  # type: ignore[arg-type]
    return base


@dataclass
class _Run:
    recipe: Recipe
    base: PreTrainedModel
    inputs: Inputs
    workspace: Workspace
    resume: bool
    responders: Path | None

    def run(self, stage: StageName | None) -> MoguModel | None:
        self.base.train(False)
        layout = choose_layout(self.base, 2 * self.recipe.run.max_length)
        searches = [
            LayerSetSearch(
                self.recipe, self.base, self.inputs, self.workspace, layout, layers, resume=self.resume, responders=self.responders
            )
            for layers in self._layer_sets()
        ]
        for search in searches:
            search.model().detach()  # what cannot be routed or adapted comes to light before anything is trained
        for name in RESPONDER_DATA:
            if stage in (None, name):
                for search in searches:
                    search.train_responder(name)
        return self._routers(searches) if stage in (None, "router") else None

    def _layer_sets(self) -> list[tuple[int, ...] | None]:
        if self.recipe.method == "v1":
            return [None]
        return list(probed_layer_sets(self.recipe, self.base, self.inputs, self.workspace))

    def _routers(self, searches: list[LayerSetSearch]) -> MoguModel:
        for search in searches:
            search.check_responders()
        base_metrics = base_on_dev(self.recipe, self.base, self.inputs, self.workspace)
        trials = [trial for search in searches for trial in search.trials()]
        on_main(lambda: write_json(self.workspace.folder / "candidates.json", [trial.row() for trial in trials]))
        chosen = best_trial(trials, base_metrics, self.recipe.choice.max_benign_loss)
        search = next(search for search in searches if search.layers == chosen.config.layers)
        model = search.model()
        try:
            search.load_parts(model, chosen.config, chosen.unwill_offset)
            model.dial = chosen.dial
            seconds = {part: taken for search in searches for part, taken in search.seconds().items()}
            loss_curve = LossCurve.of([file for search in searches for file in search.loss_histories()])
            on_main(lambda: save_with_report(model, self.recipe, self.inputs, base_metrics, trials, chosen, seconds, loss_curve))
        except BaseException:
            model.detach()
            raise
        return model
