"""From a recipe to a gated model: gate, stream head, responders, thresholds, choice, save.

Knows the order of the steps; each step itself is elsewhere in this package.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.data import conversation_of
from mogu.files.json_files import fingerprint, read_json, write_json
from mogu.inference.padding import padding_id
from mogu.inference.prompts import encode_prompts
from mogu.inference.turns import TurnMarks, find_turn_marks
from mogu.modeling.adapter_files import read_adapter, read_gate, write_adapter, write_gate
from mogu.modeling.architectures import Projection
from mogu.modeling.checkpoint import ROUTER_FILE
from mogu.modeling.config import BackboneConfig, GateConfig, MoguConfig
from mogu.modeling.gated.gate import Gate
from mogu.modeling.gated.injection import expert_shape, find_expert_modules
from mogu.modeling.gated.model import GatedModel
from mogu.modeling.model import MoguModel
from mogu.processes import on_main
from mogu.progress import progress_bars
from mogu.training.gated.choice import Answering, trial_at
from mogu.training.gated.fit import calibrated, default_taps, fit_gate, gate_logits, threshold_at
from mogu.training.gated.prompts import GatePrompt, gate_prompts
from mogu.training.gated.reading import read_answers, read_prompts
from mogu.training.gated.stream import alarms, fit_stream_head
from mogu.training.inputs import Inputs, StageName, common_fingerprint, metrics_fingerprint
from mogu.training.loss_curve import LossCurve
from mogu.training.loss_history import HISTORY_FILE
from mogu.training.losses import answer_losses
from mogu.training.recipe import Recipe, ResponderStage
from mogu.training.report import save_with_report
from mogu.training.search import dev_refusals, routed_config
from mogu.training.selection import DevMetrics, best_trial
from mogu.training.stages import StageSetting, train_lora
from mogu.training.workspace import Workspace

logger = logging.getLogger(__name__)

ExpertName = Literal["unwill", "careful"]
_Split = Literal["train", "dev"]
GATED_STAGES: tuple[StageName, ...] = ("gate", "listen", "unwill", "careful")
MEASURED_FORMAT = 1
_ADAPTER = "adapter"
_DEV_FILE = "dev.json"
_ALARM_FILE = "alarm.json"
_ANSWERS = {"train": 400, "dev": 150}  # of malicious and of other prompts, as they are and in another form, that are answered for the ear
_ANSWER_TOKENS = 32


@dataclass
class GatedRun:
    """One run of ``method = "gated"``.

    Args:
        recipe: the recipe.
        base: the base model, plain; it is plain again whenever a method returns, except for :meth:`run`.
        inputs: the data.
        workspace: where parts are kept.
        resume: whether to resume from the last checkpoint of a part that was stopped.
        responders: folder of a saved model whose responders are taken over instead of trained.
    """

    recipe: Recipe
    base: PreTrainedModel
    inputs: Inputs
    workspace: Workspace
    resume: bool
    responders: Path | None = None

    def __post_init__(self) -> None:
        self.marks = find_turn_marks(self.inputs.tokenizer)
        self.config = gated_config(self.recipe, self.marks, self.inputs.tokenizer)
        self.experts: tuple[ExpertName, ...] = ("unwill", "careful") if self.config.careful is not None else ("unwill",)
        layers = self.base.config.get_text_config().num_hidden_layers
        self.taps = sorted(set(self.recipe.gate.taps or default_taps(layers)))

    def run(self, stage: StageName | None) -> MoguModel | None:
        """Carry out the run, or one of its stages."""
        self.base.train(False)
        modules = find_expert_modules(self.base, self.config)  # what cannot be found comes to light before anything is trained
        if stage in (None, "gate"):
            self._fit_gate()
        if self.recipe.gate.listen and stage in (None, "listen"):
            self._fit_stream_head()
        for name in self.experts:
            if stage in (None, name):
                self._train_expert(name, modules[name])
        return self._finish() if stage is None else None

    def _fit_gate(self) -> None:
        settings = self._gate_fingerprint
        if self.workspace.finished("gate", settings) is not None:
            logger.info("The gate is fitted already.")
            return
        folder = self.workspace.begin("gate", settings, resume=self.resume)
        started = time.monotonic()
        on_main(lambda: self._write_gate(folder))
        self.workspace.finish("gate", settings, seconds=time.monotonic() - started, prompts=len(self._prompts["train"]))

    def _write_gate(self, folder: Path) -> None:
        train, dev = self._prompts["train"], self._prompts["dev"]
        section = self.recipe.gate
        states = self._read(self._encoded["train"], "the gate's prompts")
        gate = fit_gate(states, _malicious(train), self.taps, heads=section.heads, l2=section.l2, members=section.members)
        del states  # a gigabyte, for ten thousand prompts
        logits = gate_logits(gate, states := self._read(self._encoded["dev"], "the gate's dev prompts"))
        gate = calibrated(gate, logits, _malicious(dev))
        probabilities = gate_logits(gate, states).sigmoid()
        write_gate(folder / ROUTER_FILE, gate, None)
        write_json(folder / _DEV_FILE, {"probabilities": probabilities.tolist(), "kinds": [prompt.kind for prompt in dev]})
        logger.info("The gate hears %d prompts; on dev it tells malicious from others by %.3f.", len(train), _auroc(probabilities, dev))

    def _fit_stream_head(self) -> None:
        settings = self._listen_fingerprint
        if self.workspace.finished("listen", settings) is not None:
            logger.info("The stream head is fitted already.")
            return
        gate, _ = read_gate(self.workspace.folder / "gate" / ROUTER_FILE)
        folder = self.workspace.begin("listen", settings, resume=self.resume)
        started = time.monotonic()
        answers = on_main(lambda: self._write_stream_head(gate, folder))
        self.workspace.finish("listen", settings, seconds=time.monotonic() - started, answers=answers)

    def _write_stream_head(self, gate: Gate, folder: Path) -> int:
        """Write the gate again, with the head beside it; return how many answers the head was fitted to."""
        labels: dict[_Split, Tensor] = {}
        heard: dict[_Split, tuple[list[Tensor], Tensor]] = {}
        for split in ("train", "dev"):
            chosen = self._answered(split)
            labels[split] = _malicious([self._prompts[split][index] for index in chosen])
            encoded = [self._encoded[split][index] for index in chosen]
            logits = gate_logits(gate, self._read(encoded, f"the ear's {split} prompts"))
            heard[split] = self._read_answers(encoded, f"the ear's {split} answers"), logits
        head = fit_stream_head(*heard["train"], labels["train"], self.taps, l2=self.recipe.gate.l2)
        rung = alarms(head, *heard["dev"])
        threshold = threshold_at(rung[~labels["dev"]], self.recipe.gate.listen)
        write_gate(folder / ROUTER_FILE, gate, head)
        write_json(folder / _ALARM_FILE, {"threshold": threshold})
        found = float((rung[labels["dev"]] >= threshold).float().mean())
        logger.info("The ear takes back %.0f%% of the answers to malicious dev prompts; %.3f is its threshold.", 100 * found, threshold)
        return len(labels["train"])

    def _answered(self, split: _Split) -> list[int]:
        """The prompts of a split whose answers the ear learns from: as many of each label and form, drawn evenly."""
        found: list[int] = []
        for malicious, plain in product((True, False), repeat=2):
            of = [index for index, one in enumerate(self._prompts[split]) if (one.malicious, one.form == "plain") == (malicious, plain)]
            found += of[:: max(1, len(of) // _ANSWERS[split])][: _ANSWERS[split]]
        return found

    def _train_expert(self, name: ExpertName, modules: Sequence[Projection]) -> None:
        settings = self._expert_fingerprint(name)
        if self.workspace.finished(name, settings) is not None:
            logger.info("The %s responder is trained already.", name)
            return
        folder = self.workspace.begin(name, settings, resume=self.resume)
        started = time.monotonic()
        if self.responders is None:
            self._train_lora(name, modules, folder)
        else:
            adapter = read_adapter(self.responders / name)
            on_main(lambda: write_adapter(folder / _ADAPTER, adapter, base_model=self.config.base_model))
        self.workspace.finish(name, settings, seconds=time.monotonic() - started)

    def _train_lora(self, name: ExpertName, modules: Sequence[Projection], folder: Path) -> None:
        rank, alpha = expert_shape(self.config, name)
        # With one answer per prompt there is nothing for a row to share.
        setting = StageSetting(
            self.recipe.run,
            self.config.model_copy(update={"rank": rank, "lora_alpha": alpha}),
            "separate",
            padding_id(self.inputs.tokenizer, self.base),
        )
        train_lora(
            f"{name} responder",
            self.base,
            self.inputs.examples[name],
            answer_losses,
            self._stage(name),
            setting,
            folder,
            shares=[1.0],
            adapter_folder=lambda _: folder / _ADAPTER,
            projections=modules,
        )

    def _finish(self) -> MoguModel:
        model = self._model()
        try:
            # What the base model and each expert say on their own decides what any thresholds would give.
            answering: tuple[Answering, ...] = ("off", *self.experts, *(("listened",) if self.recipe.gate.listen else ()))
            refused = {mode: self._refused(model, mode) for mode in answering}
            base_metrics = DevMetrics.of(self.inputs.dev, refused["off"])
            scores = model.score([conversation_of(record, self.recipe.model.system_prompt) for record in self.inputs.dev])
            heard = self._dev_probabilities()
            lower = self.recipe.gate.second_opinions or None
            trials = [
                trial_at(share, lower, *heard, scores=scores.tolist(), refused=refused, dev=self.inputs.dev)
                for share in self.recipe.gate.false_alarms
            ]
            for trial in trials:
                logger.info("%s: %s", trial, trial.metrics)
            on_main(lambda: write_json(self.workspace.folder / "candidates.json", [trial.row() for trial in trials]))
            chosen = best_trial(trials, base_metrics, self.recipe.choice.max_benign_loss)
            self._use(model, chosen.refuse, chosen.careful)
            curve = LossCurve.of([self.workspace.folder / name / HISTORY_FILE for name in self.experts])
            seconds = self._seconds()
            on_main(lambda: save_with_report(model, self.recipe, self.inputs, base_metrics, trials, chosen, seconds, curve))
        except BaseException:
            model.detach()
            raise
        return model

    def _model(self) -> GatedModel:
        model = cast(GatedModel, MoguModel.from_base(self.base, self.config))
        model.tokenizer = self.inputs.tokenizer
        for name in self.experts:
            model.injected.set_responder(name, read_adapter(self.workspace.folder / name / _ADAPTER))
        part = "listen" if self.recipe.gate.listen else "gate"
        model.set_gate(*read_gate(self.workspace.folder / part / ROUTER_FILE))
        return model

    def _use(self, model: GatedModel, refuse: float, careful: float | None) -> None:
        listen = None
        if self.recipe.gate.listen:
            alarm = read_json(self.workspace.folder / "listen" / _ALARM_FILE)
            assert alarm is not None  # the stage is finished
            listen = alarm["threshold"]
        model.gate_config = model.gate_config.model_copy(update={"refuse": refuse, "careful": careful, "listen": listen})

    def _refused(self, model: GatedModel, mode: Answering) -> list[bool]:
        """Which dev prompts the base model, or an expert, refuses where it answers all of them; measured once."""
        experts = {"off": [], "listened": ["unwill"]}.get(mode, [mode])
        parts = [self._expert_fingerprint(cast(ExpertName, name)) for name in experts]
        if mode == "listened":
            parts.append(self._listen_fingerprint)
        measured_with = fingerprint(
            MEASURED_FORMAT, common_fingerprint(self.recipe, self.inputs), metrics_fingerprint(self.recipe, self.inputs), parts
        )
        part = f"dev/{mode}"
        record = self.workspace.measured(part, measured_with)
        if record is None:
            title = {"off": "trying the base model", "listened": "listening to the base model"}.get(mode, f"trying the {mode} responder")
            if mode == "listened":
                self._use(model, 1.0, None if self.config.careful is None else 1.0)  # a gate that flags nothing
            with model.routing("on" if mode == "listened" else mode):
                refused = dev_refusals(model, self.recipe, self.inputs, title)
            record = self.workspace.measure(part, measured_with, refused=refused)
        found: list[bool] = record["refused"]
        return found

    def _dev_probabilities(self) -> tuple[Tensor, Tensor]:
        """The gate's probabilities of malicious dev prompts, and of all others."""
        content = read_json(self.workspace.folder / "gate" / _DEV_FILE)
        assert content is not None  # the gate is finished
        malicious = torch.tensor([kind == "malicious" for kind in content["kinds"]])
        probabilities = torch.tensor(content["probabilities"])
        return probabilities[malicious], probabilities[~malicious]

    def _read(self, encoded: Sequence[list[int]], title: str) -> list[Tensor]:
        with progress_bars() as progress:
            task = progress.add_task(title, total=len(encoded), note="prompts")
            return read_prompts(
                self.base,
                encoded,
                taps=self.taps,
                marks=self.marks,
                pad_token_id=padding_id(self.inputs.tokenizer, self.base),
                batch_size=self.recipe.gate.batch_size,
                output_projection=self.recipe.mogu.output_projection,
                advance=lambda count: progress.advance(task, count),
            )

    def _read_answers(self, encoded: Sequence[list[int]], title: str) -> list[Tensor]:
        with progress_bars() as progress:
            task = progress.add_task(title, total=len(encoded), note="answers")
            return read_answers(
                self.base,
                self.inputs.tokenizer,
                encoded,
                taps=self.taps,
                max_new_tokens=_ANSWER_TOKENS,
                batch_size=self.recipe.choice.batch_size,
                output_projection=self.recipe.mogu.output_projection,
                advance=lambda count: progress.advance(task, count),
            )

    @cached_property
    def _prompts(self) -> dict[_Split, list[GatePrompt]]:
        return {
            "train": gate_prompts(self.recipe, self.inputs.train, "train"),
            "dev": gate_prompts(self.recipe, self.inputs.dev, "dev"),
        }

    @cached_property
    def _encoded(self) -> dict[_Split, list[list[int]]]:
        """Thousands of prompts, each through its template: once a run."""
        return {split: encode_prompts(self.inputs.tokenizer, [one.prompt for one in prompts]) for split, prompts in self._prompts.items()}

    def _stage(self, name: ExpertName) -> ResponderStage:
        return self.recipe.unwill if name == "unwill" else self.recipe.careful

    def _seconds(self) -> dict[str, float]:
        parts = {"gate": self.workspace.finished("gate", self._gate_fingerprint)}
        if self.recipe.gate.listen:
            parts["stream head"] = self.workspace.finished("listen", self._listen_fingerprint)
        parts |= {f"{name} responder": self.workspace.finished(name, self._expert_fingerprint(name)) for name in self.experts}
        return {part: record["seconds"] for part, record in parts.items() if record is not None}

    @cached_property
    def _gate_fingerprint(self) -> str:
        encoded = {
            split: [[ids, prompt.kind] for ids, prompt in zip(self._encoded[split], prompts, strict=True)]
            for split, prompts in self._prompts.items()
        }
        section = self.recipe.gate
        return fingerprint(
            "gate", encoded, self.recipe.model.that_counts, self.taps, [section.heads, section.members, section.l2], asdict(self.marks)
        )

    @cached_property
    def _listen_fingerprint(self) -> str:
        return fingerprint("listen", self._gate_fingerprint, self.recipe.gate.listen, _ANSWERS, _ANSWER_TOKENS)

    def _expert_fingerprint(self, name: ExpertName) -> str:
        run, config = self.recipe.run, self.config
        careful = config.careful.model_dump() if name == "careful" and config.careful is not None else None
        lora = [config.output_projection, config.layers, config.rank, config.lora_alpha, careful]
        common = common_fingerprint(self.recipe, self.inputs)
        return fingerprint(name, common, lora, self._stage(name).model_dump(), run.seed, run.micro_batch_size)


def gated_config(recipe: Recipe, marks: TurnMarks, tokenizer: PreTrainedTokenizerBase | None = None) -> MoguConfig:
    """The config of the model that a recipe makes, its thresholds still to be chosen; see :func:`mogu.training.search.routed_config`."""
    plain = routed_config(recipe, tokenizer)
    second = recipe.gate.second_opinions > 0
    careful = BackboneConfig(**recipe.careful.model_dump(include={"modules", "rank", "lora_alpha"})) if second else None
    gate = GateConfig(careful=0.5 if second else None, **asdict(marks))
    routed_tokens = recipe.mogu.routed_tokens if recipe.mogu.routed_tokens is not None else "all"
    return MoguConfig(**plain.model_dump() | {"gate": gate, "careful": careful, "routed_tokens": routed_tokens}).model_copy(
        update={"chat_template": plain.chat_template}
    )


def _malicious(prompts: Sequence[GatePrompt]) -> Tensor:
    return torch.tensor([prompt.malicious for prompt in prompts])


def _auroc(probabilities: Tensor, prompts: Sequence[GatePrompt]) -> float:
    """The chance that a malicious prompt has a higher probability than another one; ties count half."""
    malicious = _malicious(prompts)
    difference = probabilities[malicious][:, None] - probabilities[~malicious][None, :]
    return float((difference > 0).float().mean() + (difference == 0).float().mean() / 2)
