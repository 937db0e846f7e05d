"""Safety as measured on dev pairs: each kind of prompt counts by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mogu.data import Record
from mogu.finetuning.evaluate import safety_score
from mogu.finetuning.recipe import SafetySection
from mogu.inference.prompts import encode_prompt
from mogu.refusals import is_refusal


def test_borderline_pairs_are_counted_apart_from_other_benign_ones(base_folder: Path, records: list[Record]) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base_folder), AutoTokenizer.from_pretrained(base_folder)
    marked = [record.model_copy(update={"borderline": record.id in ("b1", "b4", "b7")}) for record in records]
    score = safety_score(model, tokenizer, marked, SafetySection(max_new_tokens=4))
    refused: dict[str, list[bool]] = {"benign": [], "borderline": []}
    for record in marked[:12]:
        ids = torch.tensor([encode_prompt(tokenizer, record.conversation)])
        reply = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        refused[record.kind].append(is_refusal(record.request, tokenizer.decode(reply, skip_special_tokens=True)))
    assert (score.benign, score.borderline, score.malicious) == (9, 3, 12)
    assert score.benign_refused == pytest.approx(sum(refused["benign"]) / 9)
    assert score.borderline_refused == pytest.approx(sum(refused["borderline"]) / 3)
    plain = safety_score(model, tokenizer, records, SafetySection(max_new_tokens=4))
    assert (plain.borderline_refused, plain.borderline, plain.benign) == (None, 0, 12)
    assert plain.direct_refused == score.direct_refused
