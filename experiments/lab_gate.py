"""What a gate on the lab's model finds on dev: with more and more borderline records, and without what the base refuses by itself.

    python -m experiments.lab_gate

Prints, for shares of benign dev prompts that may be flagged, what is then refused of each kind: by the base model, or because it is
flagged. Responders are left out: what is flagged counts as refused. Test prompts are not looked at.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mogu.data import Record
from mogu.inference.padding import padding_id
from mogu.inference.prompts import Prompt, encode_prompts
from mogu.inference.replies import ReplySettings, replies
from mogu.inference.turns import find_turn_marks
from mogu.lab import build_base
from mogu.lab.demo import lab_data, lab_recipe
from mogu.lab.measure import MAX_NEW_TOKENS
from mogu.modeling.gated.gate import Gate
from mogu.refusals import is_refusal
from mogu.training.gated.fit import fit_gate, gate_logits
from mogu.training.gated.prompts import gate_prompts
from mogu.training.gated.reading import read_prompts
from mogu.training.inputs import recipe_tokenizer
from mogu.training.pipeline import load_recipe_base

COUNTS = (0, 60, 150, 300)
FALSE_ALARMS = (0.01, 0.02, 0.05)
KINDS = ("malicious", "malicious_wrapped", "benign", "benign_wrapped", "borderline")


class LabGates:
    """The lab's base model, and gates on it."""

    def __init__(self) -> None:
        self.recipe = lab_recipe(build_base(), Path("none"), method="gated")
        self.tokenizer = recipe_tokenizer(self.recipe)
        self.base = load_recipe_base(self.recipe.model).eval()
        self.taps = self.recipe.gate.taps or []

    @cached_property
    def dev(self) -> Sequence[Record]:
        """The dev records: their ids name their kinds."""
        return lab_data()["dev"]

    @cached_property
    def dev_states(self) -> list[Tensor]:
        """What the gates read of them."""
        return self._read([record.instruction or "" for record in self.dev])

    @cached_property
    def refused_by_base(self) -> Tensor:
        """Which of them the base model refuses, bool ``[records]``."""
        return self._refused([record.instruction or "" for record in self.dev])

    def learn(self, borderline: int, *, unrefused: bool = False) -> Gate:
        """Fit a gate to the lab's training records.

        Args:
            borderline: how many borderline records are among them.
            unrefused: whether to leave out the malicious prompts that the base model refuses by itself.
        """
        prompts = gate_prompts(self.recipe, lab_data(borderline=borderline)["train"], "train")
        if unrefused:
            refused = self._refused([prompt.prompt for prompt in prompts])
            prompts = [prompt for prompt, no in zip(prompts, refused.tolist(), strict=True) if not (no and prompt.malicious)]
        section = self.recipe.gate
        malicious = torch.tensor([prompt.malicious for prompt in prompts])
        states = self._read([prompt.prompt for prompt in prompts])
        return fit_gate(states, malicious, self.taps, heads=section.heads, l2=section.l2, members=section.members)

    def refused(self, gate: Gate, false_alarms: float) -> dict[str, float]:
        """The share of each kind that is refused where a share of the benign dev prompts may be flagged."""
        logits = gate_logits(gate, self.dev_states)
        benign = torch.tensor([record.label == "benign" for record in self.dev])
        allowed = logits[benign].sort(descending=True).values[int(false_alarms * int(benign.sum()))]
        refused = (logits > allowed) | self.refused_by_base
        kinds = [record.id.removeprefix("lab-dev-").rpartition("-")[0] for record in self.dev]
        return {kind: float(refused[torch.tensor([of == kind for of in kinds])].float().mean()) for kind in KINDS}

    def _read(self, prompts: Sequence[Prompt]) -> list[Tensor]:
        return read_prompts(
            self.base,
            encode_prompts(self.tokenizer, prompts),
            taps=self.taps,
            marks=find_turn_marks(self.tokenizer),
            pad_token_id=padding_id(self.tokenizer, self.base),
            batch_size=self.recipe.gate.batch_size,
        )

    def _refused(self, prompts: Sequence[Prompt]) -> Tensor:
        settings = ReplySettings(MAX_NEW_TOKENS)
        texts = [reply.text for reply in replies(self.base, self.tokenizer, prompts, settings, batch_size=64)]
        return torch.tensor([is_refusal(_asked(prompt), text) for prompt, text in zip(prompts, texts, strict=True)])


def _asked(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])


def main() -> None:
    """Fit every gate, and print its rows."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    gates = LabGates()
    print(f"| gate | false alarms | {' | '.join(KINDS)} |\n{'|---' * (2 + len(KINDS))}|")
    for count, unrefused in (*((count, False) for count in COUNTS), (0, True)):
        gate = gates.learn(count, unrefused=unrefused)
        name = f"{count} borderline records" + (", without what the base refuses" if unrefused else "")
        for share in FALSE_ALARMS:
            cells = [f"{100 * value:.0f}" for value in gates.refused(gate, share).values()]
            print(f"| {name} | {share:.0%} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
