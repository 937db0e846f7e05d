"""Conversations, and a model whose replies can be worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mogu.inference.prompts import Conversation

EOS = 2


def says(text: str) -> Conversation:
    return [{"role": "user", "content": text}]


def user_only(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The letters tokenizer, whose prompts now end with the last letter of what the user says."""
    plain = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<pad>", padding_side="left"
    )
    plain.chat_template = "<s>{% for message in messages %}{{ message.content }}{% endfor %}"
    return plain


def write_next(tokenizer: PreTrainedTokenizerFast, chains: Mapping[str, str]) -> LlamaForCausalLM:
    """A Llama whose next token follows from the last one alone: a letter of ``chains`` is followed by its value, any other by the end."""
    size = len(tokenizer)
    config = LlamaConfig(
        vocab_size=size, hidden_size=size, intermediate_size=8, num_hidden_layers=1, num_attention_heads=4, eos_token_id=EOS, pad_token_id=0
    )
    model = LlamaForCausalLM(config)
    following = {tokenizer.convert_tokens_to_ids(one): tokenizer.convert_tokens_to_ids(other) for one, other in chains.items()}
    with torch.no_grad():
        layer = model.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.lm_head.weight.zero_()
        for token in range(size):
            model.lm_head.weight[following.get(token, EOS), token] = 1.0
    return model.eval()
