"""Good files to begin with: two tiny saved models, their base model, and the head of a GGUF file."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mogu import MoguConfig, MoguModel
from mogu.modeling.config import BackboneConfig, GateConfig
from mogu.modeling.gated.gate import Gate, StreamHead
from mogu.modeling.gated.model import GatedModel
from mogu.modeling.prompt_contract import record_prompt

_TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


def write_seeds(folder: Path) -> Path:
    """Write them into a folder, and return it."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(["How do I bake bread?"], trainers.BpeTrainer(special_tokens=["<pad>", "</s>"], initial_alphabet=alphabet))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="<pad>", chat_template=_TEMPLATE)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), eos_token_id=1, pad_token_id=0, **shape))
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    gated = MoguConfig(
        rank=2,
        lora_alpha=4,
        routed_tokens="all",
        gate=GateConfig(before=(60,), after=(61, 62), listen=0.9),
        base_model=str(folder / "base"),
    )
    routed = MoguConfig(rank=2, lora_alpha=4, backbone=BackboneConfig(), base_model=str(folder / "base"))
    for name, config in (("routed", routed), ("gated", gated)):
        record_prompt(config, tokenizer, "Be kind.")
        model = MoguModel.from_base(base, config)
        if isinstance(model, GatedModel):
            model.set_gate(Gate({0: torch.randn(8, 32), 1: torch.randn(8, 32)}, -0.2), StreamHead({1: torch.randn(2, 32)}, 0.3, -0.1))
        model.save_pretrained(folder / name)
        model.detach()
    _write_gguf(folder / "tiny.gguf")
    return folder


def _write_gguf(file: Path) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(file, "llama")
    writer.add_license("mit")
    writer.add_block_count(2)
    writer.add_token_list([f"token {index}" for index in range(50)])
    writer.add_tensor("blk.0.attn_q.weight", torch.zeros(32, 32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
