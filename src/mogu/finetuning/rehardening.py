"""A model that MoGU hardened, after its base was tuned: routers and responders as they were, one of them trained again, or both.

Knows saved models and the three stages; does not know how the base was tuned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.analysis.base_model import find_base
from mogu.data import Chat, Record
from mogu.files.disk_list import DiskList
from mogu.finetuning.data_mix import task_pairs
from mogu.finetuning.recipe import FinetuneRecipe, Keep
from mogu.modeling.checkpoint import read_config
from mogu.modeling.config import MoguConfig
from mogu.modeling.model import MoguModel
from mogu.training.pipeline import harden
from mogu.training.recipe import MoguSection, Recipe, Stage, recipe_from
from mogu.training.report import read_report

BASE_FOLDER = "base"
"""The folder of the tuned base, inside that of the hardened model that refers to it."""


_SECOND_OPINIONS = 0.15
"""For a gated model with a careful responder that has no report: the share of benign prompts that it may answer."""


@dataclass(frozen=True)
class HardenedModel:
    """A saved MoGU model.

    Args:
        folder: the folder it is in.
        config: its config.
    """

    folder: Path
    config: MoguConfig

    def on_base(self, base: PreTrainedModel) -> MoguModel:
        """Put its routers and responders, unchanged, on another base of the same shape.

        Raises:
            ModelFileError: they do not fit that base.
        """
        return MoguModel.from_pretrained(self.folder, base_model=base)

    def recipe(self, recipe: FinetuneRecipe, output: Path) -> Recipe:
        """The recipe it was hardened with, or the published one if there is no report, for its tuned base."""
        report = read_report(self.folder)
        tree: dict[str, Any] = dict(report["recipe"]) if report is not None else self._settings()
        # The model itself says how many tokens it routes: reports of earlier releases wrote null for all.
        routed_tokens = self.config.routed_tokens
        tree["mogu"] = {**tree.get("mogu", {}), "routed_tokens": "all" if routed_tokens is None else routed_tokens}
        section, run = recipe.model, recipe.run
        tree["model"] = section.model_dump() | {"base": str(recipe.run.output / BASE_FOLDER), "revision": None}
        tree["data"] = {"train": str(recipe.safety.pairs)}
        tree["run"] = {**tree.get("run", {}), "output": output, "work": None, "seed": run.seed, "save_steps": run.save_steps}
        tree["run"] |= {"max_length": run.max_length, "micro_batch_size": run.micro_batch_size}
        for stage in ("glad", "unwill", "router") if self.config.gate is None else ("unwill", "careful"):
            settings = tree.get(stage, {})
            epochs = settings.get("epochs", Stage.model_fields["epochs"].default)
            tree[stage] = {**settings, "epochs": epochs * recipe.keep.epochs_share}
        return recipe_from(tree, source=f"of {self.folder}")

    def retrained(
        self,
        mode: Keep,
        recipe: FinetuneRecipe,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        pairs: Mapping[Literal["train", "dev"], Sequence[Record]],
        chats: Sequence[Chat],
        output: Path,
    ) -> MoguModel:
        """Train responders and routers, or routers alone, on the tuned base by the stages of ``mogu train``, with this model's settings.

        As many conversations as there are benign pairs are added to the pairs: routers that never saw the task refuse it, or spoil
        its first words.
        """
        benign = sum(record.label == "benign" for record in pairs["train"])
        train = DiskList(chain(pairs["train"], task_pairs(chats, benign, recipe.run.seed)))
        records = {"train": train, "dev": pairs["dev"]}
        taken_over = self.folder if mode == "routers" else None
        settings = self.recipe(recipe, output)
        if taken_over is not None:
            settings = self._around_these_responders(settings, base.config.get_text_config().num_hidden_layers)
        model = harden(settings, base=base, tokenizer=tokenizer, records=records, responders=taken_over, resume=True)
        assert model is not None  # all stages were run
        return model

    def _around_these_responders(self, recipe: Recipe, decoder_layers: int) -> Recipe:
        """The recipe with the one set of layers that the responders are for, and the one state that they are in."""
        layers = self.config.layers
        update: dict[str, Any] = {
            "mogu": recipe.mogu.model_copy(update={"layers": layers}),
            "choice": recipe.choice.model_copy(update={"checkpoints": [1.0]}),
        }
        if recipe.method == "v2":  # all of the layers that there are to choose from
            count = decoder_layers if layers is None else len(layers)
            update["probe"] = recipe.probe.model_copy(update={"top": [count], "thresholds": []})
        return recipe.model_copy(update=update)

    def _settings(self) -> dict[str, Any]:
        known, backbone = self.config.model_dump(), self.config.backbone
        tree: dict[str, Any] = {"method": self.config.method, "mogu": {name: known[name] for name in MoguSection.model_fields}}
        if self.config.gate is not None:
            careful = {} if self.config.careful is None else {"careful": self.config.careful.model_dump()}
            return {**tree, "gate": {"second_opinions": _SECOND_OPINIONS if careful else 0}, **careful}
        return tree if backbone is None else {**tree, "backbone": backbone.model_dump()}


def resolved(recipe: FinetuneRecipe) -> tuple[FinetuneRecipe, HardenedModel | None]:
    """Name a plain model in the recipe: keep the one it names, or replace a saved MoGU model by its base and trained system prompt.

    Raises:
        MoguError: there is no such model, its config is broken, or nothing says which base it has.
    """
    section = recipe.model
    base = find_base(section.base, None)
    if base.saved is None:
        return recipe, None
    folder, config = base.saved
    update = {
        "base": base.name,
        "revision": config.base_revision,
        "system_prompt": section.system_prompt or read_config(folder).system_prompt,
    }
    return recipe.model_copy(update={"model": section.model_copy(update=update)}), HardenedModel(folder, config)


def rehardening_modes(recipe: FinetuneRecipe) -> Sequence[Keep]:
    """List what is tried, in order; without pairs there is nothing to retrain with."""
    return tuple(dict.fromkeys(recipe.keep.ways)) if recipe.safety.pairs is not None else ("carry",)
