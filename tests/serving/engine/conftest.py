"""Hardened models on the lab's base, of V1 and of V2, whose responders and routers are random but strong, a plain LoRA, and vLLM engines.

Needs vLLM (`make test-vllm`); elsewhere this folder is not collected.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch
from lab_models import hardened
from peft import LoraConfig, get_peft_model

from mogu.hub import load_base, load_tokenizer
from mogu.inference.prompts import encode_prompt
from mogu.lab import build_base, prompts
from mogu.modeling.config import BackboneConfig

if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ["VLLM_NO_USAGE_STATS"] = "1"


@pytest.fixture(scope="session")
def base() -> str:
    return str(build_base(progress=False))


@pytest.fixture(scope="session")
def tokenizer(base):
    return load_tokenizer(base)


@pytest.fixture(scope="session")
def models(base, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "one": hardened(base, folder / "one", 1),
        "two": hardened(base, folder / "two", 2, layers=[1, 3], backbone=BackboneConfig(rank=3, lora_alpha=6)),
    }


@pytest.fixture(scope="session")
def plain_lora(base, tmp_path_factory) -> Path:
    torch.manual_seed(3)
    targets = ["q_proj", "o_proj", "gate_proj", "down_proj"]
    config = LoraConfig(r=8, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(load_base(base), config)
    folder = tmp_path_factory.mktemp("lora") / "plain"
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def lab_prompts(tokenizer) -> list[list[int]]:
    """200 prompts of mixed lengths: the lab's, of one to three turns."""
    asked = [prompt.instruction for prompt in prompts("test")][::4][:200]
    turns = [
        [
            one
            for text in asked[index : index + 1 + index % 3]
            for one in ({"role": "user", "content": text}, {"role": "assistant", "content": "Good."})
        ][:-1]
        for index in range(len(asked))
    ]
    return [encode_prompt(tokenizer, conversation) for conversation in turns][:200]
