"""Adapters of PEFT where a base model is asked for: refused, or merged into one ordinary model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast

from mogu import MoguModel
from mogu.errors import ConfigError, ModelFileError
from mogu.hub import adapted_base, load_base, load_config, load_tokenizer, merge_adapter

IDS = torch.tensor([[5, 9, 33, 12, 60, 7]])


@pytest.fixture
def base_folder(llama: LlamaForCausalLM, gguf_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    llama.save_pretrained(tmp_path / "base")
    gguf_tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def tuned(base_folder: Path) -> PeftModel:
    torch.manual_seed(1)
    settings = LoraConfig(r=4, target_modules=["q_proj", "o_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    return get_peft_model(AutoModelForCausalLM.from_pretrained(base_folder), settings).eval()


@pytest.fixture
def adapter(tuned: PeftModel, tmp_path: Path) -> Path:
    tuned.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_the_folder_of_an_adapter_is_no_base_model(adapter: Path) -> None:
    with pytest.raises(ModelFileError, match=r"holds an adapter of PEFT.*--merge-adapter"):
        load_base(str(adapter))
    with pytest.raises(ModelFileError, match="holds an adapter of PEFT"):
        load_config(str(adapter))


def test_a_model_with_an_adapter_in_it_is_not_hardened(tuned: PeftModel, base_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"merge_and_unload\(\)"):
        MoguModel.from_base(tuned)
    injected = AutoModelForCausalLM.from_pretrained(base_folder)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["q_proj"]), injected)
    with pytest.raises(ConfigError, match="adapter of PEFT"):
        MoguModel.from_base(injected)
    MoguModel.from_base(tuned.merge_and_unload())


def test_the_merged_model_computes_what_base_and_adapter_compute(adapter: Path, tuned: PeftModel, tmp_path: Path) -> None:
    expected = tuned(IDS).logits
    merge_adapter(str(adapter), tmp_path / "merged")
    torch.testing.assert_close(load_base(str(tmp_path / "merged"))(IDS).logits, expected, atol=1e-4, rtol=1e-4)
    assert load_tokenizer(str(tmp_path / "merged")).eos_token == "</s>"


def test_a_merge_that_is_done_is_not_done_again_and_another_adapter_is(adapter: Path, tuned: PeftModel, tmp_path: Path) -> None:
    target = tmp_path / "merged"
    merge_adapter(str(adapter), target)
    made = (target / "config.json").stat().st_mtime_ns
    merge_adapter(str(adapter), target)
    assert (target / "config.json").stat().st_mtime_ns == made
    with torch.no_grad():
        next(tuned.base_model.model.model.layers[0].self_attn.q_proj.lora_B.parameters()).add_(1.0)
    tuned.save_pretrained(adapter)
    merge_adapter(str(adapter), target)
    assert (target / "config.json").stat().st_mtime_ns != made


def test_an_adapter_that_does_not_fit_is_one_clear_error_and_writes_nothing(adapter: Path, base_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    wider = AutoModelForCausalLM.from_config(load_config(str(base_folder)).__class__(hidden_size=32, num_hidden_layers=1, vocab_size=320))
    wider.save_pretrained(base_folder)
    with pytest.raises(ModelFileError, match="cannot be merged"):
        merge_adapter(str(adapter), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_whole_model_has_nothing_to_merge(base_folder: Path) -> None:
    with pytest.raises(ModelFileError, match="no adapter of PEFT"):
        adapted_base(str(base_folder))
