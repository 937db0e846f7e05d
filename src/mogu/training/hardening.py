"""From a recipe to a hardened model: glad, unwill, router, choice, save.

Knows the order of things; each thing itself is done elsewhere in this package.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.architectures import find_output_projections
from mogu.chat import template_fingerprint
from mogu.config import MoguConfig
from mogu.data import Record, conversation_of
from mogu.errors import ConfigError
from mogu.hub import load_base, load_config
from mogu.model import MoguModel
from mogu.saved import ROUTER_FILE, read_adapter, read_routers, write_routers
from mogu.training.candidates import Behaviour, Candidate, Choice, behaviour_on, best
from mogu.training.inputs import Inputs, ResponderName, StageName, check_places, read_inputs
from mogu.training.layout import choose_layout
from mogu.training.progress import quiet_transformers
from mogu.training.recipe import ModelSection, Recipe
from mogu.training.report import save_with_report
from mogu.training.stages import StageSetting, train_responder, train_router
from mogu.training.trainer import step_at, steps_of
from mogu.training.workspace import Workspace, discard, fingerprint, write_json

Tell = Callable[[str], None]


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
            for part in (stage,) if stage else ("glad", "unwill", "router"):
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


def routed_config(recipe: Recipe, tokenizer: PreTrainedTokenizerBase | None = None) -> MoguConfig:
    """The config of the model that a recipe makes."""
    return MoguConfig(
        base_model=recipe.model.base,
        base_revision=recipe.model.revision,
        chat_template_sha256=template_fingerprint(tokenizer) if tokenizer is not None else None,
        **recipe.mogu.model_dump(),
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
        run = self.recipe.run
        self.base.train(False)
        self.config = routed_config(self.recipe, self.inputs.tokenizer)
        layout = choose_layout(self.base, 2 * run.max_length)
        self.setting = StageSetting(run, self.config, layout, self.inputs.pad_token_id)
        if stage in (None, "glad"):
            self._responder("glad")
        if stage in (None, "unwill"):
            self._responder("unwill")
        return self._routers() if stage in (None, "router") else None

    def _responder(self, name: ResponderName) -> None:
        made_with = self._responder_print(name)
        if self.workspace.finished(name, made_with) is not None:
            self.tell(f"The {name} responder is trained already.")
            return
        folder = self.workspace.begin(name, made_with, resume=self.resume)
        started = time.monotonic()
        train_responder(
            name,
            self.base,
            self.inputs.examples[name],
            getattr(self.recipe, name),
            self.setting,
            folder,
            self.recipe.choice.checkpoints,
        )
        self.workspace.finish(name, made_with, seconds=time.monotonic() - started)

    def _routers(self) -> MoguModel:
        for name in ("glad", "unwill"):
            if self.workspace.finished(name, self._responder_print(name)) is None:
                raise ConfigError(
                    f"The {name} responder is not trained yet",
                    expected="both responders, before the routers",
                    action=f"run without --stage, or with --stage {name} first",
                )
        base_behaviour = self._base_behaviour()
        model = MoguModel.from_base(self.base, self.config)
        model.tokenizer = self.inputs.tokenizer
        try:
            candidates = [candidate for choice in self._choices() for candidate in self._candidates(model, choice)]
            write_json(self.workspace.folder / "candidates.json", [candidate.row() for candidate in candidates])
            chosen = best(candidates, base_behaviour, self.recipe.choice.max_benign_loss)
            self._put_in_place(model, chosen.choice, chosen.unwill_offset)
            model.dial = chosen.dial
            save_with_report(model, self.recipe, self.inputs, base_behaviour, candidates, chosen, self._seconds())
        except BaseException:
            model.detach()
            raise
        return model

    def _choices(self) -> list[Choice]:
        """Every λ with the responders at every share of their training; equal steps are tried once."""
        recipe, examples = self.recipe, self.inputs.examples
        glad, unwill = (steps_of(getattr(recipe, name), len(examples[name])) for name in ("glad", "unwill"))
        pairs = dict.fromkeys((step_at(share, glad), step_at(share, unwill)) for share in recipe.choice.checkpoints)
        return [Choice(*pair, penalty) for pair in pairs for penalty in dict.fromkeys(recipe.choice.weight_penalties)]

    def _candidates(self, model: MoguModel, choice: Choice) -> list[Candidate]:
        """Train a combination, unless it is trained already, and try it with every offset at every dial."""
        part = f"router/{choice.folder_name}"
        made_with = self._router_print(choice)
        if self.workspace.finished(part, made_with) is None:
            folder = self.workspace.begin(part, made_with, resume=self.resume)
            started = time.monotonic()
            self._set_responders(model, choice)
            examples = self.inputs.examples["router"]
            train_router(model, examples, self.recipe.router, choice.weight_penalty, self.setting, folder, title=f"router ({choice})")
            layers = zip(model.routed_layer_indices, model.routed_layers, strict=True)
            write_routers(folder / ROUTER_FILE, {index: layer.folded_router() for index, layer in layers})
            self.workspace.finish(part, made_with, seconds=time.monotonic() - started)
        offsets, dials = self.recipe.choice.unwill_offsets, self.recipe.choice.dials
        measured_with = fingerprint(made_with, self._measure_print(), offsets, dials)
        record = self.workspace.measured(part, measured_with)
        if record is None:
            tried = [self._tried(model, choice, *point) for point in itertools.product(dict.fromkeys(offsets), dict.fromkeys(dials))]
            record = self.workspace.measure(part, measured_with, tried=tried)
        candidates = [Candidate(choice, **{**one, "behaviour": Behaviour(**one["behaviour"])}) for one in record["tried"]]
        for candidate in candidates:
            seen = candidate.behaviour
            self.tell(f"{candidate}: malicious refused {seen.malicious_refused:.0%}, benign answered {seen.benign_answered:.0%}")
        return candidates

    def _tried(self, model: MoguModel, choice: Choice, unwill_offset: float, dial: float) -> dict[str, Any]:
        self._put_in_place(model, choice, unwill_offset)
        before, model.dial = model.dial, dial
        try:
            behaviour = self._behaviour(model, f"trying ({choice}, offset {unwill_offset:g}, δ {dial:g})")
            separation = self._separation(model)
            return {"unwill_offset": unwill_offset, "dial": dial, "behaviour": asdict(behaviour), "separation": separation}
        finally:
            model.dial = before

    def _base_behaviour(self) -> Behaviour:
        made_with = fingerprint(self._common(), self._measure_print())
        record = self.workspace.measured("base", made_with)
        if record is None:
            record = self.workspace.measure("base", made_with, behaviour=asdict(self._behaviour(self.base, "trying the base model")))
        return Behaviour(**record["behaviour"])

    def _behaviour(self, model: Any, title: str) -> Behaviour:
        choice = self.recipe.choice
        behaviour, _ = behaviour_on(
            model,
            self.inputs.tokenizer,
            self.inputs.dev,
            max_new_tokens=choice.max_new_tokens,
            batch_size=choice.batch_size,
            system_prompt=self.recipe.model.system_prompt,
            title=title,
        )
        return behaviour

    def _separation(self, model: MoguModel) -> float:
        scores = model.score([conversation_of(record, self.recipe.model.system_prompt) for record in self.inputs.dev])
        malicious = torch.tensor([record.label == "malicious" for record in self.inputs.dev])
        return float(scores[malicious].mean() - scores[~malicious].mean())

    def _set_responders(self, model: MoguModel, choice: Choice) -> None:
        model.set_responder("glad", read_adapter(self.workspace.folder / "glad" / f"step-{choice.glad_step}"))
        model.set_responder("unwill", read_adapter(self.workspace.folder / "unwill" / f"step-{choice.unwill_step}"))

    def _put_in_place(self, model: MoguModel, choice: Choice, unwill_offset: float) -> None:
        self._set_responders(model, choice)
        file = self.workspace.folder / "router" / choice.folder_name / ROUTER_FILE
        routers = read_routers(file, model.routed_layer_indices, model.routed_layers[0].in_features)
        for index, layer in zip(model.routed_layer_indices, model.routed_layers, strict=True):
            vectors, biases = routers[index]
            layer.set_router(vectors, biases + torch.tensor([unwill_offset, 0.0]))

    def _seconds(self) -> dict[str, float]:
        parts = {name: self.workspace.finished(name, self._responder_print(name)) for name in ("glad", "unwill")}
        for choice in self._choices():
            parts[f"router ({choice})"] = self.workspace.finished(f"router/{choice.folder_name}", self._router_print(choice))
        return {part: record["seconds"] for part, record in parts.items() if record is not None}

    def _common(self) -> list[Any]:
        # What changes no number is left out: where the model lies on this machine's devices, how often it is saved.
        model = self.recipe.model.model_dump(exclude={"device_map", "chat_template", "trust_remote_code"})
        return [self.inputs.train_print, self.config.chat_template_sha256, model]

    def _responder_print(self, name: str) -> str:
        run, routed = self.recipe.run, self.recipe.mogu
        lora = [routed.output_projection, routed.layers, routed.rank, routed.lora_alpha]
        stage = getattr(self.recipe, name).model_dump()
        return fingerprint(name, self._common(), lora, stage, self.recipe.choice.checkpoints, run.seed, run.micro_batch_size)

    def _router_print(self, choice: Choice) -> str:
        responders = [self._responder_print("glad"), self._responder_print("unwill")]
        routed = self.recipe.mogu
        return fingerprint(asdict(choice), responders, self.recipe.router.model_dump(), routed.router, routed.router_hidden)

    def _measure_print(self) -> str:
        routed = self.recipe.mogu
        return fingerprint(self.inputs.dev_print, self.recipe.choice.max_new_tokens, routed.routed_tokens, routed.handoff)
