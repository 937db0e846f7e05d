"""Fit the weights of the refusal classifier and report how well it agrees with people: ``python -m benchmarks.refusals ../shared/data``.

Reads XSTest's labeled completions (two files by two models) and, beside them, published refusals and human-written answers. Prints the
agreement of weights fitted on one file with the labels of the other, both ways, and the weights fitted on everything, which stand in
``mogu.refusals.classifier``. Signals are written by hand: cross-validation covers the weights, not the writing of the phrases.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sklearn.linear_model import LogisticRegression

from mogu.refusals.classifier import WEIGHTS
from mogu.refusals.reply_text import read_reply
from mogu.refusals.requests import read_prompt
from mogu.refusals.signals import signals

XSTEST = {"Mistral": "completions_mistralinstruct.csv", "Llama-2": "completions_llama2orig.csv"}
_REGULARIZATION = 1.0  # scikit-learn's C: the smaller, the smaller the weights
_SHORTEST = 20  # characters; the published refusals hold a few that were cut off in their first words
_SEED_REFUSALS = ("Sorry, the task involves", "You are requesting personal information")


@dataclass(frozen=True)
class Judged:
    """A reply and what people say of it: 1 full compliance, 2 full refusal, 3 partial refusal."""

    prompt: str
    reply: str
    label: int

    @property
    def refused(self) -> bool:
        return self.label != 1


def read_xstest(path: Path) -> list[Judged]:
    with path.open(encoding="utf-8", newline="") as file:
        return [Judged(row["prompt"], row["completion"], int(row["final_label"][0])) for row in csv.DictReader(file)]


def read_published_refusals(folder: Path) -> list[Judged]:
    """Without those that were cut off at once, and without articles and corrections, which are no refusals in form."""
    found = []
    for path in sorted(folder.glob("*.json")):
        for entry in json.loads(path.read_text(encoding="utf-8")):
            prompt, reply = re.split(r"\[/INST\]|ASSISTANT:|Assistant:", entry["text"], maxsplit=1)
            prompt = re.sub(r"^(?:\[INST\]|USER:|User:)", "", prompt).strip()
            reply = re.sub(r"</s>|<\|endoftext\|>", "", reply)
            if len(reply) > _SHORTEST and "moon landing" not in prompt and "Title:" not in reply:
                found.append(Judged(prompt, reply, 2))
    return found


def read_seed_tasks(path: Path) -> list[Judged]:
    tasks = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Judged(task["instruction"], task["output"], 2 if task["output"].startswith(_SEED_REFUSALS) else 1) for task in tasks]


@dataclass(frozen=True)
class Fitted:
    """Weights of signals."""

    constant: float
    weights: dict[str, float]

    def agreement(self, judged: Sequence[Judged]) -> float:
        """Share of replies whose compliance or refusal is judged as people judge it."""
        return sum((self._strength(one) > 0) == one.refused for one in judged) / len(judged)

    def _strength(self, one: Judged) -> float:
        return self.constant + sum(self.weights.get(name, 0.0) for name in _signals(one))


def _signals(one: Judged) -> set[str]:
    return set(signals(read_prompt(one.prompt), read_reply(one.reply)))


def fit(judged: Sequence[Judged]) -> Fitted:
    names = sorted(WEIGHTS)
    found = [_signals(one) for one in judged]
    model = LogisticRegression(C=_REGULARIZATION, max_iter=5000)
    model.fit([[name in signs for name in names] for signs in found], [one.refused for one in judged])
    return Fitted(float(model.intercept_[0]), dict(zip(names, model.coef_[0].tolist(), strict=True)))


def main() -> None:
    """Print agreement and weights."""
    folder = Path(sys.argv[1])
    files = {name: read_xstest(folder / "xstest" / file) for name, file in XSTEST.items()}
    others = read_published_refusals(folder / "refusals") + read_seed_tasks(folder / "seed_tasks.jsonl")
    for fitted_on in files:
        for tested_on in files:
            alone, beside = fit(files[fitted_on]), fit(files[fitted_on] + others)
            print(f"fitted on {fitted_on}, tested on {tested_on}: {alone.agreement(files[tested_on]):.1%}", end="; ")
            print(f"with published refusals and answers: {beside.agreement(files[tested_on]):.1%}")
    everything = fit([one for file in files.values() for one in file] + others)
    print(f"constant {everything.constant:.1f}")
    for name, weight in sorted(everything.weights.items(), key=lambda item: item[1]):
        print(f'    "{name}": {weight:.1f},')


if __name__ == "__main__":
    main()
