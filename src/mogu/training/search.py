"""One set of routed layers on its way through the stages: its responders, its routers, and what each combination of them does.

Knows how one set is trained and measured; does not know the other sets, nor which trial is kept.
"""

from __future__ import annotations

import itertools
import logging
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.data import conversation_of
from mogu.errors import ConfigError
from mogu.files.json_files import fingerprint
from mogu.hub import gguf_digest
from mogu.inference.padding import padding_id
from mogu.modeling.adapter_files import read_adapter, read_routers, write_adapter, write_routers
from mogu.modeling.checkpoint import BACKBONE, ROUTER_FILE
from mogu.modeling.config import BackboneConfig, MoguConfig
from mogu.modeling.model import MoguModel
from mogu.modeling.prompt_contract import record_prompt
from mogu.processes import on_main
from mogu.training.collator import Layout
from mogu.training.inputs import Inputs, ResponderName, common_fingerprint, metrics_fingerprint
from mogu.training.loss_history import HISTORY_FILE
from mogu.training.recipe import Recipe
from mogu.training.selection import DevMetrics, Trial, TrialConfig, refused_on_dev, spans
from mogu.training.stages import StageSetting, train_responder, train_router
from mogu.training.trainer import step_at, steps_of
from mogu.training.workspace import Workspace

logger = logging.getLogger(__name__)

MEASURED_FORMAT = 2
"""Of what is kept of a measurement: 1 had a separation for each offset."""


def routed_config(recipe: Recipe, tokenizer: PreTrainedTokenizerBase | None = None, layers: tuple[int, ...] | None = None) -> MoguConfig:
    """The config of the model that a recipe makes.

    Args:
        recipe: the recipe.
        tokenizer: the one whose chat template the model is trained with.
        layers: the routed layers; by default the recipe's.
    """
    settings = recipe.mogu.model_dump(exclude={"routed_tokens"})
    if layers is not None:
        settings["layers"] = list(layers)
    config = MoguConfig(
        base_model=recipe.model.base,
        base_revision=recipe.model.revision,
        base_sha256=gguf_digest(recipe.model.base),
        backbone=BackboneConfig(**recipe.backbone.model_dump(exclude={"learning_rate"})) if recipe.method == "v2" else None,
        routed_tokens=recipe.mogu.tokens_to_route,
        **settings,
    )
    if tokenizer is not None:
        record_prompt(config, tokenizer, recipe.model.system_prompt)
    return config


def dev_refusals(model: Any, recipe: Recipe, inputs: Inputs, title: str) -> list[bool]:
    """Which of the dev records' prompts a model, plain or routed, refuses."""
    return refused_on_dev(
        model,
        inputs.tokenizer,
        inputs.dev,
        max_new_tokens=recipe.choice.max_new_tokens,
        batch_size=recipe.choice.batch_size,
        system_prompt=recipe.model.system_prompt,
        title=title,
    )


def dev_metrics(model: Any, recipe: Recipe, inputs: Inputs, title: str) -> DevMetrics:
    """Measure what a model, plain or routed, does on the dev records."""
    return DevMetrics.of(inputs.dev, dev_refusals(model, recipe, inputs, title))


def base_on_dev(recipe: Recipe, base: PreTrainedModel, inputs: Inputs, workspace: Workspace) -> DevMetrics:
    """What the base model does on the dev records, measured once and kept in the working folder."""
    measured_with = fingerprint(common_fingerprint(recipe, inputs), metrics_fingerprint(recipe, inputs))
    record = workspace.measured("base", measured_with)
    if record is None:
        metrics = dev_metrics(base, recipe, inputs, "trying the base model")
        record = workspace.measure("base", measured_with, behavior=metrics.as_json())
    return DevMetrics(**record["behavior"])


@dataclass
class LayerSetSearch:
    """Train and measure every combination for one set of routed layers.

    Args:
        recipe: the recipe.
        base: the base model, plain; it is plain again whenever a method returns, except for :meth:`model`.
        inputs: the data.
        workspace: where parts are kept.
        layout: how two answers of one prompt are laid out.
        layers: the set, if the run compares several; ``None`` is the recipe's.
        resume: whether to resume from the last checkpoint of a part that was stopped.
        responders: folder of a saved model whose responders are taken over instead of trained.
    """

    recipe: Recipe
    base: PreTrainedModel
    inputs: Inputs
    workspace: Workspace
    layout: Layout
    layers: tuple[int, ...] | None
    resume: bool
    responders: Path | None = None

    def __post_init__(self) -> None:
        self.config = routed_config(self.recipe, self.inputs.tokenizer, self.layers)
        self.setting = StageSetting(self.recipe.run, self.config, self.layout, padding_id(self.inputs.tokenizer, self.base))
        self.title = "" if self.layers is None else f" of layers {spans(self.layers)}"

    def train_responder(self, name: ResponderName) -> None:
        """Train a responder, unless it is trained already."""
        part, settings = self._responder_part(name), self._responder_fingerprint(name)
        if self.workspace.finished(part, settings) is not None:
            logger.info("The %s responder%s is trained already.", name, self.title)
            return
        folder = self.workspace.begin(part, settings, resume=self.resume)
        started = time.monotonic()
        examples, stage, shares = self.inputs.examples[name], getattr(self.recipe, name), self.recipe.choice.checkpoints
        title = f"{name} responder{self.title}"
        if self.responders is None:
            train_responder(title, self.base, examples, stage, self.setting, folder, shares)
        else:
            steps = steps_of(stage, len(examples))
            for step in {step_at(share, steps) for share in shares}:
                on_main(partial(self._take_over, self.responders / name, folder / f"step-{step}"))
        self.workspace.finish(part, settings, seconds=time.monotonic() - started)

    def _take_over(self, responder: Path, folder: Path) -> None:
        write_adapter(folder, read_adapter(responder), base_model=self.config.base_model)

    def check_responders(self) -> None:
        """Refuse to train routers without responders.

        Raises:
            ConfigError: a responder is not trained yet.
        """
        for name in ("glad", "unwill"):
            if self.workspace.finished(self._responder_part(name), self._responder_fingerprint(name)) is None:
                raise ConfigError(
                    f"The {name} responder{self.title} is not trained yet",
                    expected="both responders, before the routers",
                    action=f"run `mogu train` without --stage, or with --stage {name} first",
                )

    def model(self) -> MoguModel:
        """Route the base model by this set; the parts are still to be loaded."""
        model = MoguModel.from_base(self.base, self.config)
        model.tokenizer = self.inputs.tokenizer
        return model

    def trials(self) -> list[Trial]:
        """Train and measure every combination."""
        model = self.model()
        try:
            return [trial for config in self._configs() for trial in self._trials(model, config)]
        finally:
            model.detach()

    def load_parts(self, model: MoguModel, config: TrialConfig, unwill_offset: float) -> None:
        """Give a model of this set the responders, backbone and routers of a combination."""
        self._set_responders(model, config)
        folder = self.workspace.folder / self._router_part(config)
        if self.config.backbone is not None:
            model.injected.set_backbone(read_adapter(folder / BACKBONE))
        layers = dict(zip(model.routed_layer_indices, model.routed_layers, strict=True))
        routers = read_routers(folder / ROUTER_FILE, {index: layer.in_features for index, layer in layers.items()})
        for index, layer in layers.items():
            vectors, biases = routers[index]
            layer.set_router(vectors, biases + torch.tensor([unwill_offset, 0.0]))

    def seconds(self) -> dict[str, float]:
        """Training time of each part."""
        names: tuple[ResponderName, ...] = ("glad", "unwill")
        parts = {
            f"{name}{self.title}": self.workspace.finished(self._responder_part(name), self._responder_fingerprint(name)) for name in names
        }
        for config in self._configs():
            parts[f"router ({config})"] = self.workspace.finished(self._router_part(config), self._router_fingerprint(config))
        return {part: record["seconds"] for part, record in parts.items() if record is not None}

    def loss_histories(self) -> list[Path]:
        """The files with the losses of each part, in the order of the stages."""
        names: tuple[ResponderName, ...] = ("glad", "unwill")
        parts = [self._responder_part(name) for name in names] + [self._router_part(config) for config in self._configs()]
        return [self.workspace.folder / part / HISTORY_FILE for part in parts]

    def _configs(self) -> list[TrialConfig]:
        """Every λ with the responders at every share of their training; equal steps are tried once."""
        recipe, examples = self.recipe, self.inputs.examples
        glad, unwill = (steps_of(getattr(recipe, name), len(examples[name])) for name in ("glad", "unwill"))
        pairs = dict.fromkeys((step_at(share, glad), step_at(share, unwill)) for share in recipe.choice.checkpoints)
        penalties = dict.fromkeys(recipe.choice.weight_penalties)
        return [TrialConfig(*pair, penalty, self.layers) for pair in pairs for penalty in penalties]

    def _trials(self, model: MoguModel, config: TrialConfig) -> list[Trial]:
        """Train a combination, unless it is trained already, and measure it with every offset at every dial."""
        part, settings = self._router_part(config), self._router_fingerprint(config)
        if self.workspace.finished(part, settings) is None:
            self._train_router(model, config)
        offsets, dials = self.recipe.choice.unwill_offsets, self.recipe.choice.dials
        measured_with = fingerprint(MEASURED_FORMAT, settings, metrics_fingerprint(self.recipe, self.inputs), offsets, dials)
        record = self.workspace.measured(part, measured_with)
        if record is None:
            points = itertools.product(dict.fromkeys(offsets), dict.fromkeys(dials))
            tried = [self._measured(model, config, *point) for point in points]
            record = self.workspace.measure(part, measured_with, separation=self._separation(model, config), tried=tried)
        trials = [
            Trial(config, row["unwill_offset"], row["dial"], DevMetrics(**row["behavior"]), record["separation"]) for row in record["tried"]
        ]
        for trial in trials:
            logger.info("%s: %s", trial, trial.metrics)
        return trials

    def _train_router(self, model: MoguModel, config: TrialConfig) -> None:
        part, settings = self._router_part(config), self._router_fingerprint(config)
        folder = self.workspace.begin(part, settings, resume=self.resume)
        started = time.monotonic()
        self._set_responders(model, config)
        train_router(
            model,
            self.inputs.examples["router"],
            self.recipe.router,
            config.weight_penalty,
            self.setting,
            folder,
            title=f"router ({config})",
            backbone_rate=self.recipe.backbone.learning_rate,
        )
        on_main(lambda: self._write_router(model, folder))
        self.workspace.finish(part, settings, seconds=time.monotonic() - started)

    def _write_router(self, model: MoguModel, folder: Path) -> None:
        backbone = model.injected.backbone()
        if backbone is not None:
            write_adapter(folder / BACKBONE, backbone, base_model=self.config.base_model)
        layers = zip(model.routed_layer_indices, model.routed_layers, strict=True)
        write_routers(folder / ROUTER_FILE, {index: layer.folded_router() for index, layer in layers})

    def _measured(self, model: MoguModel, config: TrialConfig, unwill_offset: float, dial: float) -> dict[str, Any]:
        self.load_parts(model, config, unwill_offset)
        before, model.dial = model.dial, dial
        try:
            metrics = dev_metrics(model, self.recipe, self.inputs, f"trying ({config}, offset {unwill_offset:g}, δ {dial:g})")
            return {"unwill_offset": unwill_offset, "dial": dial, "behavior": metrics.as_json()}
        finally:
            model.dial = before

    def _separation(self, model: MoguModel, config: TrialConfig) -> float:
        """Of the routers as they were trained: an offset or a dial moves the scores of both labels alike."""
        self.load_parts(model, config, 0.0)
        prompts = [conversation_of(record, self.recipe.model.system_prompt) for record in self.inputs.dev]
        scores = model.score(prompts, batch_size=self.recipe.choice.batch_size)
        malicious = torch.tensor([record.label == "malicious" for record in self.inputs.dev])
        return float(scores[malicious].mean() - scores[~malicious].mean())

    def _set_responders(self, model: MoguModel, config: TrialConfig) -> None:
        steps: dict[ResponderName, int] = {"glad": config.glad_step, "unwill": config.unwill_step}
        for name, step in steps.items():
            model.injected.set_responder(name, read_adapter(self.workspace.folder / self._responder_part(name) / f"step-{step}"))

    def _responder_part(self, name: ResponderName) -> str:
        return name if self.layers is None else f"{name}/layers-{spans(self.layers)}"

    @staticmethod
    def _router_part(config: TrialConfig) -> str:
        return f"router/{config.folder_name}"

    def _responder_fingerprint(self, name: ResponderName) -> str:
        run, routed = self.recipe.run, self.config
        lora = [routed.output_projection, routed.layers, routed.rank, routed.lora_alpha]
        stage = getattr(self.recipe, name).model_dump()
        common = common_fingerprint(self.recipe, self.inputs)
        return fingerprint(name, common, lora, stage, self.recipe.choice.checkpoints, run.seed, run.micro_batch_size)

    def _router_fingerprint(self, config: TrialConfig) -> str:
        responders = [self._responder_fingerprint("glad"), self._responder_fingerprint("unwill")]
        routed = self.config
        backbone = self.recipe.backbone.model_dump() if routed.backbone is not None else None
        return fingerprint(asdict(config), responders, self.recipe.router.model_dump(), routed.router, routed.router_hidden, backbone)
