"""What a gate should read: gates on other readings, taps and penalties, held against each other on the starter set's dev prompts.

    python -m experiments.gate smollm2 --out gate-readings

Every prompt is read once, at many layers, into a file that the next run finds again; fitting takes seconds. Prints, for each gate, the
area under the ROC curve of malicious against all benign dev prompts, and the share of malicious ones, plain and varied, that are flagged
where 1 and 5 % of all benign ones are.
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
from mogu.modeling.gated.gate import PROMPT_READINGS
from mogu.training.gated.fit import fit_logistic, read_prompts
from mogu.training.gated.prompts import GatePrompt, gate_prompts
from mogu.training.inputs import recipe_tokenizer
from mogu.training.pipeline import load_recipe_base
from mogu.training.recipe import Recipe, recipe_from

LAYERS = (7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27)
"""Decoder layers that are read."""


@dataclass(frozen=True)
class Variant:
    """One gate.

    Args:
        name: what is different about it.
        taps: the decoder layers it reads.
        readings: which readings of each.
        l2: its penalty.
    """

    name: str
    taps: tuple[int, ...]
    readings: tuple[str, ...] = PROMPT_READINGS
    l2: float = 0.03


VARIANTS = (
    Variant("last token, layer 15", (15,), ("last",)),
    Variant("last token, layer 19", (19,), ("last",)),
    Variant("mean, layer 19", (19,), ("mean",)),
    Variant("last token and mean, layers 15 and 23", (15, 23), ("last", "mean")),
    Variant("all three, layer 15", (15,)),
    Variant("all three, layers 15 and 23, the default", (15, 23)),
    Variant("the same, penalty 0.003", (15, 23), l2=0.003),
    Variant("the same, penalty 0.3", (15, 23), l2=0.3),
    Variant("all three, layers 11, 15, 19 and 23", (11, 15, 19, 23)),
    Variant("all three, eleven layers, penalty 0.1", LAYERS, l2=0.1),
)


@dataclass(frozen=True)
class Readings:
    """What was read of the prompts of a split.

    Args:
        values: ``[prompts, layers, 3, d]``.
        prompts: the prompts; the second half are the varied forms.
    """

    values: Tensor
    prompts: Sequence[GatePrompt]

    def features(self, variant: Variant) -> Tensor:
        layers = [LAYERS.index(tap) for tap in variant.taps]
        kinds = [PROMPT_READINGS.index(name) for name in variant.readings]
        return self.values[:, layers][:, :, kinds].flatten(1).float()

    @property
    def malicious(self) -> Tensor:
        return torch.tensor([prompt.malicious for prompt in self.prompts])


def read(base: str, folder: Path) -> dict[str, Readings]:
    """Read the prompts of both splits, unless a file holds them."""
    recipe: Recipe = recipe_from(
        {"method": "gated", "model": {"base": base, "dtype": "bfloat16"}, "data": {"train": STARTER}, "run": {"output": "none"}},
        source="experiments.gate",
    )
    tokenizer = recipe_tokenizer(recipe)
    found: dict[str, Readings] = {}
    for split in ("train", "dev"):
        prompts = gate_prompts(recipe, [], split)
        file = folder / f"{split}.pt"
        if not file.is_file():
            model = load_recipe_base(recipe.model).eval()
            values = read_prompts(
                model,
                [encode_prompt(tokenizer, prompt.prompt) for prompt in prompts],
                taps=LAYERS,
                marks=find_turn_marks(tokenizer),
                pad_token_id=padding_id(tokenizer),
                batch_size=recipe.gate.batch_size,
            )
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(values.half(), file)
        found[split] = Readings(torch.load(file, weights_only=True), prompts)
    return found


def compare(found: dict[str, Readings]) -> list[list[str]]:
    """Fit every variant and measure it on dev."""
    rows = []
    train, dev = found["train"], found["dev"]
    for variant in VARIANTS:
        features = train.features(variant)
        mean, scale = features.mean(0), features.std(0) + 1e-4
        weights, _ = fit_logistic((features - mean) / scale, train.malicious, l2=variant.l2)
        scores = (dev.features(variant) - mean) / scale @ weights
        benign, plain = scores[~dev.malicious], torch.arange(len(scores)) < len(scores) // 2
        cells = [f"{auroc([scores[dev.malicious].numpy()], [benign.numpy()]).value:.3f}"]
        for of_form in (plain, ~plain):
            malicious = scores[dev.malicious & of_form]
            cells += [f"{100 * recall_at([malicious.numpy()], [benign.numpy()], share).value:.0f}" for share in (0.01, 0.05)]
        rows.append([variant.name, *cells])
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="the base model")
    parser.add_argument("--out", type=Path, required=True, help="folder for what was read")
    arguments = parser.parse_args()
    print("| gate | AUROC | plain, 1 % | plain, 5 % | varied, 1 % | varied, 5 % |\n|---|---|---|---|---|---|")
    for row in compare(read(arguments.base, arguments.out)):
        print(f"| {' | '.join(row)} |", flush=True)
