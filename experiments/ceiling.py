"""How much of what a gate misses is a lack of training data, and how much the model does not know: gates that learn from test prompts.

    python -m experiments.ceiling smollm2 --out gate-states --data xstest=xstest.csv,malicious=requests.txt,jailbroken=attacks.jsonl

A gate that learned from the starter set alone stands beside gates that learned from four fifths of the given prompts as well, each counted
three times, and are asked about the last fifth. The threshold is where 4 % of the starter set's benign dev prompts are flagged. Prints
the share of each kind of each set that is flagged, and the areas under the ROC curve. The second gates are for this question alone: they
have seen prompts of the sets that they are measured on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from experiments.gate import LAYERS, Readings, read, recipe_of, states_of
from mogu.evaluation.prompt_sources import read_prompts
from mogu.evaluation.prompts import EvalPrompt
from mogu.evaluation.score_intervals import auroc
from mogu.modeling.gated.gate import Gate
from mogu.training.gated.fit import fit_gate, gate_logits, threshold_at
from mogu.training.gated.prompts import GatePrompt
from mogu.training.recipe import GateSection

FOLDS = 5
TIMES = 3
FALSE_ALARMS = 0.04


def gate_of(learned: Sequence[Tensor], malicious: Tensor) -> Gate:
    """A gate as recipes make it."""
    section = GateSection()
    return fit_gate(learned, malicious, LAYERS, heads=section.heads, l2=section.l2, members=section.members)


def margins(gate: Gate, dev: Readings, states: Sequence[Tensor]) -> Tensor:
    """How far a gate's logits are above the one that the false alarms allow."""
    benign = gate_logits(gate, dev.at(LAYERS))[~dev.malicious]
    threshold = torch.tensor(threshold_at(benign.sigmoid(), FALSE_ALARMS)).logit()
    return gate_logits(gate, states) - threshold


def seen_and_unseen(train: Readings, dev: Readings, states: Sequence[Tensor], malicious: Tensor) -> dict[str, Tensor]:
    """Margins of the prompts, of a gate that has seen none like them, and of gates that have seen four fifths."""
    learned = train.at(LAYERS)
    found = {"starter set alone": margins(gate_of(learned, train.malicious), dev, states)}
    crossed = torch.empty(len(states))
    order = torch.randperm(len(states), generator=torch.Generator().manual_seed(0))
    for fold in range(FOLDS):
        held_out, others = order[fold::FOLDS], torch.cat([order[other::FOLDS] for other in range(FOLDS) if other != fold])
        more = [states[index] for index in others.tolist()] * TIMES
        gate = gate_of([*learned, *more], torch.cat([train.malicious, *[malicious[others]] * TIMES]))
        crossed[held_out] = margins(gate, dev, [states[index] for index in held_out.tolist()])
    return found | {"four fifths of these as well": crossed}


def rows_of(prompts: Sequence[EvalPrompt], found: dict[str, Tensor]) -> list[list[str]]:
    """The shares flagged, by set and kind, and the areas."""
    malicious = torch.tensor([prompt.is_malicious for prompt in prompts])
    kinds = list(dict.fromkeys((prompt.dataset, prompt.category) for prompt in prompts))
    rows = []
    for kind in kinds:
        of_kind = torch.tensor([(prompt.dataset, prompt.category) == kind for prompt in prompts])
        shares = [f"{100 * float((of[of_kind] >= 0).float().mean()):.0f}" for of in found.values()]
        rows.append([f"{kind[0]}, {kind[1]}, flagged, %", str(int(of_kind.sum())), *shares])
    for against in ("borderline", "benign"):
        other = torch.tensor([prompt.category.startswith(against) for prompt in prompts])
        if malicious.any() and other.any():
            areas = [f"{auroc([of[malicious].numpy()], [of[other].numpy()]).value:.3f}" for of in found.values()]
            rows.append([f"malicious against {against}, area", str(int((malicious | other).sum())), *areas])
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="the base model")
    parser.add_argument("--out", type=Path, required=True, help="folder for what was read")
    parser.add_argument("--data", required=True, help="prompts, as `mogu compare` takes them")
    arguments = parser.parse_args()
    asked = read_prompts(arguments.data.split(","))
    gate_prompts = [GatePrompt([dict(turn) for turn in one.conversation], "malicious" if one.is_malicious else "benign") for one in asked]
    readings = read(arguments.base, arguments.out)
    of_sets = states_of(recipe_of(arguments.base), gate_prompts, arguments.out / "asked.pt")
    labels = torch.tensor([one.malicious for one in gate_prompts])
    margins_of = seen_and_unseen(readings["train"], readings["dev"], of_sets, labels)
    print(f"| | prompts | {' | '.join(margins_of)} |\n|---|---|{'---|' * len(margins_of)}")
    for row in rows_of(asked, margins_of):
        print(f"| {' | '.join(row)} |")
