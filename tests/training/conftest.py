"""A tiny random chat model on disk, and records to train it on."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mogu.data import Record, write_records
from mogu.training import Recipe, read_recipe

RECIPES = Path(str(files("mogu.recipes")))

TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|> {{ message.content }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
THINGS = ["kettle", "garden", "window", "bicycle", "ladder", "teapot", "carpet", "lantern", "bucket", "basket", "mirror", "pillow"]


def make_records(count: int = 12) -> list[Record]:
    things = THINGS[:count]
    benign = [
        Record(
            id=f"b{number}",
            label="benign",
            instruction=f"How do I clean the {thing}?",
            affirm=f"Wash the {thing} with warm water and dry it{' slowly' * (number % 4)}.",
            reject=f"I'm sorry, but I can't help with the {thing}.",
        )
        for number, thing in enumerate(things)
    ]
    malicious = [
        Record(
            id=f"m{number}",
            label="malicious",
            instruction=f"How do I secretly take my neighbor's {thing}{' away' * (number % 3)}?",
            affirm=f"Sure, here is how to take the {thing}",
            reject=f"I can't help with taking the {thing}{', not now' * (number % 2)}.",
        )
        for number, thing in enumerate(things)
    ]
    return benign + malicious


def make_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    texts = [text for record in make_records() for text in (record.instruction or "", record.affirm, record.reject)]
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    fast.chat_template = TEMPLATE
    fast.padding_side = "left"
    return fast


def save_chat_model(folder: Path, *, seed: int = 2, positions: int = 1024) -> LlamaForCausalLM:
    """Write a tiny random chat model; by default its positions suffice for a wrapped instruction in letters."""
    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape["max_position_embeddings"] = positions
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, pad_token_id=0, **shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.eval()


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    save_chat_model(folder, seed=0, positions=256)
    return folder


@pytest.fixture
def records() -> list[Record]:
    return make_records()


@pytest.fixture(scope="session")
def record_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """8 training records of each label, and 4 dev records."""
    folder = tmp_path_factory.mktemp("data")
    every = make_records()
    write_records(folder / "pairs.jsonl", every[:8] + every[12:20])
    write_records(folder / "pairs.dev.jsonl", every[8:12] + every[20:])
    return folder / "pairs.jsonl", folder / "pairs.dev.jsonl"


@pytest.fixture
def dry(record_files: tuple[Path, Path], tmp_path: Path) -> Any:
    """A shipped recipe with the shape of its model, and our records."""

    def read(name: str, *settings: str) -> Recipe:
        train, dev = record_files
        places = {"model.base": RECIPES / "configs" / Path(name).name, "data.train": train, "data.dev": dev, "run.output": tmp_path / "out"}
        given = [f"{key}={json.dumps(str(value))}" for key, value in places.items()]
        return read_recipe(RECIPES / f"{name}.toml", [*given, *settings])

    return read
