"""From a recipe to a hardened model: glad, unwill, router, choice, save.

Knows the order of things; each thing itself is done elsewhere in this package.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.data import Record
from mogu.errors import ConfigError
from mogu.files.atomic import discard
from mogu.files.json_files import fingerprint, write_json
from mogu.hub import load_base, load_config
from mogu.modeling.architectures import find_output_projections
from mogu.modeling.model import MoguModel
from mogu.progress import quiet_transformers
from mogu.training.attention_layout import choose_layout
from mogu.training.inputs import RESPONDER_DATA, Inputs, StageName, check_places, read_inputs
from mogu.training.layer_sets import probed_layer_sets
from mogu.training.recipe import ModelSection, Recipe
from mogu.training.report import save_with_report
from mogu.training.search import Branch, Tell, common_print, measure_print, try_out
from mogu.training.selection import Behavior, best
from mogu.training.workspace import Workspace


def harden(
    recipe: Recipe,
    *,
    base: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    records: dict[str, list[Record]] | None = None,
    stage: StageName | None = None,
    resume: bool = False,
    restart: bool = False,
    tell: Tell = print,
) -> MoguModel | None:
    """Train a MoGU model and save it to ``recipe.run.output``.

    Stages and candidates that an earlier run finished are taken over; the same seed gives the same weights on a CPU.

    Args:
        recipe: everything there is to set.
        base: the base model, if it is loaded already.
        tokenizer: its tokenizer, likewise.
        records: ``{"train": …, "dev": …}``, in place of the files that the recipe names.
        stage: run this stage alone; the model is saved after the router stage.
        resume: go on from the last checkpoint of a stage that was stopped.
        restart: throw away what an earlier run left, of ``stage`` or of everything.
        tell: is told what happens, a line at a time.

    Returns:
        The hardened model, or ``None`` after a responder stage alone.

    Raises:
        MoguError: settings, data or model cannot be used, an earlier run's work is in the way, or the loss is no longer
            a number.
    """
    check_one_process()
    check_places(recipe)
    if base is None:  # what is wrong with the model comes to light before any of it is downloaded
        load_config(recipe.model.base, revision=recipe.model.revision, trust_remote_code=recipe.model.trust_remote_code)
    inputs = read_inputs(recipe, tokenizer=tokenizer, records=records)
    with quiet_transformers():
        base = base or load_base_of(recipe.model)
        find_output_projections(base, recipe.mogu.output_projection, recipe.mogu.layers)
        workspace = Workspace(recipe.run.work_folder)
        if restart:
            for part in (stage,) if stage else ("glad", "unwill", "router", "probe"):
                discard(workspace.folder / part)
        return _Run(recipe, base, inputs, workspace, resume, tell).carry_out(stage)


def check_one_process() -> None:
    """Refuse to be one of several processes.

    Raises:
        ConfigError: torchrun or accelerate started more than one.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "Training was started in several processes",
            expected="one process, whatever the number of devices",
            action='start it without torchrun or accelerate; model.device_map = "auto" spreads a model over devices',
        )


def load_base_of(model: ModelSection) -> PreTrainedModel:
    """The base model that a recipe names, on the GPU if there is one.

    Raises:
        ModelFileError: it cannot be loaded.
    """
    base = load_base(
        model.base,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        dtype=model.dtype if model.dtype == "auto" else getattr(torch, model.dtype),
        device_map=model.device_map,
    )
    if model.device_map is None and torch.cuda.is_available():
        base.to(torch.device("cuda"))  # type: ignore[arg-type]
    return base


@dataclass
class _Run:
    recipe: Recipe
    base: PreTrainedModel
    inputs: Inputs
    workspace: Workspace
    resume: bool
    tell: Tell

    def carry_out(self, stage: StageName | None) -> MoguModel | None:
        self.base.train(False)
        layout = choose_layout(self.base, 2 * self.recipe.run.max_length)
        branches = [
            Branch(self.recipe, self.base, self.inputs, self.workspace, layout, layers, resume=self.resume, tell=self.tell)
            for layers in self._layer_sets()
        ]
        for branch in branches:
            branch.model().detach()  # what cannot be routed or adapted comes to light before anything is trained
        for name in RESPONDER_DATA:
            if stage in (None, name):
                for branch in branches:
                    branch.train_responder(name)
        return self._routers(branches) if stage in (None, "router") else None

    def _layer_sets(self) -> list[tuple[int, ...] | None]:
        if self.recipe.method == "v1":
            return [None]
        return list(probed_layer_sets(self.recipe, self.base, self.inputs, self.workspace, tell=self.tell))

    def _routers(self, branches: list[Branch]) -> MoguModel:
        for branch in branches:
            branch.check_responders()
        base_behavior = self._base_behavior()
        candidates = [candidate for branch in branches for candidate in branch.candidates()]
        write_json(self.workspace.folder / "candidates.json", [candidate.row() for candidate in candidates])
        chosen = best(candidates, base_behavior, self.recipe.choice.max_benign_loss)
        branch = next(branch for branch in branches if branch.layers == chosen.choice.layers)
        model = branch.model()
        try:
            branch.put_in_place(model, chosen.choice, chosen.unwill_offset)
            model.dial = chosen.dial
            seconds = {part: taken for one in branches for part, taken in one.seconds().items()}
            save_with_report(model, self.recipe, self.inputs, base_behavior, candidates, chosen, seconds)
        except BaseException:
            model.detach()
            raise
        return model

    def _base_behavior(self) -> Behavior:
        made_with = fingerprint(common_print(self.recipe, self.inputs), measure_print(self.recipe, self.inputs))
        record = self.workspace.measured("base", made_with)
        if record is None:
            behavior = try_out(self.base, self.recipe, self.inputs, "trying the base model")
            record = self.workspace.measure("base", made_with, behavior=asdict(behavior))
        return Behavior(**record["behavior"])
