"""The section on a real model: every way takes every step, and the first losses are those of the published procedure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.models import SMALL, RealModel, find_subject, make_base
from mogu.errors import ModelFileError


def test_every_way_to_train_takes_every_step_and_begins_with_the_published_loss(quick: dict[str, Any]) -> None:
    settings = ["published", "float32", "bfloat16", "float32, layers 1-1", "bfloat16, layers 1-1"]
    for stage in ("responder", "router"):
        one = quick["real_model"][stage]
        assert {name: len(turns) for name, turns in one["seconds"].items()} == dict.fromkeys(settings, 4 + 1)  # 4 steps and an end
        assert one["first_losses"]["float32"] == pytest.approx(one["first_losses"]["published"], rel=1e-5)
        assert one["first_losses"]["bfloat16"] == pytest.approx(one["first_losses"]["published"], rel=2e-2)


def test_a_model_is_found_by_its_folder_and_never_ends_a_reply(tmp_path: Path) -> None:
    config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, eos_token_id=2)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    found = find_subject(str(tmp_path))
    assert found == RealModel(str(tmp_path), 3, 64)
    base = make_base(found, torch.device("cpu"), torch.bfloat16)
    assert base.dtype == torch.bfloat16
    assert base.generation_config.eos_token_id is None
    assert find_subject(SMALL.name) is SMALL
    with pytest.raises(ModelFileError):
        find_subject(str(tmp_path / "nowhere"))
