"""Tiny models, tokenizers and chat templates of unusual make, on disk. Knows nothing of what is tested with them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from tests.conftest import FAMILIES
from tests.training.conftest import make_tokenizer


def chatml(content: str = "{{ m.content }}", header: str = "{% if add_generation_prompt %}<|assistant|>{% endif %}") -> str:
    return "{% for m in messages %}<|{{ m.role }}|>" + content + "<|end|>\n{% endfor %}" + header


def refusing(word: str) -> str:
    """A template that refuses messages with a word in them."""
    return chatml("{% if '" + word + "' in m.content %}{{ raise_exception('never heard of it') }}{% endif %}{{ m.content }}")


@dataclass(frozen=True)
class Kind:
    """What is unusual about a model folder.

    Args:
        family: of the model, one of the tiny ones.
        template: its chat template.
        added: tokens that the tokenizer has and the embedding has no rows of.
        pad: the tokenizer's padding token.
        config: fields that are written into its ``config.json``.
        routed: the layers that are routed, each with the width of its projection.
        note: what the dry run says of it.
    """

    family: str = "llama"
    template: str = field(default_factory=chatml)
    added: tuple[str, ...] = ()
    pad: str = "<pad>"
    config: dict[str, Any] = field(default_factory=dict)
    routed: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(3), 32))
    note: str = ""


KINDS = {
    "two widths, Gemma 4": Kind("gemma4_text", routed={0: 32, 1: 64, 2: 32, 3: 64}),
    "two widths, Laguna": Kind("laguna", routed={0: 32, 1: 64, 2: 32}),
    "attention in some layers, LFM2": Kind("lfm2", routed={1: 32, 2: 32}, note="only those with attention can be routed: 1, 2"),
    "attention in some layers, Qwen 3.5": Kind("qwen3_5_text", routed={1: 32, 2: 32}, note="only those with attention can be routed: 1, 2"),
    "a padding token beyond the embedding": Kind(added=("[PAD]",), pad="[PAD]", note="'</s>' (2) pads instead"),
    "more tokens than rows": Kind(added=("<extra1>", "<extra2>")),
    "no cache": Kind(config={"use_cache": False}),
    "ends no turn": Kind(
        template="{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}### assistant:\n{% endif %}"
    ),
    "ends every turn but the last": Kind(
        template="{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if not loop.last %}<|end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|end|><|assistant|>{% endif %}"
    ),
    "trims": Kind(template=chatml("{{ m.content | trim }}")),
    "writes the header unasked": Kind(template=chatml(header="<|assistant|>")),
    "today's date": Kind(template="<|system|>{{ strftime_now('%d %b %Y') }}<|end|>\n" + chatml()),
}


def save(kind: Kind, folder: Path) -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]})
    model_type, settings = FAMILIES[kind.family]
    rows = {"vocab_size": len(tokenizer), "max_position_embeddings": 256, "eos_token_id": 2}
    if "vocab_size_per_layer_input" in settings:
        rows["vocab_size_per_layer_input"] = len(tokenizer)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings | rows)).save_pretrained(folder)
    tokenizer.add_tokens(list(kind.added))
    tokenizer.pad_token = kind.pad
    tokenizer.chat_template = kind.template
    tokenizer.save_pretrained(folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | kind.config))
    if kind.config:
        (folder / "generation_config.json").unlink()
    return tokenizer
