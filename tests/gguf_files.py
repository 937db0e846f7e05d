"""A tiny Llama with a tokenizer, and the two as a GGUF file, the way llama.cpp's converter writes it."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
HEADS, KEY_VALUE_HEADS = 4, 2


@functools.cache
def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_VALUE_HEADS,
        max_position_embeddings=256,
        initializer_range=0.3,
        tie_word_embeddings=False,
        eos_token_id=1,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


@functools.cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = ["How do I bake bread with a sourdough starter?", "Bake the bread until it sounds hollow when tapped."]
    inner.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=320, min_frequency=1, special_tokens=["<pad>", "</s>"], initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="<pad>", chat_template=TEMPLATE)


def write_gguf(file: Path, quantization: str = "F32", *, template: str | None = TEMPLATE, architecture: str = "llama") -> Path:
    """Write the tiny Llama; its matrices are quantized, its norms are not."""
    gguf = pytest.importorskip("gguf", reason="the extra gguf is not installed")
    llama, tokenizer = tiny_llama(), tiny_tokenizer()
    file.parent.mkdir(parents=True, exist_ok=True)
    config = llama.config
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_license("mit")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_VALUE_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // HEADS)
    writer.add_vocab_size(config.vocab_size)
    inner = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(inner["vocab"], key=inner["vocab"].__getitem__)
    tokens += [f"<unused{index}>" for index in range(config.vocab_size - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in ("<pad>", "</s>") else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in inner["merges"]])
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(0)
    if template is not None:
        writer.add_chat_template(template)
    kind = gguf.GGMLQuantizationType[quantization]
    for name, tensor in llama.state_dict().items():
        values = _as_in_llama_cpp(name, tensor).numpy().astype(np.float32)
        packed = values if values.ndim == 1 or quantization == "F32" else gguf.quants.quantize(values, kind)
        writer.add_tensor(_gguf_name(name), packed, raw_dtype=None if packed is values else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _gguf_name(name: str) -> str:
    for ours, theirs in (
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
    ):
        name = name.replace(ours, theirs)
    return name


def _as_in_llama_cpp(name: str, tensor: Tensor) -> Tensor:
    """Rows of q and k in the order of llama.cpp's rotary embedding, which turns neighbors rather than halves."""
    heads = HEADS if "q_proj" in name else KEY_VALUE_HEADS if "k_proj" in name else None
    if heads is None:
        return tensor
    rows, columns = tensor.shape
    return tensor.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
