"""What listening to the base model's answers adds to a gate: a stream head, fitted to answers and measured on dev topics.

    python -m experiments.listening smollm2-safer --limit 300

The base model answers malicious and other instructions of the starter set, plain and varied. A stream head learns from its hidden
states at each token of the answers to training prompts whether the request was malicious. On dev prompts, the table holds the gate alone
against the gate with the head, whose alarm is the largest probability so far, at the same share of false alarms of both together.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from mogu import MoguModel
from mogu.data import KINDS
from mogu.data.starter import STARTER
from mogu.inference.batches import in_batches
from mogu.inference.padding import left_pad, padding_id
from mogu.inference.prompts import encode_prompt
from mogu.modeling.gated.model import GatedModel
from mogu.training.gated.fit import fit_logistic, gate_logits, read_prompts, threshold_at
from mogu.training.gated.prompts import GatePrompt, gate_prompts
from mogu.training.recipe import Recipe, recipe_from

BATCH = 64
L2 = 0.03
FALSE_ALARMS = 0.05
"""Of all benign dev prompts, by both together."""

SHARES = (0.0, 0.01, 0.02)
"""Of these, what is left to the stream head."""

LENGTHS = (4, 8, 16, 32)
"""Tokens of the answer that have been heard."""


@dataclass(frozen=True)
class Answered:
    """Answers of the base model to the prompts of a split.

    Args:
        states: of each, hidden states at the answer's tokens, ``[tokens, taps·d]``.
        logits: the gate's, ``[prompts]``.
        malicious: labels, bool ``[prompts]``.
    """

    states: list[Tensor]
    logits: Tensor
    malicious: Tensor

    def features(self, tokens: int) -> tuple[Tensor, Tensor]:
        """What a stream head hears at the first so many tokens, ``[rows, features]``, and whose answer each row is part of."""
        rows, of = [], []
        for index, (states, logit) in enumerate(zip(self.states, self.logits, strict=True)):
            heard = states[:tokens].float()
            mean = heard.cumsum(0) / torch.arange(1, len(heard) + 1)[:, None]
            rows.append(torch.cat([heard, mean, logit.expand(len(heard), 1)], 1))
            of += [index] * len(heard)
        return torch.cat(rows), torch.tensor(of)


@torch.no_grad()
def answered(model: GatedModel, prompts: list[GatePrompt]) -> Answered:
    """Let the base model answer, and read what it thinks of its answers."""
    assert model.gate is not None
    ids = [encode_prompt(model.tokenizer, prompt.prompt) for prompt in prompts]
    pad, taps = padding_id(model.tokenizer), model.gate.taps
    states = read_prompts(model.base_model, ids, taps=taps, marks=model.marks, pad_token_id=pad, batch_size=32)
    ends = {model.tokenizer.eos_token_id, pad}

    def answer(indices: list[int]) -> list[Tensor]:
        batch = left_pad([ids[index] for index in indices], pad, model.base_model.device)
        with model.routing("off"):
            output = model.generate(**batch, max_new_tokens=max(LENGTHS), do_sample=False, pad_token_id=pad)
            mask = torch.cat([batch["attention_mask"], torch.ones_like(output[:, batch["input_ids"].shape[1] :])], 1)
            hidden = model.base_model(output, attention_mask=mask, output_hidden_states=True, logits_to_keep=1).hidden_states
        start = batch["input_ids"].shape[1]
        of_taps = torch.cat([hidden[tap + 1][:, start:] for tap in taps], 2)
        lengths = [max(1, sum(int(token) not in ends for token in row[start:])) for row in output]
        return [row[:length].clone() for row, length in zip(of_taps, lengths, strict=True)]

    answers = in_batches(answer, [len(prompt) for prompt in ids], most=lambda _: BATCH)
    return Answered(answers, gate_logits(model.gate, states), torch.tensor([prompt.malicious for prompt in prompts]))


def drawn(recipe: Recipe, split: str, limit: int) -> list[GatePrompt]:
    """At most so many prompts of each kind and form."""
    rng = random.Random(0)
    prompts = gate_prompts(recipe, [], "train" if split == "train" else "dev")
    found: list[GatePrompt] = []
    for kind in KINDS:
        for varied in (False, True):
            of = [prompt for prompt in prompts if prompt.kind == kind and prompt.varied == varied]
            found += rng.sample(of, min(limit, len(of)))
    return found


def rows_of(train: Answered, dev: Answered) -> list[list[str]]:
    """Fit a head, and measure gate and head on dev; return the rows of the table."""
    learned, of = train.features(max(LENGTHS))
    mean, scale = learned.mean(0), learned.std(0) + 1e-4
    each = 1 / torch.bincount(of)[of].float()  # a long answer counts as much as a short one
    weights, bias = fit_logistic((learned - mean) / scale, train.malicious[of], l2=L2, weights=each)
    probabilities = dev.logits.sigmoid()
    rows = []
    for share in SHARES:
        by_gate = probabilities >= threshold_at(probabilities[~dev.malicious], FALSE_ALARMS - share)
        for tokens in LENGTHS if share else (0,):
            flagged = by_gate
            if share:
                heard, whose = dev.features(tokens)
                alarms = torch.full((len(dev.logits),), -torch.inf).scatter_reduce(
                    0, whose, (heard - mean) / scale @ weights + bias, "amax"
                )
                quiet = alarms[~dev.malicious & ~by_gate]
                allowed = share * int((~dev.malicious).sum()) / len(quiet)
                flagged = by_gate | (alarms >= threshold_at(quiet, allowed))
            cells = [flagged[dev.malicious], flagged[~dev.malicious]]
            rows.append([f"{100 * share:.0f}", str(tokens), *(f"{100 * float(cell.float().mean()):.1f}" for cell in cells)])
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a gated model of the starter set")
    parser.add_argument("--limit", type=int, default=300, help="prompts of each kind and form, at most")
    arguments = parser.parse_args()
    gated = cast(GatedModel, MoguModel.from_pretrained(arguments.model))
    settings = {"model": {"base": "unused"}, "data": {"train": STARTER}, "run": {"output": "none"}}
    recipe = recipe_from(settings, source="experiments.listening")
    train, dev = (answered(gated, drawn(recipe, split, arguments.limit)) for split in ("train", "dev"))
    print("| false alarms left to the head, % | tokens heard | malicious flagged, % | benign flagged, % |\n|---|---|---|---|")
    for row in rows_of(train, dev):
        print(f"| {' | '.join(row)} |")
