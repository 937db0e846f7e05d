"""Noise leaves the weights as they were, bit for bit, however a measurement ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mogu.analysis import measure_robustness, search_subset
from mogu.data import Record
from mogu.errors import ArchitectureError

MakeBase = Callable[..., PreTrainedModel]
MakeRecords = Callable[..., list[Record]]
MakeByHand = Callable[..., Any]


def same_weights(model: PreTrainedModel, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_restored_bit_for_bit(
    make_base: MakeBase, tokenizer: PreTrainedTokenizerFast, dtype: torch.dtype, word_records: list[Record]
) -> None:
    model = make_base("llama", dtype).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = measure_robustness(model, tokenizer, word_records, draws=2)
    search_subset(model, tokenizer, word_records, found)
    assert same_weights(model, before)
    assert not model.training


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_a_stop_in_the_middle_of_a_pass_leaves_the_weights(
    make_base: MakeBase, tokenizer: PreTrainedTokenizerFast, stop: type[BaseException], word_records: list[Record]
) -> None:
    model = make_base("llama", torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seen: list[bool] = []

    def interrupt(*_: object) -> None:
        if not same_weights(model, before):
            seen.append(True)
        if len(seen) == 4:
            raise stop

    model.get_input_embeddings().register_forward_hook(interrupt)
    with pytest.raises(stop):
        measure_robustness(model, tokenizer, word_records, draws=1, batch_size=20)
    assert len(seen) == 4
    assert same_weights(model, before)


def test_models_that_cannot_be_perturbed(make_base: MakeBase, tokenizer: PreTrainedTokenizerFast, word_records: list[Record]) -> None:
    with pytest.raises(ArchitectureError, match="no linear layers in numbered decoder layers"):
        measure_robustness(make_base("llama", num_hidden_layers=0), tokenizer, word_records)
    model = make_base("llama")
    model.model.layers[2].mlp.up_proj.weight = nn.Parameter(torch.zeros(48, 32, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ArchitectureError, match=r"layers\.2\.mlp\.up_proj is quantized"):
        measure_robustness(model, tokenizer, word_records)
    model.model.layers[2].mlp.up_proj.weight = nn.Parameter(torch.zeros(48, 32, device="meta"))
    with pytest.raises(ArchitectureError, match="kept outside memory"):
        measure_robustness(model, tokenizer, word_records)
