"""A random model with random adapters, and the lab's base model with baselines trained in a few seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mogu.defenses import Subject
from mogu.lab import build_base, records
from mogu.lab.demo import lab_recipe
from mogu.modeling.shared_weights import twin
from mogu.training import train_baselines


@pytest.fixture(scope="session")
def random_subject(
    make_base: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Subject:
    """A tiny random Llama in float64, no token of which ends a reply, with random adapters for ``sft`` and ``expert``."""
    base = make_base()
    folder = tmp_path_factory.mktemp("baselines")
    for seed, name in enumerate(("sft", "expert")):
        torch.manual_seed(seed)
        adapted = get_peft_model(twin(base), LoraConfig(r=4, lora_alpha=8, target_modules=["o_proj"], init_lora_weights=False))
        adapted.save_pretrained(folder / name)
    return Subject(base, tokenizer, baselines=folder)


@pytest.fixture(scope="session")
def lab_baselines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Baselines of the lab, trained on 40 records of each label."""
    folder = tmp_path_factory.mktemp("lab") / "baselines"
    base_folder = build_base(progress=False)
    subject = Subject.load(str(base_folder))
    recipe = lab_recipe(base_folder, folder)
    short = recipe.model_copy(update={"router": recipe.router.model_copy(update={"epochs": 3.0})})
    train_baselines(
        short,
        folder,
        base=subject.base,
        tokenizer=subject.tokenizer,
        records=records("train", benign=40, malicious=40),
        learning_rates={"sft": 2e-3},
    )
    return folder


@pytest.fixture(scope="session")
def lab(lab_baselines: Path) -> Subject:
    return Subject.load(str(build_base(progress=False)), baselines=lab_baselines)
