"""From a recipe to a hardened model: glad, unwill, router, choice, save.

Knows the order of things; each thing itself is done elsewhere in this package.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.chat import template_fingerprint
from mogu.config import MoguConfig
from mogu.data import Record, read_published, read_records, split_records
from mogu.errors import ConfigError, DataError
from mogu.hub import load_base, load_tokenizer
from mogu.model import MoguModel
from mogu.saved import read_adapter, read_routers, write_routers
from mogu.training.candidates import Behaviour, Candidate, behaviour_on, best
from mogu.training.examples import Example, conversation_of, responder_examples, router_examples
from mogu.training.layout import choose_layout
from mogu.training.recipe import Recipe
from mogu.training.report import save_with_report
from mogu.training.stages import StageSetting, train_responder, train_router
from mogu.training.trainer import quiet_transformers
from mogu.training.workspace import Workspace, fingerprint, write_json

StageName = Literal["glad", "unwill", "router"]
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
        resume: go on from the last checkpoint of an unfinished stage, instead of beginning the stage anew.
        restart: throw away all that an earlier run left.
        tell: is told what happens, a line at a time.

    Returns:
        The hardened model, or ``None`` after a responder stage alone.

    Raises:
        MoguError: settings, data or model cannot be used, or the loss is no longer a number.
    """
    records = records or load_records(recipe)
    _check_labels(records)
    workspace = Workspace(recipe.run.work_folder, restart=restart)
    if base is None:
        base = load_base(
            recipe.model.base,
            revision=recipe.model.revision,
            trust_remote_code=recipe.model.trust_remote_code,
            dtype=recipe.model.dtype if recipe.model.dtype == "auto" else getattr(torch, recipe.model.dtype),
            device_map=recipe.model.device_map,
        )
        if recipe.model.device_map is None and torch.cuda.is_available():
            base = base.to("cuda")  # type: ignore[arg-type]
    tokenizer = tokenizer or load_tokenizer(
        recipe.model.base, chat_template=recipe.model.chat_template, trust_remote_code=recipe.model.trust_remote_code
    )
    with quiet_transformers():
        return _Run(recipe, base, tokenizer, records, workspace, resume, tell).carry_out(stage)


def load_records(recipe: Recipe) -> dict[str, list[Record]]:
    """The training and dev records that a recipe names.

    Raises:
        DataError: a file cannot be used.
    """
    source = recipe.data.train
    train = read_published(source) if source.is_dir() else read_records(source)
    if recipe.data.dev is not None:
        return {"train": train, "dev": read_records(recipe.data.dev)}
    splits = split_records(train, dev=recipe.data.dev_share, test=0.0, seed=recipe.run.seed)
    return {"train": splits["train"], "dev": splits["dev"]}


def _check_labels(records: dict[str, list[Record]]) -> None:
    for split, some in records.items():
        labels = {record.label for record in some}
        if labels != {"benign", "malicious"}:
            raise DataError(
                f"The {split} records have {'no labels' if not labels else 'only the label ' + ', '.join(labels)}",
                expected="both benign and malicious records",
                action="add records of the other label: without both there is nothing to route between",
            )


def routed_config(recipe: Recipe, tokenizer: PreTrainedTokenizerBase | None = None) -> MoguConfig:
    """The config of the model that a recipe makes."""
    return MoguConfig(
        base_model=recipe.model.base,
        base_revision=recipe.model.revision,
        chat_template_sha256=template_fingerprint(tokenizer) if tokenizer is not None else None,
        **recipe.mogu.model_dump(),
    )


@dataclass
class _Run:
    recipe: Recipe
    base: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    records: dict[str, list[Record]]
    workspace: Workspace
    resume: bool
    tell: Tell
    seconds: dict[str, float] = field(default_factory=dict)

    def carry_out(self, stage: StageName | None) -> MoguModel | None:
        self.config = routed_config(self.recipe, self.tokenizer)
        self.data_print = fingerprint([record.model_dump() for record in self.records["train"]])
        pad = self.tokenizer.pad_token_id
        self.setting = StageSetting(
            self.recipe.run,
            self.config,
            choose_layout(self.base, self.base.config.get_text_config().vocab_size, 2 * self.recipe.run.max_length),
            pad if isinstance(pad, int) else 0,
            self.resume,
        )
        if stage in (None, "glad"):
            self._responder("glad")
        if stage in (None, "unwill"):
            self._responder("unwill")
        return self._routers() if stage in (None, "router") else None

    def _responder_print(self, name: Literal["glad", "unwill"]) -> str:
        recipe = self.recipe
        stage = getattr(recipe, name).model_dump()
        return fingerprint(name, self._common(), stage, recipe.choice.checkpoints)

    def _common(self) -> list[Any]:
        run = self.recipe.run
        model = self.recipe.model.model_dump(exclude={"device_map"})
        return [self.data_print, model, self.recipe.mogu.model_dump(), run.seed, run.max_length, run.micro_batch_size]

    def _responder(self, name: Literal["glad", "unwill"]) -> None:
        made_with = self._responder_print(name)
        if self.workspace.finished(name, made_with) is not None:
            self.tell(f"The {name} responder is trained already.")
            return
        label, wanted = ("malicious", "affirm") if name == "glad" else ("benign", "reject")
        chosen = [record for record in self.records["train"] if record.label == label]
        examples = responder_examples(
            self.tokenizer, chosen, wanted=wanted, max_length=self.recipe.run.max_length, system_prompt=self.recipe.model.system_prompt
        )
        folder = self.workspace.folder / name
        started = time.monotonic()
        train_responder(name, self.base, examples, getattr(self.recipe, name), self.setting, folder, self.recipe.choice.checkpoints)
        steps = sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))
        self.workspace.finish(name, made_with, steps=steps, seconds=time.monotonic() - started)

    def _routers(self) -> MoguModel:
        steps = {name: self._steps(name) for name in ("glad", "unwill")}
        examples = router_examples(
            self.tokenizer, self.records["train"], max_length=self.recipe.run.max_length, system_prompt=self.recipe.model.system_prompt
        )
        base_behaviour = self._base_behaviour()
        model = MoguModel.from_base(self.base, self.config)
        model.tokenizer = self.tokenizer
        try:
            candidates = [
                self._candidate(model, examples, glad_step, unwill_step, penalty)
                for glad_step, unwill_step in zip(steps["glad"], steps["unwill"], strict=True)
                for penalty in self.recipe.choice.weight_penalties
            ]
            chosen = best(candidates)
            self._put_in_place(model, chosen)
        except BaseException:
            model.detach()
            raise
        write_json(self.workspace.folder / "candidates.json", [candidate.row() for candidate in candidates])
        seconds = {name: json_seconds(self.workspace, name, self._responder_print(name)) for name in ("glad", "unwill")}
        save_with_report(model, self.recipe, self.records, base_behaviour, candidates, chosen, {**seconds, **self.seconds})
        self.tell(f"Saved to {self.recipe.run.output}.")
        return model.eval()

    def _steps(self, name: Literal["glad", "unwill"]) -> list[int]:
        record = self.workspace.finished(name, self._responder_print(name))
        if record is None:
            raise ConfigError(
                f"The {name} responder is not trained yet",
                expected="both responders, before the routers",
                action=f"run without --stage, or with --stage {name} first",
            )
        taken: list[int] = record["steps"]
        return taken

    def _base_behaviour(self) -> Behaviour:
        made_with = fingerprint("base", self._common(), self._dev_print())
        record = self.workspace.finished("base", made_with)
        if record is None:
            behaviour = self._behaviour(self.base)
            record = self.workspace.finish("base", made_with, behaviour=vars(behaviour))
        return Behaviour(**record["behaviour"])

    def _dev_print(self) -> str:
        choice = self.recipe.choice
        return fingerprint([record.model_dump() for record in self.records["dev"]], choice.max_new_tokens)

    def _behaviour(self, model: Any) -> Behaviour:
        choice = self.recipe.choice
        behaviour, _ = behaviour_on(
            model,
            self.tokenizer,
            self.records["dev"],
            max_new_tokens=choice.max_new_tokens,
            batch_size=choice.batch_size,
            system_prompt=self.recipe.model.system_prompt,
        )
        return behaviour

    def _candidate(self, model: MoguModel, examples: Sequence[Example], glad_step: int, unwill_step: int, penalty: float) -> Candidate:
        part = f"router/glad-{glad_step}-unwill-{unwill_step}-penalty-{penalty:g}"
        responders = [self._responder_print("glad"), self._responder_print("unwill")]
        made_with = fingerprint(part, responders, self.recipe.router.model_dump(), self._dev_print())
        record = self.workspace.finished(part, made_with)
        if record is None:
            folder = self.workspace.folder / part
            started = time.monotonic()
            self._set_responders(model, glad_step, unwill_step)
            title = f"router, steps {glad_step}/{unwill_step}, λ {penalty:g}"
            train_router(model, examples, self.recipe.router, penalty, self.setting, folder, title=title)
            model.eval()
            layers = zip(model.routed_layer_indices, model.routed_layers, strict=True)
            write_routers(folder / "router.safetensors", {index: layer.folded_router() for index, layer in layers})
            behaviour = self._behaviour(model)
            record = self.workspace.finish(
                part, made_with, behaviour=vars(behaviour), separation=self._separation(model), seconds=time.monotonic() - started
            )
        self.seconds[part] = record["seconds"]
        candidate = Candidate(glad_step, unwill_step, penalty, Behaviour(**record["behaviour"]), record["separation"])
        seen = candidate.behaviour
        self.tell(f"{part}: malicious refused {seen.malicious_refused:.0%}, benign answered {seen.benign_answered:.0%}")
        return candidate

    def _separation(self, model: MoguModel) -> float:
        system_prompt = self.recipe.model.system_prompt
        scores = model.score([conversation_of(record, system_prompt) for record in self.records["dev"]])
        malicious = torch.tensor([record.label == "malicious" for record in self.records["dev"]])
        return float(scores[malicious].mean() - scores[~malicious].mean())

    def _set_responders(self, model: MoguModel, glad_step: int, unwill_step: int) -> None:
        model.set_responder("glad", read_adapter(self.workspace.folder / "glad" / f"step-{glad_step}"))
        model.set_responder("unwill", read_adapter(self.workspace.folder / "unwill" / f"step-{unwill_step}"))

    def _put_in_place(self, model: MoguModel, chosen: Candidate) -> None:
        self._set_responders(model, chosen.glad_step, chosen.unwill_step)
        part = f"router/glad-{chosen.glad_step}-unwill-{chosen.unwill_step}-penalty-{chosen.weight_penalty:g}"
        file = self.workspace.folder / part / "router.safetensors"
        routers = read_routers(file, model.routed_layer_indices, model.routed_layers[0].in_features)
        for index, layer in zip(model.routed_layer_indices, model.routed_layers, strict=True):
            layer.set_router(*routers[index])


def json_seconds(workspace: Workspace, part: str, made_with: str) -> float:
    """How long a finished part took, in seconds."""
    record = workspace.finished(part, made_with)
    return float(record["seconds"]) if record else 0.0
