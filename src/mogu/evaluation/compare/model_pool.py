"""The models of a comparison: one base in memory, and for each seed what was trained on it.

Trains what is missing and keeps it in the output folder. Knows recipes and saved models; knows nothing of prompts or judges.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mogu.data import Record
from mogu.defenses import TargetModel, custom_code_fingerprint
from mogu.errors import ConfigError
from mogu.evaluation.compare.config import LAB_MODEL, ROUTED, Comparison, Variant
from mogu.hub import fetch_model_folder, load_base, load_tokenizer
from mogu.lab import build_base
from mogu.lab.demo import LAB_RECORDS, lab_data, lab_recipe
from mogu.modeling.checkpoint import CONFIG_FILE, read_config
from mogu.modeling.model import MoguModel
from mogu.modeling.shared_weights import share_weights
from mogu.recipes import shipped_template
from mogu.training import Recipe, harden
from mogu.training.baselines import Part, train_baselines
from mogu.training.inputs import load_records
from mogu.training.recipe import Method, override, recipe_from
from mogu.training.report import REPORT_FILE, read_report, trained_system_prompt

PARTS: dict[str, tuple[Part, str]] = {
    "sft": ("sft", "sft"),
    "detect_inp": ("detector", "detector.json"),
    "safe_decoding": ("expert", "expert"),
}
"""The trained part that a defense needs, and the file or folder of the baselines that holds it."""

Tell = Callable[[str], None]


class Models:
    """The base model, loaded once, and around it what each seed has trained.

    Args:
        comparison: what is compared.
        tell: is told what happens, a line at a time.

    Raises:
        MoguError: a model cannot be loaded.
    """

    def __init__(self, comparison: Comparison, *, tell: Tell) -> None:
        self.comparison, self.tell = comparison, tell
        self.of_lab = comparison.model == LAB_MODEL
        if self.of_lab:
            self.source, revision = str(build_base()), None
        else:
            self.folder = fetch_model_folder(comparison.model, marker=CONFIG_FILE)
            self.folder_v2 = fetch_model_folder(comparison.v2, marker=CONFIG_FILE) if comparison.v2 is not None else self.folder
            config = read_config(self.folder)
            self.source = comparison.base_model or config.base_model or ""
            revision = config.base_revision if comparison.base_model is None else None
        dtype: Any = "auto" if comparison.dtype == "auto" else getattr(torch, comparison.dtype)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        trust = comparison.trust_remote_code
        self.base = load_base(self.source, revision=revision, trust_remote_code=trust, dtype=dtype, device_map={"": self.device})
        template = comparison.chat_template or (None if self.of_lab else self._saved_template())
        self.tokenizer = load_tokenizer(self.source, chat_template=template, trust_remote_code=trust)
        self._loaded: dict[tuple[int, str], MoguModel] = {}

    def prepare(self, seed: int) -> None:
        """Train what the seed needs and what is not there yet."""
        for defense in ROUTED:
            if self.of_lab and defense in self.comparison.named():
                self._harden(defense, seed)
        parts = [PARTS[name][0] for name in self.comparison.named() if name in PARTS]
        if not parts or self.comparison.baselines is not None:
            return
        recipe = self._recipe(seed)
        train_baselines(
            recipe,
            self.baselines_folder(seed),
            base=share_weights(self.base),
            tokenizer=self.tokenizer,
            records=self._records(recipe)["train"],
            parts=parts,
            resume=True,
        )

    def subject(self, seed: int, defense: str) -> TargetModel:
        """The model under test as a seed made it for a defense; its weights are shared with every other subject."""
        return TargetModel(
            self.base,
            self.tokenizer,
            mogu=self._mogu(seed, defense) if defense in ROUTED else None,
            baselines=self.baselines_folder(seed),
            system_prompt=self.system_prompt(),
        )

    def options(self, variant: Variant, seed: int) -> dict[str, float]:
        """Options that a variant's defense is made with."""
        return {} if variant.shift is None else {"dial": self._mogu(seed).dial + variant.shift}

    def dials(self) -> list[float]:
        """MoGU's own dial under each seed, where MoGU is compared."""
        seeds = range(self.comparison.seeds if self.of_lab else 1)
        return [self._mogu(seed).dial for seed in seeds] if "mogu" in self.comparison.named() else []

    def routed_layers(self) -> list[int]:
        """The decoder layers that MoGU routes, where MoGU is compared."""
        return self._mogu(0).routed_layer_indices if "mogu" in self.comparison.named() else []

    def model_folder(self, seed: int, defense: str = "mogu") -> Path:
        """Where the hardened model of a seed is, of V1 or of V2."""
        if self.of_lab:
            return self.comparison.out / "models" / f"seed-{seed}{'-v2' if defense == 'mogu_v2' else ''}"
        return self.folder_v2 if defense == "mogu_v2" else self.folder

    def baselines_folder(self, seed: int) -> Path:
        """Where the baselines of a seed are."""
        return self.comparison.baselines or self.comparison.out / "baselines" / f"seed-{seed}"

    def fingerprint(self, defense: str, seed: int) -> str:
        """SHA-256 of all that was trained for a defense, and of its code if it is the user's own."""
        digest = hashlib.sha256(f"{self.source} {self.comparison.dtype}".encode())
        digest.update((custom_code_fingerprint(defense) or "").encode())
        trained = [self.model_folder(seed, defense)] if defense in ROUTED else []
        trained += [self.baselines_folder(seed) / PARTS[defense][1]] if defense in PARTS else []
        for path in trained:
            files = sorted(path.rglob("*")) if path.is_dir() else [path]
            for file in files:
                if file.suffix in (".safetensors", ".json") and file.name != REPORT_FILE:
                    digest.update(file.name.encode() + file.read_bytes())
        return digest.hexdigest()

    def _mogu(self, seed: int, defense: str = "mogu") -> MoguModel:
        key = (seed if self.of_lab else 0, defense)
        if key not in self._loaded:
            model = self._loaded[key] = MoguModel.from_pretrained(self.model_folder(seed, defense), base_model=share_weights(self.base))
            model.tokenizer = self.tokenizer
            model.train(False)
        return self._loaded[key]

    def _harden(self, defense: str, seed: int) -> None:
        recipe = self._recipe(seed, defense)
        if (recipe.run.output / CONFIG_FILE).is_file():
            return
        self.tell(f"Seed {seed}: {defense} is trained")
        harden(recipe, base=share_weights(self.base), tokenizer=self.tokenizer, records=self._records(recipe), resume=True)

    def _recipe(self, seed: int, defense: str = "mogu") -> Recipe:
        """How the seed's models are trained: the lab's recipe, or the one that the saved model was trained with."""
        if self.of_lab:
            method: Method = "v2" if defense == "mogu_v2" else "v1"
            tree = lab_recipe(Path(self.source), self.model_folder(seed, defense), seed=seed, method=method).model_dump()
            for setting in self.comparison.settings:
                override(tree, setting)
            return recipe_from(tree, source="of the lab")
        report = read_report(self.folder)
        if report is None:
            raise ConfigError(
                f"{self.folder} holds no {REPORT_FILE}, which says how to train baselines beside it",
                expected="a model as `mogu train` writes it",
                action="name trained baselines with --baselines DIR, or choose --defenses that need none",
            )
        recipe = recipe_from(report["recipe"], source=str(self.folder / REPORT_FILE))
        run = recipe.run.model_copy(update={"seed": seed, "output": self.folder})
        return recipe.model_copy(update={"run": run})

    def _records(self, recipe: Recipe) -> dict[str, list[Record]]:
        if str(recipe.data.train) == LAB_RECORDS:
            return lab_data()
        return load_records(recipe)

    def _saved_template(self) -> Path | None:
        report = read_report(self.folder)
        named = report["recipe"]["model"]["chat_template"] if report is not None else None
        if named is None:
            return None
        return Path(named) if Path(named).is_file() else shipped_template(Path(named))

    def system_prompt(self) -> str | None:
        """The system prompt for conversations that have none."""
        return None if self.of_lab else trained_system_prompt(self.folder)
