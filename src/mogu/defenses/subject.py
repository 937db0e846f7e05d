"""The model under test in all the forms that defenses need, on one copy of its weights.

Knows base models, saved MoGU models and folders of trained baselines; knows nothing of any defense's way to answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mogu.data import opened
from mogu.errors import ConfigError, ModelFileError
from mogu.hub import fetch_model_folder, load_base, load_tokenizer
from mogu.inference.prompts import Conversation, encode_prompt
from mogu.modeling.checkpoint import CONFIG_FILE
from mogu.modeling.model import MoguModel
from mogu.modeling.shared_weights import share_weights


class Subject:
    """A base model, and what was trained on it.

    Every form is an object of its own around the same weights: routing one, or putting a LoRA into another, leaves the
    base as it is.

    Args:
        base: the base model, plain; put into evaluation mode.
        tokenizer: its tokenizer.
        mogu: the hardened model, on a :func:`~mogu.modeling.shared_weights.share_weights` of ``base``; ``None`` where there is none.
        baselines: folder of trained baselines: ``sft/`` and ``expert/``, PEFT adapters, and ``detector.json``.
        system_prompt: put before conversations that have none: the one that the model was hardened with.
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
        self._forms: dict[str, Any] = {}

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
        **model_kwargs: Any,
    ) -> Subject:
        """Load a saved MoGU model with its base, or a base model alone.

        Args:
            path: folder or hub id of a saved MoGU model or of a base model.
            base_model: where the base of a saved MoGU model is now.
            baselines: folder of trained baselines.
            chat_template: a Jinja file in place of the tokenizer's template.
            system_prompt: for conversations that have none.
            trust_remote_code: whether the base model's own code may run.
            model_kwargs: for ``AutoModelForCausalLM.from_pretrained``.

        Raises:
            ModelFileError: something is missing or broken.
        """
        hardened = (fetch_model_folder(str(path), marker=CONFIG_FILE) / CONFIG_FILE).is_file()
        mogu = None
        if hardened:
            mogu = MoguModel.from_pretrained(path, base_model=base_model, trust_remote_code=trust_remote_code, **model_kwargs)
            base = mogu.plain_base_model()
            source = base_model or mogu.mogu_config.base_model or ""
        else:
            source = str(path)
            base = load_base(source, trust_remote_code=trust_remote_code, **model_kwargs)
        tokenizer = load_tokenizer(source, chat_template=chat_template, trust_remote_code=trust_remote_code)
        if mogu is not None:
            mogu.tokenizer = tokenizer
            mogu.train(False)
        return cls(base, tokenizer, mogu=mogu, baselines=baselines, system_prompt=system_prompt)

    def conversation(self, conversation: Conversation) -> list[dict[str, str]]:
        """A conversation, opened by the system prompt unless it has one of its own."""
        return opened(conversation, self.system_prompt)

    def encode(self, conversation: Conversation) -> list[int]:
        """Token ids of the prompt of a conversation."""
        return encode_prompt(self.tokenizer, self.conversation(conversation))

    def hardened(self) -> MoguModel:
        """The MoGU model.

        Raises:
            ConfigError: the subject is a base model alone.
        """
        if self.mogu is None:
            raise ConfigError(
                "The defense mogu was asked for on a plain base model",
                expected="a saved MoGU model, as `mogu train` writes it",
                action="give the folder of a hardened model, or choose another defense",
            )
        return self.mogu

    def adapted(self, name: str) -> Any:
        """The base model with a trained LoRA, ``"sft"`` or ``"expert"``, loaded when first asked for.

        Raises:
            ConfigError: there is no such adapter.
            ModelFileError: it is broken, or of another base model.
        """
        if name not in self._forms:
            from peft import PeftModel

            folder = self.part(name, marker="adapter_config.json")
            try:
                self._forms[name] = PeftModel.from_pretrained(share_weights(self.base), str(folder)).eval()
            except (OSError, ValueError, RuntimeError, TypeError, SafetensorError) as error:  # PEFT lets its readers' errors through
                raise ModelFileError(
                    f"The adapter {folder} cannot be put into the base model: {str(error).strip().splitlines()[0]}",
                    expected="a PEFT adapter that was trained on this base model",
                    action="train it anew, or name another folder of baselines",
                ) from error
        return self._forms[name]

    def part(self, name: str, *, marker: str | None = None) -> Path:
        """A trained part in the folder of baselines.

        Raises:
            ConfigError: it is not there.
        """
        path = self.baselines / name if self.baselines is not None else None
        if path is None or not (path / marker if marker else path).is_file():
            raise ConfigError(
                f"The trained part {name} of the baselines is not in {self.baselines or 'any folder: none was named'}",
                expected=f"a folder of baselines that holds {name}",
                action="train them with `mogu compare`, or name their folder (baselines=...)",
            )
        return path

    def add_form(self, name: str, model: Any) -> None:
        """Make another model's passes count, such as a classifier's."""
        self._forms[name] = model

    def models(self) -> list[Any]:
        """Every model that a defense may run."""
        return [self.base, *([self.mogu.base_model] if self.mogu is not None else []), *self._forms.values()]
