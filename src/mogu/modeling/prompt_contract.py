"""What a model was asked through in training, kept with it and held against what it is asked through now.

The contract is a chat template, which writes the system prompt of training by itself where a conversation has none, and the tokenizer's
vocabulary. Whatever renders prompts with the tokenizer (``apply_chat_template``, pipelines, lm-eval, vLLM) thereby renders those of
training. Knows tokenizers and configs; knows nothing of models.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from typing import TYPE_CHECKING

from mogu.errors import ModelFileError
from mogu.modeling.config import MoguConfig, text_fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def record_prompt(config: MoguConfig, tokenizer: PreTrainedTokenizerBase, system_prompt: str | None) -> None:
    """Write a tokenizer's template and vocabulary, and a system prompt, into a config as those of training."""
    template = _template_of(tokenizer)
    config.system_prompt = system_prompt
    config.chat_template = with_system_prompt(template, system_prompt) if template is not None else None
    config.chat_template_sha256 = text_fingerprint(config.chat_template) if config.chat_template is not None else None
    config.tokenizer_sha256 = vocabulary_fingerprint(tokenizer)


def prepare_tokenizer(
    config: MoguConfig, tokenizer: PreTrainedTokenizerBase, *, chat_template: str | None = None, source: str = "the tokenizer"
) -> PreTrainedTokenizerBase:
    """A tokenizer that renders prompts as in training.

    Args:
        config: of the model.
        tokenizer: of its base model; left as it is, where anything has to be changed a copy is.
        chat_template: a template to use instead of the trained one.
        source: where that template, or the tokenizer, comes from, for messages.

    Raises:
        ModelFileError: the tokenizer has another vocabulary than in training.
    """
    check_vocabulary(config, tokenizer)
    own = chat_template if chat_template is not None else _template_of(tokenizer)
    if chat_template is not None and config.chat_template is not None:
        chosen: str | None = with_system_prompt(chat_template, config.system_prompt)
        if config.chat_template not in (chosen, chat_template):
            logger.warning(
                "The chat template of %s (SHA-256 %s…) is not the one that the model was trained with (%s…): prompts will differ from "
                "those of training, and its measured safety may not hold.",
                source,
                text_fingerprint(chat_template)[:12],
                str(config.chat_template_sha256)[:12],
            )
    elif config.chat_template is not None:
        chosen = config.chat_template
    else:
        chosen = with_system_prompt(own, config.system_prompt) if own is not None else None
    if chosen == tokenizer.chat_template:
        return tokenizer
    prepared = copy.copy(tokenizer)
    prepared.chat_template = chosen
    return prepared


def check_vocabulary(config: MoguConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer whose tokens are not those of training.

    Raises:
        ModelFileError: its vocabulary differs.
    """
    if config.tokenizer_sha256 is not None and config.tokenizer_sha256 != vocabulary_fingerprint(tokenizer):
        raise ModelFileError(
            f"The tokenizer of {tokenizer.name_or_path or 'the base model'} has another vocabulary than the one in training",
            expected=f"the tokenizer of {config.base_model or 'the base model'} as it was in training",
            action="load the base model that the model was trained on, or pass its folder with --base-model (base_model=... in Python)",
        )


def with_system_prompt(template: str, system_prompt: str | None) -> str:
    """A chat template that writes a system prompt where a conversation has no system message of its own."""
    if system_prompt is None:
        return template
    text = json.dumps(system_prompt, ensure_ascii=False)  # JSON's escapes are Jinja's
    return (
        "{%- if not messages or messages[0]['role'] != 'system' %}"
        f"{{%- set messages = [{{'role': 'system', 'content': {text}}}] + messages %}}"
        "{%- endif %}\n" + template
    )


def vocabulary_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of the tokens and their ids, which no release of the tokenizers library writes differently."""
    digest = hashlib.sha256()
    for token, token_id in sorted(tokenizer.get_vocab().items(), key=lambda entry: (entry[1], entry[0])):
        digest.update(f"{token_id} {token}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _template_of(tokenizer: PreTrainedTokenizerBase) -> str | None:
    template = tokenizer.chat_template
    if template is not None and not isinstance(template, str):
        template = tokenizer.get_chat_template()  # of several by name, the one for conversations without tools
    return template or None
