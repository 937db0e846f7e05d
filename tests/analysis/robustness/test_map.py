"""Drops are those written down term by term and computed in float64, and the model is left as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mogu.analysis import RobustnessMap, measure_robustness, search_subset
from mogu.analysis.robustness.proxy import LabeledPrompts
from mogu.data import Record
from mogu.data.twins import twin_of
from mogu.errors import MoguError

MakeBase = Callable[..., PreTrainedModel]
MakeRecords = Callable[..., list[Record]]
MakeByHand = Callable[..., Any]


LLAMA = ["self_attn.k_proj", "self_attn.o_proj", "self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj", "mlp.gate_proj", "mlp.up_proj"]


def by_name(found: RobustnessMap) -> dict[str, float]:
    return {one.name: one.drop for one in found.modules}


@pytest.mark.parametrize(
    ("family", "paths"),
    [
        ("llama", LLAMA),
        ("gpt2", ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]),  # Conv1D
        ("falcon", ["self_attention.dense", "self_attention.query_key_value", "mlp.dense_4h_to_h", "mlp.dense_h_to_4h"]),  # fused
    ],
)
def test_drops_are_those_written_down(
    make_base: MakeBase, tokenizer: PreTrainedTokenizerFast, family: str, paths: list[str], word_records: list[Record], by_hand: MakeByHand
) -> None:
    model = make_base(family)
    found = measure_robustness(model, tokenizer, word_records, strength=0.7, draws=2, seed=3, batch_size=5)
    assert [(one.layer, one.module) for one in found.modules] == [(layer, path) for layer in range(3) for path in paths]
    hand = by_hand(model, tokenizer, seed=3)
    assert found.intact == pytest.approx(hand.margin, rel=1e-6)
    assert found.auroc == pytest.approx(roc_auc_score(hand.truth, hand.intact))
    assert found.prompts == {"benign": 16, "malicious": 20}
    for one in (found.modules[1], found.modules[len(paths) + 2], found.modules[-1]):
        assert one.drop == pytest.approx(hand.drop([one.name], strength=0.7, draws=2), rel=1e-5)
        assert one.drop > 0
        assert one.parameters == sum(parameter.numel() for parameter in model.get_submodule(one.name).parameters())
    assert found.together == pytest.approx(hand.drop([one.name for one in found.modules], strength=0.7, draws=2), rel=1e-5)


def test_a_picture_tower_is_no_decoder(make_base: MakeBase, tokenizer: PreTrainedTokenizerFast, word_records: list[Record]) -> None:
    found = measure_robustness(make_base("gemma3"), tokenizer, word_records, draws=1)
    assert [one.module for one in found.modules] == LLAMA * 3
    assert all("vision" not in one.name for one in found.modules)


def test_modules_without_influence_drop_nothing(
    make_base: MakeBase, tokenizer: PreTrainedTokenizerFast, word_records: list[Record]
) -> None:
    model = make_base("llama")
    mlp = model.model.layers[1].mlp
    with torch.no_grad():
        mlp.down_proj.weight.zero_()  # what gate and up make of a prompt ends here
    drops = by_name(measure_robustness(model, tokenizer, word_records, draws=1))
    assert {name for name, drop in drops.items() if drop == 0} == {f"model.layers.1.{path}" for path in LLAMA[-3:]}


def test_a_planted_fragile_layer_stands_out(
    fragile: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, word_records: list[Record], fragile_names: set[str]
) -> None:
    found = measure_robustness(fragile, tokenizer, word_records)
    drops = by_name(found)
    assert set(sorted(drops, key=lambda name: -drops[name])[:4]) == fragile_names
    assert min(drops[name] for name in fragile_names) > 10 * max(drop for name, drop in drops.items() if name not in fragile_names)
    assert list(search_subset(fragile, tokenizer, word_records, found, tolerance=0.2).names) == [
        name for name in drops if name not in fragile_names
    ]


def test_noise_that_leaves_no_numbers(make_base: MakeBase, tokenizer: PreTrainedTokenizerFast, word_records: list[Record]) -> None:
    with pytest.raises(MoguError, match="last hidden state is not finite, in float32"):
        measure_robustness(make_base("llama", torch.float32), tokenizer, word_records, strength=1e38)


def test_twins_are_measured_together(make_base: MakeBase, tokenizer: PreTrainedTokenizerFast) -> None:
    records = [
        Record(id=f"{place}", label="malicious", instruction=text, affirm="Yes", reject="No")
        for place, text in enumerate(f"{verb} {thing}" for verb in ("steal", "rob", "hack") for thing in "abcdefgh")
    ]
    model = make_base("llama")
    found = measure_robustness(model, tokenizer, records, proxy="twins", draws=1, seed=4)
    prompts = LabeledPrompts.of(model, tokenizer, records, system_prompt=None, batch_size=8, kind="twins")
    assert found.prompts == {"benign": 24, "malicious": 24}
    fitted, held_out = prompts.halves(4)
    assert {index // 2 for index in fitted}.isdisjoint(index // 2 for index in held_out)
    assert sorted(fitted + held_out) == list(range(48))
    # The same proxy by hand, on the same halves.
    texts = [text for record in records for text in (record.instruction, str(twin_of(str(record.instruction))))]
    with torch.no_grad():
        ids = [torch.tensor([tokenizer(f"<s><user>{text}<assistant>")["input_ids"]]) for text in texts]
        features = np.stack([model(input_ids=one, output_hidden_states=True).hidden_states[-1][0, -1].numpy() for one in ids])
    truth = np.arange(48) % 2 == 0
    by_hand = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(features[fitted], truth[fitted])
    distances = by_hand.decision_function(features[held_out])
    assert found.auroc == pytest.approx(roc_auc_score(truth[held_out], distances))
    wanted = (distances[truth[held_out]].mean() - distances[~truth[held_out]].mean()) / 2
    assert found.intact == pytest.approx(wanted, rel=1e-5)
    assert search_subset(model, tokenizer, records, found, tolerance=0.5).names
