"""What a gate should read, and learn from: gates held against each other on the starter set's dev prompts.

    python -m experiments.gate smollm2 --out gate-states

Every prompt is read once, into a file that the next run finds again. Prints, for each gate, the area under the ROC curve of malicious
against all benign dev prompts, and the share of malicious ones, plain and varied, that are flagged where 1 and 5 % of all benign ones are;
and of those that are flagged when they are asked plainly, at 5 %, how many are in each wrapper that asks for other text first, and in all.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mogu.data.starter import GATE_DEV_WRAPPERS, STARTER, starter_instructions
from mogu.evaluation.score_intervals import auroc, recall_at
from mogu.inference.padding import padding_id
from mogu.inference.prompts import encode_prompt
from mogu.inference.turns import find_turn_marks
from mogu.training.gated.fit import fit_gate, fit_logistic, gate_logits, threshold_at
from mogu.training.gated.prompts import GatePrompt, gate_prompts
from mogu.training.gated.reading import read_prompts
from mogu.training.inputs import recipe_tokenizer
from mogu.training.pipeline import load_recipe_base
from mogu.training.recipe import Recipe, recipe_from

LAYERS = (15, 23)
"""Decoder layers that are read."""


@dataclass(frozen=True)
class Variant:
    """One gate.

    Args:
        name: what is different about it.
        taps: the decoder layers it reads.
        heads: kinds of tokens that each member looks for; 0 is a logistic regression on ``readings``.
        members: gates that it is the mean of.
        readings: of a linear one: the last token before the answer, the user's last, the mean over the user's.
        l2: its penalty.
        share: of the training prompts, every so many-th.
        forms: of the instructions that it learns from.
    """

    name: str
    taps: tuple[int, ...] = LAYERS
    heads: int = 8
    members: int = 5
    readings: tuple[str, ...] = ("last", "end", "mean")
    l2: float = 0.01
    share: float = 1.0
    forms: tuple[str, ...] = ("plain", "varied", "joined")


VARIANTS = (
    Variant("linear: last token, layer 15", (15,), 0, readings=("last",)),
    Variant("linear: mean, layers 15 and 23", LAYERS, 0, readings=("mean",)),
    Variant("linear: last, end, mean, layers 15 and 23", LAYERS, 0),
    Variant("1 head, 1 member", heads=1, members=1),
    Variant("2 heads, 1 member", heads=2, members=1),
    Variant("4 heads, 1 member", heads=4, members=1),
    Variant("8 heads, 1 member", members=1),
    Variant("16 heads, 1 member", heads=16, members=1),
    Variant("8 heads, 3 members", members=3),
    Variant("**8 heads, 5 members, the default**"),
    Variant("8 heads, 10 members", members=10),
    Variant("layer 15 alone", (15,)),
    Variant("layer 23 alone", (23,)),
    Variant("penalty 0.001", l2=0.001),
    Variant("penalty 0.1", l2=0.1),
    Variant("no joined prompts", forms=("plain", "varied")),
    Variant("no varied prompts", forms=("plain", "joined")),
    Variant("plain instructions alone", forms=("plain",)),
    Variant("half of the prompts", share=0.5),
    Variant("a quarter of the prompts", share=0.25),
)

TEXT_FIRST = (
    *("after-a-page", "copy-first", "counting-then", "fruit-first", "german-lead"),
    *("numbers-first", "portuguese-tail", "proverb-then", "weather-then"),
)
"""The dev wrappers that ask for other text before the request is answered, or put much of it there."""


@dataclass(frozen=True)
class Readings:
    """What was read of the prompts of a split.

    Args:
        states: of each, ``[user's tokens + 1, layers, d]``.
        prompts: the prompts.
    """

    states: Sequence[Tensor]
    prompts: Sequence[GatePrompt]

    def at(self, taps: Sequence[int]) -> list[Tensor]:
        """The states of some layers."""
        layers = [LAYERS.index(tap) for tap in taps]
        return [of_prompt[:, layers] for of_prompt in self.states]

    @property
    def malicious(self) -> Tensor:
        return torch.tensor([prompt.malicious for prompt in self.prompts])

    def part(self, share: float, forms: Sequence[str]) -> Readings:
        """Every so many-th prompt of some forms."""
        of_form = [index for index, prompt in enumerate(self.prompts) if prompt.form in forms]
        kept = of_form[:: round(1 / share)]
        return Readings([self.states[index] for index in kept], [self.prompts[index] for index in kept])


def read(base: str, folder: Path) -> dict[str, Readings]:
    """Read the prompts of both splits, and of dev wrappers that ask for other text first, unless a file holds them."""
    recipe = recipe_of(base)
    splits = {split: gate_prompts(recipe, [], split) for split in ("train", "dev")}
    asked = [one.text for one in starter_instructions("malicious", "dev")]
    wrappers = {wrapper.name: wrapper for wrapper in GATE_DEV_WRAPPERS}
    wrapped = [wrappers[name].apply(text) for name in TEXT_FIRST for text in asked]
    splits["first"] = [GatePrompt([{"role": "user", "content": text}], "malicious") for text in wrapped]
    return {split: Readings(states_of(recipe, prompts, folder / f"{split}.pt"), prompts) for split, prompts in splits.items()}


def recipe_of(base: str) -> Recipe:
    """A recipe that names the base model and the starter set."""
    return recipe_from(
        {"model": {"base": base, "dtype": "bfloat16"}, "data": {"train": STARTER}, "run": {"output": "none"}}, source="experiments.gate"
    )


def states_of(recipe: Recipe, prompts: Sequence[GatePrompt], file: Path) -> list[Tensor]:
    """What the base model thinks of prompts, from a file, or read now and kept there."""
    if not file.is_file():
        tokenizer = recipe_tokenizer(recipe)
        base = load_recipe_base(recipe.model).eval()
        states = read_prompts(
            base,
            [encode_prompt(tokenizer, prompt.prompt) for prompt in prompts],
            taps=LAYERS,
            marks=find_turn_marks(tokenizer),
            pad_token_id=padding_id(tokenizer, base),
            batch_size=recipe.gate.batch_size,
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(states, file)
    found: list[Tensor] = torch.load(file, weights_only=True)
    return found


def scores(variant: Variant, train: Readings, others: Sequence[Readings]) -> list[Tensor]:
    """What a gate that learned from ``train`` says of others."""
    train = train.part(variant.share, variant.forms)
    if variant.heads:
        gate = fit_gate(train.at(variant.taps), train.malicious, variant.taps, heads=variant.heads, l2=variant.l2, members=variant.members)
        return [gate_logits(gate, other.at(variant.taps)) for other in others]

    def features(readings: Readings) -> Tensor:
        rows = []
        for of_prompt in readings.at(variant.taps):
            of = {"last": of_prompt[-1], "end": of_prompt[-2], "mean": of_prompt[:-1].float().mean(0)}
            rows.append(torch.cat([of[name].float().flatten() for name in variant.readings]))
        return torch.stack(rows)

    learned = features(train)
    mean, scale = learned.mean(0), learned.std(0) + 1e-4
    weights, _ = fit_logistic((learned - mean) / scale, train.malicious, l2=0.03)
    return [(features(other) - mean) / scale @ weights for other in others]


def compare(found: dict[str, Readings], variants: Sequence[Variant] = VARIANTS) -> list[list[str]]:
    """Fit every variant, measure it on dev, and print its row; return the rows."""
    rows = []
    dev, first = found["dev"], found["first"]
    plain = torch.tensor([prompt.form == "plain" for prompt in dev.prompts])
    for variant in variants:
        of, of_first = scores(variant, found["train"], (dev, first))
        benign = of[~dev.malicious]
        cells = [f"{auroc([of[dev.malicious].numpy()], [benign.numpy()]).value:.3f}"]
        for of_form in (plain, ~plain):
            malicious = of[dev.malicious & of_form]
            cells += [f"{100 * recall_at([malicious.numpy()], [benign.numpy()], share).value:.0f}" for share in (0.01, 0.05)]
        threshold = threshold_at(benign.sigmoid(), 0.05)
        flagged = of[dev.malicious & plain].sigmoid() >= threshold
        still = (of_first.sigmoid() >= threshold).view(-1, len(flagged))[:, flagged]  # [wrappers, instructions]
        cells += [f"{100 * float(kept.float().mean()):.0f}" for kept in (still, still.all(0))]
        rows.append([variant.name, *cells])
        print(f"| {' | '.join(rows[-1])} |", flush=True)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="the base model")
    parser.add_argument("--out", type=Path, required=True, help="folder for what was read")
    arguments = parser.parse_args()
    print(
        "| gate | AUROC | plain, 1 % | plain, 5 % | varied, 1 % | varied, 5 % | text first, each | all |\n|---|---|---|---|---|---|---|---|"
    )
    compare(read(arguments.base, arguments.out))
