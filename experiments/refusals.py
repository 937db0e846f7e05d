"""Fit the weights of the refusal classifier and report how well it agrees with people.

    python -m experiments.refusals ../shared/data

Reads XSTest's labeled completions (two files, one for each of two models) together with published refusals and human-written answers.
Prints how well weights fitted on one file agree with the labels of the other, both ways, and the weights fitted on everything, which
are those in ``mogu.refusals.classifier``. The signals are written by hand: cross-validation covers the weights, not the phrases.
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
from mogu.refusals.prompt_text import parse_prompt
from mogu.refusals.reply_text import parse_reply
from mogu.refusals.signals import signals

XSTEST = {"Mistral": "completions_mistralinstruct.csv", "Llama-2": "completions_llama2orig.csv"}
_REGULARIZATION = 1.0  # scikit-learn's C: the smaller, the smaller the weights
_SHORTEST = 20  # characters; the published refusals include a few that were cut off in their first words
_SEED_REFUSALS = ("Sorry, the task involves", "You are requesting personal information")


@dataclass(frozen=True)
class LabeledReply:
    """A reply and its human label: 1 full compliance, 2 full refusal, 3 partial refusal."""

    prompt: str
    reply: str
    label: int

    @property
    def refused(self) -> bool:
        return self.label != 1


def read_xstest(path: Path) -> list[LabeledReply]:
    with path.open(encoding="utf-8", newline="") as file:
        return [LabeledReply(row["prompt"], row["completion"], int(row["final_label"][0])) for row in csv.DictReader(file)]


def read_published_refusals(folder: Path) -> list[LabeledReply]:
    """Read published refusals without those cut off at once, and without articles and corrections, which are not refusals in form."""
    refusals = []
    for path in sorted(folder.glob("*.json")):
        for entry in json.loads(path.read_text(encoding="utf-8")):
            prompt, reply = re.split(r"\[/INST\]|ASSISTANT:|Assistant:", entry["text"], maxsplit=1)
            prompt = re.sub(r"^(?:\[INST\]|USER:|User:)", "", prompt).strip()
            reply = re.sub(r"</s>|<\|endoftext\|>", "", reply)
            if len(reply) > _SHORTEST and "moon landing" not in prompt and "Title:" not in reply:
                refusals.append(LabeledReply(prompt, reply, 2))
    return refusals


def read_seed_tasks(path: Path) -> list[LabeledReply]:
    tasks = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [LabeledReply(task["instruction"], task["output"], 2 if task["output"].startswith(_SEED_REFUSALS) else 1) for task in tasks]


@dataclass(frozen=True)
class FittedWeights:
    """Weights of the signals."""

    constant: float
    weights: dict[str, float]

    def agreement(self, replies: Sequence[LabeledReply]) -> float:
        """Return the share of replies that the weights judge as people do: as compliance, or as refusal."""
        return sum((self._log_odds(reply) > 0) == reply.refused for reply in replies) / len(replies)

    def _log_odds(self, reply: LabeledReply) -> float:
        return self.constant + sum(self.weights.get(name, 0.0) for name in _signal_names(reply))


def _signal_names(reply: LabeledReply) -> set[str]:
    return set(signals(parse_prompt(reply.prompt), parse_reply(reply.reply)))


def fit(replies: Sequence[LabeledReply]) -> FittedWeights:
    names = sorted(WEIGHTS)
    present = [_signal_names(reply) for reply in replies]
    model = LogisticRegression(C=_REGULARIZATION, max_iter=5000)
    model.fit([[name in signal_names for name in names] for signal_names in present], [reply.refused for reply in replies])
    return FittedWeights(float(model.intercept_[0]), dict(zip(names, model.coef_[0].tolist(), strict=True)))


def main() -> None:
    """Print agreement and weights."""
    folder = Path(sys.argv[1])
    files = {name: read_xstest(folder / "xstest" / file) for name, file in XSTEST.items()}
    others = read_published_refusals(folder / "refusals") + read_seed_tasks(folder / "seed_tasks.jsonl")
    for fitted_on in files:
        for tested_on in files:
            alone, together = fit(files[fitted_on]), fit(files[fitted_on] + others)
            print(f"fitted on {fitted_on}, tested on {tested_on}: {alone.agreement(files[tested_on]):.1%}", end="; ")
            print(f"with published refusals and answers: {together.agreement(files[tested_on]):.1%}")
    everything = fit([reply for file in files.values() for reply in file] + others)
    print(f"constant {everything.constant:.1f}")
    for name, weight in sorted(everything.weights.items(), key=lambda item: item[1]):
        print(f'    "{name}": {weight:.1f},')


if __name__ == "__main__":
    main()
