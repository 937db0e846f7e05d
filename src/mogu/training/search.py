"""One set of routed layers on its way through the stages: its responders, its routers, and what each candidate does.

Knows how one set is trained and tried; knows nothing of other sets, nor of which candidate is kept.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.data import conversation_of
from mogu.errors import ConfigError
from mogu.files.json_files import fingerprint
from mogu.inference.prompts import template_fingerprint
from mogu.modeling.adapter_files import read_adapter, read_routers, write_adapter, write_routers
from mogu.modeling.checkpoint import BACKBONE, ROUTER_FILE
from mogu.modeling.config import BackboneConfig, MoguConfig
from mogu.modeling.model import MoguModel
from mogu.modeling.prompt_contract import record_prompt
from mogu.training.collator import Layout
from mogu.training.inputs import Inputs, ResponderName
from mogu.training.recipe import Recipe
from mogu.training.selection import Behavior, Candidate, Choice, behavior_on, spans
from mogu.training.stages import StageSetting, train_responder, train_router
from mogu.training.trainer import step_at, steps_of
from mogu.training.workspace import Workspace

Tell = Callable[[str], None]


def routed_config(recipe: Recipe, tokenizer: PreTrainedTokenizerBase | None = None, layers: tuple[int, ...] | None = None) -> MoguConfig:
    """The config of the model that a recipe makes.

    Args:
        recipe: the recipe.
        tokenizer: whose chat template the model is trained with.
        layers: the routed ones; by default the recipe's.
    """
    settings = recipe.mogu.model_dump()
    if layers is not None:
        settings["layers"] = list(layers)
    config = MoguConfig(
        base_model=recipe.model.base,
        base_revision=recipe.model.revision,
        backbone=BackboneConfig(**recipe.backbone.model_dump(exclude={"learning_rate"})) if recipe.method == "v2" else None,
        **settings,
    )
    if tokenizer is not None:
        record_prompt(config, tokenizer, recipe.model.system_prompt)
    return config


def common_print(recipe: Recipe, inputs: Inputs) -> list[Any]:
    """What every part of a run depends on. What changes no number is left out: devices, how often checkpoints are saved."""
    model = recipe.model.that_counts
    return [inputs.train_print, template_fingerprint(inputs.tokenizer), model]


def measure_print(recipe: Recipe, inputs: Inputs) -> str:
    """What the measure of a model depends on."""
    return fingerprint(
        inputs.dev_print, recipe.choice.max_new_tokens, recipe.mogu.routed_tokens, recipe.mogu.handoff, recipe.mogu.answer_marker
    )


def try_out(model: Any, recipe: Recipe, inputs: Inputs, title: str) -> Behavior:
    """What a model, plain or routed, does on the dev records."""
    behavior, _ = behavior_on(
        model,
        inputs.tokenizer,
        inputs.dev,
        max_new_tokens=recipe.choice.max_new_tokens,
        batch_size=recipe.choice.batch_size,
        system_prompt=recipe.model.system_prompt,
        title=title,
    )
    return behavior


@dataclass
class Branch:
    """One set of routed layers.

    Args:
        recipe: the recipe.
        base: the base model, plain; it is plain again whenever a method returns, but for :meth:`model`.
        inputs: the data.
        workspace: where parts are kept.
        layout: how two answers of one prompt are laid out.
        layers: the set, where the run compares several; ``None`` is the recipe's.
        resume: go on from the last checkpoint of a part that was stopped.
        tell: is told what happens.
    """

    recipe: Recipe
    base: PreTrainedModel
    inputs: Inputs
    workspace: Workspace
    layout: Layout
    layers: tuple[int, ...] | None
    resume: bool
    tell: Tell

    def __post_init__(self) -> None:
        self.config = routed_config(self.recipe, self.inputs.tokenizer, self.layers)
        self.setting = StageSetting(self.recipe.run, self.config, self.layout, self.inputs.pad_token_id)
        self.title = "" if self.layers is None else f" of layers {spans(self.layers)}"

    def train_responder(self, name: ResponderName) -> None:
        """Train a responder, unless it is trained already."""
        made_with, part = self._responder_print(name), self._responder_part(name)
        if self.workspace.finished(part, made_with) is not None:
            self.tell(f"The {name} responder{self.title} is trained already.")
            return
        folder = self.workspace.begin(part, made_with, resume=self.resume)
        started = time.monotonic()
        examples, stage = self.inputs.examples[name], getattr(self.recipe, name)
        train_responder(name, self.base, examples, stage, self.setting, folder, self.recipe.choice.checkpoints)
        self.workspace.finish(part, made_with, seconds=time.monotonic() - started)

    def check_responders(self) -> None:
        """Refuse to go on without responders.

        Raises:
            ConfigError: one is not trained yet.
        """
        for name in ("glad", "unwill"):
            if self.workspace.finished(self._responder_part(name), self._responder_print(name)) is None:
                raise ConfigError(
                    f"The {name} responder{self.title} is not trained yet",
                    expected="both responders, before the routers",
                    action=f"run without --stage, or with --stage {name} first",
                )

    def model(self) -> MoguModel:
        """A routed model of this set on the base model, its parts still to be put in place."""
        model = MoguModel.from_base(self.base, self.config)
        model.tokenizer = self.inputs.tokenizer
        return model

    def candidates(self) -> list[Candidate]:
        """Every combination, trained and tried."""
        model = self.model()
        try:
            return [candidate for choice in self._choices() for candidate in self._candidates(model, choice)]
        finally:
            model.detach()

    def put_in_place(self, model: MoguModel, choice: Choice, unwill_offset: float) -> None:
        """Give a model of this set the parts of a combination."""
        self._set_responders(model, choice)
        folder = self.workspace.folder / self._router_part(choice)
        if self.config.backbone is not None:
            model.set_backbone(read_adapter(folder / BACKBONE))
        routers = read_routers(folder / ROUTER_FILE, model.routed_layer_indices, model.routed_layers[0].in_features)
        for index, layer in zip(model.routed_layer_indices, model.routed_layers, strict=True):
            vectors, biases = routers[index]
            layer.set_router(vectors, biases + torch.tensor([unwill_offset, 0.0]))

    def seconds(self) -> dict[str, float]:
        """Training time of each part."""
        names: tuple[ResponderName, ...] = ("glad", "unwill")
        parts = {f"{name}{self.title}": self.workspace.finished(self._responder_part(name), self._responder_print(name)) for name in names}
        for choice in self._choices():
            parts[f"router ({choice})"] = self.workspace.finished(self._router_part(choice), self._router_print(choice))
        return {part: record["seconds"] for part, record in parts.items() if record is not None}

    def _choices(self) -> list[Choice]:
        """Every λ with the responders at every share of their training; equal steps are tried once."""
        recipe, examples = self.recipe, self.inputs.examples
        glad, unwill = (steps_of(getattr(recipe, name), len(examples[name])) for name in ("glad", "unwill"))
        pairs = dict.fromkeys((step_at(share, glad), step_at(share, unwill)) for share in recipe.choice.checkpoints)
        penalties = dict.fromkeys(recipe.choice.weight_penalties)
        return [Choice(*pair, penalty, self.layers) for pair in pairs for penalty in penalties]

    def _candidates(self, model: MoguModel, choice: Choice) -> list[Candidate]:
        """Train a combination, unless it is trained already, and try it with every offset at every dial."""
        part, made_with = self._router_part(choice), self._router_print(choice)
        if self.workspace.finished(part, made_with) is None:
            self._train_router(model, choice)
        offsets, dials = self.recipe.choice.unwill_offsets, self.recipe.choice.dials
        measured_with = fingerprint(made_with, measure_print(self.recipe, self.inputs), offsets, dials)
        record = self.workspace.measured(part, measured_with)
        if record is None:
            tried = [self._tried(model, choice, *point) for point in itertools.product(dict.fromkeys(offsets), dict.fromkeys(dials))]
            record = self.workspace.measure(part, measured_with, tried=tried)
        candidates = [Candidate(choice, **{**one, "behavior": Behavior(**one["behavior"])}) for one in record["tried"]]
        for candidate in candidates:
            seen = candidate.behavior
            self.tell(f"{candidate}: malicious refused {seen.malicious_refused:.0%}, benign answered {seen.benign_answered:.0%}")
        return candidates

    def _train_router(self, model: MoguModel, choice: Choice) -> None:
        part, made_with = self._router_part(choice), self._router_print(choice)
        folder = self.workspace.begin(part, made_with, resume=self.resume)
        started = time.monotonic()
        self._set_responders(model, choice)
        examples = self.inputs.examples["router"]
        train_router(
            model,
            examples,
            self.recipe.router,
            choice.weight_penalty,
            self.setting,
            folder,
            title=f"router ({choice})",
            backbone_rate=self.recipe.backbone.learning_rate,
        )
        backbone = model.backbone()
        if backbone is not None:
            write_adapter(folder / BACKBONE, backbone, base_model=self.config.base_model)
        layers = zip(model.routed_layer_indices, model.routed_layers, strict=True)
        write_routers(folder / ROUTER_FILE, {index: layer.folded_router() for index, layer in layers})
        self.workspace.finish(part, made_with, seconds=time.monotonic() - started)

    def _tried(self, model: MoguModel, choice: Choice, unwill_offset: float, dial: float) -> dict[str, Any]:
        self.put_in_place(model, choice, unwill_offset)
        before, model.dial = model.dial, dial
        try:
            behavior = try_out(model, self.recipe, self.inputs, f"trying ({choice}, offset {unwill_offset:g}, δ {dial:g})")
            separation = self._separation(model)
            return {"unwill_offset": unwill_offset, "dial": dial, "behavior": asdict(behavior), "separation": separation}
        finally:
            model.dial = before

    def _separation(self, model: MoguModel) -> float:
        scores = model.score([conversation_of(record, self.recipe.model.system_prompt) for record in self.inputs.dev])
        malicious = torch.tensor([record.label == "malicious" for record in self.inputs.dev])
        return float(scores[malicious].mean() - scores[~malicious].mean())

    def _set_responders(self, model: MoguModel, choice: Choice) -> None:
        steps: dict[ResponderName, int] = {"glad": choice.glad_step, "unwill": choice.unwill_step}
        for name, step in steps.items():
            model.set_responder(name, read_adapter(self.workspace.folder / self._responder_part(name) / f"step-{step}"))

    def _responder_part(self, name: ResponderName) -> str:
        return name if self.layers is None else f"{name}/layers-{spans(self.layers)}"

    @staticmethod
    def _router_part(choice: Choice) -> str:
        return f"router/{choice.folder_name}"

    def _responder_print(self, name: ResponderName) -> str:
        run, routed = self.recipe.run, self.config
        lora = [routed.output_projection, routed.layers, routed.rank, routed.lora_alpha]
        stage = getattr(self.recipe, name).model_dump()
        common = common_print(self.recipe, self.inputs)
        return fingerprint(name, common, lora, stage, self.recipe.choice.checkpoints, run.seed, run.micro_batch_size)

    def _router_print(self, choice: Choice) -> str:
        responders = [self._responder_print("glad"), self._responder_print("unwill")]
        routed = self.config
        backbone = self.recipe.backbone.model_dump() if routed.backbone is not None else None
        made_of = [asdict(choice), responders, self.recipe.router.model_dump(), routed.router, routed.router_hidden, backbone]
        return fingerprint(*made_of)
