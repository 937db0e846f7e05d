"""How many answers of a gated model are the base model's, token for token, where neither shares a batch with anything.

    python -m experiments.identical smollm2-safer alpaca_instructions.jsonl --limit 20

The base model is loaded on its own and was never wrapped. Greedy answers, one prompt at a time.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from mogu import MoguModel
from mogu.data import read_instructions
from mogu.hub import load_base
from mogu.inference.padding import padding_id
from mogu.inference.prompts import encode_prompt


@torch.no_grad()
def answer(model: Any, ids: list[int], pad: int, tokens: int) -> list[int]:
    """The greedy answer to one prompt."""
    prompt = torch.tensor([ids])
    output = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=tokens, do_sample=False, pad_token_id=pad)
    found: list[int] = output[0, len(ids) :].tolist()
    return found


def main() -> None:
    """Print, for each file, how many of its prompts are flagged, and how many answers are the base model's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a gated model")
    parser.add_argument("files", nargs="+", type=Path, help="lists of benign prompts")
    parser.add_argument("--limit", type=int, default=40, help="prompts of a file, at most")
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--dtype", default="bfloat16")
    arguments = parser.parse_args()
    gated = MoguModel.from_pretrained(arguments.model, dtype=getattr(torch, arguments.dtype))
    base = load_base(str(gated.mogu_config.base_model), dtype=gated.base_model.dtype).eval()
    tokenizer, pad = gated.tokenizer, padding_id(gated.tokenizer, gated.base_model)
    for file in arguments.files:
        prompts = [encode_prompt(tokenizer, one.text) for one in read_instructions(file)[: arguments.limit]]
        same = flagged = 0
        for ids in prompts:
            ours = answer(gated, ids, pad, arguments.max_new_tokens)
            assert gated.prompt_scores is not None
            flagged += float(gated.prompt_scores[0]) >= gated.gate_config.refuse  # type: ignore[attr-defined]
            same += ours == answer(base, ids, pad, arguments.max_new_tokens)
        print(f"{file.name}: {len(prompts)} prompts, {flagged} flagged, {same} answers are the base model's", flush=True)


if __name__ == "__main__":
    main()
