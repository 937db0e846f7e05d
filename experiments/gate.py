"""What a gate should read, and learn from: gates held against each other on the starter set's dev prompts.

    python -m experiments.gate smollm2 --out gate-states

Every prompt is read once, into a file that the next run finds again. Prints, for each gate, the area under the ROC curve of malicious
against all benign dev prompts, and the share of malicious ones, plain and varied, that are flagged where 1 and 5 % of all benign ones are.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mogu.data.starter import STARTER
from mogu.evaluation.score_intervals import auroc, recall_at
from mogu.inference.padding import padding_id
from mogu.inference.prompts import encode_prompt
from mogu.inference.turns import find_turn_marks
from mogu.training.gated.fit import fit_gate, fit_logistic, gate_logits
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
        heads: kinds of tokens that it looks for; 0 is a logistic regression on ``readings``.
        readings: of a linear one: the last token before the answer, the user's last, the mean over the user's.
        l2: its penalty.
        share: of the training prompts, every so many-th.
        plain: whether it learns from instructions as they are alone, without other forms.
    """

    name: str
    taps: tuple[int, ...] = LAYERS
    heads: int = 8
    readings: tuple[str, ...] = ("last", "end", "mean")
    l2: float = 0.01
    share: float = 1.0
    plain: bool = False


VARIANTS = (
    Variant("linear: last token, layer 15", (15,), 0, ("last",)),
    Variant("linear: mean, layers 15 and 23", LAYERS, 0, ("mean",)),
    Variant("linear: last, end, mean, layers 15 and 23", LAYERS, 0),
    Variant("1 head", heads=1),
    Variant("2 heads", heads=2),
    Variant("4 heads", heads=4),
    Variant("**8 heads, the default**"),
    Variant("16 heads", heads=16),
    Variant("8 heads, layer 15 alone", (15,)),
    Variant("8 heads, layer 23 alone", (23,)),
    Variant("8 heads, penalty 0.001", l2=0.001),
    Variant("8 heads, penalty 0.1", l2=0.1),
    Variant("8 heads, plain instructions alone", plain=True),
    Variant("8 heads, half of the prompts", share=0.5),
    Variant("8 heads, a quarter of the prompts", share=0.25),
)


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

    def part(self, share: float, plain: bool) -> Readings:
        """Every so many-th prompt, of all or of those alone that are instructions as they are."""
        of_form = [index for index, prompt in enumerate(self.prompts) if not (plain and prompt.varied)]
        kept = of_form[:: round(1 / share)]
        return Readings([self.states[index] for index in kept], [self.prompts[index] for index in kept])


def read(base: str, folder: Path) -> dict[str, Readings]:
    """Read the prompts of both splits, unless a file holds them."""
    recipe: Recipe = recipe_from(
        {"model": {"base": base, "dtype": "bfloat16"}, "data": {"train": STARTER}, "run": {"output": "none"}}, source="experiments.gate"
    )
    tokenizer = recipe_tokenizer(recipe)
    found: dict[str, Readings] = {}
    for split in ("train", "dev"):
        prompts = gate_prompts(recipe, [], split)
        file = folder / f"{split}.pt"
        if not file.is_file():
            states = read_prompts(
                load_recipe_base(recipe.model).eval(),
                [encode_prompt(tokenizer, prompt.prompt) for prompt in prompts],
                taps=LAYERS,
                marks=find_turn_marks(tokenizer),
                pad_token_id=padding_id(tokenizer),
                batch_size=recipe.gate.batch_size,
            )
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(states, file)
        found[split] = Readings(torch.load(file, weights_only=True), prompts)
    return found


def scores(variant: Variant, train: Readings, dev: Readings) -> Tensor:
    """What a gate that learned from ``train`` says of ``dev``."""
    train = train.part(variant.share, variant.plain)
    if variant.heads:
        gate = fit_gate(train.at(variant.taps), train.malicious, variant.taps, heads=variant.heads, l2=variant.l2)
        return gate_logits(gate, dev.at(variant.taps))

    def features(readings: Readings) -> Tensor:
        rows = []
        for of_prompt in readings.at(variant.taps):
            of = {"last": of_prompt[-1], "end": of_prompt[-2], "mean": of_prompt[:-1].float().mean(0)}
            rows.append(torch.cat([of[name].float().flatten() for name in variant.readings]))
        return torch.stack(rows)

    learned = features(train)
    mean, scale = learned.mean(0), learned.std(0) + 1e-4
    weights, _ = fit_logistic((learned - mean) / scale, train.malicious, l2=0.03)
    return (features(dev) - mean) / scale @ weights


def compare(found: dict[str, Readings]) -> list[list[str]]:
    """Fit every variant, measure it on dev, and print its row; return the rows."""
    rows = []
    dev = found["dev"]
    plain = torch.tensor([not prompt.varied for prompt in dev.prompts])
    for variant in VARIANTS:
        of = scores(variant, found["train"], dev)
        benign = of[~dev.malicious]
        cells = [f"{auroc([of[dev.malicious].numpy()], [benign.numpy()]).value:.3f}"]
        for of_form in (plain, ~plain):
            malicious = of[dev.malicious & of_form]
            cells += [f"{100 * recall_at([malicious.numpy()], [benign.numpy()], share).value:.0f}" for share in (0.01, 0.05)]
        rows.append([variant.name, *cells])
        print(f"| {' | '.join(rows[-1])} |", flush=True)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="the base model")
    parser.add_argument("--out", type=Path, required=True, help="folder for what was read")
    arguments = parser.parse_args()
    print("| gate | AUROC | plain, 1 % | plain, 5 % | varied, 1 % | varied, 5 % |\n|---|---|---|---|---|---|")
    compare(read(arguments.base, arguments.out))
