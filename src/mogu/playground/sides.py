"""Who can answer in a playground: hardened models, the plain models below them, and other defenses, on one copy of each base's weights.

Knows how models and defenses are loaded; knows nothing of conversations or pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from mogu.defenses import Defense, TargetModel, defense_info, make_defense
from mogu.errors import ConfigError
from mogu.hub import fetch_model_folder
from mogu.modeling.base_model import base_name
from mogu.modeling.checkpoint import CONFIG_FILE, Checkpoint
from mogu.modeling.gated.model import GatedModel
from mogu.modeling.loading import chosen_quantization, load_model, load_prepared_tokenizer
from mogu.modeling.model import MoguModel
from mogu.recipes.settings import Quantization

Kind = Literal["plain", "hardened", "defense"]


@dataclass(frozen=True, eq=False)
class Side:
    """One who answers.

    Args:
        name: unique in a playground; what people choose it by.
        kind: a plain base model, a hardened model, or another defense.
        model: what generates; the two sides of one hardened model have the same.
        tokenizer: its tokenizer.
        folder: of the saved model; ``None`` where there is none.
        defense: what answers instead of the model alone.
    """

    name: str
    kind: Kind
    model: Any
    tokenizer: PreTrainedTokenizerBase
    folder: Path | None = None
    defense: Defense | None = None

    @property
    def hardened(self) -> MoguModel | None:
        """The hardened model that answers; ``None`` where none does."""
        return self.model if self.kind == "hardened" else None

    @property
    def streams_alone(self) -> bool:
        """Whether its answers cannot share a batch with another side's: a model that listens takes back what it has said, row by row."""
        return isinstance(self.model, GatedModel) and self.model.stream is not None and self.model.gate_config.listen is not None


def load_sides(
    names: Sequence[str],
    *,
    defenses: Sequence[str] = (),
    base_model: str | None = None,
    chat_template: Path | None = None,
    strict_base: bool = False,
    trust_remote_code: bool = False,
    quantization: str = "auto",
    **model_kwargs: Any,
) -> list[Side]:
    """Load models, each base once.

    Args:
        names: saved MoGU models or base models: folders, hub ids, or names that ``mogu models ls`` lists.
        defenses: names of defenses, on the base of the first model.
        base_model: where the bases of the saved models are now.
        chat_template: a Jinja file to use instead of the trained templates.
        strict_base: refuse a base model with other weights than in training.
        trust_remote_code: whether a base model's own code may run.
        quantization: the bits to load linear layers of base models in; by default those of training.
        model_kwargs: for ``AutoModelForCausalLM.from_pretrained``.

    Returns:
        For each model the plain one, unless it is there already, and the hardened one; then the defenses.

    Raises:
        ConfigError: a model or defense is named twice.
        MoguError: a model cannot be loaded, or a defense lacks what it needs.
    """
    prompt: dict[str, Any] = {"chat_template": chat_template, "trust_remote_code": trust_remote_code}
    sides: list[Side] = []
    bases: dict[tuple[str, str | None, Quantization | None], MoguModel] = {}
    for name in _once(names, "model"):
        label = _label(name)
        folder = fetch_model_folder(name, marker=CONFIG_FILE)
        if not (folder / CONFIG_FILE).is_file():
            loaded = load_model(name, quantization=quantization, **prompt, **model_kwargs)
            sides.append(Side(label, "plain", loaded.model, loaded.tokenizer))
            continue
        checkpoint = Checkpoint.read(folder)
        source = base_name(folder, checkpoint.config, base_model)
        loading: dict[str, Any] = {"base_model": base_model, "strict_base": strict_base, "quantization": quantization}
        key = source, checkpoint.config.base_revision, chosen_quantization(quantization, checkpoint.config.base_quantization)
        first = bases.get(key)
        if first is None:
            hardened = load_model(name, **loading, **prompt, **model_kwargs).mogu
            assert hardened is not None  # its folder holds a config
            bases[key] = hardened
            base = _label(checkpoint.config.base_model or "")
            plain = f"{label}, plain" if base in ("", label, *(side.name for side in sides)) else base
            sides.append(Side(plain, "plain", hardened, hardened.tokenizer))
        else:
            hardened = MoguModel.from_checkpoint(checkpoint, first.plain_base_model(), strict_base=strict_base).eval()
            hardened.use_tokenizer(load_prepared_tokenizer(checkpoint.config, source, **prompt))
        sides.append(Side(label, "hardened", hardened, hardened.tokenizer, folder))
    return sides + [_defended(name, sides[-1] if len(sides) < 2 else sides[1]) for name in _once(defenses, "defense")]


def _defended(name: str, side: Side) -> Side:
    hardened = side.hardened
    base = side.model if hardened is None else hardened.plain_base_model()
    defense = make_defense(name, TargetModel(base, side.tokenizer, mogu=hardened))
    return Side(defense_info(name).label, "defense", base, side.tokenizer, defense=defense)


def _once(names: Sequence[str], what: str) -> Sequence[str]:
    twice = [name for name in dict.fromkeys(names) if list(map(_label, names)).count(_label(name)) > 1]
    if twice:
        raise ConfigError(f"The {what} {twice[0]} is named twice", expected=f"each {what} once", action="leave one of them out")
    return names


def _label(name: str) -> str:
    return Path(name).name or name
