"""The models of a comparison: one base in memory, and for each seed what was trained on it.

Trains what is missing and keeps it in the output folder. Knows recipes and saved models; knows nothing of prompts or judges.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from logging import getLogger
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.defenses import TargetModel, custom_code_fingerprint
from mogu.errors import ConfigError
from mogu.evaluation.compare.hardened import BaseSource, HardenedModel
from mogu.evaluation.compare.lineup import Lineup, Variant
from mogu.hub import load_base, load_config
from mogu.hub.quantization import in_words
from mogu.modeling.base_identity import differing_weights
from mogu.modeling.checkpoint import CONFIG_FILE
from mogu.modeling.loading import chosen_quantization, load_prepared_tokenizer
from mogu.modeling.model import MoguModel
from mogu.modeling.shared_weights import share_weights
from mogu.training.baselines import PARTS, Part, train_baselines
from mogu.training.report import REPORT_FILE

BASELINES = "baselines"
"""Stands for all of them where names of models say what is trained."""

logger = getLogger(__name__)


class ModelPool:
    """The base model, loaded once and not before it is needed, and around it what each seed has trained.

    Args:
        lineup: who is compared.

    Raises:
        MoguError: there is no such base model, or the models are on different ones.
    """

    def __init__(self, lineup: Lineup) -> None:
        self.lineup, self.comparison = lineup, lineup.comparison
        base = _shared_base(lineup)
        self.base_path, self.base_revision = base.path, base.revision
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.quantization = chosen_quantization(self.comparison.quantization, base.quantization)
        load_config(base.path, revision=base.revision, trust_remote_code=self.comparison.trust_remote_code)
        self._tokenizers: dict[str, PreTrainedTokenizerBase] = {}
        self._loaded: dict[tuple[str, int], MoguModel] = {}

    @cached_property
    def base(self) -> PreTrainedModel:
        """The base model."""
        return load_base(
            self.base_path,
            revision=self.base_revision,
            trust_remote_code=self.comparison.trust_remote_code,
            dtype="auto" if self.comparison.dtype == "auto" else getattr(torch, self.comparison.dtype),
            quantization=self.quantization,
            device_map={"": self.device},
        )

    @property
    def first_model(self) -> HardenedModel:
        """The model whose recipe and prompt the baselines share."""
        return self.lineup.models[0]

    def tokenizer(self, model: HardenedModel | None = None) -> PreTrainedTokenizerBase:
        """The base model's tokenizer with the prompt that a model was trained with, by default the first."""
        chosen = model or self.first_model
        if chosen.name not in self._tokenizers:
            self._tokenizers[chosen.name] = load_prepared_tokenizer(
                chosen.prompt(),
                self.base_path,
                revision=self.base_revision,
                chat_template=self.comparison.chat_template,
                trust_remote_code=self.comparison.trust_remote_code,
            )
        return self._tokenizers[chosen.name]

    def prepare(self, seed: int) -> None:
        """Train what the seed needs and what is not there yet."""
        for name in self.trainings():
            self.train(name, seed)

    def trainings(self) -> list[str]:
        """What is trained for each seed: models by their names, and :data:`BASELINES`."""
        models = dict.fromkeys(model.name for model in self._compared_models())
        return [*models, *([BASELINES] if self._parts() else [])]

    def is_trained(self, name: str, seed: int) -> bool:
        """Whether the files of a model or of the baselines are there; :meth:`train` finds out whether they are the right ones."""
        if name == BASELINES:
            return all((self.baselines_folder(seed) / part).exists() for part in self._parts())
        return (self._model(name).folder(seed) / CONFIG_FILE).is_file()

    def train(self, name: str, seed: int) -> None:
        """Train a model or the baselines of a seed, unless that is done."""
        if name != BASELINES:
            model = self._model(name)
            model.train(seed, self.base, self.tokenizer(model))
            return
        recipe = self.first_model.recipe(seed)
        base = share_weights(self.base)
        train_baselines(
            recipe,
            self.baselines_folder(seed),
            base=base,
            tokenizer=self.tokenizer(),
            records=self.first_model.records(recipe, base, self.tokenizer())["train"],
            parts=list(self._parts().values()),
            resume=True,
        )

    def target(self, system: str, seed: int) -> TargetModel:
        """The model under test as a seed made it for a row; its weights are shared with every other target."""
        model = self.lineup[system].model
        return TargetModel(
            self.base,
            self.tokenizer(model),
            mogu=self._mogu(model, seed) if model is not None else None,
            baselines=self.baselines_folder(seed),
        )

    def options(self, variant: Variant, seed: int) -> dict[str, float]:
        """Options that a variant's defense is made with."""
        model = self.lineup[variant.system].model
        return {} if variant.shift is None or model is None else {"dial": self._mogu(model, seed).dial + variant.shift}

    def dials(self) -> list[float]:
        """The own dial of the first model under each seed; none where no model is compared."""
        models = self._compared_models()[:1]
        return [self._mogu(model, seed).dial for model in models for seed in range(self.comparison.seeds if model.trained_per_seed else 1)]

    def routed_layers(self) -> list[int]:
        """The decoder layers that the first model routes; none where no model is compared."""
        return [layer for model in self._compared_models()[:1] for layer in self._mogu(model, 0).routed_layer_indices]

    def baselines_folder(self, seed: int) -> Path:
        """Where the baselines of a seed are."""
        return self.comparison.baselines or self.comparison.out / "baselines" / f"seed-{seed}"

    def fingerprint(self, system: str, seed: int) -> str:
        """SHA-256 of all that was trained for a row, and of its defense's code if that is the user's own."""
        digest = self._base_digest()
        row = self.lineup[system]
        digest.update((custom_code_fingerprint(row.defense.name) or "").encode())
        trained = [row.model.folder(seed)] if row.model is not None else []
        trained += [self.baselines_folder(seed) / row.defense.part] if row.defense.part is not None else []
        for path in filter(Path.exists, trained):
            files = sorted(path.rglob("*")) if path.is_dir() else [path]
            for file in files:
                if file.suffix in (".safetensors", ".json") and file.name != REPORT_FILE:
                    digest.update(file.name.encode() + file.read_bytes())
        return digest.hexdigest()

    def base_fingerprint(self) -> str:
        """SHA-256 of which base model is loaded, and how."""
        return self._base_digest().hexdigest()

    def _base_digest(self) -> hashlib._Hash:
        quantized = f" {self.quantization}" if self.quantization is not None else ""
        return hashlib.sha256(f"{self.base_path} {self.comparison.dtype}{quantized}".encode())

    def _compared_models(self) -> list[HardenedModel]:
        return [system.model for system in self.lineup.systems.values() if system.model is not None]

    def _model(self, name: str) -> HardenedModel:
        return next(model for model in self._compared_models() if model.name == name)

    def _parts(self) -> dict[str, Part]:
        """The parts of baselines that are trained here, by the files or folders that they are kept in."""
        if self.comparison.baselines is not None:
            return {}
        files = [system.defense.part for system in self.lineup.systems.values() if system.defense.part is not None]
        return {file: part for file in files for part in PARTS if part == Path(file).stem}

    def _mogu(self, model: HardenedModel, seed: int) -> MoguModel:
        key = (model.name, seed if model.trained_per_seed else 0)
        if key not in self._loaded:
            loaded = self._loaded[key] = MoguModel.from_pretrained(model.folder(seed), base_model=share_weights(self.base))
            loaded.use_tokenizer(self.tokenizer(model))
            loaded.train(False)
        return self._loaded[key]


def _shared_base(lineup: Lineup) -> BaseSource:
    """The base of all models.

    Raises:
        ConfigError: they are on different ones.
    """
    first, *others = lineup.models
    base = first.base()
    for model in others:
        other = model.base()
        if not _same(base, other):
            raise ConfigError(
                f"The models are on different base models: {first.label} on {_shown(base)}, {model.label} on {_shown(other)}",
                expected="models that were trained on one base",
                action="compare them separately; if the bases are the same, name where it is with --base-model",
            )
        if other.quantization != base.quantization and lineup.comparison.quantization == "auto":
            found = f"{first.label} was trained on its base with {in_words(base.quantization)}, {model.label} with "
            raise ConfigError(
                f"{found}{in_words(other.quantization)}",
                expected="models that share one base model in memory",
                action="compare them separately, or say with --quantization how to load it: none, 4bit or 8bit",
            )
    return base


def _same(first: BaseSource, second: BaseSource) -> bool:
    """Whether two models are on one base: by its weights where both kept some of them, else by where it is."""
    if first.weights and second.weights:
        return not differing_weights(first.weights, second.weights.items())
    return (_location(first.path), first.revision) == (_location(second.path), second.revision)


def _location(path: str) -> str:
    folder = Path(path).expanduser()
    return str(folder.resolve()) if folder.exists() else path


def _shown(base: BaseSource) -> str:
    return f"{base.path or 'an unnamed base'}{f' at {base.revision}' if base.revision else ''}"
