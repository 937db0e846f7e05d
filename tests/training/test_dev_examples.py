"""Examples of a run: a few of each kind, each model's own words, and nothing that gives in to a malicious request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from mogu.data import Record
from mogu.inference.prompts import encode_prompt
from mogu.training.dev_examples import NEW_TOKENS, DevExample, dev_examples


def record(number: int, kind: str) -> Record:
    label = "malicious" if kind == "malicious" else "benign"
    return Record(
        id=f"{kind}{number}",
        label=label,
        instruction=f"ask {chr(97 + number)} {kind}",
        affirm="yes",
        reject="no",
        borderline=kind == "borderline",
    )


def test_examples_are_what_each_model_says(make_pair: Callable[..., Any], tokenizer: PreTrainedTokenizerFast) -> None:
    model, _ = make_pair("llama")
    dev = [record(number, kind) for kind in ("benign", "malicious", "borderline") for number in range(5)]
    found = dev_examples(model, tokenizer, dev, system_prompt=None, batch_size=4)
    assert [(one.kind, one.request) for one in found] == [
        (kind, f"ask {letter} {kind}") for kind in ("malicious", "benign", "borderline") for letter in "ac"
    ]

    def says(request: str, mode: str) -> str:
        ids = torch.tensor([encode_prompt(tokenizer, request)])
        with model.routing(mode):
            output = model.generate(
                input_ids=ids, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0, eos_token_id=tokenizer.eos_token_id
            )
        return tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).strip()

    for one in found:
        if one.kind == "malicious":  # letters at random refuse nothing
            assert one == DevExample("malicious", one.request, None, None)
        else:
            assert (one.base, one.model) == (says(one.request, "off"), says(one.request, "on"))
    assert any(one.base != one.model for one in found)
    model.detach()
