"""Measure what hardening costs in usefulness that refusals do not show: likelihood of good answers, and everyday knowledge.

    python -m experiments.usefulness MODEL --answers answers.jsonl --out usefulness.json

- **Perplexity** of reference answers to benign prompts (``prompt`` and ``chosen`` in a JSONL file): ``exp`` of the mean negative
  log-likelihood per token, of the answers' opening tokens and of whole answers. A hardened model routes the first ``m`` tokens; the base
  model computes the rest, which is why only the opening can differ.
- **Accuracy** on the questions beside this file, four choices each, written for this project: the choice of the highest likelihood per
  character, as lm-eval computes it (``HFLM.loglikelihood``), behind the model's own chat template.

Both are measured plain (routing off) and hardened (routing on), on the same weights.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mogu import MoguModel
from mogu.inference.prompts import encode_answer, encode_prompt, render_prompt
from mogu.modeling.loading import load_model

QUESTIONS = Path(__file__).with_name("usefulness_questions.csv")
LONGEST = 512


@dataclass(frozen=True)
class Perplexity:
    """Of reference answers, plain and hardened.

    Args:
        opening: tokens of each answer that count as its opening.
        plain_opening: perplexity of the openings under the base model.
        hardened_opening: under the hardened model.
        plain: perplexity of whole answers under the base model.
        hardened: under the hardened model, which routes the opening only.
        answers: number of answers.
    """

    opening: int
    plain_opening: float
    hardened_opening: float
    plain: float
    hardened: float
    answers: int


@torch.no_grad()
def answer_losses(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
    """Negative log-likelihood of each token of an answer behind a prompt, ``[answer tokens]``, float32, in nats."""
    ids = torch.tensor([[*prompt, *answer]], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    return torch.nn.functional.cross_entropy(logits, ids[0, len(prompt) :], reduction="none").cpu()


def perplexity(model: MoguModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], opening: int) -> Perplexity:
    """Perplexity of reference answers, given as token ids of prompt and answer."""
    plain, hardened = [], []
    for prompt, answer in pairs:
        with model.routing("off"):
            base = answer_losses(model, prompt, answer)
        with model.routing("on"):
            routed = answer_losses(model, prompt, answer)
        plain.append(base)
        hardened.append(torch.cat([routed[:opening], base[opening:]]))

    def of(losses: Sequence[Tensor]) -> float:
        return math.exp(float(torch.cat(list(losses)).mean()))

    return Perplexity(
        opening,
        of([losses[:opening] for losses in plain]),
        of([losses[:opening] for losses in hardened]),
        of(plain),
        of(hardened),
        len(pairs),
    )


def accuracy(model: MoguModel, questions: Sequence[tuple[str, Sequence[str]]]) -> dict[str, float]:
    """Share of questions whose first choice, the right one, is the most likely per character, plain and hardened."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(pretrained=model, tokenizer=model.tokenizer, batch_size=16, max_length=LONGEST)
    asked = [(render_prompt(model.tokenizer, question), choice) for question, choices in questions for choice in choices]
    requests = [Instance("loglikelihood", {}, pair, 0) for pair in asked]
    rates = {}
    for name, mode in (("plain", "off"), ("hardened", "on")):
        with model.routing(mode):
            likelihoods = [likelihood for likelihood, _ in harness.loglikelihood(requests, disable_tqdm=True)]
        per_character = iter([likelihood / len(choice) for likelihood, (_, choice) in zip(likelihoods, asked, strict=True)])
        scores = [[next(per_character) for _ in choices] for _, choices in questions]
        rates[name] = sum(max(range(len(row)), key=row.__getitem__) == 0 for row in scores) / len(scores)
    return rates


def read_questions() -> list[tuple[str, list[str]]]:
    """Read the questions: each with its choices as sentences, the right one first."""
    with QUESTIONS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = ("right", "wrong_1", "wrong_2", "wrong_3")
    return [(row["question"], [f"{row[name][0].upper()}{row[name][1:]}." for name in names]) for row in rows]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m experiments.usefulness", description="Usefulness that refusals do not show.")
    parser.add_argument("model", help="a saved MoGU model: a folder, a hub id or smollm2-safer")
    parser.add_argument("--answers", type=Path, required=True, help="JSONL with prompt and chosen")
    parser.add_argument("--limit", type=int, default=200, help="answers to read")
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    options = parser.parse_args()
    loaded = load_model(options.model, hardened=True, dtype="auto")
    model, tokenizer = loaded.mogu, loaded.tokenizer
    assert model is not None
    rows = [json.loads(line) for line in options.answers.read_text(encoding="utf-8").splitlines()[: options.limit]]
    pairs = []
    for row in rows:
        conversation = [{"role": "user", "content": row["prompt"]}]
        prompt = encode_prompt(tokenizer, conversation)
        pairs.append((prompt, encode_answer(tokenizer, conversation, row["chosen"], closed=True)[: LONGEST - len(prompt)]))
    routed = model.mogu_config.routed_tokens
    found = perplexity(model, pairs, opening=routed if isinstance(routed, int) else LONGEST)
    numbers = {"model": options.model, "perplexity": asdict(found), "accuracy": accuracy(model, read_questions())}
    print(json.dumps(numbers, indent=2))
    if options.out is not None:
        options.out.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
