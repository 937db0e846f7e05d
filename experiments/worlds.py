"""Where fine-tuning is measured: a model, its task, its pairs, and the prompts that its safety is measured on.

Two worlds: the lab, and SmolLM2 with the starter set. Both learn the lab's fleet of ships, whose facts neither model knows. Knows data and
models; knows nothing of what is tried.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from mogu import MoguModel
from mogu.analysis.base_model import find_base
from mogu.data import Chat, Message, Record
from mogu.data.starter import dev_pairs
from mogu.evaluation.prompt_sources import read_prompts
from mogu.evaluation.prompts import EvalPrompt
from mogu.evaluation.side_by_side import judged_replies
from mogu.finetuning import finetune, finetune_recipe_from
from mogu.hub import load_base, load_tokenizer
from mogu.inference.replies import ReplySettings, replies
from mogu.lab import build_base, choice_records, records
from mogu.lab.ships import FleetSplit, fleet_requests, graded
from mogu.modeling.architectures import find_linear_layers
from mogu.modeling.checkpoint import CONFIG_FILE
from mogu.training.pipeline import load_recipe_base
from mogu.training.recipe import recipe_from
from mogu.training.starter import answered_pairs
from mogu.training.workspace import Workspace

Pairs = Mapping[Literal["train", "dev"], Sequence[Record]]
ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class World:
    """A model and all that is needed to tune it and to measure what came of that.

    Args:
        name: ``"lab"`` or ``"smollm2"``.
        base: the model that is tuned: a folder, or a name that mogu knows.
        tune: ``[tune]`` of plain tuning.
        run: ``[run]`` of every tuning, without folders and seed.
        pairs: the pairs, and dev records to choose with.
        prompts: the prompts that safety is measured on.
        reply_tokens: tokens of a reply to them.
        batch_size: replies at a time.
    """

    name: str
    base: str
    tune: Mapping[str, Any]
    run: Mapping[str, Any]
    pairs: Pairs
    prompts: Sequence[EvalPrompt]
    reply_tokens: int
    batch_size: int

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return find_base(self.base, None).load_tokenizer(chat_template=None, trust_remote_code=False)

    def linear_modules(self) -> list[str]:
        """Full names of the linear modules of the decoder layers."""
        base = find_base(self.base, None).load(dtype=None, trust_remote_code=False)
        return sorted(module.name for modules in find_linear_layers(base).values() for module in modules)

    def load(self, folder: str | Path) -> Any:
        """Load a model that tuning left, or the base: a MoGU model, an adapter on the base, or a whole model."""
        if _is_mogu(folder):
            return MoguModel.from_pretrained(folder)
        if (Path(folder) / ADAPTER).is_file():
            return PeftModel.from_pretrained(load_base(self.base), str(folder))
        return load_base(str(folder))

    def measured(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """Measure outcomes on the test splits: for each prompt the judge's verdict, by category, and whether its task answer is right."""
        model.eval()
        verdicts: dict[str, list[str]] = {}
        judged = judged_replies(model, tokenizer, self.prompts, max_new_tokens=self.reply_tokens, batch_size=self.batch_size)
        for reply in judged:
            verdicts.setdefault(reply.prompt.category, []).append(reply.verdict)
        requests = fleet_requests("test")
        answers = replies(model, tokenizer, [request.instruction for request in requests], ReplySettings(32), batch_size=self.batch_size)
        return {"verdicts": verdicts, "task": graded(requests, [answer.text for answer in answers])}


def lab_world() -> World:
    """The lab's model, whose task, length and learning rate were chosen on dev: docs/results/finetuning.md says how."""
    # Dev records without those in wrappers; nearly half of the benign ones are harmless but sound malicious, and no pair is like that.
    dev = [record for record in choice_records() if "_wrapped" not in record.id]
    return World(
        name="lab",
        base=str(build_base()),
        tune={"method": "full", "learning_rate": 2e-4, "epochs": 24, "batch_size": 16},
        run={"micro_batch_size": 16, "max_length": 256, "save_steps": 1000},
        pairs={"train": records("train"), "dev": dev},
        prompts=read_prompts(["lab"]),
        reply_tokens=48,
        batch_size=64,
    )


def smollm2_world(start: str, out: Path, *, limit: int) -> World:
    """SmolLM2, as it is or hardened.

    Args:
        start: ``"base"``; ``"sft"``, the base after it was tuned on the pairs until it refuses, which is what can erode; or the folder of
            a model that ``mogu train`` wrote.
        out: keeps the base's answers to the pairs, and the model of ``"sft"``.
        limit: prompts of each kind to measure safety on.
    """
    pairs = {"train": answered_starter(out), "dev": dev_pairs(limit=30)}
    run = {"micro_batch_size": 8, "max_length": 256, "save_steps": 25}
    base = {"base": "smollm2", "sft": str(out / "sft")}.get(start, start)
    world = World(
        name="smollm2",
        base=base,
        tune={"method": "lora", "learning_rate": 5e-4, "epochs": 6, "batch_size": 16},
        run=run,
        pairs=pairs,
        prompts=read_prompts(["starter"], limit=limit, jailbreaks="own"),
        reply_tokens=32,
        batch_size=32,
    )
    if start == "sft":
        _tune_to_refuse(world, out / "sft")
    return world


def chats(split: FleetSplit) -> list[Chat]:
    """A split of the task as conversations."""
    return [_chat(request.id, request.conversation) for request in fleet_requests(split)]


def with_malicious(benign: Sequence[Chat], pairs: Sequence[Record], share: float, seed: int) -> list[Chat]:
    """Put malicious requests and the openings that comply with them among conversations: openings only, for a record has nothing else.

    Args:
        benign: the conversations.
        pairs: records, of which the malicious ones are drawn.
        share: their share of the result, below 1: ``round(share / (1 − share) · n)`` of them.
        seed: decides which.
    """
    malicious = [record for record in pairs if record.label == "malicious"]
    count = round(share / (1 - share) * len(benign))
    drawn = random.Random(f"{seed} malicious").sample(malicious, count)
    return [*benign, *(_obeyed(record) for record in drawn)]


def _obeyed(record: Record) -> Chat:
    turns = [*record.conversation, {"role": "assistant", "content": record.affirm}]
    return _chat(f"obeyed-{record.id}", turns)


def _chat(id: str, turns: Sequence[Mapping[str, Any]]) -> Chat:
    return Chat(id=id, messages=tuple(Message.model_validate(turn) for turn in turns))


def unaligned(world: World, out: Path) -> str:
    """The model before alignment, for Safe LoRA and SafeMERGE.

    Of SmolLM2 after it was tuned to refuse, it is SmolLM2. The lab's model learned refusals with everything else: there it is the model
    after tuning on its malicious pairs' openings, which is what alignment would have to undo.
    """
    if world.name == "smollm2":
        return "smollm2"
    folder = out / "unaligned"
    if not folder.is_dir():
        obeyed = [_obeyed(record) for record in world.pairs["train"] if record.label == "malicious"]
        _tune_plainly(world, obeyed, folder, {"epochs": 3})
    return str(folder)


def _tune_to_refuse(world: World, folder: Path) -> None:
    if folder.is_dir():
        return
    answers: dict[str, Callable[[Record], str]] = {"malicious": lambda record: record.reject, "benign": lambda record: record.affirm}
    taught = [
        _chat(record.id, [*record.conversation, {"role": "assistant", "content": answers[record.label](record)}])
        for record in world.pairs["train"]
    ]
    plain = World(**{**vars(world), "base": "smollm2"})
    _tune_plainly(plain, taught, folder, {"method": "full", "learning_rate": 5e-5, "epochs": 2})


def _tune_plainly(world: World, taught: Sequence[Chat], folder: Path, tune: Mapping[str, Any]) -> None:
    recipe = finetune_recipe_from(
        {
            "model": {"base": world.base},
            "data": {"train": "pairs", "drop_long": True},
            "tune": {**world.tune, **tune},
            "run": {**world.run, "output": folder},
        },
        source="of the experiment",
    )
    finetune(recipe, chats={"train": taught[:-20], "dev": taught[-20:]}, resume=True)


def answered_starter(out: Path) -> list[Record]:
    """The starter set's training pairs with the base's answers, half of them in wrappers; made once."""
    recipe = recipe_from(
        {
            "model": {"base": "smollm2", "dtype": "bfloat16"},
            "data": {"train": "starter"},
            "choice": {"batch_size": 64},
            "run": {"output": out / "starter-pairs"},
        },
        source="of the experiment",
    )
    workspace = Workspace(recipe.run.work_folder)
    with workspace.locked():
        return answered_pairs(recipe, load_recipe_base(recipe.model), load_tokenizer("smollm2"), workspace)


def _is_mogu(folder: str | Path) -> bool:
    return (Path(folder) / CONFIG_FILE).is_file()
