"""The model that defenses protect: the base model and everything trained on it, sharing one copy of the weights.

Knows base models, saved MoGU models and folders of trained baselines; does not know how any defense answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.data import opened
from mogu.errors import ConfigError, ModelFileError
from mogu.inference.prompts import Conversation, encode_prompt
from mogu.modeling.loading import load_model
from mogu.modeling.model import MoguModel
from mogu.modeling.shared_weights import share_weights


class TargetModel:
    """A base model and the models trained on it.

    Each of them is a separate module over the same weights, so routing one or adding a LoRA to another leaves the base
    model unchanged.

    Args:
        base: the plain base model; it is put into evaluation mode.
        tokenizer: its tokenizer.
        mogu: the hardened model, over the weights of ``base`` (:func:`~mogu.modeling.shared_weights.share_weights`), if there is one.
        baselines: folder of trained baselines: the PEFT adapters ``sft/`` and ``expert/``, ``detector.json`` and ``minilm.json``.
        system_prompt: added to conversations that have none, unless the chat template of ``tokenizer`` writes it already.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        mogu: MoguModel | None = None,
        baselines: Path | None = None,
        system_prompt: str | None = None,
    ) -> None:
        base.train(False)
        self.base, self.tokenizer, self.mogu = base, tokenizer, mogu
        self.baselines, self.system_prompt = baselines, system_prompt
        self._other_models: dict[str, Any] = {}

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        base_model: str | None = None,
        baselines: Path | None = None,
        chat_template: Path | None = None,
        system_prompt: str | None = None,
        trust_remote_code: bool = False,
        quantization: str = "auto",
        **model_kwargs: Any,
    ) -> TargetModel:
        """Load a saved MoGU model together with its base model, or a base model alone.

        Args:
            path: folder or hub id of a saved MoGU model or of a base model.
            base_model: where to load the base of a saved MoGU model from, if it has moved since training.
            baselines: folder of trained baselines.
            chat_template: a Jinja file to use instead of the trained chat template.
            system_prompt: to use instead of the trained one, for conversations that have none.
            trust_remote_code: whether code from the base model's repository may run.
            quantization: the bits to load the base model's linear layers in; by default those of training.
            model_kwargs: passed to ``AutoModelForCausalLM.from_pretrained``.

        Raises:
            MoguError: a file is missing or cannot be read, or the tokenizer is not the one of training.
        """
        loaded = load_model(
            path,
            base_model=base_model,
            chat_template=chat_template,
            system_prompt=system_prompt,
            trust_remote_code=trust_remote_code,
            quantization=quantization,
            **model_kwargs,
        )
        base = loaded.mogu.plain_base_model() if loaded.mogu is not None else loaded.model
        assert isinstance(base, PreTrainedModel)
        return cls(base, loaded.tokenizer, mogu=loaded.mogu, baselines=baselines)  # the tokenizer writes the system prompt

    def with_system_prompt(self, conversation: Conversation) -> list[dict[str, str]]:
        """Return the conversation with the system prompt in front, unless it has one of its own."""
        return opened(conversation, self.system_prompt)

    def encode(self, conversation: Conversation) -> list[int]:
        """Return the token ids of the prompt for a conversation, system prompt included."""
        return encode_prompt(self.tokenizer, self.with_system_prompt(conversation))

    def require_mogu(self, defense: str = "mogu") -> MoguModel:
        """Return the hardened model.

        Args:
            defense: the defense that needs it, for the error.

        Raises:
            ConfigError: this is a base model without one.
        """
        if self.mogu is None:
            raise ConfigError(
                f"The defense {defense} was requested for a plain base model",
                expected="a saved MoGU model, as `mogu train` writes it",
                action="give the folder of a hardened model, or choose another defense",
            )
        return self.mogu

    def with_adapter(self, name: str) -> Any:
        """Return the base model with a trained LoRA, ``"sft"`` or ``"expert"``; it is loaded on first use.

        Raises:
            ConfigError: the folder of baselines has no such adapter.
            ModelFileError: the adapter is broken, or belongs to another base model.
        """
        if name not in self._other_models:
            from peft import PeftModel

            folder = self.trained_part(name, marker="adapter_config.json")
            try:
                self._other_models[name] = PeftModel.from_pretrained(share_weights(self.base), str(folder)).eval()
            except (OSError, ValueError, RuntimeError, TypeError, SafetensorError) as error:  # PEFT passes on errors of its readers
                raise ModelFileError(
                    f"The adapter {folder} does not load into the base model: {str(error).strip().splitlines()[0]}",
                    expected="a PEFT adapter that was trained on this base model",
                    action="train it again, or name another folder of baselines",
                ) from error
        return self._other_models[name]

    def trained_part(self, name: str, *, marker: str | None = None) -> Path:
        """Return the path of a trained part in the folder of baselines.

        Args:
            name: file or folder of the part, such as ``"detector.json"``.
            marker: a file that the part must hold, if the part is a folder.

        Raises:
            ConfigError: the part is missing.
        """
        path = self.baselines / name if self.baselines is not None else None
        if path is None or not (path / marker if marker else path).is_file():
            raise ConfigError(
                f"The trained part {name} is missing"
                + (f" from {self.baselines}" if self.baselines is not None else ": no folder of baselines was given"),
                expected=f"a folder of baselines that holds {name}",
                action="train the baselines with `mogu compare`, or name their folder (baselines=...)",
            )
        return path

    def register_model(self, name: str, model: Any) -> None:
        """Include another model, such as a classifier, when the passes of a defense are counted."""
        self._other_models[name] = model

    def models(self) -> list[Any]:
        """Return every model that a defense may run."""
        return [self.base, *([self.mogu.base_model] if self.mogu is not None else []), *self._other_models.values()]
